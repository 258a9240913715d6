//! A base backup of the running server, primary or standby, as archives in a directory; and what makes
//! the archive of WAL whole across a promotion.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cluster_core::model::snapshot::RESTORED_NOTE;
use cluster_core::model::timeline::parse_history;
use cluster_core::model::{Lsn, TimelineId};
use tokio::sync::watch;

use super::data_dir::is_placeholder;
use super::options::Progress;
use super::swap::remove_tree;
use super::{Error, Postgres, durable_file};

/// So many folders deep a data directory is looked at: a link may lead in a circle.
const DEEPEST: u32 = 12;

/// What pg_basebackup says about a copy.
const MANIFEST: &str = "backup_manifest";

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseBackup {
    /// The timeline of its WAL.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start: Lsn,
    /// Where it is consistent.
    pub end: Lsn,
    /// Names of the files in the directory.
    pub files: Vec<String>,
}

impl Postgres {
    /// Where this server's WAL lies.
    pub fn wal_directory(&self) -> PathBuf {
        self.data_path("pg_wal")
    }

    /// A directory of ours beside the configuration.
    pub fn spool(&self, folder: &str) -> PathBuf {
        self.state_path(folder)
    }

    /// Copies the running server into a new directory of ours, with the WAL that makes the copy
    /// consistent. What an earlier attempt left there is removed first.
    ///
    /// # Errors
    /// No room; pg_basebackup failed, was ended by a fence, or says nothing of the WAL.
    pub async fn base_backup(
        &self,
        folder: &str,
        label: &str,
        progress: watch::Sender<Progress>,
    ) -> Result<(PathBuf, BaseBackup), Error> {
        let place = self.spool(folder);
        let found = self.base_backup_into(&place, label, progress).await?;
        Ok((place, found))
    }

    /// The same, into a directory that the caller names.
    ///
    /// # Errors
    /// As above.
    pub async fn base_backup_into(
        &self,
        place: &Path,
        label: &str,
        progress: watch::Sender<Progress>,
    ) -> Result<BaseBackup, Error> {
        remove_tree(place)?;
        durable_file::make_directory(place, self.owner())?;
        let options = self.options();
        let login = format!(
            "host='{}' port={} user='{}' application_name='backup~{}'",
            options.socket_dir.display(),
            options.port,
            options.superuser,
            options.member
        );
        let arguments = vec![
            format!("--dbname={login}"),
            format!("--pgdata={}", place.display()),
            "--format=tar".to_owned(),
            "--wal-method=stream".to_owned(),
            "--checkpoint=fast".to_owned(),
            "--manifest-checksums=SHA256".to_owned(),
            format!("--label={label}"),
            "--no-password".to_owned(),
            "--progress".to_owned(),
            "--verbose".to_owned(),
        ];
        self.copy(arguments, place, progress).await?;
        describe(place)
    }

    /// How much lies in the data directory and where its links lead; about what a copy takes. Reads every
    /// folder: call it where that may take a while.
    pub fn data_bytes(&self) -> u64 {
        bytes_below(&self.options().data_dir, DEEPEST)
    }

    /// What a restore left about where the data came from.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn restored_note(&self) -> Result<Option<String>, Error> {
        durable_file::read(&self.data_path(RESTORED_NOTE))
    }

    /// The cluster knows it now.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget_restored_note(&self) -> Result<(), Error> {
        durable_file::remove(&self.data_path(RESTORED_NOTE))
    }

    /// Whoever archived before may have died with segments that nobody else has sent: everything whole
    /// here is handed over again. Before the promotion, because its checkpoint gives old segments free
    /// [hazards D13]. What is in the repository already is only compared.
    ///
    /// `newest` is the timeline of the WAL, which ends at `end`. The surprise: a standby marks the last
    /// segment of a timeline it was led away from as done, too, and that one is not whole; and the segment
    /// that ends exactly at `end` has no mark at all yet.
    pub(super) fn archive_again(
        &self,
        newest: TimelineId,
        end: Lsn,
        segment: u64,
    ) -> Result<(), Error> {
        if self.options().archive_command.is_none() || segment == 0 {
            return Ok(());
        }
        let wal = self.wal_directory();
        let history = durable_file::read(&wal.join(newest.history_file()))?;
        let lines = history.and_then(|text| parse_history(&text));
        let mut ends: BTreeMap<TimelineId, Lsn> = BTreeMap::from([(newest, end)]);
        let left = lines.unwrap_or_default();
        ends.extend(left.iter().map(|line| (line.parent, line.end)));
        let status = wal.join("archive_status");
        for name in names_in(&wal)? {
            let done = status.join(format!("{name}.done"));
            let ready = status.join(format!("{name}.ready"));
            let is_whole = is_whole(&name, &ends, segment);
            let is_history = name.ends_with(".history") && done.exists();
            // A number that nobody used must not look like a timeline in the archive.
            let is_placeholder = is_history
                && durable_file::read(&wal.join(&name))?.is_none_or(|text| is_placeholder(&text));
            if is_placeholder || !is_whole && !is_history || ready.exists() {
                continue;
            }
            let attempt = match done.exists() {
                true => std::fs::rename(&done, &ready),
                false => std::fs::write(&ready, "").and_then(|()| self.owner().take(&ready)),
            };
            attempt.map_err(|source| Error::File {
                verb: "write",
                path: ready,
                source,
            })?;
        }
        Ok(())
    }
}

/// What comes and goes while it is looked at does not count.
fn bytes_below(folder: &Path, depth: u32) -> u64 {
    let Some(below) = depth.checked_sub(1) else {
        return 0;
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match std::fs::metadata(entry.path()) {
        Ok(facts) if facts.is_dir() => bytes_below(&entry.path(), below),
        Ok(facts) => facts.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// A segment of which every byte belongs to its timeline.
fn is_whole(name: &str, ends: &BTreeMap<TimelineId, Lsn>, segment: u64) -> bool {
    let number = |from: usize| {
        let digits = name.get(from..from + 8)?;
        u64::from_str_radix(digits, 16).ok()
    };
    let (24, Some(timeline), Some(high), Some(low)) =
        (name.len(), number(0), number(8), number(16))
    else {
        return false;
    };
    let after = (high * (0x1_0000_0000 / segment) + low + 1) * segment;
    let timeline = u32::try_from(timeline).map(TimelineId);
    timeline.is_ok_and(|timeline| ends.get(&timeline).is_some_and(|end| after <= end.0))
}

fn names_in(place: &Path) -> Result<Vec<String>, Error> {
    let entries = std::fs::read_dir(place).map_err(|source| Error::File {
        verb: "list",
        path: place.to_owned(),
        source,
    })?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

fn describe(place: &Path) -> Result<BaseBackup, Error> {
    let bad = |why: &str| Error::BadCopy {
        why: format!("{MANIFEST}: {why}"),
    };
    let text = durable_file::read(&place.join(MANIFEST))?.ok_or_else(|| bad("is missing"))?;
    let document: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
    // The surprise: PostgreSQL lists the newest timeline first.
    let mut ranges = document["WAL-Ranges"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ranges.sort_by_key(|range| range["Timeline"].as_u64());
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return Err(bad("names no WAL"));
    };
    let position = |range: &serde_json::Value, key: &str| {
        let text = range[key].as_str();
        text.and_then(|text| text.parse::<Lsn>().ok())
            .ok_or_else(|| bad(&format!("has no {key}")))
    };
    let timeline = last["Timeline"]
        .as_u64()
        .and_then(|it| u32::try_from(it).ok());
    let files = names_in(place)?;
    Ok(BaseBackup {
        timeline: TimelineId(timeline.ok_or_else(|| bad("has no timeline"))?),
        start: position(first, "Start-LSN")?,
        end: position(last, "End-LSN")?,
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_that_are_whole_on_their_timeline_are_handed_over_again() {
        // Timeline 2 was left in the middle of segment 5, timeline 3 ends with segment 7.
        let ends = BTreeMap::from([
            (TimelineId(2), Lsn(5 * 0x40_0000 + 100)),
            (TimelineId(3), Lsn(8 * 0x40_0000)),
        ]);
        for (name, expected) in [
            ("000000020000000000000004", true),
            ("000000020000000000000005", false),
            ("000000030000000000000005", true),
            ("000000030000000000000007", true),
            ("000000030000000000000008", false),
            ("000000010000000000000001", false),
            ("000000040000000000000001", false),
            ("00000003.history", false),
            ("000000020000000000000005.partial", false),
            ("archive_status", false),
        ] {
            assert_eq!(is_whole(name, &ends, 0x40_0000), expected, "{name}");
        }
    }

    #[test]
    fn positions_are_read_from_the_manifest() {
        let place = tempfile::tempdir().expect("a directory");
        let text = r#"{ "PostgreSQL-Backup-Manifest-Version": 1, "Files": [],
            "WAL-Ranges": [{ "Timeline": 3, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }] }"#;
        std::fs::write(place.path().join(MANIFEST), text).expect("written");
        let found = describe(place.path()).expect("described");
        assert_eq!(found.timeline, TimelineId(3));
        assert_eq!((found.start, found.end), (Lsn(0x200_0028), Lsn(0x200_0100)));
        // A standby that was led to another timeline while it was copied.
        let text = r#"{ "WAL-Ranges": [
            { "Timeline": 4, "Start-LSN": "0/2000090", "End-LSN": "0/2000200" },
            { "Timeline": 3, "Start-LSN": "0/2000028", "End-LSN": "0/2000090" }] }"#;
        std::fs::write(place.path().join(MANIFEST), text).expect("written");
        let found = describe(place.path()).expect("described");
        assert_eq!(found.timeline, TimelineId(4));
        assert_eq!((found.start, found.end), (Lsn(0x200_0028), Lsn(0x200_0200)));
        std::fs::write(place.path().join(MANIFEST), "{}").expect("written");
        assert!(describe(place.path()).is_err());
    }
}
