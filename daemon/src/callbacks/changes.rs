//! From what the member's loop has seen to what the programs are told. Pure.
//!
//! The surprise: a look that proves nothing (PostgreSQL does not answer, a primary without a lease) changes
//! nothing. Whoever was told "primary" goes on until the server is seen stopped or following.

use cluster_core::model::{Epoch, TimelineId};

use super::{Call, Kind, Role};

/// One look at this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its PostgreSQL.
    pub server: Server,
    /// It is being restarted on purpose right now.
    pub is_restarting: bool,
    /// The newest epoch known here.
    pub epoch: Epoch,
    /// PostgreSQL's timeline, when it is known.
    pub timeline: Option<TimelineId>,
}

/// What one look proves of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Nothing.
    Unclear,
    /// It does not run.
    Down,
    /// It answers, in recovery.
    Standby {
        /// When its postmaster started, Unix milliseconds.
        started_unix_ms: u64,
    },
    /// It answers, out of recovery, with a lease of the newest epoch.
    Primary {
        /// When its postmaster started, Unix milliseconds.
        started_unix_ms: u64,
        /// Clients are let in.
        is_open: bool,
    },
}

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The running server as last seen: its start and role.
    running: Option<(u64, Role)>,
    /// It was told that it is the primary, and not yet that it is a standby.
    was_primary: bool,
    /// The newest epoch whose activation was seen.
    activated: Option<Epoch>,
    epoch: Epoch,
    timeline: Option<TimelineId>,
}

impl Changes {
    /// What to tell after this look, in order.
    pub(super) fn look(&mut self, sight: &Sight) -> Vec<Call> {
        self.epoch = sight.epoch;
        self.timeline = sight.timeline.or(self.timeline);
        match sight.server {
            Server::Unclear => Vec::new(),
            Server::Down => self.down(sight.is_restarting),
            Server::Standby { started_unix_ms } => self.up(started_unix_ms, Role::Replica),
            Server::Primary {
                started_unix_ms,
                is_open,
            } => {
                // Opened before this process looked: that was told by the one before.
                let is_first = self.running.is_none() && !self.was_primary;
                let mut calls = self.up(started_unix_ms, Role::Primary);
                if is_open && self.activated < Some(sight.epoch) {
                    self.activated = Some(sight.epoch);
                    if !is_first {
                        calls.push(self.call(Kind::PostActivate, Role::Primary));
                    }
                }
                calls
            }
        }
    }

    /// What happens now to the server that was seen last; none when none runs.
    pub(super) fn now(&self, kind: Kind) -> Option<Call> {
        self.running.map(|(_, role)| self.call(kind, role))
    }

    fn down(&mut self, is_restarting: bool) -> Vec<Call> {
        if is_restarting {
            return Vec::new();
        }
        let Some((_, role)) = self.running.take() else {
            return Vec::new();
        };
        let mut calls = vec![self.call(Kind::OnStop, role)];
        if role == Role::Primary {
            calls.push(self.call(Kind::OnRoleChange, Role::Demoted));
        }
        calls
    }

    fn up(&mut self, started_unix_ms: u64, role: Role) -> Vec<Call> {
        let before = self.running.replace((started_unix_ms, role));
        let was_primary = std::mem::replace(&mut self.was_primary, role == Role::Primary);
        let kind = match before {
            // As Patroni: a former primary that comes back is a change of role and no start.
            None if was_primary && role == Role::Replica => Kind::OnRoleChange,
            None => Kind::OnStart,
            Some((_, old)) if old != role => Kind::OnRoleChange,
            Some((started, _)) if started != started_unix_ms => Kind::OnRestart,
            Some(_) => return Vec::new(),
        };
        vec![self.call(kind, role)]
    }

    fn call(&self, kind: Kind, role: Role) -> Call {
        Call {
            kind,
            role,
            epoch: self.epoch,
            timeline: self.timeline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(server: Server) -> Sight {
        Sight {
            server,
            is_restarting: false,
            epoch: Epoch(4),
            timeline: Some(TimelineId(2)),
        }
    }

    fn standby(started_unix_ms: u64) -> Sight {
        sight(Server::Standby { started_unix_ms })
    }

    fn primary(started_unix_ms: u64, is_open: bool) -> Sight {
        sight(Server::Primary {
            started_unix_ms,
            is_open,
        })
    }

    fn told(changes: &mut Changes, sight: &Sight) -> Vec<String> {
        let calls = changes.look(sight);
        let words = calls
            .iter()
            .map(|it| format!("{} {}", it.kind.word(), it.role.word()));
        words.collect()
    }

    #[test]
    fn a_life_is_told_in_patronis_words_and_each_step_once() {
        let mut changes = Changes::default();
        let mut look = |sight: Sight| {
            let words = told(&mut changes, &sight);
            assert!(told(&mut changes, &sight).is_empty(), "told twice");
            words
        };
        assert_eq!(look(standby(1)), ["on_start replica"]);
        assert_eq!(look(primary(1, false)), ["on_role_change primary"]);
        assert_eq!(look(primary(1, true)), ["post_activate primary"]);
        let stopped = look(sight(Server::Down));
        assert_eq!(stopped, ["on_stop primary", "on_role_change demoted"]);
        assert_eq!(look(standby(2)), ["on_role_change replica"]);
        assert_eq!(look(sight(Server::Down)), ["on_stop replica"]);
        assert_eq!(look(standby(3)), ["on_start replica"]);
    }

    #[test]
    fn a_gate_that_closes_and_opens_in_the_same_epoch_is_no_activation() {
        let mut changes = Changes::default();
        changes.look(&standby(1));
        changes.look(&primary(1, true));
        assert!(changes.look(&primary(1, false)).is_empty());
        assert!(changes.look(&primary(1, true)).is_empty());
    }

    #[test]
    fn a_restart_is_told_as_one_and_one_that_fails_as_a_stop() {
        let mut changes = Changes::default();
        changes.look(&standby(1));
        let down = Sight {
            is_restarting: true,
            ..sight(Server::Down)
        };
        assert!(changes.look(&down).is_empty());
        assert_eq!(told(&mut changes, &standby(2)), ["on_restart replica"]);
        assert!(changes.look(&down).is_empty());
        let failed = sight(Server::Down);
        assert_eq!(told(&mut changes, &failed), ["on_stop replica"]);
    }

    #[test]
    fn what_proves_nothing_changes_nothing() {
        let mut changes = Changes::default();
        changes.look(&primary(1, true));
        assert!(changes.look(&sight(Server::Unclear)).is_empty());
        assert!(changes.look(&primary(1, true)).is_empty());
        let reload = changes.now(Kind::OnReload).expect("it runs");
        assert_eq!((reload.role, reload.epoch), (Role::Primary, Epoch(4)));
    }

    #[test]
    fn a_daemon_that_starts_beside_an_open_primary_tells_a_start_and_no_activation() {
        let mut changes = Changes::default();
        let first = told(&mut changes, &primary(1, true));
        assert_eq!(first, ["on_start primary"]);
        assert!(Changes::default().now(Kind::OnReload).is_none());
    }
}
