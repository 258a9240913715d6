//! A PostgreSQL that ran before us: never killed by an ordinary start, looked at without a change,
//! refused with the cure, taken over with one restart, and given back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::host::{Host, log_file};
use cluster_tests::member::signal;
use cluster_tests::writer::{self, clock, require_no_overlap};
use cluster_tests::{Cluster, Member, PATIENCE, Wanted, orphans, programs, wait_until};
use nix::sys::signal::Signal;

/// A clone on a busy machine, beside everything else.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// A line of the old server's hba that only it knows.
const OWN_RULE: &str = "host all app_reader 192.0.2.0/24 scram-sha-256";

/// A server in the data directory of a member, started by hand.
pub(crate) struct Old {
    pub(crate) log: PathBuf,
    pub(crate) pid: i32,
}

impl Old {
    /// Makes it with `initdb` arguments and lines of configuration, and starts it.
    pub(crate) fn start(member: &Member, initdb: &[&str], configuration: &str) -> Result<Old> {
        let data = member.data_dir();
        let mut make = tool(member, "initdb");
        make.arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust"]);
        make.args(initdb);
        Host::run(make)?;
        let append = |name: &str, text: &str| -> Result<()> {
            let path = data.join(name);
            let all = fs::read_to_string(&path)? + text;
            fs::write(&path, all).context("write a configuration file")
        };
        let socket = member.volume().display().to_string();
        append(
            "postgresql.conf",
            &format!(
                "listen_addresses = '*'\nunix_socket_directories = '{socket}'\n\
                 dynamic_shared_memory_type = mmap\nwork_mem = 7MB\nmax_connections = 63\n\
                 autovacuum = off\ncheckpoint_timeout = 1h\n{configuration}\n"
            ),
        )?;
        append(
            "pg_hba.conf",
            &format!("host all,replication all all trust\n{OWN_RULE}\n"),
        )?;
        Old::start_again(member)
    }

    /// Starts what lies in the data directory, by hand.
    pub(crate) fn start_again(member: &Member) -> Result<Old> {
        let (data, log) = (member.data_dir(), member.volume().join("old.log"));
        let mut start = tool(member, "pg_ctl");
        start.arg("-D").arg(&data).arg("-l").arg(&log);
        start.args(["-w", "-o", "-c track_counts=off", "start"]);
        Host::run(start)?;
        Old::found(member)
    }

    /// The one that runs.
    pub(crate) fn found(member: &Member) -> Result<Old> {
        let log = member.volume().join("old.log");
        let pid = member.postmaster_pid()?;
        Ok(Old { log, pid })
    }

    pub(crate) fn starts(&self) -> Result<usize> {
        let text = fs::read_to_string(&self.log)?;
        Ok(text.matches("starting PostgreSQL").count())
    }
}

pub(crate) fn tool(member: &Member, name: &str) -> std::process::Command {
    member.host.command_as_postgres(&member.bin.join(name))
}

/// What people had on it: a table, a role, a slot.
pub(crate) fn fill(cluster: &Cluster) -> Result<()> {
    for sql in [
        "CREATE TABLE kept AS SELECT g AS number FROM generate_series(1, 1000) g",
        "CREATE ROLE app_reader LOGIN PASSWORD 'of-the-app'",
        "GRANT SELECT ON kept TO app_reader",
        "CREATE UNLOGGED TABLE scratch (x int)",
        "SELECT pg_create_physical_replication_slot('of_somebody', true)",
    ] {
        cluster.sql(0, sql)?;
    }
    Ok(())
}

/// All names, and the contents of the files on top, where configuration, signals and states are. (A
/// running server writes to its tables by itself: hint bits, statistics.)
pub(crate) fn print_of(folder: &Path) -> Result<String> {
    let mut find = std::process::Command::new("sh");
    find.args([
        "-c",
        "cd \"$0\" && find . -path ./pg_wal -prune -o -print | sort; \
         find . -maxdepth 1 -type f -print0 | sort -z | xargs -0r sha256sum",
    ]);
    find.arg(folder);
    Host::run(find)
}

/// The old server runs on as it did, and nothing of its directory changed.
pub(crate) fn is_untouched(member: &Member, old: &Old, before: &str) -> Result<()> {
    ensure!(
        member.postmaster_pid()? == old.pid,
        "the server was restarted"
    );
    ensure!(member.guard_pid().is_err(), "a guard was started");
    let after = print_of(&member.data_dir())?;
    ensure!(after == before, "it changed: {before} {after}");
    Ok(())
}

#[test]
fn a_strangers_server_is_never_touched_by_an_ordinary_start_or_a_dry_run() -> Result<()> {
    let mut cluster = Wanted::new("take-over-dry").make()?;
    let old = Old::start(&cluster.members[0], &["--data-checksums"], "")?;
    fill(&cluster)?;
    cluster.sql(0, "CHECKPOINT")?;
    let member = &cluster.members[0];
    // One look first: a new session may write caches of the catalogue.
    member.run_daemon(&["--take-over", "--dry-run"])?;
    let before = print_of(&member.data_dir())?;
    let (is_possible, said) = member.run_daemon(&["--take-over", "--dry-run"])?;
    for word in [
        "work_mem = '7168'",
        "max_connections = '63'",
        OWN_RULE,
        "of_somebody (physical, idle)",
        "app_reader",
        "listen_addresses (was '*')",
        "The gap, estimated",
        "s without writes; measured and shown when it is done",
        "two CHECKPOINTs right before the stop",
        "EMPTIED, as at every later start of a primary: postgres.public.scratch",
        "The way back",
        "standby.signal",
        "It can be taken over",
    ] {
        ensure!(said.contains(word), "nothing about {word:?}: {said}");
    }
    ensure!(is_possible, "refused: {said}");
    cluster.members[0].start()?;
    let code = cluster.members[0].wait_for_end(PATIENCE)?;
    let log = fs::read_to_string(cluster.members[0].log())?;
    ensure!(code != 0, "it started beside a stranger's server");
    ensure!(
        log.contains("--take-over --dry-run"),
        "no way out is said: {log}"
    );
    is_untouched(&cluster.members[0], &old, &before)?;
    ensure!(cluster.sql(0, "SELECT count(*)::text FROM kept")? == ["1000"]);
    cluster.expect_error("was never this cluster's");
    cluster.finish()
}

#[test]
fn what_cannot_be_taken_over_is_refused_all_at_once_with_the_cures() -> Result<()> {
    let cluster = Wanted::new("take-over-refused").make()?;
    let old = Old::start(
        &cluster.members[0],
        &[],
        "wal_level = minimal\nmax_wal_senders = 0",
    )?;
    cluster.sql(0, "ALTER SYSTEM SET recovery_target_xid = '99999'")?;
    let member = &cluster.members[0];
    let (is_possible, said) = member.run_daemon(&["--take-over", "--dry-run"])?;
    ensure!(!is_possible, "the exit code says yes: {said}");
    for word in [
        "wal_level = minimal: such a server cannot start in recovery",
        "ALTER SYSTEM SET wal_level = 'replica'",
        "neither data checksums nor wal_log_hints",
        "ALTER SYSTEM SET wal_log_hints = on",
        "recovery_target_xid = '99999'",
        "ALTER SYSTEM RESET recovery_target_xid",
    ] {
        ensure!(said.contains(word), "nothing about {word:?}: {said}");
    }
    let (is_done, said) = member.run_daemon(&["--take-over", "--yes"])?;
    ensure!(!is_done && said.contains("it is not taken over"), "{said}");
    ensure!(
        member.postmaster_pid()? == old.pid,
        "the server was restarted"
    );
    ensure!(member.guard_pid().is_err(), "a guard was started");
    cluster.finish()
}

/// Starts the old server on the first member, the daemons of the others, and takes it over.
fn take_over(cluster: &mut Cluster) -> Result<Old> {
    let old = Old::start(&cluster.members[0], &["--data-checksums"], "")?;
    fill(cluster)?;
    for other in &mut cluster.members[1..] {
        other.start()?;
    }
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    Ok(old)
}

/// The gap that the daemon measured, from its log.
pub(crate) fn told_gap(member: &Member) -> Result<Duration> {
    let text = fs::read_to_string(member.log())?;
    let line = text
        .lines()
        .find(|line| line.contains("taken over with one restart"))
        .context("the gap is not told")?;
    eprintln!("{line}");
    let (_, rest) = line.split_once("gap_ms=").context("gap_ms")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(Duration::from_millis(digits.parse()?))
}

#[test]
fn a_running_server_is_taken_over_with_one_measured_restart() -> Result<()> {
    let mut cluster = Wanted::new("take-over").make()?;
    let old = Old::start(&cluster.members[0], &["--data-checksums"], "")?;
    fill(&cluster)?;
    cluster.sql(0, writer::TABLE)?;
    let began = clock();
    let writers = cluster.writers(&cluster.writer_options(2));
    for other in &mut cluster.members[1..] {
        other.start()?;
    }
    wait_until("writers at work", PATIENCE, || match writers.count() {
        rows if rows >= 100 => Ok(()),
        rows => Err(format!("{rows} rows")),
    })?;
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    let primary = cluster.wait_healthy(LONG)?;
    ensure!(primary == 0, "{primary} is primary");
    let until = clock();
    wait_until("writers at work again", PATIENCE, || {
        let newest = writers.newest_after(until);
        newest.map(drop).ok_or_else(|| "no row since".to_owned())
    })?;
    let history = writers.stop();
    require_no_overlap(&history)?;
    ensure!(cluster.missing(0, &history)?.is_empty(), "rows are lost");
    let (gap, outage) = (told_gap(&cluster.members[0])?, history.outage(began, until));
    eprintln!("gap told {gap:?}, outage seen by writers {outage:?}");
    ensure!(
        outage + Duration::from_millis(300) > gap,
        "told more than was seen"
    );
    ensure!(
        outage < gap + Duration::from_secs(3),
        "told {gap:?}, seen {outage:?}"
    );
    // One restart: each of the two was started once, and the cluster is on its second timeline.
    let new = cluster.members[0]
        .state_dir()
        .join("postgres/postgresql.log");
    let new_starts = fs::read_to_string(new)?
        .matches("starting PostgreSQL")
        .count();
    ensure!(
        (old.starts()?, new_starts) == (1, 1),
        "started {new_starts} times"
    );
    let timeline = "SELECT timeline_id::text FROM pg_control_checkpoint()";
    cluster.sql(0, "CHECKPOINT")?;
    ensure!(cluster.sql(0, timeline)? == ["2"], "another timeline");
    for member in 0..3 {
        wait_for_everything(&cluster, member)?;
    }
    ensure!(
        cluster.sql(
            0,
            "SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'of_somebody'"
        )? == ["of_somebody"],
        "the slot is gone"
    );
    cluster.members[0].kill_host()?;
    let next = cluster.wait_other_primary(0, PATIENCE)?;
    wait_for_everything(&cluster, next)?;
    cluster.sql(next, "INSERT INTO kept VALUES (1001)")?;
    cluster.finish()
}

/// A gate that is open on disk may be a moment away from being open in the server.
pub(crate) fn wait_for_everything(cluster: &Cluster, member: usize) -> Result<()> {
    wait_until("all of the old server is there", PATIENCE, || {
        has_everything(cluster, member).map_err(|error| format!("{error:#}"))
    })
}

/// Rows, parameters, role and access rule of the old server.
pub(crate) fn has_everything(cluster: &Cluster, member: usize) -> Result<()> {
    let rule = "SELECT count(*)::text FROM pg_hba_file_rules WHERE user_name = '{app_reader}'";
    for (sql, wanted) in [
        ("SELECT count(*)::text FROM kept", "1000"),
        ("SHOW work_mem", "7MB"),
        ("SHOW max_connections", "63"),
        (
            "SELECT rolname FROM pg_roles WHERE rolname = 'app_reader'",
            "app_reader",
        ),
        (rule, "1"),
    ] {
        let found = cluster.sql(member, sql)?;
        ensure!(found == [wanted], "{sql} on member {member}: {found:?}");
    }
    Ok(())
}

#[test]
fn the_printed_way_back_leads_to_the_old_server_with_everything_written_since() -> Result<()> {
    let mut cluster = Wanted::new("take-over-back").make()?;
    take_over(&mut cluster)?;
    cluster.wait_healthy(LONG)?;
    cluster.sql(0, "INSERT INTO kept VALUES (1001)")?;
    for place in [1, 2, 0] {
        if place == 0 {
            let guard = cluster.members[0].guard_pid()?;
            cluster.members[0].terminate_daemon()?;
            signal(guard, Signal::SIGTERM)?;
        } else {
            cluster.members[place].kill_host()?;
        }
    }
    let member = &cluster.members[0];
    wait_until("no process is left", PATIENCE, || {
        match member.host.processes()[..] {
            [] => Ok(()),
            ref left => Err(format!("{left:?}")),
        }
    })?;
    let steps = fs::read_to_string(member.state_dir().join("taken-over/way-back.txt"))?;
    let commands = steps
        .lines()
        .skip_while(|line| !line.starts_with("# 2."))
        .filter(|line| !line.starts_with('#'));
    for line in commands {
        let mut shell = member.host.command(Path::new("sh"));
        shell.args(["-c", line]);
        Host::run(shell).with_context(|| line.to_owned())?;
    }
    for (sql, wanted) in [
        ("SELECT pg_is_in_recovery()::text", "false"),
        ("SELECT count(*)::text FROM kept", "1001"),
        ("SHOW work_mem", "7MB"),
        ("SHOW track_counts", "off"),
        ("SHOW wal_log_hints", "off"),
        ("SHOW cluster_name", ""),
        (
            "SELECT string_agg(slot_name, ',') FROM pg_replication_slots",
            "of_somebody",
        ),
    ] {
        let found = cluster.sql(0, sql)?;
        ensure!(found == [wanted], "{sql}: {found:?}");
    }
    cluster.finish()
}

#[test]
fn a_take_over_that_waits_for_the_group_can_be_ended_without_a_trace() -> Result<()> {
    let mut cluster = Wanted::new("take-over-waits").make()?;
    let old = Old::start(&cluster.members[0], &["--data-checksums"], "")?;
    fill(&cluster)?;
    cluster.sql(0, "CHECKPOINT")?;
    cluster.members[0].run_daemon(&["--take-over", "--dry-run"])?;
    let before = print_of(&cluster.members[0].data_dir())?;
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    let log = cluster.members[0].log();
    wait_until("it waits for the others", PATIENCE, || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        match said.contains("waiting for m2") {
            true => Ok(()),
            false => Err(said),
        }
    })?;
    ensure!(cluster.sql(0, "SELECT count(*)::text FROM kept")? == ["1000"]);
    cluster.members[0].terminate_daemon()?;
    is_untouched(&cluster.members[0], &old, &before)?;
    cluster.finish()
}

#[test]
fn a_guard_of_the_service_manager_waits_for_a_strangers_server_and_serves_after_it() -> Result<()> {
    let mut cluster = Wanted::new("take-over-unit").members(1, 0).make()?;
    let member = &cluster.members[0];
    let old = Old::start(member, &["--data-checksums"], "")?;
    let file = member.config_file();
    let text = fs::read_to_string(&file)? + "\n[guard]\nstarted_by = \"service\"\n";
    write_private(&file, &text)?;
    fill(&cluster)?;
    let log = member.folder.join("guard.log");
    let mut guard = member.host.command(&programs::ours("clusterd-guard")?);
    guard
        .arg("--socket")
        .arg(member.state_dir().join("guard.sock"));
    guard.arg("--data-dir").arg(member.data_dir());
    guard
        .arg("--member-record")
        .arg(member.state_dir().join("member.json"));
    guard.args(["--user", "postgres"]);
    let mut guard = orphans::spawn(guard.stderr(log_file(&log)?)).context("a guard")?;
    wait_until("the guard waits", PATIENCE, || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        match said.contains("it is left alone") {
            true => Ok(()),
            false => Err(said),
        }
    })?;
    ensure!(member.postmaster_pid()? == old.pid, "it was touched");
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    cluster.wait_primary(PATIENCE)?;
    wait_for_everything(&cluster, 0)?;
    ensure!(
        i64::from(cluster.members[0].guard_pid()?) == i64::from(guard.id()),
        "another guard serves"
    );
    cluster.members[0].terminate_daemon()?;
    signal(i32::try_from(guard.id())?, Signal::SIGTERM)?;
    guard.wait()?;
    cluster.finish()
}

#[test]
fn newer_majors_are_taken_over_too() -> Result<()> {
    for major in [16, 17, 18] {
        let wanted = Wanted::new(&format!("take-over-{major}")).members(1, 0);
        let mut cluster = wanted.major(major).make()?;
        take_over(&mut cluster)?;
        cluster.wait_primary(PATIENCE)?;
        wait_for_everything(&cluster, 0).with_context(|| format!("on {major}"))?;
        wait_until("the gap is told", PATIENCE, || {
            told_gap(&cluster.members[0]).map_err(|error| format!("{error:#}"))
        })?;
        cluster.finish()?;
    }
    Ok(())
}
