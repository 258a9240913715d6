//! Takes a base backup of this member's server and stores it; tells what the repository holds.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use cluster_backup::{Manifest, Repository, manifest};
use cluster_core::model::MemberName;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use crate::api::BackupControl;
use crate::board::Board;
use crate::postgres::{Postgres, Progress};
use crate::telemetry;

/// Where a copy lies until it is stored, below the façade's own directory.
const SPOOL: &str = "backup-spool";

/// The parts.
#[derive(Clone)]
pub struct Backups {
    /// Own name.
    pub me: MemberName,
    /// Where to.
    pub repository: Repository,
    /// The server.
    pub postgres: Postgres,
    /// The truth.
    pub board: watch::Receiver<Arc<Board>>,
    /// The runtime of whatever touches PostgreSQL or its files.
    pub beside: Handle,
    /// One at a time.
    pub turn: Arc<Mutex<()>>,
}

fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
}

impl Backups {
    async fn take(self, by: String) -> Result<Manifest, String> {
        let _turn = self
            .turn
            .try_lock()
            .map_err(|_| format!("{} is taking a backup already", self.me))?;
        let state = Arc::clone(&self.board.borrow().state);
        let database = state
            .system_identifier
            .ok_or("the cluster has no data yet")?;
        let began_unix = now_unix();
        let id = manifest::id_of(began_unix, &self.me);
        tracing::info!(id, by, "a base backup begins");
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
            began_unix,
            ended_unix: now_unix(),
            files: Vec::new(),
        };
        let stored = manifest::store(&self.repository, facts, &folder, &copied.files).await;
        // Stored or not: it is no use here, and takes the room of a whole database.
        let removed = std::fs::remove_dir_all(&folder);
        let stored = stored.map_err(|error| telemetry::chain(&error))?;
        if let Err(error) = removed {
            tracing::warn!(folder = %folder.display(), %error, "a copy that was stored is left");
        }
        tracing::info!(id = stored.id, end = %stored.end, "a base backup is stored");
        Ok(stored)
    }
}

#[async_trait]
impl BackupControl for Backups {
    async fn create(&self, by: &str) -> Result<Manifest, String> {
        let taken = self.beside.spawn(self.clone().take(by.to_owned())).await;
        taken.map_err(|error| error.to_string())?
    }

    async fn list(&self) -> Result<(String, Vec<Manifest>), String> {
        let repository = self.repository.clone();
        let listed = self
            .beside
            .spawn(async move { manifest::list(&repository).await })
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| telemetry::chain(&error))?;
        Ok((self.repository.place().to_owned(), listed))
    }
}
