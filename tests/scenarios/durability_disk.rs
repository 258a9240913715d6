//! Mode `sync`: the disk of a standby stands still, a real one, while everything else of it goes on: its
//! daemon is heard, its PostgreSQL answers and receives, and nothing that it receives is flushed.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE, Wanted};

use crate::drill::{Drill, LONGEST_OUTAGE};

/// Megabytes of each member's disk.
const DISK: u32 = 400;

/// A frozen disk, until this is dropped.
struct Frozen<'a>(&'a Cluster, usize);

impl<'a> Frozen<'a> {
    fn new(cluster: &'a Cluster, member: usize) -> Result<Self> {
        cluster.members[member].freeze_disk()?;
        Ok(Self(cluster, member))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.members[self.1].thaw_disk() {
            eprintln!("a disk stays frozen: {error:#}");
        }
    }
}

/// Nobody else confirms, so commits go on without it, by the rule: that its disk stands still is not the
/// primary's fault.
#[test]
fn the_disk_of_the_last_standby_stands_still_and_the_primary_stays_and_goes_on() -> Result<()> {
    let mut cluster = Wanted::new("disk-last")
        .members(2, 1)
        .block_disks(DISK)
        .mode("sync")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let (primary, standby) = (drill.primary, 1 - drill.primary);
    let blow = clock();
    let frozen = Frozen::new(&cluster, standby)?;
    cluster.wait_rule(primary, "nobody is waited for", PATIENCE, |rule| {
        rule.is_degraded()
    })?;
    drill.wait_writing(clock() + Duration::from_secs(2))?;
    let outage = drill.outage_since(blow);
    eprintln!("writes waited {outage:?} for a disk that stands still");
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    drop(frozen);
    // It confirms again: what was acknowledged without it is on it, and the primary may be lost.
    ensure!(
        cluster.wait_settled(1, 1, 2 * PATIENCE)? == primary,
        "a failover"
    );
    cluster.members[primary].kill_host()?;
    drill.wait_takeover(&cluster)?;
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.timelines().len() == 2, "{:?}", history.timelines());
    cluster.finish()
}

#[test]
fn the_disk_of_one_of_two_standbys_stands_still_it_leaves_the_rule_and_no_commit_waits()
-> Result<()> {
    let cluster = Wanted::new("disk-one")
        .block_disks(DISK)
        .mode("sync")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    let (primary, standby) = (drill.primary, (drill.primary + 1) % 3);
    let name = cluster.members[standby].name.clone();
    let blow = clock();
    let frozen = Frozen::new(&cluster, standby)?;
    cluster.wait_rule(primary, "it left", PATIENCE, |rule| {
        rule.confirmations == 1 && !rule.members.contains(&name)
    })?;
    drill.wait_writing(clock() + Duration::from_secs(4))?;
    let outage = drill.outage_since(blow);
    ensure!(
        outage < Duration::from_secs(2),
        "commits waited for it: {outage:?}"
    );
    drop(frozen);
    cluster.wait_healthy(PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}
