//! Commits that a client was told of and nobody else had: what the history last said of them.

use serde::{Deserialize, Serialize};

use super::MemberName;
use super::member::Health;

/// What one daemon of the primary has told so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bypass {
    /// The primary.
    pub member: MemberName,
    /// The life of its daemon: the counters begin with it.
    pub daemon_start: String,
    /// What lowers `synchronous_commit` below what the mode promises, a line each.
    pub overrides: Vec<String>,
    /// Commits whose wait for a confirmation was cancelled.
    pub cancelled_waits: u64,
    /// Connections ended that confirmed commits and were no member's standby.
    pub strangers_ended: u64,
    /// When it was told, Unix milliseconds, as the leader's clock had it.
    pub at_unix_ms: u64,
}

impl Bypass {
    /// What this health says, told at `at_unix_ms`.
    pub fn of(member: &MemberName, daemon_start: &str, health: &Health, at_unix_ms: u64) -> Bypass {
        Bypass {
            member: member.clone(),
            daemon_start: daemon_start.to_owned(),
            overrides: health.commit_overrides.clone(),
            cancelled_waits: health.cancelled_waits,
            strangers_ended: health.strangers_ended,
            at_unix_ms,
        }
    }

    /// Nothing to tell of.
    pub fn is_nothing(&self) -> bool {
        self.overrides.is_empty() && self.cancelled_waits == 0 && self.strangers_ended == 0
    }

    /// The same facts, whenever they were told.
    pub fn says_as(&self, other: &Bypass) -> bool {
        let untimed = |it: &Bypass| Bypass {
            at_unix_ms: 0,
            ..it.clone()
        };
        untimed(self) == untimed(other)
    }
}
