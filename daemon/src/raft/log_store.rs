//! The Raft log and vote, on disk before anybody is told.
//!
//! One thread writes. At each wake-up it takes everything that waits, writes it as one batch, makes
//! it durable, moves the mark, and only then answers, in order of arrival. The whole log is also
//! kept in memory (it is bounded by snapshots), so the engine is read only when the store is opened.
//! After one failed write the store answers errors for ever [F6].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use cluster_core::change::Command;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError};
use tokio::sync::{mpsc, oneshot, watch};

use super::codec;
use super::failure::Failure;
use super::mark::{FORCE_EVERY, MarkFile, StoreMark};
use super::records::{Change, Records, SledRecords};
use super::store_open::{self, Contents, StoreError, key};
use super::types::{Entry, Identity, LogId, StorageError, TypeConfig, Vote};

/// How many writes may wait. openraft waits for each append, so a handful is the most there is.
const QUEUE: usize = 64;

/// How long one batch may take before the disk counts as stuck and the member must stop. Far above
/// the worst fsync of a working disk; sled waits for ever on a full one.
pub const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// The log store; clones are the same store.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    contents: RwLock<Contents>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    failure: Failure,
    mark: watch::Receiver<StoreMark>,
    opened_at: StoreMark,
    finished: watch::Receiver<bool>,
}

/// One write and who waits for it.
struct Job {
    changes: Vec<Change>,
    /// Removed after the changes are durable, without anybody waiting.
    forget: Vec<Vec<u8>>,
    done: Done,
}

enum Done {
    Appended(LogFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
}

impl LogStore {
    /// Opens the store in `directory`, making an empty one when there is none.
    ///
    /// `member` is named in the way out that errors tell.
    ///
    /// # Errors
    /// Damaged, truncated, rolled back or foreign: this member must not vote.
    pub fn open(directory: &Path, member: &str, failure: Failure) -> Result<LogStore, StoreError> {
        let (records, mark_file, contents) = store_open::open(directory, member)?;
        LogStore::start(Box::new(records), mark_file, contents, failure)
    }

    /// As [`LogStore::open`], over any engine.
    fn start(
        records: Box<SledRecords>,
        mark_file: MarkFile,
        contents: Contents,
        failure: Failure,
    ) -> Result<LogStore, StoreError> {
        let opened_at = contents.mark;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (mark_sender, mark) = watch::channel(opened_at);
        let (finish, finished) = watch::channel(false);
        let watched = watch_writes(failure.clone())?;
        let writer = Writer {
            watched,
            records,
            mark_file,
            mark: opened_at,
            unforced: 0,
            mark_sender,
            failure: failure.clone(),
        };
        thread::Builder::new()
            .name("raft-store".to_owned())
            .spawn(move || {
                writer.run(queue);
                let _ = finish.send(true);
            })
            .map_err(|source| StoreError::Thread { source })?;
        Ok(LogStore {
            shared: Arc::new(Shared {
                contents: RwLock::new(contents),
                jobs: Mutex::new(Some(jobs)),
                failure,
                mark,
                opened_at,
                finished,
            }),
        })
    }

    /// How far the store has come, durably.
    pub fn mark(&self) -> StoreMark {
        *self.shared.mark.borrow()
    }

    /// How far it had come when it was opened.
    pub fn opened_at(&self) -> StoreMark {
        self.shared.opened_at
    }

    /// Whose store this is; `None` for an empty one.
    pub fn identity(&self) -> Option<Identity> {
        self.read(|contents| contents.identity.clone())
    }

    /// Whether nothing was ever voted or appended.
    pub fn is_pristine(&self) -> bool {
        self.read(|contents| {
            contents.vote.is_none() && contents.entries.is_empty() && contents.purged.is_none()
        })
    }

    /// How many entries are kept.
    pub fn kept_entries(&self) -> usize {
        self.read(|contents| contents.entries.len())
    }

    /// The newest kept command that `pick` wants something of.
    pub fn last_command<T>(&self, mut pick: impl FnMut(&Command) -> Option<T>) -> Option<T> {
        self.read(|contents| {
            contents
                .entries
                .values()
                .rev()
                .find_map(|entry| match &entry.payload {
                    openraft::EntryPayload::Normal(stamp) => pick(&stamp.command),
                    openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => None,
                })
        })
    }

    /// Makes this the store of `identity`, durably.
    ///
    /// # Errors
    /// It has another identity already, or the write failed.
    pub async fn adopt(&self, identity: Identity) -> io::Result<()> {
        match self.identity() {
            Some(known) if known == identity => return Ok(()),
            Some(known) => {
                return Err(io::Error::other(format!(
                    "this store belongs to node {} of cluster {}",
                    known.node_id, known.cluster_id
                )));
            }
            None => {}
        }
        let record = codec::encode(&identity).map_err(io::Error::other)?;
        self.write(
            vec![Change::Put(key::IDENTITY.to_vec(), record)],
            Vec::new(),
        )
        .await?;
        self.change(|contents| contents.identity = Some(identity));
        Ok(())
    }

    /// Ends the writer thread and waits until the files are closed.
    pub async fn close(&self) {
        drop(
            self.shared
                .jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let mut finished = self.shared.finished.clone();
        // An error means the thread is gone as well.
        let _ = finished.wait_for(|is_finished| *is_finished).await;
    }

    fn read<T>(&self, work: impl FnOnce(&Contents) -> T) -> T {
        work(
            &self
                .shared
                .contents
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn change<T>(&self, work: impl FnOnce(&mut Contents) -> T) -> T {
        work(
            &mut self
                .shared
                .contents
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    async fn submit(&self, job: Job) -> io::Result<()> {
        if let Some(why) = self.shared.failure.why() {
            return Err(io::Error::other(why));
        }
        let jobs = self
            .shared
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let closed = || io::Error::other("the Raft store is closed");
        jobs.ok_or_else(closed)?
            .send(job)
            .await
            .map_err(|_| closed())
    }

    async fn write(&self, changes: Vec<Change>, forget: Vec<Vec<u8>>) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Job {
            changes,
            forget,
            done: Done::Reply(sender),
        })
        .await?;
        receiver
            .await
            .map_err(|_| io::Error::other("the Raft store is closed"))?
    }
}

/// What the writer thread owns.
struct Writer {
    /// Told before and after each batch.
    watched: std::sync::mpsc::Sender<()>,
    records: Box<dyn Records>,
    mark_file: MarkFile,
    mark: StoreMark,
    unforced: u64,
    mark_sender: watch::Sender<StoreMark>,
    failure: Failure,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        loop {
            jobs.clear();
            if queue.blocking_recv_many(&mut jobs, QUEUE) == 0 {
                return;
            }
            let outcome = match self.failure.why() {
                Some(why) => Err(why),
                None => self.write(&mut jobs).map_err(|error| {
                    let why = format!("could not write the Raft store: {error}");
                    self.failure.fail(&why);
                    why
                }),
            };
            for job in jobs.drain(..) {
                let result = outcome.clone().map_err(io::Error::other);
                match job.done {
                    Done::Appended(callback) => callback.log_io_completed(result),
                    // Nobody waits any more: nothing to tell.
                    Done::Reply(sender) => drop(sender.send(result)),
                }
            }
        }
    }

    fn write(&mut self, jobs: &mut [Job]) -> io::Result<()> {
        let mut changes = Vec::new();
        let mut forget = Vec::new();
        for job in jobs {
            changes.append(&mut job.changes);
            forget.append(&mut job.forget);
        }
        let next = StoreMark {
            sequence: self.mark.sequence + 1,
            ..self.mark
        };
        let record = codec::encode(&next).map_err(io::Error::other)?;
        changes.push(Change::Put(key::MARK.to_vec(), record));
        // The watcher lives as long as this sender.
        let _ = self.watched.send(());
        let written = self.records.write(changes);
        let _ = self.watched.send(());
        written?;
        // After the batch, before anybody is told: never ahead of the store, never behind a promise.
        self.mark_file.write(next)?;
        self.unforced += 1;
        if self.unforced >= FORCE_EVERY {
            self.mark_file.force()?;
            self.unforced = 0;
        }
        self.mark = next;
        self.mark_sender.send_replace(next);
        if forget.is_empty() {
            Ok(())
        } else {
            self.records.forget(forget)
        }
    }
}

/// A thread that hears of the beginning and the end of each batch, and fails the store when the end
/// does not come.
fn watch_writes(failure: Failure) -> Result<std::sync::mpsc::Sender<()>, StoreError> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let watch = move || {
        while receiver.recv().is_ok() {
            if receiver.recv_timeout(WRITE_LIMIT) == Err(RecvTimeoutError::Timeout) {
                failure.fail(&format!(
                    "the Raft store has not finished a write within {WRITE_LIMIT:?}: its disk is \
                     full or stuck"
                ));
                return;
            }
        }
    };
    thread::Builder::new()
        .name("raft-store-watch".to_owned())
        .spawn(watch)
        .map_err(|source| StoreError::Thread { source })?;
    Ok(sender)
}

fn storage_error(subject: ErrorSubject<u64>, verb: ErrorVerb, error: &io::Error) -> StorageError {
    StorageIOError::new(subject, verb, openraft::AnyError::new(error)).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.read(|contents| {
            contents
                .entries
                .range(range)
                .map(|(_, e)| e.clone())
                .collect()
        }))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        Ok(self.read(|contents| LogState {
            last_purged_log_id: contents.purged,
            last_log_id: contents.last_log_id(),
        }))
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let failed = |error: &io::Error| storage_error(ErrorSubject::Vote, ErrorVerb::Write, error);
        let record = codec::encode(vote).map_err(|error| failed(&io::Error::other(error)))?;
        self.write(vec![Change::Put(key::VOTE.to_vec(), record)], Vec::new())
            .await
            .map_err(|error| failed(&error))?;
        self.change(|contents| contents.vote = Some(*vote));
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.read(|contents| contents.vote))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // Goes to disk with the next batch: it only shortens what is re-applied after a restart.
        self.change(|contents| contents.committed = committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.read(|contents| contents.committed))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let failed = |error: &io::Error| storage_error(ErrorSubject::Logs, ErrorVerb::Write, error);
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut changes = Vec::with_capacity(entries.len() + 1);
        for entry in &entries {
            let record = codec::encode(entry).map_err(|error| failed(&io::Error::other(error)))?;
            changes.push(Change::Put(key::entry(entry.log_id.index), record));
        }
        let committed = self.change(|contents| {
            contents
                .entries
                .extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
            contents.committed
        });
        if let Some(committed) = committed {
            let record =
                codec::encode(&committed).map_err(|error| failed(&io::Error::other(error)))?;
            changes.push(Change::Put(key::COMMITTED.to_vec(), record));
        }
        let job = Job {
            changes,
            forget: Vec::new(),
            done: Done::Appended(callback),
        };
        self.submit(job).await.map_err(|error| failed(&error))
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let cut: BTreeMap<u64, Entry> =
            self.change(|contents| contents.entries.split_off(&log_id.index));
        let changes = cut
            .keys()
            .map(|index| Change::Delete(key::entry(*index)))
            .collect();
        self.write(changes, Vec::new())
            .await
            .map_err(|error| storage_error(ErrorSubject::Log(log_id), ErrorVerb::Delete, &error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let failed =
            |error: &io::Error| storage_error(ErrorSubject::Log(log_id), ErrorVerb::Delete, error);
        let record = codec::encode(&log_id).map_err(|error| failed(&io::Error::other(error)))?;
        let gone: Vec<u64> = self.read(|contents| {
            contents
                .entries
                .range(..=log_id.index)
                .map(|(i, _)| *i)
                .collect()
        });
        // The purge mark first, durably; then the entries: the other way round a crash in between
        // leaves a log that begins nowhere.
        self.write(
            vec![Change::Put(key::PURGED.to_vec(), record)],
            gone.iter().map(|index| key::entry(*index)).collect(),
        )
        .await
        .map_err(|error| failed(&error))?;
        self.change(|contents| {
            contents.purged = contents.purged.max(Some(log_id));
            contents.entries = contents.entries.split_off(&(log_id.index + 1));
        });
        Ok(())
    }
}
