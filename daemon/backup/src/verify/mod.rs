//! Is a backup good? In levels, each of which tells everything that it finds wrong at once.
//!
//! Here is what can be told from the repository alone. Starting a PostgreSQL from it is for the program.

pub mod archive;
pub mod files;
pub mod kept;
mod postgres_manifest;
pub mod report;

pub use report::{Findings, Level, Measured, Outcome, Report, Verdict};

use crate::archive::chain;
use crate::manifest::{self, Manifest};
use crate::plan::is_before;
use crate::restore::Target;
use crate::{Error, Repository, names};

/// Chooses the backup that a restore would take, or the one that is named; a manifest that cannot be read
/// is a problem, not an end.
///
/// # Errors
/// The repository cannot be listed.
pub async fn choose(
    repository: &Repository,
    own: Option<u64>,
    wanted: Option<&str>,
    target: &Target,
) -> Result<(Option<Manifest>, Vec<String>), Error> {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for database in repository.folders("").await? {
        let Ok(database) = database.parse() else {
            continue;
        };
        if own.is_some_and(|own| own != database) {
            continue;
        }
        for id in repository.folders(&names::backups(database)).await? {
            if wanted.is_some_and(|wanted| wanted != id) {
                continue;
            }
            match manifest::read(repository, database, &id).await {
                Ok(Some(manifest)) if (manifest.database, &manifest.id) == (database, &id) => {
                    found.push(manifest);
                }
                Ok(Some(manifest)) => problems.push(format!(
                    "the manifest of {id} is damaged: it says it is of backup {} of database {}",
                    manifest.id, manifest.database
                )),
                // It is being taken, or was given up.
                Ok(None) if wanted.is_none() => {}
                Ok(None) => problems.push(format!(
                    "backup {id} has no manifest: it is being taken, was given up, or was pruned"
                )),
                Err(error) => problems.push(chain(&error)),
            }
        }
    }
    found.sort_by_key(|backup: &Manifest| backup.ended_unix_ms);
    let databases: std::collections::BTreeSet<u64> =
        found.iter().map(|backup| backup.database).collect();
    if databases.len() > 1 {
        problems.push(format!(
            "the repository holds backups of several databases ({databases:?}): name a backup"
        ));
        return Ok((None, problems));
    }
    let any = !found.is_empty();
    let chosen = found
        .into_iter()
        .rev()
        .find(|backup| is_before(backup, target, None));
    if chosen.is_none() && problems.is_empty() {
        problems.push(match (wanted, any) {
            (_, true) => "no backup was complete before the target".to_owned(),
            (Some(id), false) => format!("there is no backup named {id}"),
            (None, false) => format!("there is no backup in {}", repository.place()),
        });
    }
    Ok((chosen, problems))
}

#[cfg(test)]
mod tests;
