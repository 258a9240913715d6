//! Come back as a standby: follow, rewind or clone, chosen from the ledger, never from what
//! pg_rewind says [D3].

use std::time::Duration;

use crate::model::ledger::Relation;
use crate::model::postgres::{Standby, Stopped};
use crate::model::settings::Mode;
use crate::model::view::{Marker, MemberView};
use crate::model::{Lsn, PostgresStatus, Reign, RequestKind, Rule, TimelineId};

use super::member::{Action, MemberVerdict, act, idle};
use super::reason::Reason;
use super::{room, seal};

/// How long a standby tries to stream before a gap in the primary's WAL is believed: what it replays
/// from its own files first takes time, and its report and the primary's are of different moments.
pub const GAP_PATIENCE: Duration = Duration::from_secs(10);

/// Follows the promoted holder of `reign`.
pub fn follow(view: &MemberView, reign: &Reign) -> MemberVerdict {
    if view.durable.min_epoch > reign.epoch {
        return idle(Reason::StaleTruth(reign.epoch));
    }
    if let Some(verdict) = on_request(view, reign) {
        return verdict;
    }
    match view.postgres {
        PostgresStatus::Standby(standby) => running(view, reign, standby),
        PostgresStatus::Stopped(_) if !view.set.is_empty => super::member::leftovers(),
        PostgresStatus::Stopped(stopped) => stopped_server(view, reign, stopped),
        PostgresStatus::Empty => clone(view, reign, "no data yet"),
        PostgresStatus::Unusable {
            why,
            clone_would_cure: true,
        } => clone(view, reign, why),
        PostgresStatus::Unusable {
            why,
            clone_would_cure: false,
        } => idle(Reason::Unusable(why.clone())),
        // It is consistent only with what its source had written by the end of the rewind. A later
        // primary may never have got that; then it would start for ever.
        PostgresStatus::Starting {
            rewound_for: Some(epoch),
            ..
        } if *epoch != reign.epoch => {
            let what = format!("rewind from the primary of epoch {epoch}");
            act(Action::StopDiverged, Reason::InterruptedWork(what))
        }
        PostgresStatus::Starting { .. } => idle(Reason::Starting),
        PostgresStatus::Stopping => idle(Reason::Stopping),
        PostgresStatus::Unresponsive { for_ms, .. } => super::member::unresponsive(*for_ms),
        PostgresStatus::Unknown { why } => idle(Reason::CannotTell(why.clone())),
        PostgresStatus::Primary(_) => act(
            Action::Fence {
                why: "out of recovery".to_owned(),
            },
            Reason::PrimaryWithoutGrant,
        ),
    }
}

/// A clone that was asked for, and nothing else that was.
pub(super) fn reinit(view: &MemberView, reign: &Reign) -> Option<MemberVerdict> {
    on_request(view, reign).filter(|verdict| matches!(verdict.action, Action::Clone { .. }))
}

/// The oldest open request for this standby, unless it is carried out: then the next one waits until its
/// end is recorded. A member tells of one, the last; two would be carried out in turn for ever while the
/// leader waits for something else, and a standby that is restarted again and again confirms nothing.
fn on_request(view: &MemberView, reign: &Reign) -> Option<MemberVerdict> {
    let request = view.state.open_requests().into_iter().find(|request| {
        let member = match &request.kind {
            RequestKind::Restart { member }
            | RequestKind::Reload { member }
            | RequestKind::Reinit { member } => Some(member),
            RequestKind::Switchover { .. }
            | RequestKind::Failover { .. }
            | RequestKind::RestartPending => None,
        };
        member == Some(view.me)
    })?;
    if view.done_request == Some(&request.id) {
        return None;
    }
    let id = request.id.clone();
    let text = format!("{} by {}", request.kind.verb(), request.by);
    match &request.kind {
        // Without a server there is nothing to restart: the ordinary rules bring one up first, and
        // deal with whatever an earlier life of this daemon has left.
        RequestKind::Restart { .. } if has_server(view) => Some(act(
            Action::RestartStandby { request: Some(id) },
            Reason::OnRequest(text),
        )),
        RequestKind::Reload { .. } => {
            Some(act(Action::Reload { request: id }, Reason::OnRequest(text)))
        }
        RequestKind::Reinit { .. } if reign.is_activated => {
            Some(room::clone(view, reign, Some(id), text))
        }
        RequestKind::Restart { .. }
        | RequestKind::Reinit { .. }
        | RequestKind::Switchover { .. }
        | RequestKind::Failover { .. }
        | RequestKind::RestartPending => None,
    }
}

fn has_server(view: &MemberView) -> bool {
    matches!(
        view.postgres,
        PostgresStatus::Standby(_) | PostgresStatus::Unresponsive { .. }
    )
}

/// Whether data here may be replaced by what this primary has: once it is activated. In `strict` also
/// before, when nobody is named who could confirm its start: it waits for this very copy then, it has
/// every acknowledged write (its Grant blocked every live rule), and until it is activated nobody is
/// promoted who might lack one.
fn may_copy(view: &MemberView, reign: &Reign) -> bool {
    let of_epoch = |rule: &&Rule| rule.epoch == reign.epoch;
    let newest = view.state.live_rules.iter().rev().find(of_epoch);
    let waits_for_anybody = newest.is_some_and(|rule| (rule.set.len() as u64) < u64::from(rule.k));
    reign.is_activated || view.state.settings.mode == Mode::Strict && waits_for_anybody
}

fn clone(view: &MemberView, reign: &Reign, why: &str) -> MemberVerdict {
    if !may_copy(view, reign) {
        return idle(Reason::WaitingForActivation(reign.epoch));
    }
    room::clone(view, reign, None, why.to_owned())
}

fn relation(view: &MemberView, timeline: TimelineId, end: Lsn, reign: &Reign) -> Relation {
    view.state.ledger.relation(timeline, end, reign.timeline)
}

/// A running standby: provenance is checked at every start and every epoch change
/// [model-durability H2].
fn running(view: &MemberView, reign: &Reign, standby: &Standby) -> MemberVerdict {
    let follows_it = standby
        .follows
        .as_ref()
        .is_some_and(|follows| follows.member == reign.holder && follows.epoch == reign.epoch);
    if follows_it && standby.has_too_little {
        // Its own configuration has more by now, or its control file says how much it must be [X23].
        return act(Action::RestartStandby { request: None }, Reason::TooLittle);
    }
    if follows_it {
        // Checked before it was attached; what it replays since then comes from the primary.
        return match relation(view, standby.timeline, standby.replayed, reign) {
            Relation::Diverged { fork } if standby.receiver.is_none() => {
                act(Action::StopDiverged, Reason::Diverged(fork))
            }
            Relation::OnLine | Relation::Diverged { .. } | Relation::Unknown => {
                following(view, reign, standby)
            }
        };
    }
    if standby.follows.is_some() || standby.receiver.is_some() {
        return act(
            Action::Detach { epoch: reign.epoch },
            Reason::StopReceiving(reign.epoch),
        );
    }
    let Some((timeline, end)) = proven_place(view, reign, standby) else {
        return prove_place(view, reign, standby);
    };
    match relation(view, timeline, end, reign) {
        Relation::OnLine => act(
            Action::Attach {
                to: reign.holder.clone(),
                epoch: reign.epoch,
            },
            Reason::Follow(reign.holder.clone(), reign.epoch),
        ),
        Relation::Diverged { fork } => act(Action::StopDiverged, Reason::Diverged(fork)),
        Relation::Unknown => clone(view, reign, "its timeline is not the cluster's"),
    }
}

/// Attached, and on the primary's line. Left so for ever when the primary has dropped WAL that this
/// standby never got: only a new copy helps.
fn following(view: &MemberView, reign: &Reign, standby: &Standby) -> MemberVerdict {
    let follows = || idle(Reason::Following(reign.holder.clone(), reign.epoch));
    let is_streaming = standby.receiver.as_ref().is_some_and(|it| it.is_streaming);
    let tries_for = standby.unattached_for_ms.map(Duration::from_millis);
    let tried_enough = tries_for.is_some_and(|tries_for| tries_for >= GAP_PATIENCE);
    if is_streaming || !standby.is_out_of_wal || !tried_enough {
        return follows();
    }
    let end = standby.received.unwrap_or(Lsn::ZERO).max(standby.replayed);
    let Some(oldest) = oldest_wal(view, reign).filter(|oldest| end < *oldest) else {
        return follows();
    };
    // What is here may be the only other copy of a write that was acknowledged.
    let mut rules = view.state.live_rules.iter();
    if !reign.is_activated || rules.any(|rule| rule.set.contains_key(view.me)) {
        return follows();
    }
    let why = format!("its WAL ends at {end}, and the primary keeps WAL from {oldest} on only");
    clone(view, reign, &why)
}

/// Since where the holder of `reign` keeps WAL, as it told lately.
fn oldest_wal(view: &MemberView, reign: &Reign) -> Option<Lsn> {
    match &view.reports.get(&reign.holder)?.report.postgres {
        PostgresStatus::Primary(primary) if primary.timeline == reign.timeline => {
            primary.oldest_wal
        }
        _ => None,
    }
}

/// Where the WAL of a standby that follows nobody ends: where its replay has come to an end, else, while
/// replay is held back, what was read from its files.
fn proven_place(view: &MemberView, reign: &Reign, standby: &Standby) -> Option<(TimelineId, Lsn)> {
    if standby.at_end_of_wal {
        return Some((standby.timeline, standby.proven_end()));
    }
    let read = view.seal.filter(|seal| seal.target == reign.epoch)?;
    standby.replay_is_held.then_some((read.timeline, read.end))
}

/// What has to be done to know it.
fn prove_place(view: &MemberView, reign: &Reign, standby: &Standby) -> MemberVerdict {
    let epoch = reign.epoch;
    if standby.replay_is_held && view.durable.min_epoch < epoch {
        return act(Action::Promise { epoch }, Reason::Promise(epoch));
    }
    seal::held(view, epoch, standby).unwrap_or_else(|| idle(Reason::ReadingWal))
}

/// A stopped server is started sealed first: only recovery can say where its WAL ends. One that was
/// stopped because it had diverged is rewound.
fn stopped_server(view: &MemberView, reign: &Reign, stopped: &Stopped) -> MemberVerdict {
    let was_diverged = stopped.clean && stopped.was_in_recovery && view.needs_rewind;
    if !was_diverged {
        return act(Action::StartSealed, Reason::StartSealed);
    }
    if view.rewind_impossible {
        return clone(view, reign, "a rewind is not possible");
    }
    if !may_copy(view, reign) {
        return idle(Reason::WaitingForActivation(reign.epoch));
    }
    let timeline = stopped
        .min_recovery_timeline
        .unwrap_or(stopped.checkpoint_timeline);
    match relation(view, timeline, stopped.min_recovery_end, reign) {
        // The control file lags: the records that left the line lie only in WAL files. pg_rewind
        // would see no need and leave them, and the next start would replay them again.
        Relation::OnLine => clone(view, reign, "pg_rewind would not see that it has diverged"),
        Relation::Diverged { fork } => act(
            Action::Rewind {
                from: reign.holder.clone(),
                epoch: reign.epoch,
            },
            Reason::Rewind(reign.holder.clone(), fork),
        ),
        Relation::Unknown => clone(view, reign, "its timeline is not the cluster's"),
    }
}

/// An interrupted step: the directory is never started with its marker [D4].
pub fn interrupted(view: &MemberView, marker: Marker) -> MemberVerdict {
    let (what, reason) = match marker {
        Marker::Initdb => interrupted_work("initdb"),
        Marker::Clone => interrupted_work("clone"),
        Marker::Rewind => interrupted_work("rewind"),
        Marker::Strayed => {
            let what = "it was out of recovery without a grant";
            (what.to_owned(), Reason::Strayed(what.to_owned()))
        }
    };
    if !view.set.is_empty {
        return act(Action::Fence { why: what }, reason);
    }
    if marker == Marker::Initdb && view.state.system_identifier.is_none() {
        return if view.state.initializer.as_ref() == Some(view.me) {
            act(Action::Initdb, Reason::MakeFirstData)
        } else {
            idle(Reason::NoPrimaryYet)
        };
    }
    match view
        .state
        .followable()
        .filter(|reign| reign.holder != *view.me)
    {
        Some(reign) if view.durable.min_epoch <= reign.epoch => clone(view, reign, &what),
        Some(_) | None => idle(reason),
    }
}

fn interrupted_work(what: &str) -> (String, Reason) {
    let text = format!("work was interrupted: {what}");
    (text, Reason::InterruptedWork(what.to_owned()))
}
