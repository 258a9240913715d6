//! Settings: replicated, changed at run time by a command; limits are checked here.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::MemberName;
use super::lease::{LeaseTimes, Preset};
use super::member::Tags;
use super::recovery::RecoverySettings;
use super::recurrence::Recurrence;

/// Who must confirm a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `k` standbys, or as many as there are; none left: nobody, by the protocol, and back. No
    /// automatic failover loses an acknowledged write. What a new cluster starts with: the one place
    /// that says so.
    #[default]
    Sync,
    /// Never fewer than `k_min` standbys: without them writes wait.
    Strict,
    /// Nobody but the primary: a failover may lose the last transactions, at most
    /// `maximum_lag_on_failover_bytes` of WAL.
    Async,
}

impl Mode {
    /// As written in files and shown to people.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Strict => "strict",
            Mode::Async => "async",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        [Mode::Sync, Mode::Strict, Mode::Async]
            .into_iter()
            .find(|mode| mode.word() == text)
            .ok_or_else(|| format!("`{text}` is no mode (sync, strict or async)"))
    }
}

/// The part of the settings that says who must confirm a commit; changed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durability {
    /// See [`Settings::mode`].
    pub mode: Mode,
    /// See [`Settings::k`].
    pub k: u32,
    /// See [`Settings::k_min`].
    pub k_min: u32,
    /// See [`Settings::zones`].
    pub zones: BTreeMap<MemberName, String>,
}

/// What is set for one member at run time, over what its config file announces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemberSettings {
    /// See [`Tags::nofailover`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nofailover: Option<bool>,
    /// See [`Tags::failover_priority`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_priority: Option<u32>,
    /// See [`Tags::noloadbalance`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noloadbalance: Option<bool>,
    /// See [`Tags::clonefrom`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clonefrom: Option<bool>,
    /// See [`Tags::nosync`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nosync: Option<bool>,
    /// See [`Tags::sync_priority`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_priority: Option<u32>,
    /// PostgreSQL parameters of this member; they win over all others, its config file's included.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

impl MemberSettings {
    /// The tags with these in their place.
    pub fn over(&self, announced: &Tags) -> Tags {
        Tags {
            nofailover: self.nofailover.unwrap_or(announced.nofailover),
            failover_priority: self.failover_priority.or(announced.failover_priority),
            noloadbalance: self.noloadbalance.unwrap_or(announced.noloadbalance),
            clonefrom: self.clonefrom.unwrap_or(announced.clonefrom),
            nosync: self.nosync.unwrap_or(announced.nosync),
            sync_priority: self.sync_priority.or(announced.sync_priority),
            custom: announced.custom.clone(),
        }
    }
}

/// More confirmations than this are never useful, and a typing error is likelier.
pub const MOST_CONFIRMATIONS: u32 = 8;

/// The whole document. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Times of lease and Raft.
    pub preset: Preset,
    /// Durability mode.
    pub mode: Mode,
    /// How many standbys confirm a commit, outside `async`. Default 1.
    #[serde(skip_serializing_if = "is_one")]
    pub k: u32,
    /// In `strict`: never fewer than so many. Default 1.
    #[serde(skip_serializing_if = "is_one")]
    pub k_min: u32,
    /// The failure domain of each member. With zones, any `k` confirmations and the primary lie in
    /// at least two of them, as long as a standby of another zone can confirm.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<MemberName, String>,
    /// What is set for single members.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<MemberName, MemberSettings>,
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
    /// When the cluster takes a base backup by itself. Default: never.
    #[serde(skip_serializing_if = "Recurrence::is_off")]
    pub backup_schedule: Recurrence,
    /// What is proven and deleted by schedule, and what is promised.
    #[serde(skip_serializing_if = "RecoverySettings::is_default")]
    pub recovery: RecoverySettings,
    /// PostgreSQL parameters of every member; a member's own config file wins over them.
    pub parameters: BTreeMap<String, String>,
    /// The same, of whoever is the primary; they win over those of every member.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub primary_parameters: BTreeMap<String, String>,
    /// The same, of the standbys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub standby_parameters: BTreeMap<String, String>,
}

/// What a server does, as far as its parameters depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Out of recovery.
    Primary,
    /// In recovery.
    Standby,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            preset: Preset::Lan,
            mode: Mode::default(),
            k: 1,
            k_min: 1,
            zones: BTreeMap::new(),
            members: BTreeMap::new(),
            maximum_lag_on_failover_bytes: 1024 * 1024,
            seal_patience_ms: 1000,
            probe_limit_ms: 5000,
            keep_standby_sessions: false,
            backup_schedule: Recurrence::Off,
            recovery: RecoverySettings::default(),
            parameters: BTreeMap::new(),
            primary_parameters: BTreeMap::new(),
            standby_parameters: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// The times of the preset in force.
    pub fn times(&self) -> LeaseTimes {
        self.preset.times()
    }

    /// The PostgreSQL parameters of a server in this role, without its member's own.
    pub fn parameters_of(&self, role: Role) -> BTreeMap<String, String> {
        let of_role = match role {
            Role::Primary => &self.primary_parameters,
            Role::Standby => &self.standby_parameters,
        };
        let mut all = self.parameters.clone();
        all.extend(of_role.clone());
        all
    }

    /// What is set for one member at run time.
    pub fn parameters_of_member(&self, member: &MemberName) -> BTreeMap<String, String> {
        let own = self.members.get(member);
        own.map(|own| own.parameters.clone()).unwrap_or_default()
    }

    /// Who must confirm a commit.
    pub fn durability(&self) -> Durability {
        Durability {
            mode: self.mode,
            k: self.k,
            k_min: self.k_min,
            zones: self.zones.clone(),
        }
    }

    /// Puts the part that says who must confirm a commit.
    pub fn set_durability(&mut self, durability: Durability) {
        self.mode = durability.mode;
        self.k = durability.k;
        self.k_min = durability.k_min;
        self.zones = durability.zones;
    }

    /// How many confirmations are wanted when everybody is there: 0 in `async`.
    pub fn wanted_k(&self) -> u32 {
        match self.mode {
            Mode::Async => 0,
            Mode::Sync => self.k,
            Mode::Strict => self.k.max(self.k_min),
        }
    }

    /// [`Settings::seal_patience_ms`] as a duration.
    pub fn seal_patience(&self) -> Duration {
        Duration::from_millis(self.seal_patience_ms)
    }
}

/// Defaults are not stored: a member of a version that has no such key still reads the others.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_one(number: &u32) -> bool {
    *number == 1
}
