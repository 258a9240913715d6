//! Rules: the primary is lost; who succeeds; when clients may come in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::change::Command;
use crate::change::command::Grant;
use crate::model::ledger::Position;
use crate::model::member::SealReport;
use crate::model::request::{RequestKind, Step};
use crate::model::rule;
use crate::model::settings::Mode;
use crate::model::state::FastForward;
use crate::model::view::ClusterView;
use crate::model::{
    Epoch, MemberName, MemberReport, Phase, PostgresStatus, Rule, RuleId, TimelineId,
};

use super::candidate::{Assessment, Candidate, assess, known_lag, was_lonely};
use super::cluster::{Verdict, propose};
use super::membership;
use super::reason::Reason;
use super::requests;
use super::sync_standbys::sync_standbys;

/// So many failovers within ten minutes slow the next one down. Source: hazards G6.
pub const FLAPPING: usize = 3;

/// A reported timeline further above the ledger's highest than this is no reason to skip: each
/// number skipped is a file that the candidate has to write.
const TIMELINES_SKIPPED: u32 = 100;

/// The holder has not renewed for `D − K_soft − S`, and was granted at least 4R ago.
pub fn primary_lost(view: &ClusterView) -> Verdict {
    let Some(reign) = view.state.granted() else {
        return Verdict::Pass;
    };
    let is_silent = view.base_age > view.times.suspect_after()
        && view.grant_age.is_none_or(|age| age >= view.times.renew * 4);
    if !is_silent {
        return Verdict::Pass;
    }
    if view.state.pause.is_some() {
        return Verdict::Wait(Reason::Paused);
    }
    // After several failovers in a row the primary gets its whole lease to come back. Beyond that it
    // has stopped itself, and a cluster without a primary is never held up [G6].
    if view.recent_grants.len() >= FLAPPING && view.base_age <= view.times.lease {
        return Verdict::Wait(Reason::Flapping(view.recent_grants.len()));
    }
    propose(
        Command::Revoke {
            epoch: reign.epoch,
            reason: "primary-silent".to_owned(),
        },
        Reason::PrimarySilent(view.base_age),
    )
}

/// The newest epoch has ended (or there was none): choose and grant.
pub fn succession(view: &ClusterView) -> Verdict {
    if view.state.system_identifier.is_none() || view.state.granted().is_some() {
        return Verdict::Pass;
    }
    let wanted = wanted_target(view);
    if view.state.pause.is_some() && wanted.is_none() && !was_ended_by_request(view) {
        return Verdict::Wait(Reason::Paused);
    }
    let mut found = assess(view);
    let forced = forced_target(view);
    if let Some(waiting) = must_wait_for_seals(view, &found, forced.as_ref().map(|it| it.to)) {
        return Verdict::Wait(waiting);
    }
    if let Some(asked) = &forced
        && let Some(forced) = force(view, &found, asked)
    {
        return grant_when_lease_allows(view, forced.0, &found, Some(forced.1));
    }
    prefer(&mut found, wanted.as_ref());
    if view.state.settings.mode != Mode::Async
        && let Some(verdict) = must_not_lose(view, &found)
    {
        return verdict;
    }
    match found.candidates.first() {
        Some(best) => {
            let chosen = best.clone();
            let loss = expected_loss(view, &found, &chosen);
            grant_when_lease_allows(view, chosen, &found, loss)
        }
        None if !found.unsealed.is_empty() => Verdict::Wait(Reason::Sealing(found.unsealed)),
        None => Verdict::Wait(Reason::NoCandidate(found.refused)),
    }
}

/// Outside `async`: a live rule that is not blocked, or a candidate that lacks something the best
/// sealed member has, and what is done about it.
fn must_not_lose(view: &ClusterView, found: &Assessment) -> Option<Verdict> {
    let missing = rule::missing(view.state, &known_seals(view, found));
    if !missing.is_empty() {
        let heard: Vec<MemberName> = found
            .unsealed
            .iter()
            .filter(|name| missing.contains(name))
            .cloned()
            .collect();
        return Some(Verdict::Wait(if heard.is_empty() {
            Reason::MissingMembers(missing.into_iter().collect())
        } else {
            Reason::Sealing(heard)
        }));
    }
    let (first, best) = (found.candidates.first()?, found.best?);
    (first.position < best).then(|| fast_forward(view, found, first, best))
}

/// The candidate fetches the rest from the best one, which may not be promoted itself.
fn fast_forward(
    view: &ClusterView,
    found: &Assessment,
    candidate: &Candidate,
    best: Position,
) -> Verdict {
    let source = found.sealed.iter().find(|seal| {
        seal.is_running && view.state.ledger.position(seal.timeline, seal.end) == Some(best)
    });
    let Some(source) = source else {
        return Verdict::Wait(Reason::NoCandidate(found.refused.clone()));
    };
    let wanted = FastForward {
        target: view.state.epoch().next(),
        member: candidate.seal.member.clone(),
        incarnation: candidate.seal.incarnation,
        from: source.member.clone(),
        timeline: source.timeline,
        until: source.end,
    };
    let reason = Reason::FastForward(wanted.member.clone(), wanted.from.clone());
    if view.state.fast_forward.as_ref() == Some(&wanted) {
        return Verdict::Wait(reason);
    }
    propose(Command::FastForward(Box::new(wanted)), reason)
}

/// Q: the seals on a timeline of the ledger. Any other server has left the cluster's history.
fn known_seals(view: &ClusterView, found: &Assessment) -> Vec<SealReport> {
    let ledger = &view.state.ledger;
    let is_known = |seal: &&SealReport| ledger.position(seal.timeline, seal.end).is_some();
    found.sealed.iter().filter(is_known).cloned().collect()
}

/// The target of an open request that moves the primary.
fn wanted_target(view: &ClusterView) -> Option<MemberName> {
    view.state
        .requests
        .values()
        .filter(|request| request.is_open())
        .find_map(|request| match &request.step {
            Step::Moving { to } => Some(to.clone()),
            Step::Accepted
            | Step::Prepare { .. }
            | Step::Drain { .. }
            | Step::Rolling { .. }
            | Step::Ended(_) => None,
        })
}

/// The primary was taken away because somebody asked: also a request taken back since then, and also
/// a paused cluster, gets one again.
fn was_ended_by_request(view: &ClusterView) -> bool {
    view.state
        .reign
        .as_ref()
        .and_then(|reign| reign.ended_because.as_deref())
        .is_some_and(|because| RequestKind::MOVING_VERBS.contains(&because))
}

/// A forced failover that is under way: loss was accepted for it.
struct Forced<'a> {
    to: &'a MemberName,
    /// Who asked, and why.
    by: &'a str,
}

fn forced_target<'a>(view: &ClusterView<'a>) -> Option<Forced<'a>> {
    view.state
        .requests
        .values()
        .filter(|request| request.is_open() && matches!(request.step, Step::Moving { .. }))
        .find_map(|request| match &request.kind {
            RequestKind::Failover { to } => Some(Forced {
                to,
                by: &request.by,
            }),
            RequestKind::Switchover { .. }
            | RequestKind::Restart { .. }
            | RequestKind::RestartPending
            | RequestKind::Reload { .. }
            | RequestKind::Reinit { .. } => None,
        })
}

/// How many times longer the target of a hand-over is waited for than anybody else.
///
/// Source: measured. On a machine with four times more work than it can do a seal took 1.2 to 1.5 s,
/// with a patience of 1 s, and two of three hand-overs went to a member nobody had named.
const PATIENCE_FOR_THE_WANTED: u32 = 3;

/// How long a member that has everything waits for those that are to confirm its commits.
///
/// Source: measured. A running standby seals 60 to 90 ms after the end of an epoch; a rule that is
/// changed twice instead costs 150 to 300 ms.
const PATIENCE_FOR_CONFIRMERS: Duration = Duration::from_millis(400);

/// Sealing costs nothing while the lease runs; after that it is bounded by patience.
fn must_wait_for_seals(
    view: &ClusterView,
    found: &Assessment,
    forced: Option<&MemberName>,
) -> Option<Reason> {
    if forced.is_some_and(|name| found.sealed.iter().any(|seal| seal.member == *name)) {
        return None;
    }
    let longest = view.state.settings.seal_patience() * PATIENCE_FOR_THE_WANTED;
    if view.ended_age < longest
        && let Some(fetching) = fetching(view, found)
    {
        return Some(fetching);
    }
    if found.unsealed.is_empty() {
        return None;
    }
    // The former primary's own end is the most anybody can have of its reign: who has it all, or is
    // it, need not wait for the others.
    let former_end = found.former_end.filter(|_| !was_lonely(view));
    let has_it_all = former_end.is_some_and(|end| {
        found
            .candidates
            .iter()
            .any(|candidate| candidate.position >= end)
            && wanted_target(view).is_none_or(|wanted| {
                found
                    .candidates
                    .iter()
                    .any(|candidate| candidate.seal.member == wanted)
            })
    });
    if has_it_all && (has_confirmers(view, found) || view.ended_age >= PATIENCE_FOR_CONFIRMERS) {
        return None;
    }
    let mut patience = view.state.settings.seal_patience();
    // An operator named it, it has everything, and it is heard: somebody else would be a hand-over
    // that failed.
    if wanted_target(view).is_some_and(|wanted| found.unsealed.contains(&wanted)) {
        patience *= PATIENCE_FOR_THE_WANTED;
    }
    let is_over = view.ended_age >= patience && (view.lease_waited_out || is_released(view));
    (!is_over).then(|| Reason::Sealing(found.unsealed.clone()))
}

/// The candidate has no seal while it fetches what another has more. It was chosen because that one is promoted only when
/// nobody else can be: before it has fetched, or is not heard any more, nobody else is looked for.
fn fetching(view: &ClusterView, found: &Assessment) -> Option<Reason> {
    let wanted = view.state.fast_forward.as_ref()?;
    let is_sealed = found.sealed.iter().any(|seal| seal.member == wanted.member);
    let is_at_it = wanted.target == view.state.epoch().next()
        && !is_sealed
        && view.fresh(&wanted.member)?.incarnation == Some(wanted.incarnation);
    is_at_it.then(|| Reason::FastForward(wanted.member.clone(), wanted.from.clone()))
}

/// The next primary's first rule names sealed members only, and one it does not name joins by two more
/// changes: as many as confirm a commit are worth a moment.
fn has_confirmers(view: &ClusterView, found: &Assessment) -> bool {
    let Some(chosen) = found.candidates.first() else {
        return true;
    };
    let wanted = view.state.settings.wanted_k() as usize;
    let is_standby = |name: &MemberName| {
        let report = view.fresh(name);
        *name != chosen.seal.member
            && view.state.sync_priority(name) > 0
            && report.is_some_and(|report| matches!(report.postgres, PostgresStatus::Standby(_)))
    };
    let sealed = found.sealed.iter().filter(|seal| is_standby(&seal.member));
    sealed.count() >= wanted || !found.unsealed.iter().any(is_standby)
}

fn is_released(view: &ClusterView) -> bool {
    view.state
        .reign
        .as_ref()
        .is_none_or(|reign| reign.phase == Phase::Released)
}

/// Puts the wanted member first, if it is as good as the best.
fn prefer(found: &mut Assessment, wanted: Option<&MemberName>) {
    let (Some(wanted), Some(best)) = (wanted, found.candidates.first()) else {
        return;
    };
    let best = best.position;
    if let Some(place) = found
        .candidates
        .iter()
        .position(|candidate| candidate.seal.member == *wanted && candidate.position == best)
    {
        found.candidates[..=place].rotate_right(1);
    }
}

/// A forced failover takes its target whatever is lost, as long as it sealed; who took the loss and what
/// is known of it is recorded.
fn force(
    view: &ClusterView,
    found: &Assessment,
    asked: &Forced<'_>,
) -> Option<(Candidate, String)> {
    let seal = found.sealed.iter().find(|seal| seal.member == *asked.to)?;
    let position = view.state.ledger.position(seal.timeline, seal.end)?;
    let best = found.best?;
    let missing = match view.state.settings.mode {
        Mode::Async => BTreeSet::new(),
        Mode::Sync | Mode::Strict => rule::missing(view.state, &known_seals(view, found)),
    };
    let from = format!("{} of epoch {}", seal.end, position.epoch);
    let mut loss = if !missing.is_empty() {
        let missing: Vec<&str> = missing.iter().map(MemberName::as_str).collect();
        format!(
            "whatever was acknowledged behind {from} and is only on {}",
            missing.join(", ")
        )
    } else if position < best {
        format!(
            "everything between {from} and {} of epoch {}",
            best.end, best.epoch
        )
    } else {
        "nothing more than the other sealed members have".to_owned()
    };
    let behind = known_lag(view, seal, best);
    if behind > 0 {
        loss = format!("{loss}; at least {behind} bytes more were reported");
    }
    let candidate = Candidate {
        seal: seal.clone(),
        position,
        priority: 1,
        was_primary: false,
        is_held: false,
    };
    Some((candidate, format!("forced by {}: {loss}", asked.by)))
}

/// In `async`: what is known to exist elsewhere and the chosen one lacks.
fn expected_loss(view: &ClusterView, found: &Assessment, chosen: &Candidate) -> Option<String> {
    if view.state.settings.mode != Mode::Async {
        return None;
    }
    let behind = known_lag(view, &chosen.seal, found.best?);
    (behind > 0).then(|| {
        format!("at least {behind} bytes that the last primary or another member had reported")
    })
}

/// DESIGN section 6, take over: released, or waited out, or the same member again.
fn grant_when_lease_allows(
    view: &ClusterView,
    chosen: Candidate,
    found: &Assessment,
    loss: Option<String>,
) -> Verdict {
    let is_same = chosen.was_primary;
    if !(is_released(view) || view.lease_waited_out || is_same) {
        return Verdict::Wait(Reason::LeaseRunning(view.wait_left));
    }
    let member = chosen.seal.member.clone();
    let reason = match &view.state.reign {
        None => Reason::FirstPrimary(member),
        Some(_) if is_same => Reason::RestartInPlace(member),
        Some(_) => Reason::Chosen(member),
    };
    propose(
        Command::Grant(Box::new(make_grant(view, chosen, found, loss))),
        reason,
    )
}

fn make_grant(
    view: &ClusterView,
    chosen: Candidate,
    found: &Assessment,
    loss: Option<String>,
) -> Grant {
    let state = view.state;
    let epoch = state.epoch().next();
    let reason = state
        .reign
        .as_ref()
        .and_then(|reign| reign.ended_because.clone())
        .unwrap_or_else(|| "first-primary".to_owned());
    Grant {
        epoch,
        member: chosen.seal.member.clone(),
        incarnation: chosen.seal.incarnation,
        timeline: next_timeline(view),
        parent: chosen.seal.timeline,
        start: chosen.seal.end,
        first_rule: first_rule(view, epoch, &chosen.seal, found),
        sealed: known_seals(view, found),
        live: state.live_rules.iter().map(|rule| rule.id).collect(),
        reason,
        loss,
    }
}

/// A number that nobody has used as far as is known, also not a server that somebody promoted by
/// hand: its timeline is in no ledger, and would be taken for the granted one [D2].
fn next_timeline(view: &ClusterView) -> TimelineId {
    let highest = view.state.ledger.highest();
    let system = view.state.system_identifier;
    view.reports
        .values()
        .map(|seen| &seen.report)
        .filter(|report| system.is_some() && report.system_identifier == system)
        .flat_map(timelines_of)
        .filter(|timeline| timeline.0 <= highest.0.saturating_add(TIMELINES_SKIPPED))
        .fold(highest, TimelineId::max)
        .next()
}

/// Every timeline a member shows.
fn timelines_of(report: &MemberReport) -> impl Iterator<Item = TimelineId> {
    let (one, other) = match &report.postgres {
        PostgresStatus::Stopped(stopped) => (
            Some(stopped.checkpoint_timeline),
            stopped.min_recovery_timeline,
        ),
        PostgresStatus::Standby(standby) => (Some(standby.timeline), None),
        PostgresStatus::Primary(primary) => (Some(primary.timeline), None),
        PostgresStatus::Unknown { .. }
        | PostgresStatus::Empty
        | PostgresStatus::Unusable { .. }
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => (None, None),
    };
    let sealed = report.seal.as_ref().map(|seal| seal.timeline);
    one.into_iter().chain(other).chain(sealed)
}

/// In `async` nobody confirms. Elsewhere k is kept with whoever of Q is on the candidate's line,
/// at worst with nobody: then writes wait until others join, or the protocol degrades.
fn first_rule(view: &ClusterView, epoch: Epoch, chosen: &SealReport, found: &Assessment) -> Rule {
    let state = view.state;
    let k = state.settings.wanted_k();
    let start = (chosen.timeline, chosen.end);
    let may_confirm = |seal: &&SealReport| {
        k > 0
            && seal.member != chosen.member
            && state.sync_priority(&seal.member) > 0
            && rule::is_on_line(&state.ledger, (seal.timeline, seal.end), start)
    };
    let sealed: Vec<&SealReport> = found.sealed.iter().filter(may_confirm).collect();
    // One that is stopped, or starts, would be waited for first and taken out of the rule next.
    let running = sealed.iter().filter(|seal| seal.is_running).count();
    let is_named = |seal: &&&SealReport| seal.is_running || running < k as usize;
    Rule {
        id: RuleId(state.last_rule.0 + 1),
        epoch,
        k,
        set: sealed
            .iter()
            .filter(is_named)
            .map(|seal| (seal.member.clone(), seal.incarnation))
            .collect(),
    }
}

/// What needs no open primary goes on: a member with an empty disk that is to be replaced may be the very
/// one whose confirmation is waited for, and the end of what a standby was asked for lets it go on.
fn meanwhile(view: &ClusterView, reason: Reason) -> Verdict {
    let others = [requests::members, membership::replace];
    let mut others = others.into_iter().map(|rule| rule(view));
    others
        .find(|verdict| !matches!(verdict, Verdict::Pass | Verdict::Wait(_)))
        .unwrap_or(Verdict::Wait(reason))
}

/// Promoted: the first rule is satisfied at the fork, clients may come in.
pub fn activation(view: &ClusterView) -> Verdict {
    let Some(reign) = view.state.granted() else {
        return Verdict::Pass;
    };
    if reign.is_activated {
        return Verdict::Pass;
    }
    let Some(fork) = reign.fork else {
        return Verdict::Wait(Reason::WaitingForPromotion(reign.holder.clone()));
    };
    let first = view
        .state
        .live_rules
        .iter()
        .find(|rule| rule.epoch == reign.epoch);
    match first {
        Some(rule) if rule.k == 0 => propose(
            Command::Activate {
                epoch: reign.epoch,
                rule: rule.id,
                at: fork,
                by: BTreeMap::new(),
            },
            Reason::RuleSatisfied,
        ),
        Some(rule) => match sync_standbys(view) {
            Verdict::Pass => meanwhile(view, Reason::WaitingForConfirmation(rule.to_string())),
            verdict => verdict,
        },
        None => Verdict::Wait(Reason::WaitingForPromotion(reign.holder.clone())),
    }
}
