//! Runbooks of disaster recovery as they are written: docs/runbooks/mistaken-delete.md, and docs/runbooks/lost-site.md.

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::host::Host;
use cluster_tests::member::{fingerprint, give_to_postgres};
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};

/// A program of ours or PostgreSQL's, as PostgreSQL's user.
fn run(cluster: &Cluster, program: &std::path::Path, arguments: &[&str]) -> Result<String> {
    let mut command = cluster.clients.command_as_postgres(program);
    command.args(arguments);
    Host::run(command)
}

#[test]
fn a_cluster_is_made_of_the_repository_when_every_host_is_lost() -> Result<()> {
    let mut cluster = Wanted::new("lost-site").repository().start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    cluster.sql(primary, "CREATE TABLE kept (number int PRIMARY KEY)")?;
    cluster.sql(primary, "INSERT INTO kept SELECT generate_series(1, 100)")?;
    cluster.ctl(&["backup", "create"])?;
    // A timeline that is not the first, and rows that are in no backup.
    cluster.members[primary].kill_host()?;
    let primary = cluster.wait_other_primary(primary, PATIENCE)?;
    cluster.sql(primary, "INSERT INTO kept SELECT generate_series(101, 200)")?;
    cluster.wait_archived()?;
    for member in &mut cluster.members {
        member.wipe_disk()?;
    }

    // Step 1 and 2: what is there, and is it whole?
    let old = cluster.repository();
    let old = old.to_str().context("a path")?;
    let program = cluster.backup_program();
    let listed = run(&cluster, &program, &["list", "--repository", old])?;
    ensure!(listed.contains("complete"), "{listed}");
    let audited = run(&cluster, &program, &["audit", "--repository", old])?;
    ensure!(audited.starts_with("Every moment since"), "{audited}");

    // Step 3: the data directory of one host.
    let bin = cluster.members[0].bin.clone();
    let bin_dir = bin.to_str().context("a path")?.to_owned();
    let data = cluster.members[0].data_dir();
    let into = data.to_str().context("a path")?;
    let arguments = ["restore", "--repository", old, "--into", into, "--latest"];
    let start = ["--start", "--bin-dir", &bin_dir];
    let said = run(&cluster, &program, &[&arguments[..], &start].concat())?;
    ensure!(said.contains("It takes writes"), "{said}");
    let dsn = format!("host={into} dbname=postgres");
    let count = "SELECT count(*) FROM kept";
    let found = run(&cluster, &bin.join("psql"), &["-XAtc", count, &dsn])?;
    ensure!(found.trim() == "200", "{found}");
    run(&cluster, &bin.join("pg_ctl"), &["-D", into, "-w", "stop"])?;
    let before = fingerprint(&cluster.repository())?;

    // Step 4: another repository for the new cluster.
    let new = cluster.folder.join("repository-2");
    std::fs::create_dir(&new)?;
    give_to_postgres(&new)?;
    for member in &cluster.members {
        let file = member.config_file();
        let text = std::fs::read_to_string(&file)?;
        let words = format!("repository = \"{old}\"");
        ensure!(text.contains(&words), "{text}");
        let changed = text.replace(&words, &format!("repository = \"{}\"", new.display()));
        write_private(&file, &changed)?;
    }

    // Step 5: the cluster forms, and takes the data.
    cluster.start_all()?;
    cluster.wait_healthy(PATIENCE * 2)?;
    let primary = cluster.wait_primary(PATIENCE)?;
    ensure!(primary == 0, "{primary} is the primary, the data was on 0");
    let rows = cluster.sql(primary, count)?;
    ensure!(rows == ["200"], "{rows:?}");
    cluster.sql(primary, "INSERT INTO kept VALUES (201)")?;
    for standby in [1, 2] {
        wait_until("the rows on a standby", PATIENCE, || {
            let rows = cluster.sql(standby, count);
            match rows {
                Ok(rows) if rows == ["201"] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
    }

    // Step 6: a backup of its own; the old repository is as it was.
    let stored = cluster.ctl(&["backup", "create"])?;
    ensure!(stored.contains("is stored"), "{stored}");
    cluster.wait_archived()?;
    let new = new.to_str().context("a path")?;
    let audited = run(&cluster, &program, &["audit", "--repository", new])?;
    println!("{audited}");
    ensure!(audited.starts_with("Every moment since"), "{audited}");
    ensure!(
        fingerprint(&cluster.repository())? == before,
        "somebody wrote into the old repository"
    );
    cluster.finish()
}

#[test]
fn what_a_mistaken_delete_took_is_brought_back_into_the_running_cluster() -> Result<()> {
    let cluster = Wanted::new("mistake").repository().start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    cluster.sql(
        primary,
        "CREATE TABLE kept (number int PRIMARY KEY, note text)",
    )?;
    let rows = "INSERT INTO kept SELECT it, 'note ' || it FROM generate_series(1, 100) AS it";
    cluster.sql(primary, rows)?;
    cluster.ctl(&["backup", "create"])?;
    cluster.sql(primary, "UPDATE kept SET note = 'newer' WHERE number = 7")?;
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')";
    let moment = cluster.sql(primary, now)?.into_iter().next();
    let moment = moment.context("a moment")?;
    // The mistake, and work that goes on and must stay.
    cluster.sql(primary, "DELETE FROM kept WHERE number < 50")?;
    cluster.sql(primary, "INSERT INTO kept VALUES (101, 'after')")?;
    cluster.wait_archived()?;

    let repository = cluster.repository();
    let repository = repository.to_str().context("a path")?;
    let home = cluster.folder.join("restored");
    std::fs::create_dir(&home)?;
    give_to_postgres(&home)?;
    let copy = home.join("copy");
    let into = copy.to_str().context("a path")?;
    let bin = cluster.members[0].bin.clone();
    let bin_dir = bin.to_str().context("a path")?;
    let program = cluster.backup_program();
    let arguments = ["--repository", repository, "--into", into, "--to", &moment];
    let plan = [&["restore"], &arguments[..], &["--dry-run"]].concat();
    let said = run(&cluster, &program, &plan)?;
    ensure!(said.contains("Dry run"), "{said}");
    let start = ["--start", "--bin-dir", bin_dir];
    let restore = [&["restore"], &arguments[..], &start].concat();
    run(&cluster, &program, &restore)?;
    let dsn = format!("host={into} dbname=postgres");
    let file = home.join("kept.sql");
    let file = file.to_str().context("a path")?;
    let dump = ["--table=kept", "--data-only", "--inserts"];
    let dump = [&dump[..], &["--on-conflict-do-nothing", "-f", file, &dsn]].concat();
    run(&cluster, &bin.join("pg_dump"), &dump)?;
    let login = cluster.login();
    let target = format!(
        "host={} user={} password={} dbname={}",
        cluster.members[primary].host.address, login.user, login.password, login.database
    );
    let load = ["-X", "-1", "-v", "ON_ERROR_STOP=1", "-f", file, &target];
    run(&cluster, &bin.join("psql"), &load)?;
    run(&cluster, &bin.join("pg_ctl"), &["-D", into, "-w", "stop"])?;

    let seen = "SELECT min(number) || ' ' || max(number) || ' ' || count(*) FROM kept";
    let found = cluster.sql(primary, seen)?;
    ensure!(found == ["1 101 101"], "{found:?}");
    let notes = "SELECT note FROM kept WHERE number IN (7, 101) ORDER BY number";
    let found = cluster.sql(primary, notes)?;
    ensure!(found == ["newer", "after"], "{found:?}");
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}
