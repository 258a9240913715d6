//! Pairs of runs in alternating order, on both sides.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::cost::{self, OURS};
use cluster_tests::host::Host;
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE, benchmarks};

use crate::plain::Plain;
use crate::{Arguments, Mode};

/// What pgbench said of one run, or of its slices together.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Transactions a second, without the time to connect.
    pub tps: f64,
    /// Mean latency, milliseconds.
    pub latency_ms: f64,
}

impl Run {
    /// Slices of one length as one run: the latency is that of all transactions.
    fn of(slices: &[Run]) -> Run {
        let total: f64 = slices.iter().map(|it| it.tps).sum();
        let waited: f64 = slices.iter().map(|it| it.tps * it.latency_ms).sum();
        Run {
            tps: total / slices.len() as f64,
            latency_ms: waited / total,
        }
    }
}

/// Two runs that took turns.
#[derive(Clone, Debug)]
pub struct Pair {
    /// On plain PostgreSQL.
    pub plain: Run,
    /// On our cluster.
    pub ours: Run,
    /// Ours was first.
    pub ours_first: bool,
    /// Load average of the last minute before the pair.
    pub load: String,
}

/// All pairs of a mode.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Which.
    pub mode: Mode,
    /// The pairs.
    pub pairs: Vec<Pair>,
    /// `synchronous_standby_names` on our primary.
    pub names: String,
    /// How many parameters both sides were given alike.
    pub parameters: usize,
    /// Share of one core that our idle daemons and guards took while plain PostgreSQL ran.
    pub idle_share: f64,
    /// File system of the data directories.
    pub volume: String,
}

/// Both sides of a campaign.
struct Sides<'a> {
    arguments: &'a Arguments,
    mode: Mode,
    ours: Cluster,
    plain: Plain,
    /// Time of our daemons on a processor while plain PostgreSQL ran, and how long it ran.
    idle: (Duration, Duration),
}

/// Runs a campaign on two clusters of its own.
pub fn run(mode: Mode, arguments: &Arguments) -> Result<Campaign> {
    let k = arguments.confirmations(mode);
    let wanted = arguments.wanted("bench-ours").mode(mode.word());
    let wanted = match mode {
        Mode::Async => wanted,
        Mode::Sync => wanted.setting(&format!("k = {k}")),
    };
    let ours = wanted.start().context("start our cluster")?;
    let primary = wait_ready(mode, arguments, &ours)?;
    let plain = Plain::start(arguments, &ours, primary, k)?;
    let mut campaign = Campaign {
        mode,
        pairs: Vec::new(),
        names: ours.rule_on(primary)?.text,
        parameters: plain.parameters.len(),
        idle_share: 0.0,
        volume: volume_of(&ours)?,
    };
    for (side, place) in [(&plain.hosts, 0), (&ours, primary)] {
        let scale = arguments.scale.to_string();
        pgbench(side, place, &["-i", "-q", "-s", &scale]).context("fill")?;
        measure(side, place, arguments, arguments.warm)?;
    }
    let mut sides = Sides {
        arguments,
        mode,
        ours,
        plain,
        idle: Default::default(),
    };
    if arguments.alone {
        sides.stop_ours()?;
        sides.plain.stop()?;
    }
    for number in 0..arguments.pairs {
        let pair = sides.pair(number % 2 == 1)?;
        let (word, of) = (mode.word(), arguments.pairs);
        eprintln!("{word} {}/{of}: {pair:?}", number + 1);
        campaign.pairs.push(pair);
    }
    campaign.idle_share = sides.idle.0.as_secs_f64() / sides.idle.1.as_secs_f64();
    sides.ours.expect_error("");
    sides.ours.finish()?;
    sides.plain.hosts.finish()?;
    Ok(campaign)
}

/// Waits until everybody streams and, in `sync`, both standbys are in the rule: the second one joins
/// after half a minute. The primary.
fn wait_ready(mode: Mode, arguments: &Arguments, ours: &Cluster) -> Result<usize> {
    let standbys = ours.database_count() - 1;
    match arguments.confirmations(mode) {
        0 => ours.wait_healthy(PATIENCE),
        k => ours.wait_confirmed(k, standbys, 2 * PATIENCE),
    }
}

impl Sides<'_> {
    fn pair(&mut self, ours_first: bool) -> Result<Pair> {
        let load = benchmarks::load().first().cloned().unwrap_or_default();
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        let ready = match self.arguments.alone {
            true => None,
            false => {
                let ready = self.ready()?;
                checkpoint(&self.ours, ready.0)?;
                checkpoint(&self.plain.hosts, 0)?;
                Some(ready)
            }
        };
        for slice in 0..self.arguments.slices() {
            // Who was second in one is first in the next: a drift hits both alike.
            let ours_now = ours_first == (slice % 2 == 0);
            if ours_now {
                ours.push(self.on_ours(ready.as_ref())?);
            }
            plain.push(self.on_plain()?);
            if !ours_now {
                ours.push(self.on_ours(ready.as_ref())?);
            }
        }
        if let Some(before) = &ready {
            self.require_unchanged(before)?;
        }
        Ok(Pair {
            plain: Run::of(&plain),
            ours: Run::of(&ours),
            ours_first,
            load,
        })
    }

    /// Our primary, and the rule its commits go by, once all is as the mode wants it.
    fn ready(&self) -> Result<(usize, String)> {
        let primary = wait_ready(self.mode, self.arguments, &self.ours)?;
        Ok((primary, self.ours.rule_on(primary)?.text))
    }

    /// Another rule or another primary would be another benchmark.
    fn require_unchanged(&self, before: &(usize, String)) -> Result<()> {
        let now = self.ours.rule_on(before.0)?.text;
        ensure!(
            self.ours.primaries() == [before.0] && now == before.1,
            "the rule became {now:?}, {}",
            self.ours.seen()
        );
        Ok(())
    }

    fn on_plain(&mut self) -> Result<Run> {
        if self.arguments.alone {
            self.plain
                .start_again(self.arguments.confirmations(self.mode))?;
            measure(&self.plain.hosts, 0, self.arguments, self.arguments.warm)?;
            checkpoint(&self.plain.hosts, 0)?;
        }
        let (from, before) = (clock(), busy(&self.ours)?);
        let run = measure(&self.plain.hosts, 0, self.arguments, self.arguments.slice())?;
        self.idle.0 += busy(&self.ours)?.saturating_sub(before);
        self.idle.1 += clock() - from;
        if self.arguments.alone {
            self.plain.stop()?;
        }
        Ok(run)
    }

    /// Nothing is asked of our cluster around a slice: plain PostgreSQL is asked nothing either.
    fn on_ours(&mut self, ready: Option<&(usize, String)>) -> Result<Run> {
        if let Some((primary, _)) = ready {
            return measure(&self.ours, *primary, self.arguments, self.arguments.slice());
        }
        self.ours.start_all()?;
        let before = self.ready()?;
        measure(&self.ours, before.0, self.arguments, self.arguments.warm)?;
        checkpoint(&self.ours, before.0)?;
        let run = measure(&self.ours, before.0, self.arguments, self.arguments.slice())?;
        self.require_unchanged(&before)?;
        self.stop_ours()?;
        Ok(run)
    }

    /// As a power cut does: all members at once.
    fn stop_ours(&mut self) -> Result<()> {
        self.ours.members.iter_mut().try_for_each(|m| m.kill_host())
    }
}

/// So that no run pays for the checkpoint of the one before.
fn checkpoint(side: &Cluster, place: usize) -> Result<()> {
    side.sql(place, "CHECKPOINT").map(|_| ())
}

fn measure(side: &Cluster, place: usize, arguments: &Arguments, seconds: u64) -> Result<Run> {
    let words = [
        "-c".to_owned(),
        arguments.clients.to_string(),
        "-j".to_owned(),
        arguments.threads.to_string(),
        "-T".to_owned(),
        seconds.to_string(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    parse(&pgbench(side, place, &words)?)
}

fn pgbench(side: &Cluster, place: usize, words: &[&str]) -> Result<String> {
    let member = &side.members[place];
    let mut command = side.clients.command(&member.bin.join("pgbench"));
    command.env("PGPASSWORD", cluster_tests::config::PASSWORD);
    command.args(["-h", &member.host.address, "-U", "postgres"]);
    command.args(words).arg("postgres");
    Host::run(command)
}

fn parse(said: &str) -> Result<Run> {
    let number = |label: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(label));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        word.and_then(|word| word.parse::<f64>().ok())
            .with_context(|| format!("no {label:?} in: {said}"))
    };
    let failed = number("number of failed transactions: ").unwrap_or(0.0);
    ensure!(failed == 0.0, "transactions failed: {said}");
    Ok(Run {
        tps: number("tps = ")?,
        latency_ms: number("latency average = ")?,
    })
}

/// Time our daemons and guards have been on a processor so far.
fn busy(ours: &Cluster) -> Result<Duration> {
    let costs = ours.members.iter().map(|m| cost::of_host(&m.host, OURS));
    costs.map(|cost| Ok(cost?.busy)).sum()
}

fn volume_of(ours: &Cluster) -> Result<String> {
    let mut stat = std::process::Command::new("stat");
    stat.args(["-f", "-c", "%T"]).arg(&ours.folder);
    Ok(Host::run(stat)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_read_and_failures_are_no_result() {
        let said = "number of clients: 8\nnumber of failed transactions: 0 (0.000%)\n\
                    latency average = 9.811 ms\ninitial connection time = 14.1 ms\n\
                    tps = 815.4 (without initial connection time)\n";
        let run = parse(said).expect("a run");
        assert!((run.tps - 815.4).abs() < 1e-9 && (run.latency_ms - 9.811).abs() < 1e-9);
        assert!(parse(&said.replace("transactions: 0", "transactions: 3")).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn slices_are_one_run() {
        let slice = |tps, latency_ms| Run { tps, latency_ms };
        let run = Run::of(&[slice(1000.0, 8.0), slice(3000.0, 2.0)]);
        assert!((run.tps - 2000.0).abs() < 1e-9 && (run.latency_ms - 3.5).abs() < 1e-9);
    }
}
