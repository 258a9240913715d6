//! A storm of settings: random changes, good and bad, with hosts of primaries lost in between, while clients
//! write. Every bad one is refused and changes nothing; what PostgreSQL cannot start with is taken back; at
//! the end everybody is healthy, has the parameters that the settings name, and no acknowledged row is
//! missing.

mod changes;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};

use crate::{Cluster, PATIENCE, Wanted, wait_until};

pub use changes::{Change, Fate};

/// Exit codes of clusterctl.
const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 4;
const TIMED_OUT: i32 = 5;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// How many changes.
    pub changes: u32,
    /// How often the primary's host is lost.
    pub failovers: u32,
    /// `restart --pending` after so many changes.
    pub roll_every: u32,
    /// Which changes.
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Changes that were taken.
    pub taken: u32,
    /// Bad ones that were refused.
    pub refused: u32,
    /// Changes of which nobody knew at once what became: asked while there was no leader.
    pub unknown: u32,
    /// Rolls that went through.
    pub rolls: u32,
    /// Rolls that ended because PostgreSQL could not start, after which the parameter was taken back.
    pub taken_back: u32,
    /// Acknowledged rows.
    pub rows: usize,
}

/// The key that is set to more than there is.
const TOO_MUCH: &str = "parameters.shared_buffers";

type Rows = BTreeMap<String, String>;

/// Runs it; `say` is told how far it is.
///
/// # Errors
/// The cluster, the harness, or a promise that was broken: which change, and what came of it.
pub fn run(name: &str, storm: &Storm, say: &dyn Fn(&str)) -> Result<Outcome> {
    let mut cluster = Wanted::new(name).preset("fast").start()?;
    cluster.wait_healthy(PATIENCE)?;
    let writers = cluster.start_writers(2)?;
    let members: Vec<String> = cluster.members.iter().map(|it| it.name.clone()).collect();
    let mut dice = StdRng::seed_from_u64(storm.seed);
    let mut outcome = Outcome::default();
    let every = storm.changes / (storm.failovers + 1).max(1);
    for number in 1..=storm.changes {
        let change = changes::draw(&mut dice, &members);
        set(&cluster, &change, &mut outcome)
            .with_context(|| format!("change {number}: {change:?}"))?;
        if storm.failovers > 0 && number % every.max(1) == 0 && number < storm.changes {
            fail_over(&mut cluster, &mut dice, &members, &mut outcome)?;
            say(&format!("{number} changes: {outcome:?}"));
        }
        if number % storm.roll_every.max(1) == 0 {
            roll(&cluster, &mut outcome)?;
        }
    }
    cluster.wait_healthy(PATIENCE)?;
    roll(&cluster, &mut outcome)?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    judge(&cluster, primary)?;
    let history = writers.stop();
    outcome.rows = history.rows.len();
    let missing = cluster.missing(primary, &history)?;
    ensure!(
        missing.is_empty(),
        "acknowledged rows are missing: {missing:?}"
    );
    cluster.finish()?;
    Ok(outcome)
}

/// The settings as rows.
fn shown(cluster: &Cluster) -> Result<Rows> {
    let text = cluster.ctl(&["settings", "show", "-o", "tsv"])?;
    let rows = text.lines().skip(1);
    Ok(rows
        .filter_map(|line| line.split_once('\t'))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// The same without what is taken back whenever a member happens to start.
fn compared(cluster: &Cluster) -> Result<Rows> {
    let mut rows = shown(cluster)?;
    rows.remove(TOO_MUCH);
    Ok(rows)
}

/// A member that came back has started meanwhile: with it goes all that had changed while it was away.
fn was_just_taken_back(cluster: &Cluster) -> Result<bool> {
    let history = cluster.ctl(&["settings", "history", "-o", "json"])?;
    let history: Vec<serde_json::Value> = serde_json::from_str(&history)?;
    let by_itself = |it: &serde_json::Value| {
        it["by"]
            .as_str()
            .is_some_and(|by| by.starts_with("clusterd: "))
    };
    Ok(history.iter().rev().take(3).any(by_itself))
}

/// What the settings are after a good change.
fn after(before: &Rows, change: &Change) -> Rows {
    let mut rows = before.clone();
    for assignment in &change.assignments {
        let (key, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        let key = match &change.member {
            Some(member) => format!("members.{member}.{key}"),
            None => key.to_owned(),
        };
        match value {
            "" => drop(rows.remove(&key)),
            value => drop(rows.insert(key, value.to_owned())),
        }
    }
    rows
}

/// Asks for it, and says how that ended.
fn ask(cluster: &Cluster, change: &Change) -> Result<(i32, String)> {
    let mut words = vec!["settings", "set", "--yes"];
    if let Some(member) = &change.member {
        words.extend(["--member", member]);
    }
    words.extend(change.assignments.iter().map(String::as_str));
    let output = cluster.ctl_command(&words)?.output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code().unwrap_or(-1), text))
}

fn set(cluster: &Cluster, change: &Change, outcome: &mut Outcome) -> Result<()> {
    let before = compared(cluster)?;
    let (code, said) = ask(cluster, change)?;
    let now = compared(cluster)?;
    let mut wanted = match change.fate {
        Fate::Bad => before.clone(),
        Fate::Good | Fate::TooMuch => after(&before, change),
    };
    wanted.remove(TOO_MUCH);
    match (code, change.fate) {
        (0, Fate::Good | Fate::TooMuch) => outcome.taken += 1,
        (REFUSED, Fate::Bad) => outcome.refused += 1,
        (UNREACHABLE | TIMED_OUT, _) => {
            outcome.unknown += 1;
            ensure!(
                now == before || now == wanted,
                "half of it was taken: {now:?}"
            );
            return Ok(());
        }
        _ => bail!("ended with {code}: {said}"),
    }
    if now != wanted && was_just_taken_back(cluster)? {
        outcome.taken_back += 1;
        return Ok(());
    }
    ensure!(now == wanted, "{now:?} instead of {wanted:?}");
    ensure!(
        change.fate != Fate::Bad || said.contains(": "),
        "no reason: {said}"
    );
    Ok(())
}

/// The primary's host is lost, and changes are asked for while nobody leads or serves; then it comes back.
fn fail_over(
    cluster: &mut Cluster,
    dice: &mut StdRng,
    members: &[String],
    outcome: &mut Outcome,
) -> Result<()> {
    let old = cluster.wait_primary(PATIENCE)?;
    cluster.members[old].kill_host()?;
    for _ in 0..dice.random_range(1..4) {
        let change = changes::draw(dice, members);
        let (code, said) = ask(cluster, &change)?;
        match code {
            0 if change.fate != Fate::Bad => outcome.taken += 1,
            REFUSED if change.fate == Fate::Bad => outcome.refused += 1,
            UNREACHABLE | TIMED_OUT => outcome.unknown += 1,
            code => bail!("{change:?}, while {old} was lost, ended with {code}: {said}"),
        }
    }
    cluster.wait_other_primary(old, PATIENCE)?;
    cluster.members[old].start()?;
    cluster.wait_healthy(2 * PATIENCE)?;
    Ok(())
}

/// Whatever waits for a restart gets it; what cannot be started with is taken back.
fn roll(cluster: &Cluster, outcome: &mut Outcome) -> Result<()> {
    cluster.wait_healthy(2 * PATIENCE)?;
    let words = ["restart", "--pending", "--yes", "--timeout", "10min"];
    let output = cluster.ctl_command(&words)?.output()?;
    if output.status.success() {
        outcome.rolls += 1;
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        said.contains("could not start with") && said.contains("shared_buffers = 7TB"),
        "a roll failed: {said}"
    );
    wait_until("it is taken back", PATIENCE, || {
        let rows = shown(cluster).map_err(|error| format!("{error:#}"))?;
        match rows.values().any(|value| value == "7TB") {
            false => Ok(()),
            true => Err(format!("{rows:?}")),
        }
    })?;
    outcome.taken_back += 1;
    cluster.wait_healthy(2 * PATIENCE).map(drop)
}

/// Every member has the parameters that the settings name for it.
fn judge(cluster: &Cluster, primary: usize) -> Result<()> {
    let rows = shown(cluster)?;
    for (place, member) in cluster.members.iter().enumerate() {
        let role = if place == primary {
            "primary"
        } else {
            "standby"
        };
        for name in changes::JUDGED {
            let places = [
                format!("members.{}.parameters.{name}", member.name),
                format!("{role}.parameters.{name}"),
                format!("parameters.{name}"),
            ];
            let Some(wanted) = places.iter().find_map(|key| rows.get(key)) else {
                continue;
            };
            let what = format!("{name} = {wanted} on {}", member.name);
            // PostgreSQL shows it in its own unit: it compares.
            let question = format!(
                "SELECT (current_setting('{name}') = '{wanted}' OR \
                 (SELECT setting FROM pg_settings WHERE name = '{name}') = '{wanted}')::text"
            );
            let limit = Duration::from_secs(20);
            wait_until(&what, limit, || {
                let shown = cluster.sql(place, &format!("SHOW {name}"));
                let shown = shown.map_err(|error| format!("{error:#}"))?.concat();
                let same = cluster.sql(place, &question);
                match same
                    .map_err(|error| format!("{error:#}"))?
                    .concat()
                    .as_str()
                {
                    "true" => Ok(()),
                    _ => Err(shown),
                }
            })?;
        }
    }
    Ok(())
}
