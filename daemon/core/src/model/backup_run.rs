//! What the cluster does by itself for its backups (takes, proves, deletes them): what is under way and how the newest
//! ones ended. Replicated, so that another leader neither repeats nor forgets one.

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::ids::MemberName;
use super::recovery::VerifyLevel;
use super::recurrence::Recurrence;
use super::settings::Settings;
use super::state::ClusterState;

/// How many of each kind are remembered; of those that went well the newest always is.
pub const RUNS_KEPT: usize = 20;
/// How often one moment of the schedule is tried. Judgement: what three attempts did not cure wants a person, and
/// the schedule's next moment comes anyway.
pub const ATTEMPTS: u32 = 3;

/// What is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// A base backup is taken.
    #[default]
    Backup,
    /// The newest backup is proven.
    Verify,
    /// What nothing needs any more is deleted.
    Prune,
}

impl RunKind {
    /// Each of them.
    pub const ALL: [RunKind; 3] = [RunKind::Backup, RunKind::Verify, RunKind::Prune];

    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            RunKind::Backup => "backup",
            RunKind::Verify => "verify",
            RunKind::Prune => "prune",
        }
    }

    /// The name of its setting.
    pub fn key(self) -> &'static str {
        match self {
            RunKind::Backup => "backup_schedule",
            RunKind::Verify => "verify_schedule",
            RunKind::Prune => "prune_schedule",
        }
    }

    /// When it is done.
    pub fn schedule(self, settings: &Settings) -> &Recurrence {
        match self {
            RunKind::Backup => &settings.backup_schedule,
            RunKind::Verify => &settings.recovery.verify_schedule,
            RunKind::Prune => &settings.recovery.prune_schedule,
        }
    }

    /// Whether it is a backup: an older version knows nothing else, and nothing is stored for it.
    pub fn is_backup(&self) -> bool {
        *self == RunKind::Backup
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRun {
    /// Log index of its beginning: its number.
    pub index: u64,
    /// What is done.
    #[serde(default, skip_serializing_if = "RunKind::is_backup")]
    pub what: RunKind,
    /// The moment of the schedule that it is for, Unix milliseconds.
    pub due_unix_ms: u64,
    /// Which attempt at that moment, from 1.
    pub attempt: u32,
    /// When it began, Unix milliseconds of the proposer's clock.
    pub began_unix_ms: u64,
    /// Who does it.
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
    /// It could not be done.
    Failed {
        /// Why, as a sentence.
        why: String,
    },
    /// The backup was looked at.
    Verified(Box<Verification>),
    /// What nothing needs was deleted.
    Pruned {
        /// What went, as a sentence.
        what: String,
    },
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// How it ended.
    pub verdict: Verdict,
    /// How far it was to go.
    pub level: VerifyLevel,
    /// Which backup; none when none could be chosen.
    pub backup: Option<String>,
    /// What was read. Unit: bytes.
    pub bytes: u64,
    /// From the beginning of the restore to the first answer. Unit: milliseconds.
    pub rto_ms: Option<u64>,
    /// The age of the newest commit in the copy. Unit: milliseconds.
    pub rpo_ms: Option<u64>,
    /// The host's own name.
    pub host: String,
    /// The version of the program that looked.
    pub version: String,
    /// The version of the PostgreSQL that was started.
    pub postgres: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// What is wrong; the first of it.
    pub problems: Vec<String>,
}

/// How a verification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// All that was asked for passed.
    Successful,
    /// Something is wrong, or could not be looked at.
    Failed,
    /// It was not done within `verify_timeout`.
    TimedOut,
}

impl Verdict {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Successful => "SUCCESSFUL",
            Verdict::Failed => "FAILED",
            Verdict::TimedOut => "TIMED_OUT",
        }
    }
}

impl BackupOutcome {
    /// Whether it went well.
    pub fn is_good(&self) -> bool {
        self.failure().is_none()
    }

    /// What is wrong; none when it went well.
    pub fn failure(&self) -> Option<String> {
        match self {
            BackupOutcome::Stored { .. } | BackupOutcome::Pruned { .. } => None,
            BackupOutcome::Failed { why } => Some(why.clone()),
            BackupOutcome::Verified(found) => match found.verdict {
                Verdict::Successful => None,
                Verdict::Failed | Verdict::TimedOut => Some(format!(
                    "{}: {}",
                    found.verdict.word(),
                    found.problems.join("; ")
                )),
            },
        }
    }

    /// Whether it is what a run of this kind can come to.
    pub fn is_of(&self, kind: RunKind) -> bool {
        match self {
            BackupOutcome::Stored { .. } => kind == RunKind::Backup,
            BackupOutcome::Verified(_) => kind == RunKind::Verify,
            BackupOutcome::Pruned { .. } => kind == RunKind::Prune,
            BackupOutcome::Failed { .. } => true,
        }
    }

    /// Another attempt may end otherwise. Time that was not enough will not be enough a minute later.
    fn is_worth_another(&self) -> bool {
        match self {
            BackupOutcome::Stored { .. } | BackupOutcome::Pruned { .. } => false,
            BackupOutcome::Failed { .. } => true,
            BackupOutcome::Verified(found) => found.verdict == Verdict::Failed,
        }
    }
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

    /// Whether it went well.
    pub fn is_good(&self) -> bool {
        self.ended().is_some_and(|(_, outcome)| outcome.is_good())
    }

    /// When it failed in a way that another attempt may cure.
    pub fn failed_at(&self) -> Option<u64> {
        let (at, outcome) = self.ended()?;
        outcome.is_worth_another().then_some(at)
    }
}

impl ClusterState {
    /// What of this kind is under way.
    pub fn open_run(&self, kind: RunKind) -> Option<&BackupRun> {
        self.runs(kind).find(|run| run.is_open())
    }

    /// All of one kind, the newest last.
    pub fn runs(&self, kind: RunKind) -> impl DoubleEndedIterator<Item = &BackupRun> {
        self.backup_runs.iter().filter(move |run| run.what == kind)
    }

    /// The newest of this kind that went well.
    pub fn newest_success(&self, kind: RunKind) -> Option<&BackupRun> {
        self.runs(kind).rev().find(|run| run.is_good())
    }

    /// The newest scheduled backup that is in the repository.
    pub fn stored_backup(&self) -> Option<&BackupRun> {
        self.newest_success(RunKind::Backup)
    }
}
