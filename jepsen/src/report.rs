//! The verdict, with the shortest evidence.

use std::fmt;
use std::time::Duration;

use cluster_tests::History;

use crate::checker::Verdict;
use crate::nemesis::Blow;

/// The least that must happen for a run to mean anything.
#[derive(Clone, Copy, Debug)]
pub struct Least {
    /// Faults.
    pub faults: usize,
    /// Acknowledged rows.
    pub rows: usize,
    /// Changes of the primary.
    pub changes: usize,
    /// Operations that took effect, in each workload beside the set.
    pub operations: usize,
}

impl Default for Least {
    fn default() -> Self {
        Self {
            faults: 3,
            rows: 1000,
            changes: 0,
            operations: 100,
        }
    }
}

impl Least {
    /// Of a campaign: a change of the primary every third round, and 500 rows a round (100 000 in 200).
    pub fn of_rounds(rounds: usize) -> Self {
        Self {
            faults: rounds,
            rows: 500 * rounds,
            changes: rounds / 3,
            operations: 50 * rounds,
        }
    }

    /// Where the set's few writers share the machine with other clients.
    pub fn with_others(mut self) -> Self {
        self.rows /= 5;
        self
    }
}

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    repeat: String,
    blows: Vec<Blow>,
    rows: usize,
    unknown: usize,
    cancelled: u64,
    reigns: usize,
    changes: usize,
    least: Least,
    recovery: Duration,
    longest_outage: Duration,
    /// Acknowledged rows the cluster no longer has.
    pub missing: usize,
    /// Time during which two primaries acknowledged.
    pub overlap: Duration,
    /// Of the workload with the fewest; none if there is none beside the set.
    pub operations: Option<usize>,
    verdicts: Vec<Verdict>,
    violations: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// Of a run that is over.
    pub fn new(
        repeat: String,
        blows: Vec<Blow>,
        history: &History,
        recovery: Duration,
        least: Least,
    ) -> Self {
        let ends = history.rows.first().zip(history.rows.last());
        let outage =
            ends.map(|(first, last)| history.outage(first.acknowledged, last.acknowledged));
        Self {
            repeat,
            blows,
            rows: history.rows.len(),
            unknown: history.unknown.len(),
            cancelled: history.cancelled,
            reigns: history.timelines().len(),
            changes: history.changes_of_primary(),
            least,
            recovery,
            longest_outage: outage.unwrap_or_default(),
            missing: 0,
            overlap: Duration::ZERO,
            operations: None,
            verdicts: Vec::new(),
            violations: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// What became of a property.
    pub fn add(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }

    /// What was done to the cluster.
    pub fn blows(&self) -> &[Blow] {
        &self.blows
    }

    /// Violations and remarks that belong to no single property.
    pub fn remarks(&self) -> Vec<(&'static str, String)> {
        let violations = self.violations.iter().map(|it| ("violation", it.clone()));
        let notes = self.notes.iter().map(|it| ("note", it.clone()));
        let little = (!self.is_covered()).then(|| ("coverage", self.demanded()));
        violations.chain(little).chain(notes).collect()
    }

    /// The run in figures.
    pub fn facts(&self) -> Vec<String> {
        let on_primary = self.blows.iter().filter(|blow| blow.was_primary).count();
        vec![
            format!(
                "{} faults, {on_primary} of them on a primary",
                self.blows.len()
            ),
            format!("{} changes of the primary", self.changes),
            format!("{} acknowledged rows, {} missing", self.rows, self.missing),
            format!("{} ms with two primaries", self.overlap.as_millis()),
            format!(
                "longest time without a write {:.2} s",
                self.longest_outage.as_secs_f64()
            ),
        ]
    }

    fn demanded(&self) -> String {
        let least = self.least;
        format!(
            "too little happened: at least {} faults, {} rows, {} changes of the primary, and {} operations \
             in each workload ({:?} in the least busy)",
            least.faults, least.rows, least.changes, least.operations, self.operations
        )
    }

    /// The command that repeats the run.
    pub fn repeat(&self) -> &str {
        &self.repeat
    }

    /// All properties so far.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// Something that must not be.
    pub fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// Something worth a look.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn is_covered(&self) -> bool {
        let least = self.least;
        let is_busy = self.operations.is_none_or(|it| it >= least.operations);
        let is_struck = self.blows.len() >= least.faults && self.changes >= least.changes;
        is_busy && is_struck && self.rows >= least.rows
    }

    /// No violation, nothing left unknown, and enough happened.
    pub fn is_good(&self) -> bool {
        let is_proven = self.verdicts.iter().all(Verdict::is_good);
        self.violations.is_empty() && is_proven && self.is_covered()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_primary = self.blows.iter().filter(|blow| blow.was_primary).count();
        let held = self.blows.iter().filter(|blow| blow.was_held).count();
        writeln!(
            f,
            "faults: {} ({on_primary} on a primary, {held} held until rows came in), reigns: {}, changes \
             of the primary: {}",
            self.blows.len(),
            self.reigns,
            self.changes
        )?;
        writeln!(
            f,
            "rows acknowledged: {}, without an answer: {} ({} of them with a cancelled wait)",
            self.rows, self.unknown, self.cancelled
        )?;
        writeln!(f, "acknowledged rows missing: {}", self.missing)?;
        writeln!(
            f,
            "two primaries acknowledged for: {} ms",
            self.overlap.as_millis()
        )?;
        writeln!(
            f,
            "longest time without a write: {:.2} s",
            self.longest_outage.as_secs_f64()
        )?;
        writeln!(
            f,
            "healthy after the last repair: {:.2} s",
            self.recovery.as_secs_f64()
        )?;
        for verdict in &self.verdicts {
            writeln!(f, "{verdict}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        if !self.is_covered() {
            writeln!(
                f,
                "{}",
                self.demanded()
                    .replacen("too little happened", "TOO LITTLE HAPPENED", 1)
            )?;
        }
        let verdict = if self.is_good() { "good" } else { "BAD" };
        write!(f, "{verdict}; repeat: {}", self.repeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Finding;

    #[test]
    fn a_campaign_without_changes_of_the_primary_is_not_good() {
        let history = History::default();
        let report =
            |least| Report::new(String::new(), Vec::new(), &history, Duration::ZERO, least);
        assert!(report(Least::of_rounds(0)).is_good());
        let least = Least {
            changes: 1,
            ..Least::of_rounds(0)
        };
        let report = report(least);
        assert!(!report.is_good() && report.to_string().contains("TOO LITTLE HAPPENED"));
    }

    #[test]
    fn a_violated_and_an_unknown_property_are_not_good() {
        let history = History::default();
        let of = |verdict| {
            let least = Least::of_rounds(0);
            let mut report =
                Report::new(String::new(), Vec::new(), &history, Duration::ZERO, least);
            report.add(verdict);
            report
        };
        assert!(of(Verdict::new("bank", String::new())).is_good());
        let mut violated = Verdict::new("bank", String::new());
        violated.violations.push(Finding::new("wrong-total", []));
        assert!(of(violated.clone().forgiven()).is_good());
        let report = of(violated);
        assert!(!report.is_good() && report.to_string().contains("bank: VIOLATED"));
        let mut unknown = Verdict::new("register", String::new());
        unknown.unknown.push("too long".to_owned());
        assert!(!of(unknown).is_good());
    }
}
