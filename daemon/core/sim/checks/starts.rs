//! Source: hazards 7, S2, S10 and S11: how a PostgreSQL starts, is promoted, is opened, is copied.

use cluster_core::model::settings::Mode;
use cluster_core::model::{Epoch, TimelineId};

use crate::postgres::Process;
use crate::world::World;

impl World {
    /// PostgreSQL is about to start here.
    pub fn check_start(&mut self, node: usize) {
        let host = &self.nodes[node];
        let has_signal = host
            .postgres
            .data
            .as_ref()
            .is_some_and(|data| data.has_signal);
        let has_marker = host.durable.marker.is_some();
        if !has_signal {
            self.violated("S10: a start without standby.signal");
        }
        if has_marker {
            self.violated("S10: a start with the marker of an interrupted step");
        }
    }

    /// PostgreSQL has just left recovery on `timeline`.
    pub fn check_promotion(&mut self, node: usize, timeline: TimelineId) {
        let host = &self.nodes[node];
        let ledger = &self.truth.newest().ledger;
        let line = host
            .postgres
            .data
            .as_ref()
            .map(|data| data.line.clone())
            .unwrap_or_default();
        let Some(entry) = ledger.entry(timeline).cloned() else {
            self.violated("S2: a timeline nobody gave");
            return;
        };
        let mut broken = Vec::new();
        if entry.member != host.name || Some(entry.incarnation) != host.durable.incarnation {
            broken.push(format!(
                "S2: timeline {timeline} was given to {}",
                entry.member
            ));
        }
        if host.durable.min_epoch > entry.epoch {
            broken.push(format!(
                "S7: promoted in epoch {} against a promise",
                entry.epoch
            ));
        }
        if host.durable.used < entry.epoch {
            broken.push(format!(
                "S2: epoch {} is promoted and not used durably",
                entry.epoch
            ));
        }
        let parent = line.len().checked_sub(2).map(|at| line[at].0);
        if parent != Some(entry.parent) || line.last() != Some(&(timeline, entry.start)) {
            broken.push(format!(
                "S2: timeline {timeline} begins elsewhere than its Grant says"
            ));
        }
        if !self.watch.promoted.insert(entry.epoch)
            || self
                .timelines
                .opened
                .insert(timeline, (node, line))
                .is_some()
        {
            broken.push(format!("S2: timeline {timeline} is opened twice"));
        }
        broken.iter().for_each(|text| self.violated(text));
    }

    /// Clients are let in.
    pub fn check_open(&mut self, node: usize, epoch: Epoch) {
        if !self.activated.contains(&epoch) {
            let text = format!(
                "S10: {} opens epoch {epoch} before activation",
                self.names[node]
            );
            self.violated(&text);
        }
    }

    fn may_be_strict(&self) -> bool {
        self.kind.mode == Mode::Strict || self.changes.is_some()
    }

    /// A rewind or clone begins.
    pub fn check_source(&mut self, node: usize, from: usize, epoch: Epoch, what: &str) {
        // In `strict` a primary may wait for nobody but this copy.
        let may_be_needed = self.may_be_strict();
        if !(self.activated.contains(&epoch) || may_be_needed) || from == node {
            let text = format!("S11: a {what} from {} before activation", self.names[from]);
            self.violated(&text);
        }
        if what == "rewind" {
            let has_data = self.nodes[node].postgres.data.is_some();
            if !has_data || !matches!(self.nodes[node].postgres.process, Process::None) {
                self.violated("S11: a rewind of something that is not a stopped PostgreSQL");
            }
        }
    }

    /// A rewind or clone was copied from here.
    pub fn check_copied(&mut self, node: usize, from: usize) {
        let _ = node;
        let timeline = self.nodes[from]
            .postgres
            .data
            .as_ref()
            .map(|data| data.timeline());
        let epoch = timeline
            .and_then(|timeline| self.truth.newest().ledger.entry(timeline))
            .map(|entry| entry.epoch);
        let is_activated = epoch.is_some_and(|epoch| self.activated.contains(&epoch));
        let is_waited_for = self.may_be_strict() && epoch.is_some();
        if !is_activated && !is_waited_for {
            self.violated("S11: copied from a member that is not an activated primary");
        }
    }
}
