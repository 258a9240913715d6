//! Rules: what operators asked for. Every request ends, done or failed.

use std::time::Duration;

use crate::change::Command;
use crate::model::request::{RequestKind, RequestOutcome, Step};
use crate::model::view::ClusterView;
use crate::model::{MemberName, PostgresStatus, Reign, Request};

use super::cluster::{Verdict, propose};
use super::reason::Reason;

/// How long one step of a hand-over may take before it is called off (after Revoke it is too late
/// for that). Judgement: a checkpoint of a busy server takes seconds.
pub const STEP_LIMIT: Duration = Duration::from_secs(30);

/// How far behind a target may be when a switchover begins. Unit: bytes. Same as the size of one
/// default WAL segment.
pub const SWITCHOVER_LAG: u64 = 16 * 1024 * 1024;

/// Switchover, failover, restart of the primary.
pub fn move_primary(view: &ClusterView) -> Verdict {
    for request in view.state.open_requests() {
        let verdict = match &request.kind {
            RequestKind::Switchover { to } => switchover(view, request, to.as_ref()),
            RequestKind::Failover { to } => failover(view, request, to),
            RequestKind::Restart { member } if is_or_was_holder(view, request, member) => {
                restart_primary(view, request, member)
            }
            RequestKind::Restart { .. }
            | RequestKind::RestartPending
            | RequestKind::Reload { .. }
            | RequestKind::Reinit { .. } => Verdict::Pass,
        };
        if verdict != Verdict::Pass {
            return verdict;
        }
    }
    Verdict::Pass
}

fn is_or_was_holder(view: &ClusterView, request: &Request, member: &MemberName) -> bool {
    matches!(request.step, Step::Moving { .. })
        || view
            .state
            .granted()
            .is_some_and(|reign| reign.holder == *member)
}

/// How long ago this leader first saw the request; steps restart with a new leader.
fn is_overdue(view: &ClusterView, request: &Request) -> bool {
    view.request_ages
        .get(&request.id)
        .is_some_and(|age| *age > STEP_LIMIT)
}

/// Its newest report is too old to be acted on, and not so old that it counts as silent: clients
/// wait meanwhile. A leader of a moment ago has not heard everybody yet; it does a few reports later.
fn is_late(view: &ClusterView, member: &MemberName) -> bool {
    let patience = view.fresh_within() * 4;
    match view.reports.get(member) {
        Some(seen) => seen.age > view.fresh_within() && seen.age <= patience,
        None => view.leading_for <= view.fresh_within(),
    }
}

pub(super) fn fail(request: &Request, why: String) -> Verdict {
    propose(
        Command::End {
            id: request.id.clone(),
            outcome: RequestOutcome::Failed { why: why.clone() },
        },
        Reason::RequestFailed(format!("{}: {why}", request.kind.verb())),
    )
}

pub(super) fn done(request: &Request, text: String) -> Verdict {
    propose(
        Command::End {
            id: request.id.clone(),
            outcome: RequestOutcome::Done { text: text.clone() },
        },
        Reason::RequestDone(text),
    )
}

fn step(request: &Request, step: Step, text: String) -> Verdict {
    propose(
        Command::Step {
            id: request.id.clone(),
            step,
        },
        Reason::Switchover(text),
    )
}

fn switchover(view: &ClusterView, request: &Request, to: Option<&MemberName>) -> Verdict {
    match &request.step {
        Step::Accepted => match switchover_target(view, to) {
            Ok(to) => {
                let text = format!("to {to}: drain");
                step(request, Step::Drain { to }, text)
            }
            // A leader of a moment ago has not heard everybody yet.
            Err(_) if view.leading_for < view.fresh_within() * 2 => Verdict::Pass,
            Err(why) => fail(request, why),
        },
        Step::Prepare { to } => step(
            request,
            Step::Drain { to: to.clone() },
            format!("to {to}: drain"),
        ),
        Step::Drain { to } => drained(view, request, to),
        Step::Moving { to } => moving(view, request, to),
        Step::Rolling { .. } | Step::Ended(_) => Verdict::Pass,
    }
}

/// The named or the best standby, when it can take over now; else why not.
pub fn switchover_target(
    view: &ClusterView,
    wanted: Option<&MemberName>,
) -> Result<MemberName, String> {
    let Some(reign) = view.state.granted().filter(|reign| reign.is_activated) else {
        return Err("there is no activated primary to switch over from".to_owned());
    };
    let mut ready = Vec::new();
    let mut refused = Vec::new();
    for (name, _) in view
        .state
        .databases()
        .filter(|(name, _)| **name != reign.holder)
    {
        if wanted.is_some_and(|wanted| wanted != name) {
            continue;
        }
        match may_take_over(view, reign, name) {
            Ok(rank) => ready.push((rank, name.clone())),
            Err(why) => refused.push(format!("{name} {why}")),
        }
    }
    ready.sort_by(|left, right| right.0.cmp(&left.0).then_with(|| left.1.cmp(&right.1)));
    match ready.into_iter().next() {
        Some((_, name)) => Ok(name),
        None if refused.is_empty() => Err("there is no other member with a PostgreSQL".to_owned()),
        None => Err(refused.join("; ")),
    }
}

/// (priority, received position), or why not.
fn may_take_over(
    view: &ClusterView,
    reign: &Reign,
    name: &MemberName,
) -> Result<(u32, u64), String> {
    let Some(report) = view.fresh(name) else {
        return Err("is not heard".to_owned());
    };
    if let Some(why) = view.state.never_promoted(name) {
        return Err(why.to_owned());
    }
    let priority = view.state.tags_of(name).priority();
    if let Some(why) = report.not_promotable.first() {
        return Err(why.clone());
    }
    let PostgresStatus::Standby(standby) = &report.postgres else {
        return Err(format!("is {}", report.postgres.word()));
    };
    // A planned move is not begun with a wait for all that it has not replayed.
    if standby.replay_paused {
        return Err("has paused its replay (pg_wal_replay_resume ends that)".to_owned());
    }
    let follows = standby
        .follows
        .as_ref()
        .is_some_and(|follows| follows.epoch == reign.epoch);
    let streams = standby
        .receiver
        .as_ref()
        .is_some_and(|receiver| receiver.is_streaming);
    if !(follows && streams) {
        return Err("is not streaming from the primary".to_owned());
    }
    let behind = view
        .fresh(&reign.holder)
        .and_then(|report| match &report.postgres {
            PostgresStatus::Primary(primary) => Some(primary.flushed),
            _ => None,
        })
        .map_or(0, |flushed| standby.replayed.bytes_behind(flushed));
    if behind > SWITCHOVER_LAG {
        return Err(format!("is {behind} bytes behind in replay"));
    }
    Ok((priority, standby.end_of_wal().0))
}

/// Waits until the primary reports that writers are fenced and the target has everything.
fn drained(view: &ClusterView, request: &Request, to: &MemberName) -> Verdict {
    let Some(reign) = view.state.granted() else {
        // Revoked after the drain, or the primary was lost meanwhile: succession prefers the target.
        return step(
            request,
            Step::Moving { to: to.clone() },
            format!("to {to}: no primary now"),
        );
    };
    if reign.holder == *to {
        return moving(view, request, to);
    }
    match may_take_over(view, reign, to) {
        Ok(_) => {}
        // One report that is late, on a busy host, is no reason to call it off.
        Err(_) if is_late(view, to) => return Verdict::Pass,
        Err(why) => return fail(request, format!("{to} {why}")),
    }
    let is_drained = view
        .fresh(&reign.holder)
        .and_then(|report| report.drained.as_ref())
        .is_some_and(|(id, _)| *id == request.id);
    if is_drained {
        // The step becomes Moving while the old primary is being killed: clients wait for this one.
        return propose(
            Command::Revoke {
                epoch: reign.epoch,
                reason: request.kind.verb().to_owned(),
            },
            Reason::Switchover(format!("to {to}: drained, revoke")),
        );
    }
    if is_overdue(view, request) {
        return fail(request, "the primary did not drain in time".to_owned());
    }
    // Not a Wait: a silent primary must still be judged by the next rules.
    Verdict::Pass
}

/// The step is Moving: revoke once, then see who got it.
fn moving(view: &ClusterView, request: &Request, to: &MemberName) -> Verdict {
    let Some(reign) = view.state.granted() else {
        return Verdict::Pass;
    };
    let granted_since = view
        .state
        .history
        .iter()
        .any(|entry| entry.what == "granted" && entry.index > request.index);
    if !granted_since {
        return propose(
            Command::Revoke {
                epoch: reign.epoch,
                reason: request.kind.verb().to_owned(),
            },
            Reason::Switchover(format!("to {to}: revoke")),
        );
    }
    if !reign.is_activated {
        return Verdict::Pass;
    }
    if reign.holder == *to {
        return match &request.kind {
            RequestKind::Restart { .. } => done(request, format!("restarted {to}")),
            RequestKind::Failover { .. } => {
                done(request, format!("Successfully failed over to \"{to}\""))
            }
            RequestKind::Switchover { .. }
            | RequestKind::RestartPending
            | RequestKind::Reload { .. }
            | RequestKind::Reinit { .. } => {
                done(request, format!("Successfully switched over to \"{to}\""))
            }
        };
    }
    fail(
        request,
        format!("switched over to \"{}\" instead of \"{to}\"", reign.holder),
    )
}

fn failover(view: &ClusterView, request: &Request, to: &MemberName) -> Verdict {
    match &request.step {
        Step::Accepted | Step::Prepare { .. } | Step::Drain { .. } => {
            if view.fresh(to).is_none() {
                return match is_late(view, to) {
                    true => Verdict::Pass,
                    false => fail(request, format!("{to} is not heard")),
                };
            }
            propose(
                Command::Step {
                    id: request.id.clone(),
                    step: Step::Moving { to: to.clone() },
                },
                Reason::FailoverRequested(to.clone()),
            )
        }
        Step::Moving { to } => {
            if view.state.granted().is_none() && is_overdue(view, request) {
                return fail(request, format!("{to} has not sealed in time"));
            }
            moving(view, request, to)
        }
        Step::Rolling { .. } | Step::Ended(_) => Verdict::Pass,
    }
}

/// A restart of the primary is a new epoch on the same member.
fn restart_primary(view: &ClusterView, request: &Request, member: &MemberName) -> Verdict {
    if let Some(verdict) = over_its_limit(view, request) {
        return verdict;
    }
    match &request.step {
        Step::Accepted | Step::Prepare { .. } | Step::Drain { .. } => propose(
            Command::Step {
                id: request.id.clone(),
                step: Step::Moving { to: member.clone() },
            },
            Reason::RestartRequested(member.clone()),
        ),
        Step::Moving { to } => moving(view, request, to),
        Step::Rolling { .. } | Step::Ended(_) => Verdict::Pass,
    }
}

/// Whoever asked said how long it may take. Without the request the ordinary rules go on: a primary that
/// does not come back is replaced.
fn over_its_limit(view: &ClusterView, request: &Request) -> Option<Verdict> {
    let limit = Duration::from_millis(request.limit_ms?);
    let age = view.request_ages.get(&request.id)?;
    let why = || format!("not done within {} s", limit.as_secs());
    (*age > limit).then(|| fail(request, why()))
}

/// Restart of a standby, reload, reinit: the member does it, the leader records the end.
pub fn members(view: &ClusterView) -> Verdict {
    for request in view.state.open_requests() {
        let member = match &request.kind {
            RequestKind::Restart { member }
            | RequestKind::Reload { member }
            | RequestKind::Reinit { member } => member,
            RequestKind::Switchover { .. }
            | RequestKind::Failover { .. }
            | RequestKind::RestartPending => continue,
        };
        let holds = view
            .state
            .granted()
            .is_some_and(|reign| reign.holder == *member);
        if holds && matches!(request.kind, RequestKind::Reinit { .. }) {
            return fail(request, format!("{member} has become the primary"));
        }
        if let Some(verdict) = over_its_limit(view, request) {
            return verdict;
        }
        let Some(report) = view.fresh(member) else {
            if is_overdue(view, request) {
                return fail(request, format!("{member} is not heard"));
            }
            continue;
        };
        if report.done_request.as_ref() == Some(&request.id) {
            return done(request, format!("{} of {member} done", request.kind.verb()));
        }
    }
    Verdict::Pass
}
