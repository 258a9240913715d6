//! A lost primary is replaced; what is not the primary may be lost without a trace.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::writer::clock;
use cluster_tests::{PATIENCE, Wanted};

use crate::drill::{Drill, LONGEST_OUTAGE};

#[test]
fn primary_host_killed_standby_takes_over_and_it_rejoins() -> Result<()> {
    let mut cluster = Wanted::new("host-killed").start()?;
    let drill = Drill::begin(&cluster)?;
    cluster.members[drill.primary].kill_host()?;
    drill.wait_takeover(&cluster)?;
    let old = drill.primary;
    cluster.members[old].start()?;
    cluster.wait_healthy(PATIENCE)?;
    let (_, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(
        cluster.sql(old, "SELECT pg_is_in_recovery()")? == ["t"],
        "the old one is no standby"
    );
    cluster.finish()
}

#[test]
fn second_failover_works_as_the_first() -> Result<()> {
    let mut cluster = Wanted::new("twice").start()?;
    for _ in 0..2 {
        let drill = Drill::begin(&cluster)?;
        cluster.members[drill.primary].kill_host()?;
        drill.wait_takeover(&cluster)?;
        cluster.members[drill.primary].start()?;
        cluster.wait_healthy(PATIENCE)?;
        drill.end(&cluster)?;
    }
    cluster.finish()
}

#[test]
fn postmaster_killed_writes_go_on_soon() -> Result<()> {
    let cluster = Wanted::new("postmaster-killed").start()?;
    let drill = Drill::begin(&cluster)?;
    let blow = clock();
    cluster.members[drill.primary].kill_postmaster()?;
    drill.wait_writing(blow + Duration::from_millis(300))?;
    cluster.wait_healthy(PATIENCE)?;
    let (_, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    cluster.finish()
}

#[test]
fn daemon_killed_and_back_in_time_interrupts_nobody() -> Result<()> {
    let mut cluster = Wanted::new("daemon-killed").start()?;
    let drill = Drill::begin(&cluster)?;
    cluster.members[drill.primary].kill_daemon()?;
    cluster.members[drill.primary].start()?;
    let after = clock() + Duration::from_secs(4);
    drill.wait_writing(after)?;
    let primary = drill.primary;
    let (history, outage) = drill.end(&cluster)?;
    ensure!(
        cluster.wait_primary(PATIENCE)? == primary,
        "it is no longer primary"
    );
    ensure!(history.timelines().len() == 1, "there was a failover");
    ensure!(
        history.unknown.is_empty(),
        "statements got no answer: {:?}",
        history.unknown
    );
    ensure!(outage < Duration::from_secs(2), "{outage:?}");
    cluster.finish()
}

#[test]
fn any_member_but_the_primary_killed_disturbs_nobody() -> Result<()> {
    let mut cluster = Wanted::new("others-killed").start()?;
    let drill = Drill::begin(&cluster)?;
    let primary = drill.primary;
    // One of the two leads the Raft group, or both follow the primary: each case in turn.
    for other in (0..3).filter(|place| *place != primary) {
        cluster.members[other].kill_host()?;
        let after = clock() + Duration::from_secs(4);
        drill.wait_writing(after)?;
        cluster.members[other].start()?;
        cluster.wait_healthy(PATIENCE)?;
    }
    let (history, outage) = drill.end(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    ensure!(outage < Duration::from_secs(2), "{outage:?}");
    cluster.finish()
}

#[test]
fn primary_with_a_full_disk_is_replaced_and_comes_back_with_room() -> Result<()> {
    let mut cluster = Wanted::new("disk-full").small_disks(300).start()?;
    let drill = Drill::begin(&cluster)?;
    let old = drill.primary;
    let ballast = cluster.members[old].fill_disk()?;
    cluster.expect_error("No space left");
    drill.wait_takeover(&cluster)?;
    std::fs::remove_file(ballast)?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end(&cluster)?;
    cluster.finish()
}

/// Its daemon and its host are well, and every process of its PostgreSQL stands still: the limit on its
/// last commit counts from then on.
#[test]
fn a_primary_whose_postgres_stands_still_is_replaced_after_the_probe_limit() -> Result<()> {
    let cluster = Wanted::new("stands-still").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    let old = drill.primary;
    let blow = clock();
    cluster.members[old].stop_postgres()?;
    drill.wait_takeover(&cluster)?;
    eprintln!("nobody could write for {:?}", drill.outage_since(blow));
    let history = cluster.ctl(&["history", "-o", "json"])?;
    ensure!(
        history.contains("a local commit does not work"),
        "{history}"
    );
    cluster.members[old].continue_postgres();
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}
