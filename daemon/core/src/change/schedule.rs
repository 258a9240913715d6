//! Commands about what is to be done at a time. When it is due it becomes a request like any other, or is
//! dropped with the reason in the history: never done late, and never in silence.

use crate::model::schedule::{Due, Schedule, Slot, Work};
use crate::model::{ClusterState, RequestId};

use super::apply::{self, Applied, At, note};
use super::command::{Rejected, Scheduling};

/// It is recorded.
pub(super) fn schedule(
    state: &mut ClusterState,
    at: At,
    wanted: &Scheduling,
) -> Result<Applied, Rejected> {
    let Scheduling {
        id,
        work,
        due,
        replaces,
        by,
    } = wanted;
    if let Some(known) = state.schedules.iter().find(|it| it.id == *id) {
        return match known.work == *work && known.due == *due {
            true => Ok(Applied::Unchanged),
            false => Err(Rejected::Refused(format!("schedule {id} was another one"))),
        };
    }
    // It has become a request, and this is the question of a moment ago once more.
    if state.requests.contains_key(id) {
        return Ok(Applied::Unchanged);
    }
    for name in work.members() {
        apply::with_a_server(state, name)?;
    }
    if let Work::Switchover {
        from: Some(from),
        to: Some(to),
    } = work
        && from == to
    {
        return Err(Rejected::Refused(format!(
            "a switchover from {from} to itself is none"
        )));
    }
    if state.pause.is_some() {
        return Err(Rejected::Refused(
            "the cluster is paused: nothing can be scheduled".to_owned(),
        ));
    }
    let slot = work.slot();
    let known = state.schedules.iter().position(|it| it.work.slot() == slot);
    let mut instead = String::new();
    if let Some(place) = known {
        let known = &state.schedules[place];
        if !replaces {
            return Err(Rejected::Scheduled {
                what: known.work.to_string(),
                due: known.due.text.clone(),
            });
        }
        instead = format!(", instead of {} at {}", known.work, known.due.text);
        state.schedules.remove(place);
    }
    state.schedules.push(Schedule {
        id: id.clone(),
        work: work.clone(),
        due: due.clone(),
        by: by.clone(),
        at_unix_ms: at.unix_ms,
        index: at.index,
    });
    state
        .schedules
        .sort_by_key(|schedule| (schedule.due.unix_ms, schedule.index));
    let text = format!("{work} at {}{instead}, by {by}", due.text);
    note(state, at, "scheduled", member_of(work), text);
    Ok(Applied::Changed)
}

fn member_of(work: &Work) -> Option<&crate::model::MemberName> {
    match work {
        Work::Switchover { to, .. } => to.as_ref(),
        Work::Restart { member, .. } => Some(member),
    }
}

/// An operator takes it back.
pub(super) fn unschedule(
    state: &mut ClusterState,
    at: At,
    slot: &Slot,
    by: &str,
) -> Result<Applied, Rejected> {
    let known = state
        .schedules
        .iter()
        .position(|it| it.work.slot() == *slot);
    let Some(place) = known else {
        return Err(Rejected::NotScheduled(match slot {
            Slot::Switchover => "no switchover is scheduled".to_owned(),
            Slot::Restart(member) => format!("no restart of {member} is scheduled"),
        }));
    };
    let Schedule { work, due, .. } = state.schedules.remove(place);
    let text = format!("{work} at {}, by {by}", due.text);
    note(state, at, "unscheduled", member_of(&work), text);
    Ok(Applied::Changed)
}

/// The leader gives it up.
pub(super) fn drop(
    state: &mut ClusterState,
    at: At,
    id: &RequestId,
    why: &str,
) -> Result<Applied, Rejected> {
    let Some(place) = state.schedules.iter().position(|it| it.id == *id) else {
        return Ok(Applied::Unchanged);
    };
    let schedule = state.schedules.remove(place);
    dropped(state, at, &schedule, why);
    Ok(Applied::Changed)
}

fn dropped(state: &mut ClusterState, at: At, schedule: &Schedule, why: &str) {
    let Schedule { work, due, .. } = schedule;
    let text = format!("{work} at {}: {why}", due.text);
    note(state, at, "schedule-dropped", member_of(work), text);
}

/// It is due: a request is made of it, unless what refuses one by hand refuses it too.
pub(super) fn begin(state: &mut ClusterState, at: At, id: &RequestId) -> Result<Applied, Rejected> {
    let Some(place) = state.schedules.iter().position(|it| it.id == *id) else {
        return Ok(Applied::Unchanged);
    };
    let schedule = state.schedules.remove(place);
    let kind = schedule.work.kind();
    let refused = other_primary(state, &schedule.work).or_else(|| {
        let checked = apply::check_request(state, &kind);
        checked.err().map(|why| why.to_string())
    });
    match refused {
        Some(why) => dropped(state, at, &schedule, &why),
        None => {
            let Schedule {
                id,
                work,
                due: Due { text, .. },
                by,
                ..
            } = schedule;
            let by = format!("{by} (scheduled for {text})");
            apply::record(state, at, &id, &kind, work.limit_ms(), &by);
        }
    }
    Ok(Applied::Changed)
}

/// The switchover was to be away from somebody who is not the primary now.
fn other_primary(state: &ClusterState, work: &Work) -> Option<String> {
    let Work::Switchover {
        from: Some(from), ..
    } = work
    else {
        return None;
    };
    let holder = state.granted().map(|reign| &reign.holder);
    match holder {
        Some(holder) if holder == from => None,
        Some(holder) => Some(format!("{from} is not the primary now, {holder} is")),
        None => Some(format!("{from} is not the primary now, nobody is")),
    }
}
