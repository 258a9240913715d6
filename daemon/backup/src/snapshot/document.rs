//! What a snapshot is, as its first entry says.

use std::collections::BTreeMap;

use cluster_core::model::snapshot::{MemberPart, Origin};
use cluster_core::model::{ClusterName, MemberName};
use serde::{Deserialize, Serialize};

/// The version of this document.
pub(super) const FORMAT: u32 = 1;

/// One entry of the tar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// What it is: `base.tar`, `settings.json` …
    pub name: String,
    /// Its size before compression and encryption. Unit: bytes.
    pub bytes: u64,
    /// Its SHA-256 before them.
    pub sha256: String,
    /// As which entry it is in the tar.
    pub entry: String,
    /// The entry's size.
    pub stored_bytes: u64,
    /// The entry's SHA-256.
    pub stored_sha256: String,
}

/// One member's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberNote {
    /// `completed` or `missing`.
    pub status: String,
    /// Why it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<MemberPart>,
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The version of this document.
    pub format: u32,
    /// Which snapshot of which cluster, and where it is consistent.
    pub origin: Origin,
    /// The cluster's name.
    pub name: ClusterName,
    /// Whose PostgreSQL was copied.
    pub taker: MemberName,
    /// System identifier of the database.
    pub database: u64,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// When it began. Unix time in milliseconds.
    pub began_unix_ms: i64,
    /// When the copy was complete. Unix time in milliseconds.
    pub ended_unix_ms: i64,
    /// Public keys that can open it; empty: it is not encrypted.
    pub recipients: Vec<String>,
    /// Every member.
    pub members: BTreeMap<MemberName, MemberNote>,
    /// Every other entry but the footer.
    pub pieces: Vec<Piece>,
}

impl Document {
    /// What is unpacked, in bytes.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }
}
