//! A running Patroni and etcd, moved over by the steps of docs/migrate-from-patroni.md while writers
//! write: what they were told is there, one short outage, the same data directories.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Child;

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::config::{PASSWORD, SECRET, TOKEN};
use cluster_tests::host::{Host, log_file};
use cluster_tests::member::signal;
use cluster_tests::patroni::{Patroni, name};
use cluster_tests::writer::{self, Writers, clock, require_no_overlap};
use cluster_tests::{Cluster, Member, PATIENCE, Wanted, orphans, programs, wait_until};
use nix::sys::signal::Signal;
use std::time::Duration;

use crate::takeover::{LONG, told_gap};

/// A file in a data directory that no copy of it has.
const MARK: &str = "only-here";
/// The most that an external writer may see, of the issue.
const MOST: Duration = Duration::from_secs(5);

/// `bootstrap.dcs`: what a team has after some years. `max_connections` and its like are not in
/// PostgreSQL's files: Patroni gives them to the server as arguments.
const DYNAMIC: &str = r#"    ttl: 20
    loop_wait: 1
    retry_timeout: 5
    maximum_lag_on_failover: 1048576
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 87
        max_worker_processes: 9
        max_prepared_transactions: 5
        wal_log_hints: "on"
        archive_mode: "on"
        archive_command: /bin/true
        work_mem: 7MB
    slots:
      of_reports: {type: physical}"#;

/// More of `postgresql`, in each host's file.
const OWN: &str = r#"  parameters:
    unix_socket_directories: '..'
    dynamic_shared_memory_type: mmap
    shared_preload_libraries: pg_stat_statements
    random_page_cost: 1.5
  pg_hba:
  - local all all peer
  - local replication all peer
  - host replication replicator 0.0.0.0/0 scram-sha-256
  - host all app_reader 192.0.2.0/24 scram-sha-256
  - host all all 0.0.0.0/0 scram-sha-256
  callbacks:
    on_role_change: /bin/true
  use_unix_socket: true"#;

/// What load balancers ask for.
const PATHS: [&str; 11] = [
    "/",
    "/primary",
    "/leader",
    "/read-write",
    "/replica",
    "/read-only",
    "/replica?lag=10MB",
    "/health",
    "/liveness",
    "/readiness",
    "/cluster",
];

type Codes = BTreeMap<(usize, &'static str), u16>;

fn codes(cluster: &Cluster) -> Result<Codes> {
    let mut found = BTreeMap::new();
    for place in 0..cluster.members.len() {
        for path in PATHS {
            found.insert((place, path), cluster.get(place, path)?.status);
        }
    }
    Ok(found)
}

/// What is to be the same afterwards on a member.
fn print_of(member: &Member) -> Result<(u64, String)> {
    let mark = fs::read_to_string(member.data_dir().join(MARK))?;
    Ok((member.data_dir().metadata()?.ino(), mark))
}

/// Step 1: `show-config`, and `import-patroni` on every host. What was not carried over, of each.
fn make_configs(cluster: &Cluster, patroni: &Patroni) -> Result<Vec<String>> {
    let dynamic = cluster.folder.join("dynamic.yml");
    fs::write(&dynamic, patroni.ctl(&["show-config"])?)?;
    let all = cluster.members.iter().enumerate();
    let all: Vec<String> = all
        .map(|(place, member)| format!("{}={}", name(place), member.host.address))
        .collect();
    let mut left = Vec::new();
    for (place, member) in cluster.members.iter().enumerate() {
        let output = member.folder.join("clusterd-config");
        let mut import = member.host.command(&programs::ours("clusterctl")?);
        import.arg("import-patroni").arg(patroni.file(place));
        import.arg("--dynamic").arg(&dynamic);
        import.args(["--members", &all.join(",")]);
        import.arg("--folder").arg(&output);
        let said = Host::run(import)?;
        ensure!(!said.contains(PASSWORD), "a password is shown: {said}");
        left.push(fs::read_to_string(output.join("not-carried-over.txt"))?);
    }
    Ok(left)
}

/// Step 2. The hosts of this test share one file system, so each has its own `/etc/clusterd`,
/// `/run/clusterd` and `/var/lib/clusterd`; nothing else of the file is changed.
fn put_files(member: &Member) -> Result<()> {
    let made = member.folder.join("clusterd-config");
    let place = member.folder.display();
    for entry in fs::read_dir(&made)? {
        let name = entry?.file_name();
        let text = fs::read_to_string(made.join(&name))?
            .replace("/etc/clusterd/", &format!("{place}/"))
            .replace("/run/clusterd/", &format!("{place}/"));
        let text = match name.to_str() {
            Some("clusterd.toml") => {
                let state = member.state_dir().display().to_string();
                text.replacen(
                    "\nname = ",
                    &format!("\nstate_dir = \"{state}\"\nname = "),
                    1,
                )
            }
            _ => text,
        };
        write_private(&member.folder.join(name), &text)?;
    }
    write_private(&member.folder.join("cluster-secret"), SECRET)?;
    write_private(&member.folder.join("admin-token"), TOKEN)?;
    let (is_good, said) = member.run_daemon(&["--check-config"])?;
    ensure!(is_good, "{}: {said}", member.name);
    Ok(())
}

/// Its unit: a guard that waits until there is something to guard.
fn start_guard(member: &Member) -> Result<Child> {
    let log = log_file(&member.folder.join("guard.log"))?;
    let mut guard = member.host.command(&programs::ours("clusterd-guard")?);
    guard.arg("--socket").arg(member.folder.join("guard.sock"));
    guard.arg("--data-dir").arg(member.data_dir());
    let record = member.state_dir().join("member.json");
    guard.arg("--member-record").arg(record);
    guard.args(["--user", "postgres"]).stderr(log);
    orphans::spawn(&mut guard).context("a guard")
}

/// Step 4: paused, Patroni leaves PostgreSQL running when it ends; the primary's last.
fn let_go(cluster: &Cluster, patroni: &mut Patroni, order: &[usize]) -> Result<()> {
    let before = postmasters(cluster)?;
    patroni.ctl(&["pause", "--wait"])?;
    for place in order {
        patroni.stop_on(*place)?;
    }
    let after = postmasters(cluster)?;
    ensure!(
        before == after,
        "PostgreSQL was restarted: {before:?} {after:?}"
    );
    Ok(())
}

fn postmasters(cluster: &Cluster) -> Result<Vec<i32>> {
    cluster.members.iter().map(Member::postmaster_pid).collect()
}

fn at_work(writers: &Writers) -> Result<()> {
    let since = clock();
    wait_until("writers at work", PATIENCE, || {
        let newest = writers.newest_after(since);
        newest.map(drop).ok_or_else(|| "no row since".to_owned())
    })
}

/// Data, a role, a switchover in its history, a setting changed since it was founded. The primary.
fn fill(cluster: &Cluster, patroni: &Patroni) -> Result<usize> {
    for sql in [
        "CREATE TABLE kept AS SELECT g AS number FROM generate_series(1, 200000) g",
        "CREATE ROLE app_reader LOGIN PASSWORD 'of-the-app'",
        "CREATE EXTENSION pg_stat_statements",
    ] {
        cluster.sql(0, sql)?;
    }
    let changed = "postgresql.parameters.work_mem=9MB";
    patroni.ctl(&["edit-config", "--force", "-q", "--set", changed])?;
    // Only the synchronous standby may be the next one.
    let next = wait_until("a synchronous standby", PATIENCE, || {
        let is_it = |place: &usize| {
            cluster
                .get(*place, "/sync")
                .is_ok_and(|it| it.status == 200)
        };
        (1..3).find(is_it).ok_or_else(|| cluster.seen())
    })?;
    let (from, to) = (name(0), name(next));
    let words = ["switchover", "--leader", &from, "--candidate", &to];
    let said = patroni.ctl(&[&words[..], &["--force"]].concat())?;
    ensure!(said.contains("Successfully switched over"), "{said}");
    cluster.wait_other_primary(0, PATIENCE)?;
    let primary = patroni.wait_streaming(cluster)?;
    for place in 0..cluster.members.len() {
        shows(cluster, place, "SHOW work_mem", "9MB")?;
        let member = &cluster.members[place];
        fs::write(member.data_dir().join(MARK), &member.name)?;
    }
    Ok(primary)
}

fn shows(cluster: &Cluster, place: usize, sql: &str, wanted: &str) -> Result<()> {
    wait_until(sql, PATIENCE, || match cluster.sql(place, sql) {
        Ok(found) if found == [wanted] => Ok(()),
        other => Err(format!("on member {place}: {other:?}")),
    })
}

/// What import said of the settings is in force, and what the server had besides.
fn has_everything(cluster: &Cluster, place: usize) -> Result<()> {
    let rule =
        "SELECT (count(*) > 0)::text FROM pg_hba_file_rules WHERE user_name = '{app_reader}'";
    for (sql, wanted) in [
        ("SELECT count(*)::text FROM kept", "200000"),
        ("SHOW work_mem", "9MB"),
        ("SHOW random_page_cost", "1.5"),
        ("SHOW max_connections", "87"),
        ("SHOW max_worker_processes", "9"),
        ("SHOW max_prepared_transactions", "5"),
        ("SHOW shared_preload_libraries", "pg_stat_statements"),
        ("SHOW wal_log_hints", "on"),
        (rule, "true"),
    ] {
        shows(cluster, place, sql, wanted)?;
    }
    Ok(())
}

#[test]
fn a_running_patroni_cluster_is_moved_over_by_the_documented_steps() -> Result<()> {
    let mut cluster = Wanted::new("patroni").make()?;
    let mut patroni = Patroni::start(&cluster, DYNAMIC, OWN)?;
    let primary = fill(&cluster, &patroni)?;
    let order: Vec<usize> = (0..3)
        .filter(|it| *it != primary)
        .chain([primary])
        .collect();
    let member = |place: usize| &cluster.members[place];
    cluster.sql(primary, writer::TABLE)?;
    let mut options = cluster.writer_options(2);
    // A login with a password takes its time in unoptimised builds.
    options.connect_limit = Duration::from_secs(2);
    let writers = cluster.writers(&options);
    at_work(&writers)?;
    let (theirs, servers) = (codes(&cluster)?, postmasters(&cluster)?);
    let places: Vec<_> = cluster
        .members
        .iter()
        .map(print_of)
        .collect::<Result<_>>()?;

    // 1, 2: files, while Patroni goes on.
    for left in make_configs(&cluster, &patroni)? {
        for word in [
            "archive_command (shared)",
            "postgresql.callbacks",
            "  slots:",
            "`..` is no absolute path",
        ] {
            ensure!(left.contains(word), "nothing about {word:?}: {left}");
        }
    }

    for member in &cluster.members {
        put_files(member)?;
    }
    // 3: look. Also at what Patroni would do while it still rules.
    for place in &order {
        let (is_possible, said) = member(*place).run_daemon(&["--take-over", "--dry-run"])?;

        ensure!(is_possible, "{}: {said}", member(*place).name);
        // An argument of the server's, in none of its files.
        ensure!(said.contains("max_worker_processes = '9'"), "{said}");
    }
    // 4, and its way back, and 4 again.
    let_go(&cluster, &mut patroni, &order)?;
    for place in 0..3 {
        patroni.start_on(place)?;
    }
    wait_until("Patroni answers again", PATIENCE, || {
        let answers = (0..3).map(|place| cluster.get(place, "/patroni"));
        answers
            .collect::<Result<Vec<_>>>()
            .map_err(|error| format!("{error:#}"))
    })?;
    patroni.ctl(&["resume", "--wait"])?;
    ensure!(
        patroni.wait_streaming(&cluster)? == primary,
        "another primary"
    );
    wait_until("Patroni's answers", PATIENCE, || {
        let now = codes(&cluster).map_err(|error| format!("{error:#}"))?;
        if now == theirs {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })?;
    let_go(&cluster, &mut patroni, &order)?;
    ensure!(
        postmasters(&cluster)? == servers,
        "PostgreSQL was restarted"
    );
    at_work(&writers)?;

    // 5: the standbys first, the primary last.
    let began = clock();
    let mut guards = Vec::new();
    for place in &order {
        guards.push(start_guard(&cluster.members[*place])?);
        cluster.members[*place].start_with(&["--take-over", "--yes"])?;
    }
    ensure!(cluster.wait_healthy(LONG)? == primary, "another primary");
    cluster.ctl(&["wait", "--healthy", "--timeout", "1min"])?;
    at_work(&writers)?;
    patroni.stop_etcd()?;
    at_work(&writers)?;
    let until = clock();
    let history = writers.stop();
    require_no_overlap(&history)?;

    let (told, outage) = (
        told_gap(&cluster.members[primary])?,
        history.outage(began, until),
    );
    let gaps = history.gaps(began, until, told.mul_f64(0.9));
    let rows = history.rows.len();
    let mut missing = 0;
    for place in 0..3 {
        missing += cluster.missing(place, &history)?.len();
    }
    eprintln!(
        "moved: rows={rows} missing={missing} outage_ms={} told_ms={} gaps={gaps:?}",
        outage.as_millis(),
        told.as_millis()
    );
    ensure!(missing == 0, "rows are lost");
    ensure!(gaps.len() == 1, "not one outage: {gaps:?}");
    ensure!(outage < MOST, "an outage of {outage:?}");

    // The very directories, started once by us; the cluster as it was told.
    for (place, before) in places.iter().enumerate() {
        let member = &cluster.members[place];
        ensure!(print_of(member)? == *before, "another directory");
        let log = fs::read_to_string(member.state_dir().join("postgres/postgresql.log"))?;
        let starts = log.matches("starting PostgreSQL").count();
        ensure!(starts == 1, "{} was started {starts} times", member.name);
        has_everything(&cluster, place)?;
    }
    wait_until("Patroni's answers, from us", PATIENCE, || {
        let ours = codes(&cluster).map_err(|error| format!("{error:#}"))?;
        let differ: Vec<_> = theirs
            .iter()
            .filter(|(at, code)| ours[*at] != **code)
            .collect();
        if differ.is_empty() {
            Ok(())
        } else {
            Err(format!("were {differ:?}"))
        }
    })?;
    // A setting that came along is one like any other.
    cluster.ctl(&["settings", "set", "parameters.work_mem=11MB", "--yes"])?;
    for place in 0..3 {
        shows(&cluster, place, "SHOW work_mem", "11MB")?;
    }
    // 7: Patroni's own slots go; a permanent one stays.
    let slots = "SELECT slot_name::text FROM pg_replication_slots \
                 WHERE slot_name NOT LIKE 'clusterd%' AND NOT active ORDER BY 1";
    let mut theirs: Vec<String> = order[..2].iter().map(|place| name(*place)).collect();
    theirs.sort();
    let mut found = cluster.sql(primary, slots)?;
    found.sort();
    ensure!(
        found == [&["of_reports".to_owned()], &theirs[..]].concat(),
        "other slots than Patroni's: {found:?}"
    );
    let drop_theirs = format!(
        "SELECT pg_drop_replication_slot(slot_name)::text FROM pg_replication_slots \
         WHERE slot_type = 'physical' AND NOT active AND slot_name IN ('{}')",
        theirs.join("', '")
    );
    cluster.sql(primary, &drop_theirs)?;
    for place in 0..3 {
        let wanted: &[&str] = if place == primary {
            &["of_reports"]
        } else {
            &[]
        };
        let found = cluster.sql(place, slots)?;
        ensure!(found == wanted, "slots on {place}: {found:?}");
    }
    cluster.ctl(&["switchover", "--to", "pg-1", "--yes"])?;
    ensure!(cluster.wait_healthy(LONG)? == 0, "another primary");
    ensure!(cluster.missing(0, &history)?.is_empty(), "rows are lost");
    for member in &mut cluster.members {
        member.terminate_daemon()?;
    }
    for guard in &mut guards {
        signal(i32::try_from(guard.id())?, Signal::SIGTERM)?;
        guard.wait()?;
    }
    drop(patroni);
    cluster.finish()
}
