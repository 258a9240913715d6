//! A change of the settings as text, from `clusterctl settings set` and from `PATCH /config` alike: all
//! that will not do is told at once, each with what would.

use std::str::FromStr;

use super::ids::MemberName;
use super::parameters;
use super::recovery::RecoverySetting;
use super::recurrence::Recurrence;
use super::settings_change::{OfMembers, ParameterChange, SettingsChange};
use super::units;

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
pub const CLUSTER_KEYS: &str = "mode, k, k_min, preset, zones.MEMBER, parameters.NAME, primary.parameters.NAME, \
     standby.parameters.NAME, maximum_lag_on_failover, seal_patience, probe_limit, keep_standby_sessions, \
     backup_schedule, verify_schedule, verify_level, verify_timeout, prune_schedule, keep_window, keep_at_least, rto, \
     rpo, backup_age, verification_age";
/// Keys of one member, for people.
pub const MEMBER_KEYS: &str = "parameters.NAME, nofailover, failover_priority, noloadbalance, clonefrom, nosync, sync_priority";
/// The plain ones of a member, to tell somebody who forgot to name it.
const TAGS: [&str; 6] = [
    "nofailover",
    "failover_priority",
    "noloadbalance",
    "clonefrom",
    "nosync",
    "sync_priority",
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
            "maximum_lag_on_failover" => {
                // Patroni's has no unit: bytes.
                let read = match value.parse() {
                    Ok(bytes) => Ok(bytes),
                    Err(_) => units::bytes(value),
                };
                self.change.maximum_lag_on_failover_bytes = self.unit(key, read);
            }
            "seal_patience" => self.change.seal_patience_ms = self.milliseconds(key, value),
            "probe_limit" => self.change.probe_limit_ms = self.milliseconds(key, value),
            "keep_standby_sessions" => match self.switch(key, value) {
                Some(None) => self.problem(key, "has no value (true or false)"),
                keeps => self.change.keep_standby_sessions = keeps.flatten(),
            },
            // Nothing: never, as with every other key that can be taken away.
            "backup_schedule" if value.is_empty() => {
                self.change.backup_schedule = Some(Recurrence::Off);
            }
            "backup_schedule" => self.change.backup_schedule = self.word(key, value),
            _ if TAGS.contains(&key) => {
                self.problem(key, "is of one member (add --member NAME)");
            }
            _ => match RecoverySetting::read(key, value) {
                Some(read) => {
                    let read = self.unit(key, read);
                    self.change.recovery.extend(read);
                }
                None => self.of_cluster_by_name(key, value),
            },
        }
    }

    fn of_cluster_by_name(&mut self, key: &str, value: &str) {
        let parameters = [
            ("parameters.", &mut self.change.parameters),
            ("primary.parameters.", &mut self.change.primary_parameters),
            ("standby.parameters.", &mut self.change.standby_parameters),
        ];
        for (prefix, into) in parameters {
            if let Some(name) = key.strip_prefix(prefix) {
                let wrong = parameter(name, value, into);
                return self
                    .problems
                    .extend(wrong.map(|why| format!("{key}: {why}")));
            }
        }
        match key.strip_prefix("zones.").map(str::parse::<MemberName>) {
            Some(Ok(member)) => {
                let zone = (!value.is_empty()).then(|| value.to_owned());
                self.change.zones.insert(member, zone);
            }
            Some(Err(why)) => self.problem(key, why),
            None => self.problem(
                key,
                format!("no such key ({CLUSTER_KEYS}; with --member {MEMBER_KEYS})"),
            ),
        }
    }

    fn of_member(&mut self, member: &str, key: &str, value: &str) {
        let name = match member.parse::<MemberName>() {
            Ok(name) => name,
            Err(why) => return self.problem("--member", why),
        };
        if let Some(of) = key.strip_prefix("parameters.") {
            let into = self.change.member_parameters.entry(name).or_default();
            let wrong = parameter(of, value, into);
            return self
                .problems
                .extend(wrong.map(|why| format!("{key}: {why}")));
        }
        if matches!(key, "sync_priority" | "failover_priority") {
            let Some(number) = self.priority(key, value) else {
                return;
            };
            let into: &mut OfMembers<u32> = match key {
                "sync_priority" => &mut self.change.sync_priority,
                _ => &mut self.change.failover_priority,
            };
            into.insert(name, number);
            return;
        }
        if !TAGS.contains(&key) {
            return self.problem(key, format!("is not of one member ({MEMBER_KEYS})"));
        }
        let Some(switch) = self.switch(key, value) else {
            return;
        };
        let into: &mut OfMembers<bool> = match key {
            "nofailover" => &mut self.change.nofailover,
            "noloadbalance" => &mut self.change.noloadbalance,
            "clonefrom" => &mut self.change.clonefrom,
            _ => &mut self.change.nosync,
        };
        into.insert(name, switch);
    }

    fn word<T: FromStr<Err = String>>(&mut self, key: &str, value: &str) -> Option<T> {
        self.unit(key, value.parse())
    }

    fn unit<T>(&mut self, key: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|why| self.problem(key, why)).ok()
    }

    fn milliseconds(&mut self, key: &str, value: &str) -> Option<u64> {
        let time = self.unit(key, units::duration(value))?;
        u64::try_from(time.as_millis()).ok()
    }

    fn number(&mut self, key: &str, value: &str) -> Option<u32> {
        let read = value
            .parse()
            .map_err(|_| format!("`{value}` is no number (a whole one, 0 or more)"));
        self.unit(key, read)
    }

    /// None: it cannot be read. The inner none: empty.
    fn priority(&mut self, key: &str, value: &str) -> Option<Option<u32>> {
        if value.is_empty() {
            return Some(None);
        }
        self.number(key, value).map(Some)
    }

    /// None: it cannot be read. The inner none: empty.
    fn switch(&mut self, key: &str, value: &str) -> Option<Option<bool>> {
        match value {
            "true" | "on" | "yes" => Some(Some(true)),
            "false" | "off" | "no" => Some(Some(false)),
            "" => Some(None),
            other => {
                let text = format!("`{other}` is neither (true or false; empty: takes it away)");
                self.problem(key, text);
                None
            }
        }
    }
}

/// Puts it; what is wrong with it, if something is.
fn parameter(name: &str, value: &str, into: &mut ParameterChange) -> Option<String> {
    let value = (!value.is_empty()).then(|| value.to_owned());
    let judged = value.as_deref().unwrap_or("on");
    if let Some(why) = parameters::problem_from_afar(name, judged)
        // Taking away is always possible, but for what is never there.
        && (value.is_some() || parameters::managed(name).is_some())
    {
        return Some(why);
    }
    into.insert(name.to_ascii_lowercase(), value);
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Settings;
    use crate::model::settings::{MemberSettings, Mode};

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
            set("probe_limit", "soon", None),
            set("parameters.fsync", "off", None),
            set("standby.parameters.shared_preload_libraries", "x", None),
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
            ("probe_limit: `soon`", "10s"),
            ("parameters.fsync: belongs to clusterd", "confirmed commit"),
            (
                "standby.parameters.shared_preload_libraries: ",
                "config file",
            ),
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
        assert_eq!(problems.len(), 13);
        assert_eq!(SettingsChange::read(&[]).1.len(), 1);
    }
}
