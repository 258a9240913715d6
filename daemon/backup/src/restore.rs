//! A backup back into an empty directory, ready to be started by hand up to a point in time.
//!
//! What is restored never writes into the repository it came from: archiving is off, and it listens on a
//! socket in its own directory only. A backup of a primary holds its `standby.signal`; here recovery is
//! to end, so `recovery.signal` takes its place.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use cluster_core::model::{Lsn, TimelineId};
use jiff::Timestamp;

use crate::archive::Archive;
use crate::locate::locate;
use crate::manifest::{self, Manifest, StoredFile};
use crate::{Error, Repository, lineage, streams};

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
    let Wanted {
        target,
        backup: wanted,
        into,
        waldump,
    } = asked;
    let backups = manifest::list(repository).await?;
    let refused = |why: String| Err(Error::Refused(why));
    if backups.is_empty() {
        return refused(format!("there is no backup in {}", repository.place()));
    }
    let databases: std::collections::BTreeSet<u64> =
        backups.iter().map(|backup| backup.database).collect();
    if databases.len() > 1 && wanted.is_none() {
        return refused(format!(
            "the repository holds backups of several databases ({databases:?}): name a backup"
        ));
    }
    let database = match wanted.and_then(|id| backups.iter().find(|backup| backup.id == id)) {
        Some(backup) => backup.database,
        None => backups[0].database,
    };
    let archive = Archive::read(repository, database).await?;
    let mut place = None;
    if let (Target::Xid(_) | Target::Name(_), Some(waldump)) = (&target, waldump) {
        let of_it: Vec<Manifest> = backups
            .iter()
            .filter(|backup| backup.database == database)
            .cloned()
            .collect();
        let found = locate(repository, &archive, &of_it, &target, waldump).await?;
        let Some(found) = found else {
            return refused(format!(
                "{target} is nowhere in the archive after the first backup ({}, {})",
                of_it[0].id, of_it[0].end
            ));
        };
        place = Some(found.at);
    }
    let chosen = match wanted {
        Some(id) => backups.iter().find(|backup| backup.id == id),
        None => backups
            .iter()
            .rev()
            .find(|backup| is_before(backup, &target, place)),
    };
    let Some(chosen) = chosen else {
        let first = &backups[0];
        return refused(match wanted {
            Some(id) => format!("there is no backup named {id}"),
            None => format!(
                "no backup was complete before that: the first recoverable moment is {} ({})",
                moment(first.ended_unix_ms),
                first.end
            ),
        });
    };
    if !is_before(chosen, &target, place) {
        return refused(format!(
            "backup {} was complete at {} ({}), after the target",
            chosen.id,
            moment(chosen.ended_unix_ms),
            chosen.end
        ));
    }
    if let Target::Time(at) = &target
        && *at > Timestamp::now()
    {
        return refused(format!("{at} lies in the future"));
    }
    if let Some(key) = &chosen.key {
        // Only to see that it can be.
        repository.open_key(chosen.database, key).await?;
    }
    require_empty(into)?;
    let bytes = chosen.files.iter().map(|file| file.bytes).sum();
    let place = into.parent().unwrap_or(into);
    if let Some(free) = free_bytes(place)
        && free < bytes
    {
        return refused(format!(
            "{} has room for {free} bytes, the backup unpacks to {bytes}",
            place.display()
        ));
    }
    Ok(Plan {
        timeline: lineage::newest(&archive.histories, chosen.timeline, chosen.end),
        backup: chosen.clone(),
        target,
        into: into.to_owned(),
        bytes,
    })
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

/// Unpacks the backup and writes how far recovery goes. `fetch` is the command line of recovery's
/// fetches, without `%f` and `%p`.
///
/// # Errors
/// The store, damage, a tablespace (its place is taken), the files. The directory is left as far as it
/// came.
pub async fn perform(repository: &Repository, plan: &Plan, fetch: &str) -> Result<(), Error> {
    make_private(&plan.into)?;
    let named: Vec<&str> = plan
        .backup
        .files
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    for file in &plan.backup.files {
        unpack(repository, plan, file).await?;
    }
    if !named.contains(&"base.tar") {
        return Err(Error::Refused(format!(
            "backup {} has no base.tar",
            plan.backup.id
        )));
    }
    let write = |name: &str, text: &str| {
        let path = plan.into.join(name);
        std::fs::write(&path, text).map_err(|source| Error::File {
            verb: "write",
            path,
            source,
        })
    };
    let signal = plan.into.join("standby.signal");
    if let Err(source) = std::fs::remove_file(&signal)
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Err(Error::File {
            verb: "remove",
            path: signal,
            source,
        });
    }
    write("recovery.signal", "")?;
    // The last file that PostgreSQL reads; what was set by ALTER SYSTEM is of the old cluster.
    write("postgresql.auto.conf", &settings(plan, fetch))
}

async fn unpack(repository: &Repository, plan: &Plan, file: &StoredFile) -> Result<(), Error> {
    let backup = &plan.backup;
    let object = backup.object(&file.name);
    let into = match file.name.as_str() {
        "base.tar" => plan.into.clone(),
        "pg_wal.tar" => plan.into.join("pg_wal"),
        "backup_manifest" => {
            let path = plan.into.join(&file.name);
            let took =
                streams::read_object(repository, &object, Some(&file.sha256), move |content| {
                    let mut text = Vec::new();
                    let read = content.read_to_end(&mut text);
                    read.and_then(|_| std::fs::write(&path, &text))
                        .map_err(|source| Error::File {
                            verb: "write",
                            path: path.clone(),
                            source,
                        })
                });
            return took.await;
        }
        other => {
            return Err(Error::Refused(format!(
                "backup {} has a tablespace ({other}): it cannot be restored by this version yet",
                backup.id
            )));
        }
    };
    let took = streams::read_object(repository, &object, Some(&file.sha256), move |content| {
        let mut archive = tar::Archive::new(content);
        archive.set_preserve_permissions(true);
        archive.set_overwrite(true);
        archive.unpack(&into).map_err(|source| Error::File {
            verb: "unpack into",
            path: into.clone(),
            source,
        })
    });
    took.await
}

fn make_private(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let attempt = || -> std::io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
    };
    attempt().map_err(|source| Error::File {
        verb: "make",
        path: path.to_owned(),
        source,
    })
}

/// Recovery up to the target, and nothing that reaches out of the directory.
fn settings(plan: &Plan, fetch: &str) -> String {
    let mut text = format!(
        "# Written by a restore of backup {}; this server is a copy for itself.\n",
        plan.backup.id
    );
    let mut line = |name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        let _ = writeln!(text, "{name} = '{value}'");
    };
    line("restore_command", &format!("{fetch} %f \"%p\""));
    line("recovery_target_timeline", &plan.timeline.0.to_string());
    match &plan.target {
        Target::Latest => {}
        Target::Time(at) => line("recovery_target_time", &postgres_time(*at)),
        Target::Lsn(at) => line("recovery_target_lsn", &at.to_string()),
        Target::Xid(xid) => line("recovery_target_xid", &xid.to_string()),
        Target::Name(name) => line("recovery_target_name", name),
    }
    if plan.target != Target::Latest {
        line("recovery_target_action", "pause");
    }
    line("archive_mode", "off");
    line("archive_command", "");
    line("primary_conninfo", "");
    line("primary_slot_name", "");
    line("synchronous_standby_names", "");
    line("listen_addresses", "");
    // Of the socket's name; whatever the cluster's was.
    line("port", "5432");
    line("unix_socket_directories", &plan.into.display().to_string());
    text
}

/// As PostgreSQL reads a moment, whatever its own time zone is.
fn postgres_time(at: Timestamp) -> String {
    let text = at.to_string();
    text.replace('T', " ").replace('Z', "+00")
}

#[cfg(test)]
mod tests {
    use cluster_core::model::{Epoch, TimelineId};

    use crate::names::WalName;
    use crate::wal;

    use super::*;
    use crate::names;

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
        // It left timeline 2 before the backup was consistent (0/7D0): another line.
        store(6, "1\t0/100\tno\n2\t0/10\tno\n").await;
        store(7, "1\t0/0\tnobody used it\n").await;
        assert_eq!(newest().await, TimelineId(5));
    }
}
