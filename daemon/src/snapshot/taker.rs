//! Takes one snapshot: room first, the copy, everybody's part, the file, and then the truth is told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster_backup::Recipient;
use cluster_backup::snapshot::{self, Facts};
use cluster_core::change::Command;
use cluster_core::model::snapshot::{Snapshot, SnapshotFile};
use cluster_core::model::{ClusterState, SnapshotId};
use tokio::sync::watch;

use crate::backup::now_unix_ms;
use crate::board::ProposeError;
use crate::postgres::{Postgres, Progress, free_bytes};
use crate::telemetry;

use super::{Place, steps};

/// A member that has not added its part this long after the copy is complete is missing in it.
const PARTS_LIMIT: Duration = Duration::from_secs(10);

/// The truth is told again after this; the leader gives a snapshot up whose taker is silent for long.
const AGAIN: Duration = Duration::from_secs(1);

/// What must stay free beside twice the database. Unit: bytes.
const RESERVE: u64 = 64 << 20;

/// One that is being taken.
pub(super) struct Taker {
    pub place: Arc<Place>,
    pub id: SnapshotId,
}

impl Taker {
    /// Ends when the truth knows how it ended. `refused`: it cannot even begin.
    pub async fn run(self, refused: Option<String>) {
        tracing::info!(id = %self.id, "a snapshot begins");
        let taken = match refused {
            Some(why) => Err(why),
            None => self.take().await,
        };
        // Whatever became of it: the copy has no use any more, and takes the room of a whole database.
        let spool = self.place.folder.join(steps::spool(&self.id));
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(spool)).await;
        let command = match taken {
            Ok(file) => {
                tracing::info!(id = %self.id, bytes = file.bytes, end = %file.end, "a snapshot is packed");
                Command::CompleteSnapshot {
                    id: self.id.clone(),
                    member: self.place.me.clone(),
                    file,
                }
            }
            Err(why) => {
                tracing::warn!(id = %self.id, why, "a snapshot failed");
                Command::FailSnapshot {
                    id: self.id.clone(),
                    why,
                }
            }
        };
        self.tell(command).await;
    }

    /// Until it is known, or the truth says otherwise.
    async fn tell(&self, mut command: Command) {
        loop {
            match self.place.propose.propose(command.clone()).await {
                Ok(()) => break,
                Err(ProposeError::Rejected(why)) => {
                    let Command::CompleteSnapshot { id, .. } = command else {
                        break;
                    };
                    let why = why.to_string();
                    tracing::warn!(%id, why, "a snapshot failed");
                    command = Command::FailSnapshot { id, why };
                }
                Err(ProposeError::NoLeader(_) | ProposeError::Unknown) => {
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        // Before it is looked at again as one that nobody takes.
        let mut board = self.place.board.clone();
        let is_over =
            |state: &ClusterState| state.snapshots.get(&self.id).is_none_or(|it| !it.is_open());
        let _ = board.wait_for(|board| is_over(&board.state)).await;
    }

    fn record(&self, state: &ClusterState) -> Result<Snapshot, String> {
        let found = state.snapshots.get(&self.id);
        let found = found.ok_or("the cluster does not know it any more")?;
        match found.status() {
            _ if found.is_open() => {}
            (status, why) => {
                let why = why.unwrap_or_default();
                return Err(format!("it is {} already: {why}", status.word()));
            }
        }
        // A copy across a failover is of two histories, and one of a standby that was promoted meanwhile
        // is of the wrong one [hazards K10].
        match state.epoch() == found.epoch {
            true => Ok(found.clone()),
            false => Err(format!(
                "epoch {} began while it was taken in epoch {}",
                state.epoch(),
                found.epoch
            )),
        }
    }

    async fn take(&self) -> Result<SnapshotFile, String> {
        let place = &self.place;
        let postgres = place
            .postgres
            .as_ref()
            .ok_or("this member has no PostgreSQL")?;
        let state = || Arc::clone(&place.board.borrow().state);
        let recipients = self.recipients(&state())?;
        let began_unix_ms = now_unix_ms();
        let _turn = place
            .turn
            .try_lock()
            .map_err(|_| format!("{} is taking a backup", place.me))?;
        self.require_room(postgres).await?;
        let spool = place.folder.join(steps::spool(&self.id));
        let copied = self.copy(postgres, &spool).await?;
        let ended_unix_ms = now_unix_ms();
        self.parts().await?;
        let state = state();
        self.record(&state)?;
        let on = state.granted().map(|reign| reign.timeline);
        if on != Some(copied.timeline) {
            return Err(format!(
                "the copy is on timeline {}, not the primary's",
                copied.timeline
            ));
        }
        let facts = Facts {
            id: self.id.clone(),
            state: (*state).clone(),
            taker: place.me.clone(),
            major: postgres.major().0,
            timeline: copied.timeline,
            end: copied.end,
            began_unix_ms,
            ended_unix_ms,
            recipients,
        };
        let into = place.folder.join(steps::file(&self.id));
        let (major, start) = (facts.major, copied.start);
        let (timeline, end) = (copied.timeline, copied.end);
        let files = copied.files;
        let packed =
            tokio::task::spawn_blocking(move || snapshot::pack(&facts, &spool, &files, &into));
        let packed = packed
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| telemetry::chain(&error))?;
        Ok(SnapshotFile {
            bytes: packed.bytes,
            sha256: packed.sha256,
            timeline,
            start,
            end,
            major,
        })
    }

    fn recipients(&self, state: &ClusterState) -> Result<Vec<Recipient>, String> {
        let wanted = self.record(state)?.recipients;
        wanted.iter().map(|it| it.parse()).collect()
    }

    /// The copy and its compressed form lie there together, and then that and the file.
    async fn require_room(&self, postgres: &Postgres) -> Result<(), String> {
        let (postgres, folder) = (postgres.clone(), self.place.folder.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let size = postgres.data_bytes();
            (size, free_bytes(&folder))
        });
        let (size, has) = looked.await.map_err(|error| error.to_string())?;
        let needs = size * 2 + RESERVE;
        match has < needs {
            true => Err(format!(
                "no room in {}: needs {needs} bytes, has {has}",
                self.place.folder.display()
            )),
            false => Ok(()),
        }
    }

    async fn copy(
        &self,
        postgres: &Postgres,
        spool: &Path,
    ) -> Result<crate::postgres::BaseBackup, String> {
        let (progress, _) = watch::channel(Progress::default());
        let label = format!("snapshot {}", self.id);
        let copying = postgres.base_backup_into(spool, &label, progress);
        tokio::pin!(copying);
        let mut board = self.place.board.clone();
        let voided = async {
            let voided = board.wait_for(|board| self.record(&board.state).is_err());
            match voided.await {
                Ok(board) => self.record(&board.state).err().unwrap_or_default(),
                Err(_closed) => "this daemon stops".to_owned(),
            }
        };
        let why = tokio::select! {
            copied = &mut copying => return copied.map_err(|error| telemetry::chain(&error)),
            why = voided => why,
        };
        // Told at once. The copy is not ended: the order to the guard would end a rewind as well.
        let fail = Command::FailSnapshot {
            id: self.id.clone(),
            why: why.clone(),
        };
        let _ = self.place.propose.propose(fail).await;
        let _ = copying.await;
        Err(why)
    }

    /// Waits until everybody has added its part, but not for ever.
    async fn parts(&self) -> Result<(), String> {
        let mut board = self.place.board.clone();
        let is_ready = |state: &ClusterState| match self.record(state) {
            Ok(record) => record.asked.iter().all(|it| record.parts.contains_key(it)),
            Err(_) => true,
        };
        let ready = board.wait_for(|board| is_ready(&board.state));
        // Late ones are missing, which the catalogue says of them.
        let _ = tokio::time::timeout(PARTS_LIMIT, ready).await;
        let state = Arc::clone(&self.place.board.borrow().state);
        match self.record(&state)?.parts.contains_key(&self.place.me) {
            true => Ok(()),
            false => Err("this member's own part could not be added".to_owned()),
        }
    }
}
