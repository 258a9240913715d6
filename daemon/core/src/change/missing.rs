//! The history tells since when a promotion waits for members that may have an acknowledged write. The
//! next Grant ends it.

use crate::model::ClusterState;
use crate::model::missing::MissingTold;

use super::apply::{Applied, At, note};
use super::command::Rejected;

/// Told by the leader, between two reigns.
pub(super) fn tell(
    state: &mut ClusterState,
    at: At,
    told: &MissingTold,
    at_risk: &str,
) -> Result<Applied, Rejected> {
    if state.granted().is_some() || state.epoch() != told.epoch {
        return Err(Rejected::WrongMoment(format!(
            "epoch {} is not the one that waits",
            told.epoch
        )));
    }
    let names: Vec<&str> = told.members.iter().map(|it| it.as_str()).collect();
    let text = format!(
        "nobody is promoted before enough of them are back: {}; at risk: {at_risk}",
        names.join(", ")
    );
    note(state, at, "members-missing", None, text);
    let before = state.missing_told.take();
    let mut known = told.clone();
    if let Some(before) = before.filter(|before| before.epoch == told.epoch) {
        known.members.extend(before.members);
    }
    state.missing_told = Some(known);
    Ok(Applied::Changed)
}
