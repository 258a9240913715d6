//! Commands about rules: Propose, Activate, Withdraw, the durability settings, and what a Grant must
//! prove where no acknowledged write may be lost.
//!
//! Live grows by Grant and Propose; it shrinks in two places only, `Activate` (everything older)
//! and `Withdraw` (itself). Proposing never removes. Source: DESIGN section 7.

use std::collections::BTreeMap;

use crate::model::member::SealReport;
use crate::model::request::{RequestKind, Step};
use crate::model::rule::{is_on_line, missing};
use crate::model::settings::{Durability, Mode};
use crate::model::state::FastForward;
use crate::model::{ClusterState, Epoch, Incarnation, Lsn, MemberName, Rule, RuleId};

use super::apply::{Applied, At, changed, needs_granted, note, reign_mut};
use super::command::{Grant, Rejected};

/// So many proposals may be open at once: the leader needs two (a change, then a degrade while it
/// is under way); more are a fault that would grow without end.
const MOST_PROPOSALS: usize = 8;

/// What must hold of a Grant beyond epoch, phase, incarnation and live rules: outside `async`, and
/// unless an operator forced it and the Grant says what may be lost, Q blocks every live rule and nobody
/// in Q has more.
pub(super) fn check_grant(state: &ClusterState, grant: &Grant) -> Result<(), Rejected> {
    check_new_rule(state, &grant.first_rule, grant.epoch, &grant.member)?;
    if state.settings.mode == Mode::Async {
        return Ok(());
    }
    for seal in &grant.sealed {
        check_seal(state, grant, seal)?;
    }
    let own = grant.sealed.iter().find(|seal| seal.member == grant.member);
    if own.is_none_or(|own| own.timeline != grant.parent || own.end != grant.start) {
        return Err(Rejected::BadSeal {
            member: grant.member.clone(),
            why: "the start position is not the one it sealed at".to_owned(),
        });
    }
    check_first_rule(state, grant)?;
    if is_forced(state, &grant.member) && grant.loss.is_some() {
        return Ok(());
    }
    let missing = missing(state, &grant.sealed);
    if !missing.is_empty() {
        return Err(Rejected::NotBlocked {
            missing: missing.into_iter().collect(),
        });
    }
    check_best(state, grant)
}

fn check_seal(state: &ClusterState, grant: &Grant, seal: &SealReport) -> Result<(), Rejected> {
    let refuse = |why: &str| {
        Err(Rejected::BadSeal {
            member: seal.member.clone(),
            why: why.to_owned(),
        })
    };
    if seal.target != grant.epoch {
        return refuse("it was given for another epoch");
    }
    let member = state.members.get(&seal.member);
    if member.and_then(|member| member.incarnation) != Some(seal.incarnation) {
        return refuse("its data directory is another life now");
    }
    if state.ledger.position(seal.timeline, seal.end).is_none() {
        return refuse("its timeline is in no ledger");
    }
    Ok(())
}

/// The first rule names only members of Q whose WAL is on the candidate's line, and is never a
/// silent k = 0.
fn check_first_rule(state: &ClusterState, grant: &Grant) -> Result<(), Rejected> {
    let rule = &grant.first_rule;
    if rule.k == 0 {
        return Err(Rejected::BadRule(
            "a Grant does not degrade: its first rule asks for at least one".to_owned(),
        ));
    }
    for name in rule.set.keys() {
        let is_proven = grant.sealed.iter().any(|seal| {
            let end = (seal.timeline, seal.end);
            seal.member == *name && is_on_line(&state.ledger, end, (grant.parent, grant.start))
        });
        if !is_proven {
            return Err(Rejected::BadRule(format!(
                "{name} has not sealed on the line of {}",
                grant.member
            )));
        }
    }
    Ok(())
}

fn check_best(state: &ClusterState, grant: &Grant) -> Result<(), Rejected> {
    let own = state.ledger.position(grant.parent, grant.start);
    let ahead = grant
        .sealed
        .iter()
        .find(|seal| state.ledger.position(seal.timeline, seal.end) > own);
    match ahead {
        Some(best) => Err(Rejected::BehindBest {
            member: grant.member.clone(),
            best: best.member.clone(),
        }),
        None => Ok(()),
    }
}

/// An operator asked for this failover by name, and accepted the loss.
fn is_forced(state: &ClusterState, member: &MemberName) -> bool {
    state.requests.values().any(|request| {
        request.is_open()
            && matches!(request.step, Step::Moving { .. })
            && matches!(&request.kind, RequestKind::Failover { to } if to == member)
    })
}

fn check_new_rule(
    state: &ClusterState,
    rule: &Rule,
    epoch: Epoch,
    primary: &MemberName,
) -> Result<(), Rejected> {
    let due = RuleId(state.last_rule.0 + 1);
    if rule.id != due {
        return Err(Rejected::BadRule(format!(
            "rule {} was given, {due} is due",
            rule.id
        )));
    }
    if rule.epoch != epoch {
        return Err(Rejected::BadRule(format!(
            "the rule belongs to epoch {}",
            rule.epoch
        )));
    }
    for (name, incarnation) in &rule.set {
        let member = state
            .members
            .get(name)
            .ok_or_else(|| Rejected::UnknownMember(name.clone()))?;
        if member.incarnation != Some(*incarnation) {
            return Err(Rejected::WrongIncarnation {
                member: name.clone(),
            });
        }
    }
    if rule.set.contains_key(primary) {
        return Err(Rejected::BadRule(format!(
            "{primary} is the primary and confirms nothing"
        )));
    }
    if rule.k == 0 && !rule.set.is_empty() {
        return Err(Rejected::BadRule(
            "a rule of nobody names nobody".to_owned(),
        ));
    }
    let k_min = state.settings.k_min;
    if state.settings.mode == Mode::Strict && rule.k < k_min {
        return Err(Rejected::BelowMinimum { k: rule.k, k_min });
    }
    Ok(())
}

/// Live grows; nothing is removed.
pub(super) fn propose(state: &mut ClusterState, at: At, rule: &Rule) -> Result<Applied, Rejected> {
    let reign = reign_mut(state, rule.epoch)?;
    needs_granted(reign)?;
    let holder = reign.holder.clone();
    check_new_rule(state, rule, rule.epoch, &holder)?;
    if u64::from(rule.k) > rule.set.len() as u64 {
        return Err(Rejected::BadRule(format!(
            "{} of {} members could never confirm",
            rule.k,
            rule.set.len()
        )));
    }
    let open = proposals(state, rule.epoch).len();
    if open >= MOST_PROPOSALS {
        return Err(Rejected::TooManyProposals(open));
    }
    state.last_rule = rule.id;
    state.live_rules.push(rule.clone());
    note(state, at, "rule-proposed", Some(&holder), rule.to_string());
    Ok(Applied::Changed)
}

/// The live rules of the epoch that are proposals: all but its first (from the Grant, or activated).
fn proposals(state: &ClusterState, epoch: Epoch) -> Vec<RuleId> {
    let of_epoch = state.live_rules.iter().filter(|rule| rule.epoch == epoch);
    of_epoch.skip(1).map(|rule| rule.id).collect()
}

/// Live shrinks here: everything older than the activated rule is forgotten.
pub(super) fn activate(
    state: &mut ClusterState,
    at: At,
    epoch: Epoch,
    rule: RuleId,
    position: Lsn,
    by: &BTreeMap<MemberName, Incarnation>,
) -> Result<Applied, Rejected> {
    let reign = reign_mut(state, epoch)?;
    needs_granted(reign)?;
    let Some(fork) = reign.fork else {
        return Err(Rejected::WrongMoment(format!(
            "epoch {epoch} is not promoted yet"
        )));
    };
    if position < fork {
        return Err(Rejected::BadRule(format!(
            "{position} lies before the fork {fork}"
        )));
    }
    let was_open = reign.is_activated;
    let holder = reign.holder.clone();
    let is_it = |live: &&Rule| live.id == rule && live.epoch == epoch;
    let Some(live) = state.live_rules.iter().find(is_it).cloned() else {
        return Err(Rejected::BadRule(format!(
            "rule {rule} is not live in epoch {epoch}"
        )));
    };
    check_confirmed(&live, by)?;
    if let Some(reign) = &mut state.reign {
        reign.is_activated = true;
    }
    let before = state.live_rules.len();
    state.live_rules.retain(|live| live.id >= rule);
    let is_changed = !was_open || state.live_rules.len() != before;
    if !was_open {
        // Of a rule of nobody as logs that were stored long ago have it.
        let text = match live.k {
            0 => format!("rule {rule}"),
            _ => format!("{live}; {}", live.worth()),
        };
        note(state, at, "activated", Some(&holder), text);
    } else if is_changed {
        let text = format!("{live}; {}", live.worth());
        note(state, at, "rule-activated", Some(&holder), text);
    }
    Ok(changed(is_changed))
}

fn check_confirmed(rule: &Rule, by: &BTreeMap<MemberName, Incarnation>) -> Result<(), Rejected> {
    let have = rule
        .set
        .iter()
        .filter(|(name, life)| by.get(*name) == Some(*life))
        .count();
    if (have as u64) < u64::from(rule.k) {
        return Err(Rejected::NotConfirmed {
            rule: rule.id,
            needed: rule.k,
            have: u32::try_from(have).unwrap_or(u32::MAX),
        });
    }
    Ok(())
}

/// The primary has made the rule's id unusable for its PostgreSQL before it asked.
pub(super) fn withdraw(
    state: &mut ClusterState,
    at: At,
    epoch: Epoch,
    rule: RuleId,
) -> Result<Applied, Rejected> {
    let reign = reign_mut(state, epoch)?;
    needs_granted(reign)?;
    let holder = reign.holder.clone();
    let is_live = state.live_rules.iter().any(|live| live.id == rule);
    if !is_live && rule <= state.last_rule {
        return Ok(Applied::Unchanged);
    }
    if !proposals(state, epoch).contains(&rule) {
        return Err(Rejected::NotAProposal(rule));
    }
    state.live_rules.retain(|live| live.id != rule);
    note(
        state,
        at,
        "rule-withdrawn",
        Some(&holder),
        format!("rule {rule}"),
    );
    Ok(Applied::Changed)
}

/// Between two reigns only: under a primary a standby follows that.
pub(super) fn fast_forward(
    state: &mut ClusterState,
    at: At,
    wanted: &FastForward,
) -> Result<Applied, Rejected> {
    let due = state.epoch().next();
    if wanted.target != due {
        return Err(Rejected::WrongEpoch {
            given: wanted.target,
            due,
        });
    }
    if let Some(reign) = state.granted() {
        return Err(Rejected::WrongMoment(format!(
            "epoch {} is granted",
            reign.epoch
        )));
    }
    let member = state
        .members
        .get(&wanted.member)
        .ok_or_else(|| Rejected::UnknownMember(wanted.member.clone()))?;
    if member.incarnation != Some(wanted.incarnation) {
        return Err(Rejected::WrongIncarnation {
            member: wanted.member.clone(),
        });
    }
    if !state.members.contains_key(&wanted.from) || wanted.from == wanted.member {
        return Err(Rejected::UnknownMember(wanted.from.clone()));
    }
    if state.fast_forward.as_ref() == Some(wanted) {
        return Ok(Applied::Unchanged);
    }
    state.fast_forward = Some(wanted.clone());
    let text = format!("from {} to {}", wanted.from, wanted.until);
    note(state, at, "fast-forward", Some(&wanted.member), text);
    Ok(Applied::Changed)
}

/// Settings only: the rules follow, one change at a time, by the leader's decisions.
pub(super) fn set_durability(
    state: &mut ClusterState,
    at: At,
    wanted: &Durability,
) -> Result<Applied, Rejected> {
    let problems = wanted.problems_among(&state.kinds());
    if !problems.is_empty() {
        return Err(Rejected::BadSettings(problems));
    }
    if state.settings.durability() == *wanted {
        return Ok(Applied::Unchanged);
    }
    state.settings.set_durability(wanted.clone());
    let text = format!(
        "mode {}, k = {}, k_min = {}",
        wanted.mode.word(),
        wanted.k,
        wanted.k_min
    );
    note(state, at, "settings", None, text);
    Ok(Applied::Changed)
}
