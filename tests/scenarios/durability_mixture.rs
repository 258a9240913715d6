//! X27: while the rule changes, one walsender works by the new value and counts members by the old one.
//! PostgreSQL then acknowledges what neither rule allows; the joint rule of both is what counts.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cluster_tests::member::signal;
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, Cut, PATIENCE, Wanted, stays, wait_until};
use nix::sys::signal::Signal;

use crate::drill::{Drill, LEASE};
use crate::durability_faults::walsender_of;
use crate::durability_steps::live_rules;

/// Longer than any step of it may take.
const SOON: Duration = Duration::from_secs(2);
/// On a busy machine a step may be too late: so often it is tried.
const ATTEMPTS: u32 = 5;

/// X27: while k shrinks, one walsender stands still and evaluates nothing; the others mix the old rule
/// with the new one. The primary is lost in the middle.
#[test]
fn x27_a_walsender_frozen_while_k_shrinks_and_the_primary_lost_lose_nothing() -> Result<()> {
    let mut cluster = Wanted::new("mixture")
        .mode("sync")
        .setting("k = 2")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 2, 2)?;
    let old = drill.primary;
    let frozen = (old + 1) % 3;
    let sender = walsender_of(&cluster, old, frozen)?;
    let before = cluster.rule_on(old)?;
    // Its standby stands still as well, so that the rule goes on without it; that it does can be
    // written down, and not proven: the walsender cannot take it.
    signal(sender, Signal::SIGSTOP)?;
    cluster.members[frozen].stop_postgres()?;
    cluster.wait_rule(old, "the rule shrinks", PATIENCE, |rule| {
        rule.text != before.text
    })?;
    let shrunk = clock();
    drill.wait_writing(shrunk)?;
    cluster.members[old].kill_host()?;
    cluster.members[frozen].continue_postgres();
    drill.wait_takeover(&cluster)?;
    cluster.members[old].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// One row through a session of its own, which waits; what became of it comes when it comes.
fn insert_and_wait(cluster: &Cluster, primary: usize, row: u32) -> Receiver<bool> {
    let address = &cluster.members[primary].host.address;
    let config = cluster.login().config(address, 5432);
    let (told, tell) = channel();
    cluster.start_task(async move {
        if let Ok((client, notices)) =
            cluster_tests::sql::connect_and_listen(&config, PATIENCE).await
        {
            let insert = format!("INSERT INTO kept VALUES ({row})");
            let answer = client.simple_query(&insert).await;
            // The test may be over.
            let _ = told.send(answer.is_ok() && notices.take().is_empty());
        }
    });
    tell
}

/// From 2 of (gone, left) to 1 of (left), with a row that only the primary and `gone` have. Whether it was
/// acknowledged: all this has to take less than what makes a standby gray.
fn is_mixed(
    cluster: &Cluster,
    [old, gone, left]: [usize; 3],
    stopped: &mut Vec<i32>,
    row: u32,
) -> Result<bool> {
    let to_gone = walsender_of(cluster, old, gone)?;
    let to_left = walsender_of(cluster, old, left)?;
    let receiver = cluster.members[left].postgres_process("walreceiver")?;
    stopped.extend([receiver, to_left, to_gone]);
    // An answer of `left` that its walsender has not read: to what was sent before that one stood still.
    signal(receiver, Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(50));
    signal(to_left, Signal::SIGSTOP)?;
    signal(receiver, Signal::SIGCONT)?;
    let tell = insert_and_wait(cluster, old, row);
    let has_it = format!(
        "SELECT count(*)::text FROM pg_stat_activity, pg_stat_replication AS r \
         WHERE wait_event = 'SyncRep' AND query = 'INSERT INTO kept VALUES ({row})' \
         AND r.pid = {to_gone} AND r.flush_lsn = pg_current_wal_flush_lsn()"
    );
    wait_until(
        "the row is on one standby and waits",
        SOON,
        || match cluster.sql(old, &has_it) {
            Ok(found) if found == ["1"] => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )?;
    signal(to_gone, Signal::SIGSTOP)?;
    // What `left`'s walsender sends when it goes on must not arrive.
    let primary = vec![cluster.members[old].host.address.clone()];
    cluster.members[left].cut(&Cut::PeersPort(primary, 5432))?;
    cluster.ctl(&set_nosync(cluster, gone, "nosync=true"))?;
    let name = cluster.members[left].name.clone();
    cluster.wait_rule(old, "only one is left to confirm", SOON, |rule| {
        rule.is(1, &[name.as_str()])
    })?;
    signal(to_left, Signal::SIGCONT)?;
    Ok(tell.recv_timeout(SOON)?)
}

fn set_nosync<'a>(cluster: &'a Cluster, member: usize, tag: &'a str) -> [&'a str; 6] {
    let name = cluster.members[member].name.as_str();
    ["settings", "set", tag, "--member", name, "--yes"]
}

/// The hazard itself, made to happen: `left` alone satisfies the rule before and the rule after, lacks the
/// row, and must not be enough.
#[test]
fn x27_a_row_that_only_the_mixture_of_two_rules_acknowledged_is_not_lost() -> Result<()> {
    let mut cluster = Wanted::new("mixture-forced")
        .members(3, 2)
        .mode("sync")
        .setting("k = 2")
        .start()?;
    let mut drill = Drill::begin_confirmed(&cluster, 2, 2)?;
    cluster.sql(drill.primary, "CREATE TABLE kept (x int)")?;
    let mut row = 0;
    let [old, gone, left] = loop {
        row += 1;
        let old = cluster.wait_confirmed(2, 2, 2 * PATIENCE)?;
        let all = [old, (old + 1) % 3, (old + 2) % 3];
        let mut stopped = Vec::new();
        match is_mixed(&cluster, all, &mut stopped, row) {
            Ok(true) => break all,
            missed if row == ATTEMPTS => bail!("PostgreSQL mixed nothing: {missed:?}"),
            missed => eprintln!("too slow: {missed:?}"),
        }
        for pid in stopped {
            // Its server may have ended it.
            let _ = signal(pid, Signal::SIGCONT);
        }
        cluster.members[all[2]].heal()?;
        cluster.ctl(&set_nosync(&cluster, all[1], "nosync=false"))?;
    };
    drill.primary = old;
    // No walsender of `gone` has taken the new rule: it is not active, and the older one counts with it.
    let live = live_rules(&cluster, gone)?;
    ensure!(live.len() > 1, "{live:?}");
    cluster.members[old].kill_host()?;
    cluster.members[gone].kill_host()?;
    let is_waited_for = wait_until("one of both is waited for", PATIENCE, || {
        if cluster.primaries().iter().any(|one| *one != old) {
            return Ok(false);
        }
        let status = cluster.status().map_err(|error| format!("{error:#}"))?;
        let is_told = status.contains("missing-members");
        if is_told { Ok(true) } else { Err(status) }
    })?;
    ensure!(is_waited_for, "the one that lacks the row was promoted");
    stays(
        "the one that lacks the row is not promoted",
        2 * LEASE,
        || match cluster.primaries()[..] {
            [] => Ok(()),
            [one] if one == old => Ok(()),
            ref some => Err(format!("{some:?}")),
        },
    )?;
    cluster.members[left].heal()?;
    cluster.members[gone].start()?;
    let new = drill.wait_takeover(&cluster)?;
    let kept = format!("SELECT count(*)::text FROM kept WHERE x = {row}");
    ensure!(cluster.sql(new, &kept)? == ["1"], "the row is lost");
    cluster.members[old].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}
