//! The one thing the Raft store needs of a storage engine: write a batch so that all of it or
//! nothing survives, and read everything back. Sled is the engine; this trait is the way out of it.
//!
//! Four surprises. When the disk is full sled does not fail, it waits for ever; so room is checked
//! before every batch, and the log store watches the clock. Sled's `flush()` alone loses acknowledged data at
//! a power cut (it neither commits the file's size nor flushes the drive); `fdatasync` on its file afterwards
//! is what makes it true. Killed while it writes a snapshot of its page table, it takes the half for a whole
//! one at the next start and calls the store corrupt; so unfinished ones are removed before. And when it is
//! closed its threads may hold the file for a moment longer.

use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::durable;

/// One change of a batch; the last one for a key counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(Vec<u8>),
}

impl Change {
    fn size(&self) -> usize {
        match self {
            Change::Put(key, value) => key.len() + value.len(),
            Change::Delete(key) => key.len(),
        }
    }
}

/// Where records live.
pub trait Records: Send + 'static {
    /// Every key and value, in order of keys.
    fn load(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Writes a batch: when it returns, all of it is on disk.
    fn write(&mut self, changes: Vec<Change>) -> io::Result<()>;

    /// Removes keys nobody will ask for again; need not be on disk when it returns.
    fn forget(&mut self, keys: Vec<Vec<u8>>) -> io::Result<()>;
}

/// Records in a sled database of their own.
pub struct SledRecords {
    // Closed before the file: fields are dropped in this order.
    database: sled::Db,
    file: Held,
    path: PathBuf,
}

/// Sled's file, opened once more; dropped, it waits until sled has let go of it.
struct Held(File);

/// How often it is looked whether sled's threads have let go of a closed database; whoever opens it next
/// waits as well.
const LOOKS: u32 = 5000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

impl Held {
    fn open(path: &Path) -> io::Result<Held> {
        File::open(path).map(Held)
    }

    /// Nobody else has the database open now.
    fn is_free(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => self.0.unlock().map(|()| true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for _ in 0..LOOKS {
            match self.is_free() {
                Ok(false) => thread::sleep(BETWEEN_LOOKS),
                Ok(true) | Err(_) => return,
            }
        }
    }
}

/// Least room on the file system, in bytes, besides twice the batch: sled writes in segments of
/// half a megabyte and may need several for one batch.
const ROOM: u64 = 4 * 1024 * 1024;

/// Memory sled may use for its cache, in bytes. The log itself is kept in memory by the log store,
/// so sled is read only once, when it is opened.
const CACHE: u64 = 1024 * 1024;

impl SledRecords {
    /// Opens or makes the database in `directory`.
    ///
    /// Runs in a thread of its own: sled panics on some damaged files.
    pub fn open(directory: &Path) -> io::Result<SledRecords> {
        let directory = directory.to_owned();
        let is_new = !directory.join("db").exists();
        let opened = thread::Builder::new()
            .name("raft-store-open".to_owned())
            .spawn(move || {
                panic::catch_unwind(AssertUnwindSafe(|| open_database(&directory, is_new)))
            })?
            .join();
        match opened {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) | Err(panic) => Err(io::Error::other(panic_text(&panic))),
        }
    }
}

fn open_database(directory: &Path, is_new: bool) -> io::Result<SledRecords> {
    if is_new {
        make_database(directory)?;
    }
    let path: PathBuf = directory.join("db");
    let file = Held::open(&path)?;
    sweep_drafts(directory, &file)?;
    let database = sled_at(directory)?;
    Ok(SledRecords {
        database,
        file,
        path,
    })
}

/// Removes snapshots that a killed process had not finished: `snap.N.generating`. The one before is removed
/// after the new one has its name, and the log is the truth in any case.
fn sweep_drafts(directory: &Path, file: &Held) -> io::Result<()> {
    if !file.is_free()? {
        // Whoever has it open may be writing one.
        return Ok(());
    }
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        if path.extension().is_some_and(|it| it == "generating") {
            fs::remove_file(&path)?;
            tracing::info!(path = %path.display(), "an unfinished snapshot of the engine is removed");
        }
    }
    Ok(())
}

fn sled_at(directory: &Path) -> io::Result<sled::Db> {
    need_room(directory, 0)?;
    sled::Config::new()
        .path(directory)
        .flush_every_ms(None)
        .cache_capacity(CACHE)
        .open()
        .map_err(io::Error::from)
}

/// Makes an empty database beside its place and moves it there when it is whole and on disk.
///
/// Sled writes its files piece by piece and refuses what a kill in between leaves: a member killed
/// in its very first second would have to be replaced.
fn make_database(directory: &Path) -> io::Result<()> {
    let draft = directory.with_extension("new");
    match fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    durable::create_dir(&draft)?;
    let database = sled_at(&draft)?;
    let file = Held::open(&draft.join("db"))?;
    database.flush().map_err(io::Error::from)?;
    drop(database);
    drop(file);
    durable::sync_tree(&draft)?;
    fs::rename(&draft, directory)?;
    durable::sync_parent(directory)
}

/// Refuses when the file system of `path` has no room for a batch of `bytes`.
fn need_room(path: &Path, bytes: usize) -> io::Result<()> {
    let system = rustix::fs::statvfs(path)?;
    let left = system.f_bavail.saturating_mul(system.f_frsize);
    let need = ROOM.saturating_add(2 * bytes as u64);
    if left >= need {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::StorageFull,
        format!(
            "the disk is full: {} has {left} bytes left, {need} are needed",
            path.display()
        ),
    ))
}

impl Records for SledRecords {
    fn load(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        guarded(|| {
            self.database
                .iter()
                .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect::<Result<_, _>>()
                .map_err(io::Error::from)
        })
    }

    fn write(&mut self, changes: Vec<Change>) -> io::Result<()> {
        let bytes = changes.iter().map(Change::size).sum();
        need_room(&self.path, bytes)?;
        guarded(|| {
            self.database
                .apply_batch(batch(changes))
                .map_err(io::Error::from)?;
            self.database.flush().map_err(io::Error::from)?;
            self.file.0.sync_data()
        })
    }

    fn forget(&mut self, keys: Vec<Vec<u8>>) -> io::Result<()> {
        guarded(|| {
            let changes = keys.into_iter().map(Change::Delete).collect();
            self.database
                .apply_batch(batch(changes))
                .map_err(io::Error::from)
        })
    }
}

fn batch(changes: Vec<Change>) -> sled::Batch {
    let mut batch = sled::Batch::default();
    for change in changes {
        match change {
            Change::Put(key, value) => batch.insert(key, value),
            Change::Delete(key) => batch.remove(key),
        }
    }
    batch
}

/// Turns a panic of sled into an error.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(io::Error::other(panic_text(&panic))))
}

fn panic_text(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    format!("the storage engine panicked: {text}")
}
