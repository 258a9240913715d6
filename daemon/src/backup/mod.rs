//! Backups and archived WAL of this member's PostgreSQL. The repository itself is package
//! cluster-backup; here is what needs the running server and the truth.
//!
//! All of it runs on a thread of its own: a repository that stands still must hold up neither the
//! member's loop nor the daemon's start.

mod archiver;
mod auditor;
mod coverage;
mod keeper;
mod programs;
mod shelf;
mod taker;
mod teller;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use cluster_core::model::lease::Moment;
use cluster_core::model::member::ArchiveReport;
use cluster_core::model::{ClusterState, MemberName};
use tokio::sync::watch;

use crate::board::Board;
use crate::postgres::Postgres;
use crate::reconcile::durable::DurableRecord;

use archiver::Archiver;
pub use archiver::command;
pub use auditor::Auditor;
pub use keeper::Keeper;
pub use programs::Programs;
use shelf::Shelf;
pub use taker::{Backups, now_unix_ms};
use teller::Teller;

/// A restored cluster's database has the identifier of the one it is a copy of, and its numbers of epochs
/// and timelines begin where that one's may have gone on: the two must not share an archive [hazards K3].
///
/// # Errors
/// In words: this repository is the old cluster's.
fn require_own(state: &ClusterState, repository: &str) -> Result<(), String> {
    let plain = |place: &str| place.trim_end_matches('/').to_owned();
    let Some(origin) = &state.origin else {
        return Ok(());
    };
    let mut foreign = origin.repositories.iter().map(|it| plain(it));
    match foreign.any(|it| it == plain(repository)) {
        false => Ok(()),
        true => Err(format!(
            "{repository} is the repository of cluster {}, from whose snapshot {} this one was restored: \
             give this one another ([backup] repository)",
            origin.cluster, origin.snapshot
        )),
    }
}

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
    /// What it is opened with.
    pub options: cluster_backup::Options,
    /// The daemon's own directory.
    pub state_dir: PathBuf,
    /// The server.
    pub postgres: Postgres,
    /// The durable record.
    pub durable: DurableRecord,
    /// The newest board.
    pub board: watch::Receiver<Arc<Board>>,
    /// This host's clock.
    pub clock: fn() -> Moment,
    /// One copy of the server at a time, whoever wants it.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

/// What runs.
pub struct Started {
    /// Takes backups.
    pub backups: Backups,
    /// How far the archive is, while this member is the primary.
    pub archive: watch::Receiver<Option<ArchiveReport>>,
}

/// Begins to archive.
///
/// # Errors
/// No thread.
pub fn start(place: Place, shutdown: watch::Receiver<bool>) -> anyhow::Result<Started> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime for backups")?;
    let shelf = Arc::new(Shelf::new(place.repository, place.options));
    let told = watch::Sender::new(None);
    let archive = told.subscribe();
    let teller = Arc::new(Teller {
        directory: place.postgres.wal_directory(),
        board: place.board.clone(),
        clock: place.clock,
        told,
        known: Mutex::default(),
    });
    let archiver = Archiver {
        teller: Arc::clone(&teller),
        shelf: Arc::clone(&shelf),
        socket: socket(&place.state_dir),
        directory: place.postgres.wal_directory(),
        durable: place.durable,
        board: place.board.clone(),
    };
    let backups = Backups {
        me: place.me,
        shelf,
        postgres: place.postgres,
        board: place.board,
        beside: runtime.handle().clone(),
        turn: place.turn,
    };
    std::thread::Builder::new()
        .name("clusterd-backup".to_owned())
        .spawn(move || {
            runtime.spawn(async move { teller.run().await });
            runtime.block_on(archiver.run(shutdown));
            // A repository that stands still must not hold up the end.
            runtime.shutdown_background();
        })
        .context("a thread for backups")?;
    Ok(Started { backups, archive })
}
