//! A clone, and what is done when a second copy does not fit beside the old one.
//!
//! Nothing is destroyed before its replacement is proven. Removing the old copy first is the one
//! exception: the operator of this member allowed it, and enough good copies are seen elsewhere.

use std::time::Duration;

use crate::model::view::{MemberView, NoRoom, Seen};
use crate::model::{MemberName, PostgresStatus, Reign, RequestId};

use super::member::{Action, MemberVerdict, act, idle};
use super::reason::Reason;

/// Clones from the holder of `reign`, for this reason; or says why there is no room for it.
pub fn clone(
    view: &MemberView,
    reign: &Reign,
    request: Option<RequestId>,
    why: String,
) -> MemberVerdict {
    let clone = |from: MemberName, in_place| Action::Clone {
        from,
        epoch: reign.epoch,
        request,
        in_place,
    };
    let Some(room) = view.no_room else {
        let from = donor(view, reign).unwrap_or(&reign.holder).clone();
        return act(clone(from.clone(), None), Reason::Clone(from, why));
    };
    // Whoever removes its old copy relies on nobody but the holder.
    let from = reign.holder.clone();
    let space = format!("needs {} bytes, has {}", room.needs_bytes, room.has_bytes);
    match must_stay(view, reign, room) {
        Some(why) => idle(Reason::NoRoom(format!("{space}; {why}"))),
        None => act(
            clone(from.clone(), Some(room.needs_bytes)),
            Reason::CloneInPlace(from.clone(), space),
        ),
    }
}

/// A standby with the tag `clonefrom` that streams in this epoch spares the primary the work; it need not
/// have the newest row, as whoever is cloned goes on from there.
fn donor<'a>(view: &MemberView<'a>, reign: &Reign) -> Option<&'a MemberName> {
    let fits = |(name, seen): &(&'a MemberName, &Seen)| {
        *name != view.me
            && **name != reign.holder
            && Some(*name) != view.spent_donor
            && view.state.tags_in_force(name, &seen.report.tags).clonefrom
            && !view.state.maintenance.contains_key(*name)
            && seen.age <= (view.times.renew * 4).max(Duration::from_millis(600))
            && follows(seen, reign)
    };
    // A copy of a standby begins at a checkpoint it has replayed: there must be one of this timeline.
    let holder = view.reports.get(&reign.holder)?;
    if holder.report.checkpointed < reign.epoch {
        return None;
    }
    view.reports.iter().find(fits).map(|(name, _)| name)
}

/// Why the old copy is not removed first.
fn must_stay(view: &MemberView, reign: &Reign, room: &NoRoom) -> Option<String> {
    if !view.clones_in_place {
        return Some("postgres.clone_in_place is off".to_owned());
    }
    if room.even_in_place {
        return Some("not even in the place of the old copy".to_owned());
    }
    if !reign.is_activated {
        return Some("the primary is not activated".to_owned());
    }
    let mut rules = view.state.live_rules.iter();
    if rules.any(|rule| rule.epoch != reign.epoch || rule.set.contains_key(view.me)) {
        return Some("a rule counts on this copy".to_owned());
    }
    if !is_primary(view, reign) {
        return Some(format!("{} is not seen as primary", reign.holder));
    }
    // With the primary alone there would be one good copy, and one disk from none.
    let streams = |(name, seen): (&MemberName, &Seen)| {
        name != view.me && *name != reign.holder && follows(seen, reign)
    };
    (!view.reports.iter().any(streams))
        .then(|| "no other standby streams: it would leave one good copy".to_owned())
}

fn is_primary(view: &MemberView, reign: &Reign) -> bool {
    view.reports.get(&reign.holder).is_some_and(|seen| {
        matches!(&seen.report.postgres, PostgresStatus::Primary(primary)
            if primary.timeline == reign.timeline)
    })
}

fn follows(seen: &Seen, reign: &Reign) -> bool {
    let PostgresStatus::Standby(standby) = &seen.report.postgres else {
        return false;
    };
    let is_its =
        |it: &crate::model::postgres::Follows| it.member == reign.holder && it.epoch == reign.epoch;
    standby.follows.as_ref().is_some_and(is_its)
        && standby.receiver.as_ref().is_some_and(|it| it.is_streaming)
}
