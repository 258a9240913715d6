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
    "fast-forward",
];

/// What no schedule decides: `strict` is not run, and no simulated primary gives a proposal up.
const UNDECIDED: &[&str] = &["rule-withdrawn", "writes-wait"];

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

    /// Rules, actions and reasons that never occurred and should have.
    pub fn missing(&self) -> Vec<String> {
        let reasons = reason::ALL.iter().map(|(code, _)| *code);
        let reasons = reasons.filter(|code| UNREACHABLE.iter().all(|(known, _)| known != code));
        let rules = RULES.iter().map(|rule| ("rule", rule.name));
        let actions = NAMES.iter().map(|name| ("action", *name));
        rules
            .chain(actions)
            .chain(reasons.map(|code| ("reason", code)))
            .filter(|(_, name)| !SYNC.contains(name) && !UNDECIDED.contains(name))
            .filter(|(kind, name)| self.get(kind, name) == 0)
            .map(|(kind, name)| format!("{kind} {name}"))
            .collect()
    }

    /// The same of what schedules in the mode `sync` are there for.
    pub fn missing_in_sync(&self) -> Vec<&'static str> {
        let is_missing = |name: &&'static str| {
            !self
                .counts
                .iter()
                .any(|((_, known), count)| known == name && *count > 0)
        };
        SYNC.iter().copied().filter(is_missing).collect()
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
