//! The settings as rows, how two documents differ, and which differences nobody asks for by mistake.

use std::collections::{BTreeMap, BTreeSet};

use super::settings::{Mode, Settings};
use super::units::{show_bytes, show_duration};

impl Settings {
    /// Every key that has a value, in the order of the document; values as `settings set` takes them.
    pub fn rows(&self) -> Vec<(String, String)> {
        let milliseconds = |ms: u64| show_duration(std::time::Duration::from_millis(ms));
        let mut rows: Vec<(String, String)> = [
            ("mode", self.mode.word().to_owned()),
            ("k", self.k.to_string()),
            ("k_min", self.k_min.to_string()),
            ("preset", self.preset.word().to_owned()),
            (
                "maximum_lag_on_failover",
                show_bytes(self.maximum_lag_on_failover_bytes),
            ),
            ("seal_patience", milliseconds(self.seal_patience_ms)),
            ("probe_limit", milliseconds(self.probe_limit_ms)),
            (
                "keep_standby_sessions",
                self.keep_standby_sessions.to_string(),
            ),
            ("backup_schedule", self.backup_schedule.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        let recovery = self.recovery.changed();
        rows.extend(
            recovery
                .iter()
                .map(|one| (one.key().to_owned(), one.to_string())),
        );
        let mut put = |key: String, value: Option<String>| {
            rows.extend(value.map(|value| (key, value)));
        };
        for (name, zone) in &self.zones {
            put(format!("zones.{name}"), Some(zone.clone()));
        }
        for (name, own) in &self.members {
            let key = |word: &str| format!("members.{name}.{word}");
            put(key("nofailover"), shown(own.nofailover));
            put(key("failover_priority"), shown(own.failover_priority));
            put(key("noloadbalance"), shown(own.noloadbalance));
            put(key("clonefrom"), shown(own.clonefrom));
            put(key("nosync"), shown(own.nosync));
            put(key("sync_priority"), shown(own.sync_priority));
        }
        for (place, parameters) in self.parameter_maps() {
            for (name, value) in parameters {
                put(format!("{place}.{name}"), Some(value.clone()));
            }
        }
        rows
    }

    /// What differs, as `key old -> new`, in the order of the document.
    pub fn differences(&self, next: &Settings) -> Vec<String> {
        let (old, new) = (self.rows(), next.rows());
        let before: BTreeMap<&str, &str> = pairs(&old);
        let after: BTreeMap<&str, &str> = pairs(&new);
        let mut told = BTreeSet::new();
        let keys = new.iter().chain(&old).map(|(key, _)| key.as_str());
        keys.filter(|key| told.insert(*key))
            .filter(|key| before.get(key) != after.get(key))
            .map(|key| {
                let of = |rows: &BTreeMap<&str, &str>| {
                    rows.get(key)
                        .map_or_else(|| absent(key), |value| (*value).to_owned())
                };
                format!("{key} {} -> {}", of(&before), of(&after))
            })
            .collect()
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
}

fn pairs(rows: &[(String, String)]) -> BTreeMap<&str, &str> {
    let pairs = rows.iter();
    pairs
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

fn shown<T: ToString>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// What it means that a key has no value.
fn absent(key: &str) -> String {
    let text = if key.contains("parameters.") {
        "not set"
    } else if key.starts_with("members.") {
        "as announced"
    } else {
        "none"
    };
    text.to_owned()
}
