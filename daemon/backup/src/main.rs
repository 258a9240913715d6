//! clusterd-backup: PostgreSQL's archive and restore commands, and the repository by hand, without any
//! daemon: what is needed when every host is gone.

mod audit_command;
mod key;
mod prune_command;
mod sandbox;
mod snapshot_command;
mod trial;
mod verify_command;
mod who;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use cluster_backup::archive::chain;
use cluster_backup::names::WalName;
use cluster_backup::restore::{self, Plan, Target, Wanted, moment};
use cluster_backup::{Options, Repository, command, holds, manifest, wal};
use cluster_core::model::Lsn;
use jiff::Timestamp;

/// Recovery takes a plain failure for "there is no such file" and ends. Anything above 125 stops it.
/// Source: PostgreSQL's manual on restore_command.
const STOP_RECOVERY: u8 = 255;

/// The daemon answers when the file is in the repository; PostgreSQL asks again after a failure.
const PUSH_LIMIT: Duration = Duration::from_secs(120);

/// Backups and archived WAL, by hand.
#[derive(Parser)]
#[command(name = "clusterd-backup", version)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hand a file of pg_wal to the local clusterd (PostgreSQL's archive_command).
    Push {
        /// The daemon's socket.
        #[arg(long)]
        socket: PathBuf,
        /// The file's name.
        name: String,
    },
    /// Bring a file of WAL back (PostgreSQL's restore_command).
    Fetch {
        #[command(flatten)]
        repository: Place,
        #[command(flatten)]
        unlock: Unlock,
        /// System identifier of the database.
        #[arg(long)]
        database: u64,
        /// The file's name.
        name: String,
        /// Where to.
        path: PathBuf,
    },
    /// The backups of a repository.
    List {
        #[command(flatten)]
        repository: Place,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Restore a copy for itself into an empty directory, up to a point in time.
    Restore(RestoreFlags),
    /// The file of a snapshot of a whole cluster.
    #[command(subcommand)]
    Snapshot(snapshot_command::SnapshotCommand),
    /// Keys of encrypted repositories.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Is a backup good? Exit code 0 only when it is.
    Verify(verify_command::Flags),
    /// Delete backups and WAL that nothing needs any more.
    Prune(prune_command::Flags),
    /// Keep a backup, however old it gets.
    Pin(prune_command::PinFlags),
    /// Let a pinned backup go when its time comes.
    Unpin {
        #[command(flatten)]
        repository: Place,
        /// The backup.
        id: String,
    },
    /// Does the archive lead from the oldest backup to now without a hole? Exit code 0 only when it does.
    Audit(audit_command::Flags),
    /// The results of verifications that were kept.
    Verifications {
        #[command(flatten)]
        repository: Place,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Place {
    /// The repository: an absolute path of a directory, or the URL of an object store.
    #[arg(long, env = "CLUSTERD_REPOSITORY")]
    repository: String,
    /// File of the object store's options and credentials; only its owner may read it.
    #[arg(long, value_name = "FILE", env = "CLUSTERD_REPOSITORY_CREDENTIALS")]
    credentials: Option<PathBuf>,
}

#[derive(Args)]
struct Unlock {
    /// File of a private key that opens an encrypted repository; only its owner may read it.
    #[arg(long, value_name = "FILE", env = "CLUSTERD_BACKUP_IDENTITY")]
    identity: Option<PathBuf>,
}

impl Place {
    fn open(&self, unlock: &Unlock) -> anyhow::Result<Repository> {
        let options = Options {
            credentials: self.credentials.clone(),
            identity: unlock.identity.clone(),
            ..Options::default()
        };
        Ok(Repository::open_with(&self.repository, options)?)
    }
}

/// Up to where.
#[derive(Args)]
struct TargetFlags {
    /// Up to this moment, inclusive, with its time zone: "2026-11-21 10:00:00+00".
    #[arg(long, group = "target")]
    to: Option<String>,
    /// Up to this position, inclusive.
    #[arg(long, group = "target")]
    lsn: Option<Lsn>,
    /// Up to this transaction, inclusive.
    #[arg(long, group = "target")]
    xid: Option<u64>,
    /// Up to the restore point of this name.
    #[arg(long, group = "target")]
    name: Option<String>,
    /// Everything that was archived (the default).
    #[arg(long, group = "target")]
    latest: bool,
}

#[derive(Args)]
struct RestoreFlags {
    #[command(flatten)]
    repository: Place,
    #[command(flatten)]
    unlock: Unlock,
    /// An empty or new directory, absolute; it becomes the data directory.
    #[arg(long)]
    into: PathBuf,
    #[command(flatten)]
    target: TargetFlags,
    /// From this backup; without it the newest that was complete before the target.
    #[arg(long)]
    backup: Option<String>,
    /// Print what would be done; touch nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take no lease: whoever starts this holds one.
    #[arg(long, hide = true)]
    no_lease: bool,
    /// Start it, wait for the target, and print how to reach it. Not as root.
    #[arg(long, requires = "bin_dir")]
    start: bool,
    /// Where PostgreSQL's programs are; a transaction or a restore point is searched for with pg_waldump.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let ended = match flags.command {
        Command::Push { socket, name } => push(&socket, &name).map(|()| ExitCode::SUCCESS),
        Command::Fetch {
            repository,
            unlock,
            database,
            name,
            path,
        } => match run(fetch(&repository, &unlock, database, &name, &path)) {
            Ok(true) => Ok(ExitCode::SUCCESS),
            Ok(false) => Ok(ExitCode::FAILURE),
            Err(error) => {
                eprintln!("clusterd-backup: {error:#}");
                return ExitCode::from(STOP_RECOVERY);
            }
        },
        Command::List { repository, json } => {
            run(list(&repository, json)).map(|()| ExitCode::SUCCESS)
        }
        Command::Restore(flags) => run(restore(&flags)).map(|()| ExitCode::SUCCESS),
        Command::Snapshot(command) => Ok(snapshot_command::run(&command)),
        Command::Key(command) => key::key(command).map(|()| ExitCode::SUCCESS),
        Command::Prune(flags) => run(prune_command::prune(&flags)).map(|()| ExitCode::SUCCESS),
        Command::Pin(flags) => run(prune_command::pin(&flags)).map(|()| ExitCode::SUCCESS),
        Command::Unpin { repository, id } => {
            run(prune_command::unpin(&repository, &id)).map(|()| ExitCode::SUCCESS)
        }
        Command::Verify(flags) => run(verify_command::verify(&flags)),
        Command::Audit(flags) => run(audit_command::audit(&flags)),
        Command::Verifications { repository, json } => {
            run(verify_command::list(&repository, json)).map(|()| ExitCode::SUCCESS)
        }
    };
    ended.unwrap_or_else(|error| {
        eprintln!("clusterd-backup: {error:#}");
        ExitCode::FAILURE
    })
}

fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

fn push(socket: &Path, name: &str) -> anyhow::Result<()> {
    let name = WalName::parse(name)?;
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("clusterd does not listen on {}", socket.display()))?;
    stream.set_read_timeout(Some(PUSH_LIMIT))?;
    writeln!(stream, "push {}", name.as_str())?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .context("clusterd did not answer")?;
    match answer.trim() {
        "ok" => Ok(()),
        "" => anyhow::bail!("clusterd ended"),
        why => anyhow::bail!("{}", why.strip_prefix("error ").unwrap_or(why)),
    }
}

async fn fetch(
    place: &Place,
    unlock: &Unlock,
    database: u64,
    name: &str,
    path: &Path,
) -> anyhow::Result<bool> {
    let repository = place.open(unlock)?;
    let name = WalName::parse(name)?;
    Ok(wal::fetch(&repository, database, &name, path).await?)
}

async fn list(place: &Place, json: bool) -> anyhow::Result<()> {
    let listed = manifest::read_all(&place.open(&Unlock { identity: None })?).await?;
    let backups = listed.backups;
    if json {
        println!("{}", serde_json::to_string_pretty(&backups)?);
        return Ok(());
    }
    for backup in &backups {
        let bytes: u64 = backup.files.iter().map(|file| file.bytes).sum();
        println!(
            "{}  database {}  PostgreSQL {}  of {} at epoch {}  complete {} ({})  {bytes} bytes",
            backup.id,
            backup.database,
            backup.major,
            backup.member,
            backup.epoch,
            moment(backup.ended_unix_ms),
            backup.end,
        );
    }
    if backups.is_empty() {
        println!("no backup in {}", place.repository);
    }
    match listed.damaged.as_slice() {
        [] => Ok(()),
        damaged => {
            let damaged: Vec<String> = damaged.iter().map(|it| chain(it)).collect();
            anyhow::bail!("{}", damaged.join("; "))
        }
    }
}

fn target(flags: &TargetFlags) -> anyhow::Result<Target> {
    if let Some(text) = &flags.to {
        let at: Timestamp = text.parse().with_context(|| {
            format!("`{text}` is no moment with a time zone (like 2026-11-21 10:00:00+00)")
        })?;
        return Ok(Target::Time(at));
    }
    let lsn = flags.lsn.map(Target::Lsn);
    let xid = flags.xid.map(Target::Xid);
    let name = flags.name.clone().map(Target::Name);
    Ok(lsn.or(xid).or(name).unwrap_or(Target::Latest))
}

async fn restore(flags: &RestoreFlags) -> anyhow::Result<()> {
    anyhow::ensure!(
        flags.into.is_absolute(),
        "--into {} is not absolute",
        flags.into.display()
    );
    let repository = flags.repository.open(&flags.unlock)?;
    let target = target(&flags.target)?;
    let waldump = flags.bin_dir.as_ref().map(|it| it.join("pg_waldump"));
    if let Target::Xid(_) | Target::Name(_) = target
        && waldump.is_none()
        && flags.backup.is_none()
    {
        anyhow::bail!(
            "where {target} lies is not known: with --bin-dir the archive is searched for it, or name a \
             --backup that was complete before it"
        );
    }
    let asked = Wanted {
        target,
        backup: flags.backup.as_deref(),
        into: &flags.into,
        waldump: waldump.as_deref(),
    };
    let plan = restore::plan(&repository, asked).await?;
    tell(&plan);
    if flags.dry_run {
        println!("Dry run: nothing was touched.");
        return Ok(());
    }
    let bin_dir = flags.bin_dir.as_deref().filter(|_| flags.start);
    if let Some(bin_dir) = bin_dir {
        sandbox::require(bin_dir, plan.backup.major)?;
    }
    let fetch = fetch_command(flags, plan.backup.database)?;
    let lease = match flags.no_lease {
        true => None,
        false => who::lease_of_restore(&repository, &plan.backup).await?,
    };
    restore::perform(&repository, &plan, &fetch).await?;
    println!("Restored into {}.", plan.into.display());
    match bin_dir {
        Some(bin_dir) => {
            sandbox::start(bin_dir, &plan)?;
            // At the target it needs the repository no more. One that is started by hand does, until the
            // lease expires.
            if let Some(lease) = lease {
                holds::give_back(&repository, plan.backup.database, &lease.id).await;
            }
            Ok(())
        }
        None => {
            println!(
                "Start it as the owner of the directory:\n  pg_ctl -D {} -w start",
                plan.into.display()
            );
            Ok(())
        }
    }
}

/// Recovery's fetches; PostgreSQL runs them in its data directory.
fn fetch_command(flags: &RestoreFlags, database: u64) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    let mut words = vec![
        command::word(&program.display().to_string()),
        "fetch --repository".to_owned(),
        command::word(&flags.repository.repository),
    ];
    for (flag, file) in [
        ("--credentials", &flags.repository.credentials),
        ("--identity", &flags.unlock.identity),
    ] {
        if let Some(file) = file {
            let file = std::path::absolute(file)?;
            words.extend([flag.to_owned(), command::word(&file.display().to_string())]);
        }
    }
    words.push(format!("--database {database}"));
    Ok(words.join(" "))
}

fn tell(plan: &Plan) {
    for why in &plan.passed_over {
        println!("Passed over: {why}.");
    }
    let backup = &plan.backup;
    println!(
        "From backup {} of {} (complete {}, consistent at {} on timeline {}, {} bytes), then WAL until {}, along timeline {}.",
        backup.id,
        backup.member,
        moment(backup.ended_unix_ms),
        backup.end,
        backup.timeline,
        plan.bytes,
        plan.target,
        plan.timeline,
    );
}
