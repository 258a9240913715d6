//! Follow, detach, prove the end of WAL, attach again.

use std::time::Duration;

#[cfg(target_arch = "x86_64")]
use anyhow::ensure;
use cluster_core::model::{Epoch, PostgresStatus, RuleId, TimelineId};
use clusterd::postgres::{ConfigInputs, Error, StopMode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
#[cfg(target_arch = "x86_64")]
use tokio::time::{Instant, sleep};

#[cfg(target_arch = "x86_64")]
use crate::interrupted::hold_before_signal;
use crate::place::{LIMIT, Server, on_every_major};

#[test]
fn a_standby_follows_under_its_name_is_detached_and_attached_again() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        let follows = b
            .wait_status("streaming", |status| match status {
                PostgresStatus::Standby(standby)
                    if standby.receiver.as_ref().is_some_and(|it| it.is_streaming) =>
                {
                    Some(standby.clone())
                }
                _ => None,
            })
            .await?;
        assert_eq!(follows.timeline, TimelineId(2));
        let upstream = follows.follows.expect("it follows");
        assert_eq!((upstream.member.as_str(), upstream.epoch), ("a", Epoch(1)));
        let sender = a.primary().await?.senders.pop().expect("a walsender");
        assert_eq!(sender.application_name, "b~00000001~1");
        assert_eq!(sender.state, "streaming");
        b.postgres.detach(LIMIT).await?;
        let sealed = b.wait_end_of_wal().await?;
        assert!(sealed.receiver.is_none() && sealed.follows.is_none());
        a.run("CREATE TABLE after_the_seal (i int)").await?;
        let beyond = a.flushed().await?;
        assert!(b.standby().await?.end_of_wal() < beyond);
        b.postgres.attach(a.upstream(&b, 2)).await?;
        b.wait_replayed(beyond).await?;
        assert_eq!(
            b.standby().await?.follows.expect("it follows").epoch,
            Epoch(2)
        );
        Ok(())
    });
}

/// A standby that acknowledged, crashed and restarted reports less for a while (X1): its position
/// counts only with the proof.
#[test]
fn x1_a_restarted_standby_proves_its_end_of_wal_before_its_position_counts() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        a.postgres
            .set_rule(RuleId(1), "ANY 1 (\"b~00000001~1\")")
            .await?;
        b.run("SELECT pg_wal_replay_pause()").await?;
        a.run("CREATE TABLE t AS SELECT repeat('x', 500) AS v FROM generate_series(1, 40000)")
            .await?;
        // The commit was acknowledged, so b has flushed up to here.
        let acknowledged = a.primary().await?.senders[0].flushed;
        a.crash().await?;
        b.crash().await?;
        b.postgres.start_standby(&b.inputs()).await?;
        let mut under_reports = 0;
        let proven = loop {
            match b.postgres.observe().await {
                PostgresStatus::Standby(standby) if standby.at_end_of_wal => break standby,
                PostgresStatus::Standby(standby) if standby.end_of_wal() < acknowledged => {
                    under_reports += 1;
                }
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(
            proven.end_of_wal() >= acknowledged,
            "{proven:?} {acknowledged}"
        );
        println!(
            "{under_reports} looks saw less than was acknowledged, none of them with the proof"
        );
        b.promote(2, 3).await?;
        assert_eq!(b.number("SELECT count(*) FROM t").await?, 40000);
        Ok(())
    });
}

/// The postmaster tells its children one by one that the configuration changed. Held up before it
/// tells the startup process, and with the upstream gone at that moment, there is no receiver, and
/// there will be one again.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_detach_waits_for_a_startup_process_that_was_not_told_yet() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        let ask = "SELECT pid::int8 FROM pg_stat_activity WHERE backend_type = ";
        let startup = i32::try_from(b.number(&format!("{ask}'startup'")).await?)?;
        let receiver = i32::try_from(b.number(&format!("{ask}'walreceiver'")).await?)?;
        let file = std::fs::read_to_string(b.data_dir().join("postmaster.pid"))?;
        let postmaster: i32 = file.lines().next().unwrap_or_default().parse()?;
        let (held, is_held) = std::sync::mpsc::channel();
        let (go, may_go) = std::sync::mpsc::channel();
        let holder = tokio::task::spawn_blocking(move || {
            hold_before_signal(postmaster, startup, &held, &may_go)
        });
        let postgres = b.postgres.clone();
        let detaching = tokio::spawn(async move { postgres.detach(LIMIT).await });
        tokio::task::spawn_blocking(move || is_held.recv_timeout(LIMIT)).await??;
        // WAL comes in: the startup process goes to sleep again and again, and knows nothing.
        for number in 0..5 {
            a.run(&format!("CREATE TABLE t{number} ()")).await?;
            b.wait_replayed(a.flushed().await?).await?;
        }
        a.postgres.kill("its standby is being detached").await?;
        let begin = Instant::now();
        // It ends by itself when its upstream does; the postmaster would have to bury it.
        while !is_over(receiver) {
            ensure!(begin.elapsed() < LIMIT, "the receiver goes on");
            sleep(Duration::from_millis(5)).await;
        }
        // Long enough for a detach that believes its own session.
        sleep(Duration::from_millis(500)).await;
        let was_done = detaching.is_finished();
        go.send(())?;
        holder.await??;
        ensure!(!was_done, "detached while the startup process did not know");
        detaching.await??;
        Ok(())
    });
}

#[cfg(target_arch = "x86_64")]
fn is_over(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// X10: with its startup process frozen, a standby whose conninfo is cleared still receives.
#[test]
fn x10_a_cleared_conninfo_is_no_seal_while_the_receiver_lives() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        let query = "SELECT pid::int8 FROM pg_stat_activity WHERE backend_type = 'startup'";
        let startup = Pid::from_raw(i32::try_from(b.number(query).await?)?);
        kill(startup, Signal::SIGSTOP)?;
        let frozen = b.postgres.detach(Duration::from_secs(2)).await;
        let seen = b.standby().await;
        kill(startup, Signal::SIGCONT)?;
        assert!(matches!(frozen, Err(Error::TimedOut { .. })), "{frozen:?}");
        assert!(
            seen?.receiver.is_some(),
            "the receiver is seen although conninfo is empty"
        );
        b.postgres.detach(LIMIT).await?;
        assert!(b.wait_end_of_wal().await?.receiver.is_none());
        Ok(())
    });
}

/// X23: replay pauses when the primary's `max_connections` grows; here the larger value is used.
#[test]
fn x23_a_standby_that_is_started_with_less_than_the_primary_has_runs_with_the_primarys_value() {
    on_every_major(|bin| async move {
        let a = Server::with(&bin, "a", |options| {
            options
                .parameters
                .insert("max_connections".into(), "60".into());
        })
        .await?;
        let b = Server::with(&bin, "b", |options| {
            options
                .parameters
                .insert("max_connections".into(), "30".into());
        })
        .await?;
        a.bootstrap().await?;
        assert_eq!(
            a.text("SHOW max_connections").await?,
            "60",
            "initdb recorded the lower value"
        );
        b.follow_by_clone(&a, 1).await?;
        assert_eq!(b.text("SHOW max_connections").await?, "60");
        a.stop().await?;
        b.postgres.detach(LIMIT).await?;
        b.wait_end_of_wal().await?;
        assert_eq!(b.promote(2, 3).await?.timeline, TimelineId(3));
        Ok(())
    });
}

#[test]
fn lowered_parameters_are_recorded_by_one_single_user_run() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        assert_eq!(a.text("SHOW max_connections").await?, "100");
        let mut inputs = a.inputs();
        inputs
            .parameters
            .insert("max_connections".into(), "40".into());
        a.postgres.apply_config(&inputs).await?;
        a.postgres.stop(StopMode::Fast, LIMIT).await?;
        a.postgres.start_standby(&inputs).await?;
        a.postgres.wait_answering(LIMIT).await?;
        assert_eq!(
            a.text("SHOW max_connections").await?,
            "100",
            "recovery refuses less"
        );
        a.wait_end_of_wal().await?;
        a.promote(2, 3).await?;
        a.postgres.stop(StopMode::Fast, LIMIT).await?;
        a.postgres.lower_parameters().await?;
        assert!(a.postgres.has_standby_signal());
        a.postgres.start_standby(&inputs).await?;
        a.postgres.wait_answering(LIMIT).await?;
        assert_eq!(a.text("SHOW max_connections").await?, "40");
        a.wait_end_of_wal().await?;
        assert_eq!(a.promote(3, 4).await?.timeline, TimelineId(4));
        let inputs = ConfigInputs {
            sync_names: String::new(),
            ..inputs
        };
        a.postgres.apply_config(&inputs).await?;
        Ok(())
    });
}

/// Builds without TLS refuse `ssl = on` before anything is applied; the others stream encrypted.
#[test]
fn members_stream_and_rewind_over_tls_when_it_is_configured() {
    on_every_major(|bin| async move {
        let certificates = tempfile::tempdir()?;
        std::fs::set_permissions(
            certificates.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let (certificate, key) = (
            certificates.path().join("c.pem"),
            certificates.path().join("k.pem"),
        );
        let made = std::process::Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
            ])
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()?;
        anyhow::ensure!(made.status.success(), "openssl: {made:?}");
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        crate::place::hand_over(&key)?;
        let with_tls = |options: &mut clusterd::postgres::PostgresOptions| {
            options.parameters.insert("ssl".into(), "on".into());
            options
                .parameters
                .insert("ssl_cert_file".into(), certificate.display().to_string());
            options
                .parameters
                .insert("ssl_key_file".into(), key.display().to_string());
            options.replication_tls.sslmode = Some("verify-ca".into());
            options.replication_tls.root_certificate = Some(certificate.clone());
        };
        let a = Server::with(&bin, "a", with_tls).await?;
        let problems = a.postgres.validate_parameters(&Default::default()).await?;
        if !problems.is_empty() {
            assert!(problems.iter().any(|it| it.contains("SSL")), "{problems:?}");
            println!("{}: this build has no TLS", bin.display());
            return Ok(());
        }
        let b = Server::with(&bin, "b", with_tls).await?;
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        let encrypted =
            "SELECT count(*) FROM pg_stat_replication r JOIN pg_stat_ssl s USING (pid) WHERE s.ssl";
        // It has all there is by its copy; that it also streams comes a moment later.
        let begin = tokio::time::Instant::now();
        while a.number(encrypted).await? != 1 {
            anyhow::ensure!(begin.elapsed() < LIMIT, "nobody streams over TLS");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Without TLS nobody comes in as the replication role.
        let plain = format!(
            "host=127.0.0.1 port={} user=rewinder dbname=postgres password=x",
            a.port
        );
        let refused = tokio_postgres::connect(&plain, tokio_postgres::NoTls)
            .await
            .err();
        assert!(format!("{refused:?}").contains("28000"), "{refused:?}");
        Ok(())
    });
}
