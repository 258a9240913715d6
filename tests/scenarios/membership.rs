//! Members of other kinds, and hosts that are replaced.

use anyhow::{Result, ensure};
use cluster_tests::{PATIENCE, Wanted};

use crate::drill::{Drill, LONGEST_OUTAGE};

#[test]
fn two_databases_and_a_witness_fail_over() -> Result<()> {
    let mut cluster = Wanted::new("witness").members(2, 1).start()?;
    let drill = Drill::begin(&cluster)?;
    cluster.members[drill.primary].kill_host()?;
    drill.wait_takeover(&cluster)?;
    cluster.members[drill.primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    let (_, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    cluster.finish()
}

#[test]
fn member_with_an_empty_disk_is_replaced_under_its_name() -> Result<()> {
    let mut cluster = Wanted::new("replace").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let lost = (primary + 1) % 3;
    let name = cluster.members[lost].name.clone();
    cluster.members[lost].wipe_disk()?;
    cluster.members[lost].start()?;
    // Refused as long as the others take the lost member for their leader.
    cluster_tests::wait_until("the replacement is recorded", PATIENCE, || {
        let asked = cluster.ctl(&["members", "replace", &name, "--yes"]);
        asked.map(drop).map_err(|error| format!("{error:#}"))
    })?;
    ensure!(
        cluster.wait_healthy(PATIENCE)? == primary,
        "the primary changed"
    );
    // It counts again: with the third member gone, it and the primary are a majority.
    let third = (primary + 2) % 3;
    cluster.members[third].kill_host()?;
    cluster_tests::stays("writes go on", 2 * crate::drill::LEASE, || {
        if cluster.primaries() == [primary] {
            Ok(())
        } else {
            Err(cluster.seen())
        }
    })?;
    cluster.finish()
}
