//! A clone that does not fit beside the old copy: it waits and says so, and the old copy is removed first
//! only where that was allowed and enough good copies are seen elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::change::command::MaintenanceWish;
use cluster_core::decide::{Action, MemberVerdict, decide_member};
use cluster_core::model::lease::{Holder, Moment};
use cluster_core::model::member::Health;
use cluster_core::model::postgres::Follows;
use cluster_core::model::view::{Durable, MemberView, NoRoom, ProcessSet, Seen};
use cluster_core::model::{ClusterState, Epoch, Incarnation, MemberName, PostgresStatus};

use crate::cluster::{activate, done, name, propose, rule, serving};
use crate::decisions::{Look, report, standby};

const ROOM: NoRoom = NoRoom {
    needs_bytes: 2000,
    has_bytes: 1000,
    even_in_place: false,
};

/// Only c confirms: nobody needs what member b has.
pub fn without_b() -> ClusterState {
    let mut state = serving();
    assert!(propose(&mut state, rule(2, 1, 1, &["c"])).is_ok());
    assert!(activate(&mut state, 2, 120, &["c"]).is_ok());
    state
}

/// a serves, c streams from it or does not.
fn reports(c_streams: bool) -> BTreeMap<MemberName, Seen> {
    let mut all = Look::new().reports;
    let mut postgres = standby(200);
    if let PostgresStatus::Standby(standby) = &mut postgres {
        standby.follows = c_streams.then(|| Follows {
            member: name("a"),
            epoch: Epoch(1),
        });
    }
    let report = report("c", 2, postgres);
    let age = Duration::ZERO;
    all.insert(name("c"), Seen { report, age });
    all
}

/// What member b does, whose data can only be cured by a clone.
fn asked(
    state: &ClusterState,
    room: Option<&NoRoom>,
    in_place: bool,
    c_streams: bool,
) -> MemberVerdict {
    let postgres = PostgresStatus::Unusable {
        why: "its control file cannot be read".to_owned(),
        clone_would_cure: true,
    };
    member_b(state, &postgres, room, in_place, &reports(c_streams))
}

/// What member b does, which has not sealed and holds no lease.
pub fn member_b(
    state: &ClusterState,
    postgres: &PostgresStatus,
    room: Option<&NoRoom>,
    in_place: bool,
    reports: &BTreeMap<MemberName, Seen>,
) -> MemberVerdict {
    let me: MemberName = name("b");
    let durable = Durable {
        incarnation: Some(Incarnation(1)),
        min_epoch: Epoch(1),
        line: Some(Epoch(1)),
        ..Durable::default()
    };
    let set = ProcessSet {
        guard_answers: true,
        is_empty: !matches!(postgres, PostgresStatus::Standby(_)),
        ..ProcessSet::default()
    };
    decide_member(&MemberView {
        now: Moment::default(),
        me: &me,
        is_witness: false,
        state,
        truth_is_current: true,
        times: state.settings.times(),
        durable: &durable,
        postgres,
        system_identifier: Some(1),
        set: &set,
        holder: &Holder::default(),
        health: &Health::default(),
        busy: None,
        seal: None,
        is_prepared: false,
        drained: None,
        done_request: None,
        cannot_read_wal: false,
        needs_rewind: false,
        rewind_impossible: false,
        high_water: None,
        gave_up: None,
        releasing: None,
        no_room: room,
        spent_donor: None,
        clones_in_place: in_place,
        reports,
    })
}

fn in_place(verdict: &MemberVerdict) -> Option<u64> {
    match &verdict.action {
        Action::Clone { in_place, .. } => *in_place,
        other => panic!("{other:?}"),
    }
}

fn waits(verdict: &MemberVerdict, because: &str) {
    assert_eq!(
        (&verdict.action, verdict.reason.code()),
        (&Action::Idle, "no-room")
    );
    let text = verdict.reason.to_string();
    assert!(text.contains("needs 2000 bytes, has 1000"), "{text}");
    assert!(text.contains(because), "{text}");
}

#[test]
fn a_clone_is_made_beside_the_old_copy_as_long_as_nothing_is_known_against_it() {
    let state = without_b();
    assert_eq!(in_place(&asked(&state, None, true, true)), None);
}

#[test]
fn without_room_it_waits_and_says_how_much_is_missing() {
    waits(
        &asked(&without_b(), Some(&ROOM), false, true),
        "clone_in_place is off",
    );
}

#[test]
fn where_it_is_allowed_and_others_have_good_copies_the_old_one_goes_first() {
    let verdict = asked(&without_b(), Some(&ROOM), true, true);
    assert_eq!(in_place(&verdict), Some(2000));
    assert_eq!(verdict.reason.code(), "clone-in-place");
}

#[test]
fn the_last_good_copies_are_never_removed_first() {
    let state = without_b();
    waits(&asked(&state, Some(&ROOM), true, false), "one good copy");
    // Rule 1 names b and c: b may be the one that confirmed.
    waits(
        &asked(&serving(), Some(&ROOM), true, true),
        "counts on this copy",
    );
    let hopeless = NoRoom {
        even_in_place: true,
        ..ROOM
    };
    waits(&asked(&state, Some(&hopeless), true, true), "not even");
}

/// c has the tag, streams, and the primary has made a checkpoint of this epoch.
fn with_donor(clonefrom: bool, checkpointed: Epoch) -> BTreeMap<MemberName, Seen> {
    let mut all = reports(true);
    if let Some(seen) = all.get_mut(&name("c")) {
        seen.report.tags.clonefrom = clonefrom;
    }
    if let Some(seen) = all.get_mut(&name("a")) {
        seen.report.checkpointed = checkpointed;
    }
    all
}

fn cloned_from(verdict: &MemberVerdict) -> &str {
    match &verdict.action {
        Action::Clone { from, .. } => from.as_str(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_standby_with_the_tag_spares_the_primary_the_work() {
    let broken = PostgresStatus::Unusable {
        why: "its control file cannot be read".to_owned(),
        clone_would_cure: true,
    };
    let ask = |state: &ClusterState, room, reports: &BTreeMap<MemberName, Seen>| {
        member_b(state, &broken, room, true, reports)
    };
    let state = without_b();
    let good = with_donor(true, Epoch(1));
    assert_eq!(cloned_from(&ask(&state, None, &good)), "c");
    // In place it relies on nobody but the holder.
    assert_eq!(cloned_from(&ask(&state, Some(&ROOM), &good)), "a");
    let mut silent = with_donor(true, Epoch(1));
    if let Some(seen) = silent.get_mut(&name("c")) {
        seen.age = Duration::from_secs(5);
    }
    let mut elsewhere = reports(false);
    elsewhere.insert(name("a"), good[&name("a")].clone());
    if let Some(seen) = elsewhere.get_mut(&name("c")) {
        seen.report.tags.clonefrom = true;
    }
    for (reports, why) in [
        (with_donor(false, Epoch(1)), "no tag"),
        (with_donor(true, Epoch::NONE), "no checkpoint of this epoch"),
        (silent, "not heard"),
        (elsewhere, "does not stream"),
    ] {
        assert_eq!(cloned_from(&ask(&state, None, &reports)), "a", "{why}");
    }
    let mut maintained = without_b();
    let wish = MaintenanceWish {
        member: name("c"),
        until_unix_ms: 1,
        until: String::new(),
        force: true,
        by: "root@db1".to_owned(),
    };
    done(&mut maintained, Command::BeginMaintenance(Box::new(wish)));
    assert_eq!(cloned_from(&ask(&maintained, None, &good)), "a");
}
