//! Level files: every object of a backup is there and holds what was stored. Nothing is written.

use std::collections::BTreeMap;
use std::io::Read;

use tokio::time::Instant;

use super::postgres_manifest::{self, Listed};
use super::report::{Findings, Level};
use crate::archive::chain;
use crate::manifest::{Manifest, StoredFile};
use crate::{Error, Repository, streams};

/// What was read.
#[derive(Debug)]
pub struct Seen {
    /// The level.
    pub findings: Findings,
    /// How much was read, before compression. Unit: bytes.
    pub bytes: u64,
}

/// One archive of a directory as it was read.
struct Unpacked {
    files: BTreeMap<String, u64>,
    problem: Option<String>,
    bytes: u64,
}

/// Reads everything that the manifest lists.
pub async fn look(repository: &Repository, backup: &Manifest) -> Seen {
    let began = Instant::now();
    let mut findings = Findings::new(Level::Files);
    let mut bytes = 0;
    let mut found = BTreeMap::new();
    let mut listed = None;
    for file in &backup.files {
        let object = backup.object(&file.name);
        let read = match file.name.ends_with(".tar") {
            true => read_tar(repository, &object, file).await,
            false => read_manifest(repository, &object, backup, file)
                .await
                .map(|(read, own)| {
                    listed = own;
                    read
                }),
        };
        match read {
            Ok(read) => {
                bytes += read.bytes;
                if read.bytes != file.bytes {
                    findings.problems.push(format!(
                        "{object} holds {} bytes, {} were stored",
                        read.bytes, file.bytes
                    ));
                }
                let problem = read.problem.map(|why| format!("{object}: {why}"));
                findings.problems.extend(problem);
                found.extend(read.files);
            }
            Err(error) => findings.problems.push(chain(&error)),
        }
    }
    findings.checked.push(format!(
        "{} objects, {bytes} bytes, against their sizes and SHA-256",
        backup.files.len()
    ));
    for wanted in ["base.tar", "backup_manifest"] {
        if !backup.files.iter().any(|file| file.name == wanted) {
            findings
                .problems
                .push(format!("the manifest of {} lists no {wanted}", backup.id));
        }
    }
    if let Some(listed) = listed {
        compare(&mut findings, &listed, &found);
    }
    Seen {
        findings: findings.end(began.elapsed()),
        bytes,
    }
}

/// What PostgreSQL lists against what the archives hold; only when all of them could be read.
fn compare(findings: &mut Findings, listed: &Listed, found: &BTreeMap<String, u64>) {
    findings.problems.extend(listed.problems.iter().cloned());
    if !findings.problems.is_empty() {
        return;
    }
    for (path, size) in &listed.files {
        match found.get(path) {
            Some(found) if found == size => {}
            Some(found) => findings.problems.push(format!(
                "{path} has {found} bytes, PostgreSQL's backup_manifest says {size}"
            )),
            None => findings.problems.push(format!(
                "{path} of PostgreSQL's backup_manifest is in no archive of the backup"
            )),
        }
    }
    findings.checked.push(format!(
        "PostgreSQL's backup_manifest: its checksum, {} files by name and size",
        listed.files.len()
    ));
}

async fn read_tar(
    repository: &Repository,
    object: &str,
    file: &StoredFile,
) -> Result<Unpacked, Error> {
    let folder = match file.name.strip_suffix(".tar") {
        Some("base") | None => String::new(),
        Some("pg_wal") => "pg_wal/".to_owned(),
        Some(tablespace) => format!("pg_tblspc/{tablespace}/"),
    };
    let name = object.to_owned();
    let read = streams::read_object(repository, object, Some(&file.sha256), move |content| {
        let mut counted = streams::Hashing::new(content);
        let mut files = BTreeMap::new();
        let unpacked = entries(&mut counted, &folder, &mut files);
        // The rest of it, so that the hash is of the whole.
        let rest = std::io::copy(&mut counted, &mut std::io::sink());
        rest.map_err(streams::broken("read", &name))?;
        Ok(Unpacked {
            files,
            problem: unpacked.err().map(|error| error.to_string()),
            bytes: counted.end().bytes,
        })
    });
    read.await
}

fn entries(
    content: &mut dyn Read,
    folder: &str,
    files: &mut BTreeMap<String, u64>,
) -> std::io::Result<()> {
    for entry in tar::Archive::new(content).entries()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            let path = entry.path()?.display().to_string();
            let path = path.strip_prefix("./").unwrap_or(&path);
            files.insert(format!("{folder}{path}"), entry.size());
        }
    }
    Ok(())
}

async fn read_manifest(
    repository: &Repository,
    object: &str,
    backup: &Manifest,
    file: &StoredFile,
) -> Result<(Unpacked, Option<Listed>), Error> {
    let is_ours = file.name == "backup_manifest";
    let (name, backup) = (object.to_owned(), backup.clone());
    let read = streams::read_object(repository, object, Some(&file.sha256), move |content| {
        let mut text = Vec::new();
        content
            .read_to_end(&mut text)
            .map_err(streams::broken("read", &name))?;
        let listed = is_ours.then(|| postgres_manifest::read(&text, &backup));
        let read = Unpacked {
            files: BTreeMap::new(),
            problem: None,
            bytes: text.len() as u64,
        };
        Ok((read, listed))
    });
    read.await
}
