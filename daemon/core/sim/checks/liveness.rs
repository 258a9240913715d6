//! Source: hazards 7, L1 L2 L3 L4 L6: after the faults stop everything heals, and stays so.

use cluster_core::change::Command;
use cluster_core::model::{Epoch, MemberKind, RequestKind};

use crate::network::SECOND;
use crate::postgres::Process;
use crate::world::World;

/// After the last fault is cured: one unresponsive server (10 s) or one step of a request (30 s),
/// elections, one failover, one clone.
pub const BOUND: u64 = 75 * SECOND;

/// How long an operator watches a cluster that waits for a decision about a loss.
const PATIENCE: u64 = 20 * SECOND;

impl World {
    /// What is not well; empty when the cluster is healthy.
    pub fn unwell(&self) -> Vec<String> {
        let mut unwell = Vec::new();
        let Some(primary) = self.open_primary() else {
            return vec!["L1: no open primary".to_owned()];
        };
        let truth = self.truth.newest();
        let epoch = truth.epoch();
        if truth.granted().is_none_or(|reign| !reign.is_activated) {
            unwell.push("L1: the reign is not activated".to_owned());
        }
        if self.is_sync() {
            let newest = truth.live_rules.last();
            let able = truth
                .databases()
                .filter(|(name, _)| **name != self.names[primary] && truth.sync_priority(name) > 0);
            let wanted = truth.settings.wanted_k().min(able.count() as u32);
            if newest.is_none_or(|rule| rule.k < wanted) {
                unwell.push(format!("L5: {wanted} could confirm commits: {newest:?}"));
            } else if truth.live_rules.len() > 1 {
                unwell.push(format!("L5: a rule is not activated: {newest:?}"));
            } else if self.commits_wait(primary) {
                unwell.push(format!("L5: commits wait: {newest:?}"));
            }
        }
        for node in 0..self.nodes.len() {
            let host = &self.nodes[node];
            if node == primary || host.kind == MemberKind::Witness {
                continue;
            }
            let streams = match &host.postgres.process {
                Process::Recovery(recovery) => {
                    recovery.is_streaming && recovery.receiver.is_some_and(|to| to.epoch == epoch)
                }
                Process::None | Process::Starting { .. } | Process::Writable(_) => false,
            };
            if !streams || host.mind.work.is_some() {
                unwell.push(format!("L2: {} does not stream", host.name));
            }
        }
        for request in truth.open_requests() {
            unwell.push(format!(
                "L3 L6: request {} is open at {:?}",
                request.id, request.step
            ));
        }
        if truth.previous_lease.is_some() {
            unwell.push("L3: a change of the lease is not settled".to_owned());
        }
        if truth
            .members
            .values()
            .any(|member| member.joining.is_some())
        {
            unwell.push("L3: a member is not replaced yet".to_owned());
        }
        unwell
    }

    /// An operator asks again when the first time nobody heard.
    fn replace_the_wiped(&mut self) {
        for node in 0..self.nodes.len() {
            let member = self.names[node].clone();
            let known = self.truth.newest().members.get(&member);
            let is_asked = known.is_some_and(|known| known.joining.is_some());
            if self.nodes[node].raft.is_wiped && !is_asked {
                let (peer, by) = (String::new(), "operator".to_owned());
                self.operator(Command::ReplaceMember { member, peer, by });
            }
        }
    }

    /// Nobody may be promoted without a loss that is too large: an operator has to accept it.
    fn accept_loss(&mut self) {
        let Some(leader) = self.ready_leader() else {
            return;
        };
        let truth = self.truth.newest();
        let is_open = truth.moving_request().is_some() || truth.granted().is_some();
        if is_open || self.nodes[leader].lead.last_verdict != "no-candidate" {
            return;
        }
        let best = self.nodes[leader].lead.reports.values().filter_map(|seen| {
            let seal = seen.report.seal.as_ref()?;
            Some((
                truth.ledger.position(seal.timeline, seal.end)?,
                seal.member.clone(),
            ))
        });
        let Some((_, to)) = best.max() else { return };
        self.coverage.count("world", "operator accepted a loss");
        let id = self.new_request();
        let kind = RequestKind::Failover { to };
        self.operator(Command::Ask {
            id,
            kind,
            by: "operator".to_owned(),
        });
    }

    /// Runs until the cluster is well for the first time.
    pub fn must_become_well(&mut self) {
        let end = self.now + BOUND;
        while self.now < end && self.violations.is_empty() && !self.unwell().is_empty() {
            self.run_until(self.now + SECOND / 8);
        }
        if self.now >= end {
            let text = format!("L1: it never began: {}", self.unwell().join("; "));
            self.violated(&text);
        }
    }

    /// Runs until the cluster is well; a violation when it is not within the bound, or when it
    /// does not stay well.
    pub fn must_heal(&mut self) {
        let end = self.now + BOUND;
        let patience = self.now + PATIENCE;
        let (mut well_in, mut well_since) = (Epoch::NONE, self.now);
        while self.now < end && self.violations.is_empty() {
            if self.truth.newest().pause.is_some() {
                self.operator(Command::Resume {
                    by: "sim".to_owned(),
                });
            }
            self.replace_the_wiped();
            self.settle_settings();
            if self.now > patience {
                self.accept_loss();
            }
            self.run_until(self.now + SECOND / 4);
            // Well for a while under one primary: what was under way has come to its end.
            let epoch = self.truth.newest().epoch();
            if !self.unwell().is_empty() || epoch != well_in {
                well_in = epoch;
                well_since = self.now;
            }
            if self.now - well_since >= 2 * SECOND {
                break;
            }
        }
        let unwell = self.unwell();
        if !unwell.is_empty() && self.violations.is_empty() {
            let lives: Vec<_> = self.nodes.iter().map(|it| it.durable.incarnation).collect();
            let text = format!(
                "not healed within {} s: {}; {:?}, lives {lives:?}",
                BOUND / SECOND,
                unwell.join("; "),
                self.truth.newest().live_rules
            );
            self.violated(&text);
            return;
        }
        let epoch = self.truth.newest().epoch();
        self.run_until(self.now + 4 * SECOND);
        if self.violations.is_empty() && self.truth.newest().epoch() != epoch {
            self.violated("L4: a healthy cluster changed its primary by itself");
        }
    }
}
