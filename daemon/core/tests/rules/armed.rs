//! Processes that were armed for a promotion, of an epoch that is over.

use cluster_core::decide::Action;
use cluster_core::model::view::ProcessSet;
use cluster_core::model::{Epoch, PostgresStatus};

use crate::cluster::{revoke, serving};
use crate::decisions::standby;
use crate::held::acts;

/// Found by the simulation: the daemon died after it had asked for a promotion, PostgreSQL hung in it,
/// and the guard's clock was slow. The daemon came back and promised the next epoch, while the old
/// promotion could still come to its end.
#[test]
fn what_was_armed_for_an_epoch_that_is_over_is_killed_before_anything_is_promised() {
    let mut state = serving();
    revoke(&mut state);
    let hangs = PostgresStatus::Unresponsive {
        for_ms: 100,
        was_primary: false,
    };
    let armed = |epoch| ProcessSet {
        armed: epoch,
        guard_answers: true,
        ..ProcessSet::default()
    };
    for postgres in [&hangs, &standby(200)] {
        let action = acts(&state, postgres, &armed(Some(Epoch(1))), None);
        assert!(matches!(action, Action::Fence { .. }), "{action:?}");
        let action = acts(&state, postgres, &armed(None), None);
        assert!(!matches!(action, Action::Fence { .. }), "{action:?}");
    }
}
