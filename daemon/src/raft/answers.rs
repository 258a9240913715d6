//! What the store answers: where we stand in Raft, and why something was not done.

use std::time::Duration;

use cluster_core::change::{Applied, Rejected};
use cluster_core::model::lease::LeaderVote;
use cluster_core::model::{NodeId, RuleId};

/// Where this process stands in Raft. Advisory: permission comes from [`super::ClusterStore::renew`] and
/// [`super::ClusterStore::confirm_leadership`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// The newest vote this member knows.
    pub vote: Option<LeaderVote>,
    /// The library says that this process leads.
    pub is_leader: bool,
    /// It has committed and applied an entry of its own under this vote.
    pub is_ready: bool,
    /// Whether this member is a voter now.
    pub is_voter: bool,
    /// Who leads, as far as known.
    pub leader: Option<NodeId>,
    /// Where the leader's gRPC listens.
    pub leader_address: Option<String>,
    /// Raft term.
    pub term: u64,
    /// On a leader: how long ago a quorum answered. Changes of it alone wake nobody.
    pub quorum_ack_age: Option<Duration>,
    /// A leader that sends nothing because no quorum answers.
    pub is_silent: bool,
}

/// Why a proposal did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Committed, and refused by the rules; nothing changed.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Not written: somebody else leads, or nobody.
    #[error("this member does not lead")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
        /// Where it listens.
        address: Option<String>,
    },
    /// It may or may not be committed later.
    #[error("no answer from a quorum in time; the change may still happen")]
    TimedOutUnknown,
    /// Raft has stopped in this process.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// A confirmed renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewAnswer {
    /// D: how long the lease lasts, from the moment before the request was sent.
    pub lease: Duration,
    /// The newest live rule of the epoch.
    pub newest_rule: RuleId,
}

/// Why a renewal was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewRefused {
    /// Ask the leader.
    #[error("this member does not lead")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
        /// Where it listens.
        address: Option<String>,
    },
    /// The leader has not committed an entry of its own yet.
    #[error("the leader was elected a moment ago and is not ready")]
    NotReady,
    /// The round did not reach a quorum.
    #[error("no quorum answered")]
    NoQuorum,
    /// The asker holds nothing: its epoch ended, or was never its own. It must stop.
    #[error("not granted: {why}")]
    NotGranted {
        /// What is true instead.
        why: String,
    },
    /// Raft has stopped in this process.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// Why the voters could not be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Somebody else leads.
    #[error("this member does not lead")]
    NotLeader,
    /// Another change is under way, or the new member does not catch up.
    #[error("could not change the voters: {0}")]
    Refused(String),
    /// It may or may not happen later.
    #[error("no answer from a quorum in time; the change may still happen")]
    TimedOutUnknown,
}

/// A proposal that was committed and applied here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What it did.
    pub applied: Applied,
    /// Its log index.
    pub index: u64,
}
