//! Which archived WAL belongs together: segments, the timelines they lie on, and where one left another.
//!
//! Pure: the archive is listed and read elsewhere (`archive`).

use std::collections::BTreeMap;

use cluster_core::model::timeline::HistoryLine;
use cluster_core::model::{Lsn, TimelineId};

use crate::names::WalName;

/// One whole segment: its timeline and its number, counted from the beginning of all WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// On which timeline.
    pub timeline: TimelineId,
    /// The how manieth.
    pub number: u64,
}

/// How large a segment is. Unit: bytes. A power of two between 1 MiB and 1 GiB, fixed by initdb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// None when PostgreSQL knows no such size.
    pub fn new(bytes: u64) -> Option<SegmentSize> {
        let is_good = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        is_good.then_some(SegmentSize(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The number of the segment that holds a position.
    pub fn number(self, at: Lsn) -> u64 {
        at.0 / self.0
    }

    /// Where a segment begins.
    pub fn begin(self, number: u64) -> Lsn {
        Lsn(number.saturating_mul(self.0))
    }

    /// What PostgreSQL names a segment.
    pub fn name(self, segment: Segment) -> String {
        let each = (1 << 32) / self.0;
        format!(
            "{:08X}{:08X}{:08X}",
            segment.timeline.0,
            segment.number / each,
            segment.number % each
        )
    }

    /// The segment of a name, also of its `.partial` and `.backup`; none for a history and for a number
    /// that this size does not have.
    pub fn segment(self, name: &WalName) -> Option<Segment> {
        let digits = name.as_str().get(..24)?;
        let part = |from: usize| u64::from_str_radix(digits.get(from..from + 8)?, 16).ok();
        let each = (1 << 32) / self.0;
        let (timeline, log, low) = (part(0)?, part(8)?, part(16)?);
        (low < each).then_some(Segment {
            timeline: TimelineId(u32::try_from(timeline).ok()?),
            number: log * each + low,
        })
    }
}

/// The histories of an archive: for each timeline the lines of its file, oldest first.
pub type Histories = BTreeMap<TimelineId, Vec<HistoryLine>>;

/// One stretch of a path: WAL of `timeline` up to `until`; the last stretch has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// On which timeline.
    pub timeline: TimelineId,
    /// Where the next one begins.
    pub until: Option<Lsn>,
}

/// How recovery gets from the beginning of all WAL to `timeline`. One without a history is taken for a
/// first one.
pub fn path(histories: &Histories, timeline: TimelineId) -> Vec<Stretch> {
    let lines = histories.get(&timeline).map_or(&[][..], Vec::as_slice);
    let before = lines.iter().map(|line| Stretch {
        timeline: line.parent,
        until: Some(line.end),
    });
    let own = Stretch {
        timeline,
        until: None,
    };
    before.chain([own]).collect()
}

/// Whether somebody used the timeline: a number that was granted in vain has a placeholder that ends at 0/0.
pub fn is_real(lines: &[HistoryLine]) -> bool {
    lines.iter().all(|line| line.end != Lsn::ZERO)
}

/// Whether recovery that is at `from` on timeline `on` can go along to `timeline`.
pub fn reaches(histories: &Histories, on: TimelineId, from: Lsn, timeline: TimelineId) -> bool {
    path(histories, timeline)
        .iter()
        .any(|stretch| stretch.timeline == on && stretch.until.is_none_or(|end| end >= from))
}

/// The highest timeline that recovery at `from` on timeline `on` can get to: the main line.
pub fn newest(histories: &Histories, on: TimelineId, from: Lsn) -> TimelineId {
    let mut known = histories.iter().rev();
    known
        .find(|(timeline, lines)| is_real(lines) && reaches(histories, on, from, **timeline))
        .map_or(on, |(timeline, _)| (*timeline).max(on))
}

/// On which timeline recovery looks for a segment: the newest of the path that has begun by its end.
/// Source: XLogFileReadAnyTLI of PostgreSQL.
pub fn timeline_of(path: &[Stretch], size: SegmentSize, number: u64) -> Option<TimelineId> {
    let mut begun = Some(0);
    let mut found = None;
    for stretch in path {
        if begun.is_some_and(|begun| begun <= number) {
            found = Some(stretch.timeline);
        }
        begun = stretch.until.map(|end| size.number(end));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(parent: u32, end: u64) -> HistoryLine {
        HistoryLine {
            parent: TimelineId(parent),
            end: Lsn(end),
        }
    }

    #[test]
    fn a_segment_is_named_as_postgresql_names_it() {
        for (bytes, at, wanted) in [
            (16 << 20, Lsn(0x16_B374_D848), "0000000200000016000000B3"),
            (1 << 20, Lsn(0x16_B374_D848), "000000020000001600000B37"),
            (1 << 30, Lsn(0x16_B374_D848), "000000020000001600000002"),
        ] {
            let size = SegmentSize::new(bytes).expect("a size");
            let segment = Segment {
                timeline: TimelineId(2),
                number: size.number(at),
            };
            assert_eq!(size.name(segment), wanted);
            let name = WalName::parse(wanted).expect("a name");
            assert_eq!(size.segment(&name), Some(segment));
        }
        assert_eq!(SegmentSize::new(3 << 20), None);
        let size = SegmentSize::new(16 << 20).expect("a size");
        for other in ["000000020000001600000100", "00000002.history"] {
            assert_eq!(size.segment(&WalName::parse(other).expect("a name")), None);
        }
    }

    #[test]
    fn the_segment_in_which_a_timeline_begins_is_read_from_the_new_one() {
        let size = SegmentSize::new(16 << 20).expect("a size");
        let fork = 5 * size.bytes() + 100;
        let histories: Histories = [
            (TimelineId(3), vec![line(1, fork)]),
            (TimelineId(4), vec![line(1, 0)]),
        ]
        .into();
        let path = path(&histories, TimelineId(3));
        let at = |number| timeline_of(&path, size, number);
        assert_eq!(at(4), Some(TimelineId(1)));
        assert_eq!(at(5), Some(TimelineId(3)));
        assert_eq!(at(9), Some(TimelineId(3)));
        assert_eq!(newest(&histories, TimelineId(1), Lsn(fork)), TimelineId(3));
        // Beyond the fork it is another line.
        assert_eq!(
            newest(&histories, TimelineId(1), Lsn(fork + 1)),
            TimelineId(1)
        );
    }
}
