//! A base backup of the running server, primary or standby, as archives in a directory; and what makes
//! the archive of WAL whole across a promotion.

use std::path::{Path, PathBuf};

use cluster_core::model::{Lsn, TimelineId};
use tokio::sync::watch;

use super::options::Progress;
use super::swap::remove_tree;
use super::{Error, Postgres, durable_file};

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
        let place = self.state_path(folder);
        remove_tree(&place)?;
        durable_file::make_directory(&place, self.owner())?;
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
        self.copy(arguments, &place, progress).await?;
        let found = describe(&place)?;
        Ok((place, found))
    }

    /// Whoever archived before may have died with segments that nobody else has sent: everything whole
    /// here is handed over again. Before the promotion, because its checkpoint gives old segments free
    /// [hazards D13]. What is in the repository already is only compared.
    pub(super) fn archive_again(&self) -> Result<(), Error> {
        if self.options().archive_command.is_none() {
            return Ok(());
        }
        let folder = self.wal_directory().join("archive_status");
        let failed = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { verb, path, source }
        };
        let entries = std::fs::read_dir(&folder).map_err(failed("list", &folder))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|it| it == "done") {
                std::fs::rename(&path, path.with_extension("ready"))
                    .map_err(failed("rename", &path))?;
            }
        }
        Ok(())
    }
}

fn describe(place: &Path) -> Result<BaseBackup, Error> {
    let bad = |why: &str| Error::BadCopy {
        why: format!("{MANIFEST}: {why}"),
    };
    let text = durable_file::read(&place.join(MANIFEST))?.ok_or_else(|| bad("is missing"))?;
    let document: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| bad(&error.to_string()))?;
    let ranges = document["WAL-Ranges"].as_array();
    let (first, last) = ranges
        .and_then(|ranges| Some((ranges.first()?, ranges.last()?)))
        .ok_or_else(|| bad("names no WAL"))?;
    let position = |range: &serde_json::Value, key: &str| {
        let text = range[key].as_str();
        text.and_then(|text| text.parse::<Lsn>().ok())
            .ok_or_else(|| bad(&format!("has no {key}")))
    };
    let timeline = last["Timeline"]
        .as_u64()
        .and_then(|it| u32::try_from(it).ok());
    let mut files: Vec<String> = std::fs::read_dir(place)
        .map_err(|source| Error::File {
            verb: "list",
            path: place.to_owned(),
            source,
        })?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    files.sort();
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
    fn positions_are_read_from_the_manifest() {
        let place = tempfile::tempdir().expect("a directory");
        let text = r#"{ "PostgreSQL-Backup-Manifest-Version": 1, "Files": [],
            "WAL-Ranges": [{ "Timeline": 3, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }] }"#;
        std::fs::write(place.path().join(MANIFEST), text).expect("written");
        let found = describe(place.path()).expect("described");
        assert_eq!(found.timeline, TimelineId(3));
        assert_eq!((found.start, found.end), (Lsn(0x200_0028), Lsn(0x200_0100)));
        std::fs::write(place.path().join(MANIFEST), "{}").expect("written");
        assert!(describe(place.path()).is_err());
    }
}
