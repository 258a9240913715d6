//! Snapshots: one base backup and everything else that one consistent cluster is made of, kept as one
//! file by the member that made it. The catalogue is replicated, so every member tells how each stands.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::epoch::{Epoch, Generation};
use super::ids::{BadName, ClusterId, Incarnation, MemberName, NodeId};
use super::lsn::Lsn;
use super::member::{Addresses, MemberKind};
use super::settings::Settings;
use super::timeline::TimelineId;

/// How many snapshots are remembered.
pub const SNAPSHOTS_REMEMBERED: usize = 20;
/// How many files of snapshots one member keeps, the newest. Judgement: each is as large as the compressed
/// database, on the daemon's own disk.
pub const FILES_KEPT: usize = 2;

/// A snapshot's name: a random UUID, lower-case with hyphens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    /// A UUID of version 4 with these random bits.
    pub fn from_random(bits: u128) -> SnapshotId {
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let hex = format!("{bits:032x}");
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        SnapshotId(parts.join("-"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        let is_hex = |c: char| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c);
        if lengths == [8, 4, 4, 4, 12] && text.chars().all(is_hex) {
            return Ok(Self(text.to_owned()));
        }
        Err(BadName {
            text: text.to_owned(),
            what: "uuid of a snapshot",
            expected: "32 lower-case hexadecimal digits as 8-4-4-4-12",
        })
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> String {
        id.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What one member adds to a snapshot: how it was at that moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberPart {
    /// Its Raft id.
    pub node: NodeId,
    /// Database or witness.
    pub kind: MemberKind,
    /// The life of its data directory, if it has one.
    pub incarnation: Option<Incarnation>,
    /// The word for what its PostgreSQL was.
    pub postgres: String,
    /// The timeline of its WAL.
    pub timeline: Option<TimelineId>,
    /// Where its WAL ended.
    pub lsn: Option<Lsn>,
    /// Version of its clusterd.
    pub version: String,
    /// PostgreSQL's version number, such as 150020.
    pub server_version: Option<u32>,
    /// Where it listened.
    pub addresses: Addresses,
    /// Where it archived to, if it did; without credentials.
    pub repository: Option<String>,
}

/// The file of a complete snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFile {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the whole, lower-case hexadecimal.
    pub sha256: String,
    /// The timeline of its WAL.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start: Lsn,
    /// Where it is consistent.
    pub end: Lsn,
    /// PostgreSQL's major.
    pub major: u32,
}

/// Where a snapshot stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Stage {
    /// It is being taken.
    Processing,
    /// Its file is there.
    Completed(SnapshotFile),
    /// It was given up.
    Failed {
        /// Why, as a sentence.
        why: String,
    },
    /// It was complete, and its file is there no more.
    Gone {
        /// Why, as a sentence.
        why: String,
    },
}

/// How one member stands towards a snapshot; the words of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartStatus {
    /// Under way.
    Processing,
    /// This member's part is in it, and every member can tell where the file is.
    Completed,
    /// Not in it, or no longer.
    Missing,
    /// Given up.
    Failed,
}

impl PartStatus {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            PartStatus::Processing => "processing",
            PartStatus::Completed => "completed",
            PartStatus::Missing => "missing",
            PartStatus::Failed => "failed",
        }
    }
}

/// One snapshot in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Who asked, and why.
    pub by: String,
    /// When, Unix milliseconds of the proposer's clock. Display only.
    pub at_unix_ms: u64,
    /// Log index of its beginning; orders snapshots.
    pub index: u64,
    /// Whose PostgreSQL is copied, and who keeps the file.
    pub taker: MemberName,
    /// The newest epoch when it began; void when another begins before it is complete.
    pub epoch: Epoch,
    /// Public keys it is encrypted for; empty: it is not encrypted.
    pub recipients: Vec<String>,
    /// The members when it began.
    pub asked: BTreeSet<MemberName>,
    /// What they added.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<MemberName, MemberPart>,
    /// Where it stands.
    pub stage: Stage,
}

/// Why a member is missing in a snapshot.
pub const NOT_HEARD: &str = "it was not heard while the snapshot was taken";

impl Snapshot {
    /// Under way.
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Processing
    }

    /// The file, when there is one.
    pub fn file(&self) -> Option<&SnapshotFile> {
        match &self.stage {
            Stage::Completed(file) => Some(file),
            Stage::Processing | Stage::Failed { .. } | Stage::Gone { .. } => None,
        }
    }

    /// The whole snapshot's status, and why.
    pub fn status(&self) -> (PartStatus, Option<&str>) {
        match &self.stage {
            Stage::Processing => (PartStatus::Processing, None),
            Stage::Completed(_) => (PartStatus::Completed, None),
            Stage::Failed { why } => (PartStatus::Failed, Some(why)),
            Stage::Gone { why } => (PartStatus::Missing, Some(why)),
        }
    }

    /// One member's status, and why.
    pub fn status_of(&self, member: &MemberName) -> (PartStatus, Option<&str>) {
        if !self.asked.contains(member) {
            return (PartStatus::Missing, Some("it was no member then"));
        }
        match &self.stage {
            Stage::Completed(_) if !self.parts.contains_key(member) => {
                (PartStatus::Missing, Some(NOT_HEARD))
            }
            Stage::Processing | Stage::Completed(_) | Stage::Failed { .. } | Stage::Gone { .. } => {
                self.status()
            }
        }
    }
}

/// The snapshot that a cluster was restored from. Nothing of the old cluster's leases, epochs or members
/// is taken over [hazards K9].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Which.
    pub snapshot: SnapshotId,
    /// The cluster it was taken of.
    pub cluster: ClusterId,
    /// That cluster's generation.
    pub generation: Generation,
    /// Its epoch then.
    pub epoch: Epoch,
    /// Where the snapshot is consistent.
    pub timeline: TimelineId,
    /// The position on that timeline.
    pub end: Lsn,
    /// The archives of that cluster: never written to by this one [hazards K3].
    pub repositories: BTreeSet<String>,
}

/// The file in a restored data directory that tells where it came from, until the cluster knows.
pub const RESTORED_NOTE: &str = "clusterd-restored.json";

/// What that file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoredNote {
    /// Version of this document: 1.
    pub format: u32,
    /// Where the data came from.
    pub origin: Origin,
    /// The settings of then.
    pub settings: Settings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_as_it_is_written_and_nothing_else_is_one() {
        for bits in [0, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = SnapshotId::from_random(bits);
            assert_eq!(id.as_str().parse::<SnapshotId>(), Ok(id.clone()));
            assert_eq!(&id.as_str()[14..15], "4", "{id}");
            assert!("89ab".contains(&id.as_str()[19..20]), "{id}");
        }
        for bad in [
            "",
            "..",
            "0123",
            "0123456g-0123-0123-0123-0123456789ab",
            "../../../../etc/passwd",
        ] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad}");
        }
    }
}
