//! What a backup is: written last, so that a backup is whole or not there.

use cluster_core::model::{Epoch, Lsn, MemberName, TimelineId};
use serde::{Deserialize, Serialize};

use crate::names;
use crate::{Error, Repository, streams};

/// The version of this document.
const FORMAT: u32 = 1;

/// One stored file of a backup: an archive of a directory, or PostgreSQL's own manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// As pg_basebackup wrote it: `base.tar`, `pg_wal.tar`, `<oid>.tar`, `backup_manifest`.
    pub name: String,
    /// Its size before compression. Unit: bytes.
    pub bytes: u64,
    /// Its SHA-256 before compression.
    pub sha256: String,
}

/// One base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this document.
    pub format: u32,
    /// Name of the backup, unique in its repository.
    pub id: String,
    /// System identifier of the database.
    pub database: u64,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// Whose data was copied.
    pub member: MemberName,
    /// The newest epoch when it was taken.
    pub epoch: Epoch,
    /// The timeline of its WAL.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start: Lsn,
    /// Where it is consistent.
    pub end: Lsn,
    /// When it began. Unix time in milliseconds.
    pub began_unix_ms: i64,
    /// When it was complete: it can be the base for any later moment. Unix time in milliseconds, rounded up.
    pub ended_unix_ms: i64,
    /// The data key that its files are encrypted to; none: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its files.
    pub files: Vec<StoredFile>,
}

impl Manifest {
    /// The object of one of its files.
    pub fn object(&self, file: &str) -> String {
        let plain = names::of_backup(self.database, &self.id, &format!("{file}.zst"));
        match &self.key {
            Some(key) => names::sealed(&plain, key),
            None => plain,
        }
    }
}

/// The name of a backup: when it began, of whom, and a number that tells two of one second apart. Sorts
/// by time.
pub fn id_of(began_unix_ms: i64, member: &MemberName, number: u16) -> String {
    let second = began_unix_ms - began_unix_ms.rem_euclid(1000);
    let moment = crate::restore::moment(second).replace(['-', ':'], "");
    format!("{moment}-{member}-{number:04x}")
}

/// Stores the files of a directory and the manifest after them.
///
/// # Errors
/// A file, the store, or a backup of this name is there.
pub async fn store(
    repository: &Repository,
    facts: Manifest,
    folder: &std::path::Path,
    files: &[String],
) -> Result<Manifest, Error> {
    let key = repository.new_data_key(facts.database).await?;
    let mut manifest = Manifest {
        format: FORMAT,
        key: key.as_ref().map(ToString::to_string),
        files: Vec::new(),
        ..facts
    };
    for name in files {
        let (object, path) = (manifest.object(name), folder.join(name));
        let passed = streams::store_file(repository, &object, &path, key.clone()).await?;
        manifest.files.push(StoredFile {
            name: name.clone(),
            bytes: passed.bytes,
            sha256: passed.hash,
        });
    }
    let name = names::of_backup(manifest.database, &manifest.id, names::MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::BadManifest {
        name: name.clone(),
        why: error.to_string(),
    })?;
    match repository.put_new(&name, text.into()).await? {
        crate::Put::Stored => Ok(manifest),
        crate::Put::WasThere => Err(Error::Refused(format!(
            "a backup named {} is in the repository already",
            manifest.id
        ))),
    }
}

/// What manifests there are.
#[derive(Debug, Default)]
pub struct Listed {
    /// Every complete backup of every database, oldest first.
    pub backups: Vec<Manifest>,
    /// Why others cannot be read. They must not keep anybody from using those.
    pub damaged: Vec<Error>,
}

/// Reads every manifest of the repository.
///
/// # Errors
/// The store.
pub async fn read_all(repository: &Repository) -> Result<Listed, Error> {
    let mut listed = Listed::default();
    for database in repository.folders("").await? {
        let Ok(database) = database.parse() else {
            continue;
        };
        for id in repository.folders(&names::backups(database)).await? {
            match read(repository, database, &id).await {
                // Without a manifest it is still being written, or was given up.
                Ok(found) => listed.backups.extend(found),
                Err(error @ Error::BadManifest { .. }) => listed.damaged.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    listed.backups.sort_by(|left: &Manifest, right| {
        (left.ended_unix_ms, &left.id).cmp(&(right.ended_unix_ms, &right.id))
    });
    Ok(listed)
}

/// Every complete backup of every database in the repository, oldest first.
///
/// # Errors
/// The store; a manifest that cannot be read.
pub async fn list(repository: &Repository) -> Result<Vec<Manifest>, Error> {
    let listed = read_all(repository).await?;
    match listed.damaged.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(listed.backups),
    }
}

/// One backup; none when it is still being written, was given up or pruned.
///
/// # Errors
/// The store; a manifest that cannot be read.
pub async fn read(
    repository: &Repository,
    database: u64,
    id: &str,
) -> Result<Option<Manifest>, Error> {
    let name = names::of_backup(database, id, names::MANIFEST);
    let text = repository.get(&name).await?;
    text.map(|text| parse(&name, &text)).transpose()
}

fn parse(name: &str, text: &[u8]) -> Result<Manifest, Error> {
    let bad = |why: String| Error::BadManifest {
        name: name.to_owned(),
        why,
    };
    let manifest: Manifest =
        serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    match manifest.format {
        FORMAT => Ok(manifest),
        other => Err(bad(format!("format {other}; this version knows {FORMAT}"))),
    }
}
