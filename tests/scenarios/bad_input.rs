//! What is refused: each with a clear message, and the directories are as they were.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
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
    let folder = &cluster.members[0].folder;
    Ok((
        fingerprint(&folder.join("state"))?,
        fingerprint(&folder.join("data"))?,
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
    let unknown = cluster.ctl(&["switchover", "--to", "nobody", "--yes"]);
    ensure!(format!("{unknown:?}").contains("nobody"), "{unknown:?}");
    ensure!(
        cluster.wait_healthy(PATIENCE)? == primary,
        "the primary changed"
    );
    cluster.finish()
}
