//! What the data directory says with the server down, and the marks we keep about it.
//!
//! The surprise: markers of an unfinished rewind or swap lie outside PGDATA, because those tools
//! replace what is inside. A directory with a marker is never started (hazards D4).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cluster_core::model::timeline::parse_history;
use cluster_core::model::{Lsn, TimelineId};

use super::control_data::ControlData;
use super::swap::is_nothing;
use super::version::Major;
use super::{Error, Postgres, durable_file};

/// What lies in the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDirKind {
    /// Not there, or nothing in it.
    Empty,
    /// A PostgreSQL of our major version.
    Adoptable {
        /// Its major version.
        major: u32,
        /// Its system identifier.
        system_identifier: u64,
    },
    /// Something we must not start.
    Unusable {
        /// What is wrong, for people.
        why: String,
        /// Whether a new clone would cure it.
        clone_would_cure: bool,
    },
}

/// An operation that must not be interrupted unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// initdb runs, or its result is not yet complete.
    Initdb,
    /// pg_rewind changes the directory.
    Rewind,
    /// A finished clone is being put in place.
    Swap,
}

impl Marker {
    const ALL: [Marker; 3] = [Marker::Initdb, Marker::Rewind, Marker::Swap];

    fn file(self) -> &'static str {
        match self {
            Marker::Initdb => "unfinished-initdb",
            Marker::Rewind => "unfinished-rewind",
            Marker::Swap => "unfinished-swap",
        }
    }

    /// The operation's name for people.
    pub fn word(self) -> &'static str {
        match self {
            Marker::Initdb => "initdb",
            Marker::Rewind => "rewind",
            Marker::Swap => "swap of a clone",
        }
    }
}

/// The name of the file that makes every start a standby start.
pub const STANDBY_SIGNAL: &str = "standby.signal";

impl Postgres {
    /// A path in the data directory.
    pub(super) fn data_path(&self, name: &str) -> PathBuf {
        self.options().data_dir.join(name)
    }

    /// What lies in the data directory. Opens nothing but small files.
    pub async fn data_dir_kind(&self) -> Result<DataDirKind, Error> {
        match self.kind_by_files()? {
            Some(kind) => Ok(kind),
            None => Ok(self.kind_by_control(&self.control_data().await)),
        }
    }

    /// The part of the answer that needs no program; none: it depends on the control file.
    pub(super) fn kind_by_files(&self) -> Result<Option<DataDirKind>, Error> {
        if let Some(marker) = self.any_marker() {
            let why = format!("an interrupted {} was found", marker.word());
            return Ok(Some(unusable(why, true)));
        }
        let data_dir = &self.options().data_dir;
        match fs::read_dir(data_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(DataDirKind::Empty));
            }
            Err(error) => {
                return Ok(Some(unusable(
                    format!("{}: {error}", data_dir.display()),
                    false,
                )));
            }
            Ok(_) if is_nothing(data_dir) => return Ok(Some(DataDirKind::Empty)),
            Ok(_) => {}
        }
        let Some(text) = durable_file::read(&self.data_path("PG_VERSION"))? else {
            return Ok(Some(unusable(
                "it holds files, but no PG_VERSION".to_owned(),
                false,
            )));
        };
        let own = self.major();
        if Major::parse(&text) != Some(own) {
            let found = text.trim();
            let why = format!("it is of major version {found}, the programs are of {own}");
            return Ok(Some(unusable(why, false)));
        }
        Ok(None)
    }

    pub(super) fn kind_by_control(&self, control: &Result<ControlData, Error>) -> DataDirKind {
        match control {
            Ok(control) => DataDirKind::Adoptable {
                major: self.major().0,
                system_identifier: control.system_identifier,
            },
            Err(error) => unusable(format!("its control file cannot be read: {error}"), true),
        }
    }

    /// The control file, as `pg_controldata` reads it.
    pub async fn control_data(&self) -> Result<ControlData, Error> {
        self.control_data_in(&self.options().data_dir).await
    }

    /// What `pg_controldata` prints, for people, without the nonce by which a client could tell
    /// whether a role exists.
    pub async fn control_data_text(&self) -> Result<String, Error> {
        let data_dir = self.options().data_dir.display().to_string();
        let output = self
            .read_tool("pg_controldata", &["-D".to_owned(), data_dir])
            .await?;
        let lines = output.stdout.lines();
        let shown = lines.filter(|line| !line.starts_with("Mock authentication nonce"));
        let text: String = shown.map(|line| format!("{line}\n")).collect();
        Ok(format!("{text}{}", output.stderr))
    }

    /// The control file of another directory, such as a copy.
    pub(super) async fn control_data_in(&self, data_dir: &Path) -> Result<ControlData, Error> {
        let data_dir = data_dir.display().to_string();
        let output = self
            .read_tool("pg_controldata", &["-D".to_owned(), data_dir])
            .await?;
        if !output.success || output.stdout.is_empty() {
            return Err(Error::ControlData {
                label: output.stderr.trim().to_owned(),
            });
        }
        // A torn control file is printed with a warning, not refused.
        if output.stdout.contains("WARNING") || output.stderr.contains("WARNING") {
            return Err(Error::ControlData {
                label: "a control file with a valid checksum".into(),
            });
        }
        ControlData::parse(&output.stdout)
    }

    /// Whether an operation was begun and not ended.
    pub fn has_marker(&self, marker: Marker) -> bool {
        // Anything but a clear "not there" counts as there.
        !matches!(
            self.state_path(marker.file()).symlink_metadata(),
            Err(error) if error.kind() == io::ErrorKind::NotFound
        )
    }

    /// The first marker found.
    pub fn any_marker(&self) -> Option<Marker> {
        Marker::ALL
            .into_iter()
            .find(|marker| self.has_marker(*marker))
    }

    pub(super) fn set_marker(&self, marker: Marker, about: &str) -> Result<(), Error> {
        durable_file::write(
            &self.state_path(marker.file()),
            about.as_bytes(),
            0o600,
            self.owner(),
        )
    }

    pub(super) fn clear_marker(&self, marker: Marker) -> Result<(), Error> {
        durable_file::remove(&self.state_path(marker.file()))
    }

    /// Whether `standby.signal` is in place.
    pub fn has_standby_signal(&self) -> bool {
        self.data_path(STANDBY_SIGNAL).is_file()
    }

    /// Puts `standby.signal` in place, durably; also under a running primary, where it is ignored
    /// until the next start (hazards C8).
    pub fn put_standby_signal(&self) -> Result<(), Error> {
        durable_file::write(&self.data_path(STANDBY_SIGNAL), b"", 0o600, self.owner())
    }

    /// The history files in `pg_wal`, by timeline.
    pub(super) fn histories(&self) -> Result<Vec<(TimelineId, String)>, Error> {
        let wal = self.data_path("pg_wal");
        let entries = fs::read_dir(&wal).map_err(|source| Error::File {
            verb: "list",
            path: wal.clone(),
            source,
        })?;
        let mut found = Vec::new();
        for name in entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
        {
            if let Some(timeline) = timeline_of_history(&name)
                && let Some(text) = durable_file::read(&wal.join(&name))?
            {
                found.push((timeline, text));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes placeholder histories; one that is left over makes the next start fail (hazards X20).
    pub(super) fn remove_placeholders(&self) -> Result<Vec<TimelineId>, Error> {
        let mut removed = Vec::new();
        for (timeline, text) in self.histories()? {
            if is_placeholder(&text) {
                durable_file::remove(&self.data_path("pg_wal").join(timeline.history_file()))?;
                removed.push(timeline);
            }
        }
        Ok(removed)
    }

    /// Where a timeline began, from its history file.
    pub fn fork_of(&self, timeline: TimelineId) -> Result<Option<Lsn>, Error> {
        let path = self.data_path("pg_wal").join(timeline.history_file());
        let text = durable_file::read(&path)?;
        Ok(text.and_then(|text| parse_history(&text)?.last().map(|line| line.end)))
    }

    /// The timeline that the byte before `end` was written on, going by the files in `pg_wal`.
    ///
    /// A later timeline is believed only when a segment of it exists at that place *and* its
    /// history begins before `end`: a diverged server may hold histories it never followed (D12).
    pub(super) fn timeline_on_disk(&self, end: Lsn, segment_bytes: u64) -> Option<TimelineId> {
        let names: Vec<String> = fs::read_dir(self.data_path("pg_wal"))
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        let histories = self.histories().ok()?;
        let suffix = segment_suffix(Lsn(end.0.saturating_sub(1)), segment_bytes);
        let mut timelines: Vec<TimelineId> = names
            .iter()
            .filter(|name| name.len() == 24 && name.ends_with(&suffix))
            .filter_map(|name| u32::from_str_radix(&name[..8], 16).ok().map(TimelineId))
            .collect();
        timelines.sort();
        timelines.into_iter().rev().find(|timeline| {
            *timeline == TimelineId::FIRST
                || histories.iter().any(|(known, text)| {
                    known == timeline
                        && !is_placeholder(text)
                        && parse_history(text)
                            .and_then(|lines| lines.last().map(|line| line.end < end))
                            .unwrap_or(false)
                })
        })
    }
}

/// The last 16 digits of the name of the segment that holds `lsn`.
pub(super) fn segment_suffix(lsn: Lsn, segment_bytes: u64) -> String {
    let number = lsn.0 / segment_bytes;
    let per_id = 0x1_0000_0000 / segment_bytes;
    format!("{:08X}{:08X}", number / per_id, number % per_id)
}

/// Whether a history file is one of our placeholders: a fork at `0/0`, which PostgreSQL never writes.
pub(super) fn is_placeholder(text: &str) -> bool {
    parse_history(text).is_some_and(|lines| lines.iter().any(|line| line.end == Lsn::ZERO))
}

/// The content of a placeholder history.
pub(super) fn placeholder() -> String {
    "1\t0/0\treserved by clusterd; never a real timeline\n".to_owned()
}

fn timeline_of_history(name: &str) -> Option<TimelineId> {
    let digits = name.strip_suffix(".history")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok().map(TimelineId))?
}

fn unusable(why: String, clone_would_cure: bool) -> DataDirKind {
    DataDirKind::Unusable {
        why,
        clone_would_cure,
    }
}

/// Bytes of all files under a directory, following no links out of it; what vanishes is left out.
pub(super) fn bytes_under(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_under(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_named_as_postgres_names_it() {
        assert_eq!(
            segment_suffix(Lsn(0x300_0060), 16 << 20),
            "0000000000000003"
        );
        assert_eq!(segment_suffix(Lsn(0x300_0060), 4 << 20), "000000000000000C");
        assert_eq!(
            segment_suffix(Lsn(0x1_0040_0000), 4 << 20),
            "0000000100000001"
        );
    }

    #[test]
    fn a_placeholder_is_told_from_a_history() {
        assert!(is_placeholder(&placeholder()));
        assert!(!is_placeholder(
            "1\t0/3000060\tno recovery target specified\n"
        ));
    }
}
