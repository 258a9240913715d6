//! The durability protocol in small, exhaustively: 3 or 4 members, k up to 2, rule changes, epochs,
//! writes and lost disks, every order of steps within bounds. What Raft does is the core's own `apply`;
//! whether WAL is on a line and whether a flush counts, its own functions. No clock takes part.
//!
//! `cargo test -p cluster-core --test durability -- --nocapture` tells the bounds and counts of
//! states. `DURABILITY_DEEP=30` also runs the searches that take long, each for at most 30 minutes.
#![allow(clippy::disallowed_methods, reason = "the search times itself")]

mod search;
mod truths;
mod world;

use std::time::Duration;

use search::{Bounds, Found, Step, search};
use world::{Content, Wrong};

const SMALL: Bounds = Bounds {
    members: 3,
    first: (1, &[1, 2]),
    epochs: 2,
    writes: 1,
    changes: 1,
    clones: 0,
    ks: &[0, 1, 2],
    prefix: &[],
};

/// All seal; `a` is granted again, in place, and `b` is to confirm.
const RESTARTED: &[Step] = &[
    Step::Revoke,
    Step::Stop(0),
    Step::Promise(0),
    Step::Report(0),
    Step::Promise(1),
    Step::Report(1),
    Step::Promise(2),
    Step::Report(2),
    Step::Grant {
        member: 0,
        among: 0b111,
        first: Content::nobody(1).with(1, 0).with(2, 0),
    },
    Step::Promote {
        member: 0,
        epoch: 2,
    },
];

/// `a` writes what nobody else gets; `b` is elected from b and c, `c` confirms.
const DEAD_TAIL: &[Step] = &[
    Step::Write(0),
    Step::Write(0),
    Step::Revoke,
    Step::Promise(1),
    Step::Report(1),
    Step::Promise(2),
    Step::Report(2),
    Step::Grant {
        member: 1,
        among: 0b110,
        first: Content::nobody(1).with(2, 0),
    },
    Step::Promote {
        member: 1,
        epoch: 2,
    },
    Step::Attach { member: 2, to: 1 },
    Step::Deliver(2),
    Step::SetRule { member: 1, id: 2 },
    Step::InForce(1),
    Step::Activate(1),
];

fn told(name: &str, bounds: &Bounds, found: &Found) {
    println!(
        "{name}: {} states, {} steps, depth {}, {} truths, {:.1?}{}",
        found.states,
        found.edges,
        found.depth,
        found.truths,
        found.took,
        if found.is_complete { ", complete" } else { "" }
    );
    println!("  {bounds:?}");
    if let Some((what, steps)) = &found.counterexample {
        println!("  not so: {what}; {} steps:", steps.len());
        for step in steps {
            println!("    {step:?}");
        }
    }
}

/// Bounds in one line: members, epochs, writes, changes, clones.
const fn bounds(members: usize, epochs: u8, writes: u8, changes: u8, clones: u8) -> Bounds {
    Bounds {
        members,
        epochs,
        writes,
        changes,
        clones,
        ..SMALL
    }
}

/// Searched at every change.
const USUAL: &[Bounds] = &[
    bounds(3, 2, 1, 2, 0),
    bounds(3, 3, 1, 0, 0),
    bounds(3, 2, 2, 1, 0),
    bounds(3, 2, 1, 1, 1),
    ALL_THREE,
    Bounds {
        prefix: DEAD_TAIL,
        ..bounds(3, 3, 3, 0, 0)
    },
];

/// Four members, all three standbys in the rule at the start.
const ALL_THREE: Bounds = Bounds {
    first: (1, &[1, 2, 3]),
    ..bounds(4, 2, 1, 0, 0)
};

/// Searched when asked: `DURABILITY_DEEP=1`. Minutes to hours, up to some ten GiB.
const DEEP: &[Bounds] = &[
    bounds(3, 3, 2, 0, 0),
    bounds(3, 3, 1, 0, 1),
    bounds(3, 2, 2, 2, 0),
    Bounds {
        changes: 1,
        ..ALL_THREE
    },
    bounds(3, 3, 1, 1, 0),
    Bounds {
        first: (2, &[1, 2]),
        ..bounds(3, 2, 1, 2, 0)
    },
    Bounds {
        first: (0, &[]),
        ..bounds(3, 2, 1, 2, 0)
    },
    bounds(3, 2, 2, 1, 1),
];

fn deep() -> Option<Duration> {
    let minutes = std::env::var("DURABILITY_DEEP").ok()?;
    Some(Duration::from_secs(60 * minutes.parse().unwrap_or(60)))
}

#[test]
fn no_order_of_steps_loses_a_write_somebody_was_told_of() {
    let mut reached = std::collections::BTreeSet::new();
    let limit = Duration::from_secs(600);
    for bounds in USUAL {
        let found = search(*bounds, Wrong::Nothing, 2, limit);
        told("protocol", bounds, &found);
        assert!(found.counterexample.is_none());
        assert!(found.is_complete, "not finished within {limit:?}");
        reached.extend(found.reached);
    }
    println!("met: {reached:?}");
    assert_eq!(reached.len(), 8, "situations met: {reached:?}");
}

#[test]
fn no_longer_order_of_steps_does_either() {
    let Some(limit) = deep() else {
        println!("not asked for: set DURABILITY_DEEP to the minutes each search may take");
        return;
    };
    for bounds in DEEP {
        let found = search(*bounds, Wrong::Nothing, 2, limit);
        told("protocol", bounds, &found);
        assert!(found.counterexample.is_none());
    }
}

/// Each with the smallest bounds that show it.
fn mutants() -> Vec<(Wrong, Bounds)> {
    vec![
        (Wrong::OldRuleNotBlocked, bounds(3, 2, 1, 1, 0)),
        (Wrong::NewRuleNotBlocked, bounds(3, 2, 1, 1, 0)),
        (Wrong::ActivatedBeforeX, bounds(3, 2, 1, 1, 0)),
        (Wrong::SealedWithReceiver, bounds(3, 2, 1, 0, 0)),
        (
            Wrong::LsnWithoutTimeline,
            Bounds {
                prefix: DEAD_TAIL,
                ..bounds(3, 3, 3, 0, 0)
            },
        ),
        (Wrong::NoActivationBarrier, bounds(3, 3, 1, 0, 0)),
        (
            Wrong::NamesWithoutSlots,
            Bounds {
                first: (2, &[1, 2]),
                ..bounds(3, 2, 1, 0, 0)
            },
        ),
        (
            Wrong::NoJointRule,
            Bounds {
                first: (1, &[1]),
                ..bounds(3, 2, 1, 1, 0)
            },
        ),
        (
            Wrong::NameBeforeProvenance,
            Bounds {
                prefix: DEAD_TAIL,
                ..bounds(3, 3, 3, 1, 0)
            },
        ),
        (Wrong::GrantReused, bounds(3, 3, 1, 0, 0)),
        (Wrong::GrantWithoutIncarnation, bounds(3, 2, 1, 0, 1)),
        (
            Wrong::ReportReused,
            Bounds {
                prefix: RESTARTED,
                ..bounds(3, 3, 1, 0, 0)
            },
        ),
        (Wrong::OlderRuleApplied, bounds(3, 2, 1, 1, 0)),
        (Wrong::ProposalSupersedes, bounds(3, 2, 1, 2, 0)),
        (Wrong::LiveDroppedAtGrant, bounds(3, 3, 1, 0, 0)),
        (Wrong::XBeforeInForce, bounds(3, 2, 1, 1, 0)),
        (Wrong::SetAndWithdrawn, bounds(3, 2, 1, 1, 0)),
        (Wrong::RunningPrimarySeals, bounds(3, 2, 1, 0, 0)),
    ]
}

/// The search would see a protocol that is wrong: each of these loses a write.
#[test]
fn every_mutant_is_caught() {
    for (wrong, bounds) in mutants() {
        let found = search(bounds, wrong, 2, Duration::from_secs(120));
        told(&format!("{wrong:?}"), &bounds, &found);
        assert!(found.counterexample.is_some(), "{wrong:?} is not caught");
    }
}
