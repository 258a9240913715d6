//! What a member does before it may vote with its position: promise, stop receiving, prove the end
//! of WAL.

use crate::model::Epoch;
use crate::model::PostgresStatus;
use crate::model::member::SealReport;
use crate::model::postgres::Standby;
use crate::model::rule::is_on_line;
use crate::model::view::MemberView;

use super::member::{Action, MemberVerdict, act, idle};
use super::reason::Reason;

/// Brings this member to "sealed for `target`". PostgreSQL is not a primary here any more.
pub fn seal(view: &MemberView, target: Epoch) -> MemberVerdict {
    if view.durable.incarnation.is_none() {
        return idle(Reason::NothingToSeal("no data directory".to_owned()));
    }
    if view.durable.min_epoch < target {
        return act(Action::Promise { epoch: target }, Reason::Promise(target));
    }
    if view.durable.min_epoch > target {
        return idle(Reason::StaleTruth(target));
    }
    match view.postgres {
        PostgresStatus::Standby(standby) => {
            if standby.follows.is_some() || standby.receiver.is_some() {
                return act(
                    Action::Detach { epoch: target },
                    Reason::StopReceiving(target),
                );
            }
            match view.seal.filter(|seal| seal.target == target) {
                Some(seal) => lend(view, target, seal, standby)
                    .or_else(|| fast_forward(view, target, seal, standby))
                    .unwrap_or_else(|| idle(Reason::Sealed(target, seal.end))),
                None => held(view, target, standby).unwrap_or_else(|| idle(Reason::ReadingWal)),
            }
        }
        PostgresStatus::Stopped(_) if !view.set.is_empty => super::member::leftovers(),
        PostgresStatus::Stopped(stopped) => match view.seal.filter(|seal| seal.target == target) {
            // A standby's end is proven by its own recovery; a former primary's is read at once,
            // so that the leader knows it while recovery starts.
            None if stopped.was_in_recovery || view.cannot_read_wal => {
                act(Action::StartSealed, Reason::StartSealed)
            }
            None => act(
                Action::ReadEndOfWal { target },
                Reason::ReadEndOfWal(target),
            ),
            Some(_) => act(Action::StartSealed, Reason::StartSealed),
        },
        PostgresStatus::Starting { .. } => idle(Reason::Starting),
        PostgresStatus::Stopping => idle(Reason::Stopping),
        PostgresStatus::Unresponsive { for_ms, .. } => super::member::unresponsive(*for_ms),
        PostgresStatus::Unknown { why } => idle(Reason::CannotTell(why.clone())),
        PostgresStatus::Empty => idle(Reason::NothingToSeal("the directory is empty".to_owned())),
        PostgresStatus::Unusable { why, .. } => idle(Reason::NothingToSeal(why.clone())),
        PostgresStatus::Primary(_) => act(
            Action::Fence {
                why: "out of recovery".to_owned(),
            },
            Reason::PrimaryWithoutGrant,
        ),
    }
}

/// Replay that is held back proves nothing, and may be so for hours: where the WAL ends is read from
/// its files. Nobody is followed any more, so nothing is added meanwhile.
pub(super) fn held(view: &MemberView, target: Epoch, standby: &Standby) -> Option<MemberVerdict> {
    (standby.replay_is_held && !view.cannot_read_wal).then(|| {
        act(
            Action::ReadEndOfWal { target },
            Reason::ReadEndOfWal(target),
        )
    })
}

/// Another member is to fetch what this one has. After a new start a server hands on only what it has
/// replayed, so nothing may hold that back.
fn lend(
    view: &MemberView,
    target: Epoch,
    seal: &SealReport,
    standby: &Standby,
) -> Option<MemberVerdict> {
    let wanted = view.state.fast_forward.as_ref()?;
    let is_source = wanted.target == target && wanted.from == *view.me;
    let hands_on = standby.end_of_wal() >= seal.end;
    (is_source && standby.replay_is_held && !hands_on).then(|| replay_everything(target))
}

/// Lifts whatever holds replay back.
pub(super) fn replay_everything(epoch: Epoch) -> MemberVerdict {
    act(
        Action::ReplayEverything { epoch },
        Reason::ReplayEverything(epoch),
    )
}

/// The leader chose this member, and another sealed one has more: only what both have sealed for
/// may be fetched, and the seal is given anew afterwards [model-durability H11].
fn fast_forward(
    view: &MemberView,
    target: Epoch,
    seal: &SealReport,
    standby: &Standby,
) -> Option<MemberVerdict> {
    let wanted = view.state.fast_forward.as_ref().filter(|wanted| {
        wanted.target == target
            && wanted.member == *view.me
            && Some(wanted.incarnation) == view.durable.incarnation
    })?;
    let is_done = (seal.timeline, seal.end) == (wanted.timeline, wanted.until);
    let is_on_line = is_on_line(
        &view.state.ledger,
        (seal.timeline, seal.end),
        (wanted.timeline, wanted.until),
    );
    if is_done || !is_on_line {
        return None;
    }
    // It asks for more only when it has replayed what it has.
    if standby.replay_is_held {
        return Some(replay_everything(target));
    }
    Some(act(
        Action::FastForward {
            from: wanted.from.clone(),
            target,
            timeline: wanted.timeline,
            until: wanted.until,
        },
        Reason::FastForward(wanted.member.clone(), wanted.from.clone()),
    ))
}
