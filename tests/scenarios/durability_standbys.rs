//! Mode `sync`: a standby that cannot confirm leaves the rule, by the protocol and fast; it comes back
//! when it has proven that it streams; with the last one the rule goes down to nobody, and back.
//!
//! How fast is printed and judged generously: these run on busy machines.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::member::signal;
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, Cut, PATIENCE, Wanted, stays, wait_until};
use nix::sys::signal::Signal;

use crate::drill::{Drill, LEASE, LONGEST_OUTAGE};

/// A standby that answers so rarely is gray: longer than it may be late in `lan`.
const SLOW: Duration = Duration::from_millis(1400);

/// Three members, each commit confirmed by both standbys: the loss of either stops writes until the
/// rule goes on without it.
fn both_confirm(name: &str) -> Result<(Cluster, Drill, usize)> {
    let cluster = Wanted::new(name).mode("sync").setting("k = 2").start()?;
    let drill = Drill::begin_confirmed(&cluster, 2, 2)?;
    let standby = (drill.primary + 1) % 3;
    Ok((cluster, drill, standby))
}

/// Waits until the rule is the other standby alone and rows come in; how long nobody could write.
fn goes_on_without(
    cluster: &Cluster,
    drill: &Drill,
    standby: usize,
    since: Duration,
) -> Result<Duration> {
    let primary = drill.primary;
    let other = 3 - primary - standby;
    let rest = cluster.members[other].name.clone();
    cluster.wait_rule(primary, "the rule goes on without it", PATIENCE, |rule| {
        rule.is(1, &[rest.as_str()])
    })?;
    drill.wait_writing(clock())?;
    let outage = drill.outage_since(since);
    eprintln!("writes waited {outage:?} for the lost standby");
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    Ok(outage)
}

#[test]
fn killed_postgres_of_a_standby_unblocks_commits_without_a_failover() -> Result<()> {
    let (cluster, drill, standby) = both_confirm("standby-postgres")?;
    let blow = clock();
    cluster.members[standby].kill_postmaster()?;
    // Its daemon starts it again, so the smaller rule may be there for a moment only.
    drill.wait_writing(blow + Duration::from_millis(200))?;
    eprintln!("writes waited {:?}", drill.outage_since(blow));
    cluster.wait_settled(2, 2, 2 * PATIENCE)?;
    let (history, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}

#[test]
fn lost_host_of_a_standby_unblocks_commits_without_a_failover() -> Result<()> {
    let (mut cluster, drill, standby) = both_confirm("standby-host")?;
    let blow = clock();
    cluster.members[standby].kill_host()?;
    goes_on_without(&cluster, &drill, standby, blow)?;
    cluster.members[standby].start()?;
    cluster.wait_settled(2, 2, 2 * PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}

#[test]
fn cut_off_standby_unblocks_commits_without_a_failover() -> Result<()> {
    let (cluster, drill, standby) = both_confirm("standby-cut")?;
    let blow = clock();
    cluster.isolate(standby)?;
    goes_on_without(&cluster, &drill, standby, blow)?;
    cluster.members[standby].heal()?;
    cluster.wait_settled(2, 2, 2 * PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}

/// Its daemon lives, its connection is open, its host is well; it only never answers.
#[test]
fn gray_standby_leaves_the_rule_and_comes_back_when_it_has_proven_itself() -> Result<()> {
    let (cluster, drill, standby) = both_confirm("standby-gray")?;
    let blow = clock();
    cluster.members[standby].stop_postgres()?;
    goes_on_without(&cluster, &drill, standby, blow)?;
    cluster.members[standby].continue_postgres();
    // The rule is short of one: it is let in at once after the proof.
    cluster.wait_settled(2, 2, PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}

/// Nothing but the receiver stands still: the standby's own daemon finds nothing wrong.
#[test]
fn standby_with_a_frozen_receiver_leaves_the_rule() -> Result<()> {
    let (cluster, drill, standby) = both_confirm("standby-receiver")?;
    let receiver = cluster.members[standby].postgres_process("walreceiver")?;
    let blow = clock();
    signal(receiver, Signal::SIGSTOP)?;
    goes_on_without(&cluster, &drill, standby, blow)?;
    signal(receiver, Signal::SIGCONT)?;
    cluster.wait_settled(2, 2, 2 * PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}

/// Its PostgreSQL dies as soon as it needs a new file, and again whenever it is started.
#[test]
fn standby_with_a_full_disk_leaves_the_rule_and_comes_back_with_room() -> Result<()> {
    let mut cluster = Wanted::new("standby-full")
        .small_disks(300)
        .mode("sync")
        .setting("k = 2")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 2, 2)?;
    let (primary, standby) = (drill.primary, (drill.primary + 1) % 3);
    let rest = cluster.members[3 - primary - standby].name.clone();
    let ballast = cluster.members[standby].fill_disk()?;
    cluster.expect_error("No space left");
    // Files it has are written to until they are full; each switch takes one.
    wait_until("the rule goes on without it", PATIENCE, || {
        cluster
            .sql(primary, "SELECT pg_switch_wal()::text")
            .map_err(|error| error.to_string())?;
        match cluster.rule_on(primary) {
            Ok(rule) if rule.is(1, &[rest.as_str()]) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    drill.wait_writing(clock())?;
    std::fs::remove_file(ballast)?;
    cluster.wait_settled(2, 2, 2 * PATIENCE)?;
    let (history, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}

/// It confirms now and then, and always too late: it leaves, and is not let in between two answers.
#[test]
fn slow_standby_leaves_the_rule_and_stays_out_as_long_as_it_is_slow() -> Result<()> {
    let cluster = Wanted::new("standby-slow").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    let (primary, standby) = (drill.primary, (drill.primary + 1) % 3);
    let name = cluster.members[standby].name.clone();
    let crawl = || -> Result<bool, String> {
        let told = |error: anyhow::Error| error.to_string();
        // Another process by now, when its daemon has ended the one that stood still.
        if let Ok(receiver) = cluster.members[standby].postgres_process("walreceiver") {
            let _ = signal(receiver, Signal::SIGSTOP);
            std::thread::sleep(SLOW);
            let _ = signal(receiver, Signal::SIGCONT);
        }
        let rule = cluster.rule_on(primary).map_err(told)?;
        Ok(rule.confirmations == 1 && !rule.members.contains(&name))
    };
    let blow = clock();
    wait_until("it left", PATIENCE, || match crawl()? {
        true => Ok(()),
        false => Err("it is in the rule".to_owned()),
    })?;
    stays(
        "it is not let in",
        Duration::from_secs(15),
        || match crawl()? {
            true => Ok(()),
            false => Err("it is in the rule".to_owned()),
        },
    )?;
    let outage = drill.outage_since(blow);
    ensure!(
        outage < Duration::from_secs(2),
        "commits waited for it: {outage:?}"
    );
    cluster.wait_settled(1, 2, 2 * PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}

/// Where it is not needed: commits never wait, and it must stream for half a minute first.
#[test]
fn gray_standby_that_is_not_needed_comes_back_only_after_half_a_minute() -> Result<()> {
    let cluster = Wanted::new("standby-not-needed").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    let (primary, standby) = (drill.primary, (drill.primary + 1) % 3);
    let name = cluster.members[standby].name.clone();
    let blow = clock();
    cluster.members[standby].stop_postgres()?;
    cluster.wait_rule(primary, "it left", PATIENCE, |rule| {
        rule.confirmations == 1 && !rule.members.contains(&name)
    })?;
    let outage = drill.outage_since(blow);
    ensure!(
        outage < Duration::from_secs(2),
        "commits waited for it: {outage:?}"
    );
    cluster.members[standby].continue_postgres();
    stays(
        "it is not back early",
        Duration::from_secs(20),
        || match cluster.rule_on(primary) {
            Ok(rule) if rule.members.contains(&name) => Err(format!("{rule:?}")),
            _ => Ok(()),
        },
    )?;
    cluster.wait_rule(primary, "it is back", PATIENCE, |rule| {
        rule.members.contains(&name)
    })?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

#[test]
fn the_last_standby_lost_commits_go_on_and_wait_for_it_again_when_it_is_back() -> Result<()> {
    let mut cluster = Wanted::new("last-standby")
        .members(2, 1)
        .mode("sync")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let (primary, standby) = (drill.primary, 1 - drill.primary);
    let blow = clock();
    cluster.members[standby].kill_host()?;
    cluster.wait_rule(primary, "nobody is waited for", PATIENCE, |rule| {
        rule.is_degraded()
    })?;
    drill.wait_writing(clock())?;
    eprintln!(
        "writes waited {:?} for the last standby",
        drill.outage_since(blow)
    );
    cluster.members[standby].start()?;
    cluster.wait_settled(1, 1, 2 * PATIENCE)?;
    // What was acknowledged while nobody confirmed is carried forward: the primary may be lost now.
    cluster.members[primary].kill_host()?;
    drill.wait_takeover(&cluster)?;
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(
        history.changes_of_primary() == 1,
        "{:?}",
        history.timelines()
    );
    cluster.finish()
}

/// Acknowledged by the primary alone: without it nobody knows what was promised.
#[test]
fn while_nobody_confirms_a_lost_primary_is_waited_for_and_nothing_is_lost() -> Result<()> {
    let mut cluster = Wanted::new("degraded-lost")
        .members(2, 1)
        .mode("sync")
        .start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let (primary, standby) = (drill.primary, 1 - drill.primary);
    // Its PostgreSQL stands still, so that both hosts go on voting.
    cluster.members[standby].stop_postgres()?;
    cluster.wait_rule(primary, "nobody is waited for", PATIENCE, |rule| {
        rule.is_degraded()
    })?;
    drill.wait_writing(clock())?;
    cluster.members[primary].kill_host()?;
    cluster.members[standby].continue_postgres();
    stays("nobody is promoted", 4 * LEASE, || {
        match cluster.primaries()[..] {
            [] => Ok(()),
            [one] if one == primary => Ok(()),
            ref some => Err(format!("{some:?}")),
        }
    })?;
    let status = cluster.status()?;
    ensure!(status.contains("missing-members"), "{status}");
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drill.end_complete(&cluster)?;
    cluster.finish()
}

/// The leader hears the standbys well: the primary's own network is at fault. It must not help itself
/// by waiting for nobody.
#[test]
fn primary_cut_from_its_standbys_only_is_replaced_and_nothing_is_degraded() -> Result<()> {
    let cluster = Wanted::new("cut-from-standbys").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
    let old = drill.primary;
    cluster.members[old].cut(&Cut::PeersPort(cluster.peers_of(old), 5432))?;
    let new = wait_until("another primary", PATIENCE, || {
        if let Ok(rule) = cluster.rule_on(old)
            && rule.is_degraded()
        {
            return Ok(Err(rule));
        }
        match cluster.primaries()[..] {
            [primary] if primary != old => Ok(Ok(primary)),
            _ => Err(cluster.seen()),
        }
    })?;
    ensure!(new.is_ok(), "the primary helped itself: {new:?}");
    drill.wait_takeover(&cluster)?;
    cluster.members[old].heal()?;
    cluster.wait_healthy(PATIENCE)?;
    let (_, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    cluster.finish()
}

/// CNPG #8790: two members, a standby that comes and goes; each time it is back in the rule the
/// primary is lost in that very moment.
#[test]
fn standby_that_flaps_and_a_primary_lost_at_each_return_lose_nothing() -> Result<()> {
    let mut cluster = Wanted::new("flapping").members(2, 1).mode("sync").start()?;
    for _ in 0..3 {
        let drill = Drill::begin_confirmed(&cluster, 1, 1)?;
        let (primary, standby) = (drill.primary, 1 - drill.primary);
        cluster.members[standby].cut(&Cut::Peers(cluster.peers_of(standby)))?;
        cluster.wait_rule(primary, "nobody is waited for", PATIENCE, |rule| {
            rule.is_degraded()
        })?;
        drill.wait_writing(clock() + Duration::from_millis(300))?;
        cluster.members[standby].heal()?;
        let name = cluster.members[standby].name.clone();
        cluster.wait_rule(primary, "it is named again", PATIENCE, |rule| {
            rule.members.contains(&name)
        })?;
        cluster.members[primary].kill_host()?;
        // Promoted if the change was complete, waiting for the primary if it was not: both are right.
        std::thread::sleep(2 * LEASE);
        cluster.members[primary].start()?;
        cluster.wait_healthy(PATIENCE)?;
        drill.end_complete(&cluster)?;
    }
    cluster.finish()
}

/// X22: a standby tells its position on its own only now and then, so on an idle primary a change of
/// the rule would wait for somebody to write. The daemon writes a little itself.
#[test]
fn x22_on_an_idle_cluster_the_rule_goes_down_and_up_again_without_a_write_of_anybody() -> Result<()>
{
    let mut cluster = Wanted::new("idle-rule")
        .members(2, 1)
        .mode("sync")
        .start()?;
    let primary = cluster.wait_settled(1, 1, 2 * PATIENCE)?;
    let standby = 1 - primary;
    let began = clock();
    cluster.members[standby].kill_host()?;
    cluster.wait_rule(primary, "nobody is waited for", PATIENCE, |rule| {
        rule.is_degraded()
    })?;
    eprintln!("down after {:?}", clock() - began);
    cluster.members[standby].start()?;
    cluster.wait_healthy(PATIENCE)?;
    let streaming = clock();
    cluster.wait_confirmed(1, 1, PATIENCE)?;
    eprintln!("up {:?} after it streamed", clock() - streaming);
    cluster.wait_settled(1, 1, PATIENCE)?;
    cluster.sql(primary, "CREATE TABLE kept AS SELECT 1 AS x")?;
    cluster.members[primary].kill_host()?;
    let new = cluster.wait_other_primary(primary, PATIENCE)?;
    ensure!(cluster.sql(new, "SELECT count(*)::text FROM kept")? == ["1"]);
    cluster.members[primary].start()?;
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}

/// Each change goes the same way as a loss does, under writers.
#[test]
fn settings_say_on_a_running_cluster_who_confirms() -> Result<()> {
    let cluster = Wanted::new("who-confirms").mode("sync").start()?;
    let drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    let primary = drill.primary;
    let [own, near, far] = [0, 1, 2].map(|step| cluster.members[(primary + step) % 3].name.clone());
    let mut both = vec![near.clone(), far.clone()];
    both.sort();
    let zones = |of: [&str; 3]| -> Vec<String> {
        let names = [&own, &near, &far].into_iter().zip(of);
        names
            .map(|(name, zone)| format!("zones.{name}={zone}"))
            .collect()
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (change, confirmations, members) in [
        (words("k=2"), 2, &both),
        (words("mode=strict k_min=2"), 2, &both),
        (words("mode=sync k=1 k_min=1"), 1, &both),
        (words("mode=async"), 0, &Vec::new()),
        (words("mode=sync"), 1, &both),
        (zones(["east", "east", "west"]), 1, &vec![far.clone()]),
        (zones(["", "", ""]), 1, &both),
    ] {
        let mut command = vec!["settings", "set"];
        command.extend(change.iter().map(String::as_str));
        command.push("--yes");
        cluster.ctl(&command)?;
        cluster.wait_rule(primary, &change.join(" "), PATIENCE, |rule| {
            rule.confirmations == confirmations && rule.members == *members
        })?;
        drill.wait_writing(clock())?;
    }
    let (history, outage) = drill.end_complete(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.timelines().len() == 1, "there was a failover");
    cluster.finish()
}
