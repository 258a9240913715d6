//! Durable probes: can the data volume, the WAL volume and a commit still be written?
//!
//! Each volume has one worker at a time: a hung disk leaves one thread waiting, and every probe
//! meanwhile fails at once (hazards H6). Nothing of the user's is written to.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Error, Postgres, sql};

/// How long the last write took, on each volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeLatencies {
    /// Write and fdatasync on the data volume.
    pub data: Duration,
    /// The same on the WAL volume; equal to `data` when it is the same volume.
    pub wal: Duration,
}

/// Which volumes have a worker that has not come back.
#[derive(Default)]
pub(super) struct Workers {
    data: Arc<AtomicBool>,
    wal: Arc<AtomicBool>,
    /// A look at files by `observe`.
    pub(super) files: Arc<AtomicBool>,
}

/// Left out of basebackups by its prefix; PostgreSQL ignores it.
const DATA_FILE: &str = "pgsql_tmp_clusterd_probe";
/// `pg_wal` is not copied, and names that are no segment are ignored in it.
const WAL_FILE: &str = "clusterd_probe";

impl Postgres {
    /// Writes and syncs a block on the data and the WAL volume, side by side.
    pub async fn probe_volumes(&self, limit: Duration) -> Result<ProbeLatencies, Error> {
        let wal_dir = self.data_path("pg_wal");
        let data_dir = &self.options().data_dir;
        let device = |path: &std::path::Path| path.metadata().map(|meta| meta.dev()).ok();
        let same = device(data_dir) == device(&wal_dir);
        // Before there is a database, a file of ours must not make its place look taken.
        let data_file = match self.data_path("PG_VERSION").exists() {
            true => self.data_path(DATA_FILE),
            false => self.state_path(WAL_FILE),
        };
        let same = same || !wal_dir.exists();
        let data = self.write_block("data volume", &self.inner.probes.data, data_file, limit);
        if same {
            let data = data.await?;
            return Ok(ProbeLatencies { data, wal: data });
        }
        let wal = self.write_block(
            "WAL volume",
            &self.inner.probes.wal,
            wal_dir.join(WAL_FILE),
            limit,
        );
        let (data, wal) = tokio::join!(data, wal);
        Ok(ProbeLatencies {
            data: data?,
            wal: wal?,
        })
    }

    async fn write_block(
        &self,
        what: &'static str,
        busy: &Arc<AtomicBool>,
        path: PathBuf,
        limit: Duration,
    ) -> Result<Duration, Error> {
        let failed = |why: String| Error::Probe { what, why };
        if busy.swap(true, Ordering::AcqRel) {
            return Err(failed("an earlier write has not come back".to_owned()));
        }
        let begin = Instant::now();
        let busy = Arc::clone(busy);
        let owner = self.owner();
        let worker = tokio::task::spawn_blocking(move || {
            let write = || -> std::io::Result<()> {
                // Made anew and removed each time: a full volume has no room for it.
                let mut file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&path)?;
                owner.take(&path)?;
                file.write_all(&[0_u8; 8192])?;
                file.sync_data()?;
                std::fs::remove_file(&path)
            };
            let written = write();
            busy.store(false, Ordering::Release);
            written
        });
        match timeout(limit, worker).await {
            Err(_) => Err(failed(format!("no answer within {limit:?}"))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok(Err(error))) => Err(failed(error.to_string())),
            Ok(Ok(Ok(()))) => Ok(begin.elapsed()),
        }
    }

    /// On a primary: one local commit, flushed, in a session of its own kind that waits for no standby.
    pub async fn probe_commit(&self, limit: Duration) -> Result<Duration, Error> {
        let begin = Instant::now();
        let commit = async {
            let session = self.session().await?;
            session.query(limit, sql::COMMIT_PROBE, &[]).await
        };
        match timeout(limit, commit).await {
            Ok(Ok(_)) => Ok(begin.elapsed()),
            Ok(Err(error)) => Err(Error::Probe {
                what: "commit",
                why: error.to_string(),
            }),
            Err(_) => Err(Error::Probe {
                what: "commit",
                why: format!("no answer within {limit:?}"),
            }),
        }
    }
}
