//! What PostgreSQL itself does wrong when one of its processes stands still at a bad moment, with a
//! whole cluster around it. The codes are those of `docs/hazards.md`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::host::Host;
use cluster_tests::member::{GRPC_PORT, signal};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, Cut, PATIENCE, Wanted, stays, wait_until};
use nix::sys::signal::Signal;

use crate::drill::{Drill, LEASE};

/// Pid of the walsender that serves a member, on the primary's host.
pub fn walsender_of(cluster: &Cluster, primary: usize, standby: usize) -> Result<i32> {
    let name = &cluster.members[standby].name;
    let ask =
        format!("SELECT pid::text FROM pg_stat_replication WHERE application_name LIKE '{name}~%'");
    let found = cluster.sql(primary, &ask)?;
    found.concat().parse().with_context(|| format!("{found:?}"))
}

/// X2: `SHOW` prints the new value, and commits pass as before, because the checkpointer has not told
/// the others. A rule that is not in force must not be counted on: the old one goes on counting.
#[test]
fn x2_a_rule_that_the_checkpointer_holds_up_is_not_counted_on() -> Result<()> {
    let mut cluster = Wanted::new("checkpointer")
        .members(2, 1)
        .mode("sync")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let (primary, standby) = (drill.primary, 1 - drill.primary);
    cluster.members[standby].stop_postgres()?;
    cluster.wait_rule(primary, "nobody is waited for", PATIENCE, |rule| {
        rule.is_degraded()
    })?;
    let checkpointer = cluster.members[primary].postgres_process("checkpointer")?;
    signal(checkpointer, Signal::SIGSTOP)?;
    cluster.members[standby].continue_postgres();
    cluster.wait_rule(primary, "the fence is set", PATIENCE, |rule| {
        !rule.is_degraded()
    })?;
    // Commits go on: the rule is written down and not in force.
    drill.wait_writing(clock() + Duration::from_millis(500))?;
    let rule = cluster.rule_on(primary)?;
    ensure!(
        rule.members.is_empty(),
        "names were set before the proof: {rule:?}"
    );
    cluster.members[primary].kill_host()?;
    stays("nobody is promoted", 3 * LEASE, || {
        match cluster.primaries()[..] {
            [] => Ok(()),
            [one] if one == primary => Ok(()),
            ref some => Err(format!("{some:?}")),
        }
    })?;
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// X10: the receiver lives on although its upstream was taken away, because the startup process that
/// would end it stands still. Its position is no seal.
#[test]
fn x10_standbys_whose_startup_process_stands_still_lose_nothing() -> Result<()> {
    let cluster = Wanted::new("startup").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let old = drill.primary;
    let mut stopped = Vec::new();
    for standby in (0..3).filter(|place| *place != old) {
        let startup = cluster.members[standby].postgres_process("startup")?;
        signal(startup, Signal::SIGSTOP)?;
        stopped.push(startup);
    }
    // Replication goes on while the others give the primary up.
    cluster.members[old].cut(&Cut::Port(GRPC_PORT))?;
    stays(
        "nobody is promoted on a position that may grow",
        2 * LEASE,
        || match cluster.primaries()[..] {
            [] => Ok(()),
            [one] if one == old => Ok(()),
            ref some => Err(format!("{some:?}")),
        },
    )?;
    for startup in stopped {
        // It may have been killed by its own daemon as unresponsive.
        let _ = signal(startup, Signal::SIGCONT);
    }
    drill.wait_takeover(&cluster)?;
    cluster.members[old].heal()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// X8, X9: a connection that was cut half stays open on the primary, the standby comes again, and
/// PostgreSQL counts both. With a slot of its own it cannot come twice.
#[test]
fn x9_a_standby_that_reconnects_is_not_counted_twice() -> Result<()> {
    let mut cluster = Wanted::new("twice-counted")
        .mode("strict")
        .setting("k = 2")
        .setting("k_min = 2")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 2, 2)?;
    let primary = drill.primary;
    let (half, gone) = ((primary + 1) % 3, (primary + 2) % 3);
    cluster.members[gone].kill_host()?;
    // The receiver dies without a word to the primary, whose walsender stands still.
    let sender = walsender_of(&cluster, primary, half)?;
    signal(sender, Signal::SIGSTOP)?;
    let receiver = cluster.members[half].postgres_process("walreceiver")?;
    signal(receiver, Signal::SIGKILL)?;
    std::thread::sleep(Duration::from_secs(1));
    let rows = drill.count();
    let twice = "SELECT count(*)::text FROM pg_stat_replication WHERE sync_priority > 0 \
                 GROUP BY application_name HAVING count(*) > 1";
    stays("one standby is not two", 2 * LEASE, || {
        if drill.count() > rows {
            return Err(format!("{} rows, there were {rows}", drill.count()));
        }
        match cluster.sql(primary, twice) {
            Ok(found) if !found.is_empty() => Err(format!("counted twice: {found:?}")),
            _ => Ok(()),
        }
    })?;
    // It may be gone with its server already.
    let _ = signal(sender, Signal::SIGCONT);
    cluster.members[gone].start()?;
    drill.wait_writing(clock())?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// X7: anything may call itself by the name of a standby. The clients' network may not replicate at all.
#[test]
fn x7_a_stranger_with_a_standbys_name_is_not_let_in_to_confirm() -> Result<()> {
    let mut cluster = Wanted::new("stranger")
        .members(2, 1)
        .mode("strict")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let (primary, standby) = (drill.primary, 1 - drill.primary);
    let ask = "SELECT application_name FROM pg_stat_replication WHERE sync_priority > 0";
    let name = cluster.sql(primary, ask)?.concat();
    cluster.members[standby].kill_host()?;
    let folder = cluster.folder.join("stranger");
    std::fs::create_dir(&folder)?;
    let member = &cluster.members[primary];
    let conninfo = format!(
        "host={} port=5432 user=replicator password={} application_name={name}",
        member.host.address,
        cluster_tests::config::PASSWORD
    );
    let mut stranger = cluster.clients.command(Path::new("timeout"));
    stranger.arg("10").arg(member.bin.join("pg_receivewal"));
    stranger.args(["--synchronous", "--no-loop", "-d", &conninfo, "-D"]);
    stranger.arg(&folder);
    let refused = Host::run(stranger);
    let said = format!("{refused:?}");
    ensure!(refused.is_err() && said.contains("pg_hba.conf"), "{said}");
    cluster.members[standby].start()?;
    drill.wait_writing(clock())?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// The same from a member's own host, where nobody refuses it: it has the name and not the member's slot.
#[test]
fn x7_a_stranger_on_a_members_own_host_is_ended_and_counted() -> Result<()> {
    let mut cluster = Wanted::new("stranger-inside")
        .members(2, 1)
        .mode("strict")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let (primary, standby) = (drill.primary, 1 - drill.primary);
    cluster.expect_error("no member's standby counts for commits");
    let ask = "SELECT application_name FROM pg_stat_replication WHERE sync_priority > 0";
    let name = cluster.sql(primary, ask)?.concat();
    let folder = cluster.folder.join("stranger-inside");
    std::fs::create_dir(&folder)?;
    let member = &cluster.members[primary];
    let conninfo = format!(
        "host={} port=5432 user=replicator password={} application_name={name}",
        member.host.address,
        cluster_tests::config::PASSWORD
    );
    let mut stranger = cluster.members[standby].host.command(Path::new("timeout"));
    stranger.arg("20").arg(member.bin.join("pg_receivewal"));
    stranger.args(["--synchronous", "--no-loop", "-d", &conninfo, "-D"]);
    stranger.arg(&folder);
    let ended = Host::run(stranger);
    let said = format!("{ended:?}");
    ensure!(
        ended.is_err() && said.contains("terminating connection"),
        "{said}"
    );
    wait_until("status tells of it", PATIENCE, || {
        let screen = cluster.status().map_err(|error| format!("{error:#}"))?;
        let is_told = screen.contains("under a name that was not theirs");
        if is_told { Ok(()) } else { Err(screen) }
    })?;
    drill.wait_writing(clock())?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// X3: a cancelled wait is acknowledged with a warning. Nobody can prevent that; the daemon says so.
#[test]
fn x3_a_cancelled_wait_is_told() -> Result<()> {
    let mut cluster = Wanted::new("cancelled")
        .members(2, 1)
        .mode("strict")
        .start()?;
    let primary = cluster.wait_settled(1, 1, 2 * PATIENCE)?;
    cluster.sql(primary, "CREATE TABLE kept (x int)")?;
    cluster.members[1 - primary].kill_host()?;
    let config = cluster
        .login()
        .config(&cluster.members[primary].host.address, 5432);
    let (told, tell) = std::sync::mpsc::channel();
    cluster.start_task(async move {
        if let Ok((client, notices)) =
            cluster_tests::sql::connect_and_listen(&config, PATIENCE).await
        {
            let answer = client.simple_query("INSERT INTO kept VALUES (1)").await;
            // The test may be over.
            let _ = told.send((answer.is_ok(), notices.take()));
        }
    });
    let cancel = "SELECT count(pg_cancel_backend(pid))::text FROM pg_stat_activity \
                  WHERE wait_event = 'SyncRep' AND query LIKE 'INSERT INTO kept%'";
    wait_until("a wait is cancelled", PATIENCE, || {
        match cluster.sql(primary, cancel) {
            Ok(found) if found == ["1"] => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    let (acknowledged, notices) = tell.recv_timeout(PATIENCE)?;
    ensure!(
        acknowledged,
        "PostgreSQL refuses it now: the documentation is out of date"
    );
    ensure!(
        notices.iter().any(|text| text.starts_with("canceling")),
        "{notices:?}"
    );
    let name = "clusterd_sync_cancelled_waits_total";
    wait_until("the daemon counted it", PATIENCE, || {
        let metrics = cluster.get(primary, "/metrics").map(|answer| answer.body);
        let metrics = metrics.map_err(|error| format!("{error:#}"))?;
        let line = metrics.lines().find(|line| line.starts_with(name));
        match line.and_then(|line| line.rsplit_once(' ')) {
            Some((_, count)) if count != "0" => Ok(()),
            _ => Err(format!("{line:?}")),
        }
    })?;
    wait_until("the history tells of it", PATIENCE, || {
        let history = cluster.ctl(&["history"]);
        match history.map_err(|error| format!("{error:#}"))? {
            told if told.contains("waits-cancelled") => Ok(()),
            seen => Err(seen),
        }
    })?;
    cluster.finish()
}

/// X4, X5: what the documentation says of a wait: no timeout ends it, and a session that is terminated
/// in it leaves a row that is there and was never acknowledged.
#[test]
fn x4_x5_no_timeout_ends_a_wait_and_a_terminated_one_is_not_acknowledged() -> Result<()> {
    let mut cluster = Wanted::new("terminated")
        .members(2, 1)
        .mode("strict")
        .start()?;
    let primary = cluster.wait_settled(1, 1, 2 * PATIENCE)?;
    let standby = 1 - primary;
    cluster.sql(primary, "CREATE TABLE kept (x int)")?;
    cluster.members[standby].kill_host()?;
    let config = cluster
        .login()
        .config(&cluster.members[primary].host.address, 5432);
    let (told, tell) = std::sync::mpsc::channel();
    cluster.start_task(async move {
        if let Ok(client) = cluster_tests::sql::connect(&config, PATIENCE).await {
            // The test may be over.
            let _ = client.simple_query("SET statement_timeout = '300ms'").await;
            let answer = client.simple_query("INSERT INTO kept VALUES (1)").await;
            let _ = told.send(answer.is_ok());
        }
    });
    let waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' \
                   AND query LIKE 'INSERT INTO kept%' AND now() - query_start > '2s'";
    let count = format!("SELECT count(*)::text {waiting}");
    wait_until(
        "it waits for far longer than its timeout",
        PATIENCE,
        || match cluster.sql(primary, &count) {
            Ok(found) if found == ["1"] => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )?;
    cluster.sql(
        primary,
        &format!("SELECT pg_terminate_backend(pid)::text {waiting}"),
    )?;
    ensure!(
        !tell.recv_timeout(PATIENCE)?,
        "a terminated wait was acknowledged"
    );
    ensure!(cluster.sql(primary, "SELECT count(*)::text FROM kept")? == ["1"]);
    cluster.members[standby].start()?;
    cluster.wait_settled(1, 1, PATIENCE)?;
    cluster.finish()
}

/// CNPG #11114 as it was reported: the receiver of the switchover's target stands still, so the rows that
/// are acknowledged meanwhile are on the other standby only.
#[test]
fn a_switchover_whose_targets_receiver_stands_still_loses_nothing() -> Result<()> {
    let cluster = Wanted::new("frozen-target").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    let target = (drill.primary + 1) % 3;
    let name = cluster.members[target].name.clone();
    let receiver = cluster.members[target].postgres_process("walreceiver")?;
    signal(receiver, Signal::SIGSTOP)?;
    drill.wait_writing(clock())?;
    // Refused, called off, or done with everything fetched first: what must not be is a loss.
    let answer = cluster.ctl(&["switchover", "--to", &name, "--yes"]);
    let _ = signal(receiver, Signal::SIGCONT);
    cluster.wait_healthy(PATIENCE)?;
    let primary = cluster.wait_primary(PATIENCE)?;
    ensure!(
        answer.is_err() || primary == target,
        "done, it said, and {} is the primary: {answer:?}",
        cluster.members[primary].name
    );
    eprintln!("the switchover said {answer:?}");
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// pgconsul #199 as it was reported: the old primary comes back in the middle of the election, and the
/// startup processes of both standbys stand still, so that their receivers live on.
#[test]
fn an_old_primary_that_returns_to_standbys_whose_startup_stands_still_loses_nothing() -> Result<()>
{
    let cluster = Wanted::new("returning").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let old = drill.primary;
    let mut stopped = Vec::new();
    for standby in (0..3).filter(|place| *place != old) {
        let startup = cluster.members[standby].postgres_process("startup")?;
        signal(startup, Signal::SIGSTOP)?;
        stopped.push(startup);
    }
    cluster.members[old].cut(&Cut::Port(GRPC_PORT))?;
    wait_until("the old primary has given up", PATIENCE, || {
        match cluster.primaries()[..] {
            [] => Ok(()),
            ref some => Err(format!("{some:?}")),
        }
    })?;
    cluster.members[old].heal()?;
    // It may be taken again, as it has everything; nobody else may be, as long as a receiver lives.
    stays("nobody else is promoted", 2 * LEASE, || {
        match cluster.primaries()[..] {
            [] => Ok(()),
            [one] if one == old => Ok(()),
            ref some => Err(format!("{some:?}")),
        }
    })?;
    for startup in stopped {
        let _ = signal(startup, Signal::SIGCONT);
    }
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}
