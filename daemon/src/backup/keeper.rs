//! Takes the backups that the leader names this member for, and tells how they ended. What a killed daemon was at is
//! told as failed by the next one.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::model::{BackupOutcome, BackupRun, MemberName};
use tokio::sync::watch;

use crate::api::BackupControl;
use crate::board::{Board, Propose};
use crate::telemetry;

use super::taker::Backups;

/// The end of a backup that could not be told is told again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// Its parts.
pub struct Keeper {
    /// Own name.
    pub me: MemberName,
    /// The life of this daemon.
    pub daemon_start: String,
    /// Takes them.
    pub backups: Backups,
    /// The truth.
    pub board: watch::Receiver<Arc<Board>>,
    /// Whether the truth here is not older than this process.
    pub is_current: watch::Receiver<bool>,
    /// The way to the leader.
    pub propose: Arc<dyn Propose>,
}

impl Keeper {
    /// Begins to look, beside everything else about backups.
    pub fn start(self, shutdown: watch::Receiver<bool>) {
        let beside = self.backups.beside.clone();
        beside.spawn(self.run(shutdown));
    }

    async fn run(self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.look() => {}
        }
    }

    async fn look(&self) {
        let mut current = self.is_current.clone();
        if current.wait_for(|is| *is).await.is_err() {
            return;
        }
        let mut board = self.board.clone();
        // How the newest one ended, until the truth has it: nothing is taken twice.
        let mut known: Option<(u64, BackupOutcome)> = None;
        loop {
            let seen = Arc::clone(&board.borrow_and_update());
            let open = seen.state.open_backup();
            let pause = match open.filter(|run| run.taker == self.me) {
                None => None,
                Some(run) => {
                    let outcome = match known.take() {
                        Some((index, outcome)) if index == run.index => outcome,
                        Some(_) | None => self.take(run).await,
                    };
                    let told = self.tell(run.index, &outcome).await;
                    known = Some((run.index, outcome));
                    told.err()
                }
            };
            match pause {
                None => {
                    if board.changed().await.is_err() {
                        return;
                    }
                }
                Some(why) => {
                    tracing::warn!(why, "the end of a scheduled backup could not be told yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn take(&self, run: &BackupRun) -> BackupOutcome {
        if run.daemon_start != self.daemon_start {
            let why = format!("clusterd of {} ended while it took it", self.me);
            return BackupOutcome::Failed { why };
        }
        match self.backups.create("schedule").await {
            Ok(stored) => BackupOutcome::Stored {
                bytes: stored.files.iter().map(|file| file.bytes).sum(),
                id: stored.id,
            },
            Err(why) => {
                tracing::warn!(why, "a scheduled backup failed");
                BackupOutcome::Failed { why }
            }
        }
    }

    async fn tell(&self, run: u64, outcome: &BackupOutcome) -> Result<(), String> {
        let end = Command::EndBackup {
            run,
            member: self.me.clone(),
            outcome: outcome.clone(),
        };
        let told = self.propose.propose(end).await;
        told.map_err(|error| telemetry::chain(&error))
    }
}
