//! What a restore will do: from which backup, up to where, along which timeline. Nothing is touched.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use cluster_core::model::{Lsn, TimelineId};
use jiff::Timestamp;

use crate::archive::{Archive, chain};
use crate::locate::locate;
use crate::manifest::{self, Listed, Manifest};
use crate::{Error, Repository, lineage};

/// Up to where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything that was archived.
    Latest,
    /// Every commit until this moment, inclusive.
    Time(Timestamp),
    /// Every record until this position, inclusive.
    Lsn(Lsn),
    /// Until this transaction, inclusive.
    Xid(u64),
    /// Until the restore point of this name.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Latest => write!(out, "everything that was archived"),
            Target::Time(at) => write!(out, "{at}"),
            Target::Lsn(at) => write!(out, "{at}"),
            Target::Xid(xid) => write!(out, "transaction {xid}"),
            Target::Name(name) => write!(out, "restore point `{name}`"),
        }
    }
}

/// What is to be done; nothing was touched yet.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which backup.
    pub backup: Manifest,
    /// Up to where.
    pub target: Target,
    /// Along which timeline: numbers that nobody used leave gaps, and PostgreSQL's own search for the
    /// latest one ends at the first of them [hazards K8].
    pub timeline: TimelineId,
    /// Where to.
    pub into: PathBuf,
    /// How much the backup unpacks to. Unit: bytes.
    pub bytes: u64,
    /// Why other backups cannot be used.
    pub passed_over: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Up to where.
    pub target: Target,
    /// From this backup; else from the newest that was complete before the target.
    pub backup: Option<&'a str>,
    /// Where to.
    pub into: &'a Path,
    /// pg_waldump, to find out where a transaction or a restore point lies; without it the newest backup
    /// is taken, and PostgreSQL says when it does not meet the target after it.
    pub waldump: Option<&'a Path>,
}

/// Chooses the backup and checks the target and the place.
///
/// # Errors
/// [`Error::Refused`] with what would do.
pub async fn plan(repository: &Repository, asked: Wanted<'_>) -> Result<Plan, Error> {
    let refused = |why: String| Err(Error::Refused(why));
    let listed = manifest::read_all(repository).await?;
    let backups = of_one_database(repository, &listed, asked.backup)?;
    let archive = Archive::read(repository, backups[0].database).await?;
    let backups = match asked.backup {
        Some(_) => backups,
        None => on_main_line(&archive, backups)?,
    };
    let mut place = None;
    if let (Target::Xid(_) | Target::Name(_), Some(waldump)) = (&asked.target, asked.waldump) {
        let found = locate(repository, &archive, &backups, &asked.target, waldump).await?;
        let Some(found) = found else {
            return refused(format!(
                "{} is nowhere in the archive after backup {} ({})",
                asked.target, backups[0].id, backups[0].end
            ));
        };
        place = Some(found.at);
    }
    let is_usable = |backup: &&Manifest| is_before(backup, &asked.target, place);
    let Some(chosen) = backups.iter().rev().find(is_usable) else {
        let first = &backups[0];
        let when = moment(first.ended_unix_ms);
        return refused(match asked.backup {
            Some(id) => format!(
                "backup {id} was complete at {when} ({}), after the target",
                first.end
            ),
            None => format!(
                "no backup was complete before that: the first recoverable moment is {when} ({})",
                first.end
            ),
        });
    };
    if let Target::Time(at) = &asked.target
        && *at > Timestamp::now()
    {
        return refused(format!("{at} lies in the future"));
    }
    if let Some(key) = &chosen.key {
        // Only to see that it can be.
        repository.open_key(chosen.database, key).await?;
    }
    let bytes = chosen.files.iter().map(|file| file.bytes).sum();
    require_room(asked.into, bytes)?;
    Ok(Plan {
        timeline: lineage::newest(&archive.histories, chosen.timeline, chosen.end),
        backup: chosen.clone(),
        target: asked.target,
        into: asked.into.to_owned(),
        bytes,
        passed_over: listed.damaged.iter().map(|it| chain(it)).collect(),
    })
}

/// The backups to choose from, at least one; only the one that is named when one is.
fn of_one_database(
    repository: &Repository,
    listed: &Listed,
    wanted: Option<&str>,
) -> Result<Vec<Manifest>, Error> {
    let damaged: Vec<String> = listed.damaged.iter().map(|it| chain(it)).collect();
    let refused = |why: String| {
        let why = [&[why][..], &damaged].concat().join("; ");
        Err(Error::Refused(why))
    };
    let backups = &listed.backups;
    if let Some(id) = wanted {
        let named = backups.iter().filter(|backup| backup.id == id);
        let named: Vec<Manifest> = named.cloned().collect();
        return match named.is_empty() {
            true => refused(format!("there is no backup named {id}")),
            false => Ok(named),
        };
    }
    let databases: BTreeSet<u64> = backups.iter().map(|backup| backup.database).collect();
    match databases.len() {
        0 => refused(format!("there is no backup in {}", repository.place())),
        1 => Ok(backups.clone()),
        _ => refused(format!(
            "the repository holds backups of several databases ({databases:?}): name a backup"
        )),
    }
}

/// Those from which recovery gets to the newest timeline. One that was taken of a line that was left later
/// would bring back what the cluster has lost, and not what it has.
fn on_main_line(archive: &Archive, backups: Vec<Manifest>) -> Result<Vec<Manifest>, Error> {
    let main = archive.main_line(&backups);
    let leads = |it: &&Manifest| lineage::reaches(&archive.histories, it.timeline, it.end, main);
    let found: Vec<Manifest> = backups.iter().filter(leads).cloned().collect();
    match found.is_empty() {
        false => Ok(found),
        true => Err(Error::Refused(format!(
            "no backup leads to timeline {main}, the newest: name one (the newest is {}) to restore along \
             an older line",
            backups[backups.len() - 1].id
        ))),
    }
}

/// The place is empty, and has room.
fn require_room(into: &Path, bytes: u64) -> Result<(), Error> {
    require_empty(into)?;
    let place = into.parent().unwrap_or(into);
    match free_bytes(place) {
        Some(free) if free < bytes => Err(Error::Refused(format!(
            "{} has room for {free} bytes, the backup unpacks to {bytes}",
            place.display()
        ))),
        Some(_) | None => Ok(()),
    }
}

/// A target by transaction or name whose place was not looked for: PostgreSQL says when it is not found.
pub(crate) fn is_before(backup: &Manifest, target: &Target, place: Option<Lsn>) -> bool {
    match target {
        Target::Xid(_) | Target::Name(_) => place.is_none_or(|at| backup.end <= at),
        Target::Latest => true,
        Target::Time(at) => backup.ended_unix_ms <= at.as_millisecond(),
        Target::Lsn(at) => backup.end <= *at,
    }
}

fn require_empty(into: &Path) -> Result<(), Error> {
    match std::fs::read_dir(into) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::Refused(format!(
                "{} is not empty: nothing is restored over something else",
                into.display()
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::File {
            verb: "look into",
            path: into.to_owned(),
            source,
        }),
    }
}

fn free_bytes(place: &Path) -> Option<u64> {
    let volume = rustix::fs::statvfs(place).ok()?;
    Some(volume.f_bavail * volume.f_frsize)
}

/// A moment as people write it.
pub fn moment(unix_ms: i64) -> String {
    Timestamp::from_millisecond(unix_ms).map_or_else(|_| unix_ms.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use cluster_core::model::{Epoch, TimelineId};

    use crate::names::{self, WalName};
    use crate::{StoredFile, wal};

    use super::*;

    fn backup(id: &str, end: u64, ended_unix_ms: i64) -> Manifest {
        Manifest {
            format: 1,
            id: id.to_owned(),
            database: 7,
            major: 15,
            member: "m1".parse().expect("a name"),
            epoch: Epoch(1),
            timeline: TimelineId(2),
            start: Lsn(end - 100),
            end: Lsn(end),
            began_unix_ms: ended_unix_ms - 5000,
            ended_unix_ms,
            key: None,
            files: vec![StoredFile {
                name: "base.tar".to_owned(),
                bytes: 10,
                sha256: String::new(),
            }],
        }
    }

    fn asked<'a>(target: Target, backup: Option<&'a str>, into: &'a Path) -> Wanted<'a> {
        Wanted {
            target,
            backup,
            into,
            waldump: None,
        }
    }

    async fn filled(place: &Path) -> Repository {
        let repository = Repository::open(&place.display().to_string()).expect("a directory");
        for manifest in [
            backup("a", 1000, 1_700_000_000_000),
            backup("b", 2000, 1_700_001_000_000),
        ] {
            let name = names::of_backup(7, &manifest.id, names::MANIFEST);
            let text = serde_json::to_vec(&manifest).expect("encodes");
            repository.put_new(&name, text.into()).await.expect("put");
        }
        repository
    }

    #[tokio::test]
    async fn the_newest_backup_before_the_target_is_taken() {
        let place = tempfile::tempdir().expect("a directory");
        let repository = filled(place.path()).await;
        let into = place.path().join("new");
        let at = |unix| Target::Time(Timestamp::from_second(unix).expect("a moment"));
        for (target, chosen) in [
            (Target::Latest, "b"),
            (at(1_700_000_999), "a"),
            (at(1_700_001_000), "b"),
            (Target::Lsn(Lsn(1999)), "a"),
            (Target::Lsn(Lsn(2000)), "b"),
            (Target::Name("x".to_owned()), "b"),
        ] {
            let found = plan(&repository, asked(target.clone(), None, &into)).await;
            assert_eq!(found.expect("a plan").backup.id, chosen, "{target:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_refused_before_anything_is_touched() {
        let place = tempfile::tempdir().expect("a directory");
        let repository = filled(place.path()).await;
        let into = place.path().join("new");
        let at = |unix| Target::Time(Timestamp::from_second(unix).expect("a moment"));
        let why = async |target, wanted, into: &Path| {
            let refused = plan(&repository, asked(target, wanted, into)).await;
            refused.expect_err("refused").to_string()
        };
        assert!(
            why(at(1_600_000_000), None, &into)
                .await
                .contains("first recoverable")
        );
        assert!(
            why(at(1_700_000_500), Some("b"), &into)
                .await
                .contains("after the target")
        );
        assert!(
            why(at(32_503_680_000), None, &into)
                .await
                .contains("future")
        );
        assert!(
            why(Target::Latest, Some("c"), &into)
                .await
                .contains("no backup named c")
        );
        assert!(!into.exists());
        std::fs::create_dir(&into).expect("made");
        std::fs::write(into.join("PG_VERSION"), "15").expect("written");
        assert!(why(Target::Latest, None, &into).await.contains("not empty"));
        let empty = tempfile::tempdir().expect("a directory");
        let nothing = Repository::open(&empty.path().display().to_string()).expect("opens");
        let refused = plan(
            &nothing,
            asked(Target::Latest, None, &empty.path().join("x")),
        )
        .await;
        assert!(
            refused
                .expect_err("refused")
                .to_string()
                .contains("no backup in")
        );
    }

    /// The number of a Grant that never led to a promotion leaves a gap, and other members may have stored
    /// a placeholder under it.
    #[tokio::test]
    async fn the_newest_timeline_is_found_beyond_numbers_that_nobody_used() {
        let place = tempfile::tempdir().expect("a directory");
        let repository = filled(place.path()).await;
        let store = async |timeline: u32, text: &str| {
            let file = place.path().join("history");
            std::fs::write(&file, text).expect("written");
            let name = WalName::parse(&TimelineId(timeline).history_file()).expect("a name");
            let stored = wal::push(&repository, 7, Epoch(9), &name, &file).await;
            stored.expect("stored");
        };
        let newest = async || {
            let into = place.path().join("new");
            let found = plan(&repository, asked(Target::Latest, None, &into)).await;
            found.expect("a plan").timeline
        };
        assert_eq!(newest().await, TimelineId(2));
        store(2, "1\t0/100\tno\n").await;
        store(4, "1\t0/0\tnobody used it\n").await;
        store(5, "1\t0/100\tno\n2\t0/900\tno\n").await;
        assert_eq!(newest().await, TimelineId(5));
        // It left timeline 2 before the backups were consistent: another line.
        store(6, "1\t0/100\tno\n2\t0/10\tno\n").await;
        store(7, "1\t0/0\tnobody used it\n").await;
        let into = place.path().join("new");
        let left = plan(&repository, asked(Target::Latest, None, &into)).await;
        let why = left.expect_err("refused").to_string();
        assert!(
            why.contains("leads to timeline 6") && why.contains("(the newest is b)"),
            "{why}"
        );
        let named = plan(&repository, asked(Target::Latest, Some("b"), &into)).await;
        assert_eq!(named.expect("a plan").timeline, TimelineId(5));
    }

    #[tokio::test]
    async fn a_backup_of_a_line_that_was_left_is_not_chosen() {
        let place = tempfile::tempdir().expect("a directory");
        let repository = filled(place.path()).await;
        // Timeline 3 left timeline 2 between the two backups.
        let file = place.path().join("history");
        std::fs::write(&file, "2\t0/500\tno\n").expect("written");
        let name = WalName::parse(&TimelineId(3).history_file()).expect("a name");
        let stored = wal::push(&repository, 7, Epoch(9), &name, &file).await;
        stored.expect("stored");
        let into = place.path().join("new");
        let found = plan(&repository, asked(Target::Latest, None, &into)).await;
        let found = found.expect("a plan");
        assert_eq!(
            (found.backup.id.as_str(), found.timeline),
            ("a", TimelineId(3))
        );
    }

    #[tokio::test]
    async fn a_damaged_manifest_keeps_nobody_from_the_other_backups() {
        let place = tempfile::tempdir().expect("a directory");
        let repository = filled(place.path()).await;
        let name = names::of_backup(7, "b", names::MANIFEST);
        std::fs::write(place.path().join(name), "{").expect("damaged");
        let into = place.path().join("new");
        let found = plan(&repository, asked(Target::Latest, None, &into)).await;
        let found = found.expect("a plan");
        assert_eq!(found.backup.id, "a");
        assert!(
            found.passed_over[0].contains("/b/"),
            "{:?}",
            found.passed_over
        );
        let named = plan(&repository, asked(Target::Latest, Some("b"), &into)).await;
        let why = named.expect_err("refused").to_string();
        assert!(
            why.contains("no backup named b") && why.contains("cannot be read"),
            "{why}"
        );
    }
}
