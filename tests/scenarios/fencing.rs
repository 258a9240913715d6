//! A primary that lost its right to write, and does not know it: it never acknowledges next to its
//! successor. [`Drill::end`] is what checks that, in every test here.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::host::Host;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};

use crate::drill::{Drill, LEASE, LONGEST_OUTAGE};

/// Breaks the primary, waits for its successor, repairs, and checks.
fn replaced(
    name: &str,
    blow: impl Fn(&mut Cluster, usize) -> Result<()>,
    repair: impl Fn(&mut Cluster, usize) -> Result<()>,
) -> Result<()> {
    let mut cluster = Wanted::new(name).start()?;
    let drill = Drill::begin(&cluster)?;
    blow(&mut cluster, drill.primary)?;
    drill.wait_takeover(&cluster)?;
    repair(&mut cluster, drill.primary)?;
    cluster.wait_healthy(PATIENCE)?;
    let (_, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    cluster.finish()
}

#[test]
fn daemon_stopped_for_long_guard_ends_the_reign() -> Result<()> {
    replaced(
        "daemon-stopped",
        |cluster, primary| cluster.members[primary].stop_daemon(),
        |cluster, old| cluster.members[old].continue_daemon(),
    )
}

#[test]
fn daemon_killed_for_good_guard_ends_the_reign() -> Result<()> {
    replaced(
        "daemon-gone",
        |cluster, primary| cluster.members[primary].kill_daemon(),
        |cluster, old| cluster.members[old].start(),
    )
}

#[test]
fn guard_killed_postgres_dies_with_it() -> Result<()> {
    let mut cluster = Wanted::new("guard-killed").start()?;
    let drill = Drill::begin(&cluster)?;
    let blow = cluster_tests::writer::clock();
    cluster.expect_error("the guard is gone");
    cluster.members[drill.primary].kill_guard()?;
    cluster.members[drill.primary].restart_when_it_ends(PATIENCE)?;
    drill.wait_writing(blow + Duration::from_millis(500))?;
    cluster.wait_healthy(PATIENCE)?;
    let (_, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    cluster.finish()
}

#[test]
fn guard_and_daemon_killed_together() -> Result<()> {
    replaced(
        "both-killed",
        |cluster, primary| {
            cluster.members[primary].kill_guard()?;
            cluster.members[primary].kill_daemon()
        },
        |cluster, old| cluster.members[old].start(),
    )
}

#[test]
fn host_frozen_for_three_leases_and_thawed() -> Result<()> {
    replaced(
        "host-frozen",
        |cluster, primary| {
            cluster.members[primary].host.freeze()?;
            std::thread::sleep(3 * LEASE);
            Ok(())
        },
        |cluster, old| cluster.members[old].host.thaw(),
    )
}

/// Its timeouts are all over when it goes on; the leader's heartbeats wait for it unread.
#[test]
fn a_member_that_was_stopped_for_a_while_calls_no_election_when_it_goes_on() -> Result<()> {
    let cluster = Wanted::new("thawed-follower").start()?;
    let drill = Drill::begin(&cluster)?;
    let terms = |cluster: &Cluster| -> Result<Vec<String>> {
        let of = |place| -> Result<String> {
            let text = cluster.get(place, "/metrics")?.body;
            let found = text.lines().find(|it| it.starts_with("clusterd_raft_term"));
            let value = found.and_then(|it| it.rsplit(' ').next());
            Ok(value.context("no term")?.to_owned())
        };
        (0..3).map(of).collect()
    };
    let leader = |cluster: &Cluster| -> Result<String> {
        let status = cluster.ctl(&["status", "-o", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let leader = status["raft_leader"].as_str();
        Ok(leader.context("no leader")?.to_owned())
    };
    // Leadership leaves the primary first, if it began there.
    let primary = cluster.members[drill.primary].name.clone();
    wait_until(
        "a leader beside the primary, known to all",
        PATIENCE,
        || {
            let known = leader(&cluster).map_err(|error| format!("{error:#}"))?;
            let terms = terms(&cluster).map_err(|error| format!("{error:#}"))?;
            match known != primary && terms.iter().all(|it| *it == terms[0]) {
                true => Ok(()),
                false => Err(format!("{known} leads, {primary} is primary, {terms:?}")),
            }
        },
    )?;
    let (led_by, before) = (leader(&cluster)?, terms(&cluster)?);
    let third = cluster
        .members
        .iter()
        .position(|it| it.name != primary && it.name != led_by);
    let third = third.context("a third member")?;
    for _ in 0..8 {
        cluster.members[third].stop_daemon()?;
        std::thread::sleep(LEASE / 2);
        cluster.members[third].continue_daemon()?;
        cluster.wait_healthy(PATIENCE)?;
        ensure!(
            terms(&cluster)? == before,
            "{before:?} {:?}",
            terms(&cluster)?
        );
    }
    ensure!(leader(&cluster)? == led_by, "{led_by} was deposed");
    drill.end(&cluster)?;
    cluster.finish()
}

#[test]
fn foreign_start_of_an_old_primary_is_read_only() -> Result<()> {
    let mut cluster = Wanted::new("foreign-start").start()?;
    let drill = Drill::begin(&cluster)?;
    cluster.members[drill.primary].kill_host()?;
    drill.wait_takeover(&cluster)?;
    let old = &cluster.members[drill.primary];
    let socket = old.folder.join("foreign");
    std::fs::create_dir(&socket)?;
    Host::run(old.host.command_as_postgres(Path::new("true")))?;
    std::process::Command::new("chown")
        .arg("postgres")
        .arg(&socket)
        .status()?;
    let mut start = old.host.command_as_postgres(&old.bin.join("pg_ctl"));
    start.arg("-D").arg(old.data_dir()).args(["-w", "-t", "30"]);
    start.arg("-l").arg(socket.join("server.log"));
    let place = socket.display();
    start.arg("-o").arg(format!(
        "-p 5999 -c listen_addresses='' -c unix_socket_directories={place}"
    ));
    let status = start.arg("start").stdout(Stdio::null()).status()?;
    ensure!(status.success(), "a foreign start failed altogether");
    let ask = |sql: &str| {
        let mut psql = old.host.command_as_postgres(&old.bin.join("psql"));
        psql.arg("-h")
            .arg(&socket)
            .args(["-p", "5999", "-U", "postgres", "-AtXc", sql]);
        Host::run(psql)
    };
    let in_recovery = ask("SELECT pg_is_in_recovery()")?;
    ensure!(
        in_recovery.trim() == "t",
        "it accepts writes: {in_recovery}"
    );
    let refused = ask("CREATE TABLE foreign_write ()");
    ensure!(format!("{refused:?}").contains("read-only"), "{refused:?}");
    let mut stop = old.host.command_as_postgres(&old.bin.join("pg_ctl"));
    stop.arg("-D")
        .arg(old.data_dir())
        .args(["-m", "immediate", "stop"]);
    Host::run(stop)?;
    cluster.members[drill.primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end(&cluster)?;
    cluster.finish()
}
