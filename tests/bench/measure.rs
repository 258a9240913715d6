//! Rounds of one event on one cluster: writers, blow, recovery, comparison.

use std::time::Duration;

use anyhow::{Context, Result};
use cluster_tests::proxy::{Proxy, WRITE_PORT};
use cluster_tests::writer::{clock, require_no_overlap};
use cluster_tests::{Cluster, History, PATIENCE, wait_until};

use crate::Arguments;
use crate::event::Event;

/// Longest time looked at after a blow.
const HORIZON: Duration = Duration::from_secs(90);

/// What one round showed.
#[derive(Clone, Debug)]
pub struct Round {
    /// Longest time without an acknowledgement, over writers connected directly.
    pub direct: Duration,
    /// The same through HAProxy, if anybody wrote that way.
    pub proxied: Option<Duration>,
    /// Acknowledged rows that the primary no longer has.
    pub missing: usize,
    /// Time during which two primaries acknowledged.
    pub overlap: Duration,
    /// Rows acknowledged too late, when there was an overlap.
    pub late: usize,
    /// From the repair until every standby streams again.
    pub rejoin: Duration,
    /// From the start of a new daemon of the primary to its first confirmed renewal.
    pub first_renewal: Option<Duration>,
}

/// Everything measured of one event.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The rounds that came to their end.
    pub rounds: Vec<Round>,
    /// From the start of three empty hosts to a primary with two streaming standbys.
    pub bootstrap: Duration,
    /// Why there are no more rounds.
    pub trouble: Option<String>,
}

/// The lease of a preset, from its table in the documentation.
fn lease_of(preset: &str) -> Duration {
    match preset {
        "fast" => Duration::from_millis(1250),
        "wan" => Duration::from_secs(12),
        _ => Duration::from_secs(3),
    }
}

/// All rounds of an event; those before a failure still count.
pub fn measure(event: Event, arguments: &Arguments) -> Result<Measured> {
    let mut wanted = arguments.wanted("bench");
    if event.is_of_standby() {
        wanted = wanted.setting("k = 2");
    }
    let mut cluster = wanted.make()?;
    let from = clock();
    cluster.start_all()?;
    cluster
        .wait_healthy(PATIENCE)
        .context("start the cluster")?;
    let mut measured = Measured {
        bootstrap: clock() - from,
        ..Measured::default()
    };
    let proxy = Proxy::start(&cluster)?;
    for number in 1..=arguments.rounds {
        match one_round(event, arguments, &mut cluster) {
            Ok(round) => {
                eprintln!("{event:?} {number}/{}: {round:?}", arguments.rounds);
                measured.rounds.push(round);
            }
            Err(error) => {
                eprintln!("{event:?} {number}: {error:#}");
                let why = error.to_string();
                measured.trouble = Some(format!("round {number}: {}", &why[..why.len().min(80)]));
                return Ok(measured);
            }
        }
    }
    drop(proxy);
    cluster.expect_error("");
    if !arguments.keep_logs {
        cluster.finish()?;
    }
    Ok(measured)
}

fn one_round(event: Event, arguments: &Arguments, cluster: &mut Cluster) -> Result<Round> {
    let primary = arguments.wait_whole(event, cluster)?;
    let victim = event.victim(cluster, primary);
    cluster.sql(primary, "DROP TABLE IF EXISTS written")?;
    let direct = cluster.start_writers(arguments.writers)?;
    let mut options = cluster.writer_options(arguments.writers);
    options.places = vec![("127.0.0.1".to_owned(), WRITE_PORT)];
    options.first = 500;
    // The others are none at all when only the direct ones are asked for.
    let (through, bound) = match arguments.direct_only {
        true => (0, 0),
        false => (arguments.writers, cluster.members.len()),
    };
    options.writers = through;
    let proxied = cluster.writers(&options);
    let faithful: Vec<_> = (0..bound)
        .map(|member| cluster.faithful_writers(member, 1))
        .collect();
    let busy = clock();
    wait_until("writers at work", PATIENCE, || {
        let (one, two) = (direct.count(), proxied.count());
        let is_warm =
            one > 200 && (two > 200 || through == 0) && clock() - busy > Duration::from_secs(1);
        if is_warm {
            Ok(())
        } else {
            Err(format!("{one} and {two} rows"))
        }
    })?;
    let from = clock();
    event.strike(cluster, victim)?;
    let over = from + event.lasts(lease_of(&arguments.preset));
    wait_until(
        "rows of both kinds of writers after the blow",
        HORIZON,
        || {
            // A second of steady writing after the blow and its end, through both ways.
            let settled = clock()
                .checked_sub(Duration::from_millis(500))
                .unwrap_or_default();
            let is_back = |newest: Option<cluster_tests::writer::Row>| newest.is_some();
            match clock() > over
                && is_back(direct.newest_after(settled))
                && (through == 0 || is_back(proxied.newest_after(settled)))
            {
                true => Ok(()),
                false => Err(cluster.seen()),
            }
        },
    )?;
    let repaired = clock();
    event.repair(cluster, victim)?;
    let to = clock();
    let (direct, proxied) = (direct.stop(), proxied.stop());
    let mut all = History::default();
    let mut round = Round {
        direct: direct.outage(from, to),
        proxied: (through > 0).then(|| proxied.outage(from, to)),
        missing: 0,
        overlap: Duration::ZERO,
        late: 0,
        rejoin: to - repaired,
        first_renewal: match event {
            Event::DaemonKilled => Some(first_renewal(cluster, primary)?),
            _ => None,
        },
    };
    all.merge(direct);
    all.merge(proxied);
    for group in faithful {
        all.merge(group.stop());
    }
    let primary = cluster.wait_healthy(PATIENCE)?;
    round.missing = cluster.missing(primary, &all)?.len();
    let (overlap, late) = all.overlap();
    (round.overlap, round.late) = (overlap, late.len());
    if let Err(error) = require_no_overlap(&all) {
        eprintln!("{error:#}");
    }
    Ok(round)
}

/// As the member itself tells it.
fn first_renewal(cluster: &Cluster, member: usize) -> Result<Duration> {
    let metrics = cluster.get(member, "/metrics")?.body;
    let seconds = metrics
        .lines()
        .find_map(|line| line.strip_prefix("clusterd_first_renewal_seconds"))
        .and_then(|rest| rest.split_whitespace().last()?.parse().ok())
        .context("the metrics tell no first renewal")?;
    Ok(Duration::from_secs_f64(seconds))
}
