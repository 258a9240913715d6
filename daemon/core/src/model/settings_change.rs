//! A change of the settings, key by key: what is not named stays as it is, so two operators who
//! change different keys at the same time do not undo each other.
//!
//! Keys and values come as text, from `clusterctl settings set` and from `PATCH /config` alike; all
//! that will not do is told at once, each with what would.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::MemberName;
use super::lease::Preset;
use super::settings::{MemberSettings, Mode, Settings};

/// Only the keys that change. In the maps none takes the value away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
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
    /// See [`Settings::zones`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<MemberName, Option<String>>,
    /// See [`MemberSettings::nosync`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nosync: BTreeMap<MemberName, Option<bool>>,
    /// See [`MemberSettings::sync_priority`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sync_priority: BTreeMap<MemberName, Option<u32>>,
}

/// One key with its new value, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The key.
    pub key: String,
    /// The value; empty takes it away, where that means something.
    pub value: String,
    /// The member it is for; none = the cluster.
    pub member: Option<String>,
}

/// Keys of the cluster, for people.
const CLUSTER_KEYS: &str = "mode, k, k_min, preset, zones.MEMBER";
/// Keys of one member, for people.
const MEMBER_KEYS: &str = "nosync, sync_priority";
/// Keys that only a new cluster's config file sets.
const FOUNDING_KEYS: [&str; 5] = [
    "maximum_lag_on_failover",
    "seal_patience",
    "probe_limit",
    "keep_standby_sessions",
    "parameters",
];

impl SettingsChange {
    /// From text: what of it is good, and every key and value that will not do, as `key: what is
    /// wrong (what would do)`. With a problem nothing of it may be carried out; the good part is for
    /// finding what else is wrong.
    pub fn read(assignments: &[Assignment]) -> (SettingsChange, Vec<String>) {
        let mut reader = Reader::default();
        for (place, one) in assignments.iter().enumerate() {
            let is_twice = assignments[..place]
                .iter()
                .any(|before| before.key == one.key && before.member == one.member);
            if is_twice {
                reader.problem(&one.key, "given twice (keep one)");
            }
            reader.take(one);
        }
        if assignments.is_empty() {
            reader.problem("settings", format!("nothing to change ({CLUSTER_KEYS})"));
        }
        (reader.change, reader.problems)
    }

    /// The settings with this change in them; whether they will do is not looked at.
    pub fn applied_to(&self, settings: &Settings) -> Settings {
        let mut next = settings.clone();
        next.mode = self.mode.unwrap_or(next.mode);
        next.k = self.k.unwrap_or(next.k);
        next.k_min = self.k_min.unwrap_or(next.k_min);
        next.preset = self.preset.unwrap_or(next.preset);
        for (member, zone) in &self.zones {
            match zone {
                Some(zone) => drop(next.zones.insert(member.clone(), zone.clone())),
                None => drop(next.zones.remove(member)),
            }
        }
        for (member, nosync) in &self.nosync {
            next.members.entry(member.clone()).or_default().nosync = *nosync;
        }
        for (member, priority) in &self.sync_priority {
            let of_member = next.members.entry(member.clone()).or_default();
            of_member.sync_priority = *priority;
        }
        let nothing = MemberSettings::default();
        next.members.retain(|_, own| *own != nothing);
        next
    }
}

#[derive(Default)]
struct Reader {
    change: SettingsChange,
    problems: Vec<String>,
}

impl Reader {
    fn problem(&mut self, key: &str, text: impl std::fmt::Display) {
        self.problems.push(format!("{key}: {text}"));
    }

    fn take(&mut self, one: &Assignment) {
        match &one.member {
            Some(member) => self.of_member(member, &one.key, one.value.trim()),
            None => self.of_cluster(&one.key, one.value.trim()),
        }
    }

    fn of_cluster(&mut self, key: &str, value: &str) {
        match key {
            "mode" => self.change.mode = self.word(key, value),
            "preset" => self.change.preset = self.word(key, value),
            "k" => self.change.k = self.number(key, value),
            "k_min" => self.change.k_min = self.number(key, value),
            "nosync" | "sync_priority" => {
                self.problem(key, "is of one member (add --member NAME)");
            }
            _ => match key.strip_prefix("zones.").map(str::parse::<MemberName>) {
                Some(Ok(member)) => {
                    let zone = (!value.is_empty()).then(|| value.to_owned());
                    self.change.zones.insert(member, zone);
                }
                Some(Err(why)) => self.problem(key, why),
                None if FOUNDING_KEYS.contains(&key) => self.problem(
                    key,
                    format!(
                        "is given when a cluster forms, in [settings] of the config file (at run \
                         time: {CLUSTER_KEYS})"
                    ),
                ),
                None => self.problem(
                    key,
                    format!("no such key ({CLUSTER_KEYS}; with --member {MEMBER_KEYS})"),
                ),
            },
        }
    }

    fn of_member(&mut self, member: &str, key: &str, value: &str) {
        let name = match member.parse::<MemberName>() {
            Ok(name) => name,
            Err(why) => return self.problem("--member", why),
        };
        match key {
            "nosync" => match value {
                "true" | "on" | "yes" => drop(self.change.nosync.insert(name, Some(true))),
                "false" | "off" | "no" => drop(self.change.nosync.insert(name, Some(false))),
                "" => drop(self.change.nosync.insert(name, None)),
                other => self.problem(
                    key,
                    format!("`{other}` is neither (true or false; empty: as its config file says)"),
                ),
            },
            "sync_priority" if value.is_empty() => {
                self.change.sync_priority.insert(name, None);
            }
            "sync_priority" => {
                if let Some(priority) = self.number(key, value) {
                    self.change.sync_priority.insert(name, Some(priority));
                }
            }
            _ => self.problem(key, format!("is not of one member ({MEMBER_KEYS})")),
        }
    }

    fn word<T: FromStr<Err = String>>(&mut self, key: &str, value: &str) -> Option<T> {
        match value.parse() {
            Ok(word) => Some(word),
            Err(why) => {
                self.problem(key, why);
                None
            }
        }
    }

    fn number(&mut self, key: &str, value: &str) -> Option<u32> {
        let number = value.parse().ok();
        if number.is_none() {
            self.problem(
                key,
                format!("`{value}` is no number (a whole one, 0 or more)"),
            );
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str, member: Option<&str>) -> Assignment {
        Assignment {
            key: key.to_owned(),
            value: value.to_owned(),
            member: member.map(str::to_owned),
        }
    }

    fn name(text: &str) -> MemberName {
        text.parse().expect("name")
    }

    #[test]
    fn only_what_is_named_changes_and_what_is_emptied_goes() {
        let (change, problems) = SettingsChange::read(&[
            set("mode", "strict", None),
            set("zones.a", "east", None),
            set("zones.b", "", None),
            set("nosync", "true", Some("c")),
            set("sync_priority", "", Some("d")),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        let mut before = Settings {
            k: 2,
            ..Settings::default()
        };
        before.zones.insert(name("b"), "west".to_owned());
        let priority = MemberSettings {
            sync_priority: Some(3),
            ..MemberSettings::default()
        };
        before.members.insert(name("d"), priority);
        let after = change.applied_to(&before);
        assert_eq!((after.mode, after.k), (Mode::Strict, 2));
        assert_eq!(
            after.zones,
            BTreeMap::from([(name("a"), "east".to_owned())])
        );
        assert_eq!(after.members.keys().collect::<Vec<_>>(), [&name("c")]);
        assert_eq!(after.members[&name("c")].nosync, Some(true));
        let written = serde_json::to_string(&change).expect("JSON");
        let read: SettingsChange = serde_json::from_str(&written).expect("read back");
        assert_eq!(read, change);
    }

    #[test]
    fn everything_that_will_not_do_is_told_at_once_with_what_would() {
        let (change, problems) = SettingsChange::read(&[
            set("mode", "quorum", None),
            set("k", "-1", None),
            set("preset", "quick", None),
            set("nosync", "true", None),
            set("zones.B!", "x", None),
            set("colour", "red", None),
            set("probe_limit", "1s", None),
            set("k", "2", None),
            set("nosync", "perhaps", Some("b")),
            set("mode", "sync", Some("b")),
            set("nosync", "true", Some("B!")),
            set("k_min", "2", None),
        ]);
        assert_eq!(change.k_min, Some(2), "the good part, to look further");
        for (start, words) in [
            ("mode: ", "sync, strict or async"),
            ("k: `-1`", "a whole one"),
            ("preset: ", "fast, lan or wan"),
            ("nosync: ", "--member NAME"),
            ("zones.B!: ", "member name"),
            ("colour: no such key", "k_min"),
            ("probe_limit: ", "when a cluster forms"),
            ("k: given twice", "keep one"),
            ("nosync: `perhaps`", "true or false"),
            ("mode: is not of one member", "sync_priority"),
            ("--member: ", "member name"),
        ] {
            assert!(
                problems
                    .iter()
                    .any(|it| it.starts_with(start) && it.contains(words)),
                "{start} … {words} in {problems:#?}"
            );
        }
        assert_eq!(problems.len(), 11);
        assert_eq!(SettingsChange::read(&[]).1.len(), 1);
    }
}
