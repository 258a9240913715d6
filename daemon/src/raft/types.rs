//! The types openraft is built over, and the names the rest of this folder uses for them.

use std::fmt;
use std::io::Cursor;

use cluster_core::change::{Applied, Rejected, Stamp};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// Our choice of types for openraft.
    pub TypeConfig:
        D = Stamp,
        R = Answer,
        NodeId = u64,
        Node = PeerNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// The Raft library's handle.
pub type Raft = openraft::Raft<TypeConfig>;
/// One entry of the log.
pub type Entry = openraft::Entry<TypeConfig>;
/// Term, node and index of an entry.
pub type LogId = openraft::LogId<u64>;
/// A vote: term, node, and whether a quorum gave it.
pub type Vote = openraft::Vote<u64>;
/// What the storage traits answer when they fail.
pub type StorageError = openraft::StorageError<u64>;
/// Who votes, and since which entry.
pub type StoredMembership = openraft::StoredMembership<u64, PeerNode>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<u64, PeerNode>;
/// A snapshot and what it covers.
pub type Snapshot = openraft::Snapshot<TypeConfig>;

/// What applying an entry said; nothing for entries that carry no change. Never stored or sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// What `apply` said.
    #[serde(skip)]
    pub outcome: Option<Result<Applied, Rejected>>,
}

/// A voter as its peers reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerNode {
    /// Name of the member.
    pub name: String,
    /// Where its gRPC listens, `host:port`.
    pub address: String,
}

impl fmt::Display for PeerNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// Who this store belongs to. Made durable once, when the group forms or a member is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// The cluster's life.
    pub generation: u64,
    /// This voter's number. Never given twice.
    pub node_id: u64,
    /// The first voters, set on the member that coordinates the forming and on no other.
    pub founders: Vec<Founder>,
}

/// One of the first voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Place in the sorted member list, from 1.
    pub node_id: u64,
    /// How it is reached.
    pub node: PeerNode,
}
