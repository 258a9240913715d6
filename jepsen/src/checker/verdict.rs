//! What a checker says: a property, how much it looked at, and what it found.

use std::fmt;

/// Evidence against a property, as short as there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The anomaly's name, as Adya's and Elle's.
    pub anomaly: String,
    /// One line for each operation that it takes to see it.
    pub evidence: Vec<String>,
}

impl Finding {
    /// With its evidence.
    pub fn new(anomaly: &str, evidence: impl IntoIterator<Item = String>) -> Self {
        Self {
            anomaly: anomaly.to_owned(),
            evidence: evidence.into_iter().collect(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.anomaly)?;
        self.evidence
            .iter()
            .try_for_each(|line| write!(f, "\n      {line}"))
    }
}

/// What became of a property.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Which.
    pub property: String,
    /// What was looked at.
    pub looked_at: String,
    /// What must not be.
    pub violations: Vec<Finding>,
    /// What may be in this mode or at this level, and was.
    pub allowed: Vec<Finding>,
    /// Why it is not proven although nothing was found. Counts as not proven.
    pub unknown: Vec<String>,
}

impl Verdict {
    /// Nothing found yet.
    pub fn new(property: &str, looked_at: String) -> Self {
        Self {
            property: property.to_owned(),
            looked_at,
            ..Self::default()
        }
    }

    /// A violation with its evidence; of each anomaly the first is enough.
    pub fn note(&mut self, anomaly: &str, evidence: impl IntoIterator<Item = String>) {
        if self.violations.iter().all(|it| it.anomaly != anomaly) {
            self.violations.push(Finding::new(anomaly, evidence));
        }
    }

    /// Nothing is against it, and it was looked at in full.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.unknown.is_empty()
    }

    /// What was found may be: in a mode that promises nothing of it.
    pub fn forgiven(mut self) -> Self {
        self.allowed.append(&mut self.violations);
        self
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match (self.violations.is_empty(), self.unknown.is_empty()) {
            (true, true) => "holds",
            (true, false) => "UNKNOWN",
            (false, _) => "VIOLATED",
        };
        write!(f, "{}: {word} ({})", self.property, self.looked_at)?;
        for finding in &self.violations {
            write!(f, "\n    VIOLATION {finding}")?;
        }
        for why in &self.unknown {
            write!(f, "\n    not proven: {why}")?;
        }
        for finding in &self.allowed {
            write!(f, "\n    seen, and allowed: {finding}")?;
        }
        Ok(())
    }
}
