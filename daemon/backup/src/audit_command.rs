//! `clusterd-backup audit`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use cluster_backup::names::WalName;
use cluster_backup::restore::moment;
use cluster_backup::survey::{self, Survey};

use crate::{Place, Unlock};

#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    repository: Place,
    #[command(flatten)]
    unlock: Unlock,
    /// Backups and WAL of this database (its system identifier); needed when there are several.
    #[arg(long)]
    database: Option<u64>,
    /// The newest file of which the server was told that it is archived: everything up to it must be there.
    #[arg(long)]
    archived: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Looks, and prints what was found.
pub async fn audit(flags: &Flags) -> Result<ExitCode> {
    let repository = flags.repository.open(&flags.unlock)?;
    let archived = flags.archived.as_deref().map(WalName::parse).transpose()?;
    let database = match flags.database {
        Some(database) => database,
        None => {
            let folders = repository.folders("").await?;
            let all: Vec<u64> = folders.iter().filter_map(|it| it.parse().ok()).collect();
            match all.as_slice() {
                [one] => *one,
                [] => bail!("{} holds nothing", flags.repository.repository),
                _ => bail!("there are several databases ({all:?}): --database says which"),
            }
        }
    };
    let found = survey::look(&repository, database, archived.as_ref()).await?;
    match flags.json {
        true => println!("{}", serde_json::to_string_pretty(&found)?),
        false => print!("{}", text(&found)),
    }
    Ok(match found.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn text(found: &Survey) -> String {
    let mut text = match (&found.first, found.last) {
        (Some(first), Some(last)) => format!(
            "Every moment since {} can be restored (backup {}, {}), up to {last}: {} segments, {} backups.\n",
            moment(first.at_unix_ms),
            first.backup,
            first.lsn,
            found.segments,
            found.backups
        ),
        _ if found.backups == 0 => "There is no backup.\n".to_owned(),
        _ => "No backup leads to the end of the archive: take one.\n".to_owned(),
    };
    if found.missing > 0 {
        let more = match found.missing - found.names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        text.push_str(&format!(
            "HOLE: {} segments are missing: {}{more}\n",
            found.missing,
            found.names.join(", ")
        ));
    }
    for problem in &found.problems {
        text.push_str(&format!("WRONG: {problem}\n"));
    }
    text
}
