//! The one thing the Raft store needs of a storage engine: write a batch so that all of it or
//! nothing survives, and read everything back. Sled is the engine; this trait is the way out of it.
//!
//! Two surprises. When the disk is full sled does not fail, it waits for ever; so room is checked
//! before every batch, and the log store watches the clock. And sled's `flush()` alone loses acknowledged data at a power cut (it neither commits
//! the file's size nor flushes the drive); `fdatasync` on its file afterwards is what makes it true.

use std::fs::{self, File};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::thread;

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
    database: sled::Db,
    file: File,
    path: PathBuf,
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
    let database = sled_at(directory)?;
    let path: PathBuf = directory.join("db");
    let file = File::open(&path)?;
    Ok(SledRecords {
        database,
        file,
        path,
    })
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
    database.flush().map_err(io::Error::from)?;
    drop(database);
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
            self.file.sync_data()
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
