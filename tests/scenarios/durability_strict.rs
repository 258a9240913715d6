//! Mode `strict`: below `k_min` writes wait, nothing is given up, and what waits is not shown to
//! anybody as written.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE, Wanted, stays, wait_until};

use crate::drill::{Drill, LEASE};

/// Two members and a witness; the standby is all there is.
fn pair(name: &str) -> Result<(Cluster, Drill, usize)> {
    let cluster = Wanted::new(name).members(2, 1).mode("strict").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let standby = 1 - drill.primary;
    Ok((cluster, drill, standby))
}

/// Fails as soon as the primary waits for nobody, or a row is acknowledged.
fn writes_wait(cluster: &Cluster, drill: &Drill, time: Duration) -> Result<()> {
    // A row whose confirmation was on its way may still come in.
    let mut last = drill.count();
    wait_until("no row any more", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(300));
        let (now, before) = (drill.count(), last);
        last = now;
        match now == before {
            true => Ok(()),
            false => Err(format!("{now} rows")),
        }
    })?;
    stays("writes wait", time, || {
        if drill.count() != last {
            return Err(format!("{} rows, there were {last}", drill.count()));
        }
        match cluster.rule_on(drill.primary) {
            Ok(rule) if rule.is_degraded() => Err(format!("{rule:?}")),
            _ => Ok(()),
        }
    })
}

#[test]
fn without_its_standby_a_strict_primary_lets_writes_wait_and_goes_on_with_it() -> Result<()> {
    let (mut cluster, drill, standby) = pair("strict-waits")?;
    cluster.members[standby].kill_host()?;
    writes_wait(&cluster, &drill, 3 * LEASE)?;
    let status = cluster.status()?;
    ensure!(status.contains("WRITES WAIT"), "{status}");
    cluster.members[standby].start()?;
    drill.wait_writing(clock())?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}

/// Only reads are answered: the primary is healthy and stays the primary.
#[test]
fn with_two_required_one_standby_is_not_enough() -> Result<()> {
    let mut cluster = Wanted::new("strict-two")
        .mode("strict")
        .setting("k = 2")
        .setting("k_min = 2")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 2, 2)?;
    let standby = (drill.primary + 1) % 3;
    cluster.members[standby].kill_host()?;
    writes_wait(&cluster, &drill, 2 * LEASE)?;
    ensure!(cluster.sql(drill.primary, "SELECT 1::text")? == ["1"]);
    cluster.members[standby].start()?;
    drill.wait_writing(clock())?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

#[test]
fn a_strict_primary_lost_while_writes_wait_is_replaced_and_nothing_is_lost() -> Result<()> {
    let (mut cluster, drill, standby) = pair("strict-lost")?;
    let primary = drill.primary;
    // Its PostgreSQL stands still, so that its host goes on voting.
    cluster.members[standby].stop_postgres()?;
    writes_wait(&cluster, &drill, LEASE)?;
    cluster.members[primary].kill_host()?;
    cluster.members[standby].continue_postgres();
    // It has everything that was acknowledged: it may be promoted, but not open to writes alone.
    wait_until("the standby is granted", PATIENCE, || {
        let ask = "SELECT pg_is_in_recovery()::text";
        let seen = cluster.status().unwrap_or_default();
        match cluster.sql(standby, ask) {
            Ok(found) if found == ["true"] => Err(format!("in recovery; {seen}")),
            _ => Ok(()),
        }
    })?;
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// stolon #514, X6: after a crash everything the server had flushed is visible, also what no standby
/// confirmed. Nobody may see it before it is on one.
#[test]
fn x6_a_row_that_waited_when_the_server_crashed_is_shown_to_nobody_before_a_standby_has_it()
-> Result<()> {
    let (mut cluster, drill, standby) = pair("strict-crash")?;
    let primary = drill.primary;
    cluster.sql(primary, "CREATE TABLE seen (x int)")?;
    cluster.members[standby].kill_host()?;
    writes_wait(&cluster, &drill, Duration::from_secs(1))?;
    let login = cluster.login();
    let address = cluster.members[primary].host.address.clone();
    cluster.start_task(async move {
        let config = login.config(&address, cluster_tests::member::POSTGRES_PORT);
        if let Ok(client) = cluster_tests::sql::connect(&config, PATIENCE).await {
            // It waits until the server dies.
            let _ = client.simple_query("INSERT INTO seen VALUES (1)").await;
        }
    });
    let waiting = "SELECT count(*)::text FROM pg_stat_activity \
                   WHERE wait_event = 'SyncRep' AND query LIKE 'INSERT INTO seen%'";
    wait_until("a row that waits", PATIENCE, || {
        match cluster.sql(primary, waiting) {
            Ok(found) if found == ["1"] => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    ensure!(
        cluster.sql(primary, "SELECT count(*)::text FROM seen")? == ["0"],
        "it is visible while it waits"
    );
    cluster.members[primary].kill_postmaster()?;
    stays("nobody sees it", 3 * LEASE, || {
        match cluster.sql(primary, "SELECT count(*)::text FROM seen") {
            Ok(found) if found == ["1"] => Err(format!("{found:?}")),
            _ => Ok(()),
        }
    })?;
    cluster.members[standby].start()?;
    wait_until("it is on both", PATIENCE, || {
        match cluster.sql(primary, "SELECT count(*)::text FROM seen") {
            Ok(found) if found == ["1"] => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    drill.end_complete(&cluster)?;
    ensure!(cluster.sql(standby, "SELECT count(*)::text FROM seen")? == ["1"]);
    cluster.finish()
}
