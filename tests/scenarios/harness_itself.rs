//! The harness breaks what it says it breaks, and leaves nothing behind.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::host::Host;
use cluster_tests::reaper::cgroup_root;
use cluster_tests::writer::{TABLE, clock};
use cluster_tests::{Cut, PATIENCE, Wanted, wait_until};

fn reaches(from: &Host, to: &Host) -> bool {
    let script = format!("timeout 0.5 bash -c 'exec 3<>/dev/tcp/{}/7'", to.address);
    let mut command = from.command(Path::new("sh"));
    command.args(["-c", &script]);
    // Refused by the other side is reached; silence is not. `timeout` ends with 124 then.
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.code() != Some(124))
}

#[test]
fn cut_hosts_are_silent_and_healed_hosts_answer() -> Result<()> {
    let cluster = Wanted::new("cuts").make()?;
    let [first, second, third] = &cluster.members[..] else {
        panic!("three members")
    };
    assert!(reaches(&first.host, &second.host));
    cluster.isolate(0)?;
    assert!(!reaches(&first.host, &second.host));
    assert!(!reaches(&third.host, &first.host));
    assert!(
        reaches(&cluster.clients, &first.host),
        "clients still reach an isolated member"
    );
    first.heal()?;
    assert!(reaches(&first.host, &second.host));
    first.cut(&Cut::Port(7))?;
    assert!(!reaches(&first.host, &second.host));
    first.heal()?;
    first.cut(&Cut::All)?;
    assert!(!reaches(&cluster.clients, &first.host));
    cluster.finish()
}

#[test]
fn killed_host_has_no_process_and_frozen_host_stands_still() -> Result<()> {
    let cluster = Wanted::new("hosts").make()?;
    let host = &cluster.members[0].host;
    let file = cluster.folder.join("ticks");
    let script = format!("while :; do echo x >>{}; sleep 0.02; done", file.display());
    let mut child = host
        .command(Path::new("sh"))
        .args(["-c", &script])
        .spawn()?;
    let ticks = || std::fs::metadata(&file).map_or(0, |entry| entry.len());
    wait_until("ticks", Duration::from_secs(5), || {
        if ticks() > 2 {
            Ok(())
        } else {
            Err("none".into())
        }
    })?;
    host.freeze()?;
    let before = ticks();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(before, ticks(), "a frozen host does nothing");
    host.thaw()?;
    wait_until("ticks again", Duration::from_secs(5), || {
        if ticks() > before {
            Ok(())
        } else {
            Err("none".into())
        }
    })?;
    host.kill_all()?;
    child.wait()?;
    assert!(host.processes().is_empty());
    cluster.finish()
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let cluster = Wanted::new("gone").make()?;
    let (folder, space) = (cluster.folder.clone(), cluster.clients.namespace.clone());
    let group = cluster.members[0].host.group.clone();
    let mut child = cluster.members[0]
        .host
        .command(Path::new("sleep"))
        .arg("600")
        .spawn()?;
    wait_until("the process is on its host", Duration::from_secs(5), || {
        if cluster.members[0].host.processes().is_empty() {
            Err("no".into())
        } else {
            Ok(())
        }
    })?;
    cluster.finish()?;
    child.wait()?;
    assert!(!folder.exists() && !group.exists());
    assert!(
        !Path::new("/run/netns")
            .join(space.unwrap_or_default())
            .exists()
    );
    assert!(cgroup_root()?.exists());
    Ok(())
}

/// A server without any manager: what the writers report of it must be plain truth.
#[test]
fn writers_measure_the_outage_of_a_plain_server_and_lose_nothing() -> Result<()> {
    let cluster = Wanted::new("plain").members(1, 0).make()?;
    let member = &cluster.members[0];
    let run = |program: &str, arguments: &str| {
        let mut command = member.host.command_as_postgres(Path::new("sh"));
        let program = member.bin.join(program);
        command.args(["-c", &format!("exec {} {arguments}", program.display())]);
        Host::run(command)
    };
    let (data, folder) = (member.data_dir(), member.volume());
    let (data, folder) = (data.display(), folder.display());
    run(
        "initdb",
        &format!("-D {data} -A trust -U postgres -N --locale=C.UTF-8 >/dev/null"),
    )?;
    std::fs::write(
        member.data_dir().join("pg_hba.conf"),
        "host all all 0.0.0.0/0 trust\n",
    )?;
    let options = format!("-c listen_addresses=* -c unix_socket_directories={folder}");
    let log = member.state_dir().join("server.log");
    let start = format!(
        "-D {data} -w -o \"{options}\" -l {} start >/dev/null",
        log.display()
    );
    run("pg_ctl", &start)?;
    cluster.sql(0, TABLE)?;
    let following = cluster.writers(&cluster.writer_options(2));
    let faithful = cluster.faithful_writers(0, 1);
    let busy = |what: &str, since| {
        wait_until(what, PATIENCE, || {
            following
                .newest_after(since)
                .map(drop)
                .ok_or_else(|| "no row".to_owned())
        })
    };
    busy("rows", clock())?;
    let from = clock();
    member.kill_postmaster()?;
    wait_until("no process of PostgreSQL", PATIENCE, || {
        if member.host.processes().is_empty() {
            Ok(())
        } else {
            Err("some".to_owned())
        }
    })?;
    std::thread::sleep(Duration::from_millis(700));
    run("pg_ctl", &start)?;
    busy("rows again", clock())?;
    let to = clock();
    let mut history = following.stop();
    let outage = history.outage(from, to);
    ensure!(
        outage > Duration::from_millis(700) && outage < to - from,
        "{outage:?}"
    );
    history.merge(faithful.stop());
    ensure!(
        cluster.missing(0, &history)?.is_empty(),
        "a plain server lost rows"
    );
    ensure!(history.timelines().len() == 1 && history.overlap().0.is_zero());
    // And rows that are gone are seen to be gone.
    cluster.sql(0, "DELETE FROM written WHERE number <= 3")?;
    ensure!(
        cluster.missing(0, &history)?.len() >= 3,
        "missing rows were not seen"
    );
    cluster.finish()
}
