//! `clusterd-backup verify` and `verifications`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cluster_backup::holds::{self, Lease, now_unix_ms};
use cluster_backup::restore::Target;
use cluster_backup::verify::report::FORMAT;
use cluster_backup::verify::{self, Findings, Level, Measured, Report, Verdict};
use cluster_backup::{Manifest, Repository};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::trial::Trial;
use crate::{Place, TargetFlags, Unlock, who};

/// How long a lease counts after the time limit: the copy is removed within it.
const GRACE_MS: i64 = 5 * 60 * 1000;

#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    repository: Place,
    #[command(flatten)]
    unlock: Unlock,
    /// How far to go; each level includes those before it.
    #[arg(long, value_enum, default_value = "start")]
    level: Depth,
    /// This backup; without it the newest that was complete before the target.
    #[arg(long)]
    backup: Option<String>,
    /// Backups of this database (its system identifier) alone.
    #[arg(long)]
    database: Option<u64>,
    #[command(flatten)]
    target: TargetFlags,
    /// A directory, absolute, with room for the whole database: the copy is made and removed below it.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Where PostgreSQL's programs are.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Give up after this time ("90s", "30m", "6h").
    #[arg(long, default_value = "6h", value_parser = who::duration)]
    timeout: Duration,
    /// Who asked for it; without it the user that runs this.
    #[arg(long)]
    by: Option<String>,
    /// Keep the result in the repository.
    #[arg(long)]
    keep_result: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Give up, and remove the copy, when standard input ends: whoever started this is gone.
    #[arg(long)]
    while_stdin: bool,
    /// Nobody else uses the scratch directory: what killed verifications left there is removed first.
    #[arg(long)]
    clear_scratch: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Depth {
    /// The backup's objects, by size and hash.
    Files,
    /// The archive from the backup to the target.
    Archive,
    /// A real PostgreSQL, started from it.
    Start,
}

/// Verifies and prints the report.
pub async fn verify(flags: &Flags) -> Result<ExitCode> {
    let target = crate::target(&flags.target)?;
    let repository = flags.repository.open(&flags.unlock)?;
    let mut report = Report {
        format: FORMAT,
        id: format!("{:08x}", std::process::id()),
        database: 0,
        backup: None,
        level: match flags.level {
            Depth::Files => Level::Files,
            Depth::Archive => Level::Archive,
            Depth::Start => Level::Start,
        },
        target: target.to_string(),
        verdict: Verdict::Failed,
        by: flags.by.clone().unwrap_or_else(who::user),
        host: who::host(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        postgres: None,
        began_unix_ms: now_unix_ms(),
        ended_unix_ms: 0,
        measured: Measured::default(),
        problems: Vec::new(),
        levels: Vec::new(),
    };
    let (chosen, problems) = verify::choose(
        &repository,
        flags.database,
        flags.backup.as_deref(),
        &target,
    )
    .await?;
    report.problems = problems;
    let mut is_out_of_time = false;
    if let Some(backup) = chosen {
        report.database = backup.database;
        report.backup = Some(backup.id.clone());
        is_out_of_time = under_lease(flags, &repository, &backup, &target, &mut report).await?;
    }
    report.ended_unix_ms = now_unix_ms();
    report.conclude(is_out_of_time);
    let kept = match flags.keep_result {
        true => Some(verify::kept::keep(&repository, &report).await),
        false => None,
    };
    match flags.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", report.text()),
    }
    if let Some(kept) = kept {
        let name = kept.context("keep the result")?;
        eprintln!("Kept as {name}.");
    }
    Ok(match report.verdict {
        Verdict::Successful => ExitCode::SUCCESS,
        Verdict::Failed | Verdict::TimedOut => ExitCode::FAILURE,
    })
}

/// Whether the time was up.
async fn under_lease(
    flags: &Flags,
    repository: &Repository,
    backup: &Manifest,
    target: &Target,
    report: &mut Report,
) -> Result<bool> {
    let limit = i64::try_from(flags.timeout.as_millis()).unwrap_or(i64::MAX / 2);
    let lease = Lease {
        id: format!("verify-{}-{}", report.began_unix_ms, report.id),
        backup: backup.id.clone(),
        what: "verify".to_owned(),
        by: format!("{} on {}", report.by, report.host),
        expires_unix_ms: report
            .began_unix_ms
            .saturating_add(limit)
            .saturating_add(GRACE_MS),
    };
    let taken = holds::take(repository, backup, &lease).await;
    if let Err(error) = &taken {
        eprintln!(
            "No lease ({}): a prune at this time could remove what is read here.",
            cluster_backup::archive::chain(error)
        );
    }
    let ended = bounded(flags, repository, backup, target, report).await;
    if taken.is_ok() {
        holds::give_back(repository, backup.database, &lease.id).await;
    }
    ended
}

async fn bounded(
    flags: &Flags,
    repository: &Repository,
    backup: &Manifest,
    target: &Target,
    report: &mut Report,
) -> Result<bool> {
    let trial = match (&flags.scratch, report.level) {
        (Some(scratch), Level::Start) => {
            anyhow::ensure!(
                scratch.is_absolute(),
                "--scratch {} is not absolute",
                scratch.display()
            );
            std::fs::create_dir_all(scratch)
                .with_context(|| format!("make {}", scratch.display()))?;
            if flags.clear_scratch {
                clear_scratch(flags, scratch, backup, target).await?;
            }
            require_room(scratch, backup)?;
            Some(Trial {
                place: &flags.repository,
                unlock: &flags.unlock,
                backup,
                target,
                bin_dir: flags
                    .bin_dir
                    .as_deref()
                    .context("--bin-dir is needed to start a PostgreSQL")?,
                copy: scratch.join(format!("verify-{}", report.id)),
            })
        }
        (None, Level::Start) => anyhow::bail!(
            "--scratch is needed for level start: a directory with room for the whole database"
        ),
        (_, Level::Files | Level::Archive) => None,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut is_out_of_time = false;
    let given_up = tokio::select! {
        () = levels(repository, backup, target, trial.as_ref(), report) => None,
        () = tokio::time::sleep(flags.timeout) => {
            is_out_of_time = true;
            Some(format!("the time was up after {:?}", flags.timeout))
        }
        _ = interrupt.recv() => Some("it was interrupted".to_owned()),
        _ = terminate.recv() => Some("it was told to end".to_owned()),
        () = orphaned(flags.while_stdin) => Some("whoever started it is gone".to_owned()),
    };
    if let Some(why) = given_up {
        let level = report.levels.last().map_or(Level::Files, |it| it.level);
        let where_ = level.as_str();
        report.problems.push(format!("{why}, in level {where_}"));
    }
    if let Some(trial) = &trial
        && let Err(error) = trial.clear().await
    {
        report.problems.push(format!("{error:#}"));
    }
    Ok(is_out_of_time)
}

/// Resolves when standard input ends; never when that is not asked for.
async fn orphaned(is_asked: bool) {
    if !is_asked {
        return std::future::pending().await;
    }
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: it may stand in its read when everything else is done.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(sender);
    });
    let _ = receiver.await;
}

/// Stops and removes what is left of verifications that were killed.
async fn clear_scratch(
    flags: &Flags,
    scratch: &Path,
    backup: &Manifest,
    target: &Target,
) -> Result<()> {
    let bin_dir = flags.bin_dir.as_deref();
    let bin_dir = bin_dir.context("--bin-dir is needed to stop a PostgreSQL")?;
    for entry in
        std::fs::read_dir(scratch).with_context(|| format!("read {}", scratch.display()))?
    {
        let copy = entry?.path();
        let name = copy.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("verify-") {
            continue;
        }
        let left = Trial {
            place: &flags.repository,
            unlock: &flags.unlock,
            backup,
            target,
            bin_dir,
            copy: copy.clone(),
        };
        left.clear().await?;
    }
    Ok(())
}

/// What the backup holds must fit; WAL that is replayed needs room besides.
fn require_room(scratch: &Path, backup: &Manifest) -> Result<()> {
    let wanted: u64 = backup.files.iter().map(|file| file.bytes).sum();
    let volume = rustix::fs::statvfs(scratch)
        .with_context(|| format!("how much room {} has", scratch.display()))?;
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    anyhow::ensure!(
        free > wanted,
        "{} has room for {free} bytes, and {} needs {wanted}",
        scratch.display(),
        backup.id
    );
    Ok(())
}

/// Every level that was asked for. The first two tell what they find each; nothing is started from files
/// that are wrong.
async fn levels(
    repository: &Repository,
    backup: &Manifest,
    target: &Target,
    trial: Option<&Trial<'_>>,
    report: &mut Report,
) {
    report.levels.push(Findings::new(Level::Files));
    let seen = verify::files::look(repository, backup).await;
    report.measured.bytes += seen.bytes;
    replace_last(report, seen.findings);
    if report.level < Level::Archive {
        return;
    }
    let until = match target {
        Target::Lsn(at) => Some(*at),
        Target::Latest | Target::Time(_) | Target::Xid(_) | Target::Name(_) => None,
    };
    report.levels.push(Findings::new(Level::Archive));
    let found = verify::archive::look(repository, backup, until, &mut report.measured).await;
    replace_last(report, found);
    let Some(trial) = trial else {
        return;
    };
    let is_good = report.levels.iter().all(|it| it.problems.is_empty());
    report.levels.push(Findings::new(Level::Start));
    let Some(findings) = report.levels.last_mut() else {
        return;
    };
    if !is_good {
        let why = "a level before this one found something wrong: nothing was started";
        findings.skipped.push(why.to_owned());
        return;
    }
    let began = Instant::now();
    let began_unix_ms = report.began_unix_ms;
    let tried = trial
        .run(
            began_unix_ms,
            &mut report.measured,
            &mut report.postgres,
            findings,
        )
        .await;
    if let Err(error) = tried {
        findings.problems.push(format!("{error:#}"));
    }
    let ended = findings.clone().end(began.elapsed());
    replace_last(report, ended);
}

fn replace_last(report: &mut Report, findings: Findings) {
    if let Some(last) = report.levels.last_mut() {
        *last = findings;
    }
}

/// Prints the results that were kept.
pub async fn list(place: &Place, json: bool) -> Result<()> {
    let reports = verify::kept::list(&place.open(&Unlock { identity: None })?).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
        return Ok(());
    }
    for report in &reports {
        println!("{}", report.line());
    }
    if reports.is_empty() {
        println!("no verification was kept in {}", place.repository);
    }
    Ok(())
}
