//! Up to which moment everything is in the repository: a position that was flushed by a moment, and a
//! segment that ends behind it.

use std::collections::VecDeque;

use cluster_core::model::{Lsn, TimelineId};

/// So many samples are kept: more than an hour at one a second; then every other one is forgotten, and
/// fewer are taken. That makes the answer older, never too new.
const MOST: usize = 4096;

/// What one reign has flushed when, and how much of it is archived.
#[derive(Debug, Default)]
pub struct Coverage {
    timeline: Option<TimelineId>,
    samples: VecDeque<(u64, Lsn)>,
    /// At least so long between two samples. Unit: milliseconds.
    step_ms: u64,
    end: Lsn,
    recoverable: Option<u64>,
}

impl Coverage {
    /// Whatever was committed before `at_ms` lies before `flushed`. Another timeline begins anew: what is
    /// archived of it is not known yet.
    pub fn note(&mut self, timeline: TimelineId, at_ms: u64, flushed: Lsn) {
        if self.timeline != Some(timeline) {
            *self = Coverage {
                timeline: Some(timeline),
                ..Coverage::default()
            };
        }
        if flushed <= self.end {
            self.recoverable = Some(at_ms);
            return;
        }
        let newest = self.samples.back();
        if newest.is_some_and(|(newest, _)| at_ms.saturating_sub(*newest) < self.step_ms) {
            return;
        }
        self.samples.push_back((at_ms, flushed));
        if self.samples.len() > MOST {
            self.thin();
        }
    }

    /// Every segment of the timeline up to `end` is in the repository.
    pub fn archived(&mut self, timeline: TimelineId, end: Lsn) {
        if self.timeline == Some(timeline) {
            self.end = self.end.max(end);
            self.settle();
        }
    }

    /// Everything committed before this moment is in the repository; none when that is not known.
    pub fn recoverable(&self) -> Option<u64> {
        self.recoverable
    }

    fn thin(&mut self) {
        let mut place = 0;
        self.samples.retain(|_| {
            place += 1;
            place % 2 == 1
        });
        if let (Some((first, _)), Some((last, _))) = (self.samples.front(), self.samples.back()) {
            self.step_ms = last.saturating_sub(*first) / (MOST as u64 / 2);
        }
    }

    fn settle(&mut self) {
        while let Some((at_ms, flushed)) = self.samples.front()
            && *flushed <= self.end
        {
            self.recoverable = Some(*at_ms);
            self.samples.pop_front();
        }
        if self.samples.is_empty() {
            self.step_ms = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TimelineId = TimelineId(1);

    #[test]
    fn a_moment_counts_once_what_was_flushed_by_it_is_archived() {
        let mut coverage = Coverage::default();
        coverage.note(ONE, 1000, Lsn(50));
        coverage.note(ONE, 2000, Lsn(150));
        assert_eq!(coverage.recoverable(), None);
        coverage.archived(ONE, Lsn(100));
        assert_eq!(coverage.recoverable(), Some(1000));
        coverage.archived(ONE, Lsn(200));
        assert_eq!(coverage.recoverable(), Some(2000));
        // Nothing new was written since.
        coverage.note(ONE, 3000, Lsn(200));
        assert_eq!(coverage.recoverable(), Some(3000));
        coverage.note(ONE, 4000, Lsn(201));
        assert_eq!(coverage.recoverable(), Some(3000));
    }

    #[test]
    fn a_segment_of_another_timeline_proves_nothing() {
        let mut coverage = Coverage::default();
        coverage.archived(ONE, Lsn(1000));
        coverage.note(TimelineId(2), 1000, Lsn(50));
        coverage.archived(ONE, Lsn(1000));
        assert_eq!(coverage.recoverable(), None);
        coverage.archived(TimelineId(2), Lsn(60));
        assert_eq!(coverage.recoverable(), Some(1000));
        coverage.note(TimelineId(3), 2000, Lsn(55));
        assert_eq!(coverage.recoverable(), None);
    }

    #[test]
    fn a_long_outage_takes_bounded_room_and_is_never_told_too_new() {
        let mut coverage = Coverage::default();
        for at in 1..100_000 {
            coverage.note(ONE, at, Lsn(at));
        }
        assert!(coverage.samples.len() <= MOST);
        coverage.archived(ONE, Lsn(50_000));
        let found = coverage.recoverable().expect("known");
        assert!((40_000..=50_000).contains(&found), "{found}");
    }
}
