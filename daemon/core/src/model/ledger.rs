//! The ledger: which epoch opened which timeline, where; and how positions are compared by it.
//!
//! Positions are never compared by LSN alone: a dead branch may be longer [hazards B6].

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;
use super::ids::{Incarnation, MemberName};
use super::lsn::Lsn;
use super::timeline::TimelineId;

/// One reign's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerEntry {
    /// The reign.
    pub epoch: Epoch,
    /// Its primary.
    pub member: MemberName,
    /// The life of that primary's data directory.
    pub incarnation: Incarnation,
    /// The timeline given to it.
    pub timeline: TimelineId,
    /// The timeline its WAL was on when it was granted.
    pub parent: TimelineId,
    /// The end of its WAL when it was granted.
    pub start: Lsn,
    /// Where the new timeline began, told by `Promoted`; equals `start` except after a
    /// `--single` run.
    pub fork: Option<Lsn>,
}

impl LedgerEntry {
    /// Where this timeline leaves its parent, as far as is known.
    pub fn fork(&self) -> Lsn {
        self.fork.unwrap_or(self.start)
    }
}

/// Every timeline of this cluster. Grows by Grant; `fork` is filled in by Promoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The timeline the cluster was born or adopted on; belongs to epoch 0.
    pub base: TimelineId,
    /// One entry a Grant, oldest first.
    pub entries: Vec<LedgerEntry>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            base: TimelineId::FIRST,
            entries: Vec::new(),
        }
    }
}

/// A position that can be ordered: first by the epoch of its timeline, then by LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The epoch that opened the timeline.
    pub epoch: Epoch,
    /// The end of WAL on it.
    pub end: Lsn,
}

/// How a member's WAL relates to the line of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Its WAL is a prefix of that line, or on its newest timeline.
    OnLine,
    /// Its WAL has left that line: it must be rewound to `fork` or cloned.
    Diverged {
        /// The last position both have.
        fork: Lsn,
    },
    /// The ledger does not know its timeline.
    Unknown,
}

impl Ledger {
    /// The entry that opened `timeline`.
    pub fn entry(&self, timeline: TimelineId) -> Option<&LedgerEntry> {
        self.entries.iter().find(|entry| entry.timeline == timeline)
    }

    /// The entry of `epoch`.
    pub fn of_epoch(&self, epoch: Epoch) -> Option<&LedgerEntry> {
        self.entries.iter().find(|entry| entry.epoch == epoch)
    }

    /// The highest timeline ever given.
    pub fn highest(&self) -> TimelineId {
        self.entries
            .iter()
            .map(|entry| entry.timeline)
            .max()
            .unwrap_or(self.base)
            .max(self.base)
    }

    /// Orders (timeline, LSN); `None` when the timeline is not in the ledger.
    pub fn position(&self, timeline: TimelineId, end: Lsn) -> Option<Position> {
        if timeline == self.base {
            return Some(Position {
                epoch: Epoch::NONE,
                end,
            });
        }
        self.entry(timeline).map(|entry| Position {
            epoch: entry.epoch,
            end,
        })
    }

    /// Whether WAL that ends at (`timeline`, `end`) is a prefix of the line of timeline `target`.
    pub fn relation(&self, timeline: TimelineId, end: Lsn, target: TimelineId) -> Relation {
        if self.position(timeline, end).is_none() {
            return Relation::Unknown;
        }
        if timeline == target {
            return Relation::OnLine;
        }
        let mut child = target;
        while let Some(entry) = self.entry(child) {
            if entry.parent == timeline {
                return if end <= entry.fork() {
                    Relation::OnLine
                } else {
                    Relation::Diverged { fork: entry.fork() }
                };
            }
            child = entry.parent;
        }
        self.common_ancestor(timeline, target)
            .map_or(Relation::Unknown, |fork| Relation::Diverged { fork })
    }

    /// Where the lines of two timelines part, when neither is an ancestor of the other or `left` is
    /// a descendant of `right`.
    fn common_ancestor(&self, left: TimelineId, right: TimelineId) -> Option<Lsn> {
        let right_line = self.line(right);
        let mut child = left;
        while let Some(entry) = self.entry(child) {
            if let Some(end_on_right) = right_line
                .iter()
                .find(|(timeline, _)| *timeline == entry.parent)
                .map(|(_, end)| *end)
            {
                return Some(end_on_right.map_or(entry.fork(), |end| end.min(entry.fork())));
            }
            child = entry.parent;
        }
        None
    }

    /// The timelines that lead to `target`, newest first, each with where it was left (none for
    /// `target` itself).
    pub fn line(&self, target: TimelineId) -> Vec<(TimelineId, Option<Lsn>)> {
        let mut line = vec![(target, None)];
        let mut child = target;
        while let Some(entry) = self.entry(child) {
            line.push((entry.parent, Some(entry.fork())));
            child = entry.parent;
        }
        line
    }

    /// The timelines that lead to `timeline`, newest first, whose WAL behind `fork` is none of the line
    /// of `target`.
    pub fn left_behind(
        &self,
        timeline: TimelineId,
        target: TimelineId,
        fork: Lsn,
    ) -> Vec<TimelineId> {
        let followed = self.line(target);
        let goes_on = |it: TimelineId| {
            let found = followed.iter().find(|(timeline, _)| *timeline == it);
            found.is_some_and(|(_, end)| end.is_none_or(|end| end > fork))
        };
        let own = self.line(timeline).into_iter().map(|(it, _)| it);
        own.filter(|it| !goes_on(*it)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(epoch: u64, timeline: u32, parent: u32, start: u64) -> LedgerEntry {
        LedgerEntry {
            epoch: Epoch(epoch),
            member: "a".parse().expect("name"),
            incarnation: Incarnation(1),
            timeline: TimelineId(timeline),
            parent: TimelineId(parent),
            start: Lsn(start),
            fork: Some(Lsn(start)),
        }
    }

    #[test]
    fn what_a_rewind_leaves_behind() {
        // 1 to 2 at 200; from 2, 3 at 300 and 4 at 400; from 4, 5 at 500.
        let ledger = Ledger {
            base: TimelineId(1),
            entries: vec![
                entry(1, 2, 1, 200),
                entry(2, 3, 2, 300),
                entry(3, 4, 2, 400),
                entry(4, 5, 4, 500),
            ],
        };
        let left = |timeline, target, fork| {
            let left = ledger.left_behind(TimelineId(timeline), TimelineId(target), Lsn(fork));
            left.into_iter().map(|it| it.0).collect::<Vec<_>>()
        };
        assert_eq!(left(2, 3, 300), [2, 1], "it went on behind the fork");
        assert_eq!(left(4, 3, 300), [4, 2, 1], "a branch of what was left");
        assert_eq!(left(3, 5, 300), [3, 1], "the new line goes on with 2");
        assert_eq!(left(5, 4, 500), [5, 2, 1], "the new line goes on with 4");
    }

    #[test]
    fn a_dead_branch_is_diverged_however_long_it_is() {
        let ledger = Ledger {
            base: TimelineId(1),
            entries: vec![
                entry(1, 2, 1, 100),
                entry(2, 3, 2, 200),
                entry(3, 4, 2, 150),
            ],
        };
        let main = TimelineId(4);
        assert_eq!(
            ledger.relation(TimelineId(2), Lsn(150), main),
            Relation::OnLine
        );
        assert_eq!(
            ledger.relation(TimelineId(2), Lsn(151), main),
            Relation::Diverged { fork: Lsn(150) }
        );
        assert_eq!(
            ledger.relation(TimelineId(3), Lsn(900), main),
            Relation::Diverged { fork: Lsn(150) }
        );
        assert_eq!(
            ledger.relation(TimelineId(1), Lsn(100), main),
            Relation::OnLine
        );
        assert_eq!(
            ledger.relation(TimelineId(4), Lsn(200), TimelineId(2)),
            Relation::Diverged { fork: Lsn(150) },
            "a descendant has left its ancestor's line"
        );
        assert_eq!(
            ledger.relation(TimelineId(9), Lsn(1), main),
            Relation::Unknown
        );
        assert!(
            ledger.position(TimelineId(4), Lsn(1)) > ledger.position(TimelineId(3), Lsn(900)),
            "the newer epoch wins over the longer WAL"
        );
    }
}
