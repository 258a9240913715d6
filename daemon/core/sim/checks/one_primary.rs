//! Source: hazards 7, S3 and S16, in the stronger form of model-lease 2: out of recovery only on
//! the member that holds the newest committed reign.

use crate::world::World;

impl World {
    /// After every event.
    pub fn check_safety(&mut self) {
        let mut serving = 0;
        let mut open = 0;
        for node in 0..self.nodes.len() {
            if self.may_serve(node) {
                serving += 1;
            }
            let host = &self.nodes[node];
            let dead = host.postgres.dies_at.is_some_and(|at| at <= self.now);
            let Some(writable) = host.postgres.writable() else {
                continue;
            };
            let is_still = !host.host_up || host.host_frozen || dead;
            if is_still || host.thawed_until > self.now {
                continue;
            }
            open += u32::from(writable.is_open);
            if self.holder != Some(node) && !self.kind.jumps {
                let holder = self
                    .truth
                    .newest()
                    .reign
                    .as_ref()
                    .map(|reign| &reign.holder);
                let text = format!(
                    "S3: {} is out of recovery, the holder is {holder:?}",
                    host.name
                );
                self.violated(&text);
                return;
            }
        }
        if self.kind.jumps {
            if open > 1 {
                self.coverage.count("world", "two open primaries");
            }
            return;
        }
        if serving > 1 {
            self.violated("S3 S16: two members may serve as primary");
        }
        if open > 1 {
            self.violated("S3: two PostgreSQLs let clients write");
        }
    }

    /// What the health check of a member would answer on a primary path.
    fn may_serve(&self, node: usize) -> bool {
        if !self.answers(node) {
            return false;
        }
        let host = &self.nodes[node];
        if host.postgres.writable().is_none() {
            return false;
        }
        let state = self.state_of(node);
        let Some(reign) = state.granted() else {
            return false;
        };
        reign.holder == host.name
            && host
                .holder
                .may_serve(reign.epoch, self.local(node), &state.settings.times())
    }

    /// A client writes here now.
    pub fn check_write(&mut self, node: usize) {
        let timeline = self.nodes[node]
            .postgres
            .data
            .as_ref()
            .map(|data| data.timeline());
        let epoch = timeline
            .and_then(|timeline| self.truth.newest().ledger.entry(timeline))
            .map(|entry| entry.epoch);
        let is_activated = epoch.is_some_and(|epoch| self.activated.contains(&epoch));
        if !is_activated {
            let text = format!(
                "S10: a client writes on {} before activation",
                self.names[node]
            );
            self.violated(&text);
        }
    }
}
