//! What the cluster tells of itself: events that nobody misses or sees twice, why a member is what it is,
//! and one file with everything but secrets.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use cluster_tests::config::{PASSWORD, SECRET, TOKEN};
use cluster_tests::host::Host;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};
use serde_json::Value;

/// `clusterctl events --follow`, read line by line.
struct Follower {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Follower {
    /// Asks the members in this order.
    fn start(cluster: &Cluster, order: &[usize]) -> Result<Self> {
        let mut command = cluster.ctl_command(&["events", "--follow", "-n", "0", "-o", "json"])?;
        let places: Vec<String> = order.iter().map(|it| cluster.members[*it].grpc()).collect();
        command.env("CLUSTERCTL_ENDPOINTS", places.join(","));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                seen.lock().expect("not poisoned").push(event);
            }
        });
        Ok(Self { child, events })
    }

    fn events(&self) -> Vec<Value> {
        self.events.lock().expect("not poisoned").clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Ended with the cluster in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn indexes(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|it| it["index"].as_u64().unwrap_or(0))
        .collect()
}

#[test]
fn events_are_followed_over_a_lost_member_without_gap_or_twin() -> Result<()> {
    let mut cluster = Wanted::new("events").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let others: Vec<usize> = (0..3).filter(|it| *it != primary).collect();
    // One follows the primary until that is lost, the other a member that stays.
    let moved = Follower::start(&cluster, &[primary, others[0], others[1]])?;
    let stayed = Follower::start(&cluster, &[others[0]])?;
    wait_until("both have begun", PATIENCE, || {
        match (moved.events().len(), stayed.events().len()) {
            (one, other) if one > 0 && other > 0 => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    cluster.members[primary].kill_host()?;
    cluster.wait_other_primary(primary, PATIENCE)?;
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.ctl(&["pause", "--yes", "--reason", "the end"])?;
    let has_ended = |it: &Follower| {
        let events = it.events();
        events.last().is_some_and(|it| it["what"] == "paused")
    };
    wait_until("both have seen the end", PATIENCE, || {
        match has_ended(&moved) && has_ended(&stayed) {
            true => Ok(()),
            false => Err(format!(
                "{:?}, {:?}",
                moved.events().last(),
                stayed.events().last()
            )),
        }
    })?;
    let history = cluster.ctl(&["history", "-o", "json"])?;
    let history: Vec<Value> = serde_json::from_str(&history)?;
    let wanted = indexes(&history);
    ensure!(
        wanted.windows(2).all(|it| it[0] < it[1]),
        "one event an entry: {wanted:?}"
    );
    for follower in [&moved, &stayed] {
        let seen = indexes(&follower.events());
        ensure!(seen == wanted, "{seen:?} instead of {wanted:?}");
    }
    let last = moved.events().pop().context("there are some")?;
    ensure!(
        last["who"]
            .as_str()
            .is_some_and(|it| it.ends_with(": the end")),
        "{last}"
    );
    cluster.ctl(&["resume"])?;
    cluster.finish()
}

#[test]
fn a_member_explains_why_it_is_not_promotable_and_not_in_sync() -> Result<()> {
    let mut cluster = Wanted::new("explain").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let place = (primary + 1) % 3;
    let standby = cluster.members[place].name.clone();
    let primary_name = cluster.members[primary].name.clone();
    let says = |cluster: &Cluster, member: &str, wanted: &[&str]| {
        wait_until(&format!("{member}: {wanted:?}"), PATIENCE, || {
            let said = cluster
                .ctl(&["explain", member])
                .map_err(|it| format!("{it:#}"))?;
            match wanted.iter().all(|it| said.contains(it)) {
                true => Ok(()),
                false => Err(said),
            }
        })
    };
    says(&cluster, &primary_name, &["is the primary of epoch"])?;
    says(
        &cluster,
        &standby,
        &["could be promoted", "(candidate)", "(confirms)"],
    )?;
    let unknown = cluster.ctl(&["explain", "m9"]);
    let why = unknown
        .err()
        .map(|it| format!("{it:#}"))
        .unwrap_or_default();
    ensure!(
        why.contains("there is no member m9 (there are: m1, m2, m3)"),
        "{why}"
    );
    let set = [
        "settings",
        "set",
        "--member",
        &standby,
        "nosync=true",
        "--yes",
    ];
    cluster.ctl(&set)?;
    says(
        &cluster,
        &standby,
        &["does not confirm commits: ", "nosync"],
    )?;
    cluster.members[place].kill_host()?;
    says(
        &cluster,
        &standby,
        &["(not-heard)", "could not be promoted: is not heard"],
    )?;
    cluster.members[place].start()?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}

/// Everything in a bundle, as one text.
fn unpacked(file: &Path, into: &Path) -> Result<String> {
    std::fs::create_dir(into)?;
    let mut tar = Command::new("tar");
    tar.arg("--zstd").arg("-xf").arg(file).arg("-C").arg(into);
    Host::run(tar)?;
    let mut list = Command::new("sh");
    list.args([
        "-c",
        "cd \"$0\" && find . -type f | sort && find . -type f -exec cat {} +",
    ]);
    Host::run({
        list.arg(into);
        list
    })
}

#[test]
fn a_bundle_holds_every_member_that_answers_and_no_secret() -> Result<()> {
    let mut cluster = Wanted::new("bundle").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let lost = (primary + 1) % 3;
    let lost_name = cluster.members[lost].name.clone();
    // A secret that an operator types by mistake is in the history, and in the logs of all.
    let slip = format!("the password is {PASSWORD}, the token {TOKEN}");
    cluster.ctl(&["pause", "--yes", "--reason", &slip])?;
    cluster.ctl(&["resume"])?;
    cluster.members[lost].kill_host()?;
    let file = cluster.folder.join("night.tar.zst");
    let path = file.display().to_string();
    cluster.ctl(&["bundle", &path])?;
    let text = unpacked(&file, &cluster.folder.join("unpacked"))?;
    for member in cluster.members.iter().filter(|it| it.name != lost_name) {
        let files = [
            "status.json",
            "history.json",
            "settings.json",
            "explain.txt",
            "config.toml",
            "clusterd.log",
            "pg_controldata.txt",
        ];
        for name in files {
            let path = format!("./night/members/{}/{name}\n", member.name);
            ensure!(text.contains(&path), "{path} is missing");
        }
    }
    ensure!(
        text.contains(&format!("{lost_name} did not answer")),
        "it is not named"
    );
    ensure!(
        !text.contains(&format!("members/{lost_name}/")),
        "it is not there"
    );
    for wanted in [
        "Database system identifier",
        "cluster_secret = \"***\"",
        "INFO",
    ] {
        ensure!(text.contains(wanted), "`{wanted}` is missing");
    }
    for secret in [TOKEN, PASSWORD, SECRET, "Mock authentication nonce"] {
        ensure!(!text.contains(secret), "`{secret}` is in it");
    }
    let again = cluster.ctl(&["bundle", &path]);
    let why = again.err().map(|it| format!("{it:#}")).unwrap_or_default();
    ensure!(why.contains("exists already"), "{why}");
    cluster.members[lost].start()?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}
