//! Every `PostgresStatus` is really seen.

use anyhow::Result;
use cluster_core::model::RuleId;
use cluster_core::model::{PostgresStatus, TimelineId};
use clusterd::postgres::{ConfigInputs, DataDirKind, FENCE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::{Server, on_every_major};

#[test]
fn every_condition_of_a_server_is_seen() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        assert_eq!(a.postgres.observe().await, PostgresStatus::Empty);
        a.make_directory(&a.data_dir())?;
        std::fs::write(a.data_dir().join("something"), "")?;
        let seen = a.postgres.observe().await;
        assert!(
            matches!(
                seen,
                PostgresStatus::Unusable {
                    clone_would_cure: false,
                    ..
                }
            ),
            "{seen:?}"
        );
        std::fs::remove_file(a.data_dir().join("something"))?;
        assert!(a.postgres.initdb().await? > 0);
        let PostgresStatus::Stopped(stopped) = a.postgres.observe().await else {
            panic!("it is stopped");
        };
        assert!(stopped.clean && stopped.has_signal);
        let pid = a.postgres.start_standby(&a.inputs()).await?;
        let first = a.postgres.observe().await;
        assert!(
            matches!(
                first,
                PostgresStatus::Starting { .. } | PostgresStatus::Standby(_)
            ),
            "{first:?}"
        );
        let standby = a.wait_end_of_wal().await?;
        assert!(standby.receiver.is_none() && standby.follows.is_none());
        assert_eq!(standby.timeline, TimelineId(1));
        a.promote(1, 2).await?;
        a.primary().await?;
        stop_everything(pid, Signal::SIGSTOP)?;
        let hung = a
            .wait_status("unresponsive", |status| match status {
                PostgresStatus::Unresponsive { was_primary, .. } => Some(*was_primary),
                _ => None,
            })
            .await;
        stop_everything(pid, Signal::SIGCONT)?;
        assert!(hung?, "it was a primary");
        a.primary().await?;
        a.crash().await?;
        assert!(matches!(
            a.postgres.observe().await,
            PostgresStatus::Stopped(_)
        ));
        std::fs::write(a.data_dir().join("PG_VERSION"), "9\n")?;
        let DataDirKind::Unusable { why, .. } = a.postgres.data_dir_kind().await? else {
            panic!("another major cannot be used");
        };
        assert!(why.contains("major version 9"), "{why}");
        Ok(())
    });
}

#[test]
fn a_server_that_is_told_to_stop_is_seen_stopping() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        let pid = a.postgres.options().data_dir.join("postmaster.pid");
        let pid: i32 = std::fs::read_to_string(pid)?
            .lines()
            .next()
            .unwrap_or("0")
            .parse()?;
        stop_everything(pid, Signal::SIGSTOP)?;
        let stopping = tokio::spawn({
            let postgres = a.postgres.clone();
            async move {
                postgres
                    .stop(clusterd::postgres::StopMode::Fast, crate::place::LIMIT)
                    .await
            }
        });
        let seen = a
            .wait_status("stopping", |status| {
                matches!(status, PostgresStatus::Stopping).then_some(())
            })
            .await;
        stop_everything(pid, Signal::SIGCONT)?;
        seen?;
        stopping.await??;
        assert!(matches!(
            a.postgres.observe().await,
            PostgresStatus::Stopped(_)
        ));
        Ok(())
    });
}

#[test]
fn an_unreachable_guard_means_unknown() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        let elsewhere = a.path().join("no.socket");
        let supervisor = std::sync::Arc::new(clusterd::postgres::GuardSupervisor::new(elsewhere));
        let other =
            clusterd::postgres::Postgres::open(a.postgres.options().clone(), supervisor).await?;
        assert!(matches!(
            other.observe().await,
            PostgresStatus::Unknown { .. }
        ));
        Ok(())
    });
}

#[test]
fn x21_a_fence_set_on_a_standby_holds_the_first_commit_after_its_promotion() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.postgres.initdb().await?;
        let inputs = ConfigInputs {
            sync_names: FENCE.to_owned(),
            ..a.inputs()
        };
        a.postgres.start_standby(&inputs).await?;
        a.postgres.wait_answering(crate::place::LIMIT).await?;
        a.wait_end_of_wal().await?;
        a.promote(1, 2).await?;
        // Our own sessions wait for nobody.
        a.postgres.create_roles().await?;
        a.postgres.probe_commit(crate::place::LIMIT).await?;
        assert_eq!(a.primary().await?.sync_names, FENCE);
        let waiting = tokio::spawn({
            let client = a.client().await?;
            async move { client.batch_execute("CREATE TABLE t (i int)").await }
        });
        let sync_rep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let begin = std::time::Instant::now();
        while a.number(sync_rep).await? == 0 {
            anyhow::ensure!(
                begin.elapsed() < crate::place::LIMIT,
                "the commit does not wait"
            );
        }
        assert!(!waiting.is_finished());
        a.postgres.set_rule(RuleId(1), "").await?;
        waiting.await??;
        Ok(())
    });
}

/// A signal to a process and its children.
fn stop_everything(postmaster: i32, signal: Signal) -> Result<()> {
    let children =
        std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
    kill(Pid::from_raw(postmaster), signal)?;
    for child in children.split_whitespace() {
        // One may have ended meanwhile.
        let _ = kill(Pid::from_raw(child.parse()?), signal);
    }
    Ok(())
}
