//! `clusterd-backup snapshot`: a snapshot's file on a host without a cluster.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use cluster_backup::Error;
use cluster_backup::archive::chain;
use cluster_backup::restore::moment;
use cluster_backup::snapshot::{self, Document, Restore};

/// Refused or damaged; nothing was touched. The code of clusterctl.
const REFUSED: u8 = 3;
/// Begun and failed. The code of clusterctl.
const FAILED: u8 = 7;

/// What can be done with a file.
#[derive(Subcommand)]
pub enum SnapshotCommand {
    /// Is the file whole, and what is in it?
    Check {
        /// The file.
        file: PathBuf,
        /// Its whole description, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Into an empty data directory, from which a new cluster forms. As the user that is to own it.
    Restore(RestoreFlags),
}

/// `snapshot restore`.
#[derive(Args)]
pub struct RestoreFlags {
    /// The file.
    file: PathBuf,
    /// An empty or new directory, absolute: the data directory of one member of the new cluster.
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// Where PostgreSQL's programs are.
    #[arg(long, value_name = "DIR")]
    bin_dir: PathBuf,
    /// File of a private key, for an encrypted one; only its owner may read it.
    #[arg(long, value_name = "FILE", env = "CLUSTERD_BACKUP_IDENTITY")]
    identity: Option<PathBuf>,
}

/// Does it.
pub fn run(command: &SnapshotCommand) -> ExitCode {
    let (done, has_begun) = match command {
        SnapshotCommand::Check { file, json } => {
            let checked = snapshot::check(file);
            (checked.map(|document| show(&document, *json)), false)
        }
        SnapshotCommand::Restore(flags) => {
            let has_begun = Cell::new(false);
            (restore(flags, &has_begun), has_begun.get())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clusterd-backup: {}", chain(&error));
            ExitCode::from(if has_begun { FAILED } else { REFUSED })
        }
    }
}

fn describe(document: &Document) -> String {
    let origin = &document.origin;
    format!(
        "Snapshot {} of cluster {} ({}), taken of {} {}: PostgreSQL {}, consistent at {} on timeline {}, \
         {} bytes unpacked.",
        origin.snapshot,
        document.name,
        origin.cluster,
        document.taker,
        moment(document.ended_unix_ms),
        document.major,
        origin.end,
        origin.timeline,
        document.bytes(),
    )
}

fn show(document: &Document, json: bool) {
    if json {
        println!(
            "{}",
            serde_json::to_string_pretty(document).unwrap_or_default()
        );
        return;
    }
    println!("{}", describe(document));
    for (name, note) in &document.members {
        let why = note.why.as_deref().map(|why| format!(": {why}"));
        println!("  {name}  {}{}", note.status, why.unwrap_or_default());
    }
    match document.recipients.as_slice() {
        [] => println!("Not encrypted. The file is whole."),
        readers => println!("Encrypted for {}. The file is whole.", readers.join(", ")),
    }
}

fn restore(flags: &RestoreFlags, has_begun: &Cell<bool>) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return Err(Error::Refused(
            "the data directory must belong to PostgreSQL's user: run this as that user, not as root \
             (runuser -u postgres -- …); nothing was touched"
                .to_owned(),
        ));
    }
    let wanted = Restore {
        file: &flags.file,
        into: &flags.into,
        bin_dir: &flags.bin_dir,
        identity: flags.identity.as_ref(),
    };
    let restored = snapshot::restore(&wanted, |document| {
        has_begun.set(true);
        println!("{}", describe(document));
    })?;
    match restored.is_verified {
        true => println!("pg_verifybackup: every file is as it was copied."),
        false => println!("pg_verifybackup is not installed: PostgreSQL's own check was not made."),
    }
    println!("Restored into {}.", flags.into.display());
    println!(
        "Now start clusterd on every host of the new cluster: this directory on one, empty ones on the others. \
         They form a cluster of their own, its settings come back, and the others clone from this one:\n  \
         clusterctl overview"
    );
    if !restored.document.origin.repositories.is_empty() {
        let places: Vec<&str> = restored
            .document
            .origin
            .repositories
            .iter()
            .map(String::as_str)
            .collect();
        println!(
            "It must not archive where the old cluster did ({}): give [backup] another repository.",
            places.join(", ")
        );
    }
    Ok(())
}
