//! `clusterd-backup key`: keys of people and of a repository.

use std::path::PathBuf;

use clap::Subcommand;
use cluster_backup::keys::{self, Checked};
use cluster_backup::{Put, Recipient};

use crate::{Place, Unlock, run};

/// What can be done with keys.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// Make a pair of keys: the private one in a new file, the public one printed.
    Generate {
        /// The new file; keep it off the database hosts, and keep a copy.
        file: PathBuf,
    },
    /// Try whether every data key of the repository can be opened.
    Check {
        #[command(flatten)]
        repository: Place,
        #[command(flatten)]
        unlock: Unlock,
    },
    /// Let one more private key open everything that is in the repository; no content is written again.
    Add {
        #[command(flatten)]
        repository: Place,
        #[command(flatten)]
        unlock: Unlock,
        /// The new public key.
        #[arg(long)]
        recipient: Recipient,
    },
}

/// Does it.
pub fn key(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Generate { file } => {
            let public = keys::generate(&file)?;
            println!("{public}");
            eprintln!(
                "The private key is in {}. Keep a copy elsewhere: without it nothing can be restored.",
                file.display()
            );
            Ok(())
        }
        KeyCommand::Check { repository, unlock } => run(check(repository, unlock)),
        KeyCommand::Add {
            repository,
            unlock,
            recipient,
        } => run(add(repository, unlock, recipient)),
    }
}

async fn check(place: Place, unlock: Unlock) -> anyhow::Result<()> {
    let checked = keys::check(&place.open(&unlock)?).await?;
    let closed = closed(checked.iter());
    println!(
        "{} of {} data keys can be opened.",
        checked.len() - closed,
        checked.len()
    );
    anyhow::ensure!(
        closed == 0,
        "{closed} of {} data keys cannot be opened",
        checked.len()
    );
    Ok(())
}

async fn add(place: Place, unlock: Unlock, recipient: Recipient) -> anyhow::Result<()> {
    let done = keys::add(&place.open(&unlock)?, &recipient).await?;
    let closed = closed(done.iter().map(|(checked, _)| checked));
    let added = done.iter().filter(|(_, put)| *put == Put::Stored).count();
    println!(
        "{recipient} can open {added} data keys more; {} were open to it before.",
        done.len() - added - closed
    );
    anyhow::ensure!(
        closed == 0,
        "{closed} of {} data keys cannot be opened",
        done.len()
    );
    Ok(())
}

/// Names those that cannot be opened.
fn closed<'a>(checked: impl Iterator<Item = &'a Checked>) -> usize {
    let mut count = 0;
    for key in checked {
        if let Err(error) = &key.opened {
            count += 1;
            println!("{error}");
        }
    }
    count
}
