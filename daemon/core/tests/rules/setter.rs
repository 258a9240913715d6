//! The primary's steps of a rule change, one look at a time.

use cluster_core::decide::rule_setter::{SetterStep, SetterView, rule_step};
use cluster_core::model::confirmation::{FENCE, names_text};
use cluster_core::model::postgres::Primary;
use cluster_core::model::{ClusterState, Epoch, Lsn, RuleId};

use crate::cluster::{activate, propose, revoke, rule, serving};
use crate::decisions::{STARTED, primary, sender};

struct Server {
    state: ClusterState,
    primary: Primary,
    given: u64,
    confirmed: Option<u64>,
    reloaded: Option<u64>,
    canary_waited: bool,
}

impl Server {
    /// Rule 1 in force, b and c stream.
    fn new() -> Server {
        let state = serving();
        let mut primary = primary(vec![sender("b", 1, 200), sender("c", 1, 200)]);
        primary.sync_names = names_text(&state.live_rules[0]);
        Server {
            state,
            primary,
            given: 1,
            confirmed: Some(1),
            reloaded: Some(STARTED),
            canary_waited: false,
        }
    }

    fn propose(&mut self, id: u64, k: u32, names: &[&str]) {
        assert!(propose(&mut self.state, rule(id, 1, k, names)).is_ok());
        self.confirmed = Some(id);
    }

    fn step(&self) -> SetterStep {
        rule_step(&SetterView {
            state: &self.state,
            epoch: Epoch(1),
            confirmed_newest: self.confirmed.map(RuleId),
            primary: &self.primary,
            given: RuleId(self.given),
            reloaded_unix_ms: self.reloaded,
            canary_waited: self.canary_waited,
        })
    }

    /// Does what a step says.
    fn set(&mut self) {
        match self.step() {
            SetterStep::Set { rule, text } => {
                self.given = rule.0;
                self.primary.sync_names = text;
            }
            other => panic!("{other:?}"),
        }
    }

    fn awaits(&self) -> usize {
        match self.step() {
            SetterStep::AwaitWalsenders { names } => names.len(),
            SetterStep::Prove { .. } => 0,
            other => panic!("{other:?}"),
        }
    }
}

fn rests(step: &SetterStep) -> bool {
    matches!(step, SetterStep::Rest { .. } | SetterStep::AwaitRenewal)
}

#[test]
fn a_member_that_leaves_is_waited_for_until_its_priority_is_gone() {
    let mut server = Server::new();
    server.propose(2, 1, &["c"]);
    server.set();
    assert_eq!(server.awaits(), 1);
    server.primary.senders[0].sync_priority = 0;
    assert_eq!(server.step(), SetterStep::Prove { rule: RuleId(2) });
}

#[test]
fn another_k_needs_walsenders_started_after_the_reload() {
    let mut server = Server::new();
    server.propose(2, 2, &["b", "c"]);
    server.set();
    server.reloaded = None;
    assert!(rests(&server.step()));
    server.reloaded = Some(STARTED + 5);
    assert_eq!(server.awaits(), 2);
    server.primary.senders[0].started_unix_ms = STARTED + 6;
    assert_eq!(server.awaits(), 1);
    server.primary.senders.remove(1);
    assert_eq!(server.awaits(), 0);
}

#[test]
fn the_way_from_nobody_leads_over_the_fence_and_a_commit_that_waits() {
    let mut server = Server::new();
    server.propose(2, 0, &[]);
    server.set();
    assert_eq!(server.primary.sync_names, "");
    assert!(activate(&mut server.state, 2, 150, &[]).is_ok());
    server.propose(3, 1, &["b"]);
    assert_eq!(server.step(), SetterStep::SetFence);
    server.primary.sync_names = FENCE.to_owned();
    assert_eq!(server.step(), SetterStep::Canary);
    server.canary_waited = true;
    server.set();
    assert_eq!(
        server.primary.sync_names,
        names_text(&rule(3, 1, 1, &["b"]))
    );
}

#[test]
fn an_older_rule_an_unconfirmed_one_and_one_of_a_reign_that_ended_are_not_set() {
    let mut server = Server::new();
    server.propose(2, 1, &["b"]);
    server.confirmed = Some(1);
    assert!(rests(&server.step()), "the renewal answered before");
    server.confirmed = None;
    assert!(rests(&server.step()));
    server.confirmed = Some(2);
    server.given = 3;
    assert!(rests(&server.step()), "it was given a newer one");
    server.given = 1;
    assert!(matches!(server.step(), SetterStep::Set { .. }));
    revoke(&mut server.state);
    assert!(rests(&server.step()));
}

#[test]
fn a_flush_beyond_the_primary_is_poison_under_a_sync_name_only() {
    let mut server = Server::new();
    server.primary.senders[0].flushed = Lsn(201);
    assert!(matches!(server.step(), SetterStep::Poisoned { .. }));
    server.primary.senders[0].sync_priority = 0;
    assert!(!matches!(server.step(), SetterStep::Poisoned { .. }));
}

#[test]
fn a_name_twice_or_a_foreign_one_proves_nothing() {
    let mut server = Server::new();
    assert_eq!(server.step(), SetterStep::Prove { rule: RuleId(1) });
    server.primary.senders.push(sender("b", 1, 150));
    assert!(matches!(server.step(), SetterStep::Foreign { .. }));
    server.primary.senders[2].application_name = "walreceiver".to_owned();
    server.primary.senders[2].pid = 77;
    let found = SetterStep::Foreign {
        names: vec!["walreceiver".to_owned()],
        pids: vec![77],
    };
    assert_eq!(server.step(), found);
    server.primary.senders[2].sync_priority = 0;
    assert_eq!(server.step(), SetterStep::Prove { rule: RuleId(1) });
}

#[test]
fn a_members_name_without_its_slot_is_a_strangers() {
    let mut server = Server::new();
    let mut rogue = sender("b", 1, 200);
    rogue.slot = Some(String::new());
    rogue.pid = 66;
    // Whether the member is connected beside it or not.
    server.primary.senders.push(rogue.clone());
    let found = SetterStep::Foreign {
        names: vec![rogue.application_name.clone()],
        pids: vec![66],
    };
    assert_eq!(server.step(), found);
    server
        .primary
        .senders
        .retain(|it| it.pid == 66 || it.application_name != rogue.application_name);
    assert_eq!(server.step(), found);
}
