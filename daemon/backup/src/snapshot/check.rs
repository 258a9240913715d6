//! Is a file a whole snapshot, byte for byte? Answered before anything is done with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::DOCUMENT;
use super::document::{Document, FORMAT};
use super::pack::failed;
use super::stream::{FOOTER, footer, told_by};
use crate::Error;
use crate::streams::Hashing;

/// Larger documents are none of ours.
const LARGEST_DOCUMENT: u64 = 16 << 20;

pub(super) fn bad(path: &Path, why: impl Into<String>) -> Error {
    Error::BadSnapshot {
        path: path.to_owned(),
        why: why.into(),
    }
}

/// Reads the whole file: its length, its hash, and the hash of each entry. Memory does not grow with it.
///
/// # Errors
/// It cannot be read; it was cut short or changed, and where; a version that is not known.
pub fn check(path: &Path) -> Result<Document, Error> {
    let document = document(path);
    match (whole(path), document) {
        (Ok(()), document) => document,
        // Which entry it is in helps to find out what happened to it.
        (Err(Error::BadSnapshot { path, why }), Ok(document)) => {
            let which = changed_entries(&path, &document);
            let which = which.unwrap_or_default();
            Err(match which.as_slice() {
                [] => bad(&path, why),
                which => bad(
                    &path,
                    format!("{why}; changed or cut short: {}", which.join(", ")),
                ),
            })
        }
        (Err(error), _) => Err(error),
    }
}

/// Everything but the footer has the hash that the footer tells, and the footer is what we write.
fn whole(path: &Path) -> Result<(), Error> {
    let read = failed("read", path);
    let mut file = File::open(path).map_err(&read)?;
    let length = file.metadata().map_err(&read)?.len();
    let Some(before) = length.checked_sub(FOOTER as u64) else {
        return Err(bad(
            path,
            format!("it has {length} bytes only: cut short, or no snapshot"),
        ));
    };
    let mut end = vec![0; FOOTER];
    file.seek(SeekFrom::Start(before)).map_err(&read)?;
    file.read_exact(&mut end).map_err(&read)?;
    let Some(told) = told_by(&end) else {
        let why = "it does not end as a snapshot does: cut short, or no snapshot";
        return Err(bad(path, why));
    };
    file.seek(SeekFrom::Start(0)).map_err(&read)?;
    let mut content = Hashing::new(BufReader::with_capacity(1 << 20, file).take(before));
    io::copy(&mut content, &mut io::sink()).map_err(&read)?;
    let found = content.end().hash;
    if found != told {
        let why = format!("its content has the SHA-256 {found}, and at its end stands {told}");
        return Err(bad(path, why));
    }
    match footer(&told).map_err(&read)? == end {
        true => Ok(()),
        false => Err(bad(path, "its last 2048 bytes were changed")),
    }
}

/// The first entry.
fn document(path: &Path) -> Result<Document, Error> {
    let file = File::open(path).map_err(failed("read", path))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    let no_tar = |error: io::Error| bad(path, format!("it is no tar: {error}"));
    let mut entries = archive.entries().map_err(no_tar)?;
    let first = entries.next().transpose().map_err(no_tar)?;
    let named = |entry: &tar::Entry<'_, _>| entry.path_bytes().as_ref() == DOCUMENT.as_bytes();
    let Some(first) = first.filter(named) else {
        return Err(bad(
            path,
            format!("its first entry is not {DOCUMENT}: no snapshot"),
        ));
    };
    let mut text = Vec::new();
    first
        .take(LARGEST_DOCUMENT)
        .read_to_end(&mut text)
        .map_err(no_tar)?;
    let unread = |why: String| bad(path, format!("{DOCUMENT} cannot be read: {why}"));
    let found: Document =
        serde_json::from_slice(&text).map_err(|error| unread(error.to_string()))?;
    match found.format {
        FORMAT => Ok(found),
        other => Err(unread(format!(
            "format {other}; this version knows {FORMAT}"
        ))),
    }
}

/// Entries that are not what the document says, as far as the tar can be walked.
fn changed_entries(path: &Path, document: &Document) -> io::Result<Vec<String>> {
    let mut wanted: BTreeMap<&str, &str> = document
        .pieces
        .iter()
        .map(|piece| (piece.entry.as_str(), piece.stored_sha256.as_str()))
        .collect();
    let mut changed = Vec::new();
    let mut archive = tar::Archive::new(BufReader::new(File::open(path)?));
    for entry in archive.entries()? {
        let Ok(entry) = entry else { break };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(hash) = wanted.remove(name.as_str()) else {
            continue;
        };
        let mut content = Hashing::new(entry);
        let read = io::copy(&mut content, &mut io::sink());
        if read.is_err() || content.end().hash != hash {
            changed.push(name);
        }
    }
    changed.extend(wanted.keys().map(|name| (*name).to_owned()));
    Ok(changed)
}
