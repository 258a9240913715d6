//! Commits that did not wait as the mode promises: told once, of this primary, not too often.

use std::collections::BTreeMap;

use cluster_core::change::{Applied, Command, Stamp, apply};
use cluster_core::decide::bypass::{EVERY, tell};
use cluster_core::decide::cluster::RULES;
use cluster_core::decide::{Reason, Verdict};
use cluster_core::model::NodeId;
use cluster_core::model::member::Health;
use cluster_core::model::view::ClusterView;

use crate::cluster::name;
use crate::decisions::Look;

/// 2026-11-23 06:00:00 UTC.
const NOW: u64 = 1_795_413_600_000;
const OVERRIDE: &str = "role app: synchronous_commit=off";

struct Watch {
    look: Look,
    now: u64,
    index: u64,
}

impl Watch {
    fn new() -> Watch {
        let mut look = Look::new();
        look.report("a").health.commits_watched = true;
        let (now, index) = (NOW, 100);
        Watch { look, now, index }
    }

    fn health(&mut self) -> &mut Health {
        &mut self.look.report("a").health
    }

    fn judge(&self) -> Verdict {
        let ages = BTreeMap::new();
        let (state, reports) = (&self.look.state, &self.look.reports);
        let view = ClusterView::settled(NodeId(2), state, reports, &[], &ages);
        tell(&ClusterView {
            wall_unix_ms: Some(self.now),
            ..view
        })
    }

    /// What is told now; the new lines of the history.
    fn told(&mut self) -> Vec<(String, String)> {
        let before = self.look.state.history.len();
        let verdict = self.judge();
        let Verdict::Propose(command, Reason::CommitsBypassed(primary)) = verdict else {
            panic!("nothing is told: {verdict:?}");
        };
        assert_eq!(primary, name("a"));
        self.commit(*command);
        assert_eq!(self.judge(), Verdict::Pass, "told once");
        let new = &self.look.state.history[before..];
        let line = |it: &cluster_core::model::state::HistoryEntry| {
            assert_eq!(it.member, Some(name("a")));
            (it.what.clone(), it.reason.clone())
        };
        new.iter().map(line).collect()
    }

    fn commit(&mut self, command: Command) {
        self.index += 1;
        let stamp = Stamp {
            version: 1,
            at_unix_ms: self.now,
            command,
        };
        let done = apply(&mut self.look.state, self.index, &stamp);
        assert_eq!(done, Ok(Applied::Changed));
    }

    fn later(&mut self) {
        self.now += u64::try_from(EVERY.as_millis()).expect("it fits");
    }
}

#[test]
fn an_override_is_told_and_its_end_too() {
    let mut watch = Watch::new();
    assert_eq!(watch.judge(), Verdict::Pass, "nothing to tell");
    watch.health().commit_overrides = vec![OVERRIDE.to_owned()];
    let told = watch.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "commits-overridden");
    assert!(told[0].1.contains(OVERRIDE), "{told:?}");

    watch.health().commit_overrides.clear();
    assert_eq!(watch.judge(), Verdict::Pass, "not within the minute");
    watch.later();
    let told = watch.told();
    assert!(told[0].1.contains("waits again"), "{told:?}");
    watch.later();
    assert_eq!(watch.judge(), Verdict::Pass);
}

#[test]
fn counters_are_told_by_what_was_added_and_begin_anew_with_the_daemon() {
    let mut watch = Watch::new();
    watch.health().cancelled_waits = 3;
    watch.health().strangers_ended = 1;
    let told = watch.told();
    assert!(told[0].1.starts_with("3 commits"), "{told:?}");
    assert!(told[1].1.starts_with("1 connections"), "{told:?}");

    watch.later();
    watch.health().cancelled_waits = 5;
    let told = watch.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.starts_with("2 commits"), "{told:?}");

    watch.later();
    watch.look.report("a").daemon_start = "another life".to_owned();
    watch.health().cancelled_waits = 1;
    watch.health().strangers_ended = 0;
    let told = watch.told();
    assert!(told[0].1.starts_with("1 commits"), "{told:?}");
}

#[test]
fn what_was_not_looked_at_says_nothing() {
    let mut watch = Watch::new();
    watch.health().commit_overrides = vec![OVERRIDE.to_owned()];
    watch.told();
    watch.later();
    // A daemon that has just begun knows of no override yet.
    watch.look.report("a").daemon_start = "another life".to_owned();
    watch.health().commit_overrides.clear();
    watch.health().commits_watched = false;
    assert_eq!(watch.judge(), Verdict::Pass);
}

#[test]
fn of_another_than_the_primary_nothing_is_told() {
    let mut watch = Watch::new();
    watch.health().cancelled_waits = 1;
    let Verdict::Propose(command, _) = watch.judge() else {
        panic!("it is news");
    };
    let Command::TellBypass(mut told) = *command else {
        panic!("another command");
    };
    told.member = name("b");
    let stamp = Stamp {
        version: 1,
        at_unix_ms: NOW,
        command: Command::TellBypass(told),
    };
    let before = watch.look.state.clone();
    assert!(apply(&mut watch.look.state, 101, &stamp).is_err());
    assert_eq!(watch.look.state, before);
}

#[test]
fn writes_that_wait_do_not_hold_it_up() {
    let place = |wanted: &str| RULES.iter().position(|rule| rule.name == wanted);
    assert!(place("commits-bypassed") < place("writes-wait"));
    assert!(place("commits-bypassed").is_some());
}
