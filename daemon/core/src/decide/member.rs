//! (assignment × PostgreSQL) → one action. Every member asks this several times a second, and at
//! every event.

use std::time::Duration;

use crate::change::Command;
use crate::model::postgres::{Primary, Standby};
use crate::model::request::Step;
use crate::model::view::MemberView;
use crate::model::{
    Epoch, Lsn, MemberName, Phase, PostgresStatus, Reign, RequestId, RequestKind, TimelineId,
};

use super::fencing::{cannot_write, held};
use super::reason::Reason;
use super::{quarantine, rejoin, seal};

/// How long a postmaster may give no answer before it counts as wedged. Judgement: longer than a
/// checkpoint's stall on a busy disk, shorter than people wait.
pub const UNRESPONSIVE_LIMIT: Duration = Duration::from_secs(10);

/// One step towards what the truth asks for. Executed by `reconcile::act`; every one names the
/// epoch it was decided in where that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing now.
    Idle,
    /// Make the first data directory.
    Initdb,
    /// Take the data found here as the cluster's: give it an incarnation.
    Adopt,
    /// Make `min_epoch` durable.
    Promise {
        /// Its new value.
        epoch: Epoch,
    },
    /// Clear conninfo and restore_command; wait until no receiver process exists.
    Detach {
        /// The epoch it is done for.
        epoch: Epoch,
    },
    /// Receive from another sealed member, under no sync name, until this position is replayed; then
    /// detach and prove the end of WAL anew.
    FastForward {
        /// The sealed member that has more.
        from: MemberName,
        /// The epoch both have sealed for.
        target: Epoch,
        /// The last timeline there.
        timeline: TimelineId,
        /// Where it ends.
        until: Lsn,
    },
    /// Read the end of WAL from the files of a server that is stopped, or receives nothing and does not
    /// replay what it has; keep it as the seal.
    ReadEndOfWal {
        /// The epoch it is sealed for.
        target: Epoch,
    },
    /// End a pause and an apply delay: what lies here is needed. The delay is back when the member
    /// follows again.
    ReplayEverything {
        /// The epoch it is done for.
        epoch: Epoch,
    },
    /// Start in recovery, without an upstream.
    StartSealed,
    /// Generate conninfo for this upstream and reload.
    Attach {
        /// The primary.
        to: MemberName,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Stop a diverged standby cleanly, to be rewound.
    StopDiverged,
    /// pg_rewind; a new incarnation.
    Rewind {
        /// The primary.
        from: MemberName,
        /// Its epoch.
        epoch: Epoch,
    },
    /// pg_basebackup beside the old directory, verify, swap; a new incarnation.
    Clone {
        /// The primary.
        from: MemberName,
        /// Its epoch.
        epoch: Epoch,
        /// The request that asked for it.
        request: Option<RequestId>,
        /// The old copy is removed first: two do not fit, and so many bytes are needed.
        in_place: Option<u64>,
    },
    /// Make `used` durable, arm the guard, promote, check the timeline, put the signal back.
    Promote {
        /// The granted epoch.
        epoch: Epoch,
        /// The timeline it must get.
        timeline: TimelineId,
        /// The end of WAL it must start from.
        start: Lsn,
    },
    /// Roles and slots after the promotion, before `Promoted`.
    Prepare {
        /// The epoch.
        epoch: Epoch,
    },
    /// Send this to the leader until it is applied.
    Tell(Box<Command>),
    /// Put `standby.signal` back under the running primary.
    RestoreSignal,
    /// Let clients in.
    Open {
        /// The activated epoch.
        epoch: Epoch,
    },
    /// Checkpoint, fence writers, end client sessions, wait until the target has everything.
    Drain {
        /// The request.
        request: RequestId,
        /// The target.
        to: MemberName,
    },
    /// Let clients in again after a hand-over was called off.
    Undrain,
    /// Make `used` durable for this epoch.
    MarkUsed {
        /// The epoch.
        epoch: Epoch,
    },
    /// Kill every process of this PostgreSQL, verified. If an epoch is held, `used` is made durable
    /// first.
    Fence {
        /// Why, for the log.
        why: String,
    },
    /// Keep durably that this data is not the cluster's, then kill every process.
    Quarantine {
        /// Why, for the log.
        why: String,
    },
    /// Kill processes of this data directory that the guard did not start.
    KillForeign,
    /// Stop and start a standby.
    RestartStandby {
        /// The request; none: its replay is paused for a parameter that only a new start can raise.
        request: Option<RequestId>,
    },
    /// Write the configuration again and reload.
    Reload {
        /// The request.
        request: RequestId,
    },
}

/// What to do and why.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberVerdict {
    /// The step.
    pub action: Action,
    /// Its reason.
    pub reason: Reason,
}

pub(super) fn act(action: Action, reason: Reason) -> MemberVerdict {
    MemberVerdict { action, reason }
}

pub(super) fn idle(reason: Reason) -> MemberVerdict {
    act(Action::Idle, reason)
}

/// What this member does next.
pub fn decide_member(view: &MemberView) -> MemberVerdict {
    if view.is_witness {
        return idle(Reason::Witness);
    }
    if !view.truth_is_current || view.durable.used > view.state.epoch() {
        return not_current(view);
    }
    if let Some(verdict) = must_stop(view) {
        return verdict;
    }
    if let Some(epoch) = armed_for_the_past(view) {
        let why = "its processes belong to an epoch that is over".to_owned();
        return act(Action::Fence { why }, Reason::Revoked(epoch));
    }
    if let Some(busy) = view.busy {
        return idle(Reason::Busy(busy.with.clone()));
    }
    if view.state.identity.is_none() {
        return idle(Reason::NotFormed);
    }
    if view.set.has_foreign {
        return act(Action::KillForeign, Reason::ForeignProcess);
    }
    if let Some(marker) = view.durable.marker {
        return match quarantine::unreleased(view) {
            Some(reign) => give_back(view, reign.epoch, "its data directory cannot be used"),
            None => rejoin::interrupted(view, marker),
        };
    }
    if view.state.system_identifier.is_none() {
        return first_data(view);
    }
    if let Some(why) = quarantine::foreign_database(view) {
        return not_ours(view, why);
    }
    if let Some(why) = quarantine::strayed(view) {
        let (why, reason) = (why.to_owned(), Reason::Strayed(why.to_owned()));
        return act(Action::Quarantine { why }, reason);
    }
    if let Some((end, had)) = quarantine::rolled_back(view) {
        return act(Action::Adopt, Reason::RolledBack(end, had));
    }
    let Some(reign) = &view.state.reign else {
        return seal::seal(view, Epoch::NONE.next());
    };
    let is_holder = reign.holder == *view.me;
    match reign.phase {
        Phase::Granted if is_holder => hold(view, reign),
        Phase::Granted if reign.fork.is_some() => rejoin::follow(view, reign),
        // Granted to another and not promoted yet: stay sealed for that epoch.
        Phase::Granted => seal::seal(view, reign.epoch),
        Phase::Revoked if is_holder => let_go(view, reign),
        Phase::Revoked | Phase::Released => seal::seal(view, reign.epoch.next()),
    }
}

/// Processes are armed for the epoch they are to be promoted in, and for no other. A promotion that was
/// asked for may still end, however long PostgreSQL has not answered: nothing is promised before those
/// processes are gone. Found by the simulation with clocks that jump: the guard had not ended them yet.
fn armed_for_the_past(view: &MemberView) -> Option<Epoch> {
    let armed = view.set.armed?;
    let is_own = |reign: &&Reign| reign.holder == *view.me && reign.epoch == armed;
    // One's own that is revoked is let go, step by step.
    match view.state.reign.as_ref().filter(is_own) {
        Some(_) => None,
        None => Some(armed),
    }
}

/// Just restarted: the applied truth may be old. Only the lease and the storage count.
fn not_current(view: &MemberView) -> MemberVerdict {
    let PostgresStatus::Primary(_) = view.postgres else {
        return idle(Reason::NotCurrent);
    };
    let epoch = view.durable.used;
    if !view.holder.may_serve(epoch, view.now, &view.times) {
        let why = "the lease has run out".to_owned();
        return act(Action::Fence { why }, Reason::LeaseLost(epoch));
    }
    idle(Reason::NotCurrent)
}

/// Out of recovery without the right to be: kill before anything else, busy or not.
fn must_stop(view: &MemberView) -> Option<MemberVerdict> {
    let PostgresStatus::Primary(primary) = view.postgres else {
        return None;
    };
    if let Some(why) = quarantine::strayed(view) {
        let why = why.to_owned();
        return Some(act(Action::Quarantine { why }, Reason::PrimaryWithoutGrant));
    }
    let fence = |why: &str, reason| {
        Some(act(
            Action::Fence {
                why: why.to_owned(),
            },
            reason,
        ))
    };
    let Some(reign) = held(view) else {
        return match &view.state.reign {
            Some(reign) if reign.holder == *view.me => {
                fence("the epoch was revoked", Reason::Revoked(reign.epoch))
            }
            Some(_) | None => fence(
                "out of recovery without a grant",
                Reason::PrimaryWithoutGrant,
            ),
        };
    };
    if view.durable.used != reign.epoch || primary.timeline != reign.timeline {
        return fence(
            "out of recovery without this grant",
            Reason::PrimaryWithoutGrant,
        );
    }
    if !view.holder.may_serve(reign.epoch, view.now, &view.times) {
        return fence("the lease has run out", Reason::LeaseLost(reign.epoch));
    }
    cannot_write(view).and_then(|it| fence(&it.why(), Reason::CannotWrite(it.details())))
}

/// Another database lies here: nothing is done to it but on request.
fn not_ours(view: &MemberView, why: String) -> MemberVerdict {
    if let Some(reign) = quarantine::unreleased(view) {
        return give_back(view, reign.epoch, &why);
    }
    if !view.set.is_empty {
        return act(Action::Fence { why: why.clone() }, Reason::Unusable(why));
    }
    let followed = view.state.followable();
    let reign = followed.filter(|reign| view.durable.min_epoch <= reign.epoch);
    reign
        .and_then(|reign| rejoin::reinit(view, reign))
        .unwrap_or_else(|| idle(Reason::Unusable(why)))
}

fn first_data(view: &MemberView) -> MemberVerdict {
    if view.state.initializer.as_ref() != Some(view.me) {
        return idle(Reason::NoPrimaryYet);
    }
    match view.postgres {
        PostgresStatus::Empty => act(Action::Initdb, Reason::MakeFirstData),
        PostgresStatus::Stopped(_) if view.durable.incarnation.is_none() => {
            act(Action::Adopt, Reason::AdoptData)
        }
        PostgresStatus::Unusable { why, .. } => idle(Reason::Unusable(why.clone())),
        PostgresStatus::Unknown { .. }
        | PostgresStatus::Stopped(_)
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Standby(_)
        | PostgresStatus::Primary(_)
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => idle(Reason::NoPrimaryYet),
    }
}

/// The Grant cannot be used (any more): used up durably, processes gone, then Release.
fn give_back(view: &MemberView, epoch: Epoch, why: &str) -> MemberVerdict {
    let reason = Reason::GiveBack(epoch, why.to_owned());
    if view.durable.used < epoch {
        return act(Action::MarkUsed { epoch }, reason);
    }
    if !view.set.is_empty {
        return act(
            Action::Fence {
                why: why.to_owned(),
            },
            reason,
        );
    }
    if view.releasing == Some(epoch) {
        return seal_meanwhile(view, epoch);
    }
    let release = Command::Release {
        epoch,
        member: view.me.clone(),
        why: why.to_owned(),
    };
    act(Action::Tell(Box::new(release)), Reason::Released(epoch))
}

/// While the Release is on its way: the steps of sealing that start nothing.
fn seal_meanwhile(view: &MemberView, epoch: Epoch) -> MemberVerdict {
    let verdict = seal::seal(view, epoch.next());
    match verdict.action {
        Action::Promise { .. } | Action::ReadEndOfWal { .. } => verdict,
        _ => idle(Reason::Released(epoch)),
    }
}

/// Revoked: kill at once and release; then nobody waits.
fn let_go(view: &MemberView, reign: &Reign) -> MemberVerdict {
    give_back(
        view,
        reign.epoch,
        reign.ended_because.as_deref().unwrap_or("revoked"),
    )
}

/// This member holds the newest epoch.
fn hold(view: &MemberView, reign: &Reign) -> MemberVerdict {
    let epoch = reign.epoch;
    if Some(reign.incarnation) != view.durable.incarnation {
        return give_back(
            view,
            epoch,
            "the data directory is another one than was granted",
        );
    }
    if view.durable.min_epoch > epoch {
        return give_back(view, epoch, "a newer epoch was promised");
    }
    let is_used = view.durable.used >= epoch;
    match view.postgres {
        // must_stop has checked grant, timeline and lease.
        PostgresStatus::Primary(primary) => serve(view, reign, primary),
        PostgresStatus::Standby(standby) if !is_used => promote(view, reign, standby),
        PostgresStatus::Stopped(_) if !is_used && !view.set.is_empty => leftovers(),
        PostgresStatus::Stopped(_) if !is_used => act(Action::StartSealed, Reason::StartSealed),
        PostgresStatus::Starting { .. } if !is_used => idle(Reason::Starting),
        PostgresStatus::Stopping if !is_used => idle(Reason::Stopping),
        PostgresStatus::Unknown { why } => idle(Reason::CannotTell(why.clone())),
        PostgresStatus::Unresponsive { for_ms, .. } => {
            let age = Duration::from_millis(*for_ms);
            match cannot_write(view) {
                // Told at once: nobody has to wait until it is missed.
                Some(it) => give_back(view, epoch, &it.why()),
                None if age < UNRESPONSIVE_LIMIT => idle(Reason::Unresponsive(age)),
                None => give_back(view, epoch, "postgres-wedged"),
            }
        }
        PostgresStatus::Starting { .. } | PostgresStatus::Standby(_) => {
            give_back(view, epoch, "the promotion was interrupted")
        }
        PostgresStatus::Stopped(_) | PostgresStatus::Stopping => {
            // Ended by ourselves, it has not crashed.
            let gave_up = view.gave_up.filter(|(given, _)| *given == epoch);
            give_back(
                view,
                epoch,
                gave_up.map_or("postgres-crashed", |(_, why)| why),
            )
        }
        PostgresStatus::Empty | PostgresStatus::Unusable { .. } => {
            give_back(view, epoch, "the data directory cannot be used")
        }
    }
}

fn promote(view: &MemberView, reign: &Reign, standby: &Standby) -> MemberVerdict {
    if view.durable.min_epoch < reign.epoch {
        let epoch = reign.epoch;
        return act(Action::Promise { epoch }, Reason::Promise(epoch));
    }
    if standby.follows.is_some() || standby.receiver.is_some() {
        return act(
            Action::Detach { epoch: reign.epoch },
            Reason::StopReceiving(reign.epoch),
        );
    }
    if standby.replay_is_held {
        return seal::replay_everything(reign.epoch);
    }
    if !standby.at_end_of_wal {
        return idle(Reason::ReadingWal);
    }
    if standby.proven_end() != reign.start {
        let why = format!(
            "the end of WAL is {}, not {}",
            standby.proven_end(),
            reign.start
        );
        return give_back(view, reign.epoch, &why);
    }
    if !view.holder.may_promote(reign.epoch, view.now, &view.times) {
        return idle(Reason::WaitingForLease(reign.epoch));
    }
    act(
        Action::Promote {
            epoch: reign.epoch,
            timeline: reign.timeline,
            start: reign.start,
        },
        Reason::Promote(reign.epoch, reign.timeline),
    )
}

/// The primary's own chores, most urgent first.
fn serve(view: &MemberView, reign: &Reign, primary: &Primary) -> MemberVerdict {
    let epoch = reign.epoch;
    if !primary.has_signal {
        return act(Action::RestoreSignal, Reason::RestoreSignal);
    }
    if reign.fork.is_none() {
        if !view.is_prepared {
            return act(Action::Prepare { epoch }, Reason::Preparing(epoch));
        }
        let Some(fork) = primary.fork else {
            return idle(Reason::CannotTell("where the timeline began".to_owned()));
        };
        let told = Command::Promoted {
            epoch,
            member: view.me.clone(),
            fork,
        };
        return act(
            Action::Tell(Box::new(told)),
            Reason::TellPromoted(epoch, fork),
        );
    }
    if !reign.is_activated {
        return idle(Reason::WaitingForActivation(epoch));
    }
    if let Some(verdict) = hand_over(view) {
        return verdict;
    }
    if !primary.is_open {
        return act(Action::Open { epoch }, Reason::OpenGate(epoch));
    }
    if let Some(request) = reload_request(view) {
        return act(
            Action::Reload { request },
            Reason::OnRequest("reload".to_owned()),
        );
    }
    idle(Reason::Serving(epoch))
}

/// Draining for a switchover, or undoing it.
fn hand_over(view: &MemberView) -> Option<MemberVerdict> {
    let wanted = view
        .state
        .moving_request()
        .filter(|request| matches!(request.kind, RequestKind::Switchover { .. }))
        .and_then(|request| match &request.step {
            Step::Drain { to } => Some((request.id.clone(), to.clone())),
            // Whoever drained keeps clients out; a primary that came out of the move begins no drain.
            Step::Moving { to } => view
                .drained
                .is_some()
                .then(|| (request.id.clone(), to.clone())),
            Step::Accepted | Step::Prepare { .. } | Step::Rolling { .. } | Step::Ended(_) => None,
        });
    match (wanted, view.drained) {
        (Some((id, to)), Some((done, _))) if id == *done && to != *view.me => {
            Some(idle(Reason::Drain(to)))
        }
        (Some((request, to)), _) if to != *view.me => Some(act(
            Action::Drain {
                request,
                to: to.clone(),
            },
            Reason::Drain(to),
        )),
        (_, Some(_)) => Some(act(Action::Undrain, Reason::Undrain)),
        (Some(_) | None, None) => None,
    }
}

/// The oldest one, unless it is done: one after the other, as on a standby.
fn reload_request(view: &MemberView) -> Option<RequestId> {
    view.state
        .open_requests()
        .into_iter()
        .find(
            |request| matches!(&request.kind, RequestKind::Reload { member } if member == view.me),
        )
        .filter(|request| view.done_request != Some(&request.id))
        .map(|request| request.id.clone())
}

/// No postmaster, but processes: orphan backends of a crash, or a tool that an earlier life of this
/// daemon started. Nothing is started beside them.
pub(super) fn leftovers() -> MemberVerdict {
    let why = "processes are left without a server".to_owned();
    act(Action::Fence { why }, Reason::Stopping)
}

/// A postmaster that answers nothing: wait, then kill it to start again.
pub(super) fn unresponsive(for_ms: u64) -> MemberVerdict {
    let age = Duration::from_millis(for_ms);
    if age < UNRESPONSIVE_LIMIT {
        idle(Reason::Unresponsive(age))
    } else {
        act(
            Action::Fence {
                why: "it does not answer".to_owned(),
            },
            Reason::Unresponsive(age),
        )
    }
}
