//! Rule: that a promotion waits for members stands in the history, once for each of them, so that it can
//! be said later since when it did; one that comes and goes must not push everything else out.

use crate::change::Command;
use crate::model::missing::MissingTold;
use crate::model::view::ClusterView;

use super::cluster::{Verdict, propose};
use super::losses::blocked;
use super::reason::Reason;

/// Told once it has lasted a lease: what takes less is a failover under way.
pub fn tell(view: &ClusterView) -> Verdict {
    if view.ended_age < view.times.lease {
        return Verdict::Pass;
    }
    let Some(found) = blocked(view) else {
        return Verdict::Pass;
    };
    let told = MissingTold {
        epoch: view.state.epoch(),
        members: found.missing.into_iter().map(|(name, _)| name).collect(),
    };
    let before = view.state.missing_told.as_ref();
    if before.is_some_and(|it| it.epoch == told.epoch && it.members.is_superset(&told.members)) {
        return Verdict::Pass;
    }
    let names = told.members.iter().cloned().collect();
    propose(
        Command::TellMissing(Box::new(told), found.at_risk),
        Reason::TellsMissing(names),
    )
}
