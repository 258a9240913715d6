//! The history tells of commits that did not wait as the mode promises.

use crate::model::ClusterState;
use crate::model::bypass::Bypass;

use super::apply::{Applied, At, note};
use super::command::Rejected;

/// Told by the leader, of the primary.
pub(super) fn tell(state: &mut ClusterState, at: At, told: &Bypass) -> Result<Applied, Rejected> {
    let is_primary = state
        .granted()
        .is_some_and(|reign| reign.holder == told.member);
    if !is_primary {
        return Err(Rejected::WrongMoment(format!(
            "{} is not the primary any more",
            told.member
        )));
    }
    let before = state.bypass.take();
    let same_life = before
        .as_ref()
        .filter(|it| it.member == told.member && it.daemon_start == told.daemon_start);
    let (waits, strangers) =
        same_life.map_or((0, 0), |it| (it.cancelled_waits, it.strangers_ended));
    let overrides = before.as_ref().map_or(&[][..], |it| &it.overrides);
    let mut lines = Vec::new();
    if overrides != told.overrides {
        let text = match told.overrides.is_empty() {
            true => "every commit that can be seen waits again as the mode promises".to_owned(),
            false => format!(
                "their commits do not wait as the mode promises: {}",
                told.overrides.join("; ")
            ),
        };
        lines.push(("commits-overridden", text));
    }
    if told.cancelled_waits > waits {
        let more = told.cancelled_waits - waits;
        let text = format!(
            "{more} commits whose wait for a confirmation was cancelled: their clients may take them for safe"
        );
        lines.push(("waits-cancelled", text));
    }
    if told.strangers_ended > strangers {
        let more = told.strangers_ended - strangers;
        let text = format!(
            "{more} connections that confirmed commits and were no member's standby: ended"
        );
        lines.push(("strangers-ended", text));
    }
    for (what, text) in lines {
        note(state, at, what, Some(&told.member), text);
    }
    state.bypass = Some(told.clone());
    Ok(Applied::Changed)
}
