//! Starts a restored copy and waits until it is where it was asked to be.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use cluster_backup::restore::{Plan, Target};

/// How often the server is asked.
const LOOK: Duration = Duration::from_millis(200);

/// The programs are there, of the right major, and this is not root.
pub fn require(bin_dir: &Path, major: u32) -> anyhow::Result<()> {
    anyhow::ensure!(
        !rustix::process::geteuid().is_root(),
        "PostgreSQL does not start as root: run this as the user that is to own the copy"
    );
    let program = bin_dir.join("postgres");
    let said = Command::new(&program)
        .arg("--version")
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let is_right = said
        .split_whitespace()
        .any(|word| word.split('.').next() == Some(&major.to_string()));
    anyhow::ensure!(
        is_right,
        "{} is `{}`, the backup is of PostgreSQL {major}",
        program.display(),
        said.trim()
    );
    Ok(())
}

/// Prints how to reach it once recovery has come to the target.
pub fn start(bin_dir: &Path, plan: &Plan) -> anyhow::Result<()> {
    let place = plan.into.display();
    let log = plan.into.join("restore.log");
    let started = Command::new(bin_dir.join("pg_ctl"))
        .args(["-w", "-t", "86400", "-D"])
        .arg(&plan.into)
        .arg("-l")
        .arg(&log)
        .arg("start")
        .output()
        .context("run pg_ctl")?;
    anyhow::ensure!(started.status.success(), "{}", last_words(&log));
    let is_open = "SELECT NOT pg_is_in_recovery()";
    let is_there = format!("{is_open} OR pg_is_wal_replay_paused()");
    loop {
        if ask(bin_dir, plan, &is_there)? == "t" {
            break;
        }
        let is_running = Command::new(bin_dir.join("pg_ctl"))
            .arg("-D")
            .arg(&plan.into)
            .arg("status")
            .output()
            .context("run pg_ctl")?;
        anyhow::ensure!(is_running.status.success(), "{}", last_words(&log));
        std::thread::sleep(LOOK);
    }
    let at = ask(
        bin_dir,
        plan,
        "SELECT coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn()) || ', last commit ' || \
         coalesce(pg_last_xact_replay_timestamp()::text, 'not known')",
    )?;
    let state = match plan.target {
        Target::Latest => "It takes writes, on a timeline of its own",
        _ => "It is read-only, paused at the target",
    };
    println!("{state} ({at}).");
    println!("  psql 'host={place} dbname=postgres'");
    println!("  pg_dump 'host={place} dbname=DATABASE' --table=TABLE > table.sql");
    println!("  pg_ctl -D {place} stop && rm -r {place}    # when you are done");
    Ok(())
}

fn ask(bin_dir: &Path, plan: &Plan, sql: &str) -> anyhow::Result<String> {
    let host = format!("host={} port=5432 dbname=postgres", plan.into.display());
    let said = Command::new(bin_dir.join("psql"))
        .args(["-X", "-A", "-t", "-w", "-c", sql, &host])
        .output()
        .context("run psql")?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn last_words(log: &Path) -> String {
    format!("{} (all of it: {})", why_it_ended(log), log.display())
}

/// What PostgreSQL said when it ended.
pub fn why_it_ended(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("FATAL") || line.contains("PANIC") || line.contains("HINT"))
        .collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    format!("the copy ended before the target: {last}")
}
