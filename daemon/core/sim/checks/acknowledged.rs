//! Source: hazards 7, S5: everything acknowledged is contained in the line of every later activated
//! primary; S8: whoever is counted for X has it, in this very life; S9: live rules are never empty and
//! shrink by Activate only (nobody withdraws here); S12: what is set on a server is a live rule.

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::change::Command;
use cluster_core::model::{
    ClusterState, Epoch, Incarnation, Lsn, MemberName, Rule, RuleId, TimelineId,
};

use crate::world::World;

impl World {
    /// Somebody was told that his commit is safe.
    pub fn told(&mut self, epoch: Epoch, timeline: TimelineId, upto: Lsn) {
        let known = self.watch.told.entry(epoch).or_insert((timeline, upto));
        let has_grown = upto > known.1;
        known.1 = known.1.max(upto);
        if has_grown {
            self.watch.acknowledgements += 1;
        }
        // A zombie may still acknowledge what the newer primary has already.
        let newest = self.watch.primaries.last().copied();
        if let Some((newer, node)) = newest.filter(|(newer, _)| has_grown && *newer > epoch) {
            self.coverage
                .count("world", "acknowledged beside a newer primary");
            self.check_has("S5", newer, node, epoch);
        }
    }

    /// A later primary is activated: it has all that was acknowledged before.
    pub fn check_told(&mut self, activated: Epoch, node: usize) {
        let epochs: Vec<Epoch> = self.watch.told.keys().copied().collect();
        for epoch in epochs.into_iter().filter(|epoch| *epoch < activated) {
            self.check_has("S5", activated, node, epoch);
        }
    }

    /// S6: the granted one has all that anybody was told; judged by what really was.
    pub fn check_granted(&mut self, granted: Epoch, node: usize) {
        let epochs: Vec<Epoch> = self.watch.told.keys().copied().collect();
        for epoch in epochs.into_iter().filter(|epoch| *epoch < granted) {
            self.check_has("S6", granted, node, epoch);
        }
    }

    fn check_has(&mut self, property: &str, activated: Epoch, node: usize, epoch: Epoch) {
        let Some((timeline, upto)) = self.watch.told.get(&epoch).copied() else {
            return;
        };
        let mut accepted = self.watch.accepted_loss.iter();
        if accepted.any(|lost| epoch < *lost && *lost <= activated) {
            return;
        }
        let host = &self.nodes[node];
        let Some(data) = &host.postgres.data else {
            return;
        };
        let place = data.line.iter().position(|(known, _)| *known == timeline);
        let left = place.map(|place| data.line.get(place + 1).map_or(data.end, |next| next.1));
        if left.is_none_or(|left| left < upto) {
            let text = format!(
                "{property}: {} is primary of epoch {activated} and lacks what epoch {epoch} \
                 acknowledged up to {upto} of timeline {timeline} (it left at {left:?})",
                host.name
            );
            self.violated(&text);
        }
    }

    /// S8: the members an Activate rests on have flushed the position.
    pub fn check_confirmed(
        &mut self,
        epoch: Epoch,
        at: Lsn,
        by: &BTreeMap<MemberName, Incarnation>,
    ) {
        let ledger = &self.truth.newest().ledger;
        let timeline = ledger.of_epoch(epoch).map(|entry| entry.timeline);
        for (name, life) in by {
            let Some(node) = self.index_of(name) else {
                continue;
            };
            let host = &self.nodes[node];
            let is_same = host.durable.incarnation == Some(*life);
            let Some(data) = host.postgres.data.as_ref().filter(|_| is_same) else {
                continue;
            };
            let has_it = data.line.iter().any(|(known, _)| Some(*known) == timeline);
            if !has_it || data.end < at {
                let text = format!(
                    "S8: {name} is counted for {at} in epoch {epoch} and ends at {} on {:?}",
                    data.end, data.line
                );
                self.violated(&text);
            }
        }
    }

    /// `strict`: somebody was told, and so many standbys had it when that was so.
    pub fn check_least(&mut self, node: usize) {
        let Some(commits) = &self.nodes[node].postgres.commits else {
            return;
        };
        let least = |rule: &Rule| self.watch.least.get(&rule.id).copied().unwrap_or_default();
        let least = commits
            .evaluated
            .iter()
            .map(least)
            .min()
            .unwrap_or_default();
        if least == 0 {
            return;
        }
        let upto = commits.acknowledged;
        let have = commits.senders.values().filter(|it| it.flushed >= upto);
        let have: BTreeSet<usize> = have.map(|it| it.node).collect();
        if (have.len() as u64) < u64::from(least) {
            let text = format!(
                "k_min: {} acknowledges up to {upto}, confirmed by {have:?}, {least} must",
                self.names[node]
            );
            self.violated(&text);
        }
    }

    /// S9: between two truths.
    pub fn check_live(&mut self, before: &ClusterState, command: &Command) {
        let after = &self.truth.newest().live_rules;
        let is_lost = |rule: &&Rule| !after.contains(rule);
        let lost = before.live_rules.iter().find(is_lost).cloned();
        if let Some(lost) = lost
            && !matches!(command, Command::Activate { .. })
        {
            self.violated(&format!("S9: {lost} is forgotten by {command:?}"));
        }
    }

    /// S12: a server is given a rule. A primary whose clock cannot be trusted may not know that its
    /// epoch is over: then every rule of it was blocked by the seals of the next Grant.
    pub fn check_set(&mut self, node: usize, rule: RuleId, epoch: Epoch) {
        if self.kind.jumps && epoch < self.truth.newest().epoch() {
            self.coverage
                .count("world", "rule set in an epoch that is over");
            return;
        }
        let is_live = self
            .truth
            .newest()
            .live_rules
            .iter()
            .any(|it| it.id == rule);
        if !is_live {
            let text = format!(
                "S12: {} sets rule {rule}, which is not live",
                self.names[node]
            );
            self.violated(&text);
        }
    }
}
