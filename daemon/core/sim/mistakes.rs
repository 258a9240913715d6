//! Mutants: what a wrong design would do in the place of the core's own functions. `mutants.rs` holds that
//! each is caught.

use std::rc::Rc;

use cluster_core::change::{Applied, Command, Rejected, Stamp, apply};
use cluster_core::model::settings::Mode;
use cluster_core::model::{ClusterState, Phase};

use crate::network::{Micros, SECOND};
use crate::world::World;

/// Longer than any message takes here.
const UNDER_WAY: Micros = 2 * SECOND;

/// A world made wrong on purpose: every check must be able to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// As it is.
    None,
    GuardNeverKills,
    GrantWithoutWaiting,
    NewLeaderDoesNotWait,
    PromoteWithoutUsed,
    ReceiverSurvivesDetach,
    StartWithoutSignal,
    OpenBeforeActivation,
    LeaderAnswersAlone,
    CloneFromAnybody,
    NobodyTakesOver,
    /// Mode `sync`: PostgreSQL acknowledges what nobody confirmed.
    AcknowledgesAlone,
    /// Mode `sync`: a standby's crash takes flushed WAL with it, and nobody notices.
    DiskLies,
    /// Durability by the clock: a sealed receiver goes on receiving, and seals count once the lease is
    /// waited out. Right as long as clocks are.
    SealsTrustTheLease,
    /// Once the lease is waited out nobody has to block the live rules.
    LeaseReplacesBlocking,
    /// Mode `strict` gives up the last standbys as `sync` does.
    StrictDegrades,
}

impl Mutant {
    pub fn new_leader_does_not_wait(self) -> bool {
        self == Mutant::NewLeaderDoesNotWait
    }

    /// A receiver goes on after the seal, and is not shown.
    pub fn receivers_survive(self) -> bool {
        matches!(
            self,
            Mutant::ReceiverSurvivesDetach | Mutant::SealsTrustTheLease
        )
    }
}

impl World {
    /// The truth as a leader of a wrong design takes it.
    pub fn mistaken(&mut self, node: usize, truth: &Rc<ClusterState>) -> Rc<ClusterState> {
        let now = self.now;
        let lead = &mut self.nodes[node].lead;
        let is_over = lead.granter.lease_waited_out();
        let is_released = truth
            .reign
            .as_ref()
            .is_none_or(|it| it.phase == Phase::Released);
        lead.over_since = match lead.over_since {
            Some(since) if is_over => Some(since),
            _ => is_over.then_some(now),
        };
        let mut state = Rc::clone(truth);
        match self.mutant {
            Mutant::SealsTrustTheLease => {
                // What was on its way when the lease ended has arrived.
                let is_safe = lead.over_since.is_some_and(|at| now - at > UNDER_WAY);
                for seen in lead
                    .reports
                    .values_mut()
                    .filter(|_| !is_safe && !is_released)
                {
                    seen.report.seal = None;
                }
            }
            Mutant::LeaseReplacesBlocking if is_over && truth.granted().is_none() => {
                Rc::make_mut(&mut state).live_rules.clear();
            }
            Mutant::StrictDegrades => Rc::make_mut(&mut state).settings.mode = Mode::Sync,
            _ => {}
        }
        state
    }
}

/// `apply`, or what a wrong design makes of it.
pub fn apply_as(
    mutant: Mutant,
    state: &mut ClusterState,
    index: u64,
    stamp: &Stamp,
) -> Result<Applied, Rejected> {
    match (mutant, &stamp.command) {
        (Mutant::LeaseReplacesBlocking, Command::Grant(grant)) if grant.live.is_empty() => {
            let mut live = std::mem::take(&mut state.live_rules);
            let outcome = apply(state, index, stamp);
            live.append(&mut state.live_rules);
            state.live_rules = live;
            outcome
        }
        (Mutant::StrictDegrades, Command::Propose { .. }) => {
            let mode = std::mem::replace(&mut state.settings.mode, Mode::Sync);
            let outcome = apply(state, index, stamp);
            state.settings.mode = mode;
            outcome
        }
        _ => apply(state, index, stamp),
    }
}
