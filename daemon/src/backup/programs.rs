//! Verifies and prunes by running `clusterd-backup`, the program that an operator runs by hand: a copy that is tried
//! there is a process of its own, and takes none of the daemon's memory.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use cluster_backup::survey::Survey;
use cluster_backup::verify::{self, Level, Report};
use cluster_core::model::AuditFindings;
use cluster_core::model::backup_run::{BackupOutcome, Verdict, Verification};
use cluster_core::model::recovery::{RecoverySettings, VerifyLevel};
use tokio::process::Command;

use super::now_unix_ms;

/// So many problems are kept in the replicated state; the log has all.
const PROBLEMS_KEPT: usize = 5;

/// A verification ends by itself after `verify_timeout`; one that has not so long after it is given up. Judgement:
/// the copy has to be stopped and removed.
const CLEAN_UP: Duration = Duration::from_secs(600);

/// A look at the archive that takes longer is given up. Judgement: it lists names, a thousand a request.
const AUDIT_LIMIT: Duration = Duration::from_secs(600);

/// A pruning that takes longer is given up. What it was at stays whole; the next one goes on.
/// Judgement: it only lists and deletes.
const PRUNE_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// What the programs are given.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `clusterd-backup`.
    pub binary: PathBuf,
    /// The repository.
    pub repository: String,
    /// Credentials that may read; none: a directory, or the host's own role.
    pub read_credentials: Option<PathBuf>,
    /// Credentials that may delete.
    pub prune_credentials: Option<PathBuf>,
    /// The private key of an encrypted repository.
    pub identity: Option<PathBuf>,
    /// PostgreSQL's programs.
    pub bin_dir: PathBuf,
    /// Below it a copy is tried. Nobody else uses it.
    pub scratch: PathBuf,
}

impl Programs {
    /// Proves the newest backup of this database.
    pub async fn verify(&self, database: u64, settings: &RecoverySettings) -> BackupOutcome {
        let mut command = self.command("verify", self.read_credentials.as_ref(), database);
        command.args(["--by", "schedule"]);
        command.args(["--json", "--clear-scratch", "--while-stdin"]);
        command.args(["--level", settings.verify_level.word()]);
        command.arg("--scratch").arg(&self.scratch);
        command.arg("--bin-dir").arg(&self.bin_dir);
        let timeout = format!("{}ms", settings.verify_timeout_ms);
        command.args(["--timeout", &timeout]);
        let limit = Duration::from_millis(settings.verify_timeout_ms).saturating_add(CLEAN_UP);
        let said = match run(&mut command, limit).await {
            Ok(said) => said,
            Err(why) => return BackupOutcome::Failed { why },
        };
        match serde_json::from_slice::<Report>(&said.stdout) {
            Ok(report) => BackupOutcome::Verified(Box::new(verification(report))),
            Err(_) => BackupOutcome::Failed {
                why: last_words(&said),
            },
        }
    }

    /// Deletes what nothing of this database needs any more.
    pub async fn prune(&self, database: u64, settings: &RecoverySettings) -> BackupOutcome {
        let mut command = self.command("prune", self.prune_credentials.as_ref(), database);
        command.args(["--by", "schedule"]);
        command.args(["--keep-window", &format!("{}ms", settings.keep_window_ms)]);
        command.args(["--keep-at-least", &settings.keep_at_least.to_string()]);
        command.arg("--yes").kill_on_drop(true);
        let said = match run(&mut command, PRUNE_LIMIT).await {
            Ok(said) if said.status.success() => said,
            Ok(said) => {
                return BackupOutcome::Failed {
                    why: last_words(&said),
                };
            }
            Err(why) => return BackupOutcome::Failed { why },
        };
        let text = String::from_utf8_lossy(&said.stdout);
        let deleted: Vec<&str> = text
            .lines()
            .filter(|it| it.starts_with("Deleted"))
            .collect();
        BackupOutcome::Pruned {
            what: match deleted.is_empty() {
                true => "nothing had to go".to_owned(),
                false => deleted.join(" "),
            },
        }
    }

    /// Whether the archive of this database has a hole. `archived`: what the primary was told is there.
    ///
    /// # Errors
    /// In words: it could not be looked at.
    pub async fn audit(
        &self,
        database: u64,
        archived: Option<&str>,
    ) -> Result<AuditFindings, String> {
        let mut command = self.command("audit", self.read_credentials.as_ref(), database);
        command.arg("--json").kill_on_drop(true);
        if let Some(name) = archived {
            command.args(["--archived", name]);
        }
        let said = run(&mut command, AUDIT_LIMIT).await?;
        match serde_json::from_slice::<Survey>(&said.stdout) {
            Ok(survey) => Ok(findings(survey)),
            Err(_) => Err(last_words(&said)),
        }
    }

    fn command(&self, verb: &str, credentials: Option<&PathBuf>, database: u64) -> Command {
        let mut command = Command::new(&self.binary);
        command.args([verb, "--repository", &self.repository]);
        command.args(["--database", &database.to_string()]);
        for (flag, file) in [
            ("--credentials", credentials),
            ("--identity", self.identity.as_ref()),
        ] {
            if let Some(file) = file {
                command.arg(flag).arg(file);
            }
        }
        command
    }
}

/// Runs it to its end. Its standard input stays open as long as somebody waits here: when this daemon is gone, it is
/// closed, and a verification removes its copy and ends.
async fn run(command: &mut Command, limit: Duration) -> Result<Output, String> {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        let program = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        format!("could not run {program}: {error}")
    })?;
    let open = child.stdin.take();
    let ended = tokio::time::timeout(limit, child.wait_with_output()).await;
    drop(open);
    match ended {
        Ok(ended) => ended.map_err(|error| format!("could not wait for its end: {error}")),
        Err(_) => Err(format!("it was not over after {} s", limit.as_secs())),
    }
}

fn last_words(said: &Output) -> String {
    let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    match text.is_empty() {
        true => format!("clusterd-backup ended with {}", said.status),
        false => text,
    }
}

fn findings(survey: Survey) -> AuditFindings {
    let unix_ms = |at: i64| u64::try_from(at).unwrap_or(0);
    AuditFindings {
        at_unix_ms: unix_ms(now_unix_ms()),
        backups: survey.backups as u64,
        segments: survey.segments as u64,
        first: survey.first.map(|it| (it.backup, unix_ms(it.at_unix_ms))),
        missing: survey.missing as u64,
        names: survey.names,
        problems: survey.problems.into_iter().take(PROBLEMS_KEPT).collect(),
    }
}

fn verification(report: Report) -> Verification {
    let problems = report.levels.iter().flat_map(|level| &level.problems);
    let problems: Vec<&String> = report.problems.iter().chain(problems).collect();
    for problem in &problems {
        tracing::warn!(problem, "a verification found something wrong");
    }
    Verification {
        verdict: match report.verdict {
            verify::Verdict::Successful => Verdict::Successful,
            verify::Verdict::Failed => Verdict::Failed,
            verify::Verdict::TimedOut => Verdict::TimedOut,
        },
        level: match report.level {
            Level::Files => VerifyLevel::Files,
            Level::Archive => VerifyLevel::Archive,
            Level::Start => VerifyLevel::Start,
        },
        bytes: report.measured.bytes,
        rto_ms: report.measured.rto_ms,
        rpo_ms: report.measured.rpo_ms,
        problems: problems.into_iter().take(PROBLEMS_KEPT).cloned().collect(),
        backup: report.backup,
        host: report.host,
        version: report.version,
        postgres: report.postgres,
        by: report.by,
    }
}
