//! A standby that has WAL and does not replay it: its end of WAL is read from its files, whatever holds
//! it back, and is the very place where recovery ends once nothing does.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_core::model::{Lsn, PostgresStatus, TimelineId};
use clusterd::postgres::Error;
use tokio::time::Instant;

use crate::place::{LIMIT, Server, hand_over, on_every_major};

/// A seal that takes longer than this would hold up a failover.
const SOON: Duration = Duration::from_secs(8);

/// A primary that goes on, and a standby that has received 1000 rows and replayed none of them; where
/// the record behind the rows ends. What is flushed in the background may end within a record.
async fn held(bin: &std::path::Path, delay: Option<&str>) -> Result<(Server, Server, Lsn)> {
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
    let mark = "SELECT (pg_logical_emit_message(true, 'mark', '') - '0/0')::int8";
    let written = Lsn(u64::try_from(a.number(mark).await?)?);
    wait_received(&b, a.flushed().await?).await?;
    Ok((a, b, written))
}

async fn wait_received(b: &Server, written: Lsn) -> Result<()> {
    b.wait_status("what the primary wrote", |status| match status {
        PostgresStatus::Standby(standby) => {
            (standby.received.unwrap_or(Lsn::ZERO) >= written).then_some(())
        }
        _ => None,
    })
    .await
}

/// Lifts the hold, and returns where recovery then really ends.
async fn end_of_recovery(b: &Server) -> Result<(TimelineId, Lsn)> {
    b.postgres.replay_everything().await?;
    let standby = b.wait_end_of_wal().await?;
    Ok((standby.timeline, standby.proven_end()))
}

/// The upstream lives and could go on: only a receiver that is gone makes a seal.
async fn seals(bin: std::path::PathBuf, delay: Option<&'static str>) -> Result<()> {
    let (a, b, written) = held(&bin, delay).await?;
    ensure!(
        matches!(
            b.postgres.end_of_held_wal().await,
            Err(Error::NotSealed { .. })
        ),
        "read while more may come"
    );
    let begin = Instant::now();
    b.postgres.detach(LIMIT).await?;
    let took = begin.elapsed();
    println!("{}: detached in {took:?}", bin.display());
    ensure!(took < SOON, "{took:?}");
    a.run("CREATE TABLE after_the_seal (i int)").await?;
    let standby = b.standby().await?;
    ensure!(standby.receiver.is_none() && standby.follows.is_none());
    ensure!(
        standby.replay_is_held && !standby.at_end_of_wal,
        "{standby:?}"
    );
    ensure!(b.number("SELECT count(*) FROM t").await? == 0);
    let read = b.postgres.end_of_held_wal().await?;
    ensure!(read.1 >= written, "{read:?}, and {written} was confirmed");
    assert_eq!(end_of_recovery(&b).await?, read);
    assert_eq!(b.promote(2, 3).await?.fork, read.1);
    assert_eq!(b.number("SELECT count(*) FROM t").await?, 1000);
    let later = "SELECT count(*) FROM pg_class WHERE relname = 'after_the_seal'";
    assert_eq!(b.number(later).await?, 0, "it received behind the seal");
    Ok(())
}

#[test]
fn a_standby_with_paused_replay_seals_beside_a_living_primary_and_tells_all_it_has() {
    on_every_major(|bin| seals(bin, None));
}

#[test]
fn a_standby_with_an_apply_delay_seals_beside_a_living_primary_and_tells_all_it_has() {
    on_every_major(|bin| seals(bin, Some("1h")));
}

/// After a new start nothing is known of what was received: only the files tell.
#[test]
fn a_delayed_standby_that_crashed_tells_from_its_files_what_it_had_before() {
    on_every_major(|bin| async move {
        let (a, b, written) = held(&bin, Some("1h")).await?;
        // Recovery ends with the segment behind a switch.
        a.run("SELECT pg_switch_wal()").await?;
        let switched = a.flushed().await?;
        wait_received(&b, switched).await?;
        a.crash().await?;
        b.postgres.detach(LIMIT).await?;
        let before = b.postgres.end_of_held_wal().await?;
        ensure!(before.1 >= written, "{before:?}");
        b.crash().await?;
        b.start().await?;
        b.wait_status("it waits for the delay", |status| match status {
            PostgresStatus::Standby(standby) => standby.replay_is_held.then_some(()),
            _ => None,
        })
        .await?;
        ensure!(b.number("SELECT count(*) FROM t").await? == 0);
        assert_eq!(b.postgres.end_of_held_wal().await?, before);
        assert_eq!(end_of_recovery(&b).await?, before);
        assert_eq!(b.number("SELECT count(*) FROM t").await?, 1000);
        Ok(())
    });
}

/// What recovery has not replayed may change over to another timeline further on.
#[test]
fn the_end_of_held_wal_is_on_the_timeline_that_recovery_would_go_over_to() {
    on_every_major(|bin| async move {
        let (a, b, _) = held(&bin, Some("1h")).await?;
        a.crash().await?;
        b.crash().await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.promote(2, 3).await?;
        a.run("CREATE TABLE on_three (i int)").await?;
        a.stop().await?;
        for entry in std::fs::read_dir(a.data_dir().join("pg_wal"))? {
            let name = entry?.file_name();
            if name.to_string_lossy().starts_with("00000003") {
                let copy = b.data_dir().join("pg_wal").join(&name);
                std::fs::copy(a.data_dir().join("pg_wal").join(&name), &copy)?;
                hand_over(&copy)?;
            }
        }
        b.start().await?;
        b.wait_status("it waits for the delay", |status| match status {
            PostgresStatus::Standby(standby) => standby.replay_is_held.then_some(()),
            _ => None,
        })
        .await?;
        let read = b.postgres.end_of_held_wal().await?;
        assert_eq!(read.0, TimelineId(3));
        assert_eq!(end_of_recovery(&b).await?, read);
        Ok(())
    });
}
