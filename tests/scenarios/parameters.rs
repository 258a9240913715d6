//! PostgreSQL's parameters as settings: followed, refused, waited for, rolled through, taken back.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::storm::{self, Storm};
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};
use serde_json::Value;

use crate::drill::Drill;

/// A roll waits for standbys that were away to confirm commits again.
const ROLL_PATIENCE: &str = "5min";

fn shown(cluster: &Cluster, member: usize, parameter: &str) -> Result<String, String> {
    let rows = cluster.sql(member, &format!("SHOW {parameter}"));
    let rows = rows.map_err(|error| format!("{error:#}"))?;
    Ok(rows.concat())
}

fn wait_shown(cluster: &Cluster, member: usize, parameter: &str, wanted: &str) -> Result<()> {
    let what = format!("{parameter} = {wanted} on {member}");
    wait_until(&what, PATIENCE, || {
        match shown(cluster, member, parameter)? {
            is if is == wanted => Ok(()),
            is => Err(is),
        }
    })
}

fn pending(cluster: &Cluster, member: usize) -> Result<Value, String> {
    let answer = cluster
        .get(member, "/patroni")
        .map_err(|error| format!("{error:#}"))?;
    Ok(answer.json()["pending_restart_reason"].clone())
}

fn refused(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let words = [&["settings", "set"], words].concat();
    match cluster.ctl(&words) {
        Ok(text) => anyhow::bail!("was taken: {text}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn parameters_follow_the_settings_and_bad_ones_change_nothing() -> Result<()> {
    let cluster = Wanted::new("parameters").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let standby = (primary + 1) % 3;
    let name = cluster.members[standby].name.clone();
    cluster.ctl(&[
        "settings",
        "set",
        "parameters.work_mem=8MB",
        "standby.parameters.max_standby_streaming_delay=7s",
        "primary.parameters.checkpoint_timeout=9min",
    ])?;
    cluster.ctl(&[
        "settings",
        "set",
        "--member",
        &name,
        "parameters.work_mem=16MB",
    ])?;
    for member in 0..3 {
        let (work_mem, delay, timeout) = match member {
            it if it == primary => ("8MB", "30s", "9min"),
            it if it == standby => ("16MB", "7s", "5min"),
            _ => ("8MB", "7s", "5min"),
        };
        wait_shown(&cluster, member, "work_mem", work_mem)?;
        wait_shown(&cluster, member, "max_standby_streaming_delay", delay)?;
        wait_shown(&cluster, member, "checkpoint_timeout", timeout)?;
    }
    let before = cluster.ctl(&["settings", "show", "-o", "tsv"])?;
    let said = refused(
        &cluster,
        &["parameters.work_mem=lots", "parameters.no_such=1", "k=2"],
    )?;
    ensure!(
        said.contains("work_mem") && said.contains("no_such"),
        "{said}"
    );
    for member in &cluster.members {
        ensure!(
            said.contains(&format!("{}: ", member.name)),
            "each says it: {said}"
        );
    }
    let said = refused(
        &cluster,
        &[
            "parameters.fsync=off",
            "parameters.shared_preload_libraries=x",
        ],
    )?;
    ensure!(
        said.contains("belongs to clusterd") && said.contains("config file"),
        "{said}"
    );
    ensure!(
        cluster.ctl(&["settings", "show", "-o", "tsv"])? == before,
        "nothing changed"
    );
    // The role takes its parameters along.
    cluster.ctl(&["switchover", "--to", &name, "--yes"])?;
    wait_shown(&cluster, standby, "checkpoint_timeout", "9min")?;
    wait_shown(&cluster, standby, "max_standby_streaming_delay", "30s")?;
    cluster.wait_healthy(PATIENCE)?;
    wait_shown(&cluster, primary, "checkpoint_timeout", "5min")?;
    wait_shown(&cluster, primary, "max_standby_streaming_delay", "7s")?;
    // And back, as a whole.
    let history = cluster.ctl(&["settings", "history", "-o", "json"])?;
    let history: Value = serde_json::from_str(&history)?;
    ensure!(history.as_array().map(Vec::len) == Some(3), "{history}");
    cluster.ctl(&["settings", "rollback", "0"])?;
    wait_shown(&cluster, standby, "work_mem", "4MB")?;
    wait_shown(&cluster, primary, "checkpoint_timeout", "5min")?;
    cluster.finish()
}

#[test]
fn what_waits_for_a_restart_is_rolled_through_while_clients_write() -> Result<()> {
    let cluster = Wanted::new("rolling").start()?;
    let drill = Drill::begin(&cluster)?;
    let first = drill.primary;
    cluster.ctl(&[
        "settings",
        "set",
        "parameters.max_connections=120",
        "parameters.shared_buffers=144MB",
    ])?;
    for member in 0..3 {
        wait_until("it waits for a restart", PATIENCE, || {
            match pending(&cluster, member)? {
                it if it["shared_buffers"]["new_value"] == "144MB"
                    && it["max_connections"]["new_value"] == "120" =>
                {
                    Ok(())
                }
                it => Err(it.to_string()),
            }
        })?;
    }
    let would = cluster.ctl(&["restart", "--pending", "--dry-run"])?;
    ensure!(would.contains("shared_buffers"), "{would}");
    let said = cluster.ctl(&["restart", "--pending", "--yes", "--timeout", ROLL_PATIENCE])?;
    ensure!(said.contains("switched over"), "{said}");
    ensure!(cluster.wait_primary(PATIENCE)? != first, "{said}");
    for member in 0..3 {
        wait_shown(&cluster, member, "shared_buffers", "144MB")?;
        wait_shown(&cluster, member, "max_connections", "120")?;
    }
    let again = cluster.ctl(&["restart", "--pending", "--yes"])?;
    ensure!(again.contains("nothing waits for a restart"), "{again}");
    cluster.wait_healthy(PATIENCE)?;
    let (history, outage) = drill.end(&cluster)?;
    println!("longest outage {outage:?}");
    ensure!(outage < Duration::from_secs(3), "{outage:?}");
    let primary = cluster.wait_primary(PATIENCE)?;
    let missing = cluster.missing(primary, &history)?;
    ensure!(missing.is_empty(), "a roll lost rows: {missing:?}");
    cluster.finish()
}

/// A value that PostgreSQL reads and cannot start with: the first standby finds out, runs with what it had,
/// and the setting is taken back before it reaches anybody else.
#[test]
fn a_parameter_that_keeps_postgresql_from_starting_is_taken_back() -> Result<()> {
    let cluster = Wanted::new("too-much").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let started = "SELECT pg_postmaster_start_time()::text";
    let before = cluster.sql(primary, started)?;
    cluster.ctl(&[
        "settings",
        "set",
        "parameters.shared_buffers=7TB",
        "parameters.work_mem=8MB",
    ])?;
    wait_until("it waits for a restart", PATIENCE, || {
        match pending(&cluster, primary)? {
            it if it["shared_buffers"]["new_value"] == "7TB" => Ok(()),
            it => Err(it.to_string()),
        }
    })?;
    let said = match cluster.ctl(&["restart", "--pending", "--yes", "--timeout", ROLL_PATIENCE]) {
        Ok(text) => text,
        Err(error) => format!("{error:#}"),
    };
    ensure!(
        said.contains("could not start with shared_buffers = 7TB"),
        "{said}"
    );
    wait_until("it is taken back", PATIENCE, || {
        let shown = cluster.ctl(&["settings", "show", "-o", "tsv"]);
        let shown = shown.map_err(|error| format!("{error:#}"))?;
        if shown.contains("7TB") {
            Err(shown)
        } else {
            Ok(())
        }
    })?;
    let history = cluster.ctl(&["settings", "history", "-o", "tsv"])?;
    ensure!(history.contains("could not start with them"), "{history}");
    cluster.wait_healthy(PATIENCE)?;
    for member in 0..3 {
        wait_shown(&cluster, member, "shared_buffers", "128MB")?;
        wait_shown(&cluster, member, "work_mem", "8MB")?;
        wait_until("nothing waits any more", PATIENCE, || {
            match pending(&cluster, member)? {
                Value::Null => Ok(()),
                it => Err(it.to_string()),
            }
        })?;
    }
    ensure!(
        cluster.sql(primary, started)? == before,
        "the primary was never stopped"
    );
    cluster.finish()
}

/// A short run of `cargo xtask storm`.
#[test]
fn a_storm_of_settings_leaves_a_healthy_cluster() -> Result<()> {
    let storm = Storm {
        changes: 40,
        failovers: 1,
        roll_every: 100,
        seed: 3,
    };
    let seen = storm::run("storm", &storm, &|line| println!("{line}"))?;
    println!("{seen:?}");
    ensure!(seen.taken >= 15 && seen.refused >= 5, "{seen:?}");
    Ok(())
}

/// A member that has more already becomes primary: the others cannot replay any further, and start anew by
/// themselves. What was raised once and is not set any more keeps nobody from starting.
#[test]
fn standbys_with_less_than_a_new_primary_start_anew_by_themselves() -> Result<()> {
    let cluster = Wanted::new("too-little").start()?;
    let old = cluster.wait_healthy(PATIENCE)?;
    let [first, last] = [(old + 1) % 3, (old + 2) % 3];
    let name = |member: usize| cluster.members[member].name.clone();
    cluster.ctl(&["settings", "set", "parameters.max_connections=150"])?;
    cluster.ctl(&["restart", &name(first), "--yes"])?;
    wait_shown(&cluster, first, "max_connections", "150")?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.ctl(&["switchover", "--to", &name(first), "--yes"])?;
    for member in [old, last] {
        wait_shown(&cluster, member, "max_connections", "150")?;
    }
    cluster.wait_healthy(PATIENCE)?;
    cluster.ctl(&["settings", "set", "parameters.max_connections="])?;
    for member in [last, first] {
        cluster.ctl(&["restart", &name(member), "--yes"])?;
        cluster.wait_healthy(PATIENCE)?;
        wait_shown(&cluster, member, "max_connections", "150")?;
    }
    cluster.finish()
}
