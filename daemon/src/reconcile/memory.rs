//! What the member's loop remembers from one turn to the next; nothing here must survive a restart.

use std::time::Duration;

use cluster_core::decide::MemberVerdict;
use cluster_core::decide::standby_watch::StandbyWatch;
use cluster_core::model::confirmation::SyncReport;
use cluster_core::model::lease::Moment;
use cluster_core::model::member::SealReport;
use cluster_core::model::view::{Durable, NoRoom};
use cluster_core::model::{
    ClusterState, Epoch, Lsn, MemberName, PostgresStatus, RequestId, TimelineId,
};
use tokio::time::Instant;

use crate::board::VerdictLine;
use crate::lease::now;

use super::act::Done;
use super::observe::Observation;
use super::rule_keeper::Kept;

/// A look this often when nothing happens.
pub(super) const CALM: Duration = Duration::from_millis(200);
/// A look this often while something is under way.
pub(super) const BRISK: Duration = Duration::from_millis(10);
/// A look this often while a rule change is open; it may stay open for long.
pub(super) const CHANGING: Duration = Duration::from_millis(30);
/// A clone that did not fit is tried again after this where there is more room by now.
pub(super) const TRY_ROOM: Duration = Duration::from_secs(5);
/// The same where the data volume shows no more room: another volume may.
pub(super) const TRY_NO_ROOM: Duration = Duration::from_secs(60);

/// What is remembered between turns.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) seal: Option<SealReport>,
    pub(super) needs_rewind: bool,
    pub(super) rewind_impossible: bool,
    pub(super) cannot_read_wal: bool,
    pub(super) prepared: Option<Epoch>,
    pub(super) drained: Option<(RequestId, Lsn)>,
    pub(super) done_request: Option<RequestId>,
    pub(super) last_flush: Option<(TimelineId, Lsn)>,
    pub(super) system_identifier: Option<u64>,
    pub(super) verdict: Option<VerdictLine>,
    pub(super) answered_at: Option<Moment>,
    /// The last failure's words, so that a lasting one is logged once.
    pub(super) failure: Option<String>,
    /// The epoch whose Release is on its way to the leader.
    pub(super) releasing: Option<Epoch>,
    /// The epoch that was given back by a fence, and why.
    pub(super) gave_up: Option<(Epoch, String)>,
    /// A clone did not fit, and when that was.
    pub(super) no_room: Option<(NoRoom, Instant)>,
    /// A standby of whom no clone could be made, until one was made of somebody else.
    pub(super) spent_donor: Option<MemberName>,
    /// What was seen of the standbys, while PostgreSQL is a primary here.
    pub(super) standbys: Option<StandbyWatch>,
    /// What was seen when a promise was decided, and when: the promise changes nothing of it, and the cluster has no
    /// primary while the next look is awaited.
    pub(super) before_promise: Option<(Instant, Observation)>,
}

impl Memory {
    /// Takes over what a look proves.
    pub(super) fn learn(&mut self, me: &MemberName, looked: &Observation, durable: &Durable) {
        if looked.answered_at.is_some() {
            self.answered_at = looked.answered_at;
        }
        // A seal is for one promise and one life of the directory.
        let is_void = self.seal.as_ref().is_some_and(|seal| {
            seal.target != durable.min_epoch || Some(seal.incarnation) != durable.incarnation
        });
        if is_void {
            self.seal = None;
            self.cannot_read_wal = false;
        }
        match &looked.postgres {
            PostgresStatus::Primary(primary) => {
                self.last_flush = Some((primary.timeline, primary.flushed));
                let epoch = durable.promoted;
                let known = self.standbys.take();
                let known = known.filter(|known| known.is_of(epoch, primary));
                let mut standbys =
                    known.unwrap_or_else(|| StandbyWatch::new(epoch, primary, now()));
                standbys.look(primary, now());
                self.standbys = Some(standbys);
                self.seal = None;
                self.cannot_read_wal = false;
            }
            PostgresStatus::Standby(standby) => {
                self.standbys = None;
                self.prepared = None;
                self.drained = None;
                if standby.follows.is_some() || standby.receiver.is_some() {
                    self.seal = None;
                    self.needs_rewind = false;
                    self.rewind_impossible = false;
                } else if standby.at_end_of_wal
                    && let Some(incarnation) = durable.incarnation
                {
                    self.seal = Some(SealReport {
                        member: me.clone(),
                        incarnation,
                        target: durable.min_epoch,
                        timeline: standby.timeline,
                        end: standby.proven_end(),
                        is_running: true,
                    });
                }
            }
            PostgresStatus::Stopped(_)
            | PostgresStatus::Stopping
            | PostgresStatus::Empty
            | PostgresStatus::Unusable { .. } => {
                self.standbys = None;
                self.prepared = None;
                self.drained = None;
            }
            PostgresStatus::Unknown { .. }
            | PostgresStatus::Starting { .. }
            | PostgresStatus::Unresponsive { .. } => {}
        }
    }

    /// What is told of commits and who confirms them; only together with what the keeper knows of
    /// the very same server process.
    pub(super) fn sync_report(
        &self,
        postgres: &PostgresStatus,
        kept: &Kept,
        state: &ClusterState,
    ) -> Option<SyncReport> {
        let PostgresStatus::Primary(primary) = postgres else {
            return None;
        };
        let standbys = self.standbys.as_ref()?;
        if !standbys.is_of(kept.epoch, primary) || kept.started_unix_ms != primary.started_unix_ms {
            return None;
        }
        let mut rules = state.live_rules.iter().rev();
        let newest = rules.find(|rule| rule.epoch == kept.epoch);
        Some(SyncReport {
            epoch: kept.epoch,
            started_unix_ms: kept.started_unix_ms,
            given: kept.given,
            proven: kept.proven,
            unusable: None,
            standbys: standbys.standbys(newest, now()),
        })
    }

    /// Whether it fits by now is found out by trying.
    pub(super) fn forget_no_room(&mut self, free_bytes: Option<u64>) {
        let is_over = self.no_room.is_some_and(|(room, since)| {
            let fits = free_bytes.is_some_and(|free| free >= room.needs_bytes);
            since.elapsed() >= if fits { TRY_ROOM } else { TRY_NO_ROOM }
        });
        if is_over {
            self.no_room = None;
        }
    }

    pub(super) fn take(&mut self, done: Done) {
        match done {
            Done::Plain => {}
            Done::Sealed(seal) => self.seal = Some(seal),
            Done::NeedsRewind => self.needs_rewind = true,
            Done::Rejoined { request } => {
                self.system_identifier = None;
                self.needs_rewind = false;
                self.rewind_impossible = false;
                self.no_room = None;
                self.spent_donor = None;
                self.seal = None;
                self.last_flush = None;
                if request.is_some() {
                    self.done_request = request;
                }
            }
            Done::RewindImpossible => self.rewind_impossible = true,
            Done::NoRoom(room) => self.no_room = Some((room, Instant::now())),
            Done::Prepared(epoch) => self.prepared = Some(epoch),
            Done::Drained(request, at) => self.drained = Some((request, at)),
            Done::Undrained => self.drained = None,
            Done::RequestDone(request) => self.done_request = Some(request),
        }
    }

    /// A verdict is logged when it changes, not each turn.
    pub(super) fn note_verdict(&mut self, verdict: &MemberVerdict) {
        let (code, text) = (verdict.reason.code(), verdict.reason.to_string());
        // What it is busy with was logged when it began.
        if code == "busy" && self.verdict.is_some() {
            return;
        }
        let is_same = self.verdict.as_ref().is_some_and(|line| line.code == code);
        if is_same {
            if let Some(line) = &mut self.verdict {
                line.text = text;
            }
            return;
        }
        tracing::info!(reason = code, action = ?verdict.action, "{text}");
        self.verdict = Some(VerdictLine {
            rule: "member".to_owned(),
            code: code.to_owned(),
            text,
            since: now(),
        });
    }

    /// Whether the next confirmed renewal is what this member waits for.
    pub(super) fn waits_for_lease(&self) -> bool {
        self.verdict
            .as_ref()
            .is_some_and(|line| line.code == "waiting-for-lease")
    }

    /// How soon to look again when nothing is to be done.
    pub(super) fn pace(&self, state: &ClusterState) -> Duration {
        if self.is_settling(state) {
            return BRISK;
        }
        // Who confirms commits here is being changed: every flush that a standby shows is news.
        let is_changing = self.standbys.is_some() && state.live_rules.len() > 1;
        if is_changing { CHANGING } else { CALM }
    }

    /// Whether something is under way that a quick look would shorten.
    pub(super) fn is_settling(&self, state: &ClusterState) -> bool {
        let is_open = state.granted().is_some_and(|reign| reign.is_activated);
        let is_calm = self
            .verdict
            .as_ref()
            .is_some_and(|line| matches!(line.code.as_str(), "serving" | "following" | "witness"));
        state.system_identifier.is_some() && (!is_open || !is_calm)
            || state.moving_request().is_some()
    }
}
