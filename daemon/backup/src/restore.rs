//! A backup back into an empty directory, ready to be started by hand up to a point in time.
//!
//! What is restored never writes into the repository it came from: archiving is off, and it listens on a
//! socket in its own directory only. A backup of a primary holds its `standby.signal`; here recovery is
//! to end, so `recovery.signal` takes its place.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;

use crate::manifest::StoredFile;
pub use crate::plan::{Plan, Target, Wanted, moment, plan};
use crate::{Error, Repository, streams};

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

pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
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
