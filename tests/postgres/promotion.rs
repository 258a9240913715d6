//! Promotions from where they might go wrong: replay held back, parameters too low, killed half-way.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_core::model::{Lsn, PostgresStatus, TimelineId};
use clusterd::postgres::{ConfigInputs, StopMode};

use crate::interrupted::kill_when;
use crate::place::{LIMIT, Server, on_every_major};

/// A standby that has received 1000 rows and replayed none of them; its primary is gone.
async fn received_and_not_replayed(
    bin: &std::path::Path,
    delay: Option<&str>,
) -> Result<(Server, Server)> {
    let a = Server::new(bin, "a").await?;
    let b = Server::with(bin, "b", |options| {
        if let Some(delay) = delay {
            let name = "recovery_min_apply_delay".to_owned();
            options.parameters.insert(name, delay.to_owned());
        }
    })
    .await?;
    a.bootstrap().await?;
    a.run("CREATE TABLE t (i int)").await?;
    b.follow_by_clone(&a, 1).await?;
    if delay.is_none() {
        b.run("SELECT pg_wal_replay_pause()").await?;
        b.wait_status("a pause", |status| match status {
            PostgresStatus::Standby(standby) => standby.replay_paused.then_some(()),
            _ => None,
        })
        .await?;
    }
    a.run("INSERT INTO t SELECT generate_series(1, 1000)")
        .await?;
    let written = a.flushed().await?;
    let received = |status: &PostgresStatus| match status {
        PostgresStatus::Standby(standby) => {
            (standby.received.unwrap_or(Lsn::ZERO) >= written).then_some(())
        }
        _ => None,
    };
    b.wait_status("1000 rows received", received).await?;
    ensure!(
        b.number("SELECT count(*) FROM t").await? == 0,
        "they were replayed, so this shows nothing"
    );
    a.crash().await?;
    b.postgres.detach(LIMIT).await?;
    let standby = b.standby().await?;
    ensure!(
        !standby.at_end_of_wal,
        "what it has received and not replayed is no proven position: {standby:?}"
    );
    Ok((a, b))
}

#[test]
fn x24_a_promotion_replays_what_a_pause_held_back() {
    on_every_major(|bin| async move {
        let (_a, b) = received_and_not_replayed(&bin, None).await?;
        assert_eq!(b.promote(2, 3).await?.timeline, TimelineId(3));
        assert_eq!(b.number("SELECT count(*) FROM t").await?, 1000);
        Ok(())
    });
}

#[test]
fn x24_a_promotion_replays_what_an_apply_delay_held_back() {
    on_every_major(|bin| async move {
        let (_a, b) = received_and_not_replayed(&bin, Some("1h")).await?;
        assert_eq!(b.promote(2, 3).await?.timeline, TimelineId(3));
        assert_eq!(b.number("SELECT count(*) FROM t").await?, 1000);
        Ok(())
    });
}

/// The primary is restarted with more connections than its running standby has: replay pauses, and
/// a promotion would end the server. It is seen as paused, which is a reason not to promote it
/// (`a_member_that_says_why_not_is_no_candidate`), and its next start cures it.
#[test]
fn x23_a_running_standby_with_less_than_the_primary_is_seen_paused_and_cured_by_its_next_start() {
    on_every_major(|bin| async move {
        let few = |options: &mut clusterd::postgres::PostgresOptions| {
            let name = "max_connections".to_owned();
            options.parameters.insert(name, "30".to_owned());
        };
        let a = Server::with(&bin, "a", few).await?;
        let b = Server::with(&bin, "b", few).await?;
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        assert_eq!(b.text("SHOW max_connections").await?, "30");
        let mut more = a.inputs();
        let name = "max_connections".to_owned();
        more.member_parameters.insert(name, "60".to_owned());
        a.stop().await?;
        a.postgres.start_standby(&more).await?;
        a.postgres.wait_answering(LIMIT).await?;
        a.wait_end_of_wal().await?;
        a.promote(2, 3).await?;
        b.postgres.attach(a.upstream(&b, 2)).await?;
        b.wait_status("a pause", |status| match status {
            PostgresStatus::Standby(standby) => standby.replay_paused.then_some(()),
            _ => None,
        })
        .await?;
        b.postgres.stop(StopMode::Fast, LIMIT).await?;
        let inputs = ConfigInputs {
            upstream: Some(a.upstream(&b, 2)),
            ..b.inputs()
        };
        b.postgres.start_standby(&inputs).await?;
        b.postgres.wait_answering(LIMIT).await?;
        a.run("CREATE TABLE after_the_cure (i int)").await?;
        b.wait_replayed(a.flushed().await?).await?;
        assert_eq!(b.text("SHOW max_connections").await?, "60");
        assert!(!b.standby().await?.replay_paused);
        Ok(())
    });
}

/// PostgreSQL removes the signal before the end of recovery is durable. Killed in between, it
/// leaves a directory that anybody else's start would open as a primary on its old timeline.
#[test]
fn x17_a_promotion_killed_after_it_removed_the_signal_leaves_a_standby() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        a.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
            .await?;
        b.follow_by_clone(&a, 1).await?;
        b.postgres.detach(LIMIT).await?;
        b.wait_end_of_wal().await?;
        let query = "SELECT pid::int8 FROM pg_stat_activity WHERE backend_type = 'startup'";
        let startup = i32::try_from(b.number(query).await?)?;
        b.arm(2).await?;
        let signal = b.data_dir().join("standby.signal");
        let killer = tokio::task::spawn_blocking(move || kill_when(startup, || !signal.exists()));
        let limit = Duration::from_secs(30);
        let promoted = b.promote_armed(2, 3, limit).await;
        killer.await??;
        ensure!(
            promoted.is_err(),
            "a promotion that was killed is no promotion: {promoted:?}"
        );
        // As dangerous as it gets: no signal, and no history of a new timeline.
        ensure!(!b.data_dir().join("standby.signal").exists());
        ensure!(!b.data_dir().join("pg_wal/00000003.history").exists());
        b.crash().await?;
        b.start().await?;
        let refused = b.run("CREATE TABLE second_primary ()").await;
        ensure!(refused.is_err(), "it accepts writes");
        let standby = b.wait_end_of_wal().await?;
        assert_eq!(standby.timeline, TimelineId(2));
        assert_eq!(b.promote(3, 4).await?.timeline, TimelineId(4));
        assert_eq!(b.number("SELECT count(*) FROM t").await?, 1000);
        Ok(())
    });
}
