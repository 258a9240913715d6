//! What operators ask for, through clusterctl.

use anyhow::{Result, ensure};
use cluster_tests::{PATIENCE, Wanted, stays, wait_until};

use crate::drill::{Drill, LEASE, LONGEST_OUTAGE};

#[test]
fn switchover_to_the_best_and_back_to_a_named_one() -> Result<()> {
    let cluster = Wanted::new("switchover").start()?;
    let drill = Drill::begin(&cluster)?;
    let first = drill.primary;
    cluster.ctl(&["switchover", "--yes"])?;
    let second = cluster.wait_other_primary(first, PATIENCE)?;
    cluster.wait_healthy(PATIENCE)?;
    let name = cluster.members[first].name.clone();
    cluster.ctl(&["switchover", "--to", &name, "--yes"])?;
    let third = cluster.wait_other_primary(second, PATIENCE)?;
    ensure!(third == first, "asked for {name}");
    cluster.wait_healthy(PATIENCE)?;
    let (history, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.timelines().len() == 3, "{:?}", history.timelines());
    let primary = cluster.wait_primary(PATIENCE)?;
    let missing = cluster.missing(primary, &history)?;
    ensure!(missing.is_empty(), "a switchover lost rows: {missing:?}");
    cluster.finish()
}

#[test]
fn restart_of_standby_and_primary() -> Result<()> {
    let cluster = Wanted::new("restart").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let standby = (primary + 1) % 3;
    let started = "SELECT pg_postmaster_start_time()::text";
    for member in [standby, primary] {
        let before = cluster.sql(member, started)?;
        let name = cluster.members[member].name.clone();
        cluster.ctl(&["restart", &name, "--yes"])?;
        wait_until("another postmaster", PATIENCE, || {
            match cluster.sql(member, started) {
                Ok(now) if now != before => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })?;
        cluster.wait_healthy(PATIENCE)?;
    }
    cluster.finish()
}

#[test]
fn reinit_clones_a_standby_anew() -> Result<()> {
    let cluster = Wanted::new("reinit").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let standby = (primary + 1) % 3;
    let witness = cluster.members[standby].data_dir().join("old_copy");
    std::fs::write(&witness, "a clone does not have this")?;
    let name = cluster.members[standby].name.clone();
    cluster.ctl(&["reinit", &name, "--yes"])?;
    wait_until("a new copy", PATIENCE, || {
        if witness.exists() {
            Err("the old one".to_owned())
        } else {
            Ok(())
        }
    })?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}

#[test]
fn paused_cluster_promotes_nobody_until_resumed() -> Result<()> {
    let mut cluster = Wanted::new("pause").start()?;
    let old = cluster.wait_primary(PATIENCE)?;
    cluster.ctl(&["pause", "--yes"])?;
    cluster.members[old].kill_host()?;
    stays("no primary while paused", 3 * LEASE, || {
        match cluster
            .primaries()
            .into_iter()
            .find(|member| *member != old)
        {
            None => Ok(()),
            Some(member) => Err(cluster.members[member].name.clone()),
        }
    })?;
    cluster.ctl(&["resume", "--yes"])?;
    cluster.wait_other_primary(old, PATIENCE)?;
    cluster.finish()
}
