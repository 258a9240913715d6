//! Does what the leader names this member for (takes, verifies, prunes backups), and tells how it ended. What a killed
//! daemon was at is told as failed by the next one.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::model::{BackupOutcome, BackupRun, ClusterState, MemberName, RunKind};
use tokio::sync::watch;

use crate::api::BackupControl;
use crate::board::{Board, Propose};
use crate::telemetry;

use super::programs::Programs;
use super::require_own;
use super::taker::Backups;

/// The end of a backup that could not be told is told again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// Its parts.
#[derive(Clone)]
pub struct Keeper {
    /// Own name.
    pub me: MemberName,
    /// The life of this daemon.
    pub daemon_start: String,
    /// Takes them.
    pub backups: Backups,
    /// Verifies and prunes them.
    pub programs: Programs,
    /// The truth.
    pub board: watch::Receiver<Arc<Board>>,
    /// Whether the truth here is not older than this process.
    pub is_current: watch::Receiver<bool>,
    /// The way to the leader.
    pub propose: Arc<dyn Propose>,
}

impl Keeper {
    /// Begins to look, beside everything else about backups: for each kind by itself, as a long verification holds up
    /// no backup.
    pub fn start(self, shutdown: watch::Receiver<bool>) {
        let beside = self.backups.beside.clone();
        for kind in RunKind::ALL {
            beside.spawn(self.clone().run(kind, shutdown.clone()));
        }
    }

    async fn run(self, kind: RunKind, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.look(kind) => {}
        }
    }

    async fn look(&self, kind: RunKind) {
        let mut current = self.is_current.clone();
        if current.wait_for(|is| *is).await.is_err() {
            return;
        }
        let mut board = self.board.clone();
        // How the newest one ended, until the truth has it: nothing is taken twice.
        let mut known: Option<(u64, BackupOutcome)> = None;
        loop {
            let seen = Arc::clone(&board.borrow_and_update());
            let open = seen.state.open_run(kind);
            let pause = match open.filter(|run| run.taker == self.me) {
                None => None,
                Some(run) => {
                    let outcome = match known.take() {
                        Some((index, outcome)) if index == run.index => outcome,
                        Some(_) | None => self.perform(&seen.state, run).await,
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
                    let what = kind.word();
                    tracing::warn!(what, why, "how it ended could not be told yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn perform(&self, state: &ClusterState, run: &BackupRun) -> BackupOutcome {
        if run.daemon_start != self.daemon_start {
            let why = format!("clusterd of {} ended while it was at it", self.me);
            return BackupOutcome::Failed { why };
        }
        let outcome = match run.what {
            RunKind::Backup => self.take().await,
            RunKind::Verify | RunKind::Prune => self.run_program(state, run.what).await,
        };
        if let Some(why) = outcome.failure() {
            let what = run.what.word();
            tracing::warn!(what, why, "what the schedule asked for failed");
        }
        outcome
    }

    async fn take(&self) -> BackupOutcome {
        match self.backups.create("schedule").await {
            Ok(stored) => BackupOutcome::Stored {
                bytes: stored.files.iter().map(|file| file.bytes).sum(),
                id: stored.id,
            },
            Err(why) => BackupOutcome::Failed { why },
        }
    }

    /// Of this cluster's own database only: others may have theirs in the same repository.
    async fn run_program(&self, state: &ClusterState, what: RunKind) -> BackupOutcome {
        if let Err(why) = require_own(state, &self.programs.repository) {
            return BackupOutcome::Failed { why };
        }
        let Some(database) = state.system_identifier else {
            let why = "the cluster has no data yet".to_owned();
            return BackupOutcome::Failed { why };
        };
        let settings = &state.settings.recovery;
        match what {
            RunKind::Prune => self.programs.prune(database, settings).await,
            RunKind::Backup | RunKind::Verify => self.programs.verify(database, settings).await,
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
