//! Backups and archived WAL of this member's PostgreSQL. The repository itself is package
//! cluster-backup; here is what needs the running server and the truth.

mod archiver;
mod taker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use cluster_backup::Repository;
use cluster_core::model::MemberName;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::board::Board;
use crate::postgres::Postgres;
use crate::reconcile::durable::DurableRecord;

use archiver::Archiver;
pub use archiver::command;
pub use taker::Backups;

/// Where the archiver listens.
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("postgres/archive.sock")
}

/// What is needed.
pub struct Place {
    /// Own name.
    pub me: MemberName,
    /// Where the repository is.
    pub repository: String,
    /// The daemon's own directory.
    pub state_dir: PathBuf,
    /// The server.
    pub postgres: Postgres,
    /// The durable record.
    pub durable: DurableRecord,
    /// The newest board.
    pub board: watch::Receiver<Arc<Board>>,
    /// The runtime of whatever touches PostgreSQL or its files.
    pub beside: Handle,
}

/// Opens the repository and begins to archive.
///
/// # Errors
/// The repository cannot be one, or PostgreSQL's user may not write there.
pub fn start(place: Place, shutdown: watch::Receiver<bool>) -> anyhow::Result<Backups> {
    let repository = Repository::open(&place.repository).context("backup.repository")?;
    let archiver = Archiver {
        repository: repository.clone(),
        socket: socket(&place.state_dir),
        directory: place.postgres.wal_directory(),
        durable: place.durable,
        board: place.board.clone(),
    };
    place.beside.spawn(archiver.run(shutdown));
    Ok(Backups {
        me: place.me,
        repository,
        postgres: place.postgres,
        board: place.board,
        beside: place.beside,
        turn: Arc::default(),
    })
}
