//! Mode `sync` and `strict`: whatever happens to a primary under load, every acknowledged row is on
//! every member afterwards, and no member differs from another.

use anyhow::{Result, bail, ensure};
use cluster_tests::host::Host;
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, Cut, PATIENCE, Wanted, stays, wait_until};
use std::time::Duration;

use crate::drill::{Drill, LEASE, LONGEST_OUTAGE};

/// Breaks the primary of a cluster in this mode under load, waits for the next one, repairs, compares.
fn loses_nothing(
    name: &str,
    mode: &str,
    blow: impl Fn(&mut Cluster, usize) -> Result<()>,
    repair: impl Fn(&mut Cluster, usize) -> Result<()>,
) -> Result<()> {
    let mut cluster = Wanted::new(name).mode(mode).start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let old = drill.primary;
    blow(&mut cluster, old)?;
    drill.wait_takeover(&cluster)?;
    repair(&mut cluster, old)?;
    cluster.wait_healthy(PATIENCE)?;
    let (history, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.changes_of_primary() > 0, "no other primary");
    cluster.finish()
}

#[test]
fn in_sync_a_lost_primary_host_under_load_loses_no_acknowledged_row() -> Result<()> {
    loses_nothing(
        "sync-host-lost",
        "sync",
        |cluster, primary| cluster.members[primary].kill_host(),
        |cluster, old| cluster.members[old].start(),
    )
}

#[test]
fn in_strict_a_lost_primary_host_under_load_loses_no_acknowledged_row() -> Result<()> {
    loses_nothing(
        "strict-host-lost",
        "strict",
        |cluster, primary| cluster.members[primary].kill_host(),
        |cluster, old| cluster.members[old].start(),
    )
}

#[test]
fn in_sync_a_primary_frozen_for_three_leases_and_thawed_loses_no_acknowledged_row() -> Result<()> {
    loses_nothing(
        "sync-host-frozen",
        "sync",
        |cluster, primary| {
            cluster.members[primary].host.freeze()?;
            std::thread::sleep(3 * LEASE);
            Ok(())
        },
        |cluster, old| cluster.members[old].host.thaw(),
    )
}

#[test]
fn in_sync_a_primary_cut_off_from_all_members_loses_no_acknowledged_row() -> Result<()> {
    loses_nothing(
        "sync-cut-off",
        "sync",
        |cluster, primary| cluster.isolate(primary),
        |cluster, old| cluster.members[old].heal(),
    )
}

/// Its writes are acknowledged up to the last moment of the lease, by standbys that are about to be
/// sealed.
#[test]
fn in_sync_a_primary_whose_replication_goes_on_without_its_peers_loses_no_acknowledged_row()
-> Result<()> {
    loses_nothing(
        "sync-peer-port",
        "sync",
        |cluster, primary| {
            cluster.members[primary].cut(&Cut::Port(cluster_tests::member::GRPC_PORT))
        },
        |cluster, old| cluster.members[old].heal(),
    )
}

/// Every commit waits for both standbys, so either of them alone has everything.
#[test]
fn with_two_confirmations_primary_and_standby_may_be_lost_one_after_the_other() -> Result<()> {
    let mut cluster = Wanted::new("sync-two-lost")
        .members(3, 2)
        .mode("sync")
        .setting("k = 2")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 2, 2)?;
    let old = drill.primary;
    let other = (0..3).find(|place| *place != old).unwrap_or_default();
    cluster.members[old].kill_host()?;
    cluster.members[other].kill_host()?;
    drill.wait_takeover(&cluster)?;
    cluster.start_all()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// One confirmation, three copies, five voters: the primary and the standby that confirmed go
/// together. The third member has votes enough and must not be promoted: it may lack rows [A2].
#[test]
fn with_one_confirmation_primary_and_confirming_standby_lost_together_nobody_is_promoted()
-> Result<()> {
    let mut cluster = Wanted::new("sync-two-at-once")
        .members(3, 2)
        .mode("sync")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let old = drill.primary;
    let rule = cluster.rule_on(old)?;
    let places: Vec<usize> = (0..3).filter(|place| *place != old).collect();
    let lost = places
        .iter()
        .copied()
        .find(|place| rule.members.contains(&cluster.members[*place].name))
        .unwrap_or(places[0]);
    cluster.members[old].kill_host()?;
    cluster.members[lost].kill_host()?;
    wait_until("the reign is over", PATIENCE, || {
        match cluster.primaries()[..] {
            [] => Ok(()),
            ref some => Err(format!("{some:?}")),
        }
    })?;
    stays("nobody is promoted", 4 * LEASE, || {
        match cluster.primaries()[..] {
            [] => Ok(()),
            ref some => Err(format!("{some:?}")),
        }
    })?;
    let status = cluster.status()?;
    ensure!(status.contains("missing-members"), "{status}");
    for place in [old, lost] {
        let name = &cluster.members[place].name;
        ensure!(
            status.contains(name.as_str()),
            "{name} is not named: {status}"
        );
    }
    // One of the two is enough: with it every set that may have confirmed is met.
    cluster.members[lost].start()?;
    cluster.wait_other_primary(old, PATIENCE)?;
    cluster.members[old].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// pgconsul #199: the old primary returns while the others are choosing.
#[test]
fn in_sync_an_old_primary_that_returns_in_the_middle_of_the_election_loses_nothing() -> Result<()> {
    let mut cluster = Wanted::new("sync-returns").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let old = drill.primary;
    cluster.members[old].kill_host()?;
    wait_until("the reign is revoked", PATIENCE, || {
        let is_told = |place: &usize| {
            let log = cluster_tests::logs::tail(&cluster.members[*place].log(), 200);
            *place != old && log.contains("primary-silent")
        };
        match (0..3).any(|place| is_told(&place)) {
            true => Ok(()),
            false => Err(cluster.seen()),
        }
    })?;
    cluster.members[old].start()?;
    let back = clock();
    drill.wait_writing(back)?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// Patroni #3703: WAL that nobody was told of, a checkpoint and a switch of the segment, is no lag.
#[test]
fn in_sync_an_idle_primary_with_wal_of_its_own_is_replaced_at_once() -> Result<()> {
    let mut cluster = Wanted::new("sync-idle").mode("sync").start()?;
    let old = cluster.wait_settled(1, 1, 2 * PATIENCE)?;
    cluster.sql(old, "CREATE TABLE kept AS SELECT 1 AS x")?;
    cluster.members[old].cut(&Cut::PeersPort(cluster.peers_of(old), 5432))?;
    // Without a checkpoint: what is shown is not how long a disk takes.
    let own = "SELECT pg_logical_emit_message(false, 'own', 'x')::text, pg_switch_wal()";
    cluster.sql(old, own)?;
    cluster.members[old].kill_host()?;
    let new = cluster.wait_other_primary(old, PATIENCE)?;
    ensure!(cluster.sql(new, "SELECT count(*)::text FROM kept")? == ["1"]);
    cluster.members[old].heal()?;
    cluster.members[old].start()?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}

/// CNPG #11114: the target was chosen before the old primary had stopped, and rows that only the
/// other standby had confirmed were lost in a planned move.
#[test]
fn in_sync_switchovers_under_load_lose_nothing_whoever_confirmed() -> Result<()> {
    let cluster = Wanted::new("sync-switchover").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    for turn in 0..3 {
        let primary = cluster.wait_settled(1, 1, PATIENCE)?;
        let target = (primary + 1 + turn % 2) % 3;
        // The target's receiver stands still for a moment: the other one confirms.
        let receiver = cluster.members[target].postgres_process("walreceiver")?;
        cluster_tests::member::signal(receiver, nix::sys::signal::Signal::SIGSTOP)?;
        let since = clock();
        drill.wait_writing(since)?;
        cluster_tests::member::signal(receiver, nix::sys::signal::Signal::SIGCONT)?;
        let name = cluster.members[target].name.clone();
        // Refused, done, or called off: nothing may be lost in any case.
        let said = cluster.ctl(&["switchover", "--to", &name, "--yes"]);
        eprintln!("switchover to {name}: {said:?}");
        drill.wait_writing(clock())?;
    }
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.changes_of_primary() > 0, "no switchover happened");
    cluster.finish()
}

/// A session that is ended in the middle of a statement leaves the record of its abort behind, flushed by
/// nobody yet. The target has to have that too, or the old primary is ahead of it and stays the primary.
#[test]
fn in_sync_every_switchover_under_load_reaches_its_target() -> Result<()> {
    let cluster = Wanted::new("sync-switchovers").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    for _ in 0..8 {
        let old = cluster.wait_settled(1, 1, PATIENCE)?;
        cluster.ctl(&["switchover", "--yes"])?;
        drill.wait_writing(clock())?;
        ensure!(cluster.wait_settled(1, 1, PATIENCE)? != old);
    }
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// resource-agents #24: a standby that had left the rule is promoted in place of the one that
/// confirmed.
#[test]
fn in_sync_a_standby_that_left_the_rule_and_came_back_behind_is_not_promoted_as_it_is() -> Result<()>
{
    let mut cluster = Wanted::new("sync-left-behind")
        .mode("sync")
        .setting("k = 2")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 2, 2)?;
    let old = drill.primary;
    let behind = (old + 1) % 3;
    let name = cluster.members[behind].name.clone();
    cluster.members[behind].stop_postgres()?;
    cluster.wait_rule(old, "the rule goes on without it", PATIENCE, |rule| {
        rule.confirmations == 1 && !rule.members.contains(&name)
    })?;
    let without = clock();
    drill.wait_writing(without + Duration::from_millis(500))?;
    cluster.members[old].kill_host()?;
    cluster.members[behind].continue_postgres();
    drill.wait_takeover(&cluster)?;
    cluster.members[old].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// X28, and what was found beside it: a returning primary with a tail of its own must not stream under
/// a name that counts, because its position makes PostgreSQL acknowledge what nobody has.
#[test]
fn x28_a_diverged_old_primary_never_counts_before_it_was_rewound() -> Result<()> {
    let cluster = Wanted::new("sync-diverged").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let old = drill.primary;
    cluster.isolate(old)?;
    // A megabyte that nobody else gets; it waits for a confirmation that never comes.
    let tail = format!(
        "psql -h {} -U postgres -c \"CREATE TABLE tail AS SELECT repeat('x', 100) AS v \
         FROM generate_series(1, 10000)\" >/dev/null 2>&1",
        cluster.members[old].host.address
    );
    let mut shell = cluster.clients.command(std::path::Path::new("timeout"));
    shell.args(["5", "sh", "-c", &tail]);
    // It ends with the reign, or with its time.
    let _ = Host::run(shell);
    let new = drill.wait_takeover(&cluster)?;
    let name = cluster.members[old].name.clone();
    cluster.members[old].heal()?;
    let beyond = format!(
        "SELECT application_name || ' ' || flush_lsn FROM pg_stat_replication \
         WHERE application_name LIKE '{name}~%' AND sync_priority > 0 \
         AND flush_lsn > pg_current_wal_flush_lsn()"
    );
    wait_until("it streams again", PATIENCE, || {
        // A hit may only be a race of two reads: the same one twice is none.
        let twice = [cluster.sql(new, &beyond), cluster.sql(new, &beyond)];
        match twice {
            [Ok(first), Ok(second)] if !first.is_empty() && first == second => {
                return Ok(Err(first));
            }
            _ => {}
        }
        match cluster.wait_healthy(Duration::ZERO) {
            Ok(_) => Ok(Ok(())),
            Err(error) => Err(format!("{error:#}")),
        }
    })?
    .or_else(|found| bail!("it counted with WAL the primary does not have: {found:?}"))?;
    drill.end_complete(&cluster)?;
    ensure!(
        cluster.sql(new, "SELECT to_regclass('tail') IS NULL")? == ["t"],
        "the tail came back"
    );
    cluster.finish()
}
