//! A standby that has WAL and does not replay it (a pause, an apply delay, a query in its way): it
//! seals, it counts, others fetch what it has, and it is promoted last, after it has replayed all.

use std::collections::BTreeMap;

use cluster_core::change::Command;
use cluster_core::decide::{Action, Verdict, decide_member};
use cluster_core::model::lease::{Holder, Moment};
use cluster_core::model::member::{Health, SealReport};
use cluster_core::model::postgres::Standby;
use cluster_core::model::settings::Mode;
use cluster_core::model::view::{Durable, MemberView, ProcessSet};
use cluster_core::model::{
    ClusterState, Epoch, Incarnation, Lsn, MemberName, PostgresStatus, Tags,
};

use crate::cluster::{done, grant, name, put, revoke, rule, seal, serving};
use crate::decisions::{Look, standby};

/// Received up to here, replayed up to `replayed`, following nobody.
fn held(received: u64, replayed: u64) -> Standby {
    let PostgresStatus::Standby(mut it) = standby(received) else {
        panic!("no standby")
    };
    it.receiver = None;
    it.replayed = Lsn(replayed);
    it.at_end_of_wal = false;
    it.replay_is_held = true;
    it
}

/// What member b does that has promised epoch 2.
fn asked(state: &ClusterState, standby: Standby, seal: Option<&SealReport>) -> Action {
    let set = ProcessSet {
        guard_answers: true,
        ..ProcessSet::default()
    };
    acts(state, &PostgresStatus::Standby(standby), &set, seal)
}

/// The same of any server and its processes.
pub fn acts(
    state: &ClusterState,
    postgres: &PostgresStatus,
    set: &ProcessSet,
    seal: Option<&SealReport>,
) -> Action {
    acts_having_promised(Epoch(2), state, postgres, set, seal)
}

/// The same of a member that has promised another epoch.
pub fn acts_having_promised(
    min_epoch: Epoch,
    state: &ClusterState,
    postgres: &PostgresStatus,
    set: &ProcessSet,
    seal: Option<&SealReport>,
) -> Action {
    let me: MemberName = name("b");
    let durable = Durable {
        incarnation: Some(Incarnation(1)),
        min_epoch,
        line: Some(Epoch(1)),
        ..Durable::default()
    };
    let verdict = decide_member(&MemberView {
        now: Moment::default(),
        me: &me,
        is_witness: false,
        state,
        truth_is_current: true,
        times: state.settings.times(),
        durable: &durable,
        postgres,
        system_identifier: Some(1),
        set,
        holder: &Holder::default(),
        health: &Health::default(),
        busy: None,
        seal,
        is_prepared: false,
        drained: None,
        done_request: None,
        cannot_read_wal: false,
        needs_rewind: false,
        rewind_impossible: false,
        high_water: None,
        no_room: None,
        spent_donor: None,
        clones_in_place: false,
        reports: &BTreeMap::new(),
        gave_up: None,
        releasing: None,
    });
    verdict.action
}

fn of_line(end: u64) -> SealReport {
    SealReport {
        timeline: cluster_core::model::TimelineId(2),
        ..seal("b", 2, end)
    }
}

fn revoked() -> ClusterState {
    let mut state = serving();
    revoke(&mut state);
    state
}

#[test]
fn a_held_standby_seals_by_its_files_and_one_that_still_replays_by_its_replay() {
    let state = revoked();
    let target = Epoch(2);
    assert_eq!(
        asked(&state, held(200, 150), None),
        Action::ReadEndOfWal { target }
    );
    let replays = Standby {
        replay_is_held: false,
        ..held(200, 150)
    };
    assert_eq!(asked(&state, replays, None), Action::Idle);
    let known = of_line(200);
    let sealed = asked(&state, held(200, 150), Some(&known));
    assert_eq!(sealed, Action::Idle, "sealed, and nothing is replayed");
}

#[test]
fn whoever_is_granted_replays_everything_before_it_is_promoted() {
    let mut state = revoked();
    let sealed = vec![of_line(200), seal("c", 2, 190)];
    let mut wanted = grant(&state, "b", rule(2, 2, 1, &[]), sealed.clone());
    wanted.parent = sealed[0].timeline;
    assert!(put(&mut state, wanted).is_ok());
    let epoch = Epoch(2);
    assert_eq!(
        asked(&state, held(200, 150), Some(&sealed[0])),
        Action::ReplayEverything { epoch }
    );
}

/// A server that was started anew hands on only what it has replayed.
#[test]
fn a_source_replays_only_what_it_could_not_hand_on_otherwise() {
    let mut state = revoked();
    let fetch = cluster_core::model::state::FastForward {
        target: Epoch(2),
        member: name("c"),
        incarnation: Incarnation(1),
        from: name("b"),
        timeline: cluster_core::model::TimelineId(2),
        until: Lsn(200),
    };
    done(&mut state, Command::FastForward(Box::new(fetch)));
    let known = of_line(200);
    let running = asked(&state, held(200, 150), Some(&known));
    assert_eq!(running, Action::Idle, "it streams what it has received");
    let started = Standby {
        received: None,
        ..held(200, 150)
    };
    let epoch = Epoch(2);
    assert_eq!(
        asked(&state, started, Some(&known)),
        Action::ReplayEverything { epoch }
    );
}

fn chosen(look: &mut Look) -> (Command, &'static str) {
    match look.verdict() {
        (Verdict::Propose(command, _), code) => (*command, code),
        other => panic!("{other:?}"),
    }
}

fn both_sealed(mode: Mode) -> Look {
    let mut look = Look::new();
    revoke(&mut look.state);
    look.state.settings.mode = mode;
    look.silent("a");
    look.report("b").postgres = PostgresStatus::Standby(held(200, 150));
    look.sealed("b", 200);
    look.sealed("c", 190);
    look
}

#[test]
fn a_held_standby_that_has_more_is_the_source_for_one_that_replays() {
    let mut look = both_sealed(Mode::Sync);
    let (command, code) = chosen(&mut look);
    assert_eq!(code, "fast-forward");
    let Command::FastForward(wanted) = command else {
        panic!("{command:?}")
    };
    assert_eq!((wanted.member, wanted.from), (name("c"), name("b")));
    // Equal, and the one whose replay is held still comes last.
    look.sealed("c", 200);
    let Command::Grant(granted) = chosen(&mut look).0 else {
        panic!("no grant")
    };
    assert_eq!(granted.member, name("c"));
}

/// Found by a scenario on a busy machine: sealing had taken all of the patience, and while the candidate fetched, which
/// takes its seal away, the held one was promoted.
#[test]
fn while_the_candidate_fetches_nobody_else_is_promoted() {
    let mut look = both_sealed(Mode::Sync);
    // Nobody but b has confirmed anything, so b alone blocks the rule.
    look.state.live_rules = vec![rule(1, 1, 1, &["b"])];
    let (command, _) = chosen(&mut look);
    done(&mut look.state, command);
    look.report("c").seal = None;
    let patience = look.state.settings.seal_patience();
    look.ended_age = patience * 2;
    let waits = |look: &Look| match look.verdict() {
        (Verdict::Wait(_), code) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(waits(&look), "fast-forward");
    // For a time, and as long as it is heard.
    look.ended_age = patience * 4;
    let Command::Grant(granted) = chosen(&mut look).0 else {
        panic!("no grant")
    };
    assert_eq!(granted.member, name("b"));
    look.ended_age = patience * 2;
    look.silent("c");
    let Command::Grant(granted) = chosen(&mut look).0 else {
        panic!("no grant")
    };
    assert_eq!(granted.member, name("b"));
}

#[test]
fn a_held_standby_is_promoted_when_nobody_else_can_be() {
    let mut look = both_sealed(Mode::Sync);
    let never = Tags {
        nofailover: true,
        ..Tags::default()
    };
    look.tag("c", never);
    let Command::Grant(granted) = chosen(&mut look).0 else {
        panic!("no grant")
    };
    assert_eq!((granted.member, granted.start), (name("b"), Lsn(200)));
}

/// Found by a scenario: it followed the new primary and could not stream from it, and primary after
/// primary was given up for that.
#[test]
fn a_held_standby_that_cannot_attach_leaves_the_rule_and_the_primary_is_not_blamed() {
    let mut look = Look::new();
    look.report("b").postgres = PostgresStatus::Standby(held(200, 150));
    look.late("b", 9_000).late("c", 9_000).silent("c");
    look.of("b").is_connected = false;
    look.proposes(&rule(2, 1, 0, &[]), "degrade");
    let PostgresStatus::Standby(receives) = standby(200) else {
        panic!("no standby")
    };
    let mut look = Look::new();
    look.report("b").postgres = PostgresStatus::Standby(Standby {
        replay_is_held: true,
        ..receives
    });
    assert!(look.passes(), "it receives, so it confirms");
}

/// In `async` nothing is fetched from another member.
#[test]
fn in_async_what_only_a_held_standby_has_is_not_left_behind() {
    let mut look = both_sealed(Mode::Async);
    let Command::Grant(granted) = chosen(&mut look).0 else {
        panic!("no grant")
    };
    assert_eq!(granted.member, name("b"));
}
