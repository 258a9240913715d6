//! Opening the Raft store: everything is read and checked before this member may vote.
//!
//! The layout of the directory: `log/` is the engine's, `mark` says how far it has come, `snapshot`
//! is the state machine's (`machine.rs`). A store that is damaged, cut or older than its mark is
//! refused, never repaired: what it may have promised is lost, so the member must come back under a
//! new id.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;
use super::durable;
use super::mark::{MarkFile, StoreMark};
use super::records::{Change, Records, SledRecords};
use super::types::{Entry, Identity, LogId, Vote};

/// Why the Raft store cannot be used. Every message names the file and the way out.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes are not what was written.
    #[error(
        "the Raft store {path} is damaged: {why}; this member must not vote again under its id. \
         Move {directory} aside, start clusterd again, and run `clusterctl members replace {member}`"
    )]
    Damaged {
        /// The file or record at fault.
        path: PathBuf,
        /// The directory to move aside.
        directory: PathBuf,
        /// The member to replace.
        member: String,
        /// What is wrong.
        why: String,
    },
    /// The store is older than what it once was.
    #[error(
        "the Raft store {path} was rolled back: {why}; this member must not vote again under its \
         id. Move {directory} aside, start clusterd again, and run `clusterctl members replace \
         {member}`"
    )]
    RolledBack {
        /// The file at fault.
        path: PathBuf,
        /// The directory to move aside.
        directory: PathBuf,
        /// The member to replace.
        member: String,
        /// How it was noticed.
        why: String,
    },
    /// Written by a later version.
    #[error(
        "the Raft store {path} was written by a later version of clusterd: {why}; start that \
         version (nothing was changed)"
    )]
    TooNew {
        /// The record at fault.
        path: PathBuf,
        /// What is unknown.
        why: String,
    },
    /// Another process has it open.
    #[error("the Raft store {path} is in use by another process (is clusterd running already?)")]
    InUse {
        /// The file that is locked.
        path: PathBuf,
    },
    /// The system said no.
    #[error("could not open the Raft store {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No thread for the writer.
    #[error("could not start the Raft store's writer: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// Keys of the store. Entries sort by index because the index is big-endian.
pub mod key {
    /// The vote, one record: term and node together.
    pub const VOTE: &[u8] = b"m/vote";
    /// The last committed log id known at the last append.
    pub const COMMITTED: &[u8] = b"m/committed";
    /// The last log id that was purged.
    pub const PURGED: &[u8] = b"m/purged";
    /// Whose store this is.
    pub const IDENTITY: &[u8] = b"m/identity";
    /// How far the store has come.
    pub const MARK: &[u8] = b"m/mark";
    /// Prefix of entries.
    pub const ENTRY: &[u8] = b"e/";

    /// The key of the entry at `index`.
    pub fn entry(index: u64) -> Vec<u8> {
        [ENTRY, &index.to_be_bytes()].concat()
    }
}

/// Everything the store holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last committed log id known.
    pub committed: Option<LogId>,
    /// The last log id that was purged.
    pub purged: Option<LogId>,
    /// Whose store this is.
    pub identity: Option<Identity>,
    /// By index.
    pub entries: BTreeMap<u64, Entry>,
    /// How far the store has come.
    pub mark: StoreMark,
}

impl Contents {
    /// The last entry, or the last one purged.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.entries
            .last_key_value()
            .map(|(_, entry)| entry.log_id)
            .or(self.purged)
    }
}

/// Opens `directory`, checks everything and counts this opening.
pub fn open(
    directory: &Path,
    member: &str,
) -> Result<(SledRecords, MarkFile, Contents), StoreError> {
    let opening = Opening { directory, member };
    let mark_path = directory.join("mark");
    let log_path = directory.join("log");
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { path, source }
    };
    durable::create_dir(directory).map_err(at(directory))?;
    let had_log = log_path.join("db").exists();
    let (mark_file, in_file) = if mark_path.exists() {
        MarkFile::open(&mark_path).map_err(at(&mark_path))?
    } else if had_log {
        let why = "the file is missing although there is a log".to_owned();
        return Err(opening.damaged(&mark_path, why));
    } else {
        (
            MarkFile::create(&mark_path).map_err(at(&mark_path))?,
            Some(StoreMark::default()),
        )
    };
    let Some(in_file) = in_file else {
        return Err(opening.damaged(&mark_path, "neither half of it is whole".to_owned()));
    };
    if !had_log && in_file.sequence > 0 {
        let why = format!("it is gone, but had {} writes", in_file.sequence);
        return Err(opening.rolled_back(&log_path.join("db"), why));
    }
    let mut records =
        SledRecords::open(&log_path).map_err(|error| opening.engine(&log_path, error))?;
    let pairs = records
        .load()
        .map_err(|error| opening.engine(&log_path, error))?;
    let mut contents = opening.read(&log_path, pairs)?;
    if in_file.is_later_than(contents.mark) {
        let why = format!(
            "it had {} writes in {} starts, and shows {} in {}",
            in_file.sequence, in_file.boot, contents.mark.sequence, contents.mark.boot
        );
        return Err(opening.rolled_back(&log_path.join("db"), why));
    }
    count_opening(&mut records, &mark_file, &mut contents).map_err(at(&log_path))?;
    Ok((records, mark_file, contents))
}

/// Counts this opening, durably in both places, before anything else can be written.
fn count_opening(
    records: &mut SledRecords,
    mark_file: &MarkFile,
    contents: &mut Contents,
) -> io::Result<()> {
    let mark = StoreMark {
        boot: contents.mark.boot + 1,
        nonce: rand::random(),
        sequence: contents.mark.sequence + 1,
    };
    let record = codec::encode(&mark).map_err(io::Error::other)?;
    records.write(vec![Change::Put(key::MARK.to_vec(), record)])?;
    mark_file.write(mark)?;
    mark_file.force()?;
    contents.mark = mark;
    Ok(())
}

struct Opening<'a> {
    directory: &'a Path,
    member: &'a str,
}

impl Opening<'_> {
    fn damaged(&self, path: &Path, why: String) -> StoreError {
        StoreError::Damaged {
            path: path.to_owned(),
            directory: self.directory.to_owned(),
            member: self.member.to_owned(),
            why,
        }
    }

    fn rolled_back(&self, path: &Path, why: String) -> StoreError {
        StoreError::RolledBack {
            path: path.to_owned(),
            directory: self.directory.to_owned(),
            member: self.member.to_owned(),
            why,
        }
    }

    /// What the engine said when it could not open or read.
    fn engine(&self, log: &Path, error: io::Error) -> StoreError {
        let path = log.join("db");
        let text = error.to_string();
        if text.contains("could not acquire lock") || error.kind() == io::ErrorKind::WouldBlock {
            return StoreError::InUse { path };
        }
        match error.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::StorageFull
            | io::ErrorKind::NotFound
            | io::ErrorKind::ReadOnlyFilesystem => StoreError::Io {
                path,
                source: error,
            },
            _ => self.damaged(&path, text),
        }
    }

    fn read(&self, log: &Path, pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        for (key, value) in &pairs {
            if let Some(index) = key.strip_prefix(key::ENTRY) {
                let index = <[u8; 8]>::try_from(index)
                    .map(u64::from_be_bytes)
                    .map_err(|_| self.damaged(log, format!("key {key:02x?} is no index")))?;
                let what = format!("entry {index}");
                let entry: Entry = self.record(log, &what, value)?;
                if entry.log_id.index != index {
                    let why = format!("{what} says it is entry {}", entry.log_id.index);
                    return Err(self.damaged(log, why));
                }
                contents.entries.insert(index, entry);
                continue;
            }
            match key.as_slice() {
                key::VOTE => contents.vote = Some(self.record(log, "the vote", value)?),
                key::COMMITTED => {
                    contents.committed = Some(self.record(log, "the committed index", value)?);
                }
                key::PURGED => contents.purged = Some(self.record(log, "the purge mark", value)?),
                key::IDENTITY => contents.identity = Some(self.record(log, "identity", value)?),
                key::MARK => contents.mark = self.record(log, "the mark", value)?,
                _ => {
                    let why = format!("unknown key {}", String::from_utf8_lossy(key));
                    return Err(StoreError::TooNew {
                        path: log.to_owned(),
                        why,
                    });
                }
            }
        }
        self.check(log, contents)
    }

    fn record<T: Serialize + DeserializeOwned>(
        &self,
        log: &Path,
        what: &str,
        value: &[u8],
    ) -> Result<T, StoreError> {
        codec::decode(value).map_err(|error| match error {
            codec::CodecError::Version { .. } | codec::CodecError::NotUnderstood { .. } => {
                StoreError::TooNew {
                    path: log.to_owned(),
                    why: format!("{what}: {error}"),
                }
            }
            codec::CodecError::Truncated { .. } | codec::CodecError::Checksum => {
                self.damaged(log, format!("{what}: {error}"))
            }
        })
    }

    /// The log must begin where it was purged, have no hole, and never be there without a vote.
    fn check(&self, log: &Path, mut contents: Contents) -> Result<Contents, StoreError> {
        if let Some(purged) = contents.purged {
            // Purging may have been cut off between its mark and its deletions.
            contents.entries = contents.entries.split_off(&(purged.index + 1));
        }
        let mut due = contents.purged.map(|purged| purged.index + 1);
        for index in contents.entries.keys() {
            if due.is_some_and(|due| due != *index) || (due.is_none() && *index != 0) {
                let why = format!("entry {} is missing before {index}", due.unwrap_or(0));
                return Err(self.damaged(log, why));
            }
            due = Some(index + 1);
        }
        // Forming writes entry 0 before it votes; no other entry exists without a vote.
        let needs_vote = contents.last_log_id().is_some_and(|last| last.index > 0);
        if contents.vote.is_none() && needs_vote {
            return Err(self.damaged(log, "there is a log but no vote".to_owned()));
        }
        Ok(contents)
    }
}
