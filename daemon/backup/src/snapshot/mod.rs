//! One cluster as one file: a tar of a base backup with its WAL, the Raft state, the settings, and what
//! each member was. Written once, ended by a footer with the hash of everything before it, so that a file
//! that was cut short or changed anywhere is found before anything is done with it.
//!
//! | entry | what it is |
//! |---|---|
//! | `snapshot.json` | [`Document`]: never encrypted, like a backup's manifest |
//! | `base.tar.zst`, `pg_wal.tar.zst`, `backup_manifest.zst` | as pg_basebackup wrote them |
//! | `cluster-state.json.zst` | what Raft held: to look at, never taken over |
//! | `settings.json.zst` | the settings of then |
//! | `SHA256SUM` | the footer |
//!
//! Encrypted ones end `.age` and can be opened with the tool age as well.

mod check;
mod document;
mod pack;
mod restore;
mod stream;

pub use check::check;
pub use document::{Document, MemberNote, Piece};
pub use pack::{Facts, Packed, pack};
pub use restore::{Restore, Restored, restore};

/// The entry that says what the others are; the first.
const DOCUMENT: &str = "snapshot.json";
/// What Raft held.
pub const STATE: &str = "cluster-state.json";
/// The settings.
pub const SETTINGS: &str = "settings.json";

#[cfg(test)]
mod tests;
