//! Who confirms commits, as seen on the primary: the names standbys stream under, what the primary's
//! daemon tells of its rule, and whose flush counts for X. Observations; nothing of it is stored.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::ids::{Incarnation, MemberName, RuleId};
use super::ledger::Ledger;
use super::lsn::Lsn;
use super::postgres::{PostgresStatus, Primary};
use super::rule::{Rule, counts_for};
use super::view::Seen;

/// `synchronous_standby_names` that nobody can satisfy: the rest state, and a rule without members.
pub const FENCE: &str = "ANY 1 (\"__fence__\")";

/// The name a standby streams under: `member~incarnation~epoch`. At most 61 bytes; PostgreSQL cuts
/// an `application_name` at 63.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncName {
    /// Who.
    pub member: MemberName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// The epoch it has proven to be on the line of.
    pub epoch: Epoch,
}

impl fmt::Display for SyncName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}~{}", self.member, self.incarnation, self.epoch)
    }
}

impl FromStr for SyncName {
    type Err = ();

    /// Only what `to_string` writes; anything else is a foreign name.
    fn from_str(text: &str) -> Result<SyncName, ()> {
        let mut parts = text.split('~');
        let (member, life, epoch) = (parts.next(), parts.next(), parts.next());
        let name = SyncName {
            member: member.ok_or(())?.parse().map_err(|_| ())?,
            incarnation: Incarnation(u32::from_str_radix(life.ok_or(())?, 16).map_err(|_| ())?),
            epoch: Epoch(epoch.ok_or(())?.parse().map_err(|_| ())?),
        };
        (name.to_string() == text).then_some(name).ok_or(())
    }
}

/// `synchronous_standby_names` of a rule: '' only for k = 0, the fence for a rule of nobody.
pub fn names_text(rule: &Rule) -> String {
    if rule.k == 0 {
        return String::new();
    }
    if rule.set.is_empty() {
        return FENCE.to_owned();
    }
    let names: Vec<String> = names(rule).map(|name| format!("\"{name}\"")).collect();
    format!("ANY {} ({})", rule.k, names.join(","))
}

/// The names under which a rule's standbys confirm.
pub fn names(rule: &Rule) -> impl Iterator<Item = SyncName> {
    rule.set.iter().map(|(member, incarnation)| SyncName {
        member: member.clone(),
        incarnation: *incarnation,
        epoch: rule.epoch,
    })
}

/// The rule proven in force on a running primary, and what was flushed when that was so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    /// Which.
    pub rule: RuleId,
    /// `pg_current_wal_flush_lsn()`, read after the proof.
    pub x: Lsn,
}

/// What the primary's daemon saw of one standby.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandbySeen {
    /// Who.
    pub member: MemberName,
    /// The life of its data directory, from its name.
    pub incarnation: Incarnation,
    /// It has a walsender under its name of this epoch.
    pub is_connected: bool,
    /// For how long it has streamed without a break since its replay passed a position generated
    /// after it attached; none = not proven. Unit: milliseconds.
    pub proven_for_ms: Option<u64>,
    /// For how long something flushed here, or its walsender, has been missing there; none = it
    /// confirms in time. The primary's request to drop it. Unit: milliseconds.
    pub late_for_ms: Option<u64>,
    /// It was late for long, or gone, on this server process, and has not streamed for long enough
    /// since to be trusted at once.
    #[serde(default)]
    pub has_failed: bool,
}

/// What a primary's daemon tells of its commits. X is of this epoch, rule and server start only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncReport {
    /// The epoch it serves.
    pub epoch: Epoch,
    /// When its postmaster started, Unix milliseconds.
    pub started_unix_ms: u64,
    /// The highest rule id this PostgreSQL process was ever given, or that was made unusable for it.
    pub given: RuleId,
    /// The newest rule proven in force.
    pub proven: Option<Proven>,
    /// A proposal this PostgreSQL process will never be given: `given` was raised past it first.
    pub unusable: Option<RuleId>,
    /// Every member seen as a standby, also of the rule and gone.
    pub standbys: Vec<StandbySeen>,
}

impl SyncReport {
    /// Somebody is connected and has not proven yet that it streams: a commit would let it.
    pub fn wants_a_commit(&self) -> bool {
        let waits = |it: &StandbySeen| it.is_connected && it.proven_for_ms.is_none();
        self.standbys.iter().any(waits)
    }
}

/// Who of the rule's set has flushed `x`: seen on its own connection to the primary, or told by
/// itself on the timeline of the epoch; never a position beyond the primary's own [X28].
pub fn confirmed_by(
    rule: &Rule,
    x: Lsn,
    primary: &Primary,
    ledger: &Ledger,
    reports: &BTreeMap<MemberName, Seen>,
) -> BTreeMap<MemberName, Incarnation> {
    let timeline = ledger.of_epoch(rule.epoch).map(|entry| entry.timeline);
    let is_confirmed = |member: &MemberName, incarnation: Incarnation| {
        let name = SyncName {
            member: member.clone(),
            incarnation,
            epoch: rule.epoch,
        }
        .to_string();
        let on_connection = primary.senders.iter().any(|sender| {
            sender.application_name == name
                && sender.holds_slot_of(member)
                && counts_for(x, sender.flushed, primary.flushed)
        });
        let told = reports
            .get(member)
            .map(|seen| &seen.report)
            .filter(|report| report.incarnation == Some(incarnation))
            .is_some_and(|report| match &report.postgres {
                PostgresStatus::Standby(standby) => {
                    standby.receiver.as_ref().is_some_and(|receiver| {
                        Some(receiver.timeline) == timeline
                            && counts_for(x, receiver.flushed, primary.flushed)
                    })
                }
                _ => false,
            });
        on_connection || told
    };
    rule.set
        .iter()
        .filter(|(member, incarnation)| is_confirmed(member, **incarnation))
        .map(|(member, incarnation)| (member.clone(), *incarnation))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(k: u32, names: &[&str]) -> Rule {
        Rule {
            id: RuleId(7),
            epoch: Epoch(12),
            k,
            set: names
                .iter()
                .map(|name| (name.parse().expect("name"), Incarnation(0xab)))
                .collect(),
        }
    }

    #[test]
    fn a_sync_name_is_read_back_as_it_was_written_and_nothing_else_is() {
        let longest = SyncName {
            member: "a23456789012345678901234567890b".parse().expect("name"),
            incarnation: Incarnation(u32::MAX),
            epoch: Epoch(u64::MAX),
        };
        assert!(longest.to_string().len() <= 63);
        assert_eq!(longest.to_string().parse(), Ok(longest));
        for foreign in [
            "",
            "walreceiver",
            "b~000000ab",
            "b~000000ab~1~",
            "b~000000AB~1",
            "b~ab~1",
            "b~000000ab~01",
        ] {
            assert_eq!(foreign.parse::<SyncName>(), Err(()), "{foreign}");
        }
    }

    #[test]
    fn names_are_empty_for_nobody_and_a_fence_for_a_rule_without_members() {
        assert_eq!(names_text(&rule(0, &[])), "");
        assert_eq!(names_text(&rule(1, &[])), FENCE);
        assert_eq!(
            names_text(&rule(2, &["b", "c"])),
            "ANY 2 (\"b~000000ab~12\",\"c~000000ab~12\")"
        );
    }
}
