//! Level start of a verification: a real PostgreSQL from the restored files, for itself, at the target.
//!
//! The restore is this program's own `restore`, in a process of its own: one that is given up is killed
//! and leaves nothing that still writes.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cluster_backup::Manifest;
use cluster_backup::restore::Target;
use cluster_backup::verify::report::{Findings, Measured, millis};
use tokio::process::Command;
use tokio::time::Instant;

use crate::{Place, Unlock, sandbox};

/// How often the server is asked.
const LOOK: Duration = Duration::from_millis(100);

/// A server that runs is asked so often before it is said not to answer.
const UNANSWERED: u32 = 300;

/// Longer paths are refused by PostgreSQL: its socket lies in the copy.
const SOCKET_FOLDER: usize = 90;

/// So many lines of a program are repeated.
const LINES: usize = 20;

/// What is tried.
pub struct Trial<'a> {
    /// The repository, as it was given.
    pub place: &'a Place,
    /// What opens it.
    pub unlock: &'a Unlock,
    /// From which backup.
    pub backup: &'a Manifest,
    /// Up to where.
    pub target: &'a Target,
    /// PostgreSQL's programs.
    pub bin_dir: &'a Path,
    /// The copy, below the scratch directory; not there yet.
    pub copy: PathBuf,
}

impl Trial<'_> {
    /// Restores, starts, waits, checks. What it finds is in `findings` even when it is given up.
    pub async fn run(
        &self,
        began_unix_ms: i64,
        measured: &mut Measured,
        postgres: &mut Option<String>,
        findings: &mut Findings,
    ) -> Result<()> {
        sandbox::require(self.bin_dir, self.backup.major)?;
        ensure!(
            self.copy.as_os_str().len() <= SOCKET_FOLDER,
            "{} is too long for a socket: choose another --scratch",
            self.copy.display()
        );
        let began = Instant::now();
        self.restore().await?;
        let mut rto = began.elapsed();
        findings
            .checked
            .push(format!("restored in {} ms", millis(rto)));
        // Before the server changes anything.
        self.verify_files(findings).await?;
        let began = Instant::now();
        self.start().await?;
        let first = self
            .ask("SELECT coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn())")
            .await?;
        rto += began.elapsed();
        measured.rto_ms = Some(millis(rto));
        *postgres = Some(self.ask("SHOW server_version").await?);
        findings.checked.push(format!(
            "started and at the target in {} ms, at {first}",
            millis(began.elapsed())
        ));
        self.measure_age(began_unix_ms, measured).await?;
        self.require_target(&first, measured, findings)?;
        self.check_tables(findings).await
    }

    async fn restore(&self) -> Result<()> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command.args(["restore", "--repository", &self.place.repository]);
        for (flag, file) in [
            ("--credentials", &self.place.credentials),
            ("--identity", &self.unlock.identity),
        ] {
            if let Some(file) = file {
                command.arg(flag).arg(file);
            }
        }
        command.arg("--into").arg(&self.copy);
        command.args(["--backup", &self.backup.id, "--no-lease"]);
        command.args(match self.target {
            Target::Latest => vec!["--latest".to_owned()],
            Target::Time(at) => vec!["--to".to_owned(), at.to_string()],
            Target::Lsn(at) => vec!["--lsn".to_owned(), at.to_string()],
            Target::Xid(xid) => vec!["--xid".to_owned(), xid.to_string()],
            Target::Name(name) => vec!["--name".to_owned(), name.clone()],
        });
        let said = output(&mut command).await?;
        ensure!(
            said.status.success(),
            "restore: {}",
            String::from_utf8_lossy(&said.stderr)
                .trim()
                .trim_start_matches("clusterd-backup: ")
        );
        Ok(())
    }

    async fn verify_files(&self, findings: &mut Findings) -> Result<()> {
        let program = self.bin_dir.join("pg_verifybackup");
        if !program.exists() || !self.copy.join("backup_manifest").exists() {
            findings.skipped.push(format!(
                "{} or the copy's backup_manifest is not there: the files were not compared one by one",
                program.display()
            ));
            return Ok(());
        }
        let began = Instant::now();
        let mut command = Command::new(&program);
        // What a restore writes and takes away.
        for changed in ["postgresql.auto.conf", "standby.signal", "recovery.signal"] {
            command.args(["-i", changed]);
        }
        let said = output(command.arg(&self.copy)).await?;
        match said.status.success() {
            true => findings.checked.push(format!(
                "pg_verifybackup: each file and the backup's own WAL, in {} ms",
                millis(began.elapsed())
            )),
            false => findings.problems.extend(lines("pg_verifybackup", &said)),
        }
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        let log = self.copy.join("restore.log");
        let mut command = self.pg_ctl();
        command.args(["-w", "-t", "86400", "-l"]).arg(&log);
        let started = output(command.arg("start")).await?;
        ensure!(started.status.success(), "{}", sandbox::why_it_ended(&log));
        let is_there = "SELECT NOT pg_is_in_recovery() OR pg_is_wal_replay_paused()";
        let mut unanswered = 0;
        loop {
            // Between two states it may not answer.
            match self.ask(is_there).await {
                Ok(is_there) if is_there == "t" => return Ok(()),
                Ok(_) => unanswered = 0,
                Err(_) if unanswered < UNANSWERED => unanswered += 1,
                Err(error) => return Err(error.context("the copy runs and does not answer")),
            }
            let is_running = output(self.pg_ctl().arg("status")).await?;
            ensure!(
                is_running.status.success(),
                "{}",
                sandbox::why_it_ended(&log)
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn measure_age(&self, began_unix_ms: i64, measured: &mut Measured) -> Result<()> {
        let newest =
            "SELECT floor(extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000)::bigint";
        // Empty when no commit was replayed after the backup.
        measured.newest_commit_unix_ms = self.ask(newest).await?.parse().ok();
        if *self.target == Target::Latest {
            measured.rpo_ms = measured
                .newest_commit_unix_ms
                .map(|commit| u64::try_from(began_unix_ms - commit).unwrap_or(0));
        }
        Ok(())
    }

    /// That recovery stopped is not that it stopped there.
    fn require_target(&self, at: &str, measured: &Measured, findings: &mut Findings) -> Result<()> {
        match self.target {
            Target::Lsn(wanted) if at.parse::<cluster_core::model::Lsn>()? < *wanted => findings
                .problems
                .push(format!("recovery stopped at {at}, before {wanted}")),
            Target::Time(wanted)
                if measured
                    .newest_commit_unix_ms
                    .is_some_and(|commit| commit > wanted.as_millisecond()) =>
            {
                findings
                    .problems
                    .push(format!("the copy holds a commit later than {wanted}"));
            }
            _ => {}
        }
        Ok(())
    }

    /// `pg_amcheck` needs its extension, so the copy must take writes: it leaves recovery, for itself.
    async fn check_tables(&self, findings: &mut Findings) -> Result<()> {
        let program = self.bin_dir.join("pg_amcheck");
        if !program.exists() {
            findings.skipped.push(format!(
                "{} is not there: tables and indexes were not checked",
                program.display()
            ));
            return Ok(());
        }
        let has = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'";
        if self.ask(has).await? != "1" {
            findings.skipped.push(
                "the extension amcheck is not installed: tables and indexes were not checked"
                    .to_owned(),
            );
            return Ok(());
        }
        if self.ask("SELECT pg_is_in_recovery()").await? == "t" {
            let mut command = self.pg_ctl();
            let promoted = output(command.args(["-w", "-t", "86400", "promote"])).await?;
            ensure!(
                promoted.status.success(),
                "{}",
                lines("pg_ctl promote", &promoted).join("; ")
            );
        }
        let began = Instant::now();
        let mut command = Command::new(&program);
        command.args(["--all", "--install-missing", "--heapallindexed", "-w"]);
        command.args(["-p", "5432", "-h"]).arg(&self.copy);
        let said = output(&mut command).await?;
        match said.status.success() {
            true => findings.checked.push(format!(
                "pg_amcheck: every table and B-tree index of every database, in {} ms",
                millis(began.elapsed())
            )),
            false => findings.problems.extend(lines("pg_amcheck", &said)),
        }
        Ok(())
    }

    async fn ask(&self, sql: &str) -> Result<String> {
        let mut command = Command::new(self.bin_dir.join("psql"));
        command.args(["-X", "-A", "-t", "-w", "-c", sql]);
        command.arg(format!(
            "host={} port=5432 dbname=postgres",
            self.copy.display()
        ));
        let said = output(&mut command).await?;
        if !said.status.success() {
            bail!("{}", lines("psql", &said).join("; "));
        }
        Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    fn pg_ctl(&self) -> Command {
        let mut command = Command::new(self.bin_dir.join("pg_ctl"));
        command.arg("-D").arg(&self.copy);
        command
    }

    /// Stops the server and removes the copy, however far it came.
    pub async fn clear(&self) -> Result<()> {
        /// What was killed may write for a moment longer.
        const TRIES: u32 = 50;
        if self.copy.join("postmaster.pid").exists() {
            let mut command = self.pg_ctl();
            let _ = output(command.args(["-w", "-m", "immediate", "stop"])).await;
        }
        let mut last = Ok(());
        for _ in 0..TRIES {
            last = match std::fs::remove_dir_all(&self.copy) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                other => other,
            };
            tokio::time::sleep(LOOK).await;
        }
        last.with_context(|| format!("remove the copy in {}", self.copy.display()))
    }
}

/// Runs a program to its end; given up, it is killed.
async fn output(command: &mut Command) -> Result<Output> {
    let program = command.as_std().get_program().to_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await;
    output.with_context(|| format!("run {}", program.display()))
}

/// What a program said, one problem a line.
fn lines(program: &str, said: &Output) -> Vec<String> {
    let text = [&said.stdout[..], &said.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let all: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .collect();
    let mut found: Vec<String> = all
        .iter()
        .take(LINES)
        .map(|line| format!("{program}: {line}"))
        .collect();
    if all.len() > LINES {
        found.push(format!("{program}: and {} lines more", all.len() - LINES));
    }
    if found.is_empty() {
        found.push(format!("{program}: ended with {}", said.status));
    }
    found
}
