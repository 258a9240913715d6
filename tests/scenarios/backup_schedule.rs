//! Backups that the cluster takes by itself: one at a time, on a standby, whoever leads.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};
use serde_json::Value;

/// Slow enough that a leader is lost and another one elected meanwhile.
const RATE: &str = "\n[backup]\nmax_rate = \"1MB\"\n";
const ROWS: &str =
    "CREATE TABLE filler AS SELECT md5(random()::text) FROM generate_series(1, 200000)";

fn slow_cluster() -> Result<Cluster> {
    let mut cluster = Wanted::new("backup-schedule").repository().make()?;
    for member in &cluster.members {
        let file = member.config_file();
        let text = std::fs::read_to_string(&file)?;
        let (before, after) = text.split_once("\n[backup]\n").context("the table")?;
        write_private(&file, &format!("{before}{RATE}{after}"))?;
    }
    cluster.start_all()?;
    cluster.wait_healthy(PATIENCE)?;
    let primary = cluster.wait_primary(PATIENCE)?;
    cluster.sql(primary, ROWS)?;
    // The leader's loss is not to be a failover too.
    wait_until("a leader beside the primary", PATIENCE, || {
        let found = status(&cluster).map_err(|error| format!("{error:#}"))?;
        let (leader, primary) = (found["raft_leader"].as_str(), found["primary"].as_str());
        match leader.is_some() && primary.is_some() && leader != primary {
            true => Ok(()),
            false => Err(format!("{leader:?} leads, {primary:?} is primary")),
        }
    })?;
    Ok(cluster)
}

fn status(cluster: &Cluster) -> Result<Value> {
    Ok(serde_json::from_str(
        &cluster.ctl(&["status", "-o", "json"])?,
    )?)
}

fn text(value: &Value) -> Result<String> {
    let text = value
        .as_str()
        .with_context(|| format!("text, not {value}"))?;
    Ok(text.to_owned())
}

fn place(cluster: &Cluster, name: &str) -> Result<usize> {
    let found = cluster.members.iter().position(|it| it.name == name);
    found.with_context(|| format!("no member {name}"))
}

/// Waits until the newest run is as wanted; the whole status.
fn wait_run(
    cluster: &Cluster,
    what: &str,
    limit: Duration,
    is_wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    wait_until(what, limit, || {
        let found = status(cluster).map_err(|error| format!("{error:#}"))?;
        match is_wanted(&found["backups"]["newest"]) {
            true => Ok(found),
            false => Err(found["backups"].to_string()),
        }
    })
}

fn is_open(run: &Value) -> bool {
    run.is_object() && run["ended_unix_ms"].is_null()
}

fn is_over(run: &Value) -> bool {
    run["ended_unix_ms"].is_u64()
}

/// A schedule whose moments are days away: what is taken now is its first backup, and the only one.
pub fn far_away() -> Result<String> {
    let days = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 86_400;
    let names = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let day = usize::try_from((days + 3) % 7)?;
    Ok(format!("weekly {} 12:00", names[day]))
}

#[test]
fn a_scheduled_backup_outlives_its_leader_and_is_taken_once() -> Result<()> {
    let mut cluster = slow_cluster()?;
    let refused = cluster.ctl(&["settings", "set", "backup_schedule=sometimes", "--yes"]);
    let why = format!("{:#}", refused.expect_err("no schedule"));
    ensure!(why.contains("daily 02:00"), "{why}");

    let schedule = format!("backup_schedule={}", far_away()?);
    cluster.ctl(&["settings", "set", &schedule, "--yes"])?;
    let begun = wait_run(&cluster, "a backup to begin", PATIENCE, is_open)?;
    let taker = text(&begun["backups"]["newest"]["member"])?;
    let leader = text(&begun["raft_leader"])?;
    ensure!(taker != leader, "{taker} leads");
    ensure!(taker != text(&begun["primary"])?, "{taker} is the primary");

    let lost = place(&cluster, &leader)?;
    cluster.members[lost].kill_daemon()?;
    let other = wait_until("another leader", PATIENCE, || {
        let found = status(&cluster).map_err(|error| format!("{error:#}"))?;
        match found["raft_leader"].as_str() {
            Some(name) if name != leader => Ok(found),
            name => Err(format!("{name:?}")),
        }
    })?;
    let meanwhile = &other["backups"]["newest"];
    ensure!(
        is_open(meanwhile),
        "over already, this shows nothing: {meanwhile}"
    );
    cluster.members[lost].start()?;

    let ended = wait_run(&cluster, "its end", 2 * PATIENCE, is_over)?;
    let run = &ended["backups"]["newest"];
    ensure!(run["failure"].is_null() && run["attempt"] == 1, "{run}");
    ensure!(run["member"] == taker.as_str(), "{run}");
    ensure!(
        run["due_unix_ms"] == begun["backups"]["newest"]["due_unix_ms"],
        "{run}"
    );
    ensure!(ended["backups"]["newest_stored"] == *run, "{ended}");
    let stored: Value = serde_json::from_str(&cluster.ctl(&["backup", "list", "-o", "json"])?)?;
    let stored = stored.as_array().context("a list")?;
    ensure!(
        stored.len() == 1 && stored[0]["id"] == run["id"],
        "{stored:?}"
    );
    let shown = cluster.ctl(&["status"])?;
    ensure!(shown.contains(&text(&run["id"])?), "{shown}");
    let history = cluster.ctl(&["history"])?;
    println!("{shown}\n{history}");
    cluster.wait_healthy(PATIENCE)?;

    // The next one, and its taker's daemon dies: the next daemon of that member says so.
    cluster.ctl(&["settings", "set", "backup_schedule=* * * * *", "--yes"])?;
    let second = wait_run(&cluster, "the next moment", 2 * PATIENCE, |next| {
        is_open(next) && next["due_unix_ms"] != run["due_unix_ms"]
    })?;
    ensure!(second["backups"]["schedule"] == "* * * * *", "{second}");
    let due = second["backups"]["newest"]["due_unix_ms"].as_u64();
    let next = second["backups"]["next_unix_ms"].as_u64();
    ensure!(
        due.is_some_and(|due| due % 60_000 == 0) && next == due.map(|due| due + 60_000),
        "{second}"
    );
    let taker = place(&cluster, &text(&second["backups"]["newest"]["member"])?)?;
    cluster.ctl(&["settings", "set", "backup_schedule=off", "--yes"])?;
    cluster.members[taker].kill_daemon()?;
    cluster.members[taker].start()?;
    let failed = wait_run(&cluster, "its failure", PATIENCE, is_over)?;
    let why = text(&failed["backups"]["newest"]["failure"])?;
    ensure!(why.contains("ended while it was at it"), "{why}");
    ensure!(failed["backups"]["newest_stored"] == *run, "{failed}");
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}
