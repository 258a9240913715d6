//! A rolling upgrade from the programs of an earlier commit, while clients write.
//!
//! `cargo xtask test` builds those programs and names their folder in `MATRIARCH_EARLIER_PROGRAMS`.
//! Without them this fails: an upgrade that was not tried must not look like one that went well.

// Not all of it is needed here.
#[allow(dead_code)]
#[path = "../scenarios/drill.rs"]
mod drill;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cluster_tests::{Cluster, Member, PATIENCE, Wanted};

use crate::drill::Drill;

fn earlier_programs() -> Result<PathBuf> {
    let folder = std::env::var_os("MATRIARCH_EARLIER_PROGRAMS").context(
        "MATRIARCH_EARLIER_PROGRAMS names no folder: `cargo xtask test --only upgrade` builds the earlier programs",
    )?;
    Ok(PathBuf::from(folder).canonicalize()?)
}

/// Whether the process runs a program of this folder.
fn is_from(pid: i32, folder: &Path) -> Result<bool> {
    Ok(fs::read_link(format!("/proc/{pid}/exe"))?.starts_with(folder))
}

fn require(member: &Member, earlier: &Path, daemon: bool, guard: bool) -> Result<()> {
    let daemon_is = is_from(member.daemon_pid()?, earlier)?;
    let guard_is = is_from(member.guard_pid()?, earlier)?;
    ensure!(
        (daemon_is, guard_is) == (daemon, guard),
        "{}: an earlier daemon {daemon_is}, an earlier guard {guard_is}",
        member.name
    );
    Ok(())
}

/// Upgrades a member, and sees that everybody is content with it.
fn upgrade(cluster: &mut Cluster, place: usize, earlier: &Path) -> Result<()> {
    cluster.members[place].upgrade()?;
    cluster.wait_healthy(PATIENCE)?;
    require(&cluster.members[place], earlier, false, true)
}

// Preset `wan`, so that a busy machine is not what is tested: how long the daemon may be away is
// another matter than whether two versions understand each other.
#[test]
fn members_are_upgraded_one_by_one_and_nobody_notices() -> Result<()> {
    let earlier = earlier_programs()?;
    let wanted = Wanted::new("upgrade").preset("wan");
    let mut cluster = wanted.programs(earlier.clone()).start()?;
    let drill = Drill::begin(&cluster)?;
    let (primary, first, second) = match drill.primary {
        0 => (0, 1, 2),
        1 => (1, 0, 2),
        place => (place, 0, 1),
    };
    for member in &cluster.members {
        require(member, &earlier, true, true)?;
    }

    upgrade(&mut cluster, first, &earlier)?;
    upgrade(&mut cluster, second, &earlier)?;
    // An earlier primary hands over to a newer one and follows it, then it is upgraded itself.
    let name = cluster.members[first].name.clone();
    cluster.ctl(&["switchover", "--to", &name, "--yes"])?;
    ensure!(cluster.wait_healthy(PATIENCE)? == first, "asked for {name}");
    upgrade(&mut cluster, primary, &earlier)?;
    // The new primary is upgraded to what it is: a restart, with clients on it.
    upgrade(&mut cluster, first, &earlier)?;
    ensure!(cluster.wait_healthy(PATIENCE)? == first, "a failover");

    // A guard is replaced when it starts anew, which a host that loses its power makes it do.
    cluster.members[primary].kill_host()?;
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    require(&cluster.members[primary], &earlier, false, false)?;

    let (history, _) = drill.end(&cluster)?;
    ensure!(history.timelines().len() == 2, "{:?}", history.timelines());
    let missing = cluster.missing(first, &history)?;
    ensure!(missing.is_empty(), "rows were lost: {missing:?}");
    cluster.finish()
}
