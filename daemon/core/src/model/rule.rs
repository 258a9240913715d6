//! Rules: who must confirm a commit, and which sealed sets block them.
//!
//! Source: DESIGN section 7, hazards 4.1–4.3, model-durability H1, H5, H7.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::ids::{Incarnation, MemberName, RuleId};
use super::ledger::{Ledger, Relation};
use super::lsn::Lsn;
use super::member::SealReport;
use super::state::ClusterState;
use super::timeline::TimelineId;

/// (epoch, k, set S): a commit is acknowledged when k incarnations of S have flushed it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its number; increases for ever.
    pub id: RuleId,
    /// The reign it belongs to.
    pub epoch: Epoch,
    /// How many of `set` must confirm.
    pub k: u32,
    /// Who may confirm.
    pub set: BTreeMap<MemberName, Incarnation>,
}

/// The sealed members, by name and incarnation.
pub type SealedSet = BTreeSet<(MemberName, Incarnation)>;

impl Rule {
    /// Whether the sealed standbys alone make a further acknowledgement under this rule impossible:
    /// `|S ∩ Q| ≥ |S| − k + 1`.
    pub fn is_blocked_by_standbys(&self, sealed: &SealedSet) -> bool {
        let in_both = self
            .set
            .iter()
            .filter(|(name, incarnation)| sealed.contains(&((*name).clone(), **incarnation)))
            .count();
        in_both as u64 + u64::from(self.k) > self.set.len() as u64
    }

    /// The rule PostgreSQL may mix from several while walsenders have not all taken the newest one:
    /// (min k, union of the sets) [X27].
    pub fn joint<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Option<Rule> {
        let mut rules = rules.into_iter();
        let mut joint = rules.next()?.clone();
        for rule in rules {
            joint.k = joint.k.min(rule.k);
            joint
                .set
                .extend(rule.set.iter().map(|(name, life)| (name.clone(), *life)));
            joint.id = joint.id.max(rule.id);
        }
        Some(joint)
    }
}

impl Rule {
    /// What it allows when everybody named is well: n − k standbys lost while writes go on, k − 1 lost
    /// together with the primary. Source: hazards 4.2.
    pub fn worth(&self) -> String {
        let spare = (self.set.len() as u64).saturating_sub(u64::from(self.k));
        match self.k {
            0 => "commits wait for nobody".to_owned(),
            k => format!(
                "{spare} of them may be lost and writes go on, {} together with the primary",
                k - 1
            ),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.set.keys().map(MemberName::as_str).collect();
        write!(f, "rule {}: {} of [{}]", self.id, self.k, names.join(", "))
    }
}

/// The members and lives that have sealed.
pub fn sealed_set(sealed: &[SealReport]) -> SealedSet {
    sealed
        .iter()
        .map(|seal| (seal.member.clone(), seal.incarnation))
        .collect()
}

/// Every rule under which an acknowledgement may exist: the live ones and, for an epoch that has
/// several, their joint rule [X27].
pub fn demanding(live: &[Rule]) -> Vec<Rule> {
    let mut rules = live.to_vec();
    let epochs: BTreeSet<Epoch> = live.iter().map(|rule| rule.epoch).collect();
    for epoch in epochs {
        let of_epoch: Vec<&Rule> = live.iter().filter(|rule| rule.epoch == epoch).collect();
        if of_epoch.len() > 1 {
            rules.extend(Rule::joint(of_epoch));
        }
    }
    rules
}

/// The rules the sealed members do not block; empty = a failover loses nothing.
///
/// A rule is blocked by enough of its standbys, by its own primary (same life of the data
/// directory, sealed like any other), or by whoever was granted a later epoch and promoted: its Grant
/// blocked the rule, so it has everything that was or ever will be acknowledged under it. Not the newest
/// one alone: a primary that waited for confirmations, died and died again in its next promotion has lost
/// nothing by that. Source: DESIGN section 7; model-durability H5.
pub fn unblocked(state: &ClusterState, sealed: &[SealReport]) -> Vec<Rule> {
    let set = sealed_set(sealed);
    let promoted = state.ledger.entries.iter().filter(|it| it.fork.is_some());
    let newest = promoted
        .filter(|it| set.contains(&(it.member.clone(), it.incarnation)))
        .map(|it| it.epoch)
        .max();
    demanding(&state.live_rules)
        .into_iter()
        .filter(|rule| {
            let own = state.ledger.of_epoch(rule.epoch);
            let is_own_sealed =
                own.is_some_and(|entry| set.contains(&(entry.member.clone(), entry.incarnation)));
            let is_overtaken = newest.is_some_and(|epoch| rule.epoch < epoch);
            !(is_own_sealed || is_overtaken || rule.is_blocked_by_standbys(&set))
        })
        .collect()
}

/// Whose seals would help: the standbys of the rules that are not blocked, and their primaries.
pub fn missing(state: &ClusterState, sealed: &[SealReport]) -> BTreeSet<MemberName> {
    let set = sealed_set(sealed);
    let mut missing = BTreeSet::new();
    for rule in unblocked(state, sealed) {
        let own = state
            .ledger
            .of_epoch(rule.epoch)
            .map(|entry| (entry.member.clone(), entry.incarnation));
        let needed = rule.set.into_iter().chain(own);
        missing.extend(needed.filter(|one| !set.contains(one)).map(|one| one.0));
    }
    missing
}

/// Whether WAL that ends at (`timeline`, `end`) is a prefix of what ends at (`parent`, `start`):
/// only then may a receiver begin under a sync name of the epoch that starts there
/// [model-durability H2].
pub fn is_on_line(
    ledger: &Ledger,
    (timeline, end): (TimelineId, Lsn),
    (parent, start): (TimelineId, Lsn),
) -> bool {
    ledger.relation(timeline, end, parent) == Relation::OnLine
        && (timeline != parent || end <= start)
}

/// Whether a flush position proves that everything up to `x` is there: at least X, and not beyond
/// what the primary itself has flushed, which only a diverged standby shows [model-durability H12].
pub fn counts_for(x: Lsn, flushed: Lsn, primary_flushed: Lsn) -> bool {
    flushed >= x && flushed <= primary_flushed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ledger::LedgerEntry;

    fn rule(k: u32, names: &[&str]) -> Rule {
        let set = names
            .iter()
            .map(|n| (n.parse().expect("name"), Incarnation(1)))
            .collect();
        Rule {
            id: RuleId(1),
            epoch: Epoch(1),
            k,
            set,
        }
    }

    fn sealed(names: &[&str]) -> SealedSet {
        names
            .iter()
            .map(|n| (n.parse().expect("name"), Incarnation(1)))
            .collect()
    }

    #[test]
    fn a_rule_is_blocked_when_fewer_than_k_are_left() {
        assert!(!rule(1, &["b", "c"]).is_blocked_by_standbys(&sealed(&["b"])));
        assert!(rule(1, &["b", "c"]).is_blocked_by_standbys(&sealed(&["b", "c"])));
        assert!(rule(2, &["b", "c"]).is_blocked_by_standbys(&sealed(&["c"])));
        assert!(
            !rule(0, &[]).is_blocked_by_standbys(&sealed(&["b", "c"])),
            "k = 0 never is"
        );
        assert!(
            rule(1, &[]).is_blocked_by_standbys(&sealed(&[])),
            "the fence always is"
        );
    }

    /// Found by the simulation in `strict`: b was copied anew from c, which waited for it; c died, was
    /// granted again, and died before it was promoted.
    #[test]
    fn whoever_was_promoted_later_blocks_older_rules_also_when_its_next_grant_failed() {
        let seal = |name: &str, life: u32| SealReport {
            member: name.parse().expect("name"),
            incarnation: Incarnation(life),
            target: Epoch(4),
            timeline: TimelineId(3),
            end: Lsn(200),
            is_running: true,
        };
        let entry = |epoch: u32, name: &str, fork: Option<Lsn>| LedgerEntry {
            epoch: Epoch(u64::from(epoch)),
            member: name.parse().expect("name"),
            incarnation: Incarnation(1),
            timeline: TimelineId(epoch + 1),
            parent: TimelineId(epoch),
            start: Lsn(100),
            fork,
        };
        let mut state = ClusterState {
            live_rules: vec![rule(1, &["b"])],
            ..ClusterState::default()
        };
        state.ledger.entries = vec![
            entry(1, "a", Some(Lsn(100))),
            entry(2, "c", Some(Lsn(100))),
            entry(3, "c", None),
        ];
        let blocked = |state: &ClusterState, life| {
            unblocked(state, &[seal("b", 2), seal("c", life)]).is_empty()
        };
        assert!(blocked(&state, 1));
        assert!(!blocked(&state, 2), "another life of c proves nothing");
        state.ledger.entries[1].fork = None;
        assert!(!blocked(&state, 1), "never promoted: it proves nothing");
    }

    #[test]
    fn the_joint_rule_asks_for_the_smallest_k_of_the_union() {
        let joint = Rule::joint([&rule(2, &["b", "c"]), &rule(1, &["d"])]).expect("two rules");
        assert_eq!(joint.k, 1);
        assert_eq!(joint.set.len(), 3);
    }
}
