//! One random schedule: a cluster, faults, the cure, and what must be true of all of it together.

use cluster_core::model::settings::Mode;

use crate::coverage::Coverage;
use crate::kinds::{Kind, setup_of};
use crate::mistakes::Mutant;
use crate::network::SECOND;
use crate::random::Random;
use crate::world::World;

/// Least simulated time of one schedule.
pub const LENGTH: u64 = 60 * SECOND;

/// How long faults happen.
const FAULTY: u64 = 46 * SECOND;

/// What one schedule gave.
pub struct Outcome {
    pub violations: Vec<String>,
    pub coverage: Coverage,
    pub trace: Option<Vec<String>>,
    pub faults: u32,
    pub jumps: u32,
    pub changes: usize,
    pub acknowledgements: u64,
    pub simulated: u64,
}

/// Runs one schedule.
pub fn run(kind: Kind, seed: u64, mutant: Mutant, is_verbose: bool) -> Outcome {
    let mut random = Random::new(seed ^ 0x5EED);
    let setup = setup_of(kind, seed, &mut random);
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
    if kind.mode != Mode::Async && world.violations.is_empty() && world.watch.told.is_empty() {
        world.violated("nobody was ever told anything");
    }
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
        jumps: world.watch.jumps,
        changes,
        acknowledgements: world.watch.acknowledgements,
        simulated: world.now,
    }
}
