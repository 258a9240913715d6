//! What is refused: each with a clear message, and the directories are as they were.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::host::Host;
use cluster_tests::logs::tail;
use cluster_tests::member::fingerprint;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};

/// A change of the configuration, and what must be said about it.
const CONFIGS: &[(&str, &str, &str)] = &[
    ("preset = \"lan\"", "preset = ", "clusterd.toml"),
    (
        "preset = \"lan\"",
        "preset = \"lan\"\nsurprise = 1",
        "surprise",
    ),
    ("preset = \"lan\"", "preset = \"quick\"", "preset"),
    (
        "name = \"m1\"\nkind",
        "name = \"stranger\"\nkind",
        "stranger",
    ),
    ("cluster_secret = ", "# ", "security.cluster_secret"),
    (
        "data_dir = \"",
        "data_dir = \"relative",
        "postgres.data_dir",
    ),
];

#[test]
fn bad_configurations_are_refused_and_change_nothing() -> Result<()> {
    let mut cluster = Wanted::new("bad-config").make()?;
    let good = std::fs::read_to_string(cluster.members[0].config_file())?;
    let before = prints(&cluster)?;
    for (from, to, said) in CONFIGS {
        ensure!(good.contains(from), "the configuration has no {from:?}");
        write_private(
            &cluster.members[0].config_file(),
            &good.replacen(from, to, 1),
        )?;
        cluster.members[0].start()?;
        let code = cluster.members[0].wait_for_end(PATIENCE)?;
        let log = tail(&cluster.members[0].log(), 30);
        ensure!(code == 2 || code == 1, "{to}: ended with {code}");
        ensure!(log.contains(said), "{to}: nothing about {said}: {log}");
        std::fs::remove_file(cluster.members[0].log())?;
        ensure!(prints(&cluster)? == before, "{to}: a directory changed");
    }
    cluster.finish()
}

fn prints(cluster: &Cluster) -> Result<(String, String)> {
    let member = &cluster.members[0];
    Ok((
        fingerprint(&member.state_dir())?,
        fingerprint(&member.volume())?,
    ))
}

#[test]
fn member_with_another_secret_is_kept_out() -> Result<()> {
    let mut cluster = Wanted::new("bad-secret").make()?;
    let file = cluster.members[2].config_file();
    let text = std::fs::read_to_string(&file)?;
    let secret = cluster_tests::config::SECRET;
    write_private(
        &file,
        &text.replace(secret, "another-secret-of-the-tests-0123456789"),
    )?;
    cluster.start_all()?;
    cluster_tests::stays(
        "no cluster forms",
        Duration::from_secs(4),
        || match cluster.primaries()[..] {
            [] => Ok(()),
            ref some => Err(format!("{some:?}")),
        },
    )?;
    wait_until("a message about the secret", PATIENCE, || {
        let logs: Vec<String> = cluster
            .members
            .iter()
            .map(|member| tail(&member.log(), 50))
            .collect();
        let is_said = logs.iter().any(|log| log.contains("secret"));
        if is_said { Ok(()) } else { Err(logs.concat()) }
    })?;
    cluster.expect_error("secret");
    cluster.finish()
}

#[test]
fn port_in_use_is_said_and_changes_nothing() -> Result<()> {
    let mut cluster = Wanted::new("port-in-use").make()?;
    let before = prints(&cluster)?;
    let member = &cluster.members[0];
    let address = format!("{}:8008", member.host.address);
    let script = format!(
        "import socket,time; s=socket.create_server(({:?},8008)); time.sleep(60)",
        member.host.address
    );
    let mut squatter = member
        .host
        .command(std::path::Path::new("python3"))
        .args(["-c", &script])
        .spawn()?;
    wait_until("the port is taken", PATIENCE, || {
        let address = address.clone();
        let asked = async move { tokio::net::TcpStream::connect(address).await.map(drop) };
        cluster.run(asked).map_err(|error| error.to_string())
    })?;
    cluster.members[0].start()?;
    let code = cluster.members[0].wait_for_end(PATIENCE)?;
    let log = tail(&cluster.members[0].log(), 20);
    squatter.kill()?;
    squatter.wait()?;
    ensure!(code != 0, "it ended as if all were well");
    ensure!(log.contains("8008"), "nothing about the port: {log}");
    ensure!(prints(&cluster)? == before, "a directory changed");
    cluster.expect_error("8008");
    cluster.finish()
}

#[test]
fn changes_without_the_token_are_refused() -> Result<()> {
    let cluster = Wanted::new("no-token").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    for token in [None, Some("wrong-token-0123456789")] {
        let mut command = cluster.ctl_command(&["switchover", "--yes"])?;
        match token {
            None => command.env_remove("CLUSTERCTL_TOKEN"),
            Some(token) => command.env("CLUSTERCTL_TOKEN", token),
        };
        let answer = command.output().context("run clusterctl")?;
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(!answer.status.success(), "it was done: {said}");
        ensure!(said.contains("token"), "nothing about the token: {said}");
    }
    ensure!(
        cluster.wait_healthy(PATIENCE)? == primary,
        "the primary changed"
    );
    cluster.finish()
}

#[test]
fn requests_to_members_that_do_not_exist_or_are_not_there_change_nothing() -> Result<()> {
    let mut cluster = Wanted::new("no-such-member").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let epoch =
        |cluster: &Cluster| cluster.sql(primary, "SELECT timeline_id FROM pg_control_checkpoint()");
    let before = epoch(&cluster)?;
    let refused = |cluster: &Cluster, words: &[&str], said: &str| -> Result<()> {
        let answer = cluster.ctl_command(words)?.output()?;
        let talk = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(!answer.status.success(), "{words:?} was done: {talk}");
        ensure!(
            talk.contains(said),
            "{words:?}: nothing about {said}: {talk}"
        );
        Ok(())
    };
    for words in [
        &["switchover", "--to", "nobody", "--yes"][..],
        &["restart", "nobody", "--yes"],
        &["reinit", "nobody", "--yes"],
        &["members", "replace", "nobody", "--yes"],
    ] {
        refused(&cluster, words, "nobody")?;
    }
    // One that exists and is not there.
    let gone = (primary + 1) % 3;
    let name = cluster.members[gone].name.clone();
    cluster.members[gone].kill_host()?;
    let volume = cluster.members[gone].volume();
    let files = fingerprint(&volume)?;
    wait_until("its silence is noticed", PATIENCE, || {
        refused(&cluster, &["switchover", "--to", &name, "--yes"], &name)
            .map_err(|error| format!("{error:#}"))
    })?;
    ensure!(fingerprint(&volume)? == files, "its files changed");
    // A request made before the silence counted has fenced the writers; they are let in again.
    let after = wait_until("the primary serves as before", PATIENCE, || {
        match epoch(&cluster) {
            Ok(now) if cluster.primaries() == [primary] => Ok(now),
            Ok(_) => Err(cluster.seen()),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    ensure!(after == before, "there was a promotion");
    cluster.members[gone].start()?;
    ensure!(
        cluster.wait_healthy(PATIENCE)? == primary,
        "the primary changed"
    );
    cluster.finish()
}

/// A member comes back with the Raft store of another cluster, same names, same addresses, same
/// secret: as when a host was restored from the wrong image.
#[test]
fn member_with_the_store_of_another_cluster_is_refused_by_both_sides() -> Result<()> {
    let kept = tempfile::tempdir()?;
    let store = kept.path().join("raft");
    let copy = |from: &Path, to: &Path| {
        let mut copy = std::process::Command::new("cp");
        copy.arg("-a").arg(from).arg(to);
        Host::run(copy).map(drop)
    };
    let mut other = Wanted::new("other-cluster").start()?;
    other.members[2].kill_host()?;
    copy(&other.members[2].state_dir().join("raft"), &store)?;
    other.finish()?;
    let mut cluster = Wanted::new("this-cluster").start()?;
    // m3 must be a standby, so that the others go on without it.
    while cluster.wait_healthy(PATIENCE)? == 2 {
        cluster.ctl(&["switchover", "--to", "m1", "--yes"])?;
        cluster.wait_other_primary(2, PATIENCE)?;
    }
    let primary = cluster.wait_healthy(PATIENCE)?;
    cluster.members[2].kill_host()?;
    let raft = cluster.members[2].state_dir().join("raft");
    std::fs::remove_dir_all(&raft)?;
    copy(&store, &raft)?;
    let member = cluster.members[2].state_dir().join("member.json");
    let files = |cluster: &Cluster| -> Result<(String, String)> {
        let data = fingerprint(&cluster.members[2].data_dir())?;
        Ok((data, std::fs::read_to_string(&member)?))
    };
    let (before, history) = (files(&cluster)?, cluster.get(primary, "/history")?.body);
    cluster.members[2].start()?;
    wait_until("both sides say why", PATIENCE, || {
        let silent: Vec<String> = [primary, 2]
            .into_iter()
            .map(|place| tail(&cluster.members[place].log(), 200))
            .filter(|log| !log.contains("raft-refused") || !log.contains("of cluster"))
            .collect();
        match silent.is_empty() {
            true => Ok(()),
            false => Err(silent.concat()),
        }
    })?;
    cluster_tests::stays(
        "the cluster goes on as it was",
        Duration::from_secs(5),
        || {
            let is_same = cluster.primaries() == [primary]
                && cluster
                    .get(primary, "/history")
                    .is_ok_and(|answer| answer.body == history);
            if is_same { Ok(()) } else { Err(cluster.seen()) }
        },
    )?;
    ensure!(files(&cluster)? == before, "the stranger's files changed");
    let ready = cluster.get(2, "/readiness")?.status;
    ensure!(ready != 200, "it says that it is ready: {ready}");
    cluster.finish()
}

/// Data that another major version made, before the first start and in place of a member's own.
#[test]
fn data_directory_of_another_major_is_refused_and_left_alone() -> Result<()> {
    let mut cluster = Wanted::new("other-major").make()?;
    let foreign = cluster_tests::programs::postgres_bin(Some(16))?;
    let initdb = |cluster: &Cluster| {
        let member = &cluster.members[1];
        let mut make = member.host.command_as_postgres(&foreign.join("initdb"));
        make.args(["-N", "-A", "trust", "-D"])
            .arg(member.data_dir());
        Host::run(make).map(drop)
    };
    let sentence = "it is of major version 16, the programs are of 15";
    initdb(&cluster)?;
    let before = fingerprint(&cluster.members[1].volume())?;
    cluster.expect_error("the data directory cannot be used");
    cluster.start_all()?;
    wait_until("a message about the version", PATIENCE, || {
        let log = tail(&cluster.members[1].log(), 50);
        if log.contains(sentence) {
            Ok(())
        } else {
            Err(log)
        }
    })?;
    cluster_tests::stays(
        "no cluster forms",
        Duration::from_secs(3),
        || match cluster.primaries()[..] {
            [] => Ok(()),
            ref some => Err(format!("{some:?}")),
        },
    )?;
    ensure!(
        fingerprint(&cluster.members[1].volume())? == before,
        "the directory changed"
    );
    // Moved aside, the cluster forms; then it comes back in place of the member's own.
    cluster.members[1].wipe_disk()?;
    cluster.members[1].start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    if primary == 1 {
        cluster.ctl(&["switchover", "--yes"])?;
        cluster.wait_other_primary(1, PATIENCE)?;
        cluster.wait_healthy(PATIENCE)?;
    }
    cluster.members[1].kill_host()?;
    std::fs::remove_dir_all(cluster.members[1].data_dir())?;
    initdb(&cluster)?;
    let before = fingerprint(&cluster.members[1].volume())?;
    cluster.members[1].start()?;
    wait_until("status says why", PATIENCE, || {
        match cluster.ctl(&["status"]) {
            Ok(said) if said.contains(sentence) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    ensure!(
        fingerprint(&cluster.members[1].volume())? == before,
        "the directory changed"
    );
    cluster.wait_streaming(1, PATIENCE)?;
    cluster.finish()
}
