//! Start, stop, crash, promote; a server somebody else starts.

use std::process::Command;
use std::time::Duration;

use cluster_core::model::{Lsn, PostgresStatus, TimelineId};
use clusterd::postgres::{DataDirKind, Error, Gate, StopMode};

use crate::place::{CANARY, LIMIT, Server, on_every_major, os_user};

#[test]
fn a_new_database_boots_read_only_and_is_promoted_onto_timeline_two() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.postgres.initdb().await?;
        let control = a.postgres.control_data().await?;
        assert!(control.has_checksums);
        assert_eq!(control.wal_segment_bytes, 4 << 20);
        a.start().await?;
        let refused = a
            .run("CREATE TABLE t (i int)")
            .await
            .expect_err("it is in recovery");
        assert!(
            format!("{refused:?}").contains("read-only transaction"),
            "{refused:?}"
        );
        let before = a.wait_end_of_wal().await?;
        assert_eq!(before.timeline, TimelineId(1));
        let promotion = a.promote(1, 2).await?;
        assert_eq!(promotion.timeline, TimelineId(2));
        assert_eq!(promotion.fork, before.replayed);
        let primary = a.primary().await?;
        assert_eq!(
            (primary.timeline, primary.fork),
            (TimelineId(2), Some(promotion.fork))
        );
        assert!(
            primary.has_signal,
            "the signal lies under the running primary"
        );
        assert!(!primary.is_open);
        a.run("CREATE TABLE t (i int)").await?;
        Ok(())
    });
}

#[test]
fn a_new_database_has_the_locale_and_encoding_it_was_asked_for() {
    on_every_major(|bin| async move {
        let a = Server::with(&bin, "a", |options| {
            options.locale = "C".to_owned();
            options.encoding = "LATIN1".to_owned();
        })
        .await?;
        a.bootstrap().await?;
        let found = a
            .text("SELECT string_agg(DISTINCT pg_encoding_to_char(encoding) || ' ' || datcollate, ',') FROM pg_database")
            .await?;
        assert_eq!(found, "LATIN1 C");
        Ok(())
    });
}

#[test]
fn a_server_that_cannot_start_says_why_and_where_there_is_more() {
    on_every_major(|bin| async move {
        let b = Server::new(&bin, "b").await?;
        b.postgres.initdb().await?;
        let port = b.postgres.options().port;
        let _somebody = std::net::TcpListener::bind(("127.0.0.1", port))?;
        let ended = b.start().await.expect_err("its port is in use");
        let text = format!("{ended:#}");
        let log = b.postgres.output_file().display().to_string();
        assert!(
            text.contains("could not create any TCP/IP sockets") && text.contains(&log),
            "{text}"
        );
        Ok(())
    });
}

#[test]
fn a_promotion_needs_an_armed_lease_of_its_epoch() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.postgres.initdb().await?;
        a.start().await?;
        let error = a
            .postgres
            .promote(cluster_core::model::Epoch(1), TimelineId(2), LIMIT)
            .await
            .expect_err("nothing is armed");
        assert!(matches!(error, Error::Supervisor(_)), "{error}");
        assert!(!a.data_dir().join("promote").exists());
        assert!(matches!(
            a.postgres.observe().await,
            PostgresStatus::Standby(_)
        ));
        Ok(())
    });
}

#[test]
fn x26_a_crashed_primary_comes_back_read_only_and_is_promoted_onto_a_new_timeline() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        a.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
            .await?;
        a.crash().await?;
        let PostgresStatus::Stopped(stopped) = a.postgres.observe().await else {
            panic!("it is stopped");
        };
        assert!(!stopped.clean && stopped.has_signal && !stopped.was_in_recovery);
        a.start().await?;
        a.wait_end_of_wal().await?;
        assert!(a.run("DELETE FROM t").await.is_err());
        let promotion = a.promote(2, 3).await?;
        assert_eq!(promotion.timeline, TimelineId(3));
        assert_eq!(a.number("SELECT count(*) FROM t").await?, 1000);
        Ok(())
    });
}

#[test]
fn a_foreign_pg_ctl_start_on_an_old_primary_is_read_only() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        a.crash().await?;
        let socket = a.path().join("foreign");
        a.make_directory(&socket)?;
        let pg_ctl = |verb: &str| {
            let mut command = Command::new("setpriv");
            let user = os_user();
            command.args(["--reuid", &user, "--regid", &user, "--init-groups"]);
            command
                .arg(bin.join("pg_ctl"))
                .args([verb, "-w", "-D"])
                .arg(a.data_dir());
            command.arg("-l").arg(socket.join("log"));
            if verb == "start" {
                command.arg("-o").arg(format!(
                    "-c unix_socket_directories={} -c listen_addresses= -c port={}",
                    socket.display(),
                    a.port
                ));
            }
            command.status()
        };
        let started = pg_ctl("start")?;
        let log = std::fs::read_to_string(socket.join("log")).unwrap_or_default();
        assert!(started.success(), "{log}");
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                &os_user(),
                "--regid",
                &os_user(),
                "--init-groups",
            ])
            .arg(bin.join("psql"))
            .args(["-X", "-At", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(&socket)
            .args([
                "-p",
                &a.port.to_string(),
                "-c",
                "SELECT pg_is_in_recovery()",
            ])
            .output()?;
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "t",
            "{output:?}"
        );
        let seen = a.postgres.observe().await;
        let refused = a.postgres.start_standby(&a.inputs()).await;
        pg_ctl("stop")?;
        assert!(
            matches!(&seen, PostgresStatus::Unknown { why } if why.contains("somebody else")),
            "{seen:?}"
        );
        assert!(refused.is_err(), "two servers in one directory");
        Ok(())
    });
}

#[test]
fn stops_are_clean_or_immediate_and_the_control_file_says_which() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        a.stop().await?;
        let PostgresStatus::Stopped(stopped) = a.postgres.observe().await else {
            panic!("it is stopped");
        };
        assert!(stopped.clean && !stopped.was_in_recovery);
        assert_eq!(stopped.checkpoint_timeline, TimelineId(2));
        let control = a.postgres.control_data().await?;
        let end = a
            .postgres
            .end_of_wal_on_disk(control.redo, TimelineId(2))
            .await?;
        assert!(
            end > stopped.checkpoint && end.0 - stopped.checkpoint.0 < 512,
            "{end} {stopped:?}"
        );
        a.start().await?;
        let seen = a.wait_end_of_wal().await?;
        assert_eq!(
            seen.end_of_wal(),
            end,
            "the files and recovery agree on the end"
        );
        a.postgres.stop(StopMode::Immediate, LIMIT).await?;
        assert_eq!(
            a.postgres.stop_budgeted(Duration::from_secs(1)).await?,
            StopMode::Fast
        );
        Ok(())
    });
}

#[test]
fn the_end_of_wal_on_disk_is_where_recovery_ends_after_a_crash() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        a.run("CREATE TABLE t AS SELECT repeat('x', 3000) AS v FROM generate_series(1, 2000)")
            .await?;
        let flushed = a.flushed().await?;
        a.crash().await?;
        let control = a.postgres.control_data().await?;
        let on_disk = a
            .postgres
            .end_of_wal_on_disk(control.redo, TimelineId(2))
            .await?;
        assert!(on_disk >= flushed, "{on_disk} {flushed}");
        a.start().await?;
        assert_eq!(a.wait_end_of_wal().await?.replayed, on_disk);
        let nowhere = Lsn(on_disk.0 + (64 << 20));
        a.stop().await?;
        assert!(
            a.postgres
                .end_of_wal_on_disk(nowhere, TimelineId(2))
                .await
                .is_err()
        );
        Ok(())
    });
}

#[test]
fn clients_come_in_only_while_the_gate_is_open() {
    on_every_major(|bin| async move {
        let a = Server::with(&bin, "a", |options| {
            options.app = Some(clusterd::postgres::AppDatabase {
                database: "app".into(),
                owner: clusterd::postgres::Role {
                    name: "app".into(),
                    password: clusterd::postgres::Secret::new(CANARY),
                },
            });
        })
        .await?;
        a.bootstrap().await?;
        let text = format!("host=127.0.0.1 port={} user=app dbname=app", a.port);
        let try_app = || async { tokio_postgres::connect(&text, tokio_postgres::NoTls).await };
        let refused = try_app().await.err().expect("the gate is closed");
        assert!(format!("{refused:?}").contains("28000"), "{refused:?}");
        a.postgres.open_gate().await?;
        assert!(a.primary().await?.is_open);
        let (client, connection) = try_app().await?;
        tokio::spawn(connection);
        client.batch_execute("CREATE TABLE mine (i int)").await?;
        a.postgres.close_gate().await?;
        assert!(try_app().await.is_err());
        client.batch_execute("INSERT INTO mine VALUES (1)").await?;
        assert!(a.postgres.end_client_sessions().await? >= 1);
        assert!(
            client.batch_execute("SELECT 1").await.is_err(),
            "the session was ended"
        );
        Ok(())
    });
}

#[test]
fn no_password_is_in_a_log_an_argument_or_a_file_that_others_read() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        let b = Server::new(&bin, "b").await?;
        b.follow_by_clone(&a, 1).await?;
        let secret = CANARY.split(':').next_back().expect("it has parts");
        for server in [&a, &b] {
            server.run("SELECT 1").await?;
            assert!(
                server.log().contains("statement: "),
                "statements are logged at all"
            );
            for entry in server.state_dir().read_dir()?.flatten() {
                if entry.file_name() == "passfile" || !entry.path().is_file() {
                    continue;
                }
                let text = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
                assert!(!text.contains("canary"), "{}", entry.path().display());
                assert!(!text.contains(secret), "{}", entry.path().display());
            }
            use std::os::unix::fs::PermissionsExt;
            let mode = server
                .state_dir()
                .join("passfile")
                .metadata()?
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        for process in std::path::Path::new("/proc").read_dir()?.flatten() {
            let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            assert!(
                !String::from_utf8_lossy(&arguments).contains("canary:pass"),
                "{process:?}"
            );
        }
        assert!(matches!(
            a.postgres.data_dir_kind().await?,
            DataDirKind::Adoptable { .. }
        ));
        assert_eq!(a.postgres.inputs().gate, Gate::Closed);
        Ok(())
    });
}
