//! What a member tells of itself after each look: its report to the leader, the status to its own
//! interfaces, and what its operator's programs learn of.

use cluster_core::decide::MemberVerdict;
use cluster_core::model::lease::LeaseTimes;
use cluster_core::model::member::{Busy, Health};
use cluster_core::model::view::{Durable, MemberView};
use cluster_core::model::{MemberReport, PostgresStatus};

use crate::board::LeaseView;
use crate::callbacks::{Server, Sight};
use crate::lease::now;
use crate::raft::AppliedState;

use super::member_loop::{Looked, MemberLoop};
use super::memory::Memory;
use super::observe::Observation;
use super::running::{RESTARTING, is_long, milliseconds};

/// Free space below this is no place for a primary. Unit: bytes; a few WAL segments.
const LEAST_FREE: u64 = 64 << 20;

impl MemberLoop {
    /// Told before anything is decided upon it, and never waited for.
    pub(super) fn tell_callbacks(&self, view: &MemberView<'_>) {
        if !self.callbacks.is_wanted() {
            return;
        }
        let epoch = view.state.epoch();
        let timeline = match view.postgres {
            PostgresStatus::Primary(primary) => Some(primary.timeline),
            PostgresStatus::Standby(standby) => Some(standby.timeline),
            _ => None,
        };
        self.callbacks.look(&Sight {
            server: server(view),
            is_restarting: view.busy.is_some_and(|busy| busy.with == RESTARTING),
            epoch,
            timeline,
        });
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn publish(
        &self,
        memory: &mut Memory,
        looked: &Observation,
        durable: &Durable,
        verdict: &MemberVerdict,
        busy: Option<Busy>,
        applied: &AppliedState,
        times: LeaseTimes,
    ) {
        memory.note_verdict(verdict);
        let holder = self.lease.holder();
        let left = holder.valid_until.before(times.stop_soft).since(now());
        let report = MemberReport {
            member: self.who.me.clone(),
            node: self.who.node,
            daemon_start: self.who.daemon_start.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.who.addresses.clone(),
            tags: self.who.tags.clone(),
            incarnation: durable.incarnation,
            system_identifier: memory.system_identifier,
            server_version: self.who.server_version,
            postgres: looked.postgres.clone(),
            min_epoch: durable.min_epoch,
            used: durable.used,
            seal: memory.seal.clone(),
            set_is_empty: looked.set.is_empty,
            lease_left_ms: (!left.is_zero()).then(|| milliseconds(left)),
            applied_index: applied.index,
            not_promotable: not_promotable(&looked.postgres, &self.findings.health()),
            health: self.findings.health(),
            busy: busy.filter(|busy| is_long(&busy.with)),
            hears: self.merged.borrow().keys().cloned().collect(),
            drained: memory.drained.clone(),
            done_request: memory.done_request.clone(),
            sync: memory.sync_report(&looked.postgres, &self.kept.borrow(), &applied.state),
            checkpointed: self.findings.checkpointed(),
            verdict: verdict.reason.to_string(),
        };
        self.outlets.seen.send_if_modified(|seen| {
            let is_new = *seen != looked.postgres;
            if is_new {
                *seen = looked.postgres.clone();
            }
            is_new
        });
        self.outlets.verdict.send_replace(Looked {
            line: memory.verdict.clone(),
            looked_at: Some(now()),
            answered_at: memory.answered_at,
        });
        self.outlets.report.send_replace(Some(report));
    }
}

/// What this look proves of the server. One that is out of recovery counts as a primary only as long as it
/// holds the lease of the newest epoch: nobody is told of a server that was promoted by hand.
fn server(view: &MemberView<'_>) -> Server {
    match view.postgres {
        PostgresStatus::Standby(standby) => Server::Standby {
            started_unix_ms: standby.started_unix_ms,
        },
        PostgresStatus::Primary(primary) => {
            let epoch = view.durable.promoted;
            let is_ours = view
                .state
                .granted()
                .is_some_and(|reign| reign.holder == *view.me && reign.epoch == epoch);
            if is_ours && view.holder.may_serve(epoch, view.now, &view.times) {
                Server::Primary {
                    started_unix_ms: primary.started_unix_ms,
                    is_open: primary.is_open,
                }
            } else {
                Server::Unclear
            }
        }
        PostgresStatus::Stopped(_) | PostgresStatus::Empty | PostgresStatus::Unusable { .. } => {
            Server::Down
        }
        PostgresStatus::Unknown { .. }
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => Server::Unclear,
    }
}

/// Why this member could not be promoted now [B9].
fn not_promotable(postgres: &PostgresStatus, health: &Health) -> Vec<String> {
    let mut reasons = Vec::new();
    if let PostgresStatus::Standby(standby) = postgres
        && standby.has_too_little
    {
        reasons.push(
            "its replay is paused: a parameter is lower than the primary's; a restart cures it"
                .into(),
        );
    }
    for (what, probe) in [("data", health.data_volume), ("WAL", health.wal_volume)] {
        if probe.is_some_and(|probe| probe.has_failed || probe.is_stuck) {
            reasons.push(format!("its {what} volume does not take writes"));
        }
    }
    if health.free_bytes.is_some_and(|free| free < LEAST_FREE) {
        reasons.push("its data volume is full".to_owned());
    }
    reasons
}
