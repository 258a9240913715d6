//! Source: hazards 7, S4: a Grant to another member is committed only when the old holder has
//! released or no lease is live anywhere, judged by real time. Also S6's part that needs no k: the
//! granted position is the best sealed one, or the loss is recorded (S15).

use std::rc::Rc;

use cluster_core::change::Command;
use cluster_core::change::command::Grant;
use cluster_core::model::settings::Mode;
use cluster_core::model::{ClusterState, Epoch, Rule};

use crate::world::World;

impl World {
    /// An entry was committed.
    pub fn committed_one(&mut self, place: u32) {
        let count = self.truth.states.len();
        let before = Rc::clone(&self.truth.states[count - 2]);
        let is_done = self.truth.outcomes.last().is_some_and(Result::is_ok);
        let stamp = Rc::clone(&self.truth.arena[place as usize].stamp);
        if !is_done {
            self.coverage.count("world", "command rejected");
            return;
        }
        self.check_live(&before, &stamp.command);
        match &stamp.command {
            Command::Grant(grant) => {
                self.holder = self.index_of(&grant.member);
                // In `async` nobody was promised anything.
                if grant.loss.is_some() || before.settings.mode == Mode::Async {
                    self.watch.accepted_loss.insert(grant.epoch);
                }
                self.note_least(&before, &grant.first_rule);
                if let Some(node) = self.holder {
                    self.check_granted(grant.epoch, node);
                }
                self.check_grant(&before, grant);
            }
            Command::Release { epoch, .. } => {
                self.watch.released.insert(*epoch);
            }
            Command::Activate { epoch, at, by, .. } => {
                self.check_confirmed(*epoch, *at, by);
                self.note_activated(*epoch);
            }
            Command::Propose { rule } => self.note_least(&before, rule),
            Command::Ask { id, .. } => {
                self.watch.accepted.insert(id.clone());
            }
            Command::ReplaceMember { member, .. } => {
                let id = self
                    .truth
                    .newest()
                    .members
                    .get(member)
                    .and_then(|m| m.joining);
                if let (Some(id), Some(node)) = (id, self.index_of(member)) {
                    self.nodes[node].id = id;
                }
            }
            _ => {}
        }
    }

    fn note_least(&mut self, before: &ClusterState, rule: &Rule) {
        if before.settings.mode == Mode::Strict {
            self.watch.least.insert(rule.id, before.settings.k_min);
        }
    }

    fn note_activated(&mut self, epoch: Epoch) {
        if !self.activated.insert(epoch) {
            return;
        }
        let holder = self
            .truth
            .newest()
            .reign
            .as_ref()
            .map(|reign| reign.holder.clone());
        if let Some(node) = holder.and_then(|name| self.index_of(&name)) {
            self.watch.primaries.push((epoch, node));
            self.check_told(epoch, node);
        }
    }

    fn check_grant(&mut self, before: &ClusterState, grant: &Grant) {
        self.check_best(before, grant);
        // Where clocks jump a lease may be live for ever.
        if self.kind.jumps {
            return;
        }
        let Some(old) = &before.reign else { return };
        if old.holder == grant.member {
            return;
        }
        for node in 0..self.nodes.len() {
            let host = &self.nodes[node];
            if host.name == grant.member || !host.host_up || host.host_frozen {
                continue;
            }
            // A released epoch left no process; its lease is only a number.
            let counts = |epoch: Epoch| !self.watch.released.contains(&epoch);
            let now = self.local(node);
            let holder_lives =
                host.daemon_up && host.holder.valid_until > now && counts(host.holder.epoch);
            let guard_now = self.local_of_guard(node);
            let guard_lives =
                host.guard.deadline > guard_now && host.guard.armed.is_some_and(counts);
            let is_live = holder_lives || guard_lives;
            if is_live {
                let text = format!(
                    "S4: granted to {} under a lease of {}",
                    grant.member, host.name
                );
                self.violated(&text);
                return;
            }
        }
    }

    fn check_best(&mut self, before: &ClusterState, grant: &Grant) {
        let position = |timeline, end| before.ledger.position(timeline, end);
        let best = grant
            .sealed
            .iter()
            .filter_map(|seal| position(seal.timeline, seal.end))
            .max();
        if position(grant.parent, grant.start) < best && grant.loss.is_none() {
            let eligible = before
                .members
                .iter()
                .filter(|(_, member)| member.tags.priority() > 0)
                .map(|(name, _)| name);
            let best_eligible = eligible
                .filter_map(|name| grant.sealed.iter().find(|seal| seal.member == *name))
                .filter_map(|seal| position(seal.timeline, seal.end))
                .max();
            if position(grant.parent, grant.start) < best_eligible {
                let text = format!(
                    "S6 S15: granted below the best sealed position, no loss recorded: {grant:?}"
                );
                self.violated(&text);
            }
        }
    }
}
