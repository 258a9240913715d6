//! The one action under way, and what kind of action it is.

use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::Action;
use cluster_core::model::Epoch;
use cluster_core::model::member::Busy;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::postgres::Progress;

/// The word of a restart that was asked for.
pub(super) const RESTARTING: &str = "restart";

/// The one action under way.
pub(super) struct Running {
    pub(super) action: Action,
    pub(super) since: Instant,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) task: JoinHandle<()>,
}

impl Running {
    pub(super) fn busy(&self) -> Busy {
        let progress = *self.progress.borrow();
        Busy {
            with: word(&self.action).to_owned(),
            for_ms: milliseconds(self.since.elapsed()),
            bytes: progress
                .total_bytes
                .map(|total| (progress.done_bytes, total)),
        }
    }
}

/// The epoch this action gives back, if it is a Release.
pub(super) fn released_epoch(action: &Action) -> Option<Epoch> {
    match action {
        Action::Tell(command) => match **command {
            Command::Release { epoch, .. } => Some(epoch),
            _ => None,
        },
        _ => None,
    }
}

/// What a member that leaves does not do any more; it still fences, releases and promises.
pub(super) fn starts_something(action: &Action) -> bool {
    matches!(
        action,
        Action::Initdb
            | Action::StartSealed
            | Action::Rewind { .. }
            | Action::Clone { .. }
            | Action::RestartStandby { .. }
    )
}

/// Kills, and so pre-empts what is under way.
pub(super) fn kills(action: &Action) -> bool {
    matches!(action, Action::Fence { .. } | Action::Quarantine { .. })
}

/// Work that changes the data directory itself; the others are over in a moment.
pub(super) fn is_long(with: &str) -> bool {
    matches!(with, "initdb" | "clone" | "rewind")
}

pub(super) fn word(action: &Action) -> &'static str {
    match action {
        Action::Idle => "nothing",
        Action::Initdb => "initdb",
        Action::Adopt => "adopt",
        Action::Promise { .. } => "promise",
        Action::Detach { .. } => "detach",
        Action::FastForward { .. } => "fast-forward",
        Action::ReadEndOfWal { .. } => "reading the end of WAL",
        Action::ReplayEverything { .. } => "replaying everything",
        Action::StartSealed => "start",
        Action::Attach { .. } => "attach",
        Action::StopDiverged => "stop",
        Action::Rewind { .. } => "rewind",
        Action::Clone { .. } => "clone",
        Action::Promote { .. } => "promote",
        Action::Prepare { .. } => "prepare",
        Action::Tell(_) => "telling the leader",
        Action::RestoreSignal => "standby.signal",
        Action::Open { .. } => "open",
        Action::Drain { .. } => "drain",
        Action::Undrain => "undrain",
        Action::MarkUsed { .. } => "used",
        Action::Fence { .. } => "fence",
        Action::Quarantine { .. } => "quarantine",
        Action::KillForeign => "kill foreign processes",
        Action::RestartStandby { .. } => RESTARTING,
        Action::Reload { .. } => "reload",
    }
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
