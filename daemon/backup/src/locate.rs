//! Where a transaction ended or a restore point lies: PostgreSQL only tells by replaying until it is met,
//! so the archive is searched with pg_waldump before anything is touched. Backward, from backup to backup:
//! what somebody looks for is mostly recent.

use std::path::Path;
use std::process::Command;

use cluster_core::model::{Lsn, TimelineId};

use crate::archive::Archive;
use crate::lineage::{self, Segment, SegmentSize, Stretch};
use crate::manifest::Manifest;
use crate::names::WalName;
use crate::restore::Target;
use crate::{Error, Repository, wal};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The newest backup before it.
    pub backup: &'a Manifest,
    /// Where its record begins.
    pub at: Lsn,
}

/// Looks for a transaction or a restore point after each of the backups, the newest first; `backups` are
/// of one database, oldest first.
///
/// # Errors
/// The archive; pg_waldump.
pub async fn locate<'a>(
    repository: &Repository,
    archive: &Archive,
    backups: &'a [Manifest],
    target: &Target,
    waldump: &Path,
) -> Result<Option<Found<'a>>, Error> {
    let Some(size) = archive.segment_size(repository).await? else {
        return Ok(None);
    };
    let mut searched_from = None;
    for backup in backups.iter().rev() {
        let room = tempfile::tempdir().map_err(|source| Error::File {
            verb: "make a folder in",
            path: std::env::temp_dir(),
            source,
        })?;
        let newest = lineage::newest(&archive.histories, backup.timeline, backup.end);
        let search = Search {
            repository,
            archive,
            path: lineage::path(&archive.histories, newest),
            size,
            database: backup.database,
            waldump,
            room: room.path(),
        };
        let first = size.number(backup.end);
        for number in first.. {
            if searched_from.is_some_and(|(line, from)| line == newest && number > from) {
                break;
            }
            let Some(places) = search.records(number, target).await? else {
                break;
            };
            if let Some(at) = places.into_iter().find(|at| *at >= backup.end) {
                return Ok(Some(Found { backup, at }));
            }
        }
        searched_from = Some((newest, first));
    }
    Ok(None)
}

/// One line of the archive.
struct Search<'a> {
    repository: &'a Repository,
    archive: &'a Archive,
    path: Vec<Stretch>,
    size: SegmentSize,
    database: u64,
    waldump: &'a Path,
    room: &'a Path,
}

impl Search<'_> {
    /// Where the wanted records of a segment begin; none when the segment is not archived.
    async fn records(&self, number: u64, target: &Target) -> Result<Option<Vec<Lsn>>, Error> {
        if !self.bring(number).await? {
            return Ok(None);
        }
        // The last record of a segment may end in the next one.
        self.bring(number + 1).await?;
        let mut command = Command::new(self.waldump);
        command.arg("--path").arg(self.room);
        match target {
            Target::Xid(xid) => command.arg(format!("--xid={xid}")),
            _ => command.arg("--rmgr=XLOG"),
        };
        let next = self.file(number + 1);
        command.arg(self.file(number).as_str());
        if self.room.join(&next).exists() {
            command.arg(&next);
        }
        let said = tokio::task::spawn_blocking(move || command.output()).await;
        let said = said
            .map_err(|_| Error::GivenUp("pg_waldump"))?
            .map_err(|source| Error::File {
                verb: "run",
                path: self.waldump.to_owned(),
                source,
            })?;
        let _ = std::fs::remove_file(self.room.join(self.file(number)));
        // It ends with an error wherever WAL ends.
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let begin = self.size.begin(number + 1);
        let places = text.lines().filter_map(|line| record(line, target));
        Ok(Some(places.filter(|at| *at < begin).collect()))
    }

    /// As both segments of a search are named: by the first one's timeline. Where a timeline begins, its
    /// copy of a segment begins with what the one before wrote.
    fn file(&self, number: u64) -> String {
        self.size.name(Segment {
            timeline: TimelineId::FIRST,
            number,
        })
    }

    /// False when it is not archived.
    async fn bring(&self, number: u64) -> Result<bool, Error> {
        let Some(timeline) = lineage::timeline_of(&self.path, self.size, number) else {
            return Ok(false);
        };
        let name = WalName::parse(&self.size.name(Segment { timeline, number }))?;
        if !self.archive.objects.contains_key(&name) {
            return Ok(false);
        }
        let to = self.room.join(self.file(number));
        if to.exists() {
            return Ok(true);
        }
        wal::fetch(self.repository, self.database, &name, &to).await
    }
}

/// Where the record of a line of pg_waldump begins when it is what recovery would stop at.
fn record(line: &str, target: &Target) -> Option<Lsn> {
    let (head, what) = line.split_once(", desc: ")?;
    let is_it = match target {
        Target::Name(name) => what.strip_prefix("RESTORE_POINT ") == Some(name),
        Target::Xid(_) => what.starts_with("COMMIT") || what.starts_with("ABORT"),
        _ => false,
    };
    let (_, place) = head.split_once("lsn: ")?;
    let place = place.split(',').next()?;
    is_it.then(|| place.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_that_recovery_stops_at_are_told_from_others() {
        let line = |desc: &str| {
            format!(
                "rmgr: XLOG        len (rec/tot):    102/   102, tx:          0, lsn: 0/030001D0, \
                 prev 0/03000198, desc: {desc}"
            )
        };
        let name = Target::Name("before upgrade".to_owned());
        let at = Some(Lsn(0x0300_01D0));
        assert_eq!(record(&line("RESTORE_POINT before upgrade"), &name), at);
        assert_eq!(record(&line("RESTORE_POINT before upgrade 2"), &name), None);
        assert_eq!(record(&line("SWITCH "), &name), None);
        let xid = Target::Xid(771);
        assert_eq!(record(&line("COMMIT 2026-11-22 10:00:00 UTC"), &xid), at);
        assert_eq!(record(&line("ABORT 2026-11-22 10:00:00 UTC"), &xid), at);
        assert_eq!(record(&line("INSERT off 3 flags 0x00"), &xid), None);
        assert_eq!(record("", &xid), None);
    }
}
