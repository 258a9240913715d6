//! Rules: who must confirm a commit, and which sealed sets block them.
//!
//! Source: DESIGN section 7, hazards 4.1–4.3, model-durability H1, H5, H7.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::ids::{Incarnation, MemberName, RuleId};

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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_joint_rule_asks_for_the_smallest_k_of_the_union() {
        let joint = Rule::joint([&rule(2, &["b", "c"]), &rule(1, &["d"])]).expect("two rules");
        assert_eq!(joint.k, 1);
        assert_eq!(joint.set.len(), 3);
    }
}
