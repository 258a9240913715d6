//! Clones: into nothing, over something, interrupted, with a WAL directory and tablespaces.

use anyhow::Result;
use cluster_core::model::TimelineId;
use clusterd::postgres::{CopyOf, Error, Progress, Upstream};
use tokio::sync::watch;

use crate::place::{LIMIT, Server, on_every_major};

#[test]
fn a_clone_replaces_a_directory_and_keeps_the_old_one_until_it_is_discarded() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        a.run("CREATE TABLE t AS SELECT 1 AS i").await?;
        b.postgres.initdb().await?;
        let before = b.postgres.control_data().await?.system_identifier;
        a.postgres.apply_config(&a.inputs()).await?;
        let (progress, seen) = watch::channel(Progress::default());
        b.postgres
            .clone_from(&a.upstream(&b, 1), None, progress)
            .await?;
        assert!(seen.borrow().done_bytes > 0, "progress is told in bytes");
        assert_ne!(b.postgres.control_data().await?.system_identifier, before);
        assert!(b.path().join("data.old-1/PG_VERSION").is_file());
        assert!(b.postgres.has_standby_signal());
        b.start().await?;
        b.wait_end_of_wal().await?;
        assert_eq!(b.number("SELECT count(*) FROM t").await?, 1);
        b.postgres.discard_old().await?;
        assert!(!b.path().join("data.old-1").exists());
        Ok(())
    });
}

#[test]
fn a_clone_that_is_cut_off_leaves_what_was_there() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        let b = Server::with(&bin, "b", |options| options.clone_rate_kb = Some(1024)).await?;
        a.bootstrap().await?;
        a.postgres.apply_config(&a.inputs()).await?;
        b.postgres.initdb().await?;
        let before = b.postgres.control_data().await?.system_identifier;
        let (progress, mut seen) = watch::channel(Progress::default());
        let clone = tokio::spawn({
            let (postgres, upstream) = (b.postgres.clone(), a.upstream(&b, 1));
            async move { postgres.clone_from(&upstream, None, progress).await }
        });
        tokio::time::timeout(LIMIT, seen.wait_for(|now| now.done_bytes > 0)).await??;
        a.crash().await?;
        let ended = tokio::time::timeout(LIMIT, clone).await??;
        assert!(
            matches!(
                ended,
                Err(Error::ToolFailed { .. } | Error::SourceUnreachable { .. })
            ),
            "{ended:?}"
        );
        assert_eq!(b.postgres.control_data().await?.system_identifier, before);
        b.start().await?;
        Ok(())
    });
}

#[test]
fn a_clone_nobody_answers_for_says_so() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        let (progress, _) = watch::channel(Progress::default());
        let ended = b
            .postgres
            .clone_from(&a.upstream(&b, 1), None, progress)
            .await;
        assert!(
            matches!(ended, Err(Error::SourceUnreachable { .. })),
            "{ended:?}"
        );
        Ok(())
    });
}

/// An address may lead to somebody else's database, which lets us in because its passwords are the
/// same.
#[test]
fn a_clone_from_another_database_is_refused_before_anything_is_touched() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        let stranger = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        stranger.bootstrap().await?;
        stranger.postgres.apply_config(&stranger.inputs()).await?;
        b.follow_by_clone(&a, 1).await?;
        b.stop().await?;
        let wanted = b.postgres.control_data().await?.system_identifier;
        let found = stranger.postgres.control_data().await?.system_identifier;
        let before = fingerprint(b.path())?;
        let (progress, _) = watch::channel(Progress::default());
        let upstream = stranger.upstream(&b, 1);
        let ended = b
            .postgres
            .clone_from(&upstream, Some(of(wanted, 2)), progress)
            .await;
        let Err(Error::WrongDatabase { .. }) = &ended else {
            panic!("{ended:?}");
        };
        let said = ended.err().map(|error| error.to_string());
        let said = said.unwrap_or_default();
        assert!(
            said.contains(&wanted.to_string()) && said.contains(&found.to_string()),
            "{said}"
        );
        assert_eq!(fingerprint(b.path())?, before, "something was touched");
        b.follow_by_clone(&a, 2).await
    });
}

fn of(database: u64, timeline: u32) -> CopyOf {
    CopyOf {
        database,
        timeline: TimelineId(timeline),
    }
}

/// Its source was granted another epoch in between: the copy holds WAL that the member knows nothing
/// of, and would be taken for the old epoch's.
#[test]
fn a_copy_of_another_timeline_than_the_epochs_is_not_put_in_place() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        b.stop().await?;
        let (progress, _) = watch::channel(Progress::default());
        let database = b.postgres.control_data().await?.system_identifier;
        let before = fingerprint(&b.data_dir())?;
        let upstream = a.upstream(&b, 1);
        let ended = b
            .postgres
            .clone_from(&upstream, Some(of(database, 7)), progress)
            .await;
        let Err(Error::CopyOfAnotherTimeline { found, wanted }) = &ended else {
            panic!("{ended:?}");
        };
        assert_eq!((*found, *wanted), (TimelineId(2), TimelineId(7)));
        assert_eq!(fingerprint(&b.data_dir())?, before, "the data was touched");
        b.follow_by_clone(&a, 2).await
    });
}

/// Names, sizes and times of change of every file below a place, our own state and logs left out.
fn fingerprint(place: &std::path::Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir()? {
            let (path, meta) = {
                let entry = entry?;
                (entry.path(), entry.metadata()?)
            };
            if meta.is_dir() && path != place.join("state") {
                folders.push(path.clone());
            }
            let is_ours = path.parent() == Some(place) && !meta.is_dir();
            if !is_ours && path != place.join("state") {
                found.push(format!(
                    "{} {} {:?}",
                    path.display(),
                    meta.len(),
                    meta.modified()?
                ));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Only root can mount; whoever runs the tests as another user has it checked by CI.
#[test]
fn a_clone_that_does_not_fit_says_how_much_is_missing_and_leaves_what_was_there() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        a.run("CREATE TABLE t AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 100000)")
            .await?;
        a.postgres.apply_config(&a.inputs()).await?;
        b.make_directory(&b.data_dir())?;
        let mounted = Mounted::new(&b.data_dir(), 90)?;
        b.make_ours(&b.data_dir())?;
        b.postgres.initdb().await?;
        let before = b.postgres.control_data().await?.system_identifier;
        let (progress, _) = watch::channel(Progress::default());
        let ended = b
            .postgres
            .clone_from(&a.upstream(&b, 1), None, progress)
            .await;
        let Err(Error::NoRoom { .. }) = &ended else {
            panic!("{ended:?}");
        };
        assert_eq!(b.postgres.control_data().await?.system_identifier, before);
        b.start().await?;
        b.wait_end_of_wal().await?;
        b.stop().await?;
        drop(mounted);
        Ok(())
    });
}

/// Only root can mount; whoever runs the tests as another user has it checked by CI.
#[test]
fn a_clone_in_place_fits_where_two_copies_do_not_and_is_refused_where_not_even_one_does() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        a.run("CREATE TABLE t AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 100000)")
            .await?;
        a.postgres.apply_config(&a.inputs()).await?;
        b.make_directory(&b.data_dir())?;
        let mounted = Mounted::new(&b.data_dir(), 250)?;
        b.make_ours(&b.data_dir())?;
        let upstream = a.upstream(&b, 1);
        let (progress, _) = watch::channel(Progress::default());
        b.postgres
            .clone_from(&upstream, None, progress.clone())
            .await?;
        let ended = b
            .postgres
            .clone_from(&upstream, None, progress.clone())
            .await;
        let Err(Error::NoRoom { needs_bytes, .. }) = &ended else {
            panic!("{ended:?}");
        };
        let too_much = b.postgres.require_room_in_place(10 * needs_bytes);
        assert!(matches!(too_much, Err(Error::NoRoom { .. })));
        b.postgres.require_room_in_place(*needs_bytes)?;
        // A source that does not answer costs nothing.
        let nobody = Upstream {
            port: 1,
            ..upstream.clone()
        };
        let of = CopyOf {
            database: a.postgres.control_data().await?.system_identifier,
            timeline: a.primary().await?.timeline,
        };
        let ended = b
            .postgres
            .clone_in_place(&nobody, Some(of), progress.clone())
            .await;
        assert!(
            matches!(ended, Err(Error::SourceUnreachable { .. })),
            "{ended:?}"
        );
        assert!(b.data_dir().join("PG_VERSION").is_file());
        b.postgres
            .clone_in_place(&upstream, Some(of), progress)
            .await?;
        b.start().await?;
        b.wait_end_of_wal().await?;
        assert_eq!(b.number("SELECT count(*) FROM t").await?, 100_000);
        b.stop().await?;
        drop(mounted);
        Ok(())
    });
}

#[test]
fn an_interrupted_swap_is_never_started() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.postgres.initdb().await?;
        std::fs::write(a.state_dir().join("unfinished-swap"), "")?;
        let started = a.postgres.start_standby(&a.inputs()).await;
        assert!(
            matches!(started, Err(Error::Unfinished { .. })),
            "{started:?}"
        );
        Ok(())
    });
}

#[test]
fn a_separate_wal_directory_and_tablespaces_are_cloned_where_they_belong() {
    on_every_major(|bin| async move {
        let a = Server::with(&bin, "a", |options| {
            options.wal_dir = Some(options.data_dir.with_file_name("wal"));
        })
        .await?;
        a.bootstrap().await?;
        let theirs = a.path().join("space");
        a.make_directory(&theirs)?;
        a.run(&format!(
            "CREATE TABLESPACE s LOCATION '{}'",
            theirs.display()
        ))
        .await?;
        a.run("CREATE TABLE t TABLESPACE s AS SELECT generate_series(1, 10) AS i")
            .await?;
        let b = Server::with(&bin, "b", |options| {
            options.wal_dir = Some(options.data_dir.with_file_name("wal"));
            let ours = options.data_dir.with_file_name("space");
            options.tablespace_map = vec![(theirs.clone(), ours)];
        })
        .await?;
        for round in 1..=2 {
            if round == 2 {
                b.stop().await?;
            }
            b.follow_by_clone(&a, round).await?;
            assert_eq!(b.number("SELECT count(*) FROM t").await?, 10);
            assert_eq!(
                std::fs::read_link(b.data_dir().join("pg_wal"))?,
                b.path().join("wal")
            );
            let place =
                b.text("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 's'");
            assert_eq!(place.await?, b.path().join("space").display().to_string());
        }
        let old = b.path().join("data.old-1");
        assert_eq!(
            std::fs::read_link(old.join("pg_wal"))?,
            b.path().join("wal.old-1")
        );
        assert!(b.path().join("wal.old-1").is_dir() && b.path().join("space.old-1").is_dir());
        Ok(())
    });
}

/// Only root can mount; whoever runs the tests as another user has it checked by CI.
#[test]
fn a_data_directory_that_is_a_mount_point_is_filled_from_inside() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        a.run("CREATE TABLE t AS SELECT 1 AS i").await?;
        a.postgres.apply_config(&a.inputs()).await?;
        b.make_directory(&b.data_dir())?;
        let mounted = Mounted::new(&b.data_dir(), 400)?;
        b.make_ours(&b.data_dir())?;
        for round in 1..=2 {
            let (progress, _) = watch::channel(Progress::default());
            b.postgres
                .clone_from(&a.upstream(&b, round), None, progress)
                .await?;
            b.start().await?;
            b.wait_end_of_wal().await?;
            assert_eq!(b.number("SELECT count(*) FROM t").await?, 1);
            b.stop().await?;
        }
        assert!(
            b.data_dir()
                .join("pgsql_tmp_clusterd_old-1/PG_VERSION")
                .is_file()
        );
        b.postgres.discard_old().await?;
        assert!(!b.data_dir().join("pgsql_tmp_clusterd_old-1").exists());
        drop(mounted);
        Ok(())
    });
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(path: &std::path::Path, megabytes: u32) -> Result<Mounted> {
        let size = format!("size={megabytes}m");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path)
            .status()?;
        anyhow::ensure!(status.success(), "mount: {status}");
        Ok(Mounted(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(&self.0)
            .status();
    }
}
