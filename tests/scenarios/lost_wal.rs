//! A standby that was away until the primary had dropped WAL it never got: nothing it could wait for
//! will come, so it is cloned anew by itself.

use anyhow::{Result, ensure};
use cluster_tests::{PATIENCE, Wanted, wait_until};

#[test]
fn a_standby_whose_wal_the_primary_has_dropped_is_cloned_anew_by_itself() -> Result<()> {
    let cluster = Wanted::new("lost-wal").mode("sync").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let standby = (primary + 1) % 3;
    let keeps_little = [
        "parameters.max_slot_wal_keep_size=4MB",
        "parameters.wal_keep_size=0",
    ];
    cluster.ctl(&[&["settings", "set"], &keeps_little[..], &["--yes"]].concat())?;
    cluster.sql(primary, "CREATE TABLE t (i bigint, filler text)")?;
    // A copy that only followed would still have it.
    let old_copy = cluster.members[standby].data_dir().join("old_copy");
    std::fs::write(&old_copy, "a clone does not have this")?;
    let place = "SELECT pg_last_wal_receive_lsn()::text";
    let ended = cluster.sql(standby, place)?;
    cluster.isolate(standby)?;
    let name = cluster.members[standby].name.clone();
    wait_until(
        "WAL that the standby lacks is dropped",
        2 * PATIENCE,
        || {
            let more = "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 4000) i";
            for sql in [more, "SELECT pg_switch_wal()", "CHECKPOINT"] {
                let done = cluster.sql(primary, sql);
                done.map_err(|error| format!("{error:#}"))?;
            }
            let oldest = "SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE length(name) = 24";
            let needed = format!("SELECT substr(pg_walfile_name('{}'), 9)", ended[0]);
            let ask = |sql: &str| cluster.sql(primary, sql).map_err(|error| error.to_string());
            let (oldest, needed) = (ask(oldest)?, ask(&needed)?);
            match oldest > needed {
                true => Ok(()),
                false => Err(format!("it keeps {oldest:?}, {needed:?} is needed")),
            }
        },
    )?;
    ensure!(old_copy.exists(), "nothing is cloned while it is cut off");
    cluster.members[standby].heal()?;
    wait_until("a new copy", 2 * PATIENCE, || match old_copy.exists() {
        true => Err(format!("{name} has the old one")),
        false => Ok(()),
    })?;
    cluster.wait_healthy(2 * PATIENCE)?;
    ensure!(
        cluster.wait_primary(PATIENCE)? == primary,
        "nobody was promoted"
    );
    let rows = cluster.sql(primary, "SELECT count(*) FROM t")?;
    wait_until("its rows on the new copy", PATIENCE, || {
        let copied = cluster.sql(standby, "SELECT count(*) FROM t");
        let copied = copied.map_err(|error| error.to_string())?;
        match copied == rows {
            true => Ok(()),
            false => Err(format!("{copied:?} of {rows:?}")),
        }
    })?;
    cluster.finish()
}
