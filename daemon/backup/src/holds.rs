//! What keeps a backup from being pruned: pins, which people set, and leases, which running restores and
//! verifications take and which end by themselves.
//!
//! A restore takes its lease first and looks for the manifest again afterwards; pruning removes manifests
//! first and looks for leases again afterwards. One of the two sees the other.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;
use crate::{Error, Put, Repository};

/// Kept until somebody unpins it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The backup.
    pub backup: String,
    /// Why, in somebody's words.
    pub why: String,
    /// Who pinned it.
    pub by: String,
    /// When. Unix time in milliseconds.
    pub at_unix_ms: i64,
}

/// Kept while something runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Its name.
    pub id: String,
    /// The backup.
    pub backup: String,
    /// What runs: `restore`, `verify`.
    pub what: String,
    /// Who started it, and where.
    pub by: String,
    /// Until when it counts. Unix time in milliseconds.
    pub expires_unix_ms: i64,
}

fn pin_name(database: u64, backup: &str) -> String {
    format!("{database}/pin/{backup}.json")
}

fn lease_name(database: u64, id: &str) -> String {
    format!("{database}/lease/{id}.json")
}

/// Now, in milliseconds of Unix time.
pub fn now_unix_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Pins a backup.
///
/// # Errors
/// The store; it is pinned already.
pub async fn pin(repository: &Repository, database: u64, pin: &Pin) -> Result<(), Error> {
    let name = pin_name(database, &pin.backup);
    match put(repository, &name, pin).await? {
        Put::Stored => Ok(()),
        Put::WasThere => {
            let said: Option<Pin> = get(repository, &name).await?;
            let said = said.map_or_else(String::new, |it| format!(" by {}: {}", it.by, it.why));
            Err(Error::Refused(format!(
                "backup {} is pinned already{said}",
                pin.backup
            )))
        }
    }
}

/// Takes a pin away.
///
/// # Errors
/// The store; there is none.
pub async fn unpin(repository: &Repository, database: u64, backup: &str) -> Result<(), Error> {
    let name = pin_name(database, backup);
    match repository.get(&name).await? {
        Some(_) => repository.delete(&name).await,
        None => Err(Error::Refused(format!("backup {backup} is not pinned"))),
    }
}

/// All pins of a database.
///
/// # Errors
/// The store; one that cannot be read: what it keeps is not known then.
pub async fn pins(repository: &Repository, database: u64) -> Result<Vec<Pin>, Error> {
    all(repository, &format!("{database}/pin")).await
}

/// All leases of a database, also those that have expired.
///
/// # Errors
/// The store; one that cannot be read.
pub async fn leases(repository: &Repository, database: u64) -> Result<Vec<Lease>, Error> {
    all(repository, &format!("{database}/lease")).await
}

/// Takes a lease, and makes sure that the backup was still there afterwards.
///
/// # Errors
/// The store (credentials that only read); the backup was pruned meanwhile.
pub async fn take(repository: &Repository, backup: &Manifest, lease: &Lease) -> Result<(), Error> {
    put(repository, &lease_name(backup.database, &lease.id), lease).await?;
    match crate::manifest::read(repository, backup.database, &backup.id).await? {
        Some(_) => Ok(()),
        None => {
            give_back(repository, backup.database, &lease.id).await;
            Err(Error::Refused(format!(
                "backup {} was pruned at this moment",
                backup.id
            )))
        }
    }
}

/// Ends a lease; one that cannot be removed ends by itself.
pub async fn give_back(repository: &Repository, database: u64, id: &str) {
    if let Err(error) = repository.delete(&lease_name(database, id)).await {
        tracing::debug!(%error, id, "a lease stays until it expires");
    }
}

async fn put<T: Serialize>(repository: &Repository, name: &str, what: &T) -> Result<Put, Error> {
    let text = serde_json::to_vec_pretty(what).map_err(|error| bad(name)(error))?;
    repository.put_new(name, text.into()).await
}

async fn get<T: DeserializeOwned>(repository: &Repository, name: &str) -> Result<Option<T>, Error> {
    let text = repository.get(name).await?;
    text.map(|text| serde_json::from_slice(&text).map_err(bad(name)))
        .transpose()
}

async fn all<T: DeserializeOwned>(repository: &Repository, folder: &str) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    for name in repository.list(folder).await? {
        // One that ended since it was listed is none.
        found.extend(get(repository, &name).await?);
    }
    Ok(found)
}

fn bad(name: &str) -> impl Fn(serde_json::Error) -> Error + use<> {
    let name = name.to_owned();
    move |error| Error::BadDocument {
        name: name.clone(),
        why: error.to_string(),
    }
}
