//! A directory that was rewound and is not consistent yet.

use cluster_core::decide::Action;
use cluster_core::model::view::ProcessSet;
use cluster_core::model::{Epoch, PostgresStatus};

use crate::cluster::serving;
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
