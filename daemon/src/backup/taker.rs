//! Takes a base backup of this member's server and stores it; tells what the repository holds.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use cluster_backup::{Manifest, Repository, manifest};
use cluster_core::model::{ClusterState, MemberName};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use crate::api::BackupControl;
use crate::board::Board;
use crate::postgres::{Postgres, Progress};
use crate::telemetry;

use super::require_own;
use super::shelf::Shelf;

/// Where a copy lies until it is stored, below the façade's own directory.
const SPOOL: &str = "backup-spool";

/// The parts.
#[derive(Clone)]
pub struct Backups {
    /// Own name.
    pub me: MemberName,
    /// Where to.
    pub shelf: Arc<Shelf>,
    /// The server.
    pub postgres: Postgres,
    /// The truth.
    pub board: watch::Receiver<Arc<Board>>,
    /// The runtime of everything about backups.
    pub beside: Handle,
    /// One at a time.
    pub turn: Arc<Mutex<()>>,
}

/// Rounded up: what is complete now was not complete before.
pub fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis() + 1).unwrap_or(0))
}

impl Backups {
    async fn take(self, by: String) -> Result<Manifest, String> {
        let _turn = self
            .turn
            .try_lock()
            .map_err(|_| format!("{} is taking a backup or a snapshot already", self.me))?;
        let state = Arc::clone(&self.board.borrow().state);
        let database = state
            .system_identifier
            .ok_or("the cluster has no data yet")?;
        // Before anything is copied.
        require_own(&state, self.shelf.place())?;
        let repository = self.shelf.repository().await?;
        let began_unix_ms = now_unix_ms();
        let id = manifest::id_of(began_unix_ms, &self.me, rand::random());
        tracing::info!(id, by, "a base backup begins");
        let stored = self
            .copy_and_store(&repository, database, (id, began_unix_ms), &state)
            .await;
        // Stored or not: it is no use here, and takes the room of a whole database.
        let folder = self.postgres.spool(SPOOL);
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        let stored = stored?;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::warn!(?removed, "a copy that was stored is left in the spool");
        }
        tracing::info!(id = stored.id, end = %stored.end, "a base backup is stored");
        Ok(stored)
    }

    async fn copy_and_store(
        &self,
        repository: &Repository,
        database: u64,
        (id, began_unix_ms): (String, i64),
        state: &ClusterState,
    ) -> Result<Manifest, String> {
        let (progress, _) = watch::channel(Progress::default());
        let copied = self.postgres.base_backup(SPOOL, &id, progress).await;
        let (folder, copied) = copied.map_err(|error| telemetry::chain(&error))?;
        let facts = Manifest {
            format: 0,
            id,
            database,
            major: self.postgres.major().0,
            member: self.me.clone(),
            epoch: state.epoch(),
            timeline: copied.timeline,
            start: copied.start,
            end: copied.end,
            began_unix_ms,
            ended_unix_ms: now_unix_ms(),
            key: None,
            files: Vec::new(),
        };
        manifest::store(repository, facts, &folder, &copied.files)
            .await
            .map_err(|error| telemetry::chain(&error))
    }
}

#[async_trait]
impl BackupControl for Backups {
    async fn create(&self, by: &str) -> Result<Manifest, String> {
        let taken = self.beside.spawn(self.clone().take(by.to_owned())).await;
        taken.map_err(|error| error.to_string())?
    }

    async fn list(&self) -> Result<(String, Vec<Manifest>), String> {
        let shelf = Arc::clone(&self.shelf);
        let list = async move {
            let repository = shelf.repository().await?;
            let listed = manifest::read_all(&repository).await;
            let listed = listed.map_err(|error| telemetry::chain(&error))?;
            for error in &listed.damaged {
                tracing::warn!(error = telemetry::chain(error), "a backup cannot be used");
            }
            Ok((repository.place().to_owned(), listed.backups))
        };
        let listed = self.beside.spawn(list).await;
        listed.map_err(|error| error.to_string())?
    }
}
