//! Snapshots: one at a time, void with their epoch or their taker, and what comes back after a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster_core::change::command::SnapshotWish;
use cluster_core::change::{Applied, Command, Rejected};
use cluster_core::decide::snapshots::{SILENCE_LIMIT, taker_lost};
use cluster_core::decide::{Reason, Verdict};
use cluster_core::model::settings::{MemberSettings, Mode};
use cluster_core::model::snapshot::{
    FILES_KEPT, MemberPart, NOT_HEARD, Origin, PartStatus, SNAPSHOTS_REMEMBERED, SnapshotFile,
};
use cluster_core::model::view::ClusterView;
use cluster_core::model::{
    Addresses, ClusterId, ClusterState, Epoch, Generation, Lsn, MemberKind, NodeId, Settings,
    SnapshotId, TimelineId,
};

use crate::cluster::{commit, done, formed, grant, name, put, revoke, rule, seal, serving};

fn id(number: u128) -> SnapshotId {
    SnapshotId::from_random(number)
}

fn begin(number: u128, taker: &str) -> Command {
    Command::BeginSnapshot {
        id: id(number),
        wish: SnapshotWish {
            taker: name(taker),
            recipients: Vec::new(),
            by: "a test".to_owned(),
        },
    }
}

fn part(number: u128, member: &str) -> Command {
    let part = MemberPart {
        node: NodeId(1),
        kind: MemberKind::Database,
        incarnation: None,
        postgres: "streaming".to_owned(),
        timeline: Some(TimelineId(1)),
        lsn: Some(Lsn(100)),
        version: "0".to_owned(),
        server_version: None,
        addresses: Addresses::default(),
        repository: None,
    };
    Command::DescribeSnapshot {
        id: id(number),
        member: name(member),
        part: Box::new(part),
    }
}

fn complete(number: u128, taker: &str) -> Command {
    Command::CompleteSnapshot {
        id: id(number),
        member: name(taker),
        file: SnapshotFile {
            bytes: 7,
            sha256: "00".to_owned(),
            timeline: TimelineId(1),
            start: Lsn(100),
            end: Lsn(200),
            major: 15,
        },
    }
}

fn void(number: u128) -> Command {
    Command::FailSnapshot {
        id: id(number),
        why: "no room".to_owned(),
    }
}

fn word(state: &ClusterState, number: u128, member: &str) -> (PartStatus, Option<String>) {
    let (status, why) = state.snapshots[&id(number)].status_of(&name(member));
    (status, why.map(str::to_owned))
}

#[test]
fn who_was_not_heard_is_missing_and_the_rest_is_complete() {
    let mut state = serving();
    done(&mut state, begin(1, "b"));
    assert_eq!(commit(&mut state, begin(1, "b")), Ok(Applied::Unchanged));
    assert_eq!(word(&state, 1, "a"), (PartStatus::Processing, None));
    done(&mut state, part(1, "a"));
    let early = commit(&mut state, complete(1, "b"));
    assert!(matches!(early, Err(Rejected::Refused(_))), "{early:?}");
    done(&mut state, part(1, "b"));
    let other = commit(&mut state, complete(1, "a"));
    assert!(matches!(other, Err(Rejected::Refused(_))), "{other:?}");
    done(&mut state, complete(1, "b"));
    assert_eq!(commit(&mut state, complete(1, "b")), Ok(Applied::Unchanged));
    for (member, status, why) in [
        ("a", PartStatus::Completed, None),
        ("b", PartStatus::Completed, None),
        ("c", PartStatus::Missing, Some(NOT_HEARD.to_owned())),
    ] {
        assert_eq!(word(&state, 1, member), (status, why), "{member}");
    }
    assert_eq!(word(&state, 1, "nobody").0, PartStatus::Missing);
    // A failure that is told by somebody who is behind undoes nothing; a file that is gone is told otherwise.
    let behind = commit(&mut state, void(1));
    assert!(matches!(behind, Err(Rejected::Refused(_))), "{behind:?}");
    assert_eq!(word(&state, 1, "a"), (PartStatus::Completed, None));
    let gone = Command::LoseSnapshot {
        id: id(1),
        why: "gone".to_owned(),
    };
    done(&mut state, gone.clone());
    assert_eq!(
        word(&state, 1, "a"),
        (PartStatus::Missing, Some("gone".to_owned()))
    );
    assert!(commit(&mut state, gone).is_err(), "it has no file any more");
    let late = commit(&mut state, part(1, "c"));
    assert!(matches!(late, Err(Rejected::Refused(_))), "{late:?}");
}

#[test]
fn one_at_a_time_and_only_under_a_primary() {
    let mut state = serving();
    done(&mut state, begin(1, "b"));
    let second = commit(&mut state, begin(2, "c")).expect_err("one is open");
    assert!(second.to_string().contains("one at a time"), "{second}");
    done(&mut state, void(1));
    assert_eq!(word(&state, 1, "b").0, PartStatus::Failed);
    done(&mut state, begin(2, "c"));
    done(&mut state, void(2));
    revoke(&mut state);
    let without = commit(&mut state, begin(3, "b")).expect_err("no primary");
    assert!(without.to_string().contains("no primary"), "{without}");
}

/// A copy that was made across a failover is of two histories.
#[test]
fn another_epoch_voids_what_is_under_way() {
    let mut state = serving();
    done(&mut state, begin(1, "b"));
    done(&mut state, part(1, "b"));
    revoke(&mut state);
    let both = vec![seal("b", 2, 200), seal("c", 2, 150)];
    let next = grant(&state, "b", rule(2, 2, 1, &["c"]), both);
    assert_eq!(put(&mut state, next), Ok(Applied::Changed));
    let refused = commit(&mut state, complete(1, "b"));
    assert!(
        matches!(refused, Err(Rejected::WrongEpoch { .. })),
        "{refused:?}"
    );
}

#[test]
fn only_the_newest_files_of_a_member_are_kept_and_the_catalogue_is_bounded() {
    let mut state = serving();
    let last = SNAPSHOTS_REMEMBERED as u128 + 5;
    for number in 1..=last {
        let mut take = |command| {
            let stamp = cluster_core::change::Stamp {
                version: 1,
                at_unix_ms: 0,
                command,
            };
            let index = u64::try_from(number).expect("small");
            cluster_core::change::apply(&mut state, index, &stamp).expect("applied");
        };
        take(begin(number, "b"));
        take(part(number, "b"));
        take(complete(number, "b"));
    }
    assert_eq!(state.snapshots.len(), SNAPSHOTS_REMEMBERED);
    let with_file: BTreeSet<SnapshotId> = state
        .snapshots
        .iter()
        .filter(|(_, it)| it.file().is_some())
        .map(|(id, _)| id.clone())
        .collect();
    let newest = (last - FILES_KEPT as u128 + 1..=last).map(id).collect();
    assert_eq!(with_file, newest);
    assert_eq!(word(&state, last - 2, "b").0, PartStatus::Missing);
}

#[test]
fn a_silent_taker_voids_its_snapshot_after_a_while_and_not_before() {
    let mut state = serving();
    let look = |state: &ClusterState, leading_for| {
        let (reports, requests) = (BTreeMap::new(), BTreeMap::new());
        let view = ClusterView::settled(NodeId(1), state, &reports, &[], &requests);
        taker_lost(&ClusterView {
            leading_for,
            ..view
        })
    };
    assert_eq!(
        look(&state, SILENCE_LIMIT),
        Verdict::Pass,
        "nothing is open"
    );
    done(&mut state, begin(1, "b"));
    let early = look(&state, SILENCE_LIMIT - Duration::from_millis(1));
    assert_eq!(early, Verdict::Pass);
    let Verdict::Propose(command, reason) = look(&state, SILENCE_LIMIT) else {
        panic!("nothing is proposed");
    };
    assert_eq!(reason, Reason::SnapshotVoid(name("b")));
    done(&mut state, *command);
    assert_eq!(word(&state, 1, "c").0, PartStatus::Failed);
    assert_eq!(look(&state, SILENCE_LIMIT), Verdict::Pass, "it is over");
}

fn restored(member: &str, settings: Settings) -> Command {
    Command::Restored {
        member: name(member),
        origin: Box::new(Origin {
            snapshot: id(1),
            cluster: ClusterId("old".to_owned()),
            generation: Generation(1),
            epoch: Epoch(7),
            timeline: TimelineId(3),
            end: Lsn(200),
            repositories: BTreeSet::from(["/srv/old".to_owned()]),
        }),
        settings: Box::new(settings),
    }
}

#[test]
fn settings_of_a_snapshot_come_back_as_far_as_they_fit() {
    let mut state = formed(Mode::Async);
    state.system_identifier = None;
    let mut settings = Settings {
        mode: Mode::Sync,
        maximum_lag_on_failover_bytes: 5,
        ..Settings::default()
    };
    settings.zones.insert(name("long-gone"), "east".to_owned());
    settings.zones.insert(name("a"), "west".to_owned());
    let own = MemberSettings::default();
    settings.members.insert(name("long-gone"), own);
    state.initializer = None;
    let early = commit(&mut state, restored("a", settings.clone()));
    assert!(matches!(early, Err(Rejected::WrongMoment(_))), "{early:?}");
    done(&mut state, Command::Initialize { member: name("a") });
    let other = commit(&mut state, restored("b", settings.clone()));
    assert!(matches!(other, Err(Rejected::WrongMoment(_))), "{other:?}");
    done(&mut state, restored("a", settings.clone()));
    assert_eq!(state.settings.mode, Mode::Sync);
    assert_eq!(state.settings.maximum_lag_on_failover_bytes, 5);
    assert_eq!(state.settings.zones.len(), 1);
    assert!(state.settings.members.is_empty());
    assert_eq!(
        commit(&mut state, restored("a", settings)),
        Ok(Applied::Unchanged)
    );
    assert_eq!(state.epoch(), Epoch::NONE, "no epoch is taken over");
    let data = Command::Initialized {
        member: name("a"),
        system_identifier: 7,
        timeline: TimelineId(3),
    };
    done(&mut state, data);
    state.origin = None;
    let late = commit(&mut state, restored("a", Settings::default()));
    assert!(matches!(late, Err(Rejected::WrongMoment(_))), "{late:?}");
}

/// More than the members there are now can do: the founding settings stay, and the data still comes back.
#[test]
fn settings_that_do_not_fit_do_not_keep_the_data_from_coming_back() {
    let mut state = formed(Mode::Async);
    state.system_identifier = None;
    state.initializer = Some(name("a"));
    let settings = Settings {
        mode: Mode::Strict,
        k: 8,
        k_min: 8,
        ..Settings::default()
    };
    done(&mut state, restored("a", settings));
    assert_eq!(state.settings.mode, Mode::Async);
    assert!(state.origin.is_some());
    let told = state.history.last().expect("noted");
    assert!(told.reason.contains("do not fit"), "{}", told.reason);
}
