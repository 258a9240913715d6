//! Whether the archive leads from a backup to a target without a hole. Pure.

use cluster_core::model::{Lsn, TimelineId};

use crate::archive::Archive;
use crate::lineage::{self, Segment, SegmentSize};
use crate::manifest::Manifest;
use crate::names::WalName;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// From where.
    pub backup: &'a Manifest,
    /// Up to this position; without one, up to the newest segment.
    pub until: Option<Lsn>,
    /// Without a position: up to this number at least. The server was told that it is there.
    pub archived: Option<u64>,
    /// How large segments are.
    pub size: SegmentSize,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuity {
    /// Along which timeline recovery goes.
    pub timeline: TimelineId,
    /// The segments it reads, in order, those that are there.
    pub segments: Vec<WalName>,
    /// The first moment there is: where the backup is consistent.
    pub first: Lsn,
    /// Recovery gets to here: the end of the last segment before a hole.
    pub last: Lsn,
    /// The segments it would read and that are not there, in order.
    pub missing: Vec<WalName>,
    /// Everything that is wrong.
    pub problems: Vec<String>,
}

/// Follows the timelines from the backup's start; a hole is among the problems.
pub fn follow(archive: &Archive, question: Question) -> Continuity {
    let mut answer = trace(archive, question);
    answer.problems.extend(hole(&answer.missing));
    answer
}

/// The same; a hole is told as what is missing alone.
pub fn trace(archive: &Archive, question: Question) -> Continuity {
    let Question {
        backup,
        until,
        archived,
        size,
    } = question;
    let timeline = lineage::newest(&archive.histories, backup.timeline, backup.end);
    let path = lineage::path(&archive.histories, timeline);
    let name_of = |number| {
        let timeline = lineage::timeline_of(&path, size, number)?;
        WalName::parse(&size.name(Segment { timeline, number })).ok()
    };
    let is_there = |number| name_of(number).is_some_and(|it| archive.objects.contains_key(&it));
    let start = size.number(backup.start);
    let newest = archive.objects.keys().filter(|name| name.is_segment());
    let newest = newest
        .filter_map(|name| size.segment(name))
        .map(|segment| segment.number)
        .filter(|number| *number >= start && is_there(*number))
        .max();
    let mut answer = Continuity {
        timeline,
        segments: Vec::new(),
        first: backup.end,
        last: backup.end,
        missing: Vec::new(),
        problems: archive.problems.clone(),
    };
    for timeline in archive.without_history() {
        answer.problems.push(format!(
            "timeline {timeline} has segments, and its history {} is not there or cannot be read: \
             recovery cannot get to it",
            timeline.history_file()
        ));
    }
    let last = match (until, newest) {
        (Some(at), newest) if newest.is_none_or(|it| it < size.number(at)) && at > backup.end => {
            answer.problems.push(format!(
                "the target {at} lies after the end of the archive ({})",
                newest.map_or(backup.end, |it| size.begin(it + 1))
            ));
            newest
        }
        (Some(at), _) => Some(size.number(at)),
        (None, newest) => newest.max(archived),
    };
    for number in last.map_or(0..0, |last| start..last + 1) {
        let Some(name) = name_of(number) else {
            continue;
        };
        match is_there(number) {
            true => answer.segments.push(name),
            false => answer.missing.push(name),
        }
        if answer.missing.is_empty() {
            answer.last = answer.last.max(size.begin(number + 1));
        }
    }
    let needed = answer.segments.iter().filter_map(|name| {
        let contents = archive.contents(name).len();
        let objects = archive.objects.get(name)?;
        (contents > 1).then(|| {
            format!(
                "segment {} has {contents} different contents ({}): two servers have written it",
                name.as_str(),
                objects.join(", ")
            )
        })
    });
    let twofold: Vec<String> = needed.collect();
    answer.problems.extend(twofold);
    answer
}

/// The names of what is missing; a long list is cut.
fn hole(missing: &[WalName]) -> Option<String> {
    /// So many names are said.
    const NAMED: usize = 20;
    if missing.is_empty() {
        return None;
    }
    let names: Vec<&str> = missing.iter().map(WalName::as_str).take(NAMED).collect();
    let more = match missing.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "a hole in the archive: {} missing: {}{more}",
        match missing.len() {
            1 => "1 segment is".to_owned(),
            many => format!("{many} segments are"),
        },
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use cluster_core::model::Epoch;
    use cluster_core::model::timeline::HistoryLine;

    use super::*;

    const MIB16: u64 = 16 << 20;

    fn backup() -> Manifest {
        Manifest {
            format: 1,
            id: "a".to_owned(),
            database: 7,
            major: 15,
            member: "m1".parse().expect("a name"),
            epoch: Epoch(1),
            timeline: TimelineId(1),
            start: Lsn(3 * MIB16 + 40),
            end: Lsn(3 * MIB16 + 400),
            began_unix_ms: 0,
            ended_unix_ms: 0,
            key: None,
            files: Vec::new(),
        }
    }

    /// Segments 3 and 4 of timeline 1, then 5 to 7 of timeline 3 that left it within 5.
    fn archive() -> Archive {
        let mut archive = Archive::default();
        for (timeline, number) in [(1, 3), (1, 4), (3, 5), (3, 6), (3, 7)] {
            add(&mut archive, timeline, number, "00000001-aaaaaaaaaaaaaaaa");
        }
        let line = HistoryLine {
            parent: TimelineId(1),
            end: Lsn(5 * MIB16 + 8),
        };
        archive.histories.insert(TimelineId(3), vec![line]);
        archive
    }

    fn name(timeline: u32, number: u64) -> WalName {
        let size = SegmentSize::new(MIB16).expect("a size");
        let timeline = TimelineId(timeline);
        WalName::parse(&size.name(Segment { timeline, number })).expect("a name")
    }

    fn add(archive: &mut Archive, timeline: u32, number: u64, object: &str) {
        let name = name(timeline, number);
        let object = format!("{}/{object}.zst", name.folder(7));
        archive.objects.entry(name).or_default().push(object);
    }

    fn asked(archive: &Archive, until: Option<Lsn>) -> Continuity {
        let backup = backup();
        let size = SegmentSize::new(MIB16).expect("a size");
        let question = Question {
            backup: &backup,
            until,
            archived: None,
            size,
        };
        follow(archive, question)
    }

    #[test]
    fn the_way_goes_along_the_newest_timeline_to_the_newest_segment() {
        let found = asked(&archive(), None);
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!(found.timeline, TimelineId(3));
        assert_eq!(found.segments.len(), 5);
        assert_eq!(found.last, Lsn(8 * MIB16));
    }

    #[test]
    fn a_hole_is_told_by_name_and_only_before_the_target() {
        let mut archive = archive();
        archive.objects.remove(&name(3, 6));
        let found = asked(&archive, None);
        assert_eq!(found.problems.len(), 1);
        assert!(found.problems[0].contains(name(3, 6).as_str()));
        assert_eq!(found.last, Lsn(6 * MIB16));
        assert!(asked(&archive, Some(Lsn(5 * MIB16))).problems.is_empty());
        let beyond = asked(&archive, Some(Lsn(9 * MIB16)));
        assert!(
            beyond.problems[0].contains("after the end"),
            "{:?}",
            beyond.problems
        );
        assert_eq!(beyond.problems.len(), 2);
    }

    #[test]
    fn two_contents_and_a_lost_history_are_told() {
        let mut archive = archive();
        add(&mut archive, 3, 6, "00000002-aaaaaaaaaaaaaaaa");
        assert!(asked(&archive, None).problems.is_empty());
        add(&mut archive, 3, 6, "00000002-bbbbbbbbbbbbbbbb");
        assert!(asked(&archive, None).problems[0].contains("different contents"));
        archive.histories.clear();
        let found = asked(&archive, None);
        assert_eq!(found.timeline, TimelineId(1));
        assert!(found.problems[0].contains("00000003.history"));
    }

    #[test]
    fn a_backup_of_which_nothing_was_archived_yet_ends_where_it_is_consistent() {
        let found = asked(&Archive::default(), None);
        assert!(found.problems.is_empty());
        assert_eq!((found.first, found.last), (backup().end, backup().end));
    }
}
