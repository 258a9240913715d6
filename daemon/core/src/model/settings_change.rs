//! A change of the settings, key by key: what is not named stays as it is, so two operators who
//! change different keys at the same time do not undo each other. Or the whole document at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::MemberName;
use super::lease::Preset;
use super::recovery::RecoverySetting;
use super::recurrence::Recurrence;
use super::settings::{MemberSettings, Mode, Settings};

/// For single members: none takes the value away, so that what its config file says counts again.
pub type OfMembers<T> = BTreeMap<MemberName, Option<T>>;
/// PostgreSQL parameters: none takes the value away.
pub type ParameterChange = BTreeMap<String, Option<String>>;

/// Only the keys that change. Stored in the log, so what it has is never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    /// Everything is replaced by this first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<Box<Settings>>,
    /// See [`Settings::mode`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// See [`Settings::k`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k: Option<u32>,
    /// See [`Settings::k_min`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_min: Option<u32>,
    /// See [`Settings::preset`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// See [`Settings::maximum_lag_on_failover_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_lag_on_failover_bytes: Option<u64>,
    /// See [`Settings::seal_patience_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal_patience_ms: Option<u64>,
    /// See [`Settings::probe_limit_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_limit_ms: Option<u64>,
    /// See [`Settings::keep_standby_sessions`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_standby_sessions: Option<bool>,
    /// See [`Settings::backup_schedule`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_schedule: Option<Recurrence>,
    /// See [`Settings::recovery`]; one after the other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recovery: Vec<RecoverySetting>,
    /// See [`Settings::zones`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: OfMembers<String>,
    /// See [`MemberSettings::nosync`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nosync: OfMembers<bool>,
    /// See [`MemberSettings::sync_priority`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sync_priority: OfMembers<u32>,
    /// See [`MemberSettings::nofailover`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nofailover: OfMembers<bool>,
    /// See [`MemberSettings::failover_priority`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failover_priority: OfMembers<u32>,
    /// See [`MemberSettings::noloadbalance`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub noloadbalance: OfMembers<bool>,
    /// See [`MemberSettings::clonefrom`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clonefrom: OfMembers<bool>,
    /// See [`Settings::parameters`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: ParameterChange,
    /// See [`Settings::primary_parameters`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub primary_parameters: ParameterChange,
    /// See [`Settings::standby_parameters`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub standby_parameters: ParameterChange,
    /// See [`MemberSettings::parameters`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub member_parameters: BTreeMap<MemberName, ParameterChange>,
}

impl SettingsChange {
    /// The whole document at once.
    pub fn to(settings: Settings) -> SettingsChange {
        SettingsChange {
            whole: Some(Box::new(settings)),
            ..SettingsChange::default()
        }
    }

    /// The settings with this change in them; whether they will do is not looked at.
    pub fn applied_to(&self, settings: &Settings) -> Settings {
        let mut next = match &self.whole {
            Some(whole) => (**whole).clone(),
            None => settings.clone(),
        };
        next.mode = self.mode.unwrap_or(next.mode);
        next.k = self.k.unwrap_or(next.k);
        next.k_min = self.k_min.unwrap_or(next.k_min);
        next.preset = self.preset.unwrap_or(next.preset);
        let bytes = self.maximum_lag_on_failover_bytes;
        next.maximum_lag_on_failover_bytes = bytes.unwrap_or(next.maximum_lag_on_failover_bytes);
        next.seal_patience_ms = self.seal_patience_ms.unwrap_or(next.seal_patience_ms);
        next.probe_limit_ms = self.probe_limit_ms.unwrap_or(next.probe_limit_ms);
        let keeps = self.keep_standby_sessions;
        next.keep_standby_sessions = keeps.unwrap_or(next.keep_standby_sessions);
        if let Some(schedule) = &self.backup_schedule {
            next.backup_schedule = schedule.clone();
        }
        for one in &self.recovery {
            next.recovery.set(one);
        }
        put(&self.zones, &mut next.zones);
        put(&self.parameters, &mut next.parameters);
        put(&self.primary_parameters, &mut next.primary_parameters);
        put(&self.standby_parameters, &mut next.standby_parameters);
        let members = &mut next.members;
        each(&self.nosync, members, |own| &mut own.nosync);
        each(&self.sync_priority, members, |own| &mut own.sync_priority);
        each(&self.nofailover, members, |own| &mut own.nofailover);
        each(&self.failover_priority, members, |own| {
            &mut own.failover_priority
        });
        each(&self.noloadbalance, members, |own| &mut own.noloadbalance);
        each(&self.clonefrom, members, |own| &mut own.clonefrom);
        for (member, change) in &self.member_parameters {
            let own = members.entry(member.clone()).or_default();
            put(change, &mut own.parameters);
        }
        let nothing = MemberSettings::default();
        members.retain(|_, own| *own != nothing);
        next
    }
}

/// Puts what has a value, takes away what has none.
fn put<K: Ord + Clone, V: Clone>(change: &BTreeMap<K, Option<V>>, into: &mut BTreeMap<K, V>) {
    for (key, value) in change {
        match value {
            Some(value) => drop(into.insert(key.clone(), value.clone())),
            None => drop(into.remove(key)),
        }
    }
}

/// The same for one field of single members.
fn each<T: Clone>(
    change: &OfMembers<T>,
    members: &mut BTreeMap<MemberName, MemberSettings>,
    field: impl Fn(&mut MemberSettings) -> &mut Option<T>,
) {
    for (member, value) in change {
        *field(members.entry(member.clone()).or_default()) = value.clone();
    }
}
