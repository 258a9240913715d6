//! When a primary must stop, and whether its lease is still wanted, seen from its own side.

use crate::model::view::MemberView;
use crate::model::{Epoch, PostgresStatus, Reign};

/// The reign this member holds with this very data directory, as applied here.
pub fn held<'a>(view: &MemberView<'a>) -> Option<&'a Reign> {
    view.state.granted().filter(|reign| {
        reign.holder == *view.me && Some(reign.incarnation) == view.durable.incarnation
    })
}

/// Whether the lease thread should renew, and for which epoch.
///
/// Not when the Grant is used up and there is no PostgreSQL under it any more, nor when the storage
/// does not take writes [H6].
pub fn wants_renewal(view: &MemberView) -> Option<Epoch> {
    if !view.truth_is_current || view.durable.used > view.state.epoch() {
        // Just restarted: go on with the reign the guard was last armed for; the leader knows
        // whether it still stands.
        let used = view.durable.used;
        let is_alive = view.set.armed == Some(used) && !view.set.is_empty;
        return (is_alive && cannot_write(view).is_none()).then_some(used);
    }
    let reign = held(view)?;
    if view.durable.min_epoch > reign.epoch || view.durable.used > reign.epoch {
        return None;
    }
    if cannot_write(view).is_some() {
        return None;
    }
    if view.durable.used < reign.epoch {
        return Some(reign.epoch);
    }
    // Used: only while the PostgreSQL that used it is there.
    let is_alive = match view.postgres {
        PostgresStatus::Primary(_)
        | PostgresStatus::Standby(_)
        | PostgresStatus::Unknown { .. }
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Starting { .. } => !view.set.is_empty,
        PostgresStatus::Empty
        | PostgresStatus::Unusable { .. }
        | PostgresStatus::Stopped(_)
        | PostgresStatus::Stopping => false,
    };
    is_alive.then_some(reign.epoch)
}

/// Why the storage cannot be trusted with a primary, if so.
pub fn cannot_write(view: &MemberView) -> Option<CannotWrite> {
    if !matches!(
        view.postgres,
        PostgresStatus::Primary(_) | PostgresStatus::Unresponsive { .. }
    ) {
        return None;
    }
    let limit = view.state.settings.probe_limit_ms;
    let probes = [
        ("the data volume", view.health.data_volume),
        ("the WAL volume", view.health.wal_volume),
        ("a local commit", view.health.commit),
    ];
    probes.into_iter().find_map(|(what, probe)| {
        let probe = probe?;
        let is_late = probe.last_ok_age_ms > limit;
        (is_late && (probe.is_stuck || probe.has_failed)).then_some(CannotWrite {
            what,
            for_ms: probe.last_ok_age_ms,
        })
    })
}

/// A durable probe beyond its limit.
#[derive(Clone, Copy, Debug)]
pub struct CannotWrite {
    what: &'static str,
    for_ms: u64,
}

impl CannotWrite {
    /// The same words every time, as the reason for which an epoch ended: metrics count them.
    pub fn why(self) -> String {
        format!("{} does not work", self.what)
    }

    /// With the time.
    pub fn details(self) -> String {
        format!("{} has not worked for {} ms", self.what, self.for_ms)
    }
}
