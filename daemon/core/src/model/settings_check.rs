//! Whether a document of settings will do: every problem at once, each with what would.

use std::collections::BTreeMap;

use super::ids::MemberName;
use super::member::MemberKind;
use super::parameters;
use super::settings::{Durability, MOST_CONFIRMATIONS, Mode, Settings};

impl Settings {
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
            found.push("seal_patience: more than a minute (at most 1min)".to_owned());
        }
        if self.probe_limit_ms < 1000 {
            found.push("probe_limit: a busy disk takes that long (at least 1s)".to_owned());
        }
        found.extend(self.durability().problems_among(members));
        found.extend(self.recovery.problems());
        for (name, own) in &self.members {
            match members.get(name) {
                None => found.push(format!(
                    "members.{name}: there is no member {name} (see `clusterctl list`)"
                )),
                Some(MemberKind::Witness) => found.push(format!(
                    "members.{name}: a witness has no PostgreSQL (a member that has one)"
                )),
                Some(MemberKind::Database) => {}
            }
            if own.nofailover == Some(true)
                && own.failover_priority.is_some_and(|priority| priority > 0)
            {
                found.push(format!(
                    "members.{name}.failover_priority: contradicts nofailover (keep one)"
                ));
            }
            if own.nosync == Some(true) && own.sync_priority.is_some_and(|priority| priority > 0) {
                found.push(format!(
                    "members.{name}.sync_priority: contradicts nosync (keep one)"
                ));
            }
        }
        for (place, parameters) in self.parameter_maps() {
            if parameters.len() > parameters::MOST {
                found.push(format!("{place}: too many (at most {})", parameters::MOST));
            }
            found.extend(parameters.iter().filter_map(|(name, value)| {
                let text = parameters::problem(name, value)?;
                Some(format!("{place}.{name}: {text}"))
            }));
        }
        found
    }

    /// Every map of PostgreSQL parameters, by the prefix of its keys.
    pub fn parameter_maps(&self) -> Vec<(String, &BTreeMap<String, String>)> {
        let mut maps = vec![
            ("parameters".to_owned(), &self.parameters),
            ("primary.parameters".to_owned(), &self.primary_parameters),
            ("standby.parameters".to_owned(), &self.standby_parameters),
        ];
        maps.extend(
            self.members
                .iter()
                .map(|(name, own)| (format!("members.{name}.parameters"), &own.parameters)),
        );
        maps
    }

    /// What of `next` only a config file may say, compared with what is there already.
    pub fn problems_from_afar(&self, next: &Settings) -> Vec<String> {
        let before: BTreeMap<String, String> = self.rows().into_iter().collect();
        let mut found = Vec::new();
        for (place, parameters) in next.parameter_maps() {
            for (name, value) in parameters {
                let key = format!("{place}.{name}");
                let is_new = before.get(&key) != Some(value);
                if is_new
                    && parameters::names_a_program(name)
                    && let Some(text) = parameters::problem_from_afar(name, value)
                {
                    found.push(format!("{key}: {text}"));
                }
            }
        }
        found
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
