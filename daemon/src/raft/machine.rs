//! From log entry to truth: applies committed entries to `ClusterState`, keeps it in snapshots.
//!
//! The state lives in memory and is rebuilt from the newest snapshot and the log. The surprise: the
//! lease's [`Granter`] lives under the same lock. Applying an entry and confirming a renewal are
//! one critical section, so a renewal can never be confirmed against a state that is being revoked.

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster_core::change::{self, Command, command::COMMAND_VERSION};
use cluster_core::model::ClusterState;
use cluster_core::model::lease::Granter;
use openraft::storage::RaftStateMachine;
use openraft::{
    EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, StorageIOError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::boottime;
use super::codec;
use super::durable;
use super::failure::Failure;
use super::store_open::StoreError;
use super::types::{
    Answer, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};

/// The state after an applied entry.
#[derive(Clone, Debug, Default)]
pub struct AppliedState {
    /// Index of the last applied entry; 0 before the first.
    pub index: u64,
    /// The truth as of that entry.
    pub state: Arc<ClusterState>,
}

/// What one lock protects.
#[derive(Debug)]
pub struct Inner {
    /// The replicated truth.
    pub state: ClusterState,
    /// The leader's side of the lease.
    pub granter: Granter,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<(SnapshotMeta, Vec<u8>)>,
}

/// What a snapshot file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    meta: SnapshotMeta,
    state: ClusterState,
}

/// The state machine; clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Mutex<Inner>>,
    applied: Arc<watch::Sender<Arc<AppliedState>>>,
    path: Arc<PathBuf>,
    failure: Failure,
}

impl Machine {
    /// The machine as its newest snapshot in `directory` has it.
    ///
    /// # Errors
    /// A snapshot that is damaged or not understood.
    pub fn open(directory: &Path, member: &str, failure: Failure) -> Result<Machine, StoreError> {
        let path = directory.join("snapshot");
        let stored = read_snapshot(&path, directory, member)?;
        let (state, snapshot) = match stored {
            None => (ClusterState::default(), None),
            Some((stored, bytes)) => (stored.state, Some((stored.meta, bytes))),
        };
        let meta = snapshot
            .as_ref()
            .map(|(meta, _)| meta.clone())
            .unwrap_or_default();
        let applied = Arc::new(AppliedState {
            index: meta.last_log_id.map_or(0, |last| last.index),
            state: Arc::new(state.clone()),
        });
        Ok(Machine {
            inner: Arc::new(Mutex::new(Inner {
                state,
                granter: Granter::started(boottime()),
                last_applied: meta.last_log_id,
                membership: meta.last_membership,
                snapshot,
            })),
            applied: Arc::new(watch::channel(applied).0),
            path: Arc::new(path),
            failure,
        })
    }

    /// The one critical section. Never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the applied state.
    pub fn watch(&self) -> watch::Receiver<Arc<AppliedState>> {
        self.applied.subscribe()
    }

    fn publish(&self, inner: &Inner) {
        self.applied.send_replace(Arc::new(AppliedState {
            index: inner.last_applied.map_or(0, |last| last.index),
            state: Arc::new(inner.state.clone()),
        }));
    }

    #[allow(clippy::result_large_err, reason = "the library's own type")]
    fn apply_one(&self, inner: &mut Inner, entry: Entry) -> Result<Answer, StorageError> {
        let log_id = entry.log_id;
        inner.last_applied = Some(log_id);
        match entry.payload {
            EntryPayload::Blank => Ok(Answer::default()),
            EntryPayload::Membership(membership) => {
                inner.membership = StoredMembership::new(Some(log_id), membership);
                Ok(Answer::default())
            }
            EntryPayload::Normal(stamp) => {
                if stamp.version > COMMAND_VERSION {
                    let why = format!(
                        "entry {log_id} has command version {}, this clusterd knows up to \
                         {COMMAND_VERSION}: start a newer one",
                        stamp.version
                    );
                    self.failure.fail(&why);
                    let error = io::Error::other(why);
                    return Err(fault(ErrorSubject::Apply(log_id), ErrorVerb::Read, &error));
                }
                let outcome = change::apply(&mut inner.state, log_id.index, &stamp);
                for broken in change::invariants::check(&inner.state) {
                    tracing::error!(index = log_id.index, reason = broken, "invariant broken");
                }
                if outcome.is_ok() && matches!(stamp.command, Command::Grant(_)) {
                    inner.granter.granted();
                }
                Ok(Answer {
                    outcome: Some(outcome),
                })
            }
        }
    }

    /// Writes `bytes` as the newest snapshot, durably.
    async fn keep(&self, bytes: Vec<u8>) -> io::Result<()> {
        let path = Arc::clone(&self.path);
        tokio::task::spawn_blocking(move || durable::replace(&path, &bytes))
            .await
            .map_err(io::Error::other)?
    }

    fn snapshot_fault(&self, error: &io::Error) -> StorageError {
        self.failure.fail(&format!(
            "could not write the snapshot {}: {error}",
            self.path.display()
        ));
        fault(ErrorSubject::Snapshot(None), ErrorVerb::Write, error)
    }
}

fn fault(subject: ErrorSubject<u64>, verb: ErrorVerb, error: &io::Error) -> StorageError {
    StorageIOError::new(subject, verb, openraft::AnyError::new(error)).into()
}

fn read_snapshot(
    path: &Path,
    directory: &Path,
    member: &str,
) -> Result<Option<(Stored, Vec<u8>)>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StoreError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    match codec::decode::<Stored>(&bytes) {
        Ok(stored) => Ok(Some((stored, bytes))),
        Err(
            error @ (codec::CodecError::Version { .. } | codec::CodecError::NotUnderstood { .. }),
        ) => Err(StoreError::TooNew {
            path: path.to_owned(),
            why: error.to_string(),
        }),
        Err(error) => Err(StoreError::Damaged {
            path: path.to_owned(),
            directory: directory.to_owned(),
            member: member.to_owned(),
            why: error.to_string(),
        }),
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let stored = {
            let inner = self.lock();
            let index = inner.last_applied.map_or(0, |last| last.index);
            Stored {
                meta: SnapshotMeta {
                    last_log_id: inner.last_applied,
                    last_membership: inner.membership.clone(),
                    snapshot_id: format!("{index}-{:08x}", rand::random::<u32>()),
                },
                state: inner.state.clone(),
            }
        };
        let bytes = codec::encode(&stored)
            .map_err(|error| self.snapshot_fault(&io::Error::other(error)))?;
        self.keep(bytes.clone())
            .await
            .map_err(|error| self.snapshot_fault(&error))?;
        self.lock().snapshot = Some((stored.meta.clone(), bytes.clone()));
        Ok(Snapshot {
            meta: stored.meta,
            snapshot: Box::new(Cursor::new(bytes)),
        })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let inner = self.lock();
        Ok((inner.last_applied, inner.membership.clone()))
    }

    #[allow(clippy::result_large_err, reason = "the library's own type")]
    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut inner = self.lock();
        let answers = entries
            .into_iter()
            .map(|entry| self.apply_one(&mut inner, entry))
            .collect();
        self.publish(&inner);
        answers
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let stored: Stored = codec::decode(&bytes).map_err(|error| {
            let why = format!("the leader's snapshot cannot be used: {error}");
            self.failure.fail(&why);
            let error = io::Error::other(why);
            fault(
                ErrorSubject::Snapshot(Some(meta.signature())),
                ErrorVerb::Read,
                &error,
            )
        })?;
        self.keep(bytes.clone())
            .await
            .map_err(|error| self.snapshot_fault(&error))?;
        let mut inner = self.lock();
        inner.state = stored.state;
        inner.last_applied = meta.last_log_id;
        inner.membership = meta.last_membership.clone();
        inner.snapshot = Some((meta.clone(), bytes));
        self.publish(&inner);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.lock().snapshot.clone().map(|(meta, bytes)| Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(bytes)),
        }))
    }
}
