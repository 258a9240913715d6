//! Standbys that an old primary has already: taken over with their data, after it; refused when they
//! are none of it, or when nothing shows that they still are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::host::Host;
use cluster_tests::member::signal;
use cluster_tests::writer::{self, clock, require_no_overlap};
use cluster_tests::{Cluster, Member, PATIENCE, Wanted, wait_until};
use nix::sys::signal::Signal;

use crate::takeover::{
    LONG, Old, fill, has_everything, is_untouched, print_of, told_gap, tool, wait_for_everything,
};

/// A file in a standby's directory that no copy of the primary's has.
const MARK: &str = "only-here";

/// Copies the old primary of one member to another, with more arguments, and starts it as its standby.
fn standby_of(cluster: &Cluster, from: usize, place: usize, more: &[String]) -> Result<Old> {
    let member = &cluster.members[place];
    let mut copy = tool(member, "pg_basebackup");
    copy.args(["-h", &cluster.members[from].host.address, "-U", "postgres"]);
    copy.arg("-D").arg(member.data_dir());
    copy.args(["-c", "fast", "-X", "stream", "-R", "-C", "-S", "old_slot"]);
    copy.args(more);
    Host::run(copy)?;
    // Its socket would lie beside the old primary's.
    let config = member.data_dir().join("postgresql.conf");
    let socket = member.volume().display().to_string();
    let text = fs::read_to_string(&config)? + &format!("unix_socket_directories = '{socket}'\n");
    fs::write(&config, text)?;
    fs::write(member.data_dir().join(MARK), "kept")?;
    let old = Old::start_again(member)?;
    streams(cluster, place)?;
    Ok(old)
}

fn ctl(member: &Member, words: &[&str]) -> Result<()> {
    let mut command = tool(member, "pg_ctl");
    command.arg("-D").arg(member.data_dir()).args(words);
    Host::run(command).map(drop)
}

fn streams(cluster: &Cluster, place: usize) -> Result<()> {
    wait_until("the old standby streams", PATIENCE, || {
        let found = cluster.sql(place, "SELECT status FROM pg_stat_wal_receiver");
        match found.as_deref() {
            Ok([status]) if status == "streaming" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// The old primary on the first member, its standby on the second, nothing on the third.
fn old_pair(cluster: &Cluster) -> Result<(Old, Old)> {
    let primary = Old::start(&cluster.members[0], &["--data-checksums"], "")?;
    fill(cluster)?;
    let standby = standby_of(cluster, 0, 1, &[])?;
    Ok((primary, standby))
}

fn says(member: &Member, word: &str) -> Result<()> {
    let log = member.log();
    wait_until(word, PATIENCE, || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        match said.contains(word) {
            true => Ok(()),
            false => Err(said),
        }
    })
}

#[test]
fn an_old_standby_is_taken_over_with_its_data_after_its_primary() -> Result<()> {
    let mut cluster = Wanted::new("take-over-standby").make()?;
    let (_primary, standby) = old_pair(&cluster)?;
    let member = &cluster.members[1];
    let (is_possible, said) = member.run_daemon(&["--take-over", "--dry-run"])?;
    for word in [
        "a standby: streams from ",
        "primary_conninfo (was not shown)",
        "primary_slot_name (was 'old_slot')",
        "it follows the cluster's primary",
        "It can be taken over, before its primary is",
    ] {
        ensure!(said.contains(word), "nothing about {word:?}: {said}");
    }
    ensure!(is_possible, "refused: {said}");
    let (_, said) = cluster.members[0].run_daemon(&["--take-over", "--dry-run"])?;
    for word in [
        "on a member's host it is taken over",
        "slot `old_slot` stays",
    ] {
        ensure!(said.contains(word), "nothing about {word:?}: {said}");
    }
    let data = member.data_dir();
    let before = data.metadata()?.ino();

    cluster.sql(0, writer::TABLE)?;
    let began = clock();
    let writers = cluster.writers(&cluster.writer_options(2));
    cluster.members[2].start()?;
    cluster.members[1].start_with(&["--take-over", "--yes"])?;
    says(&cluster.members[1], "waiting for m1")?;
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
    let (gap, outage) = (told_gap(&cluster.members[0])?, history.outage(began, until));
    let gaps = history.gaps(began, until, gap.mul_f64(0.6));
    eprintln!("gap told {gap:?}, outage {outage:?}, gaps of that size {gaps:?}");
    ensure!(gaps.len() == 1, "not one gap: {gaps:?}");

    // The very directory, never copied: started once by them and once by us.
    ensure!(data.metadata()?.ino() == before, "another directory");
    ensure!(
        fs::read_to_string(data.join(MARK))? == "kept",
        "another copy"
    );
    let ours = cluster.members[1].state_dir();
    let new = fs::read_to_string(ours.join("postgres/postgresql.log"))?;
    let new_starts = new.matches("starting PostgreSQL").count();
    ensure!(
        (standby.starts()?, new_starts) == (1, 1),
        "started {new_starts} times"
    );
    for member in 0..3 {
        wait_for_everything(&cluster, member)?;
        wait_until("every row", PATIENCE, || {
            match cluster.missing(member, &history) {
                Ok(rows) if rows.is_empty() => Ok(()),
                other => Err(format!("{member}: {other:?}")),
            }
        })?;
    }
    // A member like any other.
    cluster.ctl(&["switchover", "--to", "m2", "--yes"])?;
    ensure!(cluster.wait_healthy(LONG)? == 1, "another primary");
    ensure!(cluster.missing(1, &history)?.is_empty(), "rows are lost");
    has_everything(&cluster, 1)?;
    cluster.finish()
}

/// All members of a scenario share one file system, so the standby has its tablespace elsewhere; and a
/// clone, which needs the same path, is not made here.
#[test]
fn an_old_pair_with_a_tablespace_is_taken_over_beside_a_witness() -> Result<()> {
    let mut cluster = Wanted::new("take-over-space").members(2, 1).make()?;
    Old::start(&cluster.members[0], &["--data-checksums"], "")?;
    fill(&cluster)?;
    let spaces = [0, 1].map(|place: usize| cluster.members[place].volume().join("space"));
    for (place, space) in spaces.iter().enumerate() {
        let host = &cluster.members[place].host;
        let mut make = host.command_as_postgres(Path::new("mkdir"));
        make.arg(space);
        Host::run(make)?;
    }
    let [of_primary, of_standby] = spaces.map(|space| space.display().to_string());
    cluster.sql(
        0,
        &format!("CREATE TABLESPACE fast LOCATION '{of_primary}'"),
    )?;
    cluster.sql(0, "CREATE TABLE far TABLESPACE fast AS SELECT 1 AS x")?;
    let mapping = ["-T".to_owned(), format!("{of_primary}={of_standby}")];
    standby_of(&cluster, 0, 1, &mapping)?;
    let (_, said) = cluster.members[1].run_daemon(&["--take-over", "--dry-run"])?;
    ensure!(said.contains(&format!("fast at {of_standby}")), "{said}");
    cluster.members[2].start()?;
    cluster.members[1].start_with(&["--take-over", "--yes"])?;
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    ensure!(cluster.wait_healthy(LONG)? == 0, "another primary");
    cluster.sql(0, "INSERT INTO far VALUES (2)")?;
    cluster.ctl(&["switchover", "--to", "m2", "--yes"])?;
    ensure!(cluster.wait_healthy(LONG)? == 1, "another primary");
    for member in [0, 1] {
        wait_for_everything(&cluster, member)?;
        ensure!(cluster.sql(member, "SELECT count(*)::text FROM far")? == ["2"]);
    }
    cluster.finish()
}

#[test]
fn the_printed_way_back_of_a_standby_leads_to_the_old_one() -> Result<()> {
    let mut cluster = Wanted::new("take-over-standby-back").members(2, 1).make()?;
    old_pair(&cluster)?;
    let wanted = cluster.sql(1, "SHOW primary_conninfo")?;
    cluster.members[2].start()?;
    cluster.members[1].start_with(&["--take-over", "--yes"])?;
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    cluster.wait_healthy(LONG)?;
    let guard = cluster.members[1].guard_pid()?;
    cluster.members[1].terminate_daemon()?;
    signal(guard, Signal::SIGTERM)?;
    let member = &cluster.members[1];
    wait_until("no process is left", PATIENCE, || {
        match member.host.processes()[..] {
            [] => Ok(()),
            ref left => Err(format!("{left:?}")),
        }
    })?;
    let steps = fs::read_to_string(member.state_dir().join("taken-over/way-back.txt"))?;
    for line in steps.lines().skip_while(|line| !line.starts_with("# 2.")) {
        if !line.starts_with('#') {
            let mut shell = member.host.command(Path::new("sh"));
            shell.args(["-c", line]);
            Host::run(shell)?;
        }
    }
    // The primary lets its old standby in still, because the rule for it was imported.
    streams(&cluster, 1)?;
    ensure!(cluster.sql(1, "SHOW primary_conninfo")? == wanted);
    ensure!(cluster.sql(1, "SHOW cluster_name")? == [""]);
    cluster.finish()
}

#[test]
fn a_standby_of_another_database_is_refused_and_nothing_is_touched() -> Result<()> {
    let mut cluster = Wanted::new("take-over-stranger").make()?;
    let primary = Old::start(&cluster.members[0], &["--data-checksums"], "")?;
    fill(&cluster)?;
    Old::start(&cluster.members[2], &["--data-checksums"], "")?;
    let standby = standby_of(&cluster, 2, 1, &[])?;
    // The member on the stranger's host has its own, empty place.
    let file = cluster.members[2].config_file();
    let theirs = cluster.members[2].data_dir().display().to_string();
    let text = fs::read_to_string(&file)?
        .replace(&theirs, &format!("{theirs}-of-the-member"))
        .replace("port = 5432", "port = 5433");
    write_private(&file, &text)?;
    for place in [0, 1] {
        let (is_possible, said) =
            cluster.members[place].run_daemon(&["--take-over", "--dry-run"])?;
        ensure!(is_possible, "alone each of them is in order: {said}");
    }
    let before = [0, 1].map(|place: usize| print_of(&cluster.members[place].data_dir()));
    let [Ok(of_primary), Ok(of_standby)] = before else {
        bail!("{before:?}");
    };
    cluster.members[2].start()?;
    cluster.members[1].start_with(&["--take-over", "--yes"])?;
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    for place in [0, 1] {
        says(
            &cluster.members[place],
            "is no standby of the database that m1 brings",
        )?;
    }
    for place in [0, 1] {
        cluster.members[place].terminate_daemon()?;
    }
    is_untouched(&cluster.members[0], &primary, &of_primary)?;
    is_untouched(&cluster.members[1], &standby, &of_standby)?;
    cluster.finish()
}

#[test]
fn an_old_standby_that_has_followed_the_new_primary_by_itself_keeps_its_data() -> Result<()> {
    let mut cluster = Wanted::new("take-over-followed").make()?;
    let (_primary, standby) = old_pair(&cluster)?;
    let before = cluster.members[1].data_dir().metadata()?.ino();
    cluster.members[2].start()?;
    cluster.members[1].start_with(&["--take-over", "--yes"])?;
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    says(&cluster.members[1], "goes on as it is until its primary")?;
    cluster.members[1].stop_daemon()?;
    wait_until("it follows", LONG, || {
        let found = cluster.sql(1, "SELECT received_tli::text FROM pg_stat_wal_receiver");
        match found.as_deref() {
            Ok([timeline]) if timeline == "2" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    ensure!(
        cluster.members[1].postmaster_pid()? == standby.pid,
        "it was taken over before"
    );
    cluster.sql(0, "INSERT INTO kept VALUES (1001)")?;
    cluster.members[1].continue_daemon()?;
    ensure!(cluster.wait_healthy(LONG)? == 0, "another primary");
    let data = cluster.members[1].data_dir();
    ensure!(data.metadata()?.ino() == before, "another directory");
    ensure!(fs::read_to_string(data.join(MARK))? == "kept");
    ensure!(cluster.sql(1, "SELECT count(*)::text FROM kept")? == ["1001"]);
    cluster.finish()
}

/// The worst of what may happen while it waits: the timeline it gets is the one that the cluster's
/// first primary gets, too.
#[test]
fn a_standby_that_somebody_promotes_while_it_waits_is_left_alone() -> Result<()> {
    let mut cluster = Wanted::new("take-over-promoted").make()?;
    let (_primary, standby) = old_pair(&cluster)?;
    cluster.members[2].start()?;
    cluster.members[1].start_with(&["--take-over", "--yes"])?;
    says(&cluster.members[1], "waiting for m1")?;
    ctl(&cluster.members[1], &["-w", "promote"])?;
    cluster.sql(1, "INSERT INTO kept VALUES (-1)")?;
    cluster.members[0].start_with(&["--take-over", "--yes"])?;
    let code = cluster.members[1].wait_for_end(PATIENCE)?;
    ensure!(code != 0, "it went on");
    says(&cluster.members[1], "somebody has promoted it")?;
    cluster.expect_error("somebody has promoted it");
    ensure!(cluster.wait_streaming(1, LONG)? == 0, "another primary");
    let member = &cluster.members[1];
    ensure!(member.postmaster_pid()? == standby.pid, "it was restarted");
    ensure!(member.guard_pid().is_err(), "a guard was started");
    for (place, rows) in [(0, "1000"), (1, "1001")] {
        ensure!(cluster.sql(place, "SELECT count(*)::text FROM kept")? == [rows]);
    }
    cluster.finish()
}

#[test]
fn a_standby_that_was_run_out_of_recovery_is_refused_because_it_cannot_stream() -> Result<()> {
    let mut cluster = Wanted::new("take-over-strayed").make()?;
    old_pair(&cluster)?;
    let member = &cluster.members[1];
    let file = member.data_dir().join("standby.signal");
    ctl(member, &["-m", "fast", "stop"])?;
    // Somebody takes the file away for a moment: the same timeline, and other WAL on it.
    fs::rename(&file, member.volume().join("signal"))?;
    ctl(member, &["-w", "-l", "/dev/null", "start"])?;
    cluster.sql(1, "INSERT INTO kept VALUES (-1)")?;
    cluster.sql(0, "INSERT INTO kept SELECT generate_series(1001, 2000)")?;
    ctl(member, &["-m", "fast", "stop"])?;
    fs::rename(member.volume().join("signal"), &file)?;
    let old = Old::start_again(member)?;
    // One look first: a new session may write caches of the catalogue.
    cluster.members[1].run_daemon(&["--take-over", "--dry-run"])?;
    let before = print_of(&cluster.members[1].data_dir())?;
    // It may stream for a moment, until it reads what does not fit; never for good.
    wait_until("it is refused", PATIENCE, || {
        let member = &mut cluster.members[1];
        let ended = member
            .start_with(&["--take-over", "--yes"])
            .and_then(|()| member.wait_for_end(Duration::from_secs(10)));
        let said = fs::read_to_string(member.log()).unwrap_or_default();
        match ended {
            Ok(code) if code != 0 && said.contains("it does not stream") => Ok(()),
            Ok(_) => Err(said),
            Err(_) => Err(format!("{:?}", member.terminate_daemon())),
        }
    })?;
    let member = &cluster.members[1];
    is_untouched(member, &old, &before)?;
    cluster.expect_error("it is not taken over");
    cluster.finish()
}
