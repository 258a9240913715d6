//! How much may be lost: now, without harm; and what an operator has to know when the cluster will
//! not fail over because an acknowledged write may be missing. Words and numbers; nothing decides by
//! them.
//!
//! Source: hazards 4.2. The two numbers of a rule (n − k, k − 1) hold when everybody is well; here
//! they are counted over who is, over every live rule, and never more than the votes allow.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::rule::{self, demanding};
use crate::model::settings::Mode;
use crate::model::view::ClusterView;
use crate::model::{MemberName, MemberReport, Rule};

use super::candidate::{Assessment, assess, known_lag};

/// What may be lost now, whoever it hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survivable {
    /// Standbys lost at once while writes go on without a change of the rule; none: writes wait
    /// already, or there is no primary.
    pub standbys: Option<u32>,
    /// Standbys lost together with the primary, and a successor is still proven to have every
    /// acknowledged write; none: not even the primary alone.
    pub with_primary: Option<u32>,
    /// The rule alone would allow more of the first; the votes do not.
    pub votes_limit_standbys: bool,
    /// The rule alone would allow more of the second; the votes do not.
    pub votes_limit_with_primary: bool,
}

/// Counts both. `confirm`: the standbys that confirm commits now.
pub fn survivable(view: &ClusterView, confirm: &BTreeSet<MemberName>) -> Survivable {
    let state = view.state;
    let Some(reign) = state.granted() else {
        return Survivable::default();
    };
    let heard = heard_standbys(view, &reign.holder);
    let spare = spare_votes(view);
    let of_reign = state.live_rules.iter();
    let of_reign: Vec<&Rule> = of_reign.filter(|rule| rule.epoch == reign.epoch).collect();
    // While rules change PostgreSQL may go by any of them.
    let by_rule = of_reign
        .iter()
        .map(|rule| match rule.k {
            0 => signed(heard.len()),
            k => {
                let named = rule.set.keys().filter(|name| confirm.contains(*name));
                signed(named.count()) - i64::from(k)
            }
        })
        .min()
        .unwrap_or(-1);
    let standbys = by_rule.min(spare);
    let together = match state.settings.mode {
        Mode::Async => -1,
        Mode::Sync | Mode::Strict => together(view, &heard),
    };
    // The primary's own vote is among those lost.
    let with_primary = together.min(spare - 1);
    Survivable {
        standbys: (by_rule >= 0).then(|| unsigned(standbys)),
        with_primary: u32::try_from(with_primary).ok(),
        votes_limit_standbys: by_rule >= 0 && standbys < by_rule,
        votes_limit_with_primary: together >= 0 && with_primary < together,
    }
}

/// How many of `heard` may be lost with the primary so that the rest blocks every live rule and one
/// of them can be promoted; below 0: none.
fn together(view: &ClusterView, heard: &[&MemberReport]) -> i64 {
    let promotable = heard
        .iter()
        .filter(|report| report.not_promotable.is_empty())
        .filter(|report| {
            view.state.members.contains_key(&report.member)
                && view.state.tags_of(&report.member).priority() > 0
        });
    let spare_candidates = signed(promotable.count()) - 1;
    let by_rules = demanding(&view.state.live_rules).into_iter().map(|rule| {
        let in_both = heard
            .iter()
            .filter(|report| rule.set.get(&report.member).copied() == report.incarnation)
            .count();
        // |S ∩ Q| ≥ |S| − k + 1
        signed(in_both) + i64::from(rule.k) - 1 - signed(rule.set.len())
    });
    by_rules.fold(spare_candidates, i64::min)
}

/// The reports of standbys with the data directory that Raft knows, heard lately: who could seal.
fn heard_standbys<'a>(view: &ClusterView<'a>, holder: &MemberName) -> Vec<&'a MemberReport> {
    let reports = view.reports;
    view.state
        .databases()
        .filter(|(name, member)| *name != holder && member.incarnation.is_some())
        .filter_map(|(name, member)| {
            view.fresh(name)?;
            let report = &reports.get(name)?.report;
            let is_able = report.incarnation == member.incarnation && report.busy.is_none();
            is_able.then_some(report)
        })
        .collect()
}

/// Voters that may go before the group cannot decide any more; below 0: it cannot already. Without
/// limit while the voters are not known.
fn spare_votes(view: &ClusterView) -> i64 {
    if view.voters.is_empty() {
        return i64::MAX;
    }
    let up = view
        .voters
        .iter()
        .filter_map(|node| view.state.member_of(*node))
        .filter(|(name, _)| view.fresh(name).is_some())
        .count();
    signed(up) - signed(view.voters.len() / 2 + 1)
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unsigned(count: i64) -> u32 {
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

impl Survivable {
    /// Both numbers in words: without the primary, and with it.
    pub fn sentences(&self, mode: Mode) -> [String; 2] {
        let votes = |limits: bool| {
            if limits {
                " (the votes allow no more)"
            } else {
                ""
            }
        };
        let first = match self.standbys {
            None => "writes wait, or there is no primary".to_owned(),
            Some(0) => "no standby may be lost, or writes wait".to_owned(),
            Some(1) => "1 standby may be lost and writes go on".to_owned(),
            Some(more) => format!("{more} standbys may be lost and writes go on"),
        };
        let second = match (self.with_primary, mode) {
            (None, Mode::Async) => {
                "a failover may lose acknowledged writes (mode async)".to_owned()
            }
            (None, Mode::Sync | Mode::Strict) => {
                "the primary may not be lost: nobody is proven to have every acknowledged write"
                    .to_owned()
            }
            (Some(0), _) => "the primary may be lost, no standby with it, without losing an \
                             acknowledged write"
                .to_owned(),
            (Some(1), _) => "the primary and 1 standby may be lost at once without losing an \
                             acknowledged write"
                .to_owned(),
            (Some(more), _) => format!(
                "the primary and {more} standbys may be lost at once without losing an \
                 acknowledged write"
            ),
        };
        [
            first + votes(self.votes_limit_standbys),
            second + votes(self.votes_limit_with_primary),
        ]
    }
}

/// Why nobody is promoted although somebody could be: an acknowledged write may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Whose word is missing, and when each was last heard; none: not since this leader leads.
    pub missing: Vec<(MemberName, Option<Duration>)>,
    /// What may be lost if somebody is promoted without them, as a sentence.
    pub at_risk: String,
    /// Who has the most of those that are there; none: nobody has sealed.
    pub to: Option<MemberName>,
}

impl Blocked {
    /// The command that overrides it, and records what may be lost.
    pub fn command(&self) -> Option<String> {
        let to = self.to.as_ref()?;
        Some(format!("clusterctl failover --to {to} --reason \"…\""))
    }
}

/// What an operator has to know while the cluster waits for members that may hold the only copy of an
/// acknowledged write; none: it does not wait for that.
pub fn blocked(view: &ClusterView) -> Option<Blocked> {
    let state = view.state;
    let is_between = state.granted().is_none() && state.reign.is_some();
    if !is_between || state.settings.mode == Mode::Async {
        return None;
    }
    let found = assess(view);
    let ledger = &state.ledger;
    let sealed: Vec<_> = found
        .sealed
        .iter()
        .filter(|seal| ledger.position(seal.timeline, seal.end).is_some())
        .cloned()
        .collect();
    let missing = rule::missing(state, &sealed);
    // One that is heard and has not sealed yet is not missing: it is waited for.
    if missing.is_empty() || found.unsealed.iter().any(|name| missing.contains(name)) {
        return None;
    }
    let (to, at_risk) = at_risk(view, &found, &missing);
    let heard = |name: &MemberName| view.reports.get(name).map(|seen| seen.age);
    Some(Blocked {
        missing: missing
            .iter()
            .map(|name| (name.clone(), heard(name)))
            .collect(),
        at_risk,
        to,
    })
}

fn at_risk(
    view: &ClusterView,
    found: &Assessment,
    missing: &BTreeSet<MemberName>,
) -> (Option<MemberName>, String) {
    let names: Vec<&str> = missing.iter().map(MemberName::as_str).collect();
    let names = names.join(", ");
    let ledger = &view.state.ledger;
    let candidate = found.candidates.first().map(|it| &it.seal);
    let best = || {
        let known = found.sealed.iter();
        known.max_by_key(|seal| ledger.position(seal.timeline, seal.end))
    };
    let Some((seal, position)) = candidate
        .or_else(best)
        .and_then(|seal| Some((seal, ledger.position(seal.timeline, seal.end)?)))
    else {
        let text = format!("every acknowledged write: only {names} may have them");
        return (None, text);
    };
    let mut text = format!(
        "writes acknowledged behind {} of epoch {}, which only {names} may have",
        seal.end, position.epoch
    );
    let behind = known_lag(view, seal, found.best.unwrap_or(position));
    if behind > 0 {
        text = format!("{text}; at least {behind} bytes more were reported before");
    }
    (Some(seal.member.clone()), text)
}
