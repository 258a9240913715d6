//! Who should confirm commits now: a pure question over settings, tags, zones and what was seen of
//! each standby. How the rule gets there is in `sync_standbys`.
//!
//! Hysteresis is data here: how long a standby has been late, how long it has been proven. Nothing
//! is dropped because the primary alone cannot hear it [hazards G2].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::settings::Mode;
use crate::model::{Incarnation, MemberName, Rule, Settings};

/// A standby that has not confirmed for this long is gray. With one look of the leader and five
/// steps it has left the rule within 2 s in `lan`. Source: issue "Durability", gray standbys.
pub const GRAY_AFTER: Duration = Duration::from_secs(1);

/// A volume without a write that ended for this long stands still: they are made every second and take
/// milliseconds. Less than the half of a lease after which the primary's own network is blamed (1.5 s in
/// `lan`). Judgement.
pub const STOOD_STILL: Duration = Duration::from_millis(1300);

/// A standby that was gray or gone has to stream for so long before it joins a rule that is full.
pub const PROVEN_FOR: Duration = Duration::from_secs(30);

/// Whether the leader can reach a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    /// Its report has come lately.
    Yes,
    /// It has not, for long.
    No,
    /// It has not, and this leader leads for too short to say.
    #[default]
    NotYet,
}

/// What is known of one standby.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyFacts {
    /// The life of its data directory, as Raft knows it.
    pub incarnation: Option<Incarnation>,
    /// Its tag; 0 = never.
    pub priority: u32,
    /// It is in maintenance, which is why the priority is 0.
    pub in_maintenance: bool,
    /// It lies in the primary's zone (never, without zones).
    pub is_in_zone_of_primary: bool,
    /// The leader has its fresh report.
    pub heard: Heard,
    /// Its own daemon says that its PostgreSQL cannot confirm, and why.
    pub cannot_confirm: Option<String>,
    /// It has a walsender under its name.
    pub is_connected: bool,
    /// Streams, proven, without a break.
    pub proven_for: Option<Duration>,
    /// Has not confirmed, as the primary sees it.
    pub late_for: Option<Duration>,
    /// How long the standby itself has tried to stream from this primary in vain, as it says; none = it
    /// does not say so.
    pub tries_for: Option<Duration>,
    /// It has been gray or gone in this reign, and not streamed for long enough since.
    pub has_failed: bool,
}

impl StandbyFacts {
    /// Why it is never in a rule, when its priority is 0.
    pub fn kept_out(&self) -> &'static str {
        match self.in_maintenance {
            true => "is in maintenance",
            false => "is tagged nosync",
        }
    }

    /// It is there, and in time.
    pub fn confirms(&self) -> bool {
        self.is_connected && self.late_for.is_none_or(|late| late < GRAY_AFTER)
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The rule is as it should be.
    Same,
    /// `strict`: too few confirm, and nothing may be given up.
    TooFew {
        /// Who confirm now.
        confirm: usize,
    },
    /// Nobody of the set confirms to the primary, and the leader hears them well: the primary's own
    /// network is at fault.
    PrimaryAlone {
        /// For how long.
        lasted: Duration,
    },
    /// Another rule.
    Other(Change),
}

/// What the next rule should be, and how it differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Confirmations.
    pub k: u32,
    /// Who may confirm.
    pub set: BTreeMap<MemberName, Incarnation>,
    /// Who is new.
    pub joining: Vec<MemberName>,
    /// Who goes, and why.
    pub leaving: Vec<(MemberName, String)>,
}

/// How the standbys of the present rule are judged.
#[derive(Default)]
struct Judged {
    confirm: BTreeSet<MemberName>,
    /// Late, and nothing says that it is their fault.
    kept: BTreeSet<MemberName>,
    leaving: BTreeMap<MemberName, String>,
    alone_for: Option<Duration>,
}

/// The rule that should follow `current`, the newest rule of the epoch.
pub fn wanted(
    settings: &Settings,
    current: &Rule,
    facts: &BTreeMap<MemberName, StandbyFacts>,
) -> Wanted {
    let k = settings.wanted_k();
    if k == 0 {
        let leaving = current.set.keys();
        let leaving = leaving.map(|name| (name.clone(), "mode async".to_owned()));
        return other(
            current,
            Change {
                leaving: leaving.collect(),
                ..Change::default()
            },
        );
    }
    let judged = judge(current, facts);
    let mut pool: BTreeSet<MemberName> = judged.confirm.union(&judged.kept).cloned().collect();
    let is_short = (pool.len() as u64) < u64::from(k);
    for (name, it) in facts {
        let is_member =
            current.set.get(name).copied() == it.incarnation && is_member(current, name);
        let is_proven = it
            .proven_for
            .is_some_and(|proven| is_short || !it.has_failed || proven >= PROVEN_FOR);
        if !is_member && it.priority > 0 && is_proven && it.late_for.is_none() && it.is_connected {
            pool.insert(name.clone());
        }
    }
    let chosen = choose(&pool, k, facts);
    // A choice by tag or zone gives nobody up as long as too few others confirm.
    let confirmed = chosen.iter().filter(|name| confirms(facts, name)).count() as u64;
    let chosen = if confirmed >= u64::from(k) {
        chosen
    } else {
        pool
    };
    let possible = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
    let next_k = k.min(possible);
    if settings.mode == Mode::Strict && next_k < settings.k_min {
        return Wanted::TooFew {
            confirm: judged.confirm.len(),
        };
    }
    let change = change(current, facts, &chosen, next_k, &judged.leaving);
    match (other(current, change), judged.alone_for) {
        (Wanted::Same, Some(lasted)) => Wanted::PrimaryAlone { lasted },
        (answer, _) => answer,
    }
}

fn is_member(current: &Rule, name: &MemberName) -> bool {
    current.set.contains_key(name)
}

fn confirms(facts: &BTreeMap<MemberName, StandbyFacts>, name: &MemberName) -> bool {
    facts.get(name).is_some_and(StandbyFacts::confirms)
}

fn judge(current: &Rule, facts: &BTreeMap<MemberName, StandbyFacts>) -> Judged {
    let mut judged = Judged::default();
    let mut late = Vec::new();
    let mut is_unclear = false;
    for (name, incarnation) in &current.set {
        let Some(it) = facts.get(name) else {
            judged
                .leaving
                .insert(name.clone(), "is no member".to_owned());
            continue;
        };
        if it.incarnation != Some(*incarnation) {
            let why = "its data directory is another one now".to_owned();
            judged.leaving.insert(name.clone(), why);
        } else if is_late(it) {
            late.push((name, it));
        } else if it.priority > 0 {
            judged.confirm.insert(name.clone());
        } else {
            late.push((name, it));
        }
    }
    // One that confirms proves that the primary's network works, and goes on being needed.
    let others_suffice = !judged.confirm.is_empty();
    for (name, it) in late {
        match why_drop(it, others_suffice) {
            Some(why) => {
                judged.leaving.insert(name.clone(), why);
            }
            None => {
                judged.kept.insert(name.clone());
                is_unclear |= it.heard != Heard::Yes;
                // While it was away, or was not pointed here yet, nothing was the primary's fault.
                let late_for = it.late_for.unwrap_or_default();
                let lasted = it.tries_for.map_or(late_for, |tries| tries.min(late_for));
                let least = judged.alone_for.map_or(lasted, |least| least.min(lasted));
                judged.alone_for = Some(least).filter(|_| it.late_for.is_some());
            }
        }
    }
    if !judged.confirm.is_empty() || is_unclear {
        judged.alone_for = None;
    }
    judged
}

/// The primary asks to drop it: late for long, or its server is known to be gone.
fn is_late(it: &StandbyFacts) -> bool {
    let is_down = it.cannot_confirm.is_some() && !it.is_connected;
    is_down && it.late_for.is_some() || it.late_for.is_some_and(|late| late >= GRAY_AFTER)
}

/// Another one confirms, or the leader cannot reach it either, or it says so itself. On the primary's
/// word alone nobody is left to be the last: a network that dies would degrade it in its last second,
/// and no failover were possible.
fn why_drop(it: &StandbyFacts, others_suffice: bool) -> Option<String> {
    if let Some(why) = &it.cannot_confirm {
        return Some(why.clone());
    }
    if it.heard == Heard::No {
        return Some("is not heard".to_owned());
    }
    if !others_suffice {
        return None;
    }
    Some(if it.priority == 0 {
        it.kept_out().to_owned()
    } else {
        "does not confirm in time".to_owned()
    })
}

/// Whole classes of the highest priorities until there are k; of the primary's zone fewer than k,
/// when another zone can confirm: then any k and the primary lie in two zones.
fn choose(
    pool: &BTreeSet<MemberName>,
    k: u32,
    facts: &BTreeMap<MemberName, StandbyFacts>,
) -> BTreeSet<MemberName> {
    let fact = |name: &MemberName| facts.get(name).cloned().unwrap_or_default();
    let has_other_zone = pool.iter().any(|name| !fact(name).is_in_zone_of_primary);
    let mut by_priority: Vec<(u32, &MemberName)> = pool
        .iter()
        .map(|name| (fact(name).priority, name))
        .collect();
    by_priority.sort_by(|left, right| right.0.cmp(&left.0).then_with(|| left.1.cmp(right.1)));
    let mut chosen = BTreeSet::new();
    let mut near = 0;
    let mut class = None;
    for (priority, name) in by_priority {
        if class != Some(priority) && chosen.len() as u64 >= u64::from(k) {
            break;
        }
        class = Some(priority);
        if fact(name).is_in_zone_of_primary && has_other_zone {
            if near + 1 >= k {
                continue;
            }
            near += 1;
        }
        chosen.insert(name.clone());
    }
    chosen
}

fn change(
    current: &Rule,
    facts: &BTreeMap<MemberName, StandbyFacts>,
    chosen: &BTreeSet<MemberName>,
    k: u32,
    leaving: &BTreeMap<MemberName, String>,
) -> Change {
    let set: BTreeMap<MemberName, Incarnation> = chosen
        .iter()
        .filter_map(|name| Some((name.clone(), facts.get(name)?.incarnation?)))
        .collect();
    let is_new = |name: &&MemberName| current.set.get(*name) != set.get(*name);
    let joining = set.keys().filter(is_new).cloned().collect();
    let gone = current
        .set
        .iter()
        .filter(|one| set.get(one.0) != Some(one.1));
    let leaving = gone.map(|(name, _)| {
        let why = leaving.get(name).cloned();
        let why = why.unwrap_or_else(|| "others go before by tag or zone".to_owned());
        (name.clone(), why)
    });
    Change {
        k,
        leaving: leaving.collect(),
        joining,
        set,
    }
}

fn other(current: &Rule, change: Change) -> Wanted {
    if change.k == current.k && change.set == current.set {
        Wanted::Same
    } else {
        Wanted::Other(change)
    }
}
