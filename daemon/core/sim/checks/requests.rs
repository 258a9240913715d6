//! Source: hazards 7, S15: a pause stops exactly what it says.

use cluster_core::change::Command;
use cluster_core::decide::{RuleVerdict, Verdict};
use cluster_core::model::request::Step;
use cluster_core::model::{ClusterState, RequestKind};

use crate::world::World;

impl World {
    /// A leader has just judged `state`.
    pub fn check_paused(&mut self, state: &ClusterState, decided: &RuleVerdict) {
        if state.pause.is_none() {
            return;
        }
        let Verdict::Propose(command, _) = &decided.verdict else {
            return;
        };
        let is_moving = |step: &Step| matches!(step, Step::Drain { .. } | Step::Moving { .. });
        let is_open = state
            .requests
            .values()
            .any(|request| request.is_open() && is_moving(&request.step));
        // Taken back after the primary was: it gets a successor all the same.
        let was_asked = state.granted().is_none()
            && state.reign.as_ref().is_some_and(|reign| {
                let because = reign.ended_because.as_deref().unwrap_or_default();
                RequestKind::MOVING_VERBS.contains(&because)
            });
        let is_asked = is_open || was_asked;
        let is_move = matches!(**command, Command::Grant(_) | Command::Revoke { .. });
        if is_move && !is_asked {
            self.violated("S15: the primary is moved in a paused cluster, nobody asked for it");
        }
    }
}
