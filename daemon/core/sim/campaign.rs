//! Many schedules: the seeded runs of every CI, and as many as somebody wants on all cores
//! (`cargo xtask simulate`).
//!
//! `SIM_SEED=n` with `SIM_MODE=…` runs one schedule and tells everything.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::coverage::{Coverage, Wanted};
use crate::kinds::Kind;
use crate::mistakes::Mutant;
use crate::network::SECOND;
use crate::schedules::{LENGTH, Outcome, run};

/// Least faults of one schedule.
const LEAST_FAULTS: u32 = 3;

/// From so many schedules of a kind on everything must have occurred.
const ENOUGH: u64 = 1_000;

/// So many violations are enough to look at.
const MOST_FAILURES: usize = 20;

/// Which schedules.
struct Campaign {
    kinds: Vec<Kind>,
    seeds: Vec<u64>,
    threads: usize,
    /// A violation ends it.
    stops_early: bool,
}

/// The sums over a run of schedules.
#[derive(Default)]
struct Sums {
    by_kind: BTreeMap<&'static str, u64>,
    changed: u64,
    changes: usize,
    faults: u64,
    jumps: u64,
    acknowledgements: u64,
    simulated: u64,
    coverage: Coverage,
    failures: Vec<String>,
}

impl Sums {
    fn add(&mut self, kind: Kind, seed: u64, outcome: &Outcome) {
        *self.by_kind.entry(kind.word()).or_default() += 1;
        self.coverage.add(&outcome.coverage);
        self.faults += u64::from(outcome.faults);
        self.jumps += u64::from(outcome.jumps);
        self.acknowledgements += outcome.acknowledgements;
        self.simulated += outcome.simulated / SECOND;
        self.changed += u64::from(outcome.changes > 0);
        self.changes += outcome.changes;
        let word = kind.word();
        let mut broken = outcome.violations.join("\n");
        if broken.is_empty() && outcome.simulated < LENGTH {
            broken = "it is too short".to_owned();
        }
        if broken.is_empty() && outcome.faults < LEAST_FAULTS {
            broken = format!("it has {} faults", outcome.faults);
        }
        if !broken.is_empty() {
            let text = format!("{word} {seed}: {broken}");
            println!("FAILED {text}");
            self.failures.push(text);
        }
    }

    fn schedules(&self) -> u64 {
        self.by_kind.values().sum()
    }

    fn merge(&mut self, other: Sums) {
        for (word, count) in other.by_kind {
            *self.by_kind.entry(word).or_default() += count;
        }
        self.changed += other.changed;
        self.changes += other.changes;
        self.faults += other.faults;
        self.jumps += other.jumps;
        self.acknowledgements += other.acknowledgements;
        self.simulated += other.simulated;
        self.coverage.merge(&other.coverage);
        self.failures.extend(other.failures);
    }

    fn print(&self, took: f64, threads: usize) {
        let kinds: Vec<String> = self
            .by_kind
            .iter()
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        println!(
            "{} schedules ({}) in {took:.1} s ({:.1} a second, {threads} threads), {} simulated \
             seconds, {} faults, {} clocks broken, {} changes of primary in {} schedules, {} \
             acknowledgements, {} violations",
            self.schedules(),
            kinds.join(", "),
            self.schedules() as f64 / took,
            self.simulated,
            self.faults,
            self.jumps,
            self.changes,
            self.changed,
            self.acknowledgements,
            self.failures.len()
        );
    }

    /// Nothing is broken, and a run that is large enough has got everywhere.
    fn check(&self) {
        assert!(
            self.failures.is_empty(),
            "{}\nrepeat one: cargo xtask simulate SEED --mode MODE",
            self.failures.join("\n")
        );
        assert!(
            self.changed * 10 >= self.schedules() * 6,
            "only {} of {} schedules had a change of primary",
            self.changed,
            self.schedules()
        );
        let of = |words: &[&str]| words.iter().filter_map(|word| self.by_kind.get(word)).sum();
        let (asynchronous, strict): (u64, u64) = (of(&["async"]), of(&["strict", "strict-jumps"]));
        let (sync, jumps): (u64, u64) = (
            of(&["sync", "sync-jumps", "strict", "strict-jumps"]),
            of(&["sync-jumps", "strict-jumps"]),
        );
        for (count, wanted) in [
            (asynchronous / 5, Wanted::Anywhere),
            (sync, Wanted::Sync),
            (strict, Wanted::Strict),
            (jumps, Wanted::Jumps),
        ] {
            let missing = self.coverage.missing(wanted);
            assert!(
                count < ENOUGH || missing.is_empty(),
                "never seen in {} schedules: {missing:?}",
                self.schedules()
            );
        }
    }
}

impl Campaign {
    fn new(kinds: Vec<Kind>, first: u64, count: u64) -> Campaign {
        Campaign {
            kinds,
            seeds: (first..first + count).collect(),
            threads: 1,
            stops_early: true,
        }
    }

    fn run(&self) {
        let began = Instant::now();
        let next = AtomicU64::new(0);
        let all = Mutex::new(Sums::default());
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    let sums = self.run_some(&next, began);
                    let mut all = all.lock().expect("no thread panics while it adds");
                    all.merge(sums);
                });
            }
        });
        let all = all.into_inner().expect("no thread panics while it adds");
        all.coverage.print();
        all.print(began.elapsed().as_secs_f64(), self.threads);
        all.check();
    }

    /// What one thread does: the next schedule nobody has taken, until there is none.
    fn run_some(&self, next: &AtomicU64, began: Instant) -> Sums {
        let mut sums = Sums::default();
        let most = if self.stops_early { 1 } else { MOST_FAILURES };
        while sums.failures.len() < most {
            let taken = next.fetch_add(1, Ordering::Relaxed);
            let Some(seed) = self.seeds.get(taken as usize).copied() else {
                break;
            };
            let kind = self.kinds[seed as usize % self.kinds.len()];
            sums.add(kind, seed, &run(kind, seed, Mutant::None, false));
            if !self.stops_early && (taken + 1).is_multiple_of(5_000) {
                let took = began.elapsed().as_secs_f64();
                println!("{} schedules begun, {took:.0} s", taken + 1);
            }
        }
        sums
    }
}

/// Runs one schedule and tells everything.
fn tell(kind: Kind, seed: u64) {
    let outcome = run(kind, seed, Mutant::None, true);
    for line in outcome.trace.iter().flatten() {
        println!("{line}");
    }
    let mut sums = Sums::default();
    sums.coverage.add(&outcome.coverage);
    sums.coverage.print();
    assert!(
        outcome.violations.is_empty(),
        "{} {seed}: {}",
        kind.word(),
        outcome.violations.join("\n")
    );
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: `{text}` is no number"))
    })
}

/// Seeds that found a bug, and ten thousand more.
#[test]
fn schedules_keep_every_property() {
    let mut campaign = Campaign::new(Kind::read("async"), 1, 10_000);
    let known = include_str!("seeds.txt")
        .lines()
        .filter_map(|line| line.split(' ').next());
    let known = known.filter_map(|word| word.parse().ok());
    campaign.seeds = known.chain(campaign.seeds.clone()).collect();
    campaign.run();
}

/// The same faults, with commits that wait for standbys: S5, S6, S8, S9, S12 and L5.
#[test]
fn sync_schedules_keep_every_property() {
    Campaign::new(Kind::read("sync"), 1, 3_000).run();
}

/// Writes wait rather than be confirmed by too few; and go on by themselves.
#[test]
fn strict_schedules_keep_every_property() {
    Campaign::new(Kind::read("strict"), 1, 3_000).run();
}

/// No clock in the argument: no acknowledged write is lost whatever clocks show.
#[test]
fn jumping_clocks_lose_no_acknowledged_write() {
    Campaign::new(Kind::read("jumps"), 1, 4_000).run();
}

/// As many as wanted: `cargo xtask simulate`.
#[test]
#[ignore = "as long as one wants it to be: cargo xtask simulate"]
fn campaign() {
    let word = std::env::var("SIM_MODE").unwrap_or_else(|_| "mixed".to_owned());
    let kinds = Kind::read(&word);
    if let Some(seed) = number("SIM_SEED") {
        tell(kinds[seed as usize % kinds.len()], seed);
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    let count = number("SIM_SCHEDULES").unwrap_or(10_000);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut campaign = Campaign::new(kinds, first, count);
    campaign.threads = number("SIM_THREADS").map_or(cores, |number| number as usize);
    campaign.stops_early = false;
    campaign.run();
}
