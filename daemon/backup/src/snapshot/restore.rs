//! A snapshot into an empty data directory, from which a new cluster forms.
//!
//! Nothing is touched before the whole file was read and every condition looked at. The note for the
//! daemon is written first and `standby.signal` last before the sync: a directory that was left half-way
//! either has no control file, and nothing can be started of it, or tells where it came from.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster_core::model::Settings;
use cluster_core::model::snapshot::{RESTORED_NOTE, RestoredNote};

use super::SETTINGS;
use super::check::{bad, check};
use super::document::{Document, Piece};
use super::pack::failed;
use crate::keys::{self, Identities};
use crate::streams::Hashing;
use crate::{Error, seal};

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Restore<'a> {
    /// The snapshot.
    pub file: &'a Path,
    /// An empty or new directory, absolute; it becomes the data directory.
    pub into: &'a Path,
    /// Where PostgreSQL's programs are.
    pub bin_dir: &'a Path,
    /// File of a private key.
    pub identity: Option<&'a PathBuf>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Of what.
    pub document: Document,
    /// What pg_verifybackup said; none where it is not installed.
    pub is_verified: bool,
}

/// Does it. `tell` is called with the document once everything is known to be well, before the first byte.
///
/// # Errors
/// Everything that is in the way at once, and nothing was touched; or what failed, and the directory is
/// empty again.
pub fn restore(wanted: &Restore<'_>, tell: impl FnOnce(&Document)) -> Result<Restored, Error> {
    let document = check(wanted.file)?;
    let identities = keys::read_from(wanted.identity)?;
    let problems = problems(wanted, &document, &identities);
    if !problems.is_empty() {
        return Err(Error::Refused(format!(
            "nothing was touched: {}",
            problems.join("; ")
        )));
    }
    // The keys are the right ones before the first byte is written.
    let settings = settings(wanted.file, &document, &identities)?;
    tell(&document);
    let was_there = wanted.into.exists();
    let done = unpack_and_verify(wanted, &document, settings, &identities);
    if done.is_err() {
        clear(wanted.into, was_there);
    }
    let is_verified = done?;
    Ok(Restored {
        document,
        is_verified,
    })
}

fn problems(wanted: &Restore<'_>, document: &Document, identities: &Identities) -> Vec<String> {
    let mut found = Vec::new();
    let into = wanted.into.display();
    if !wanted.into.is_absolute() {
        found.push(format!("`{into}` is relative (an absolute path)"));
    }
    match std::fs::read_dir(wanted.into) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                found.push(format!("{into} is not empty (move what is there aside)"));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => found.push(format!("{into}: {error}")),
    }
    if let Some(why) = other_major(wanted.bin_dir, document.major) {
        found.push(why);
    }
    let mut given = identities.public().map(ToString::to_string);
    if !document.recipients.is_empty() && !given.any(|it| document.recipients.contains(&it)) {
        found.push(format!(
            "it is encrypted: the private key of {} is needed (--identity FILE)",
            document.recipients.join(" or ")
        ));
    }
    let volume = wanted.into.ancestors().find(|place| place.exists());
    if let Some(volume) = volume.and_then(|place| rustix::fs::statvfs(place).ok()) {
        let (needs, has) = (document.bytes(), volume.f_bavail * volume.f_frsize);
        if needs > has {
            found.push(format!("no room at {into}: needs {needs} bytes, has {has}"));
        }
    }
    found
}

fn other_major(bin_dir: &Path, major: u32) -> Option<String> {
    let program = bin_dir.join("postgres");
    let said = match Command::new(&program).arg("--version").output() {
        Ok(said) => String::from_utf8_lossy(&said.stdout).trim().to_owned(),
        Err(error) => return Some(format!("{}: {error}", program.display())),
    };
    let mut words = said.split_whitespace();
    let is_right = words.any(|word| word.split('.').next() == Some(&major.to_string()));
    (!is_right).then(|| {
        format!(
            "{} is `{said}`, the snapshot is of PostgreSQL {major}",
            program.display()
        )
    })
}

/// Hands the content of a piece, as it was before it was compressed, to `take`.
fn read_piece<T>(
    file: &Path,
    piece: &Piece,
    identities: &Identities,
    take: impl FnOnce(&mut dyn Read) -> Result<T, Error>,
) -> Result<T, Error> {
    let read = failed("read", file);
    let opened = BufReader::with_capacity(1 << 20, File::open(file).map_err(&read)?);
    let mut archive = tar::Archive::new(opened);
    for entry in archive.entries_with_seek().map_err(&read)? {
        let entry = entry.map_err(&read)?;
        if entry.path_bytes().as_ref() != piece.entry.as_bytes() {
            continue;
        }
        let stored: Box<dyn Read> = match piece.entry.ends_with(".age") {
            true => seal::open_with(entry, identities).map_err(&read)?,
            false => Box::new(entry),
        };
        let mut content = Hashing::new(zstd::Decoder::new(stored).map_err(&read)?);
        let taken = take(&mut content)?;
        io::copy(&mut content, &mut io::sink()).map_err(&read)?;
        return match content.end().hash == piece.sha256 {
            true => Ok(taken),
            false => Err(bad(file, format!("{} is not what was stored", piece.entry))),
        };
    }
    Err(bad(file, format!("{} is not in it", piece.entry)))
}

fn piece<'a>(file: &Path, document: &'a Document, name: &str) -> Result<&'a Piece, Error> {
    let mut pieces = document.pieces.iter();
    let found = pieces.find(|piece| piece.name == name);
    found.ok_or_else(|| bad(file, format!("it has no {name}")))
}

fn settings(file: &Path, document: &Document, identities: &Identities) -> Result<Settings, Error> {
    let stored = piece(file, document, SETTINGS)?;
    read_piece(file, stored, identities, |content| {
        serde_json::from_reader(content)
            .map_err(|error| bad(file, format!("{SETTINGS} cannot be read: {error}")))
    })
}

fn unpack_and_verify(
    wanted: &Restore<'_>,
    document: &Document,
    settings: Settings,
    identities: &Identities,
) -> Result<bool, Error> {
    let into = wanted.into;
    crate::restore::make_private(into)?;
    let note = RestoredNote {
        format: 1,
        origin: document.origin.clone(),
        settings,
    };
    let text =
        serde_json::to_vec_pretty(&note).map_err(|error| bad(wanted.file, error.to_string()))?;
    let write = |name: &str, text: &[u8]| {
        let path = into.join(name);
        std::fs::write(&path, text).map_err(failed("write", &path))
    };
    write(RESTORED_NOTE, &text)?;
    for (name, place) in [
        ("base.tar", into.to_owned()),
        ("pg_wal.tar", into.join("pg_wal")),
    ] {
        let stored = piece(wanted.file, document, name)?;
        read_piece(wanted.file, stored, identities, |content| {
            let mut archive = tar::Archive::new(content);
            archive.set_preserve_permissions(true);
            archive.set_overwrite(true);
            archive
                .unpack(&place)
                .map_err(failed("unpack into", &place))
        })?;
    }
    let manifest = piece(wanted.file, document, "backup_manifest")?;
    read_piece(wanted.file, manifest, identities, |content| {
        let mut text = Vec::new();
        let path = into.join("backup_manifest");
        content
            .read_to_end(&mut text)
            .map_err(failed("read", wanted.file))?;
        std::fs::write(&path, &text).map_err(failed("write", &path))
    })?;
    let is_verified = verify(wanted)?;
    remove(&into.join("recovery.signal"))?;
    write("standby.signal", b"")?;
    let synced = File::open(into).and_then(|place| Ok(rustix::fs::syncfs(place)?));
    synced.map_err(failed("sync", into))?;
    Ok(is_verified)
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// PostgreSQL's own look at its files and at the WAL that makes them consistent.
fn verify(wanted: &Restore<'_>) -> Result<bool, Error> {
    let mut command = Command::new(wanted.bin_dir.join("pg_verifybackup"));
    command.args(["--exit-on-error", "--quiet", "--ignore", RESTORED_NOTE]);
    let said = match command.arg(wanted.into).output() {
        Ok(said) => said,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("run pg_verifybackup of", wanted.bin_dir)(error)),
    };
    match said.status.success() {
        true => Ok(true),
        false => Err(bad(
            wanted.file,
            format!(
                "pg_verifybackup: {}",
                String::from_utf8_lossy(&said.stderr).trim()
            ),
        )),
    }
}

/// As it was found. What cannot be removed is left; there is a failure to tell of already.
fn clear(into: &Path, was_there: bool) {
    if !was_there {
        let _ = std::fs::remove_dir_all(into);
        return;
    }
    for entry in std::fs::read_dir(into).into_iter().flatten().flatten() {
        let path = entry.path();
        let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        };
    }
}
