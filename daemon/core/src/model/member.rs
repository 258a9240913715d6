//! A member as Raft knows it, and what it last told about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::archive_audit::ArchiveAudit;
use super::confirmation::SyncReport;
use super::epoch::Epoch;
use super::ids::{Incarnation, MemberName, NodeId, RequestId};
use super::lsn::Lsn;
use super::postgres::PostgresStatus;
use super::timeline::TimelineId;

/// Whether a member has a PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberKind {
    /// Votes and keeps a copy of the data.
    Database,
    /// Votes only; never in a rule.
    Witness,
}

/// Where a member listens, each as `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// gRPC: Raft, peers, admin, discovery.
    pub peer: String,
    /// HTTP: health checks and metrics.
    pub http: String,
    /// PostgreSQL, as clients and standbys reach it. Empty for a witness.
    pub postgres: String,
}

/// What an operator says about a member, in its config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tags {
    /// Never promoted.
    pub nofailover: bool,
    /// Higher is preferred among equals; 0 is the same as `nofailover`; default 1.
    pub failover_priority: Option<u32>,
    /// Answers 503 on replica paths.
    pub noloadbalance: bool,
    /// Preferred source of a clone.
    pub clonefrom: bool,
    /// Never a sync standby.
    pub nosync: bool,
    /// Higher confirms first: lower ones are in the rule only when there are too few above them. 0
    /// is the same as `nosync`; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_priority: Option<u32>,
    /// Any other tag, for `tag_*` filters and people.
    pub custom: BTreeMap<String, String>,
}

impl Tags {
    /// The effective failover priority; 0 means never.
    pub fn priority(&self) -> u32 {
        if self.nofailover {
            0
        } else {
            self.failover_priority.unwrap_or(1)
        }
    }
}

impl Tags {
    /// The effective priority as a sync standby; 0 means never.
    pub fn sync_priority(&self) -> u32 {
        if self.nosync {
            0
        } else {
            self.sync_priority.unwrap_or(1)
        }
    }
}

/// One member of the cluster. Replicated; changed by commands only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its Raft id; a replaced member has a new one.
    pub node: NodeId,
    /// Database or witness.
    pub kind: MemberKind,
    /// Where it listens; HTTP and PostgreSQL are empty until it first announced itself.
    pub addresses: Addresses,
    /// Its tags as last announced.
    pub tags: Tags,
    /// The life of its data directory, as last announced.
    pub incarnation: Option<Incarnation>,
    /// An id given by `members replace` whose store has not joined the voters yet; `node` stays the
    /// voter until the swap is done.
    #[serde(default)]
    pub joining: Option<NodeId>,
}

/// A member's claim that its WAL cannot grow under an older epoch, and how far it reaches. Valid
/// for its target epoch and incarnation only [model-durability H10].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealReport {
    /// Who.
    pub member: MemberName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// The epoch it will next acknowledge WAL for; its durable promise is at least this.
    pub target: Epoch,
    /// The last timeline in its WAL.
    pub timeline: TimelineId,
    /// The proven end of its WAL.
    pub end: Lsn,
    /// Whether its PostgreSQL runs, in recovery, at the end of WAL. `false`: stopped, end read from disk.
    pub is_running: bool,
}

/// A durable write probe's last result. Unit: milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// How long ago the last success was.
    pub last_ok_age_ms: u64,
    /// How long that one took.
    pub took_ms: u64,
    /// Whether an attempt is over its limit now.
    pub is_stuck: bool,
    /// Whether the last attempt failed with an error (EIO, no space).
    pub has_failed: bool,
}

/// What a member's daemon knows of its own health besides PostgreSQL's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Write + fdatasync on the data volume.
    pub data_volume: Option<Probe>,
    /// Write + fdatasync on the WAL volume.
    pub wal_volume: Option<Probe>,
    /// A local commit (primary only).
    pub commit: Option<Probe>,
    /// Free bytes on the data volume.
    pub free_bytes: Option<u64>,
    /// This primary's commits were looked at: the next three say something.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub commits_watched: bool,
    /// What lowers `synchronous_commit` on this primary below what the mode promises, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commit_overrides: Vec<String>,
    /// Commits on this primary whose wait for a confirmation was cancelled, since its daemon started.
    #[serde(default)]
    pub cancelled_waits: u64,
    /// Connections ended on this primary that confirmed commits and were no member's standby, since its
    /// daemon started.
    #[serde(default)]
    pub strangers_ended: u64,
    /// What takes effect with the next start; none: not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_restart: Option<Pending>,
    /// Its server could not start with some parameters, and runs with those it had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// How far the archive of this primary is, when it archives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveReport>,
    /// What it has found in the archive, if it was this member that looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<ArchiveAudit>,
    /// It has a repository of backups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_repository: bool,
    /// It can read what it stores there: nothing is encrypted, or it has a key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads_repository: bool,
}

/// What a running server would have with a new start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The start of the postmaster that was asked, Unix milliseconds: nothing is said of any other.
    pub of_unix_ms: u64,
    /// By name.
    pub what: Vec<PendingRestart>,
}

impl MemberReport {
    /// What takes effect with the next start of the server that runs here; nothing when none does, or when
    /// that is not known yet.
    pub fn pending_restart(&self) -> &[PendingRestart] {
        let started = match &self.postgres {
            PostgresStatus::Primary(primary) => primary.started_unix_ms,
            PostgresStatus::Standby(standby) => standby.started_unix_ms,
            _ => return &[],
        };
        let known = self.health.pending_restart.as_ref();
        known
            .filter(|known| known.of_unix_ms == started)
            .map_or(&[], |known| &known.what)
    }
}

/// The name under which a newer installed minor version waits for a restart.
pub const SERVER_VERSION: &str = "server_version";

/// One thing that takes effect with the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRestart {
    /// A parameter, or `server_version` when a newer minor version is installed.
    pub name: String,
    /// As it is.
    pub from: String,
    /// As it will be.
    pub to: String,
}

impl std::fmt::Display for PendingRestart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.name, self.from, self.to)
    }
}

/// A start that failed because of parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Every parameter that differs from the last start that went well.
    pub parameters: Vec<RefusedParameter>,
    /// PostgreSQL's own words.
    pub why: String,
}

/// One parameter of a [`Refusal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedParameter {
    /// Its name.
    pub name: String,
    /// What it was to be; none: PostgreSQL's default.
    pub wanted: Option<String>,
    /// What it is; none: PostgreSQL's default.
    pub kept: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "default".to_owned());
        let each: Vec<String> = self
            .parameters
            .iter()
            .map(|it| format!("{} = {}", it.name, value(&it.wanted)))
            .collect();
        write!(f, "{}: {}", each.join(", "), self.why)
    }
}

/// How far the WAL of a primary is in the repository of backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveReport {
    /// The newest file that is there; none since its daemon started or it became primary.
    pub newest: Option<String>,
    /// Everything committed before this moment of the primary's clock is there; none when that is not
    /// known yet. Unix time in milliseconds.
    pub recoverable_unix_ms: Option<u64>,
    /// How many files of WAL wait.
    pub waiting: u64,
    /// Why the last attempt failed.
    pub failure: Option<ArchiveFailure>,
}

/// What keeps a primary from archiving.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFailure {
    /// As the last attempt ended.
    pub why: String,
    /// Since when none succeeded. Unix time in milliseconds.
    pub since_unix_ms: u64,
}

/// Long work a member is busy with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// `initdb`, `clone`, `rewind`, …
    pub with: String,
    /// Since when, milliseconds.
    pub for_ms: u64,
    /// Bytes done and to do, when known.
    pub bytes: Option<(u64, u64)>,
}

/// Everything a member tells the leader several times a second. An observation: never stored in
/// the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Who.
    pub member: MemberName,
    /// Its Raft id, as read from its store.
    pub node: NodeId,
    /// Boot id and start counter of its daemon, so that a restart is seen.
    pub daemon_start: String,
    /// Version of its clusterd.
    pub version: String,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its tags.
    pub tags: Tags,
    /// The life of its data directory, if it has one.
    pub incarnation: Option<Incarnation>,
    /// System identifier of its data directory.
    pub system_identifier: Option<u64>,
    /// Server version number, e.g. 150020; of the data directory's major when not running.
    pub server_version: Option<u32>,
    /// What its PostgreSQL is.
    pub postgres: PostgresStatus,
    /// Its durable promise.
    pub min_epoch: Epoch,
    /// The newest epoch whose Grant it has used up.
    pub used: Epoch,
    /// Its seal for `min_epoch`, when proven.
    pub seal: Option<SealReport>,
    /// The guard has positively confirmed that no process of its PostgreSQL exists.
    pub set_is_empty: bool,
    /// Milliseconds of lease left, when it holds one.
    pub lease_left_ms: Option<u64>,
    /// The index of the newest applied Raft entry.
    pub applied_index: u64,
    /// Why this member could not be promoted now; empty when it could.
    pub not_promotable: Vec<String>,
    /// Probes.
    pub health: Health,
    /// Long work, if any.
    pub busy: Option<Busy>,
    /// Members this one has heard from lately.
    pub hears: Vec<MemberName>,
    /// A switchover step done here: request and the flush LSN after draining.
    pub drained: Option<(RequestId, Lsn)>,
    /// The newest restart, reload or reinit request carried out here.
    pub done_request: Option<RequestId>,
    /// The newest epoch under which this primary has completed a checkpoint: only then can a
    /// diverged member be rewound from it [D8].
    #[serde(default)]
    pub checkpointed: Epoch,
    /// Its commits and who confirms them, when it is a primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncReport>,
    /// What its own loop last decided, as a sentence.
    pub verdict: String,
}
