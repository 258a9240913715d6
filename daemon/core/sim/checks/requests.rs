//! Source: hazards 7, S15: a pause stops exactly what it says.

use cluster_core::change::Command;
use cluster_core::decide::{RuleVerdict, Verdict};
use cluster_core::model::ClusterState;
use cluster_core::model::request::Step;

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
        let is_asked = state
            .requests
            .values()
            .any(|request| request.is_open() && matches!(request.step, Step::Moving { .. }));
        let is_move = matches!(**command, Command::Grant(_) | Command::Revoke { .. });
        if is_move && !is_asked {
            self.violated("S15: the primary is moved in a paused cluster, nobody asked for it");
        }
    }
}
