//! A directory that was rewound and is not consistent yet.

use cluster_core::decide::Action;
use cluster_core::model::postgres::Follows;
use cluster_core::model::view::ProcessSet;
use cluster_core::model::{Epoch, PostgresStatus};

use crate::cluster::{name, serving};
use crate::decisions::standby;
use crate::held::acts_having_promised;

/// Found by chaos: the source of a rewind was killed with WAL that nobody else had, up to which the rewound
/// copy had to replay. It was starting for ever.
#[test]
fn a_rewound_server_whose_source_is_no_longer_the_primary_is_stopped_to_be_cloned() {
    let state = serving();
    let set = ProcessSet {
        guard_answers: true,
        ..ProcessSet::default()
    };
    let starting = |rewound_for| PostgresStatus::Starting {
        for_ms: 500,
        rewound_for,
    };
    let act = |postgres| acts_having_promised(Epoch(1), &state, &postgres, &set, None);
    assert_eq!(act(starting(Some(Epoch::NONE))), Action::StopDiverged);
    assert_eq!(act(starting(Some(Epoch(1)))), Action::Idle);
    assert_eq!(act(starting(None)), Action::Idle);
}

/// [X23]: raised by whoever is primary by now, or by a start that came before the others'.
#[test]
fn a_standby_whose_replay_is_paused_for_a_parameter_starts_anew_by_itself() {
    let state = serving();
    let set = ProcessSet {
        guard_answers: true,
        ..ProcessSet::default()
    };
    let following = |has_too_little| {
        let PostgresStatus::Standby(mut standby) = standby(200) else {
            panic!("a standby")
        };
        standby.follows = Some(Follows {
            member: name("a"),
            epoch: Epoch(1),
        });
        standby.replay_paused = has_too_little;
        standby.has_too_little = has_too_little;
        let postgres = PostgresStatus::Standby(standby);
        acts_having_promised(Epoch(1), &state, &postgres, &set, None)
    };
    assert_eq!(following(false), Action::Idle);
    assert_eq!(following(true), Action::RestartStandby { request: None });
}
