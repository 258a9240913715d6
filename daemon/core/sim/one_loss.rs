//! Source: hazards 7, L5, and the issue: after a single loss writes go on by themselves; nobody has to
//! be asked. One member of a healthy cluster is lost at any moment, for good.

use cluster_core::model::settings::Mode;

use crate::kinds::{Kind, setup_of};
use crate::mistakes::Mutant;
use crate::network::{MS, SECOND};
use crate::random::Random;
use crate::world::World;

/// A lease of `lan` and its wait, an election, a promotion, a change of the rule.
const BOUND: u64 = 30 * SECOND;

/// How many losses of each kind.
const LOSSES: u64 = 300;

/// Loses one member. In `strict` there is one standby more than have to confirm.
fn lose_one(kind: Kind, seed: u64) -> Vec<String> {
    let mut random = Random::new(seed ^ 0x1055);
    let mut setup = setup_of(kind, seed, &mut random);
    setup.brings = 0;
    setup.changes = false;
    if kind.mode == Mode::Strict {
        setup.databases = setup.databases.max(3);
        setup.has_witness = false;
        setup.k_min = setup.k_min.min(setup.databases as u32 - 2);
    }
    setup.tags.resize(setup.databases, Default::default());
    let mut world = World::new(seed, &setup, Mutant::None);
    if std::env::var("SIM_TELL").is_ok() {
        world.trace = Some(Vec::new());
    }
    world.must_become_well();
    let moment = random.between(MS, 3 * SECOND);
    world.run_until(world.now + moment);
    let primary = world.open_primary();
    let any = random.index(world.nodes.len());
    let victim = primary.filter(|_| random.chance(600)).unwrap_or(any);
    match random.below(3) {
        0 => world.crash_host(victim),
        1 => world.freeze_for(victim, true, 3600 * SECOND),
        _ => {
            let groups: Vec<u8> = (0..world.nodes.len())
                .map(|node| u8::from(node == victim))
                .collect();
            world.network.split(&groups);
        }
    }
    let lost = world.now;
    // What was open before the loss is no answer.
    world.run_until(lost + SECOND);
    while world.violations.is_empty() && !is_writable(&world, victim) {
        world.run_until(world.now + SECOND / 8);
        if world.now > lost + BOUND {
            let text = format!(
                "L5: {} was lost, and nobody writes: {}; {:?}",
                world.names[victim],
                world.unwell().join("; "),
                world.truth.newest().live_rules
            );
            world.violated(&text);
        }
    }
    world.run_until(world.now + 3 * SECOND);
    if world.violations.is_empty() && !is_writable(&world, victim) {
        world.violated("L5: writes stopped again after a single loss");
    }
    for line in world.trace.iter().flatten() {
        println!("{line}");
    }
    world.violations
}

/// Clients write somewhere else than on the lost member, and are answered.
fn is_writable(world: &World, lost: usize) -> bool {
    let mut open = (0..world.nodes.len()).filter(|node| {
        let host = &world.nodes[*node];
        let writable = host.postgres.writable();
        *node != lost && writable.is_some_and(|writable| writable.is_open)
    });
    open.any(|node| !world.commits_wait(node))
}

fn lose_many(kind: Kind) {
    let told = std::env::var("SIM_TELL")
        .ok()
        .and_then(|it| it.parse().ok());
    for seed in told.map_or(1..=LOSSES, |seed: u64| seed..=seed) {
        let violations = lose_one(kind, seed);
        assert!(
            violations.is_empty(),
            "{} {seed}: {}",
            kind.word(),
            violations.join("\n")
        );
    }
}

#[test]
fn a_single_loss_waits_for_no_operator_in_sync() {
    lose_many(Kind::SYNC);
}

#[test]
fn a_single_loss_waits_for_no_operator_in_strict() {
    lose_many(Kind::STRICT);
}
