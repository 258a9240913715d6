//! Points in time: while writers write and primaries die, moments are noted in every way a restore can
//! be told to stop; afterwards a copy is restored to each, and must hold exactly what was committed.

mod judge;
mod taker;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::writer::clock;
use crate::{Cluster, PATIENCE, Wanted, Writers, wait_until};

pub use judge::judge;
pub use taker::{Point, Taker, Target};

/// Rows and points that each reign must see, so that points lie in all of them.
const ROWS: usize = 100;
const POINTS: usize = 4;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// How often the primary's host is lost.
    pub failovers: u32,
    /// How many copies are restored.
    pub points: usize,
    /// A base backup after so many failovers, and one at the start.
    pub backup_every: u32,
    /// Which of the points that were noted, and when they are.
    pub seed: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Acknowledged rows.
    pub rows: usize,
    /// Base backups.
    pub backups: usize,
    /// Timelines that acknowledged rows.
    pub timelines: usize,
    /// Points that were noted.
    pub noted: usize,
    /// Copies that were restored.
    pub restored: usize,
    /// How long a restore took, from the command to a copy that answers, in order.
    pub times: Vec<Duration>,
    /// What is wrong; empty when every copy holds what it should.
    pub findings: Vec<String>,
}

/// Runs it; `say` is told how far it is.
///
/// # Errors
/// The cluster or the harness; a copy that holds the wrong rows is a finding, not an error.
pub fn run(name: &str, campaign: &Campaign, say: &dyn Fn(&str)) -> Result<Outcome> {
    let mut cluster = Wanted::new(name).repository().start()?;
    let mut outcome = Outcome::default();
    cluster.ctl(&["backup", "create"])?;
    outcome.backups += 1;
    let writers = cluster.start_writers(4)?;
    let primary = cluster.wait_primary(PATIENCE)?;
    cluster.sql(primary, taker::TABLE)?;
    let (options, seed) = (cluster.writer_options(1), campaign.seed);
    let taker = cluster.run(async move { Taker::start(options, seed) });
    for round in 1..=campaign.failovers {
        wait_for_more(&writers, &taker)?;
        let old = cluster.wait_primary(PATIENCE)?;
        cluster.members[old].kill_host()?;
        cluster.wait_other_primary(old, PATIENCE)?;
        cluster.members[old].start()?;
        cluster.wait_healthy(PATIENCE)?;
        say(&format!(
            "{:7.2} s  {round}: {} lost; {} rows, {} points",
            clock().as_secs_f64(),
            cluster.members[old].name,
            writers.count(),
            taker.count()
        ));
        if round % campaign.backup_every == 0 {
            cluster.ctl(&["backup", "create"])?;
            outcome.backups += 1;
        }
    }
    wait_for_more(&writers, &taker)?;
    let points = taker.stop();
    let history = writers.stop();
    cluster.wait_archived()?;
    outcome.rows = history.rows.len();
    outcome.timelines = history.timelines().len();
    outcome.noted = points.len();
    for (number, point) in choose(&points, campaign.seed, campaign.points) {
        let began = Instant::now();
        let [flag, value] = point.target.flags();
        match held(&cluster, number, &flag, &value) {
            Ok(found) => {
                let wrong = judge(&history, point, &found);
                let wrong = wrong.into_iter().map(|it| format!("{flag} {value}: {it}"));
                outcome.findings.extend(wrong);
            }
            Err(error) => outcome.findings.push(format!("{flag} {value}: {error:#}")),
        }
        outcome.times.push(began.elapsed());
        outcome.restored += 1;
        if outcome.restored % 10 == 0 {
            say(&format!(
                "{:7.2} s  {} copies restored, {} findings",
                clock().as_secs_f64(),
                outcome.restored,
                outcome.findings.len()
            ));
        }
    }
    outcome.times.sort();
    cluster.finish()?;
    Ok(outcome)
}

fn wait_for_more(writers: &Writers, taker: &Taker) -> Result<()> {
    let (rows, points) = (writers.count() + ROWS, taker.count() + POINTS);
    wait_until("rows and points in this reign", PATIENCE, || {
        match (writers.count(), taker.count()) {
            (seen, noted) if seen >= rows && noted >= points => Ok(()),
            seen => Err(format!("{seen:?}, not {rows} and {points}")),
        }
    })
}

/// The rows of a copy.
fn held(cluster: &Cluster, number: usize, flag: &str, value: &str) -> Result<BTreeSet<(u32, i64)>> {
    let copy = cluster.restore(&format!("point-{number}"), &[flag, value])?;
    let lines = copy.sql("SELECT writer || ' ' || number FROM written")?;
    copy.remove()?;
    let row = |line: &String| {
        let (writer, number) = line.split_once(' ').context("two numbers")?;
        anyhow::Ok((writer.parse()?, number.parse()?))
    };
    let rows: Result<BTreeSet<_>> = lines.iter().map(row).collect();
    match rows {
        Ok(rows) if rows.len() == lines.len() => Ok(rows),
        Ok(_) => bail!("a row is there twice"),
        Err(error) => Err(error),
    }
}

/// Some of the points with their numbers, in the order they were noted.
fn choose(points: &[Point], seed: u64, count: usize) -> Vec<(usize, &Point)> {
    let numbers: Vec<usize> = (0..points.len()).collect();
    let mut dice = StdRng::seed_from_u64(seed);
    let mut chosen: Vec<usize> = numbers.sample(&mut dice, count).copied().collect();
    chosen.sort_unstable();
    chosen.into_iter().map(|it| (it, &points[it])).collect()
}
