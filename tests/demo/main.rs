//! `cargo xtask demo`: three members with real PostgreSQL on loopback addresses, the release path.
//!
//! It shows the cluster until Ctrl-C; with `--kill-primary` it plays one failover by itself, prints
//! the outage that a writer outside measured, and ends. Nothing is left behind either way.

mod screen;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use cluster_tests::config::{PASSWORD, TOKEN};
use cluster_tests::programs;
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};

/// First of the members' addresses, `127.0.0.11`.
const FIRST_ADDRESS: u8 = 11;

/// Three members on this machine.
#[derive(Parser)]
#[command(name = "cargo xtask demo")]
struct Arguments {
    /// Kill the primary once, print the outage an external writer measured, and end.
    #[arg(long)]
    kill_primary: bool,
    /// With a repository of backups.
    #[arg(long)]
    backup: bool,
    /// `fast`, `lan` or `wan`.
    #[arg(long, default_value = "lan")]
    preset: String,
    /// PostgreSQL major; none is the distribution's.
    #[arg(long)]
    major: Option<u32>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut wanted = Wanted::new("demo")
        .preset(&arguments.preset)
        .on_loopback(FIRST_ADDRESS);
    wanted.major = arguments.major;
    wanted.has_repository = arguments.backup;
    println!(
        "Starting three members with PostgreSQL, preset {} …",
        arguments.preset
    );
    let started = Instant::now();
    let mut cluster = wanted.start().context("the cluster did not start")?;
    println!(
        "One primary and two streaming standbys after {:.1} s.\n",
        seconds(started.elapsed())
    );
    explain(&cluster);
    if arguments.backup {
        explain_backups(&cluster)?;
    }
    match arguments.kill_primary {
        true => kill_primary(&mut cluster)?,
        false => screen::show_until_interrupted(&mut cluster)?,
    }
    cluster.expect_error("");
    cluster.finish()
}

/// What to paste, and what to break.
fn explain(cluster: &Cluster) {
    let hosts: Vec<&str> = cluster
        .members
        .iter()
        .map(|m| m.host.address.as_str())
        .collect();
    println!("Connect to whoever is primary:");
    println!(
        "  psql 'host={} port=5432 user=postgres password={PASSWORD} dbname=postgres \
         target_session_attrs=read-write'\n",
        hosts.join(",")
    );
    println!(
        "Who is who (any member answers): curl http://{}:8008/cluster",
        hosts[0]
    );
    println!("Logs and data: {}\n", cluster.folder.display());
}

/// How to take a backup and how to go back in time; each line can be pasted.
fn explain_backups(cluster: &Cluster) -> Result<()> {
    let clusterctl = programs::ours("clusterctl")?;
    println!("Take a backup:");
    println!(
        "  CLUSTERCTL_TOKEN={TOKEN} {} --endpoints {} backup create\n",
        clusterctl.display(),
        cluster.members[0].grpc()
    );
    println!(
        "A copy as it was at a moment (what was written in the last minute may not be there yet):"
    );
    println!(
        "  sudo -u postgres {} restore --repository {} --into /tmp/matriarch-copy --start --bin-dir {} \
         --to \"$(date -u '+%F %T+00')\"\n",
        cluster.backup_program().display(),
        cluster.repository().display(),
        cluster.members[0].bin.display()
    );
    Ok(())
}

fn kill_primary(cluster: &mut Cluster) -> Result<()> {
    let writers = cluster.start_writers(4)?;
    wait_until("writers at work", PATIENCE, || match writers.count() {
        rows if rows > 200 => Ok(()),
        rows => Err(format!("{rows} rows")),
    })?;
    let old = cluster.wait_primary(PATIENCE)?;
    println!(
        "4 writers are at work. Killing every process of {} …",
        cluster.members[old].name
    );
    let blow = clock();
    cluster.members[old].kill_host()?;
    let new = cluster.wait_other_primary(old, PATIENCE)?;
    wait_until("writers at work again", PATIENCE, || {
        let settled = clock().saturating_sub(Duration::from_millis(300)).max(blow);
        writers
            .newest_after(settled)
            .map(drop)
            .ok_or_else(|| cluster.seen())
    })?;
    println!("{} is primary.", cluster.members[new].name);
    std::thread::sleep(Duration::from_millis(500));
    let until = clock();
    println!("Starting {} again …", cluster.members[old].name);
    let back = Instant::now();
    cluster.members[old].start()?;
    cluster.wait_healthy(PATIENCE)?;
    println!(
        "It streams as a standby after {:.1} s.\n",
        seconds(back.elapsed())
    );
    let history = writers.stop();
    let missing = cluster.missing(new, &history)?.len();
    let (overlap, _) = history.overlap();
    println!("Rows acknowledged:              {}", history.rows.len());
    println!(
        "Nobody could write for:         {:.2} s",
        seconds(history.outage(blow, until))
    );
    println!("Acknowledged rows missing:      {missing} (mode sync)");
    println!("Two primaries acknowledged for: {} ms", overlap.as_millis());
    Ok(())
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
