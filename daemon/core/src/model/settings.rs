//! Settings: replicated, changed at run time by a command; limits are checked here.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::MemberName;
use super::lease::{LeaseTimes, Preset};
use super::member::{MemberKind, Tags};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemberSettings {
    /// See [`Tags::nosync`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nosync: Option<bool>,
    /// See [`Tags::sync_priority`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_priority: Option<u32>,
}

impl MemberSettings {
    /// The tags with these in their place.
    pub fn over(&self, announced: &Tags) -> Tags {
        Tags {
            nosync: self.nosync.unwrap_or(announced.nosync),
            sync_priority: self.sync_priority.or(announced.sync_priority),
            ..announced.clone()
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
    /// PostgreSQL parameters of users, cluster-wide.
    pub parameters: BTreeMap<String, String>,
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
            parameters: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// The times of the preset in force.
    pub fn times(&self) -> LeaseTimes {
        self.preset.times()
    }

    /// Every value that will not do in a cluster of these members, as `key: what is wrong (what
    /// would do)`.
    pub fn problems_among(&self, members: &BTreeMap<MemberName, MemberKind>) -> Vec<String> {
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
        found.extend(self.durability().problems_among(members));
        for (name, own) in &self.members {
            match members.get(name) {
                None => found.push(format!(
                    "members.{name}: there is no member {name} (see `clusterctl list`)"
                )),
                Some(MemberKind::Witness) => found.push(format!(
                    "members.{name}: a witness confirms nothing (a member with a PostgreSQL)"
                )),
                Some(MemberKind::Database) => {}
            }
            if own.nosync == Some(true) && own.sync_priority.is_some_and(|priority| priority > 0) {
                found.push(format!(
                    "members.{name}.sync_priority: contradicts nosync (keep one)"
                ));
            }
        }
        found
    }

    /// What differs, as `key old -> new`, in the order of the document.
    pub fn differences(&self, next: &Settings) -> Vec<String> {
        let mut found = Vec::new();
        let mut differ = |key: String, before: String, after: String| {
            if before != after {
                found.push(format!("{key} {before} -> {after}"));
            }
        };
        let word = |word: &str| word.to_owned();
        differ(
            "preset".into(),
            word(self.preset.word()),
            word(next.preset.word()),
        );
        differ(
            "mode".into(),
            word(self.mode.word()),
            word(next.mode.word()),
        );
        differ("k".into(), self.k.to_string(), next.k.to_string());
        differ(
            "k_min".into(),
            self.k_min.to_string(),
            next.k_min.to_string(),
        );
        let zone = |of: &Settings, name: &MemberName| {
            of.zones
                .get(name)
                .map_or_else(|| word("none"), Clone::clone)
        };
        let zoned: BTreeSet<&MemberName> = self.zones.keys().chain(next.zones.keys()).collect();
        for name in zoned {
            differ(format!("zones.{name}"), zone(self, name), zone(next, name));
        }
        let own = |of: &Settings, name: &MemberName| of.members.get(name).copied();
        let set: BTreeSet<&MemberName> = self.members.keys().chain(next.members.keys()).collect();
        for name in set {
            let before = own(self, name).unwrap_or_default();
            let after = own(next, name).unwrap_or_default();
            differ(
                format!("{name} nosync"),
                shown(before.nosync),
                shown(after.nosync),
            );
            differ(
                format!("{name} sync_priority"),
                shown(before.sync_priority),
                shown(after.sync_priority),
            );
        }
        found
    }

    /// In words, each way in which `next` confirms less than this; nobody asks for that by mistake.
    pub fn lowers(&self, next: &Settings) -> Vec<String> {
        let mut found = Vec::new();
        match (self.mode, next.mode) {
            (Mode::Sync | Mode::Strict, Mode::Async) => found.push(
                "mode async: commits are confirmed by nobody but the primary, and a failover may \
                 lose the last of them"
                    .to_owned(),
            ),
            (Mode::Strict, Mode::Sync) => found.push(
                "mode sync: when no standby is left commits are confirmed by nobody, instead of \
                 waiting"
                    .to_owned(),
            ),
            (Mode::Async, _) | (Mode::Sync, Mode::Sync | Mode::Strict) | (_, Mode::Strict) => {}
        }
        if next.mode != Mode::Async && next.wanted_k() < self.wanted_k() {
            found.push(format!(
                "k {}: {} confirmed a commit before",
                next.wanted_k(),
                self.wanted_k()
            ));
        }
        if next.mode == Mode::Strict && self.mode == Mode::Strict && next.k_min < self.k_min {
            found.push(format!(
                "k_min {}: writes waited below {} before",
                next.k_min, self.k_min
            ));
        }
        found
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

impl Durability {
    /// Every value that will not do, as `key: what is wrong (what would do)`.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.k == 0 {
            found.push("k: nobody would confirm (at least 1, or mode `async`)".to_owned());
        }
        if self.k > MOST_CONFIRMATIONS {
            found.push(format!("k: too many (at most {MOST_CONFIRMATIONS})"));
        }
        if self.k_min == 0 {
            found.push("k_min: 0 is mode `sync` (at least 1)".to_owned());
        }
        if self.mode == Mode::Strict && self.k_min > self.k {
            found.push(format!("k_min: more than k (at most {})", self.k));
        }
        for (member, zone) in &self.zones {
            if zone.trim().is_empty() {
                found.push(format!(
                    "zones: the zone of {member} has no name (any text)"
                ));
            }
        }
        found
    }

    /// The same, and what will not do in a cluster of these members.
    pub fn problems_among(&self, members: &BTreeMap<MemberName, MemberKind>) -> Vec<String> {
        let mut found = self.problems();
        let databases = members
            .values()
            .filter(|kind| **kind == MemberKind::Database)
            .count() as u64;
        if self.mode == Mode::Strict && u64::from(self.k_min) >= databases {
            found.push(match databases.saturating_sub(1) {
                0 => "mode: strict without a standby: every write would wait (sync, or another \
                      member)"
                    .to_owned(),
                most => format!(
                    "k_min: there are {most} standbys at most, every write would wait (at most \
                     {most})"
                ),
            });
        }
        for member in self.zones.keys().filter(|name| !members.contains_key(name)) {
            found.push(format!(
                "zones: there is no member {member} (see `clusterctl list`)"
            ));
        }
        found
    }
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "as announced".to_owned(), |value| value.to_string())
}

/// Defaults are not stored: a member of a version that has no such key still reads the others.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_one(number: &u32) -> bool {
    *number == 1
}
