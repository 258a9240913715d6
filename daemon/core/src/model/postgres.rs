//! Every condition a member's PostgreSQL can be in, as one enum: illegal states have no value.

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::ids::MemberName;
use super::lsn::Lsn;
use super::timeline::TimelineId;

/// What a member's PostgreSQL is right now. Made by the daemon's `postgres::status`, read by
/// `decide`; travels in reports. Never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PostgresStatus {
    /// Not looked at yet, or the look failed: nothing may be concluded.
    Unknown {
        /// What was tried and how it failed.
        why: String,
    },
    /// The data directory does not exist or is empty.
    Empty,
    /// The data directory holds something that is not a PostgreSQL we may start: other major
    /// version, half a copy, a marker of an interrupted rewind or clone, foreign system identifier.
    Unusable {
        /// What is wrong, for people.
        why: String,
        /// Whether a new clone into a sibling directory would cure it.
        clone_would_cure: bool,
    },
    /// Not running; what its control file and WAL say.
    Stopped(Stopped),
    /// The postmaster runs and does not take our connection yet (recovery not consistent).
    Starting {
        /// How long it has been starting, in milliseconds.
        for_ms: u64,
        /// A rewound directory that is not consistent yet takes WAL from the primary of this epoch;
        /// zero when from nobody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rewound_for: Option<Epoch>,
    },
    /// In recovery, answering us.
    Standby(Standby),
    /// Out of recovery, answering us.
    Primary(Primary),
    /// The postmaster runs but has not answered for longer than its limit.
    Unresponsive {
        /// How long, in milliseconds.
        for_ms: u64,
        /// Whether it was last seen out of recovery.
        was_primary: bool,
    },
    /// Asked to stop; processes remain.
    Stopping,
}

/// A PostgreSQL that does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// `Database cluster state` of the control file: ended cleanly (`shut down`, `shut down in
    /// recovery`) or not.
    pub clean: bool,
    /// Whether the control file says it was last in recovery.
    pub was_in_recovery: bool,
    /// Timeline of the latest checkpoint.
    pub checkpoint_timeline: TimelineId,
    /// Location of the latest checkpoint record; of a clean stop the end of WAL is just behind it.
    pub checkpoint: Lsn,
    /// `Minimum recovery ending location` and its timeline; zero on a former primary.
    pub min_recovery_end: Lsn,
    /// Timeline of `min_recovery_end`, when set.
    pub min_recovery_timeline: Option<TimelineId>,
    /// Whether `standby.signal` is in place.
    pub has_signal: bool,
}

/// A PostgreSQL in recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// Timeline being received, else replayed.
    pub timeline: TimelineId,
    /// `pg_last_wal_receive_lsn()`; NULL until a receiver has run in this process.
    pub received: Option<Lsn>,
    /// `pg_last_wal_replay_lsn()`.
    pub replayed: Lsn,
    /// Milliseconds since the last replayed commit, when one was replayed and more is not waiting.
    pub replay_delay_ms: Option<u64>,
    /// Wall time of the last replayed transaction, in Unix milliseconds.
    pub replayed_at_unix_ms: Option<u64>,
    /// `pg_is_wal_replay_paused()`.
    pub replay_paused: bool,
    /// It has WAL that it does not replay now: a pause, an apply delay, a conflict with a query. It
    /// need not come to its end by itself.
    #[serde(default)]
    pub replay_is_held: bool,
    /// It is paused because a parameter is lower here than on the primary: a promotion would end it,
    /// a new start cures it [X23].
    #[serde(default)]
    pub has_too_little: bool,
    /// Recovery found the next record neither in its files nor upstream, twice at the same place.
    #[serde(default)]
    pub is_out_of_wal: bool,
    /// The walreceiver process, if one exists (from `pg_stat_wal_receiver`, or the process list).
    pub receiver: Option<Receiver>,
    /// Positive proof that recovery has consumed all WAL on disk and waits for more: `replayed >=
    /// received`, or two consecutive samples of the startup process in the wait states that mean
    /// "retry" [hazards B5].
    pub at_end_of_wal: bool,
    /// `primary_conninfo` in force names this upstream (the `application_name`'s epoch), or none.
    pub follows: Option<Follows>,
    /// For how long it has been pointed at an upstream without streaming from it; none = it streams, or
    /// is pointed at nobody. Unit: milliseconds.
    #[serde(default)]
    pub unattached_for_ms: Option<u64>,
    /// The walreceiver is stopped (SIGSTOP, a debugger): it is there and flushes nothing.
    #[serde(default)]
    pub has_frozen_receiver: bool,
    /// When the postmaster started, Unix milliseconds.
    pub started_unix_ms: u64,
}

/// The walreceiver of a standby.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// Its process id.
    pub pid: i32,
    /// `pg_stat_wal_receiver.status` is `streaming`.
    pub is_streaming: bool,
    /// Timeline it receives.
    pub timeline: TimelineId,
    /// `flushed_lsn`.
    pub flushed: Lsn,
    /// `latest_end_lsn`: the upstream's position as last told.
    pub latest_end: Lsn,
}

/// What the conninfo in force was generated from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// The upstream's member name.
    pub member: MemberName,
    /// The epoch in the `application_name`.
    pub epoch: Epoch,
}

/// A PostgreSQL out of recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primary {
    /// Its timeline.
    pub timeline: TimelineId,
    /// `pg_current_wal_flush_lsn()`.
    pub flushed: Lsn,
    /// Where this timeline began, from its history file.
    pub fork: Option<Lsn>,
    /// Whether hba lets clients in (the gate before activation).
    pub is_open: bool,
    /// `standby.signal` lies under the running primary, as it must [X26].
    pub has_signal: bool,
    /// `synchronous_standby_names` in force.
    pub sync_names: String,
    /// Its walsenders.
    pub senders: Vec<Sender>,
    /// Prepared transactions, and the age of the oldest open transaction in milliseconds.
    pub prepared_transactions: u32,
    /// Age of the oldest open transaction, milliseconds.
    pub oldest_transaction_ms: u64,
    /// Where the oldest WAL begins that it still keeps; none: not known.
    #[serde(default)]
    pub oldest_wal: Option<Lsn>,
    /// When the postmaster started, Unix milliseconds.
    pub started_unix_ms: u64,
}

/// One row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// `application_name`: `member~incarnation~epoch` for ours.
    pub application_name: String,
    /// Role name.
    pub user: String,
    /// Client address, empty for the socket.
    pub client: String,
    /// `state`.
    pub state: String,
    /// `sync_state`.
    pub sync_state: String,
    /// `sync_priority`.
    pub sync_priority: u32,
    /// `sent_lsn`.
    pub sent: Lsn,
    /// `flush_lsn`.
    pub flushed: Lsn,
    /// `replay_lsn`.
    pub replayed: Lsn,
    /// When the walsender started, Unix milliseconds.
    pub started_unix_ms: u64,
    /// The slot that it streams through, empty for none. None: an earlier version did not look.
    #[serde(default)]
    pub slot: Option<String>,
    /// Process id; 0 where an earlier version did not look.
    #[serde(default)]
    pub pid: i32,
}

impl Sender {
    /// It streams through this member's own slot, which one walsender at a time can hold: whoever
    /// only has the name is not the member [A12 A13].
    pub fn holds_slot_of(&self, member: &MemberName) -> bool {
        let slot = self.slot.as_ref();
        slot.is_none_or(|slot| *slot == member.slot_name())
    }
}

impl PostgresStatus {
    /// Whether a postmaster exists.
    pub fn is_running(&self) -> bool {
        match self {
            PostgresStatus::Starting { .. }
            | PostgresStatus::Standby(_)
            | PostgresStatus::Primary(_)
            | PostgresStatus::Unresponsive { .. }
            | PostgresStatus::Stopping => true,
            PostgresStatus::Unknown { .. }
            | PostgresStatus::Empty
            | PostgresStatus::Unusable { .. }
            | PostgresStatus::Stopped(_) => false,
        }
    }

    /// The word for people and for `/patroni`: Patroni's state strings.
    pub fn word(&self) -> &'static str {
        match self {
            PostgresStatus::Unknown { .. } => "unknown",
            PostgresStatus::Empty => "uninitialized",
            PostgresStatus::Unusable { .. } => "start failed",
            PostgresStatus::Stopped(_) => "stopped",
            PostgresStatus::Starting { .. } => "starting",
            PostgresStatus::Standby(_) | PostgresStatus::Primary(_) => "running",
            PostgresStatus::Unresponsive { .. } => "unresponsive",
            PostgresStatus::Stopping => "stopping",
        }
    }
}

impl Standby {
    /// Where its WAL ends, once `at_end_of_wal` is proven: the end of the last whole record. What
    /// was received beyond it is part of a record, and no acknowledged commit can be in it; a
    /// promotion forks exactly here.
    pub fn proven_end(&self) -> Lsn {
        self.replayed
    }

    /// How far this standby's WAL reaches: what it received or replayed, whichever is more [B4].
    pub fn end_of_wal(&self) -> Lsn {
        self.received.unwrap_or(Lsn::ZERO).max(self.replayed)
    }
}
