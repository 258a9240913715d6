//! Rule: a snapshot whose taker is gone does not stay under way for ever.

use std::time::Duration;

use crate::change::Command;
use crate::model::view::ClusterView;
use crate::model::{MemberName, PostgresStatus};

use super::cluster::{Verdict, propose};
use super::reason::Reason;

/// So long the taker may be silent. Judgement: longer than a restart of its daemon, which tells by itself
/// what became of the snapshot.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Gives a snapshot up whose taker has not been heard for long.
pub fn taker_lost(view: &ClusterView) -> Verdict {
    let mut open = view.state.snapshots.iter().filter(|(_, it)| it.is_open());
    let Some((id, snapshot)) = open.next() else {
        return Verdict::Pass;
    };
    let seen = view.reports.get(&snapshot.taker);
    let silent = seen.map_or(view.leading_for, |seen| seen.age);
    if silent < SILENCE_LIMIT {
        return Verdict::Pass;
    }
    let void = Command::FailSnapshot {
        id: id.clone(),
        why: format!(
            "{} was not heard for {} s while it took it",
            snapshot.taker,
            SILENCE_LIMIT.as_secs()
        ),
    };
    propose(void, Reason::SnapshotVoid(snapshot.taker.clone()))
}

/// Who takes a snapshot: the member that is wanted, else a standby that streams, else the primary. A copy
/// costs the server that makes it.
///
/// # Errors
/// Nobody can; a sentence.
pub fn taker(view: &ClusterView, wanted: Option<&MemberName>) -> Result<MemberName, String> {
    if view.state.followable().is_none() {
        return Err("there is no primary: what a snapshot would hold is not settled".to_owned());
    }
    let rank = |name: &MemberName| copying_costs(view, name);
    if let Some(name) = wanted {
        if !view.state.members.contains_key(name) {
            return Err(format!("{name} is no member"));
        }
        return match rank(name) {
            Some(_) => Ok(name.clone()),
            None => Err(format!(
                "{name} is neither the primary nor a standby that streams from it"
            )),
        };
    }
    let all = view.state.databases();
    let can = all.filter_map(|(name, _)| Some((rank(name)?, name)));
    let best = can.min();
    best.map(|(_, name)| name.clone())
        .ok_or_else(|| "no member's PostgreSQL can be copied now".to_owned())
}

/// What it costs to copy this member's PostgreSQL: a standby that streams less than the primary. None: it cannot be
/// copied now.
pub(super) fn copying_costs(view: &ClusterView, name: &MemberName) -> Option<u8> {
    let reign = view.state.followable()?;
    match &view.fresh(name)?.postgres {
        PostgresStatus::Standby(standby) => {
            let follows = standby.follows.as_ref()?;
            let streams = standby.receiver.as_ref()?.is_streaming;
            (streams && follows.epoch == reign.epoch).then_some(0)
        }
        PostgresStatus::Primary(primary) => (primary.timeline == reign.timeline).then_some(1),
        PostgresStatus::Unknown { .. }
        | PostgresStatus::Empty
        | PostgresStatus::Unusable { .. }
        | PostgresStatus::Stopped(_)
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => None,
    }
}
