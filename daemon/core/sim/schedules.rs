//! Random schedules: which cluster, which faults, what must be true of all of them together.

use std::time::Instant;

use cluster_core::model::Tags;
use cluster_core::model::lease::Preset;
use cluster_core::model::settings::Mode;

use crate::coverage::Coverage;
use crate::network::SECOND;
use crate::random::Random;
use crate::world::{Mutant, Setup, World};

/// How many schedules a run without `SIM_SEEDS` has.
const SCHEDULES: u64 = 10_000;

/// How many schedules in mode `sync` a run without `SYNC_SEEDS` has.
const SYNC_SCHEDULES: u64 = 1_000;

/// Least simulated time of one schedule.
const LENGTH: u64 = 60 * SECOND;

/// How long faults happen.
const FAULTY: u64 = 46 * SECOND;

/// Least faults of one schedule.
const LEAST_FAULTS: u32 = 3;

/// From so many schedules on everything must have occurred.
const ENOUGH: u64 = 5_000;

/// In so many schedules a mutant must be caught.
const MUTANT_SCHEDULES: u64 = 400;

/// What one schedule gave.
pub struct Outcome {
    pub violations: Vec<String>,
    pub coverage: Coverage,
    pub trace: Option<Vec<String>>,
    pub faults: u32,
    pub changes: usize,
    pub simulated: u64,
}

fn setup_of(random: &mut Random) -> Setup {
    let (databases, has_witness) = match random.below(10) {
        0..6 => (3, false),
        6..8 => (2, true),
        _ => (5, false),
    };
    let preset = if random.chance(600) {
        Preset::Fast
    } else {
        Preset::Lan
    };
    let mut tags = vec![Tags::default(); databases];
    if databases > 2 && random.chance(150) {
        tags[random.index(databases)].nofailover = true;
    }
    if random.chance(150) {
        tags[random.index(databases)].failover_priority = Some(5);
    }
    let brings = match random.below(20) {
        0 => 1,
        1 => 2,
        _ => 0,
    };
    Setup {
        databases,
        has_witness,
        preset,
        tags,
        brings,
        mode: Mode::Async,
        k: 1,
    }
}

/// Runs one schedule.
pub fn run(seed: u64, mutant: Mutant, is_verbose: bool) -> Outcome {
    run_in(Mode::Async, seed, mutant, is_verbose)
}

/// The same with commits that wait.
pub fn run_in(mode: Mode, seed: u64, mutant: Mutant, is_verbose: bool) -> Outcome {
    let mut random = Random::new(seed ^ 0x5EED);
    let mut setup = setup_of(&mut random);
    setup.mode = mode;
    if setup.databases > 3 && seed.is_multiple_of(2) {
        setup.k = 2;
    }
    let mut world = World::new(seed, &setup, mutant);
    if is_verbose {
        world.trace = Some(Vec::new());
        world.say_world(|| format!("{setup:?}"));
    }
    if setup.brings > 1 {
        // Which of them is the cluster's an operator has to say.
        world.run_until(world.now + 2 * SECOND);
        world.nodes[1].postgres.data = None;
    }
    if random.chance(850) {
        // Most schedules begin with a healthy cluster.
        world.must_become_well();
    }
    world.begin_faults(FAULTY);
    world.run_until(world.now + FAULTY);
    world.end_faults();
    world.must_heal();
    let rest = (LENGTH + SECOND).saturating_sub(world.now);
    world.run_until(world.now + rest);
    let changes = world
        .watch
        .primaries
        .windows(2)
        .filter(|pair| pair[0].1 != pair[1].1)
        .count();
    Outcome {
        violations: world.violations,
        coverage: world.coverage,
        trace: world.trace,
        faults: world.watch.faults,
        changes,
        simulated: world.now,
    }
}

fn fail(seed: u64, outcome: &Outcome) -> ! {
    panic!(
        "seed {seed}: {}\nrepeat it: cargo xtask sim {seed}   (or SIM_SEED={seed} cargo test -p \
         cluster-core --test sim schedules)",
        outcome.violations.join("\n")
    );
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
}

/// The sums over a run of schedules.
#[derive(Default)]
struct Sums {
    schedules: u64,
    changed: u64,
    changes: usize,
    simulated: u64,
    coverage: Coverage,
}

impl Sums {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        assert!(outcome.simulated >= LENGTH, "seed {seed} is too short");
        assert!(
            outcome.faults >= LEAST_FAULTS,
            "seed {seed} has {} faults",
            outcome.faults
        );
        self.schedules += 1;
        self.changed += u64::from(outcome.changes > 0);
        self.changes += outcome.changes;
        self.simulated += outcome.simulated / SECOND;
        self.coverage.add(&outcome.coverage);
    }

    /// A run that is large enough must have got everywhere.
    fn check(&self) {
        assert!(
            self.changed * 10 >= self.schedules * 7,
            "only {} of {} schedules had a change of primary",
            self.changed,
            self.schedules
        );
        if self.schedules < ENOUGH {
            return;
        }
        let missing = self.coverage.missing();
        assert!(
            missing.is_empty(),
            "never seen in {} schedules: {missing:?}",
            self.schedules
        );
    }
}

/// All the schedules of a run.
#[test]
fn schedules_keep_every_property() {
    if let Some(seed) = number("SIM_SEED") {
        tell(seed);
        return;
    }
    let (first, count) = (number("SIM_FIRST").unwrap_or(1), number("SIM_SEEDS"));
    let count = count.unwrap_or(SCHEDULES);
    let keeps_going = std::env::var("SIM_KEEP_GOING").is_ok();
    let began = Instant::now();
    let mut sums = Sums::default();
    let known = include_str!("seeds.txt")
        .lines()
        .filter_map(|line| line.split(' ').next());
    let known = known
        .filter_map(|word| word.parse().ok())
        .filter(|_| number("SIM_FIRST").is_none());
    for seed in known.chain(first..first + count) {
        let outcome = run(seed, Mutant::None, false);
        if !outcome.violations.is_empty() && keeps_going {
            println!("FAILED {seed} {}", outcome.violations[0]);
            continue;
        }
        if !outcome.violations.is_empty() {
            fail(seed, &outcome);
        }
        sums.add(seed, &outcome);
    }
    let took = began.elapsed().as_secs_f64();
    sums.coverage.print();
    println!(
        "{} schedules in {took:.1} s ({:.0} a second), {} simulated seconds, at least \
         {LEAST_FAULTS} faults each, {} with a change of primary, {} changes",
        sums.schedules,
        sums.schedules as f64 / took,
        sums.simulated,
        sums.changed,
        sums.changes
    );
    sums.check();
}

/// Runs one schedule and tells everything.
fn tell(seed: u64) {
    let outcome = run(seed, Mutant::None, true);
    for line in outcome.trace.iter().flatten() {
        println!("{line}");
    }
    let mut coverage = Coverage::default();
    coverage.add(&outcome.coverage);
    coverage.print();
    if !outcome.violations.is_empty() {
        fail(seed, &outcome);
    }
}

/// A world that is wrong must be caught, by the property that is there for it.
fn must_be_caught(mutant: Mutant, properties: &[&str]) {
    must_be_caught_in(Mode::Async, mutant, properties);
}

fn must_be_caught_in(mode: Mode, mutant: Mutant, properties: &[&str]) {
    let mut seen = Vec::new();
    for seed in 1..=MUTANT_SCHEDULES {
        let outcome = run_in(mode, seed, mutant, false);
        if let Some(first) = outcome.violations.first() {
            if properties.iter().any(|property| first.contains(property)) {
                println!("{mutant:?} is caught by seed {seed}: {first:.150}");
                return;
            }
            seen.push(first.clone());
        }
    }
    panic!("{mutant:?} survives {MUTANT_SCHEDULES} schedules; other violations: {seen:?}");
}

#[test]
fn a_guard_that_never_kills_is_caught() {
    must_be_caught(Mutant::GuardNeverKills, &["S3:"]);
}

#[test]
fn a_grant_without_waiting_is_caught() {
    must_be_caught(Mutant::GrantWithoutWaiting, &["S4:"]);
}

#[test]
fn a_new_leader_that_does_not_wait_is_caught() {
    must_be_caught(Mutant::NewLeaderDoesNotWait, &["S4:"]);
}

#[test]
fn a_leader_that_answers_without_a_quorum_is_caught() {
    must_be_caught(Mutant::LeaderAnswersAlone, &["S3:", "S4:"]);
}

#[test]
fn a_promotion_without_a_durable_used_is_caught() {
    must_be_caught(Mutant::PromoteWithoutUsed, &["S2:"]);
}

#[test]
fn a_receiver_that_outlives_the_seal_is_caught() {
    must_be_caught(Mutant::ReceiverSurvivesDetach, &["S7:", "L1:"]);
}

#[test]
fn a_start_without_the_signal_is_caught() {
    must_be_caught(Mutant::StartWithoutSignal, &["S10:"]);
}

#[test]
fn a_primary_that_opens_before_activation_is_caught() {
    must_be_caught(Mutant::OpenBeforeActivation, &["S10:"]);
}

#[test]
fn a_clone_from_anybody_is_caught() {
    must_be_caught(Mutant::CloneFromAnybody, &["S11:"]);
}

#[test]
fn a_cluster_that_never_takes_over_is_caught() {
    must_be_caught(Mutant::NobodyTakesOver, &["L1:"]);
}

#[test]
fn a_server_that_acknowledges_alone_is_caught() {
    must_be_caught_in(Mode::Sync, Mutant::AcknowledgesAlone, &["S5:"]);
}

#[test]
fn a_disk_that_lies_is_caught() {
    must_be_caught_in(Mode::Sync, Mutant::DiskLies, &["S5:", "S8:"]);
}

#[test]
fn a_receiver_that_outlives_the_seal_is_caught_in_sync_too() {
    must_be_caught_in(Mode::Sync, Mutant::ReceiverSurvivesDetach, &["S5:", "S7:"]);
}

/// The same faults, with commits that wait for standbys: S5, S6, S8, S9, S12 and L5.
#[test]
fn sync_schedules_keep_every_property() {
    if let Some(seed) = number("SYNC_SEED") {
        let outcome = run_in(Mode::Sync, seed, Mutant::None, true);
        for line in outcome.trace.iter().flatten() {
            println!("{line}");
        }
        assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
        return;
    }
    let count = number("SYNC_SEEDS").unwrap_or(SYNC_SCHEDULES);
    let first = number("SIM_FIRST").unwrap_or(1);
    let keeps_going = std::env::var("SIM_KEEP_GOING").is_ok();
    let began = Instant::now();
    let mut sums = Sums::default();
    for seed in first..first + count {
        let outcome = run_in(Mode::Sync, seed, Mutant::None, false);
        if !outcome.violations.is_empty() && keeps_going {
            println!("FAILED {seed} {}", outcome.violations[0]);
            continue;
        }
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: {}\nrepeat it: SYNC_SEED={seed} cargo test -p cluster-core --test sim \
             sync_schedules -- --nocapture",
            outcome.violations.join("\n")
        );
        sums.add(seed, &outcome);
    }
    sums.coverage.print();
    let missing = sums.coverage.missing_in_sync();
    assert!(
        count < SYNC_SCHEDULES || missing.is_empty(),
        "never seen in {} schedules: {missing:?}",
        sums.schedules
    );
    println!(
        "{} schedules in mode sync in {:.1} s, {} with a change of primary, {} changes",
        sums.schedules,
        began.elapsed().as_secs_f64(),
        sums.changed,
        sums.changes
    );
}
