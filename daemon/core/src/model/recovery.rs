//! Settings about getting data back: what is proven and deleted by schedule, and what is promised. One list of keys,
//! from which text, differences and the wire are made.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::recurrence::Recurrence;
use super::units;

/// How far a scheduled verification goes; each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyLevel {
    /// Every object of the backup.
    Files,
    /// The archive from the backup to its end.
    Archive,
    /// A real PostgreSQL, started from it.
    #[default]
    Start,
}

impl VerifyLevel {
    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            VerifyLevel::Files => "files",
            VerifyLevel::Archive => "archive",
            VerifyLevel::Start => "start",
        }
    }
}

impl FromStr for VerifyLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<VerifyLevel, String> {
        [VerifyLevel::Files, VerifyLevel::Archive, VerifyLevel::Start]
            .into_iter()
            .find(|level| level.word() == text)
            .ok_or_else(|| format!("`{text}` is no level (files, archive or start)"))
    }
}

/// The settings. An objective that is not there is not asked for. Lengths in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecoverySettings {
    /// When the newest backup is verified. Default: never.
    pub verify_schedule: Recurrence,
    /// How far that goes.
    pub verify_level: VerifyLevel,
    /// A verification that takes longer is given up: `TIMED_OUT`. Default 6 h.
    pub verify_timeout_ms: u64,
    /// When what nothing needs any more is deleted. Default: never.
    pub prune_schedule: Recurrence,
    /// Any moment this far back stays restorable. Default 168 h.
    pub keep_window_ms: u64,
    /// So many backups stay, however old. Default 2.
    pub keep_at_least: u32,
    /// After the loss of a primary, and from the repository alone, it takes at most so long until there is an answer.
    pub rto_ms: Option<u64>,
    /// At most the commits of so long are lost with all members.
    pub rpo_ms: Option<u64>,
    /// The newest backup is at most so old.
    pub backup_age_ms: Option<u64>,
    /// The newest verification that was successful is at most so old.
    pub verification_age_ms: Option<u64>,
}

impl Default for RecoverySettings {
    fn default() -> Self {
        RecoverySettings {
            verify_schedule: Recurrence::Off,
            verify_level: VerifyLevel::default(),
            verify_timeout_ms: 6 * 3_600_000,
            prune_schedule: Recurrence::Off,
            keep_window_ms: 168 * 3_600_000,
            keep_at_least: 2,
            rto_ms: None,
            rpo_ms: None,
            backup_age_ms: None,
            verification_age_ms: None,
        }
    }
}

/// One of them with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum RecoverySetting {
    VerifySchedule(Recurrence),
    VerifyLevel(VerifyLevel),
    VerifyTimeoutMs(u64),
    PruneSchedule(Recurrence),
    KeepWindowMs(u64),
    KeepAtLeast(u32),
    RtoMs(Option<u64>),
    RpoMs(Option<u64>),
    BackupAgeMs(Option<u64>),
    VerificationAgeMs(Option<u64>),
}

impl RecoverySettings {
    /// Whether nothing was set.
    pub fn is_default(&self) -> bool {
        *self == RecoverySettings::default()
    }

    /// Each of them, in the order of the document.
    pub fn all(&self) -> Vec<RecoverySetting> {
        use RecoverySetting as One;
        vec![
            One::VerifySchedule(self.verify_schedule.clone()),
            One::VerifyLevel(self.verify_level),
            One::VerifyTimeoutMs(self.verify_timeout_ms),
            One::PruneSchedule(self.prune_schedule.clone()),
            One::KeepWindowMs(self.keep_window_ms),
            One::KeepAtLeast(self.keep_at_least),
            One::RtoMs(self.rto_ms),
            One::RpoMs(self.rpo_ms),
            One::BackupAgeMs(self.backup_age_ms),
            One::VerificationAgeMs(self.verification_age_ms),
        ]
    }

    /// Those that differ from what a cluster has where nothing was set.
    pub fn changed(&self) -> Vec<RecoverySetting> {
        let usual = RecoverySettings::default().all();
        let own = self.all().into_iter().zip(usual);
        own.filter(|(own, usual)| own != usual)
            .map(|(own, _)| own)
            .collect()
    }

    /// Takes one over.
    pub fn set(&mut self, one: &RecoverySetting) {
        use RecoverySetting as One;
        match one {
            One::VerifySchedule(schedule) => self.verify_schedule = schedule.clone(),
            One::VerifyLevel(level) => self.verify_level = *level,
            One::VerifyTimeoutMs(ms) => self.verify_timeout_ms = *ms,
            One::PruneSchedule(schedule) => self.prune_schedule = schedule.clone(),
            One::KeepWindowMs(ms) => self.keep_window_ms = *ms,
            One::KeepAtLeast(count) => self.keep_at_least = *count,
            One::RtoMs(ms) => self.rto_ms = *ms,
            One::RpoMs(ms) => self.rpo_ms = *ms,
            One::BackupAgeMs(ms) => self.backup_age_ms = *ms,
            One::VerificationAgeMs(ms) => self.verification_age_ms = *ms,
        }
    }

    /// What will not do, as `key: what is wrong (what would do)`.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.keep_at_least == 0 {
            found.push("keep_at_least: would keep no backup (at least 1)".to_owned());
        }
        if self.verify_timeout_ms == 0 {
            found.push("verify_timeout: no time at all (at least 1ms)".to_owned());
        }
        for one in self.all() {
            use RecoverySetting as One;
            match one {
                One::RtoMs(Some(0))
                | One::RpoMs(Some(0))
                | One::BackupAgeMs(Some(0))
                | One::VerificationAgeMs(Some(0)) => found.push(format!(
                    "{}: nothing takes no time (more than 0, or empty: none)",
                    one.key()
                )),
                One::VerifySchedule(_)
                | One::VerifyLevel(_)
                | One::VerifyTimeoutMs(_)
                | One::PruneSchedule(_)
                | One::KeepWindowMs(_)
                | One::KeepAtLeast(_)
                | One::RtoMs(_)
                | One::RpoMs(_)
                | One::BackupAgeMs(_)
                | One::VerificationAgeMs(_) => {}
            }
        }
        found
    }
}

impl RecoverySetting {
    /// As `settings set` takes it; empty: as where nothing was set. None: no such key.
    ///
    /// # Errors
    /// In words: the value cannot be read.
    pub fn read(key: &str, value: &str) -> Option<Result<RecoverySetting, String>> {
        let usual = RecoverySettings::default().all();
        let usual = usual.into_iter().find(|one| one.key() == key)?;
        if value.is_empty() {
            return Some(Ok(usual));
        }
        use RecoverySetting as One;
        Some(match usual {
            One::VerifySchedule(_) => value.parse().map(One::VerifySchedule),
            One::VerifyLevel(_) => value.parse().map(One::VerifyLevel),
            One::VerifyTimeoutMs(_) => milliseconds(value).map(One::VerifyTimeoutMs),
            One::PruneSchedule(_) => value.parse().map(One::PruneSchedule),
            One::KeepWindowMs(_) => milliseconds(value).map(One::KeepWindowMs),
            One::KeepAtLeast(_) => value
                .parse()
                .map(One::KeepAtLeast)
                .map_err(|_| format!("`{value}` is no number (a whole one, 1 or more)")),
            One::RtoMs(_) => objective(value).map(One::RtoMs),
            One::RpoMs(_) => objective(value).map(One::RpoMs),
            One::BackupAgeMs(_) => objective(value).map(One::BackupAgeMs),
            One::VerificationAgeMs(_) => objective(value).map(One::VerificationAgeMs),
        })
    }

    /// Its name.
    pub fn key(&self) -> &'static str {
        use RecoverySetting as One;
        match self {
            One::VerifySchedule(_) => "verify_schedule",
            One::VerifyLevel(_) => "verify_level",
            One::VerifyTimeoutMs(_) => "verify_timeout",
            One::PruneSchedule(_) => "prune_schedule",
            One::KeepWindowMs(_) => "keep_window",
            One::KeepAtLeast(_) => "keep_at_least",
            One::RtoMs(_) => "rto",
            One::RpoMs(_) => "rpo",
            One::BackupAgeMs(_) => "backup_age",
            One::VerificationAgeMs(_) => "verification_age",
        }
    }
}

/// The value, as `settings set` takes it; `off` where nothing is asked for.
impl fmt::Display for RecoverySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use RecoverySetting as One;
        let show = |ms: &u64| units::show_duration(Duration::from_millis(*ms));
        match self {
            One::VerifySchedule(schedule) | One::PruneSchedule(schedule) => schedule.fmt(f),
            One::VerifyLevel(level) => f.write_str(level.word()),
            One::VerifyTimeoutMs(ms) | One::KeepWindowMs(ms) => f.write_str(&show(ms)),
            One::KeepAtLeast(count) => count.fmt(f),
            One::RtoMs(ms) | One::RpoMs(ms) | One::BackupAgeMs(ms) | One::VerificationAgeMs(ms) => {
                match ms {
                    Some(ms) => f.write_str(&show(ms)),
                    None => f.write_str("off"),
                }
            }
        }
    }
}

fn milliseconds(value: &str) -> Result<u64, String> {
    let time = units::duration(value)?;
    Ok(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn objective(value: &str) -> Result<Option<u64>, String> {
    match value {
        "off" => Ok(None),
        _ => milliseconds(value).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings_text::CLUSTER_KEYS;
    use super::*;

    #[test]
    fn every_setting_is_read_back_as_it_is_shown_and_named_in_the_list() {
        let mut settings = RecoverySettings::default();
        for (key, value) in [
            ("verify_schedule", "0 3 * * sun"),
            ("verify_level", "archive"),
            ("verify_timeout", "90min"),
            ("prune_schedule", "daily 04:00"),
            ("keep_window", "48h"),
            ("keep_at_least", "3"),
            ("rto", "10min"),
            ("rpo", "90s"),
            ("backup_age", "26h"),
            ("verification_age", "169h"),
        ] {
            let one = RecoverySetting::read(key, value).expect(key).expect(value);
            assert_eq!((one.key(), one.to_string().as_str()), (key, value));
            assert!(CLUSTER_KEYS.contains(key), "{key}");
            settings.set(&one);
        }
        assert_eq!(settings.problems(), Vec::<String>::new());
        let shown = settings.changed();
        assert_eq!(shown, settings.all(), "all of them were set");
        let mut back = RecoverySettings::default();
        shown.iter().for_each(|one| back.set(one));
        assert_eq!(back, settings);
        for one in settings.all() {
            let empty = RecoverySetting::read(one.key(), "").expect("a key");
            back.set(&empty.expect("empty is the default"));
        }
        assert!(back.is_default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(RecoverySetting::read("rtp", "5s").is_none());
        for (key, value) in [
            ("rto", "soon"),
            ("verify_level", "all"),
            ("keep_at_least", "-1"),
            ("prune_schedule", "sometimes"),
        ] {
            assert!(RecoverySetting::read(key, value).expect(key).is_err());
        }
        let none = RecoverySettings {
            keep_at_least: 0,
            verify_timeout_ms: 0,
            rpo_ms: Some(0),
            ..RecoverySettings::default()
        };
        assert_eq!(none.problems().len(), 3, "{:?}", none.problems());
    }
}
