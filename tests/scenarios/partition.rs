//! Each side of each cut. Clients reach everybody all the time: that is the dangerous case.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::member::GRPC_PORT;
use cluster_tests::writer::clock;
use cluster_tests::{Cut, PATIENCE, Wanted};

use crate::drill::{Drill, LONGEST_OUTAGE};

/// The primary loses the quorum by this cut: a successor, and never two at once.
fn primary_cut(name: &str, cut: impl Fn(Vec<String>) -> Cut) -> Result<()> {
    let cluster = Wanted::new(name).start()?;
    let drill = Drill::begin(&cluster)?;
    let old = drill.primary;
    cluster.members[old].cut(&cut(cluster.peers_of(old)))?;
    drill.wait_takeover(&cluster)?;
    cluster.members[old].heal()?;
    cluster.wait_healthy(PATIENCE)?;
    let (_, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    cluster.finish()
}

#[test]
fn primary_cut_off_both_ways() -> Result<()> {
    primary_cut("cut-both", Cut::Peers)
}

#[test]
fn primary_not_heard_by_the_others() -> Result<()> {
    primary_cut("cut-mute", Cut::To)
}

#[test]
fn primary_does_not_hear_the_others() -> Result<()> {
    primary_cut("cut-deaf", Cut::From)
}

#[test]
fn primary_without_its_peer_port_while_replication_goes_on() -> Result<()> {
    primary_cut("cut-port", |_| Cut::Port(GRPC_PORT))
}

#[test]
fn standby_cut_off_disturbs_nobody() -> Result<()> {
    let cluster = Wanted::new("cut-standby").start()?;
    let drill = Drill::begin(&cluster)?;
    let primary = drill.primary;
    for other in (0..3).filter(|place| *place != primary) {
        cluster.isolate(other)?;
        let after = clock() + Duration::from_secs(5);
        drill.wait_writing(after)?;
        cluster.members[other].heal()?;
        cluster.wait_healthy(PATIENCE)?;
    }
    let (history, outage) = drill.end(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    ensure!(outage < Duration::from_secs(2), "{outage:?}");
    cluster.finish()
}

#[test]
fn nobody_writes_without_a_majority_and_all_goes_on_after_it() -> Result<()> {
    let mut cluster = Wanted::new("no-majority").start()?;
    let drill = Drill::begin(&cluster)?;
    let primary = drill.primary;
    let others: Vec<usize> = (0..3).filter(|place| *place != primary).collect();
    for other in &others {
        cluster.members[*other].kill_host()?;
    }
    cluster_tests::wait_until("the primary stops", PATIENCE, || {
        match cluster.primaries()[..] {
            [] => Ok(()),
            ref some => Err(format!("{some:?}")),
        }
    })?;
    cluster.start_all()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end(&cluster)?;
    cluster.finish()
}
