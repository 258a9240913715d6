//! Random changes of settings, good and bad.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng as _, RngExt as _};

/// What a change must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken.
    Good,
    /// Refused, and nothing changed.
    Bad,
    /// Taken, and found out by the first start: then it is taken back.
    TooMuch,
}

/// One `settings set`.
#[derive(Clone, Debug)]
pub struct Change {
    /// What it must come to.
    pub fate: Fate,
    /// For one member only.
    pub member: Option<String>,
    /// `KEY=VALUE`.
    pub assignments: Vec<String>,
}

/// Parameters that take effect without a restart, by which the end is judged.
pub const JUDGED: [&str; 5] = [
    "work_mem",
    "random_page_cost",
    "log_min_duration_statement",
    "checkpoint_timeout",
    "max_standby_streaming_delay",
];

const BAD: [&str; 12] = [
    "parameters.no_such=1",
    "parameters.work_mem=lots",
    "parameters.max_connections=-1",
    "parameters.fsync=off",
    "parameters.shared_preload_libraries=x",
    "primary.parameters.primary_conninfo=host=x",
    "k=0",
    "k=99",
    "mode=quorum",
    "zones.nobody=x",
    "colour=red",
    "probe_limit=10ms",
];

/// The next one.
pub fn draw(dice: &mut StdRng, members: &[String]) -> Change {
    match dice.random_range(0..20) {
        0 => Change {
            fate: Fate::TooMuch,
            member: None,
            assignments: vec!["parameters.shared_buffers=7TB".to_owned()],
        },
        1..=6 => bad(dice, members),
        7..=10 => of_member(dice, members),
        _ => Change {
            fate: Fate::Good,
            member: None,
            assignments: several(dice, members),
        },
    }
}

fn bad(dice: &mut StdRng, members: &[String]) -> Change {
    let wrong = *BAD.choose(dice).unwrap_or(&BAD[0]);
    let mut assignments = vec![wrong.to_owned()];
    if dice.random_bool(0.5) {
        // What is good beside it must not be taken either.
        let good = several(dice, members);
        let is_other = |it: &String| it.split('=').next() != wrong.split('=').next();
        assignments.extend(good.into_iter().filter(is_other));
    }
    Change {
        fate: Fate::Bad,
        member: None,
        assignments,
    }
}

fn of_member(dice: &mut StdRng, members: &[String]) -> Change {
    let number = dice.random_range(1..64);
    let assignment = match dice.random_range(0..5) {
        0 => format!("parameters.work_mem={number}MB"),
        1 => "parameters.work_mem=".to_owned(),
        2 => format!("failover_priority={}", 1 + number % 3),
        // Not `noloadbalance`: a member that answers 503 on purpose would count as one that is not ready.
        3 => format!("clonefrom={}", number % 2 == 0),
        _ => "failover_priority=".to_owned(),
    };
    Change {
        fate: Fate::Good,
        member: members.choose(dice).cloned(),
        assignments: vec![assignment],
    }
}

fn several(dice: &mut StdRng, members: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for _ in 0..dice.random_range(1..=3) {
        let one = good(dice, members);
        let key = one.split('=').next().unwrap_or_default();
        if !found.iter().any(|it| it.split('=').next() == Some(key)) {
            found.push(one);
        }
    }
    found
}

fn good(dice: &mut StdRng, members: &[String]) -> String {
    let number = dice.random_range(1..60_u32);
    let member = members.choose(dice).cloned().unwrap_or_default();
    match dice.random_range(0..12) {
        0 => format!("parameters.work_mem={number}MB"),
        1 => "parameters.work_mem=".to_owned(),
        2 => format!("parameters.random_page_cost={}", 1 + number % 4),
        3 => format!("parameters.log_min_duration_statement={}ms", 1001 + number),
        4 => format!(
            "primary.parameters.checkpoint_timeout={}min",
            5 + number % 20
        ),
        5 => format!("standby.parameters.max_standby_streaming_delay={number}s"),
        6 => format!("parameters.max_connections={}", 110 + number),
        7 => format!("parameters.shared_buffers={}MB", 32 + number),
        8 => format!("k={}", 1 + dice.next_u32() % 2),
        9 => format!("seal_patience={}s", 1 + number % 3),
        10 => format!("zones.{member}=zone{}", number % 3),
        _ => format!("zones.{member}="),
    }
}
