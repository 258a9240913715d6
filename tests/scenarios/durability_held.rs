//! Mode `sync`: standbys that confirm and do not replay. What they have counts when the primary is
//! lost, others fetch it, and whoever is promoted has replayed everything.

use anyhow::{Result, ensure};
use cluster_tests::member::signal;
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};
use nix::sys::signal::Signal;
use std::time::Duration;

use crate::drill::{Drill, LONGEST_OUTAGE};

fn pause(cluster: &Cluster, place: usize) -> Result<()> {
    cluster.sql(place, "SELECT pg_wal_replay_pause()::text")?;
    wait_until("replay is paused", PATIENCE, || {
        match cluster.sql(place, "SELECT pg_get_wal_replay_pause_state()") {
            Ok(state) if state == ["paused"] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Whatever held it back: nothing does any more.
fn go_on(cluster: &Cluster, place: usize) -> Result<()> {
    cluster.sql(place, "ALTER SYSTEM RESET recovery_min_apply_delay")?;
    cluster.sql(place, "SELECT pg_reload_conf()::text")?;
    cluster.sql(place, "SELECT pg_wal_replay_resume()::text")?;
    Ok(())
}

/// One is paused, one is an hour late: nobody else is there, so one of them replays everything and
/// becomes the primary.
#[test]
fn in_sync_a_primary_lost_with_one_standby_paused_and_one_delayed_loses_no_acknowledged_row()
-> Result<()> {
    let mut cluster = Wanted::new("held-both").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let old = drill.primary;
    let (paused, delayed) = ((old + 1) % 3, (old + 2) % 3);
    pause(&cluster, paused)?;
    cluster.sql(delayed, "ALTER SYSTEM SET recovery_min_apply_delay = '1h'")?;
    cluster.sql(delayed, "SELECT pg_reload_conf()::text")?;
    // Rows that nobody but the primary has replayed are confirmed all the same.
    drill.wait_writing(clock() + Duration::from_secs(2))?;
    let replayed = "SELECT pg_last_wal_replay_lsn()::text";
    ensure!(cluster.sql(delayed, replayed)? == cluster.sql(delayed, replayed)?);
    cluster.members[old].kill_host()?;
    let new = drill.wait_takeover(&cluster)?;
    ensure!(new == paused || new == delayed, "{new}");
    let other = if new == paused { delayed } else { paused };
    go_on(&cluster, other)?;
    cluster.members[old].start()?;
    cluster.wait_healthy(2 * PATIENCE)?;
    let (history, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.changes_of_primary() > 0, "no other primary");
    cluster.finish()
}

/// X1: the only one that confirmed dies with the primary. Back again it shows less than it confirmed, and
/// less than the other standby has, until it has read its own WAL: here for an hour, because it is late.
#[test]
fn x1_a_confirming_standby_that_dies_with_the_primary_is_not_read_as_behind() -> Result<()> {
    let mut cluster = Wanted::new("held-killed").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    let old = drill.primary;
    let (confirms, behind) = ((old + 1) % 3, (old + 2) % 3);
    let delay = "ALTER SYSTEM SET recovery_min_apply_delay = '1h'";
    cluster.sql(confirms, delay)?;
    cluster.sql(confirms, "SELECT pg_reload_conf()::text")?;
    drill.wait_writing(clock() + Duration::from_millis(500))?;
    let receiver = cluster.members[behind].postgres_process("walreceiver")?;
    signal(receiver, Signal::SIGSTOP)?;
    let name = cluster.members[behind].name.clone();
    cluster.wait_rule(old, "the rule goes on without it", PATIENCE, |rule| {
        !rule.members.contains(&name)
    })?;
    drill.wait_writing(clock() + Duration::from_millis(500))?;
    cluster.members[confirms].kill_postmaster()?;
    cluster.members[old].kill_host()?;
    signal(receiver, Signal::SIGCONT)?;
    let new = drill.wait_takeover(&cluster)?;
    if new != confirms {
        go_on(&cluster, confirms)?;
    }
    cluster.members[old].start()?;
    cluster.wait_healthy(2 * PATIENCE)?;
    let (history, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.changes_of_primary() > 0, "no other primary");
    cluster.finish()
}

/// Only the paused one has the last rows. The other one fetches them, and the pause stays: an operator
/// wanted it.
#[test]
fn in_sync_a_paused_standby_hands_what_it_has_to_the_one_that_is_promoted() -> Result<()> {
    let mut cluster = Wanted::new("held-source").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    let old = drill.primary;
    let (paused, behind) = ((old + 1) % 3, (old + 2) % 3);
    pause(&cluster, paused)?;
    let receiver = cluster.members[behind].postgres_process("walreceiver")?;
    signal(receiver, Signal::SIGSTOP)?;
    let name = cluster.members[behind].name.clone();
    cluster.wait_rule(old, "the rule goes on without it", PATIENCE, |rule| {
        !rule.members.contains(&name)
    })?;
    drill.wait_writing(clock() + Duration::from_millis(500))?;
    cluster.members[old].kill_host()?;
    signal(receiver, Signal::SIGCONT)?;
    let new = drill.wait_takeover(&cluster)?;
    ensure!(new == behind, "{new} and not {behind}");
    let is_paused = cluster.sql(paused, "SELECT pg_is_wal_replay_paused()::text")?;
    ensure!(is_paused == ["true"], "{is_paused:?}");
    go_on(&cluster, paused)?;
    cluster.members[old].start()?;
    cluster.wait_healthy(2 * PATIENCE)?;
    let (_, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    cluster.finish()
}
