//! Makes the file. Every piece is compressed and encrypted beside its original, which is removed then, so
//! that at most twice the database lies on the disk. The file has its name only when it is whole and synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use cluster_core::model::snapshot::{Origin, SnapshotId};
use cluster_core::model::{ClusterName, ClusterState, Lsn, MemberName, TimelineId};

use super::document::{Document, FORMAT, MemberNote, Piece};
use super::stream::{HashingWriter, footer, header, padding};
use super::{DOCUMENT, SETTINGS, STATE};
use crate::seal::Seal;
use crate::streams::{Hashing, LEVEL};
use crate::{Error, Recipient};

/// What is known of a snapshot besides the copy.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which.
    pub id: SnapshotId,
    /// The truth when the copy was complete.
    pub state: ClusterState,
    /// Whose PostgreSQL was copied.
    pub taker: MemberName,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// The timeline of its WAL.
    pub timeline: TimelineId,
    /// Where it is consistent.
    pub end: Lsn,
    /// When it began. Unix time in milliseconds.
    pub began_unix_ms: i64,
    /// When the copy was complete. Unix time in milliseconds.
    pub ended_unix_ms: i64,
    /// Whom it is encrypted for; empty: nobody.
    pub recipients: Vec<Recipient>,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the whole.
    pub sha256: String,
}

/// Packs the files of a base backup in `folder` into `into`; they are gone afterwards.
///
/// # Errors
/// A file; a truth without cluster or data; a tablespace, which a restore could not bring back.
pub fn pack(facts: &Facts, folder: &Path, files: &[String], into: &Path) -> Result<Packed, Error> {
    let (name, origin, database) = whose(facts)?;
    const KNOWN: [&str; 3] = ["base.tar", "pg_wal.tar", "backup_manifest"];
    if let Some(other) = files.iter().find(|file| !KNOWN.contains(&file.as_str())) {
        return Err(Error::Refused(format!(
            "the database has a tablespace ({other}): it cannot be in a snapshot of this version yet"
        )));
    }
    let json = |value: serde_json::Result<Vec<u8>>| {
        value.map_err(|error| Error::BadDocument {
            name: STATE.to_owned(),
            why: error.to_string(),
        })
    };
    let documents = [
        (STATE, json(serde_json::to_vec_pretty(&facts.state))?),
        (
            SETTINGS,
            json(serde_json::to_vec_pretty(&facts.state.settings))?,
        ),
    ];
    for (document, text) in &documents {
        let path = folder.join(document);
        std::fs::write(&path, text).map_err(failed("write", &path))?;
    }
    let names = documents.iter().map(|(name, _)| *name);
    let mut pieces = Vec::new();
    for piece in names.chain(files.iter().map(String::as_str)) {
        pieces.push(close(folder, piece, &facts.recipients)?);
    }
    let document = Document {
        format: FORMAT,
        origin,
        name,
        taker: facts.taker.clone(),
        database,
        major: facts.major,
        began_unix_ms: facts.began_unix_ms,
        ended_unix_ms: facts.ended_unix_ms,
        recipients: facts.recipients.iter().map(ToString::to_string).collect(),
        members: members(facts),
        pieces,
    };
    let text = json(serde_json::to_vec_pretty(&document))?;
    write(&document, &text, folder, into)
}

fn whose(facts: &Facts) -> Result<(ClusterName, Origin, u64), Error> {
    let state = &facts.state;
    let (Some(identity), Some(database)) = (&state.identity, state.system_identifier) else {
        return Err(Error::Refused("the cluster has no data yet".to_owned()));
    };
    // A restored cluster's own origin has archives that must stay untouched as well.
    let inherited = state.origin.iter().flat_map(|it| it.repositories.clone());
    let snapshot = state.snapshots.get(&facts.id);
    let parts = snapshot.iter().flat_map(|it| it.parts.values());
    let own = parts.filter_map(|part| part.repository.clone());
    let repositories: BTreeSet<String> = inherited.chain(own).collect();
    let origin = Origin {
        snapshot: facts.id.clone(),
        cluster: identity.id.clone(),
        generation: identity.generation,
        epoch: state.epoch(),
        timeline: facts.timeline,
        end: facts.end,
        repositories,
    };
    Ok((identity.name.clone(), origin, database))
}

/// As they will be once it is complete.
fn members(facts: &Facts) -> BTreeMap<MemberName, MemberNote> {
    let Some(snapshot) = facts.state.snapshots.get(&facts.id) else {
        return BTreeMap::new();
    };
    let note = |name: &MemberName| {
        let part = snapshot.parts.get(name).cloned();
        let (status, why) = match part {
            Some(_) => ("completed", None),
            None => ("missing", Some(cluster_core::model::snapshot::NOT_HEARD)),
        };
        MemberNote {
            status: status.to_owned(),
            why: why.map(str::to_owned),
            part,
        }
    };
    let asked = snapshot.asked.iter();
    asked.map(|name| (name.clone(), note(name))).collect()
}

pub(super) fn failed(verb: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let path: PathBuf = path.to_owned();
    move |source| Error::File {
        verb,
        path: path.clone(),
        source,
    }
}

/// Compresses and encrypts one file beside itself, and removes it.
fn close(folder: &Path, name: &str, recipients: &[Recipient]) -> Result<Piece, Error> {
    let entry = match recipients {
        [] => format!("{name}.zst"),
        _ => format!("{name}.zst.age"),
    };
    let (from, to) = (folder.join(name), folder.join(&entry));
    let wrote = failed("write", &to);
    let mut content = Hashing::new(File::open(&from).map_err(failed("read", &from))?);
    let file = BufWriter::new(File::create(&to).map_err(&wrote)?);
    let seal = Seal::begin_for(HashingWriter::new(file), recipients).map_err(&wrote)?;
    let mut encoder = zstd::Encoder::new(seal, LEVEL).map_err(&wrote)?;
    copy(&mut content, &mut encoder, &from, &to)?;
    let seal = encoder.finish().map_err(&wrote)?;
    let written = seal.finish().map_err(&wrote)?;
    let (before, after) = (content.end(), written.passed());
    written.into_inner().flush().map_err(&wrote)?;
    std::fs::remove_file(&from).map_err(failed("remove", &from))?;
    Ok(Piece {
        name: name.to_owned(),
        bytes: before.bytes,
        sha256: before.hash,
        entry,
        stored_bytes: after.bytes,
        stored_sha256: after.hash,
    })
}

/// Tells a failure to read from one to write.
fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    source: &Path,
    sink: &Path,
) -> Result<(), Error> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = from.read(&mut buffer).map_err(failed("read", source))?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])
            .map_err(failed("write", sink))?;
    }
}

fn write(document: &Document, text: &[u8], folder: &Path, into: &Path) -> Result<Packed, Error> {
    let mut part = into.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let wrote = failed("write", &part);
    let file = BufWriter::new(File::create(&part).map_err(&wrote)?);
    let mut out = HashingWriter::new(file);
    let put = |out: &mut HashingWriter<_>, name: &str, bytes: u64, from: &mut dyn Read| {
        let header = header(name, bytes).map_err(&wrote)?;
        out.write_all(header.as_bytes()).map_err(&wrote)?;
        copy(&mut { from }, out, &folder.join(name), &part)?;
        out.write_all(&padding(bytes)).map_err(&wrote)
    };
    put(&mut out, DOCUMENT, text.len() as u64, &mut { text })?;
    for piece in &document.pieces {
        let path = folder.join(&piece.entry);
        let mut from = File::open(&path).map_err(failed("read", &path))?;
        put(&mut out, &piece.entry, piece.stored_bytes, &mut from)?;
        std::fs::remove_file(&path).map_err(failed("remove", &path))?;
    }
    let end = footer(&out.passed().hash).map_err(&wrote)?;
    out.write_all(&end).map_err(&wrote)?;
    let whole = out.passed();
    let mut file = out.into_inner();
    file.flush().map_err(&wrote)?;
    file.get_ref().sync_all().map_err(&wrote)?;
    std::fs::rename(&part, into).map_err(failed("put in place", into))?;
    if let Some(folder) = into.parent() {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("sync", folder))?;
    }
    Ok(Packed {
        bytes: whole.bytes,
        sha256: whole.hash,
    })
}
