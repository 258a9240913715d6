//! Source: hazards 7, S7 as model-durability H4 words it: after an incarnation's seal report for
//! epoch e its flush report for any epoch below e never grows; and a seal tells the true end.

use cluster_core::model::Epoch;
use cluster_core::model::member::SealReport;

use crate::mistakes::Mutant;
use crate::world::World;

impl World {
    /// A seal is reported.
    pub fn check_seal(&mut self, node: usize, seal: &SealReport) {
        let host = &self.nodes[node];
        let mut broken = Vec::new();
        match &host.postgres.data {
            Some(data) if (data.timeline(), data.end) == (seal.timeline, seal.end) => {}
            Some(data) => broken.push(format!(
                "S7: {} reports its end of WAL at {}/{}, it is at {}/{}",
                host.name,
                seal.timeline,
                seal.end,
                data.timeline(),
                data.end
            )),
            None => broken.push(format!("S7: {} seals without data", host.name)),
        }
        if host.durable.min_epoch < seal.target {
            broken.push(format!("S7: {} seals without a durable promise", host.name));
        }
        let known = self
            .watch
            .sealed
            .entry((node, seal.incarnation))
            .or_default();
        *known = (*known).max(seal.target);
        broken.iter().for_each(|text| self.violated(text));
    }

    /// Its end of WAL grew by what it received in `epoch`.
    pub fn check_received(&mut self, node: usize, epoch: Epoch) {
        // Its seals wait for the end of the lease instead.
        let is_meant = self.mutant == Mutant::SealsTrustTheLease;
        let Some(life) = self.nodes[node].durable.incarnation.filter(|_| !is_meant) else {
            return;
        };
        let sealed = self
            .watch
            .sealed
            .get(&(node, life))
            .copied()
            .unwrap_or_default();
        if epoch < sealed {
            let text = format!(
                "S7: {} sealed for epoch {sealed} and received WAL of epoch {epoch}",
                self.names[node]
            );
            self.violated(&text);
        }
    }
}
