//! First start and second start.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::{PATIENCE, Wanted, stays, wait_until};

#[test]
fn members_start_in_any_order_and_form_one_cluster() -> Result<()> {
    let mut cluster = Wanted::new("any-order").make()?;
    for late in [2, 0] {
        cluster.members[late].start()?;
        wait_until("it answers", PATIENCE, || {
            cluster
                .get(late, "/liveness")
                .map(drop)
                .map_err(|error| format!("{error:#}"))
        })?;
    }
    stays(
        "no primary while a listed member is missing",
        Duration::from_secs(2),
        || match cluster.primaries()[..] {
            [] => Ok(()),
            ref some => Err(format!("{some:?}")),
        },
    )?;
    cluster.members[1].start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    let wanted = cluster.sql(primary, identifier)?;
    for member in 0..3 {
        ensure!(
            cluster.sql(member, identifier)? == wanted,
            "a member has another database"
        );
    }
    cluster.finish()
}

#[test]
fn second_start_keeps_cluster_and_data() -> Result<()> {
    let mut cluster = Wanted::new("second-start").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    cluster.sql(primary, "CREATE TABLE kept AS SELECT 42 AS answer")?;
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    let before = cluster.sql(primary, identifier)?;
    wait_until("all members have the table", PATIENCE, || {
        let found = |member| cluster.sql(member, "SELECT answer FROM kept").is_ok();
        if (0..3).all(found) {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })?;
    for member in &mut cluster.members {
        member.kill_host()?;
    }
    cluster.start_all()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    ensure!(
        cluster.sql(primary, identifier)? == before,
        "another database"
    );
    ensure!(
        cluster.sql(primary, "SELECT answer FROM kept")? == ["42"],
        "the row is gone"
    );
    cluster.finish()
}

/// As in a container that is entered: the process's session began outside and has the number 0 there.
#[test]
fn a_member_in_a_process_namespace_of_its_own_joins() -> Result<()> {
    let mut cluster = Wanted::new("process-namespace").make()?;
    cluster.members[2].through = &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    cluster.start_all()?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}
