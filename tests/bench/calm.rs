//! A busy machine without any fault: no failover may happen. Busy loops at normal priority and a
//! pgbench compete with the members for every core.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use cluster_tests::config::PASSWORD;
use cluster_tests::host::{Host, log_file};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE};

use crate::Arguments;

/// Source: the acceptance list, "4 busy loops at normal priority and a pgbench on the 2 cores".
const BUSY_LOOPS: usize = 4;

/// Runs it; a sentence with the result.
pub fn measure(arguments: &Arguments, time: Duration) -> Result<String> {
    let mut cluster = arguments.wanted("bench-calm").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let writers = cluster.start_writers(2)?;
    let from = clock();
    let mut load = start_load(&cluster, primary, time)?;
    std::thread::sleep(time);
    let to = clock();
    for child in &mut load {
        // Ended by itself, or with the cluster.
        let _ = child.kill();
        let _ = child.wait();
    }
    let history = writers.stop();
    let failovers = history.timelines().len().saturating_sub(1);
    let line = format!(
        "{} minutes with {BUSY_LOOPS} busy loops and `pgbench -c 8`: {failovers} failovers, {} rows \
         acknowledged, longest time without one {} ms.",
        time.as_secs() / 60,
        history.rows.len(),
        history.outage(from, to).as_millis()
    );
    cluster.expect_error("");
    cluster.finish()?;
    Ok(line)
}

fn start_load(cluster: &Cluster, primary: usize, time: Duration) -> Result<Vec<Child>> {
    let member = &cluster.members[primary];
    let pgbench = |arguments: &[&str]| {
        let mut command = cluster.clients.command(&member.bin.join("pgbench"));
        command
            .env("PGPASSWORD", PASSWORD)
            .args(["-h", &member.host.address, "-U", "postgres"]);
        command.args(arguments).arg("postgres");
        command
    };
    Host::run(pgbench(&["-i", "-q", "-s", "5"])).context("prepare pgbench")?;
    let seconds = time.as_secs().to_string();
    let log = log_file(&cluster.folder.join("pgbench.log"))?;
    let mut work = pgbench(&["-c", "8", "-T", &seconds]);
    work.stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut load = vec![work.spawn().context("start pgbench")?];
    for _ in 0..BUSY_LOOPS {
        let mut busy = cluster.clients.command(Path::new("sh"));
        busy.args(["-c", "while :; do :; done"])
            .stdin(Stdio::null());
        load.push(busy.spawn().context("start a busy loop")?);
    }
    Ok(load)
}
