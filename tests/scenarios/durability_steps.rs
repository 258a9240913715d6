//! A change of the rule has steps, and a daemon may die between any two of them: the change ends all the
//! same, or a newer one in its place, and nothing that was acknowledged on the way is lost.
//!
//! Each round holds one change up at one step, kills one daemon there, lets all go on, and then takes the
//! primary's host away: what was acknowledged under whichever rule has to be on its successor.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::member::{Member, signal};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, Cut, PATIENCE, Wanted, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::drill::Drill;
use crate::durability_faults::walsender_of;

/// A step that is reached at all is reached soon: later something else has changed the rule.
const SOON: Duration = Duration::from_secs(5);

/// The step at which the change is held up.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// In Raft, and nobody has set it.
    Proposed,
    /// Set, and not proven: a walsender stands still.
    Set,
    /// Proven, and not confirmed: one that has to flush X is cut off from the primary's PostgreSQL.
    Proven,
    /// Just activated.
    Active,
}

/// Whose daemon is killed there.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Primary,
    RaftLeader,
}

/// The change: how many confirm, before and after.
const UP: (u32, u32) = (1, 2);
const DOWN: (u32, u32) = (2, 1);

/// `durability` of `/cluster`, as one member has it.
fn durability(cluster: &Cluster, member: usize) -> Result<Value> {
    Ok(cluster.get(member, "/cluster")?.json()["durability"].clone())
}

/// Ids of the live rules, as one member has applied them: several while a change is under way.
pub fn live_rules(cluster: &Cluster, member: usize) -> Result<Vec<u64>> {
    let durability = durability(cluster, member)?;
    let ids = durability["live_rules"].as_array();
    let ids = ids.with_context(|| format!("{durability}"))?;
    Ok(ids.iter().filter_map(Value::as_u64).collect())
}

fn wait_raft_leader(cluster: &Cluster, primary: usize) -> Result<usize> {
    wait_until("a Raft leader that is not the primary", PATIENCE, || {
        let told = cluster.ctl(&["status", "-o", "json"]);
        let told = told.map_err(|error| format!("{error:#}"))?;
        let status: Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
        let leader = &status["raft_leader"];
        let is_it = |member: &Member| leader == member.name.as_str();
        match cluster.members.iter().position(is_it) {
            Some(place) if place != primary => Ok(place),
            _ => Err(format!("{leader}")),
        }
    })
}

/// The settings, without asking the primary, whose daemon may stand still.
fn set_k(cluster: &Cluster, primary: usize, k: u32) -> Result<()> {
    let others = cluster.members.iter().enumerate();
    let others = others.filter(|(place, _)| *place != primary);
    let endpoints: Vec<String> = others.map(|(_, member)| member.grpc()).collect();
    let mut command = cluster.ctl_command(&["settings", "set", &format!("k={k}"), "--yes"])?;
    command.env("CLUSTERCTL_ENDPOINTS", endpoints.join(","));
    cluster_tests::host::Host::run(command).map(drop)
}

/// One change, one crash.
struct Round<'a> {
    cluster: &'a mut Cluster,
    primary: usize,
    /// The third one: neither primary nor Raft leader.
    third: usize,
    victim: usize,
    k: u32,
    /// The rules that were live before.
    rules: Vec<u64>,
}

impl Round<'_> {
    /// Holds the change up at this step, kills, lets go.
    fn crash_at(&mut self, step: Step) -> Result<()> {
        let before = self.cluster.rule_on(self.primary)?.text;
        match step {
            Step::Proposed => {
                self.cluster.members[self.primary].stop_daemon()?;
                self.change()?;
                self.wait_open("it is written down", |_| true)?;
                self.kill()?;
                ensure!(self.cluster.rule_on(self.primary)?.text == before);
                // It may be the one that was killed.
                let _ = self.cluster.members[self.primary].continue_daemon();
            }
            Step::Set => {
                let sender = walsender_of(self.cluster, self.primary, self.third)?;
                signal(sender, Signal::SIGSTOP)?;
                let done = self.crash_when("it is set, and not active", |round, _| {
                    let rule = round.cluster.rule_on(round.primary);
                    rule.is_ok_and(|rule| rule.text != before)
                });
                // Its server may have ended it meanwhile.
                let _ = signal(sender, Signal::SIGCONT);
                done?;
            }
            Step::Proven => {
                let primary = self.cluster.members[self.primary].host.address.clone();
                self.cluster.members[self.third].cut(&Cut::PeersPort(vec![primary], 5432))?;
                let done = self.crash_when("it is proven, and not active", |round, durability| {
                    durability["k"] == round.k
                });
                self.cluster.members[self.third].heal()?;
                done?;
            }
            Step::Active => {
                self.change()?;
                wait_until("it is active", SOON, || {
                    match live_rules(self.cluster, self.third) {
                        Ok(now) if now.len() == 1 && now != self.rules => Ok(()),
                        other => Err(format!("{other:?}, before {:?}", self.rules)),
                    }
                })?;
                self.kill()?;
            }
        }
        self.cluster.members[self.victim].start()
    }

    /// The change, the crash when it is so far, and a look whether that was in time.
    fn crash_when(&mut self, what: &str, is_it: impl Fn(&Self, &Value) -> bool) -> Result<()> {
        self.change()?;
        self.wait_open(what, |durability| is_it(self, durability))?;
        self.kill()?;
        self.wait_open("it was not activated meanwhile", |_| true)
    }

    fn change(&self) -> Result<()> {
        set_k(self.cluster, self.primary, self.k)
    }

    fn kill(&mut self) -> Result<()> {
        self.cluster.members[self.victim].kill_daemon()
    }

    /// The change is under way, as the third member has it, and all is as wanted: the rule that was live
    /// before is so still, and no longer alone.
    fn wait_open(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<()> {
        wait_until(what, SOON, || {
            let told = |error| format!("{error:#}");
            let now = live_rules(self.cluster, self.third).map_err(told)?;
            let seen = durability(self.cluster, self.third).map_err(told)?;
            let is_open = now.len() > 1 && now.starts_with(&self.rules);
            match is_open && is_wanted(&seen) {
                true => Ok(()),
                false => Err(format!("{seen}, before {:?}", self.rules)),
            }
        })
    }
}

/// Every round's crash, then the primary's host lost; at the end nothing is missing anywhere.
fn each_loses_nothing(name: &str, rounds: [(Step, Victim); 4]) -> Result<()> {
    let mut cluster = Wanted::new(name).mode("sync").start()?;
    let mut drill = Drill::begin_confirmed(&cluster, 1, 2)?;
    for (number, (step, victim)) in rounds.into_iter().enumerate() {
        let (from, to) = if number % 2 == 0 { UP } else { DOWN };
        let began = clock();
        let primary = cluster.wait_confirmed(from, 2, 2 * PATIENCE)?;
        let leader = wait_raft_leader(&cluster, primary)?;
        let begins = clock();
        let mut round = Round {
            rules: live_rules(&cluster, primary)?,
            primary,
            third: 3 - primary - leader,
            victim: match victim {
                Victim::Primary => primary,
                Victim::RaftLeader => leader,
            },
            k: to,
            cluster: &mut cluster,
        };
        round
            .crash_at(step)
            .with_context(|| format!("{step:?}, {victim:?}, to k = {to}"))?;
        let crashed = clock();
        let now = cluster.wait_confirmed(to, 2, 2 * PATIENCE)?;
        drill.wait_writing(clock())?;
        eprintln!(
            "{step:?}, {victim:?}, to k = {to}: ready {:?}, crash {:?}, ended {:?}, m{} then m{}",
            begins - began,
            crashed - begins,
            clock() - crashed,
            primary + 1,
            now + 1,
        );
        drill.primary = now;
        cluster.members[now].kill_host()?;
        drill.wait_takeover(&cluster)?;
        cluster.members[now].start()?;
    }
    cluster.wait_healthy(PATIENCE)?;
    let (history, _) = drill.end_complete(&cluster)?;
    ensure!(
        history.changes_of_primary() >= 4,
        "{:?}",
        history.timelines()
    );
    cluster.finish()
}

#[test]
fn a_daemon_that_dies_at_any_step_of_a_rule_change_costs_no_acknowledged_row() -> Result<()> {
    each_loses_nothing(
        "steps",
        [
            (Step::Proposed, Victim::Primary),
            (Step::Set, Victim::RaftLeader),
            (Step::Proven, Victim::Primary),
            (Step::Active, Victim::RaftLeader),
        ],
    )
}

#[test]
fn the_other_daemon_that_dies_at_any_step_of_a_rule_change_costs_no_acknowledged_row() -> Result<()>
{
    each_loses_nothing(
        "steps-other",
        [
            (Step::Proposed, Victim::RaftLeader),
            (Step::Set, Victim::Primary),
            (Step::Proven, Victim::RaftLeader),
            (Step::Active, Victim::Primary),
        ],
    )
}
