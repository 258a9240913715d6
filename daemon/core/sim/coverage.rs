//! How often each rule, action and reason occurred: a simulation that never gets there proves
//! nothing.

use std::collections::BTreeMap;

use cluster_core::decide::{RULES, reason};

use crate::actions::NAMES;

/// Reasons no schedule can give, and why.
const UNREACHABLE: &[(&str, &str)] = &[
    ("waiting-for-member", "no rule gives it yet"),
    (
        "primary-without-grant",
        "only a promotion by hand gives it: a case, not a schedule",
    ),
    (
        "strayed",
        "only a promotion by hand gives it: a case, not a schedule",
    ),
    (
        "replay-everything",
        "no simulated standby is paused or delayed; rules and scenarios of real ones are",
    ),
    (
        "clone-in-place",
        "no simulated disk is full; the rules' tests have it",
    ),
    (
        "no-room",
        "no simulated disk is full; the rules' tests have it",
    ),
    (
        "schedule-due",
        "nobody schedules anything here; cases and the rules' tests have it",
    ),
    (
        "schedule-dropped",
        "nobody schedules anything here; cases and the rules' tests have it",
    ),
    (
        "maintenance-over",
        "nobody maintains anything here; the rules' tests and a scenario have it",
    ),
    (
        "snapshot-void",
        "nobody takes snapshots here; the rules' tests have it",
    ),
    (
        "backup-due",
        "no simulated cluster has a schedule; the rules' tests and a scenario have it",
    ),
    (
        "backup-waits",
        "no simulated cluster has a schedule; the rules' tests have it",
    ),
    (
        "backup-void",
        "no simulated cluster has a schedule; the rules' tests have it",
    ),
    (
        "commits-bypassed",
        "no simulated client gives a wait up; the rules' tests and a scenario have it",
    ),
    (
        "parameters-taken-back",
        "no simulated PostgreSQL refuses to start; the rules' tests and a scenario have it",
    ),
    (
        "too-little",
        "no simulated server has parameters; the rules' tests and a scenario have it",
    ),
    (
        "rolled-back",
        "no directory is put back to an older state here; a scenario does it to a real one",
    ),
];

/// What is decided in the mode `sync`.
const SYNC: &[&str] = &[
    "sync-standbys",
    "standby-joins-rule",
    "standby-leaves-rule",
    "standby-swapped",
    "confirmations-change",
    "degrade",
    "restore",
    "rule-proven",
    "waiting-for-confirmation",
    "replication-lost",
    "missing-members",
    "tells-missing",
    "fast-forward",
];

/// What happens when operators change who confirms commits.
const CHANGES: &[&str] = &[
    "mode",
    "mode async",
    "k",
    "k_min",
    "zones",
    "nosync",
    "sync_priority",
];

/// What is decided in the mode `strict`.
const STRICT: &[&str] = &["writes-wait"];

/// What clocks that jump lead to: two primaries that both let clients write, and a commit that is
/// acknowledged although there is a newer primary, which has it.
const JUMPS: &[&str] = &[
    "clock jumps back",
    "clock jumps ahead",
    "clock changes its rate",
    "two open primaries",
    "acknowledged beside a newer primary",
];

/// What no schedule decides: no simulated primary gives a proposal up, nobody takes snapshots or wants
/// anything done at a time, no simulated client gives a wait up, and no simulated server has parameters.
const UNDECIDED: &[&str] = &[
    "rule-withdrawn",
    "snapshots",
    "maintenance",
    "schedules",
    "scheduled-backups",
    "commits-bypassed",
    "restart-pending",
    "take-back-parameters",
];

/// What must have been seen.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Every rule, action and reason that any mode has.
    Anywhere,
    Sync,
    Strict,
    Jumps,
}

/// Counts by kind and name.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: BTreeMap<(&'static str, &'static str), u64>,
    /// The same, not summed up yet, by where the name lies: counting is the hottest thing here.
    fresh: Vec<(&'static str, &'static str, u64)>,
}

impl Coverage {
    pub fn count(&mut self, kind: &'static str, name: &'static str) {
        let same = |known: &(&'static str, &'static str, u64)| {
            std::ptr::eq(known.1, name) && std::ptr::eq(known.0, kind)
        };
        match self.fresh.iter().position(same) {
            Some(place) => {
                self.fresh[place].2 += 1;
                // The often counted ones move to the front.
                if place > 0 {
                    self.fresh.swap(place, place / 2);
                }
            }
            None => self.fresh.push((kind, name, 1)),
        }
    }

    /// What never occurred and should have.
    pub fn missing(&self, wanted: Wanted) -> Vec<String> {
        match wanted {
            Wanted::Anywhere => self.missing_anywhere(),
            Wanted::Sync => self.unseen(SYNC.iter().chain(CHANGES)),
            Wanted::Strict => self.unseen(STRICT.iter()),
            Wanted::Jumps => self.unseen(JUMPS.iter()),
        }
    }

    fn missing_anywhere(&self) -> Vec<String> {
        let reasons = reason::ALL.iter().map(|(code, _)| *code);
        let reasons = reasons.filter(|code| UNREACHABLE.iter().all(|(known, _)| known != code));
        let rules = RULES.iter().map(|rule| ("rule", rule.name));
        let actions = NAMES.iter().map(|name| ("action", *name));
        let elsewhere = [SYNC, STRICT, UNDECIDED].concat();
        rules
            .chain(actions)
            .chain(reasons.map(|code| ("reason", code)))
            .filter(|(_, name)| !elsewhere.contains(name))
            .filter(|(kind, name)| self.get(kind, name) == 0)
            .map(|(kind, name)| format!("{kind} {name}"))
            .collect()
    }

    fn unseen<'a>(&self, names: impl Iterator<Item = &'a &'a str>) -> Vec<String> {
        let is_seen = |name: &&&str| {
            self.counts
                .iter()
                .any(|((_, known), count)| *known == **name && *count > 0)
        };
        names
            .filter(|name| !is_seen(name))
            .map(|name| (*name).to_owned())
            .collect()
    }

    fn get(&self, kind: &str, name: &str) -> u64 {
        self.counts
            .iter()
            .find(|((k, n), _)| *k == kind && *n == name)
            .map_or(0, |(_, count)| *count)
    }

    pub fn add(&mut self, other: &Coverage) {
        for (kind, name, count) in &other.fresh {
            *self.counts.entry((kind, name)).or_default() += count;
        }
    }

    pub fn merge(&mut self, other: &Coverage) {
        for (key, count) in &other.counts {
            *self.counts.entry(*key).or_default() += count;
        }
    }

    pub fn print(&self) {
        let mut kind = "";
        for ((of, name), count) in &self.counts {
            if *of != kind {
                kind = of;
                println!("  {kind}:");
            }
            println!("    {count:>12}  {name}");
        }
    }
}
