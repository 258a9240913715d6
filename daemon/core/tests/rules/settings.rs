//! Settings changed at run time: all or nothing, recorded with who and why.

use std::time::Duration;

use cluster_core::change::{Applied, Command, Rejected};
use cluster_core::decide::{Confirming, confirming};
use cluster_core::model::lease::Preset;
use cluster_core::model::settings::{MemberSettings, Mode};
use cluster_core::model::settings_text::Assignment;
use cluster_core::model::{ClusterState, Settings, SettingsChange};

use crate::cluster::{commit, done, name, rule, serving};
use crate::decisions::Look;

fn set(pairs: &[(&str, &str, Option<&str>)]) -> SettingsChange {
    let assignments: Vec<Assignment> = pairs
        .iter()
        .map(|(key, value, member)| Assignment {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            member: member.map(str::to_owned),
        })
        .collect();
    let (change, problems) = SettingsChange::read(&assignments);
    assert_eq!(problems, Vec::<String>::new());
    change
}

fn change(pairs: &[(&str, &str, Option<&str>)]) -> Command {
    Command::ChangeSettings {
        change: Box::new(set(pairs)),
        expected: None,
        by: "root@db1: less work at night".to_owned(),
    }
}

fn refused(state: &mut ClusterState, command: Command) -> Vec<String> {
    match commit(state, command) {
        Err(Rejected::BadSettings(problems)) => problems,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_is_named_changes_and_the_history_tells_who_and_why() {
    let mut state = serving();
    done(
        &mut state,
        change(&[("k", "2", None), ("zones.b", "east", None)]),
    );
    done(&mut state, change(&[("mode", "strict", None)]));
    assert_eq!((state.settings.mode, state.settings.k), (Mode::Strict, 2));
    assert_eq!(state.settings.zones[&name("b")], "east");
    let told: Vec<&str> = state
        .history
        .iter()
        .filter(|line| line.what == "settings")
        .map(|line| line.reason.as_str())
        .collect();
    assert_eq!(
        told,
        [
            "k 1 -> 2, zones.b none -> east, by root@db1: less work at night",
            "mode sync -> strict, by root@db1: less work at night",
        ]
    );
    let again = commit(&mut state, change(&[("mode", "strict", None)]));
    assert_eq!(again, Ok(Applied::Unchanged), "and nothing is noted");
    assert_eq!(state.live_rules.len(), 1, "the rules follow by decisions");
}

#[test]
fn one_bad_key_keeps_all_of_them_out_and_every_one_is_told() {
    let mut state = serving();
    let problems = refused(
        &mut state,
        change(&[
            ("k", "9", None),
            ("k_min", "3", None),
            ("mode", "strict", None),
            ("zones.z", "east", None),
            ("nosync", "true", Some("y")),
        ]),
    );
    for part in [
        "k: too many",
        "k_min: there are 2",
        "no member z",
        "no member y",
    ] {
        assert!(
            problems.iter().any(|it| it.contains(part)),
            "{part}: {problems:?}"
        );
    }
    assert_eq!(state.settings.zones.len(), 0);
    let problems = refused(
        &mut state,
        change(&[
            ("nosync", "true", Some("b")),
            ("sync_priority", "2", Some("b")),
        ]),
    );
    assert!(problems[0].contains("contradicts nosync"), "{problems:?}");
}

#[test]
fn a_changed_preset_counts_the_old_lease_until_it_is_settled() {
    let mut state = serving();
    done(&mut state, change(&[("preset", "fast", None)]));
    assert_eq!(state.settings.preset, Preset::Fast);
    assert_eq!(state.longest_lease(), Duration::from_secs(3));
    let problems = refused(
        &mut state,
        change(&[("preset", "wan", None), ("k", "0", None)]),
    );
    assert_eq!(problems.len(), 2, "{problems:?}");
    done(&mut state, change(&[("k", "2", None)]));
    done(&mut state, Command::SettleLease);
    done(&mut state, change(&[("preset", "wan", None)]));
}

#[test]
fn what_is_set_for_a_member_counts_over_what_it_announces_and_can_be_taken_back() {
    let mut look = Look::new();
    let b = name("b");
    assert_eq!(look.state.sync_priority(&b), 1);
    done(
        &mut look.state,
        change(&[("sync_priority", "5", Some("b"))]),
    );
    assert_eq!(look.state.sync_priority(&b), 5);
    let both = [
        ("nosync", "on", Some("b")),
        ("sync_priority", "", Some("b")),
    ];
    done(&mut look.state, change(&both));
    assert_eq!(look.state.sync_priority(&b), 0);
    done(&mut look.state, change(&[("nosync", "", Some("b"))]));
    assert_eq!(look.state.sync_priority(&b), 1, "as its file says");
}

#[test]
fn a_member_that_is_set_to_nosync_leaves_the_rule_whatever_its_file_says() {
    let mut look = Look::new();
    done(&mut look.state, change(&[("nosync", "true", Some("b"))]));
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    done(&mut look.state, change(&[("nosync", "", Some("b"))]));
    assert_eq!(look.state.settings.members.len(), 0);
    assert!(look.passes());
    look.tag(
        "b",
        cluster_core::model::Tags {
            nosync: true,
            ..Default::default()
        },
    );
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    done(&mut look.state, change(&[("nosync", "false", Some("b"))]));
    assert!(look.passes());
    let found: Confirming = look.asked(&[], confirming);
    assert_eq!(found.names().count(), 2);
}

#[test]
fn lowering_is_named_and_nothing_else_is() {
    let sync = Settings {
        mode: Mode::Sync,
        k: 2,
        ..Settings::default()
    };
    let lowers = |before: &Settings, pairs: &[(&str, &str, Option<&str>)]| {
        before.lowers(&set(pairs).applied_to(before))
    };
    assert_eq!(lowers(&sync, &[("mode", "async", None)]).len(), 1);
    assert_eq!(lowers(&sync, &[("k", "1", None)]).len(), 1);
    for pair in [
        ("k", "3", None),
        ("mode", "strict", None),
        ("preset", "fast", None),
        ("nosync", "true", Some("b")),
    ] {
        assert_eq!(lowers(&sync, &[pair]), Vec::<String>::new(), "{pair:?}");
    }
    let strict = Settings {
        mode: Mode::Strict,
        k_min: 2,
        ..sync.clone()
    };
    assert_eq!(lowers(&strict, &[("mode", "sync", None)]).len(), 1);
    assert_eq!(lowers(&strict, &[("k_min", "1", None)]).len(), 1);
    let both = lowers(&strict, &[("mode", "sync", None), ("k", "1", None)]);
    assert_eq!(both.len(), 2);
    let none = Settings {
        mode: Mode::Async,
        ..sync
    };
    assert_eq!(lowers(&none, &[("k", "1", None)]), Vec::<String>::new());
    assert_eq!(MemberSettings::default().nosync, None);
}
