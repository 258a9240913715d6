//! What operators ask for, through clusterctl.

use anyhow::{Result, ensure};
use cluster_tests::member::POSTGRES_PORT;
use cluster_tests::network::Cut;
use cluster_tests::{Cluster, PATIENCE, Wanted, stays, wait_until};
use serde_json::Value;

use crate::drill::{Drill, LEASE, LONGEST_OUTAGE};

#[test]
fn switchover_to_the_best_and_back_to_a_named_one() -> Result<()> {
    let cluster = Wanted::new("switchover").start()?;
    let drill = Drill::begin(&cluster)?;
    let first = drill.primary;
    cluster.ctl(&["switchover", "--yes"])?;
    let second = cluster.wait_other_primary(first, PATIENCE)?;
    cluster.wait_healthy(PATIENCE)?;
    let name = cluster.members[first].name.clone();
    cluster.ctl(&["switchover", "--to", &name, "--yes"])?;
    let third = cluster.wait_other_primary(second, PATIENCE)?;
    ensure!(third == first, "asked for {name}");
    cluster.wait_healthy(PATIENCE)?;
    let (history, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.timelines().len() == 3, "{:?}", history.timelines());
    let primary = cluster.wait_primary(PATIENCE)?;
    let missing = cluster.missing(primary, &history)?;
    ensure!(missing.is_empty(), "a switchover lost rows: {missing:?}");
    cluster.finish()
}

#[test]
fn restart_of_standby_and_primary() -> Result<()> {
    let cluster = Wanted::new("restart").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let standby = (primary + 1) % 3;
    let started = "SELECT pg_postmaster_start_time()::text";
    for member in [standby, primary] {
        let before = cluster.sql(member, started)?;
        let name = cluster.members[member].name.clone();
        cluster.ctl(&["restart", &name, "--yes"])?;
        wait_until("another postmaster", PATIENCE, || {
            match cluster.sql(member, started) {
                Ok(now) if now != before => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })?;
        cluster.wait_healthy(PATIENCE)?;
    }
    cluster.finish()
}

#[test]
fn reinit_clones_a_standby_anew() -> Result<()> {
    let cluster = Wanted::new("reinit").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let standby = (primary + 1) % 3;
    let witness = cluster.members[standby].data_dir().join("old_copy");
    std::fs::write(&witness, "a clone does not have this")?;
    let name = cluster.members[standby].name.clone();
    cluster.ctl(&["reinit", &name, "--yes"])?;
    wait_until("a new copy", PATIENCE, || {
        if witness.exists() {
            Err("the old one".to_owned())
        } else {
            Ok(())
        }
    })?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}

/// The primary is spared the work; a donor that does not let anybody copy costs one attempt.
#[test]
fn a_standby_with_the_tag_is_cloned_from_and_the_primary_when_that_fails() -> Result<()> {
    let cluster = Wanted::new("donor").start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let [standby, donor] = [(primary + 1) % 3, (primary + 2) % 3];
    let name = |member: usize| cluster.members[member].name.clone();
    let set = ["settings", "set", "clonefrom=true", "--yes", "--member"];
    cluster.ctl(&[&set[..], &[&name(donor)]].concat())?;
    let log = |member: usize| std::fs::read_to_string(cluster.members[member].log());
    let cloned = |from: usize| -> Result<()> {
        let told = format!("Clone {{ from: MemberName(\"{}\")", name(from)).replace('"', "\\\"");
        let before = log(standby)?.matches(&told).count();
        cluster.ctl(&["reinit", &name(standby), "--yes"])?;
        let after = log(standby)?.matches(&told).count();
        ensure!(after > before, "no attempt to clone {told}");
        cluster.wait_healthy(PATIENCE)?;
        Ok(())
    };
    // The first checkpoint of an epoch comes before a donor.
    wait_until("a clone of the donor", PATIENCE, || {
        cloned(donor).map_err(|error| format!("{error:#}"))
    })?;
    let address = cluster.members[donor].host.address.clone();
    cluster.members[standby].cut(&Cut::PeersPort(vec![address], POSTGRES_PORT))?;
    let old = cluster.members[standby].data_dir().join("old_copy");
    std::fs::write(&old, "a clone does not have this")?;
    // It cannot be the donor's.
    cluster.ctl(&["reinit", &name(standby), "--yes"])?;
    ensure!(!old.exists(), "the old copy");
    ensure!(
        log(standby)?.contains("could not reach the source"),
        "the donor was not tried"
    );
    cluster.members[standby].heal()?;
    ensure!(cluster.wait_healthy(PATIENCE)? == primary);
    cluster.finish()
}

/// The settings are the cluster's: any member takes a change, every member shows it, and an error
/// through any of them changes nothing.
#[test]
fn settings_are_changed_through_any_member() -> Result<()> {
    let cluster = Wanted::new("settings").preset("fast").start()?;
    let through = |member: usize, words: &[&str]| {
        let endpoint = cluster.members[member].grpc();
        cluster.ctl(&[&["--endpoints", &endpoint], words].concat())
    };
    for (member, wanted) in [(0, 2), (1, 3), (2, 4)] {
        let k = format!("k={wanted}");
        let why = format!("through {member}");
        through(member, &["settings", "set", &k, "--yes", "--reason", &why])?;
        for other in 0..3 {
            wait_until("the change everywhere", PATIENCE, || {
                let shown = cluster
                    .get(other, "/config")
                    .map_err(|error| error.to_string())?;
                let found = shown.json()["k"].clone();
                match found == wanted {
                    true => Ok(()),
                    false => Err(format!("k is {found} on {other}")),
                }
            })?;
        }
        let wrong = through(
            member,
            &["settings", "set", "k=5", "k_min=0", "zones.x=east"],
        );
        let wrong = wrong
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default();
        ensure!(
            wrong.contains("k_min") && wrong.contains("no member x"),
            "{wrong}"
        );
    }
    let name = cluster.members[1].name.clone();
    through(0, &["settings", "set", "nosync=true", "--member", &name])?;
    let history = cluster.ctl(&["settings", "history", "-o", "tsv"])?;
    ensure!(history.contains("through 2"), "{history}");
    ensure!(
        !history.contains("k=5") && !history.contains("-> 5"),
        "{history}"
    );
    cluster.finish()
}

/// Two of three databases are lost at once, with the votes of two witnesses left: what operators read
/// before, after, and the command that they are given.
#[test]
fn status_tells_who_confirms_what_is_missing_and_what_overrides_it() -> Result<()> {
    let mut cluster = Wanted::new("confirming").members(3, 2).start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let status = |cluster: &Cluster| -> Result<Value, String> {
        let text = cluster.ctl(&["status", "-o", "json"]);
        let text = text.map_err(|error| format!("{error:#}"))?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    };
    let until = |cluster: &Cluster, what: &str, good: &dyn Fn(&Value) -> bool| {
        wait_until(what, PATIENCE, || match status(cluster)? {
            seen if good(&seen) => Ok(seen),
            seen => Err(seen["confirming"].to_string()),
        })
    };
    let confirms = |seen: &Value, count: usize| {
        let found = &seen["confirming"];
        let members = found["members"].as_array().map_or(0, Vec::len);
        let live = seen["rules"].as_array().map_or(0, Vec::len);
        members == count && found["is_proven"] == true && live == 1
    };
    let seen = until(&cluster, "two standbys confirm", &|seen| confirms(seen, 2))?;
    let found = &seen["confirming"];
    ensure!(found["survivable_standbys"] == 1, "{found}");
    ensure!(found["survivable_with_primary"] == 0, "{found}");
    let [left, lost] = [(primary + 1) % 3, (primary + 2) % 3];
    let name = cluster.members[left].name.clone();
    cluster.ctl(&["settings", "set", "nosync=true", "--member", &name])?;
    until(&cluster, "one confirms", &|seen| confirms(seen, 1))?;
    // Each member hears of it in its own time.
    wait_until("the screen says why", PATIENCE, || {
        let screen = cluster.status().map_err(|error| format!("{error:#}"))?;
        let is_told = screen.contains("does not confirm: is tagged nosync");
        if is_told { Ok(()) } else { Err(screen) }
    })?;
    wait_until("the primary knows its sync standby", PATIENCE, || {
        let roles = cluster
            .get(primary, "/cluster")
            .map_err(|e| e.to_string())?;
        let is_known = roles.body.contains("sync_standby");
        if is_known { Ok(()) } else { Err(roles.body) }
    })?;

    cluster.members[primary].kill_host()?;
    cluster.members[lost].kill_host()?;
    // The command comes when the one that is left has sealed.
    let seen = until(&cluster, "a word on both, and a command", &|seen| {
        let missing = seen["blocked"]["missing"].as_array();
        missing.is_some_and(|all| all.len() == 2) && seen["blocked"]["command"].is_string()
    })?;
    let blocked = &seen["blocked"];
    let command = blocked["command"].as_str().unwrap_or_default().to_owned();
    let expected = format!("clusterctl failover --to {name} --reason");
    ensure!(command.starts_with(&expected), "{blocked}");
    let screen = cluster.ctl(&["status"])?;
    ensure!(screen.contains(&command), "{screen}");
    wait_until("since when stands in the history", PATIENCE, || {
        let history = cluster.ctl(&["history"]);
        match history.map_err(|error| format!("{error:#}"))? {
            told if told.contains("members-missing") => Ok(()),
            told => Err(told),
        }
    })?;
    cluster.ctl(&[
        "failover",
        "--to",
        &name,
        "--reason",
        "both are burnt",
        "--yes",
    ])?;
    cluster.wait_other_primary(primary, PATIENCE)?;
    let history = cluster.ctl(&["history"])?;
    for words in ["forced by ", "both are burnt", "behind 0/", " of epoch "] {
        ensure!(history.contains(words), "{words:?} is not in: {history}");
    }
    cluster.finish()
}

#[test]
fn paused_cluster_promotes_nobody_until_resumed() -> Result<()> {
    let mut cluster = Wanted::new("pause").start()?;
    let old = cluster.wait_primary(PATIENCE)?;
    cluster.ctl(&["pause", "--yes"])?;
    cluster.members[old].kill_host()?;
    stays("no primary while paused", 3 * LEASE, || {
        match cluster
            .primaries()
            .into_iter()
            .find(|member| *member != old)
        {
            None => Ok(()),
            Some(member) => Err(cluster.members[member].name.clone()),
        }
    })?;
    cluster.ctl(&["resume", "--yes"])?;
    cluster.wait_other_primary(old, PATIENCE)?;
    cluster.finish()
}
