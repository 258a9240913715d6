//! What somebody does to a member's PostgreSQL behind the daemon's back.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use cluster_tests::host::Host;
use cluster_tests::logs::tail;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};

/// `pg_ctl promote` on a member, and rows that only it has.
fn promote_by_hand(cluster: &Cluster, member: usize) -> Result<()> {
    let host = &cluster.members[member];
    let mut promote = host.host.command_as_postgres(&host.bin.join("pg_ctl"));
    promote.args(["promote", "-w", "-t", "20", "-D"]);
    promote.arg(host.data_dir());
    // It may be killed before pg_ctl has seen that it worked.
    let _ = Host::run(promote);
    Ok(())
}

/// A file that no copy of another member has: a member that was cloned has lost it.
fn mark(cluster: &Cluster, member: usize) -> Result<PathBuf> {
    let witness = cluster.members[member].data_dir().join("old_copy");
    std::fs::write(&witness, "a clone does not have this")?;
    Ok(witness)
}

fn said(cluster: &Cluster, member: usize, text: &str) -> Result<()> {
    wait_until(&format!("{text} in its log"), PATIENCE, || {
        let log = tail(&cluster.members[member].log(), 400);
        if log.contains(text) { Ok(()) } else { Err(log) }
    })
}

/// What a member answers once it lets clients in, and writes if it is a write.
fn in_the_end(cluster: &Cluster, member: usize, sql: &str) -> Result<Vec<String>> {
    wait_until(sql, PATIENCE, || {
        cluster
            .sql(member, sql)
            .map_err(|error| format!("{error:#}"))
    })
}

#[test]
fn standby_promoted_by_hand_is_killed_and_cloned_anew() -> Result<()> {
    let cluster = Wanted::new("by-hand").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let standby = (primary + 1) % 3;
    let witness = mark(&cluster, standby)?;
    promote_by_hand(&cluster, standby)?;
    said(&cluster, standby, "primary-without-grant")?;
    wait_until("a new copy", PATIENCE, || {
        if witness.exists() {
            Err(cluster.seen())
        } else {
            Ok(())
        }
    })?;
    ensure!(
        cluster.wait_healthy(PATIENCE)? == primary,
        "the primary changed"
    );
    cluster.finish()
}

/// Nobody saw it: the daemon was away, and the host went down before it came back. Meanwhile a
/// switchover takes the very timeline number that the promotion by hand took.
#[test]
fn standby_promoted_by_hand_while_nobody_looked_never_follows_with_its_own_rows() -> Result<()> {
    let mut cluster = Wanted::new("by-hand-unseen").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let (standby, third) = ((primary + 1) % 3, (primary + 2) % 3);
    cluster.sql(primary, "CREATE TABLE who (name text)")?;
    let witness = mark(&cluster, standby)?;
    let timeline = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
    cluster.members[standby].kill_daemon()?;
    promote_by_hand(&cluster, standby)?;
    // Without the first statement it would wait for ever: nobody has the fence's name.
    let write = "SET synchronous_commit = local; INSERT INTO who VALUES ('by hand')";
    in_the_end(&cluster, standby, write)?;
    let by_hand = in_the_end(&cluster, standby, timeline)?;
    cluster.members[standby].kill_host()?;
    let name = cluster.members[third].name.clone();
    cluster.ctl(&["switchover", "--to", &name, "--yes"])?;
    let new = cluster.wait_other_primary(primary, PATIENCE)?;
    ensure!(
        in_the_end(&cluster, new, timeline)? == by_hand,
        "not the same number: this shows nothing"
    );
    in_the_end(&cluster, new, "INSERT INTO who VALUES ('granted')")?;
    cluster.members[standby].start()?;
    said(&cluster, standby, "strayed")?;
    ensure!(
        cluster.wait_healthy(PATIENCE)? == new,
        "the primary changed"
    );
    ensure!(!witness.exists(), "it was not cloned");
    wait_until("the granted row alone", PATIENCE, || {
        match cluster.sql(standby, "SELECT string_agg(name, ',') FROM who") {
            Ok(rows) if rows == ["granted"] => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    cluster.finish()
}
