//! Backups that the cluster takes by itself: which one is under way and how the newest ones ended. Replicated, so
//! that another leader neither repeats nor forgets one.

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::ids::MemberName;
use super::state::ClusterState;

/// How many are remembered; of those that are stored the newest always is.
pub const RUNS_KEPT: usize = 20;
/// How often one moment of the schedule is tried. Judgement: what three attempts did not cure wants a person, and
/// the schedule's next moment comes anyway.
pub const ATTEMPTS: u32 = 3;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRun {
    /// Log index of its beginning: its number.
    pub index: u64,
    /// The moment of the schedule that it is for, Unix milliseconds.
    pub due_unix_ms: u64,
    /// Which attempt at that moment, from 1.
    pub attempt: u32,
    /// When it began, Unix milliseconds of the proposer's clock.
    pub began_unix_ms: u64,
    /// Who takes it.
    pub taker: MemberName,
    /// The life of the taker's daemon: another one knows that it was interrupted.
    pub daemon_start: String,
    /// The epoch it began under.
    pub epoch: Epoch,
    /// Where it stands.
    pub stage: BackupStage,
}

/// Where one stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum BackupStage {
    /// Under way.
    Running,
    /// Over, at this moment of the proposer's clock.
    Ended {
        /// Unix milliseconds.
        at_unix_ms: u64,
        /// How.
        outcome: BackupOutcome,
    },
}

/// How one ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum BackupOutcome {
    /// Its manifest is in the repository.
    Stored {
        /// Its name there.
        id: String,
        /// Its size there.
        bytes: u64,
    },
    /// There is none.
    Failed {
        /// Why, as a sentence.
        why: String,
    },
}

impl BackupRun {
    /// Under way.
    pub fn is_open(&self) -> bool {
        self.stage == BackupStage::Running
    }

    /// When and how it ended.
    pub fn ended(&self) -> Option<(u64, &BackupOutcome)> {
        match &self.stage {
            BackupStage::Running => None,
            BackupStage::Ended {
                at_unix_ms,
                outcome,
            } => Some((*at_unix_ms, outcome)),
        }
    }

    /// Whether it is in the repository.
    pub fn is_stored(&self) -> bool {
        matches!(self.ended(), Some((_, BackupOutcome::Stored { .. })))
    }

    /// When it failed.
    pub fn failed_at(&self) -> Option<u64> {
        match self.ended() {
            Some((at, BackupOutcome::Failed { .. })) => Some(at),
            Some((_, BackupOutcome::Stored { .. })) | None => None,
        }
    }
}

impl ClusterState {
    /// The scheduled backup that is under way.
    pub fn open_backup(&self) -> Option<&BackupRun> {
        self.backup_runs.iter().find(|run| run.is_open())
    }

    /// The newest scheduled backup that is in the repository.
    pub fn stored_backup(&self) -> Option<&BackupRun> {
        self.backup_runs.iter().rev().find(|run| run.is_stored())
    }
}
