//! What operators plan: switchovers and restarts at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use cluster_tests::{Cluster, PATIENCE, Wanted, stays, wait_until};
use jiff::Timestamp;
use jiff::tz::Offset;
use serde_json::{Value, json};

use crate::drill::{Drill, LONGEST_OUTAGE};

/// Soon enough to be waited for, late enough for what has to happen before.
const SOON: Duration = Duration::from_secs(12);
/// How far past its time something is looked for that must not happen.
const PAST: Duration = Duration::from_secs(4);

fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// So long from now: since 1970, and as an operator two hours east of Greenwich writes it.
fn in_a_while(length: Duration) -> Result<(Duration, String)> {
    let due = wall() + length;
    let at = Timestamp::from_millisecond(i64::try_from(due.as_millis())?)?;
    let text = at.display_with_offset(Offset::constant(2)).to_string();
    Ok((Duration::from_millis(u64::try_from(due.as_millis())?), text))
}

fn ctl_json(cluster: &Cluster, words: &[&str]) -> Result<Value> {
    let text = cluster.ctl(&[words, &["-o", "json"]].concat())?;
    Ok(serde_json::from_str(&text)?)
}

/// The history's lines of this kind: when, and the reason.
fn events(cluster: &Cluster, what: &str) -> Result<Vec<(Duration, String)>> {
    let history = ctl_json(cluster, &["history"])?;
    let lines = history.as_array().context("a list")?.iter();
    let lines = lines.filter(|line| line["what"] == what);
    let events = lines.map(|line| {
        let at = Duration::from_millis(line["at_unix_ms"].as_u64().unwrap_or_default());
        (at, line["reason"].as_str().unwrap_or_default().to_owned())
    });
    Ok(events.collect())
}

fn wait_past(moment: Duration) -> Result<()> {
    let limit = SOON + PAST + PATIENCE;
    wait_until("the time", limit, || match wall() {
        now if now > moment => Ok(()),
        now => Err(format!("{:?} to go", moment.saturating_sub(now))),
    })
}

/// One is scheduled and seen everywhere, a second one is refused, nothing happens before its time, and
/// then writers find the new primary. Another one is taken back, and nothing happens.
#[test]
fn a_scheduled_switchover_takes_place_at_its_time_and_one_taken_back_does_not() -> Result<()> {
    let cluster = Wanted::new("scheduled").start()?;
    let drill = Drill::begin(&cluster)?;
    let first = drill.primary;
    let to = (first + 1) % 3;
    let (from_name, to_name) = (
        cluster.members[first].name.clone(),
        cluster.members[to].name.clone(),
    );
    let (due, at) = in_a_while(SOON)?;
    let ask = ["switchover", "--candidate", &to_name, "--scheduled", &at];
    let ask = [&ask[..], &["--from", &from_name, "--yes"]].concat();
    let dry = cluster.ctl(&[&ask[..], &["--dry-run"]].concat())?;
    ensure!(dry.contains("Nothing was changed"), "{dry}");
    cluster.ctl(&ask)?;
    for member in 0..3 {
        wait_until("it is shown by every member", PATIENCE, || {
            let shown = cluster
                .get(member, "/cluster")
                .map_err(|it| it.to_string())?;
            let shown = shown.json()["scheduled_switchover"].clone();
            let wanted = json!({ "at": &at, "from": &from_name, "to": &to_name });
            match shown == wanted {
                true => Ok(()),
                false => Err(format!("{shown}, not {wanted}")),
            }
        })?;
    }
    let second = cluster.ctl(&["switchover", "--scheduled", &at, "--yes"]);
    let second = second
        .err()
        .map(|why| format!("{why:#}"))
        .unwrap_or_default();
    ensure!(second.contains("is scheduled for"), "{second}");
    let status = cluster.status()?;
    ensure!(status.contains("Scheduled"), "{status}");

    drill.wait_takeover(&cluster)?;
    let begun = events(&cluster, "request")?;
    let (when, text) = begun.last().context("a request")?;
    ensure!(text.contains("(scheduled for"), "{text}");
    ensure!(*when >= due, "begun {:?} early", due - *when);
    ensure!(
        *when < due + Duration::from_secs(30),
        "{:?} late",
        *when - due
    );
    cluster.wait_healthy(PATIENCE)?;

    let (due, at) = in_a_while(SOON)?;
    cluster.ctl(&["switchover", "--scheduled", &at, "--yes"])?;
    let taken = cluster.ctl(&["flush", "switchover", "--reason", "not tonight"])?;
    ensure!(taken.contains("Taken back"), "{taken}");
    let again = cluster.ctl(&["flush", "switchover"]);
    ensure!(again.is_err(), "there is nothing to take back");
    wait_past(due)?;
    stays("nobody else is primary", PAST, || {
        match cluster.primaries() {
            all if all == [to] => Ok(()),
            all => Err(format!("{all:?}")),
        }
    })?;
    let told = events(&cluster, "unscheduled")?;
    ensure!(
        told.iter().any(|(_, it)| it.contains("not tonight")),
        "{told:?}"
    );
    let (history, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    let missing = cluster.missing(to, &history)?;
    ensure!(missing.is_empty(), "rows are lost: {missing:?}");
    cluster.finish()
}

/// Whoever took it down is lost before it is due: it is the cluster's, not the leader's.
#[test]
fn a_scheduled_switchover_survives_the_loss_of_the_raft_leader() -> Result<()> {
    let mut cluster = Wanted::new("schedlead").start()?;
    let drill = Drill::begin(&cluster)?;
    let first = drill.primary;
    let leader = wait_until("a leader that is not the primary", PATIENCE, || {
        let status = ctl_json(&cluster, &["status"]).map_err(|why| format!("{why:#}"))?;
        let leader = status["raft_leader"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let place = cluster.members.iter().position(|it| it.name == leader);
        place
            .filter(|place| *place != first)
            .ok_or(format!("`{leader}` leads"))
    })?;
    let to = 3 - first - leader;
    let (due, at) = in_a_while(SOON)?;
    cluster.ctl(&["switchover", "--scheduled", &at, "--yes"])?;
    cluster.members[leader].kill_host()?;
    let new = drill.wait_takeover(&cluster)?;
    ensure!(new == to, "the only standby that is left");
    let begun = events(&cluster, "request")?;
    let (when, text) = begun.last().context("a request")?;
    ensure!(text.contains("(scheduled for") && *when >= due, "{text}");
    cluster.members[leader].start()?;
    cluster.wait_healthy(PATIENCE)?;
    let (history, _) = drill.end(&cluster)?;
    let missing = cluster.missing(to, &history)?;
    ensure!(missing.is_empty(), "rows are lost: {missing:?}");
    cluster.finish()
}

/// By HTTP, as scripts for Patroni do it: a restart at a time, one that its conditions forbid, and one that
/// is deleted.
#[test]
fn restarts_are_scheduled_over_http_and_bound_to_their_conditions() -> Result<()> {
    let cluster = Wanted::new("schedrestart").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let [bound, free] = [(primary + 1) % 3, (primary + 2) % 3];
    let started = "SELECT pg_postmaster_start_time()::text";
    let before = [cluster.sql(bound, started)?, cluster.sql(free, started)?];
    let (due, at) = in_a_while(SOON)?;
    let post = |member: usize, body: Value| -> Result<(u16, String)> {
        let answer = cluster.send(member, "POST", "/restart", &body.to_string())?;
        Ok((answer.status, answer.body))
    };
    let taken = (202, "Restart scheduled".to_owned());
    let forbidden = json!({ "schedule": &at, "role": "primary" });
    ensure!(post(bound, forbidden)? == taken, "the role is judged then");
    ensure!(post(free, json!({ "schedule": &at }))? == taken);
    let second = post(free, json!({ "schedule": &at }))?;
    let refused = (409, "Another restart is already scheduled".to_owned());
    ensure!(second == refused, "{second:?}");
    ensure!(post(primary, json!({ "schedule": &at }))? == taken);
    let deleted = cluster.send(primary, "DELETE", "/restart", "")?;
    ensure!(
        deleted.body == "scheduled restart deleted",
        "{}",
        deleted.body
    );
    let list = cluster.ctl(&["list"])?;
    ensure!(list.contains("Scheduled restart"), "{list}");

    wait_until("another postmaster", SOON + PATIENCE, || {
        match cluster.sql(free, started) {
            Ok(now) if now != before[1] => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    ensure!(wall() >= due, "not before its time");
    wait_until("the other one is dropped", PATIENCE, || {
        let dropped = events(&cluster, "schedule-dropped").map_err(|why| format!("{why:#}"))?;
        match dropped.as_slice() {
            [(_, text)] if text.ends_with("is replica, not primary") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    ensure!(
        cluster.sql(bound, started)? == before[0],
        "it was left alone"
    );
    ensure!(cluster.wait_healthy(PATIENCE)? == primary);
    cluster.finish()
}

/// A standby in maintenance leaves the rule before the command returns, its host goes without anybody waiting,
/// the primary is lost and it is not promoted; its time ends by itself.
#[test]
fn a_member_in_maintenance_is_missed_by_nobody_and_not_promoted() -> Result<()> {
    let mut cluster = Wanted::new("maintained").start()?;
    let drill = Drill::begin(&cluster)?;
    let first = drill.primary;
    let [second, third] = [(first + 1) % 3, (first + 2) % 3];
    let name = |member: usize| cluster.members[member].name.clone();
    let (primary, kept, taken) = (name(first), name(second), name(third));
    let on = |cluster: &Cluster, words: &[&str]| -> Result<(bool, String)> {
        let words = [&["maintenance", "on"], words].concat();
        let said = cluster.ctl_command(&words)?.output()?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        Ok((said.status.success(), text))
    };
    let (is_done, said) = on(&cluster, &[&primary])?;
    ensure!(!is_done && said.contains("hand over first"), "{said}");
    cluster.ctl(&["maintenance", "on", &taken, "--for", "1h"])?;
    let status = ctl_json(&cluster, &["status"])?;
    ensure!(
        status["maintenance"][0]["member"] == taken.as_str(),
        "{status:#}"
    );
    let rules = status["rules"].as_array().context("rules")?;
    let names = |rule: &Value, member: &str| {
        let members = rule["members"].as_array();
        members.is_some_and(|all| all.iter().any(|it| it == member))
    };
    ensure!(!rules.iter().any(|rule| names(rule, &taken)), "{rules:#?}");
    ensure!(rules.iter().any(|rule| names(rule, &kept)), "{rules:#?}");
    let (is_done, said) = on(&cluster, &[&kept])?;
    ensure!(!is_done && said.contains("--force"), "{said}");
    let begun = events(&cluster, "maintenance")?;
    ensure!(begun.len() == 1, "{begun:?}");

    // Readers are sent elsewhere.
    wait_until("its replica check fails", PATIENCE, || {
        let answer = cluster.get(third, "/replica");
        match answer.map(|it| it.status) {
            Ok(503) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let (is_done, said) = {
        let words = ["switchover", "--to", &taken, "--yes"];
        let said = cluster.ctl_command(&words)?.output()?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        (said.status.success(), text)
    };
    ensure!(!is_done && said.contains("is in maintenance"), "{said}");

    // The primary is lost: the other one takes over, whoever has the most.
    cluster.members[first].kill_host()?;
    ensure!(drill.wait_takeover(&cluster)? == second);
    // Asked again it has another end, and needs no force: nobody else is left as it is.
    cluster.ctl(&["maintenance", "on", &taken, "--for", "2s", "--no-wait"])?;
    wait_until("it ends by itself", SOON + PATIENCE, || {
        let ended = events(&cluster, "maintenance-ended").map_err(|error| error.to_string())?;
        match ended.as_slice() {
            [(_, why)] if why.contains("its time is up") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    cluster.members[first].start()?;
    ensure!(cluster.wait_healthy(PATIENCE)? == second);
    // A standby that nobody needs joins only after half a minute.
    wait_until("it confirms commits again", 2 * PATIENCE, || {
        let status = ctl_json(&cluster, &["status"]).map_err(|error| error.to_string())?;
        match status["rules"].as_array() {
            Some(rules) if rules.iter().any(|rule| names(rule, &taken)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let (_, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    cluster.finish()
}
