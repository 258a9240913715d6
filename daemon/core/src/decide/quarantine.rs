//! What lies here and is not the cluster's: another database, or WAL that a server wrote without a
//! Grant. Neither is started, sealed or counted.
//!
//! The surprise: a timeline number proves nothing. A server that somebody promotes by hand takes the
//! next free number, and so does the next Grant; the ledger alone would take one for the other.

use crate::model::view::MemberView;
use crate::model::{Epoch, Lsn, Phase, PostgresStatus, Reign, TimelineId};

/// This data directory belongs to another database system than the cluster's [K2], or is a copy of the
/// cluster's that nobody made a member's: it may have been run out of recovery by anybody.
pub fn foreign_database(view: &MemberView) -> Option<String> {
    let (own, cluster) = (view.system_identifier?, view.state.system_identifier?);
    if own != cluster {
        return Some(format!(
            "the data directory belongs to database system {own}, the cluster's is {cluster}: move \
             it aside, or let it be replaced with `clusterctl reinit {}`",
            view.me
        ));
    }
    let is_stopped = matches!(view.postgres, PostgresStatus::Stopped(_));
    (is_stopped && view.durable.incarnation.is_none()).then(|| {
        format!(
            "the data directory holds a copy of the cluster's database that never was this \
             member's: take it over while it streams (clusterd --take-over), move it aside, or let \
             it be replaced with `clusterctl reinit {}`",
            view.me
        )
    })
}

/// The server here was out of recovery without a Grant, as far as can be seen now [D2 I10]. What is
/// seen is soon gone (the next start changes the control file), so it is made durable at once.
pub fn strayed(view: &MemberView) -> Option<&'static str> {
    view.state.reign.as_ref()?;
    match view.postgres {
        PostgresStatus::Primary(primary) if !was_granted(view, primary.timeline) => {
            Some("out of recovery without a grant")
        }
        PostgresStatus::Stopped(stopped) => {
            let newest = stopped
                .min_recovery_timeline
                .map_or(stopped.checkpoint_timeline, |timeline| {
                    timeline.max(stopped.checkpoint_timeline)
                });
            let is_known = view.durable.line.is_some();
            if is_known && !stopped.was_in_recovery && view.durable.promoted == Epoch::NONE {
                return Some("it was run out of recovery by somebody else");
            }
            has_left_its_line(view, newest)
        }
        PostgresStatus::Standby(standby) => has_left_its_line(view, standby.timeline),
        PostgresStatus::Primary(_)
        | PostgresStatus::Unknown { .. }
        | PostgresStatus::Empty
        | PostgresStatus::Unusable { .. }
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => None,
    }
}

/// The data directory was put back to an older state under this member: it lacks WAL it once had, and
/// may have confirmed. It is another life from now on, and what the old one confirmed counts as lost
/// [A14]. Says where it ends and how far it was.
pub fn rolled_back(view: &MemberView) -> Option<(Lsn, Lsn)> {
    let PostgresStatus::Standby(standby) = view.postgres else {
        return None;
    };
    let is_sealed = standby.follows.is_none() && standby.receiver.is_none();
    let (end, had) = (standby.proven_end(), view.high_water?);
    (is_sealed && standby.at_end_of_wal && end < had).then_some((end, had))
}

/// The reign this member has not given back yet.
pub fn unreleased<'a>(view: &MemberView<'a>) -> Option<&'a Reign> {
    view.state
        .reign
        .as_ref()
        .filter(|reign| reign.holder == *view.me && reign.phase != Phase::Released)
}

/// It was promoted onto this timeline under a Grant, with this very data directory. Whether that
/// Grant still stands is another question.
fn was_granted(view: &MemberView, timeline: TimelineId) -> bool {
    let promoted = view.durable.promoted;
    if promoted == Epoch::NONE {
        return false;
    }
    // An entry that is not here is one this member has not applied again yet.
    view.state.ledger.of_epoch(promoted).is_none_or(|entry| {
        entry.member == *view.me
            && Some(entry.incarnation) == view.durable.incarnation
            && entry.timeline == timeline
    })
}

/// Its WAL is on a timeline of a reign later than any it ever followed, held or was copied from.
///
/// Unless the primary it followed last was granted again, then or later: it listens at the same
/// address, and a standby whose daemon is frozen follows it there by itself, through whatever reigns
/// lay in between.
fn has_left_its_line(view: &MemberView, timeline: TimelineId) -> Option<&'static str> {
    let line = view.durable.line?;
    let ledger = &view.state.ledger;
    let newest = ledger.entry(timeline)?.epoch;
    let followed = ledger.of_epoch(line).map(|entry| &entry.member);
    let is_explained = newest <= line
        || ledger
            .entries
            .iter()
            .any(|entry| entry.epoch >= newest && Some(&entry.member) == followed);
    (!is_explained).then_some("its timeline has the number of one that it never followed")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::lease::{Holder, Moment};
    use crate::model::ledger::LedgerEntry;
    use crate::model::member::Health;
    use crate::model::postgres::Stopped;
    use crate::model::view::{Durable, ProcessSet};
    use crate::model::{ClusterState, Incarnation, Lsn, MemberName};

    /// The state of a cluster whose reigns were held by these members, on timelines from 2.
    fn ruled_by(holders: &[&str]) -> ClusterState {
        let mut state = ClusterState {
            system_identifier: Some(7),
            ..ClusterState::default()
        };
        for (epoch, holder) in (1..).zip(holders) {
            let timeline = TimelineId(epoch + 1);
            let entry = LedgerEntry {
                epoch: Epoch(u64::from(epoch)),
                member: holder.parse().expect("name"),
                incarnation: Incarnation(1),
                timeline,
                parent: TimelineId(epoch),
                start: Lsn(100),
                fork: Some(Lsn(100)),
            };
            state.reign = Some(Reign {
                epoch: entry.epoch,
                holder: entry.member.clone(),
                incarnation: entry.incarnation,
                timeline,
                start: entry.start,
                phase: Phase::Granted,
                fork: entry.fork,
                is_activated: true,
                reason: String::new(),
                ended_because: None,
            });
            state.ledger.entries.push(entry);
        }
        state
    }

    fn stopped(timeline: u32, was_in_recovery: bool) -> PostgresStatus {
        PostgresStatus::Stopped(Stopped {
            clean: false,
            was_in_recovery,
            checkpoint_timeline: TimelineId(timeline),
            checkpoint: Lsn(90),
            min_recovery_end: Lsn::ZERO,
            min_recovery_timeline: None,
            has_signal: false,
        })
    }

    /// What is found of member `b`, which followed, held or was copied from epoch `line` last.
    fn found(
        state: &ClusterState,
        line: Option<u64>,
        promoted: u64,
        postgres: &PostgresStatus,
    ) -> Option<&'static str> {
        let durable = Durable {
            incarnation: Some(Incarnation(1)),
            line: line.map(Epoch),
            promoted: Epoch(promoted),
            ..Durable::default()
        };
        look(state, &durable, postgres, strayed)
    }

    fn look<T>(
        state: &ClusterState,
        durable: &Durable,
        postgres: &PostgresStatus,
        question: impl FnOnce(&MemberView) -> T,
    ) -> T {
        let me: MemberName = "b".parse().expect("name");
        question(&MemberView {
            now: Moment::default(),
            me: &me,
            is_witness: false,
            state,
            truth_is_current: true,
            times: state.settings.times(),
            durable,
            postgres,
            system_identifier: Some(7),
            set: &ProcessSet::default(),
            holder: &Holder::default(),
            health: &Health::default(),
            busy: None,
            seal: None,
            is_prepared: false,
            drained: None,
            done_request: None,
            cannot_read_wal: false,
            needs_rewind: false,
            rewind_impossible: false,
            high_water: None,
            no_room: None,
            spent_donor: None,
            clones_in_place: false,
            reports: &BTreeMap::new(),
            gave_up: None,
            releasing: None,
        })
    }

    #[test]
    fn a_copy_that_nobody_made_a_members_is_left_alone() {
        let state = ruled_by(&["a"]);
        let ours = Durable {
            incarnation: Some(Incarnation(1)),
            ..Durable::default()
        };
        let nobodys = Durable::default();
        let ask = |durable| look(&state, durable, &stopped(1, true), foreign_database);
        assert!(ask(&ours).is_none());
        assert!(ask(&nobodys).is_some_and(|why| why.contains("--take-over")));
        let empty = look(&state, &nobodys, &PostgresStatus::Empty, foreign_database);
        assert!(empty.is_none(), "an empty directory is cloned into");
    }

    #[test]
    fn a_number_that_was_granted_to_somebody_else_proves_nothing() {
        let state = ruled_by(&["a", "c"]);
        // Timeline 3 is c's; b followed a in epoch 1 and nobody since.
        assert!(found(&state, Some(1), 0, &stopped(3, true)).is_some());
        assert!(found(&state, Some(2), 0, &stopped(3, true)).is_none());
        assert!(found(&state, Some(1), 0, &stopped(2, true)).is_none());
        assert!(
            found(&state, None, 0, &stopped(3, true)).is_none(),
            "written by an older version: nothing is known"
        );
    }

    #[test]
    fn a_primary_that_was_granted_again_in_place_is_followed_without_being_told() {
        let state = ruled_by(&["a", "a", "a"]);
        assert!(found(&state, Some(1), 0, &stopped(4, true)).is_none());
        let state = ruled_by(&["a", "c", "a"]);
        assert!(
            found(&state, Some(1), 0, &stopped(4, true)).is_none(),
            "found by the simulation: frozen through the reign of c"
        );
        assert!(found(&state, Some(1), 0, &stopped(3, true)).is_none());
        let state = ruled_by(&["a", "c", "d"]);
        assert!(found(&state, Some(1), 0, &stopped(4, true)).is_some());
    }

    #[test]
    fn a_server_that_ran_out_of_recovery_needs_a_grant_to_show_for_it() {
        let state = ruled_by(&["b", "a"]);
        assert!(
            found(&state, Some(1), 1, &stopped(2, false)).is_none(),
            "a former primary"
        );
        assert!(
            found(&state, Some(2), 0, &stopped(2, false)).is_some(),
            "it has followed a since: somebody started it bare"
        );
        assert!(
            found(&state, None, 0, &stopped(1, false)).is_none(),
            "right after initdb"
        );
    }
}
