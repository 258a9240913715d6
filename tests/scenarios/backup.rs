//! Backups, archived WAL, and points in time, with failovers in between.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::host::Host;
use cluster_tests::member::give_to_postgres;
use cluster_tests::points::{self, Campaign};
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};

/// A cluster with a repository and a table, and what is restored of it.
struct Room {
    cluster: Cluster,
    restored: u32,
}

impl Room {
    fn new(name: &str) -> Result<Room> {
        let cluster = Wanted::new(name).repository().start()?;
        let room = Room {
            cluster,
            restored: 0,
        };
        room.run("CREATE TABLE kept (number int PRIMARY KEY)")?;
        Ok(room)
    }

    fn run(&self, sql: &str) -> Result<Vec<String>> {
        let primary = self.cluster.wait_primary(PATIENCE)?;
        self.cluster.sql(primary, sql)
    }

    fn one(&self, sql: &str) -> Result<String> {
        self.run(sql)?.into_iter().next().context("one row")
    }

    /// Rows up to `to` are there; where the WAL ends after them, and the moment.
    fn fill(&self, from: u32, to: u32) -> Result<(String, String)> {
        self.run(&format!(
            "INSERT INTO kept SELECT generate_series({from}, {to})"
        ))?;
        let lsn = self.one("SELECT pg_current_wal_insert_lsn()::text")?;
        let at =
            self.one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')")?;
        Ok((lsn, at))
    }

    /// A metric of the primary.
    fn metric(&self, name: &str) -> Result<Option<f64>> {
        let primary = self.cluster.wait_primary(PATIENCE)?;
        let text = self.cluster.get(primary, "/metrics")?.body;
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        Ok(value.map(str::parse).transpose()?)
    }

    fn kill_primary(&mut self) -> Result<()> {
        let old = self.cluster.wait_primary(PATIENCE)?;
        self.cluster.members[old].kill_host()?;
        self.cluster.wait_other_primary(old, PATIENCE)?;
        self.cluster.members[old].start()?;
        self.cluster.wait_healthy(PATIENCE)?;
        Ok(())
    }

    /// Where copies are made; PostgreSQL's user may.
    fn home(&self) -> Result<PathBuf> {
        let home = self.cluster.folder.join("restored");
        if !home.exists() {
            std::fs::create_dir(&home)?;
            give_to_postgres(&home)?;
        }
        Ok(home)
    }

    /// A verb of the program on the repository.
    fn tool(&self, verb: &str, arguments: &[&str]) -> Command {
        let clients = &self.cluster.clients;
        let mut command = clients.command_as_postgres(&self.cluster.backup_program());
        command.arg(verb).arg("--repository");
        command.arg(self.cluster.repository()).args(arguments);
        command
    }

    /// A verification of the newest backup.
    fn verify(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.tool("verify", arguments);
        command.arg("--scratch").arg(self.home()?);
        command.arg("--bin-dir").arg(&self.cluster.members[0].bin);
        Ok(command)
    }

    /// A restored copy of its own: the numbers it holds.
    fn restore(&mut self, target: &[&str]) -> Result<Vec<String>> {
        self.restored += 1;
        let copy = self.cluster.restore(&self.restored.to_string(), target)?;
        let found =
            copy.sql("SELECT min(number) || ' ' || max(number) || ' ' || count(*) FROM kept")?;
        copy.remove()?;
        Ok(found)
    }
}

/// From the mistake back: a backup, rows, a failover, rows, a DELETE; each moment between is there.
#[test]
fn a_mistaken_delete_is_undone_by_a_restore_to_the_moment_before_across_a_failover() -> Result<()> {
    let mut room = Room::new("backup")?;
    room.fill(1, 100)?;
    let said = room.cluster.ctl(&["backup", "create"])?;
    ensure!(said.contains("is stored"), "{said}");
    let listed = room.cluster.ctl(&["backup", "list", "-o", "json"])?;
    ensure!(listed.contains("\"timeline\""), "{listed}");
    let (first_lsn, first_moment) = room.fill(101, 200)?;
    room.kill_primary()?;
    let (second_lsn, second_moment) = room.fill(201, 300)?;
    room.run("DELETE FROM kept")?;
    room.fill(1000, 1000)?;
    room.cluster.wait_archived()?;
    for (target, wanted) in [
        (["--lsn", &first_lsn], "1 200 200"),
        (["--to", &first_moment], "1 200 200"),
        (["--lsn", &second_lsn], "1 300 300"),
        (["--to", &second_moment], "1 300 300"),
    ] {
        let found = room.restore(&target)?;
        ensure!(found == [wanted], "{target:?}: {found:?}");
    }
    let found = room.restore(&["--latest"])?;
    ensure!(found == ["1000 1000 1"], "{found:?}");
    let asked = room.restore(&["--to", "2020-01-01 00:00:00+00"]);
    let refused = format!("{:#}", asked.expect_err("long before the backup"));
    ensure!(refused.contains("first recoverable"), "{refused}");
    room.cluster.finish()
}

/// A primary that dies with segments nobody has sent: its successor sends them, and there is no hole.
#[test]
fn segments_that_the_lost_primary_had_not_archived_are_archived_by_the_next_one() -> Result<()> {
    let mut room = Room::new("hole")?;
    room.cluster.ctl(&["backup", "create"])?;
    let old = room.cluster.wait_primary(PATIENCE)?;
    // What is handed over from here on does not arrive.
    let aside = room.cluster.folder.join("aside");
    let program = room.cluster.backup_program();
    std::fs::rename(&program, &aside)?;
    for from in [1, 101, 201] {
        room.fill(from, from + 99)?;
        room.run("SELECT pg_switch_wal()")?;
    }
    let waiting = room.cluster.members[old]
        .data_dir()
        .join("pg_wal/archive_status");
    let is_waiting = std::fs::read_dir(waiting)?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with(".ready"));
    ensure!(is_waiting, "everything was archived: this shows nothing");
    room.cluster.members[old].kill_host()?;
    std::fs::rename(&aside, &program)?;
    room.cluster.wait_other_primary(old, PATIENCE)?;
    let (lsn, _) = room.fill(301, 400)?;
    room.cluster.wait_archived()?;
    let found = room.restore(&["--lsn", &lsn])?;
    ensure!(found == ["1 400 400"], "{found:?}");
    room.cluster.members[old].start()?;
    room.cluster.wait_healthy(PATIENCE)?;
    room.cluster.finish()
}

/// The repository is away when a daemon starts: the cluster does not mind, and archives when it is back.
#[test]
fn a_repository_that_is_away_stops_neither_daemon_nor_commits() -> Result<()> {
    let mut room = Room::new("away")?;
    room.fill(1, 100)?;
    let repository = room.cluster.repository();
    let aside = room.cluster.folder.join("aside");
    // PostgreSQL's user may not make it anew there.
    std::fs::rename(&repository, &aside)?;
    let primary = room.cluster.wait_primary(PATIENCE)?;
    room.cluster.members[primary].kill_daemon()?;
    room.cluster.members[primary].start()?;
    room.cluster.wait_healthy(PATIENCE)?;
    room.fill(101, 200)?;
    room.run("SELECT pg_switch_wal()")?;
    let refused = room.cluster.ctl(&["backup", "create"]);
    let why = format!("{:#}", refused.expect_err("there is no place"));
    ensure!(
        why.contains("cannot be a repository") || why.contains("could not"),
        "{why}"
    );
    wait_until("PostgreSQL sees that it cannot archive", PATIENCE, || {
        let failed = room.one("SELECT failed_count::text FROM pg_stat_archiver");
        match failed.map_err(|error| error.to_string())?.as_str() {
            "0" => Err("no failure".to_owned()),
            _ => Ok(()),
        }
    })?;
    wait_until("status says so", PATIENCE, || {
        let status = room.cluster.status().map_err(|error| error.to_string())?;
        match status.contains("FAILS for") {
            true => Ok(()),
            false => Err(status),
        }
    })?;
    std::fs::rename(&aside, &repository)?;
    room.cluster.wait_archived()?;
    wait_until("and that it is over", PATIENCE, || {
        // What was archived before this daemon looked for the first time proves nothing to it.
        room.run("SELECT pg_switch_wal()")
            .map_err(|error| error.to_string())?;
        let status = room.cluster.status().map_err(|error| error.to_string())?;
        match status.contains("is in the repository") && !status.contains("FAILS for") {
            true => Ok(()),
            false => Err(status),
        }
    })?;
    room.cluster.ctl(&["backup", "create"])?;
    let found = room.restore(&["--latest"])?;
    ensure!(found == ["1 200 200"], "{found:?}");
    room.cluster.finish()
}

/// As docs/backup.md says, on a cluster that runs: into the file, the daemon started again, reload.
#[test]
fn archiving_is_switched_on_while_the_cluster_runs() -> Result<()> {
    let mut cluster = Wanted::new("switched-on").repository().make()?;
    let files: Vec<_> = cluster.members.iter().map(|it| it.config_file()).collect();
    let mut whole = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let (before, _) = text.split_once("\n[backup]").context("the table")?;
        write_private(file, before)?;
        whole.push(text);
    }
    cluster.start_all()?;
    let mut room = Room {
        cluster,
        restored: 0,
    };
    room.cluster.wait_healthy(PATIENCE)?;
    room.run("CREATE TABLE kept (number int PRIMARY KEY)")?;
    let refused = room.cluster.ctl(&["backup", "create"]);
    let why = format!("{:#}", refused.expect_err("there is no repository"));
    ensure!(why.contains("[backup]"), "{why}");
    for (place, text) in whole.iter().enumerate() {
        write_private(&files[place], text)?;
        room.cluster.members[place].kill_daemon()?;
        room.cluster.members[place].start()?;
        room.cluster.wait_healthy(PATIENCE)?;
        let name = room.cluster.members[place].name.clone();
        room.cluster.ctl(&["reload", &name, "--yes"])?;
    }
    room.cluster.ctl(&["backup", "create"])?;
    room.fill(1, 100)?;
    let filled = room.one("SELECT extract(epoch FROM clock_timestamp())::text")?;
    let filled: f64 = filled.parse()?;
    wait_until("the metric covers the rows", PATIENCE, || {
        room.run("SELECT pg_switch_wal()")
            .map_err(|error| error.to_string())?;
        let seen = room.metric("clusterd_archive_last_recoverable_time");
        match seen.map_err(|error| error.to_string())? {
            Some(until) if until >= filled => Ok(()),
            seen => Err(format!("{seen:?}, not {filled}")),
        }
    })?;
    let found = room.restore(&["--latest"])?;
    ensure!(found == ["1 100 100"], "{found:?}");
    room.cluster.finish()
}

/// A short run of `cargo xtask restores`.
#[test]
fn copies_restored_to_random_points_across_failovers_hold_exactly_what_was_committed() -> Result<()>
{
    let campaign = Campaign {
        failovers: 2,
        points: 8,
        backup_every: 2,
        seed: 1,
    };
    let outcome = points::run("points", &campaign, &|line| println!("{line}"))?;
    ensure!(outcome.findings.is_empty(), "{:#?}", outcome.findings);
    ensure!(outcome.restored == campaign.points, "{outcome:?}");
    ensure!(outcome.timelines == 3, "{outcome:?}");
    Ok(())
}

/// What a verification says of a repository that is good, of one that is not, and of one that was pruned.
#[test]
fn a_backup_is_proven_and_pruning_leaves_what_a_restore_needs() -> Result<()> {
    let mut room = Room::new("proven")?;
    let copies = |room: &Room| -> Result<usize> { Ok(std::fs::read_dir(room.home()?)?.count()) };
    room.fill(1, 100)?;
    room.cluster.ctl(&["backup", "create"])?;
    room.fill(101, 200)?;
    room.run("SELECT pg_switch_wal()")?;
    room.cluster.ctl(&["backup", "create"])?;
    room.kill_primary()?;
    let (lsn, moment) = room.fill(201, 300)?;
    room.cluster.wait_archived()?;
    room.fill(301, 400)?;
    room.cluster.wait_archived()?;
    for (target, wanted) in [
        (&["--latest", "--keep-result"][..], "RPO"),
        (&["--lsn", &lsn], "RTO"),
        (&["--to", &moment], "RTO"),
    ] {
        let said = Host::run(room.verify(target)?)?;
        println!("{said}");
        for words in [
            "SUCCESSFUL",
            "pg_verifybackup: each",
            "pg_amcheck: every",
            wanted,
        ] {
            ensure!(said.contains(words), "{words}: {said}");
        }
    }
    let kept = Host::run(room.tool("verifications", &[]))?;
    ensure!(kept.contains("SUCCESSFUL"), "{kept}");
    let late = Host::run(room.verify(&["--timeout", "1ms"])?);
    let late = format!("{:#}", late.expect_err("no time"));
    ensure!(late.contains("TIMED_OUT"), "{late}");
    // Told to end while it runs: it says so, and leaves nothing.
    let mut running = room.verify(&[])?;
    let running = running.stdout(std::process::Stdio::piped()).spawn()?;
    wait_until(
        "a copy in the scratch directory",
        PATIENCE,
        || match copies(&room).map_err(|error| error.to_string())? {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        },
    )?;
    let mut kill = Command::new("kill");
    kill.args(["-TERM", &running.id().to_string()]);
    Host::run(kill)?;
    let ended = running.wait_with_output()?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    ensure!(
        said.contains("told to end") && !ended.status.success(),
        "{said}"
    );
    ensure!(copies(&room)? == 0, "a copy was left");

    let policy = ["--keep-window", "0s", "--keep-at-least", "1"];
    let planned = Host::run(room.tool("prune", &policy))?;
    ensure!(planned.contains("nothing was touched"), "{planned}");
    let pruned = Host::run(room.tool("prune", &[&policy[..], &["--yes"]].concat()))?;
    println!("{pruned}");
    ensure!(
        pruned.contains("  goes   ") && pruned.contains("Deleted"),
        "{pruned}"
    );
    let left = Host::run(room.tool("list", &[]))?;
    ensure!(left.lines().count() == 1, "{left}");
    let said = Host::run(room.verify(&[])?)?;
    ensure!(said.contains("SUCCESSFUL"), "{said}");
    let found = room.restore(&["--lsn", &lsn])?;
    ensure!(found == ["1 300 300"], "{found:?}");

    let archived = room.cluster.archived();
    let mut segments = archived.iter().rev().filter(|name| name.len() == 24);
    let middle = segments.nth(1).context("the last but one")?;
    let mut find = Command::new("find");
    find.arg(room.cluster.repository());
    find.args(["-type", "d", "-name", middle]);
    let folder = Host::run(find)?;
    std::fs::remove_dir_all(folder.trim())?;
    let failed = Host::run(room.verify(&["--keep-result"])?);
    let failed = format!("{:#}", failed.expect_err("there is a hole"));
    println!("{failed}");
    for words in ["FAILED", "a hole in the archive", middle, "not tried"] {
        ensure!(failed.contains(words), "{words}: {failed}");
    }
    room.cluster.finish()
}
