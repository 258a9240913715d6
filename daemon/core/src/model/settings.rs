//! Settings: replicated, changed at run time by a command; limits are checked here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lease::{LeaseTimes, Preset};

/// Who must confirm a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nobody but the primary: a failover may lose the last transactions, at most
    /// `maximum_lag_on_failover_bytes` of WAL.
    Async,
}

/// The whole document. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Times of lease and Raft.
    pub preset: Preset,
    /// Durability mode.
    pub mode: Mode,
    /// In `async`: a standby further behind the primary's last report than this is no candidate.
    /// Unit: bytes. Default 1 MiB, as Patroni's.
    pub maximum_lag_on_failover_bytes: u64,
    /// How long sealing waits for the seal of a member that is heard but has not sealed yet, before
    /// choosing among the others. Unit: milliseconds.
    pub seal_patience_ms: u64,
    /// A primary whose durable probe has not succeeded for this long loses its lease [H6].
    /// Unit: milliseconds.
    pub probe_limit_ms: u64,
    /// Sessions open on a standby survive its promotion: their writes are safe, but until
    /// `Activate` they may read rows a later primary lacks.
    pub keep_standby_sessions: bool,
    /// PostgreSQL parameters of users, cluster-wide.
    pub parameters: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            preset: Preset::Lan,
            mode: Mode::Async,
            maximum_lag_on_failover_bytes: 1024 * 1024,
            seal_patience_ms: 1000,
            probe_limit_ms: 5000,
            keep_standby_sessions: false,
            parameters: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// The times of the preset in force.
    pub fn times(&self) -> LeaseTimes {
        self.preset.times()
    }

    /// Every value that will not do, as `key: what is wrong (what would do)`.
    pub fn problems(&self) -> Vec<String> {
        let mut found: Vec<String> = self
            .times()
            .problems()
            .into_iter()
            .map(|text| format!("preset: {text}"))
            .collect();
        if self.seal_patience_ms > 60_000 {
            found.push("seal_patience_ms: more than a minute (at most 60000)".to_owned());
        }
        if self.probe_limit_ms < 1000 {
            found.push("probe_limit_ms: a busy disk takes that long (at least 1000)".to_owned());
        }
        found
    }

    /// [`Settings::seal_patience_ms`] as a duration.
    pub fn seal_patience(&self) -> Duration {
        Duration::from_millis(self.seal_patience_ms)
    }
}
