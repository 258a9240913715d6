//! Snapshots on this member: it adds its part to each, takes those it was appointed for, keeps their files
//! and says when one is gone. Needs no repository of backups.
//!
//! One loop, on a thread of its own: look at the truth and at the folder, decide one step (`steps.rs`, pure),
//! do it, look again. Whatever a killed daemon left is seen by the next one, and told.

mod keeper;
mod steps;
mod taker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use cluster_core::model::MemberName;
use tokio::sync::{Mutex, watch};

use crate::board::{Board, Propose};
use crate::postgres::Postgres;

use keeper::Keeper;

/// Where the files lie. May be a mount point or a link to a larger disk.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("snapshots")
}

/// What is needed.
pub struct Place {
    /// Own name.
    pub me: MemberName,
    /// The server; none on a witness.
    pub postgres: Option<Postgres>,
    /// Where the files lie.
    pub folder: PathBuf,
    /// Where this member archives to, as configured.
    pub repository: Option<String>,
    /// The newest board.
    pub board: watch::Receiver<Arc<Board>>,
    /// Whether the truth here is not older than this process.
    pub is_current: watch::Receiver<bool>,
    /// The way to the leader.
    pub propose: Arc<dyn Propose>,
    /// One copy of the server at a time, whoever wants it.
    pub turn: Arc<Mutex<()>>,
}

/// Begins to look.
///
/// # Errors
/// No thread.
pub fn start(place: Place, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime for snapshots")?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("clusterd-snap".to_owned())
        .spawn(move || {
            runtime.block_on(Keeper::new(place, handle).run(shutdown));
            // A disk that stands still must not hold up the end.
            runtime.shutdown_background();
        })
        .context("a thread for snapshots")?;
    Ok(())
}
