//! What a verification found: one document, kept as it is.

use std::fmt::Write as _;

use cluster_core::model::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::restore::moment;

/// The version of this document.
pub const FORMAT: u32 = 1;

/// How far a verification goes; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every object of the backup is there and has the content that was stored.
    Files,
    /// The archive leads from the backup to the target without a hole.
    Archive,
    /// A real PostgreSQL starts from it and reaches the target, and its tables and indexes are whole.
    Start,
}

impl Level {
    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Files => "files",
            Level::Archive => "archive",
            Level::Start => "start",
        }
    }
}

/// How a verification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Every level that was asked for passed.
    Successful,
    /// Something is wrong, or could not be looked at.
    Failed,
    /// It was not done within the time given.
    TimedOut,
}

impl Verdict {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Successful => "SUCCESSFUL",
            Verdict::Failed => "FAILED",
            Verdict::TimedOut => "TIMED_OUT",
        }
    }
}

/// How one level ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing is wrong.
    Passed,
    /// Something is.
    Failed,
    /// It was not tried: a level before it failed, or the time was up. Never a pass.
    NotTried,
}

/// One level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Which.
    pub level: Level,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took. Unit: milliseconds.
    pub took_ms: u64,
    /// What was looked at.
    pub checked: Vec<String>,
    /// What could not be looked at, and why.
    pub skipped: Vec<String>,
    /// Everything that is wrong.
    pub problems: Vec<String>,
}

impl Findings {
    /// Nothing found yet.
    pub fn new(level: Level) -> Findings {
        Findings {
            level,
            outcome: Outcome::NotTried,
            took_ms: 0,
            checked: Vec::new(),
            skipped: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Done, after so long.
    pub fn end(mut self, took: std::time::Duration) -> Findings {
        self.outcome = match self.problems.is_empty() {
            true => Outcome::Passed,
            false => Outcome::Failed,
        };
        self.took_ms = millis(took);
        self
    }
}

/// A duration in whole milliseconds.
pub fn millis(took: std::time::Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// What was measured along the way; each is there once it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// What was read of the backup and the archive, before compression. Unit: bytes.
    pub bytes: u64,
    /// How large a segment is. Unit: bytes.
    pub segment_bytes: Option<u64>,
    /// The timeline that recovery goes along.
    pub timeline: Option<TimelineId>,
    /// The first position that can be restored.
    pub first: Option<Lsn>,
    /// The last one: the end of the newest segment that can be reached.
    pub last: Option<Lsn>,
    /// From the beginning of the restore to the first answer at the target. Unit: milliseconds.
    pub rto_ms: Option<u64>,
    /// The newest commit in the copy. Unix time in milliseconds.
    pub newest_commit_unix_ms: Option<i64>,
    /// How old it was when the verification began; only measured when everything archived was replayed.
    pub rpo_ms: Option<u64>,
}

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this document.
    pub format: u32,
    /// Name of the verification.
    pub id: String,
    /// System identifier of the database; 0 when not even that could be told.
    pub database: u64,
    /// Which backup; none when none could be chosen.
    pub backup: Option<String>,
    /// How far it was to go.
    pub level: Level,
    /// Up to where, in words.
    pub target: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Who asked for it.
    pub by: String,
    /// Where it ran.
    pub host: String,
    /// The version of this program.
    pub version: String,
    /// The version of the PostgreSQL that was started.
    pub postgres: Option<String>,
    /// Unix time in milliseconds.
    pub began_unix_ms: i64,
    /// Unix time in milliseconds.
    pub ended_unix_ms: i64,
    /// What was measured.
    pub measured: Measured,
    /// What is wrong with none of the levels: the backup could not be chosen, the run was interrupted.
    pub problems: Vec<String>,
    /// The levels, in order.
    pub levels: Vec<Findings>,
}

impl Report {
    /// SUCCESSFUL takes that every level asked for has passed; time that is up is told as such.
    pub fn conclude(&mut self, is_out_of_time: bool) {
        let passed = |level: &Findings| level.outcome == Outcome::Passed;
        let is_whole = self.levels.iter().any(|it| it.level == self.level)
            && self.levels.iter().all(passed)
            && self.problems.is_empty();
        self.verdict = match (is_out_of_time, is_whole) {
            (true, _) => Verdict::TimedOut,
            (false, true) => Verdict::Successful,
            (false, false) => Verdict::Failed,
        };
    }

    /// One line of a list.
    pub fn line(&self) -> String {
        format!(
            "{}  {:<10}  {:<7}  backup {}  until {}  by {} on {}  {}{}",
            moment(self.began_unix_ms),
            self.verdict.as_str(),
            self.level.as_str(),
            self.backup.as_deref().unwrap_or("-"),
            self.target,
            self.by,
            self.host,
            seconds(u64::try_from(self.ended_unix_ms - self.began_unix_ms).unwrap_or(0)),
            self.measured
                .rto_ms
                .map_or_else(String::new, |rto| format!("  RTO {}", seconds(rto))),
        )
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: backup {} of database {}, level {}, until {}\n",
            self.verdict.as_str(),
            self.backup.as_deref().unwrap_or("(none)"),
            self.database,
            self.level.as_str(),
            self.target
        );
        for problem in &self.problems {
            let _ = writeln!(text, "  ! {problem}");
        }
        for level in &self.levels {
            let outcome = match level.outcome {
                Outcome::Passed => "passed",
                Outcome::Failed => "FAILED",
                Outcome::NotTried => "not tried",
            };
            let took = seconds(level.took_ms);
            let _ = writeln!(text, "  {:<8}{outcome}  {took}", level.level.as_str());
            let marked = [
                (" ", &level.checked),
                ("-", &level.skipped),
                ("!", &level.problems),
            ];
            for (mark, lines) in marked {
                for line in lines {
                    let _ = writeln!(text, "    {mark} {line}");
                }
            }
        }
        let measured = &self.measured;
        if let (Some(first), Some(last)) = (measured.first, measured.last) {
            let _ = writeln!(text, "  recoverable from {first} to {last}");
        }
        if let Some(rto) = measured.rto_ms {
            let _ = writeln!(text, "  RTO {} (restore to first answer)", seconds(rto));
        }
        if let Some(commit) = measured.newest_commit_unix_ms {
            let age = measured.rpo_ms.map_or_else(String::new, |age| {
                format!(": RPO {} (its age at the beginning)", seconds(age))
            });
            let _ = writeln!(text, "  newest commit {}{age}", moment(commit));
        }
        let _ = writeln!(
            text,
            "  {} bytes read; by {} on {}, {} to {}",
            measured.bytes,
            self.by,
            self.host,
            moment(self.began_unix_ms),
            moment(self.ended_unix_ms)
        );
        text
    }
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(levels: Vec<Findings>) -> Report {
        Report {
            format: FORMAT,
            id: "x".to_owned(),
            database: 7,
            backup: None,
            level: Level::Archive,
            target: "latest".to_owned(),
            verdict: Verdict::Failed,
            by: "me".to_owned(),
            host: "here".to_owned(),
            version: "0".to_owned(),
            postgres: None,
            began_unix_ms: 0,
            ended_unix_ms: 1500,
            measured: Measured::default(),
            problems: Vec::new(),
            levels,
        }
    }

    #[test]
    fn only_a_run_whose_every_level_passed_is_successful() {
        let passed = |level| Findings::new(level).end(std::time::Duration::ZERO);
        let verdict = |levels, is_late| {
            let mut report = report(levels);
            report.conclude(is_late);
            report.verdict
        };
        let both = || vec![passed(Level::Files), passed(Level::Archive)];
        assert_eq!(verdict(both(), false), Verdict::Successful);
        assert_eq!(verdict(both(), true), Verdict::TimedOut);
        assert_eq!(verdict(vec![passed(Level::Files)], false), Verdict::Failed);
        assert_eq!(verdict(Vec::new(), false), Verdict::Failed);
        let skipped = vec![passed(Level::Files), Findings::new(Level::Archive)];
        assert_eq!(verdict(skipped, false), Verdict::Failed);
    }
}
