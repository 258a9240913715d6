//! The verdict, with the shortest evidence.

use std::fmt;
use std::time::Duration;

use cluster_tests::History;

use crate::nemesis::Blow;

/// Fewest faults and rows for a run to mean anything.
const LEAST: (usize, usize) = (3, 1000);

/// What a run showed.
#[derive(Debug)]
pub struct Report {
    repeat: String,
    blows: Vec<Blow>,
    rows: usize,
    unknown: usize,
    reigns: usize,
    recovery: Duration,
    longest_outage: Duration,
    /// Acknowledged rows the cluster no longer has.
    pub missing: usize,
    /// Time during which two primaries acknowledged.
    pub overlap: Duration,
    violations: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// Of a run that is over.
    pub fn new(repeat: String, blows: Vec<Blow>, history: &History, recovery: Duration) -> Self {
        let ends = history.rows.first().zip(history.rows.last());
        let outage =
            ends.map(|(first, last)| history.outage(first.acknowledged, last.acknowledged));
        Self {
            repeat,
            blows,
            rows: history.rows.len(),
            unknown: history.unknown.len(),
            reigns: history.timelines().len(),
            recovery,
            longest_outage: outage.unwrap_or_default(),
            missing: 0,
            overlap: Duration::ZERO,
            violations: Vec::new(),
            notes: Vec::new(),
        }
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
        self.blows.len() >= LEAST.0 && self.rows >= LEAST.1
    }

    /// No violation, and enough happened.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.is_covered()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_primary = self.blows.iter().filter(|blow| blow.was_primary).count();
        writeln!(
            f,
            "faults: {} ({on_primary} on a primary), reigns: {}",
            self.blows.len(),
            self.reigns
        )?;
        writeln!(
            f,
            "rows acknowledged: {}, without an answer: {}",
            self.rows, self.unknown
        )?;
        writeln!(
            f,
            "acknowledged rows missing: {} (mode async)",
            self.missing
        )?;
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
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        if !self.is_covered() {
            writeln!(
                f,
                "TOO LITTLE HAPPENED: at least {} faults and {} rows",
                LEAST.0, LEAST.1
            )?;
        }
        let verdict = if self.is_good() { "good" } else { "BAD" };
        write!(f, "{verdict}; repeat: {}", self.repeat)
    }
}
