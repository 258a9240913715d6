//! A data directory that is put back to an older state under its member.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use cluster_tests::host::Host;
use cluster_tests::logs::tail;
use cluster_tests::writer::clock;
use cluster_tests::{PATIENCE, Wanted, stays, wait_until};

use crate::drill::{Drill, LEASE};

/// A14: the directory of a standby is put back to what it was before commits that it confirmed. It is
/// the only one left of the rule, and its vote would say "I have everything".
#[test]
fn a14_a_standby_put_back_to_an_older_state_is_not_promoted() -> Result<()> {
    let mut cluster = Wanted::new("put-back").members(2, 1).mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let (primary, standby) = (drill.primary, 1 - drill.primary);
    let data = cluster.members[standby].data_dir();
    let older = cluster.folder.join("older");
    let copy = |from: &Path, to: &Path| {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(from).arg(to);
        Host::run(copy)
    };
    cluster.members[standby].kill_host()?;
    copy(&data, &older)?;
    cluster.members[standby].start()?;
    cluster.wait_settled(1, 1, PATIENCE)?;
    let mark = cluster.members[standby].state_dir().join("high-water.json");
    let before = std::fs::read_to_string(&mark).unwrap_or_default();
    drill.wait_writing(clock())?;
    wait_until(
        "its mark moves on",
        PATIENCE,
        || match std::fs::read_to_string(&mark) {
            Ok(now) if now != before => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )?;
    cluster.members[primary].kill_host()?;
    cluster.members[standby].kill_host()?;
    std::fs::rename(&data, cluster.folder.join("newer"))?;
    copy(&older, &data)?;
    cluster.members[standby].start()?;
    wait_until("it says what happened", PATIENCE, || {
        let log = std::fs::read_to_string(cluster.members[standby].log());
        let log = log.map_err(|error| error.to_string())?;
        let is_told = log.contains("reason=rolled-back");
        if is_told {
            Ok(())
        } else {
            Err(tail(&cluster.members[standby].log(), 20))
        }
    })?;
    stays("nobody is promoted", 3 * LEASE, || {
        let others = cluster.primaries();
        if others.is_empty() {
            Ok(())
        } else {
            Err(format!("{others:?}"))
        }
    })?;
    let status = cluster.status()?;
    ensure!(status.contains("missing-members"), "{status}");
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.wait_writing(clock())?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}
