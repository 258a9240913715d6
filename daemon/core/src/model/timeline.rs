//! PostgreSQL timelines and the file that tells where one parted from another.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lsn::Lsn;

/// A PostgreSQL timeline id. Given by Raft, never used twice (DESIGN section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The timeline that initdb makes.
    pub const FIRST: TimelineId = TimelineId(1);

    /// The next number.
    pub fn next(self) -> TimelineId {
        TimelineId(self.0 + 1)
    }

    /// The name of this timeline's history file in `pg_wal`, e.g. `00000002.history`.
    pub fn history_file(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One line of a timeline history file: `parent` ended at `end`, where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLine {
    /// The timeline that was left.
    pub parent: TimelineId,
    /// Where it was left.
    pub end: Lsn,
}

/// The lines of a `.history` file, oldest first; lines that are comments or blank are passed over.
///
/// Returns `None` when a line is neither.
pub fn parse_history(text: &str) -> Option<Vec<HistoryLine>> {
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let parent = TimelineId(words.next()?.parse().ok()?);
        let end = words.next()?.parse().ok()?;
        lines.push(HistoryLine { parent, end });
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_is_read_as_postgres_writes_it() {
        let text = "1\t0/3000060\tno recovery target specified\n\n2\t0/5000148\tx\n";
        let lines = parse_history(text).expect("valid");
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[1],
            HistoryLine {
                parent: TimelineId(2),
                end: Lsn(0x500_0148)
            }
        );
        assert!(parse_history("one two").is_none());
    }
}
