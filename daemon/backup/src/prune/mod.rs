//! Pruning: what the plan lets go is deleted, in an order in which nothing half-deleted looks whole.
//!
//! First the record of it, then manifests, then files, then WAL, then the data keys of the backups. A key that an
//! interrupted pruning has left is found by the record, and goes with the next one.

use std::collections::BTreeSet;

use cluster_core::model::TimelineId;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::holds::{self, Lease};
use crate::manifest::Manifest;
use crate::names::{self, WalName};
use crate::restore::moment;
use crate::retention::{Parts, Plan, Policy, Stock};
use crate::{Error, Put, Repository, manifest};

/// The version of this document.
const FORMAT: u32 = 1;

/// What was deleted, by whom and by which rule; put before anything is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The version of this document.
    pub format: u32,
    /// Unix time in milliseconds.
    pub at_unix_ms: i64,
    /// Who, and where.
    pub by: String,
    /// The rule.
    pub policy: Policy,
    /// The backups, as they were.
    pub backups: Vec<Manifest>,
    /// Given-up ones whose parts went.
    pub parts: Vec<String>,
    /// The files of WAL.
    pub wal: Vec<String>,
}

/// Reads everything of one database.
///
/// # Errors
/// The store; a manifest, a pin or a lease that cannot be read: what it needs is not known then.
pub async fn stock(repository: &Repository, database: u64) -> Result<Stock, Error> {
    let mut stock = Stock::default();
    for id in repository.folders(&names::backups(database)).await? {
        match manifest::read(repository, database, &id).await? {
            Some(manifest) => stock.backups.push(manifest),
            // Of a backup that was pruned a directory keeps the empty folder.
            None => stock.parts.extend(parts(repository, database, id).await?),
        }
    }
    stock.archive = Archive::read(repository, database).await?;
    stock.size = stock.archive.segment_size(repository).await?;
    stock.pins = holds::pins(repository, database).await?;
    stock.leases = holds::leases(repository, database).await?;
    stock.orphans = orphans(repository, database, &stock).await?;
    Ok(stock)
}

/// Data keys that are still there of backups that are not, by the records of what was pruned. A key that no record names
/// may be of a backup that is being taken.
async fn orphans(
    repository: &Repository,
    database: u64,
    stock: &Stock,
) -> Result<Vec<String>, Error> {
    let mut unused: BTreeSet<String> = BTreeSet::new();
    unused.extend(repository.folders(&names::keys(database)).await?);
    let used = stock.backups.iter().filter_map(|it| it.key.as_deref());
    let objects = stock.archive.objects.values().flatten();
    let objects = objects.chain(stock.parts.iter().flat_map(|it| &it.objects));
    for key in used.chain(objects.filter_map(|it| names::data_key(it))) {
        unused.remove(key);
    }
    let mut found = BTreeSet::new();
    if unused.is_empty() {
        return Ok(Vec::new());
    }
    for name in repository.list(&format!("{database}/pruned")).await? {
        let Some(text) = repository.get(&name).await? else {
            continue;
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| Error::BadDocument {
            name: name.clone(),
            why: error.to_string(),
        })?;
        let keys = record.backups.into_iter().filter_map(|it| it.key);
        for key in keys.filter(|key| unused.contains(key)) {
            let wrapped = names::wrapped_keys(database, &key);
            // In a directory the empty folder stays.
            if !repository.list(&wrapped).await?.is_empty() {
                found.insert(key);
            }
        }
    }
    Ok(found.into_iter().collect())
}

async fn parts(repository: &Repository, database: u64, id: String) -> Result<Option<Parts>, Error> {
    let objects = repository
        .list(&names::of_backup(database, &id, ""))
        .await?;
    let mut newest = None;
    for object in &objects {
        newest = newest.max(repository.stored_unix_ms(object).await?);
    }
    Ok(newest.map(|newest_unix_ms| Parts {
        id,
        objects,
        newest_unix_ms,
    }))
}

/// Deletes what the plan says; tells how many objects that were.
///
/// # Errors
/// The store; somebody began to use one of the backups: what was taken away of it is put back.
pub async fn perform(
    repository: &Repository,
    database: u64,
    stock: &Stock,
    plan: &Plan,
    record: Record,
) -> Result<usize, Error> {
    put_record(repository, database, &record).await?;
    let known: Vec<&Lease> = stock.leases.iter().collect();
    let mut texts = Vec::new();
    for id in &plan.backups {
        let name = names::of_backup(database, id, names::MANIFEST);
        texts.push((name.clone(), repository.get(&name).await?));
        repository.delete(&name).await?;
    }
    let now = holds::leases(repository, database).await?;
    if let Some(new) = now.iter().find(|lease| !known.contains(lease)) {
        for (name, text) in texts {
            if let Some(text) = text {
                repository.put_new(&name, text).await?;
            }
        }
        return Err(Error::Refused(format!(
            "{} by {} has begun meanwhile: nothing was pruned, try again",
            new.what, new.by
        )));
    }
    let mut deleted = texts.len();
    for id in plan.backups.iter().chain(&plan.parts) {
        for object in repository.list(&names::of_backup(database, id, "")).await? {
            repository.delete(&object).await?;
            deleted += 1;
        }
    }
    for name in &plan.wal {
        for object in stock.archive.objects.get(name).into_iter().flatten() {
            repository.delete(object).await?;
            deleted += 1;
        }
    }
    for key in &plan.keys {
        for object in repository.list(&names::wrapped_keys(database, key)).await? {
            repository.delete(&object).await?;
            deleted += 1;
        }
    }
    for lease in &stock.leases {
        if lease.expires_unix_ms <= record.at_unix_ms {
            holds::give_back(repository, database, &lease.id).await;
        }
    }
    Ok(deleted)
}

/// The record of a plan.
pub fn record(stock: &Stock, plan: &Plan, policy: Policy, by: String, at_unix_ms: i64) -> Record {
    let goes = |backup: &&Manifest| plan.backups.contains(&backup.id);
    Record {
        format: FORMAT,
        at_unix_ms,
        by,
        policy,
        backups: stock.backups.iter().filter(goes).cloned().collect(),
        parts: plan.parts.clone(),
        wal: plan.wal.iter().map(|it| it.as_str().to_owned()).collect(),
    }
}

async fn put_record(repository: &Repository, database: u64, record: &Record) -> Result<(), Error> {
    let time = moment(record.at_unix_ms).replace(['-', ':'], "");
    let name = format!("{database}/pruned/{time}.json");
    let text = serde_json::to_vec_pretty(record).map_err(|error| Error::BadDocument {
        name: name.clone(),
        why: error.to_string(),
    })?;
    match repository.put_new(&name, text.into()).await? {
        Put::Stored => Ok(()),
        Put::WasThere => Err(Error::Refused(format!(
            "{name} is there: somebody prunes at this moment"
        ))),
    }
}

/// WAL by timeline, first and last name of each, for people.
pub fn ranges(wal: &[WalName]) -> Vec<(TimelineId, &WalName, &WalName, usize)> {
    let mut found: Vec<(TimelineId, &WalName, &WalName, usize)> = Vec::new();
    for name in wal {
        let Some(timeline) = crate::archive::timeline_of(name) else {
            continue;
        };
        match found.last_mut() {
            Some((of, _, last, count)) if *of == timeline => {
                *last = name;
                *count += 1;
            }
            _ => found.push((timeline, name, name, 1)),
        }
    }
    found
}

#[cfg(test)]
mod tests;
