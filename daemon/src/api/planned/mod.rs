//! Planned work: what is to be done at a time. Times and conditions as operators write them; the schedule
//! itself is the core's.
//!
//! The wall clock is read here once, to refuse a time that has passed. When it is due is the leader's
//! question.

pub mod grpc;
pub(super) mod http;
mod maintenance;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_core::change::Command;
use cluster_core::change::command::Scheduling;
use cluster_core::decide::schedules;
use cluster_core::model::schedule::{Due, Slot, Work};
use cluster_core::model::{MemberName, MemberReport, RequestId, Schedule};
use jiff::Timestamp;
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;

use crate::board::Board;

/// Why a time will not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTime {
    /// It cannot be read.
    Unreadable,
    /// It is another moment in every time zone.
    NoZone,
    /// It has passed.
    Past,
}

impl BadTime {
    /// Patroni's sentence; `action` is `switchover` or `restart`.
    pub fn sentence(self, action: &str) -> String {
        match self {
            BadTime::Unreadable => {
                "Unable to parse scheduled timestamp. It should be in an unambiguous \
                                    format, e.g. ISO 8601"
                    .to_owned()
            }
            BadTime::NoZone => {
                format!("Timezone information is mandatory for the scheduled {action}")
            }
            BadTime::Past => format!("Cannot schedule {action} in the past"),
        }
    }
}

/// Reads a moment of the future, ISO 8601 with a time zone as an offset.
///
/// # Errors
/// It is none.
pub fn due(text: &str, now: Duration) -> Result<Due, BadTime> {
    let pieces = Pieces::parse(text.trim()).map_err(|_| BadTime::Unreadable)?;
    let time = pieces.time().ok_or(BadTime::Unreadable)?;
    let offset = pieces.to_numeric_offset().ok_or(BadTime::NoZone)?;
    let at = offset.to_timestamp(pieces.date().to_datetime(time));
    let at = at.map_err(|_| BadTime::Unreadable)?;
    let unix_ms = u64::try_from(at.as_millisecond()).map_err(|_| BadTime::Past)?;
    if u128::from(unix_ms) < now.as_millis() {
        return Err(BadTime::Past);
    }
    Ok(Due {
        unix_ms,
        text: written(at, offset),
    })
}

fn written(at: Timestamp, offset: Offset) -> String {
    at.display_with_offset(offset).to_string()
}

/// This host's wall clock, since 1970.
pub(super) fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The newest word of a member, as known here.
fn report<'a>(board: &'a Board, member: &MemberName) -> Option<&'a MemberReport> {
    if *member == board.me {
        return Some(&board.own);
    }
    board.reports.get(member).map(|seen| &seen.report)
}

/// Binds a restart to the server that runs now: one that is started until then needs it no more.
fn bound(board: &Board, work: Work) -> Work {
    match work {
        Work::Restart {
            member,
            mut conditions,
        } => {
            let report = report(board, &member);
            conditions.of_unix_ms = report.and_then(|it| schedules::started(&it.postgres));
            Work::Restart { member, conditions }
        }
        Work::Switchover { .. } => work,
    }
}

fn command(id: RequestId, work: Work, due: Due, replaces: bool, by: &str) -> Command {
    Command::Schedule(Box::new(Scheduling {
        id,
        work,
        due,
        replaces,
        by: by.to_owned(),
    }))
}

/// What is scheduled there, as known here.
fn known<'a>(board: &'a Board, slot: &Slot) -> Option<&'a Schedule> {
    board.state.scheduled(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_its_zone_and_written_as_it_was() {
        let now = Duration::from_secs(1_795_000_000);
        for (text, unix_ms, written) in [
            (
                "2026-11-24T03:00:00+01:00",
                1_795_485_600_000,
                "2026-11-24T03:00:00+01:00",
            ),
            (
                "2026-11-24 02:00Z",
                1_795_485_600_000,
                "2026-11-24T02:00:00+00:00",
            ),
            (
                " 2026-11-23T21:00-05 ",
                1_795_485_600_000,
                "2026-11-23T21:00:00-05:00",
            ),
            (
                "2026-11-24T02:00:00.250+00:00",
                1_795_485_600_250,
                "2026-11-24T02:00:00.25+00:00",
            ),
        ] {
            let due = due(text, now).unwrap_or_else(|why| panic!("{text}: {why:?}"));
            assert_eq!(
                (due.unix_ms, due.text.as_str()),
                (unix_ms, written),
                "{text}"
            );
        }
    }

    #[test]
    fn a_time_that_will_not_do_says_why() {
        let now = Duration::from_secs(1_795_000_000);
        for (text, why) in [
            ("tomorrow", BadTime::Unreadable),
            ("", BadTime::Unreadable),
            ("2026-11-24", BadTime::Unreadable),
            ("2026-02-30T03:00:00Z", BadTime::Unreadable),
            ("2026-11-24T03:00:00", BadTime::NoZone),
            ("2026-11-24 03:00", BadTime::NoZone),
            ("2016-08-27T12:45:00+00:00", BadTime::Past),
            ("1916-08-27T12:45:00+00:00", BadTime::Past),
        ] {
            assert_eq!(due(text, now), Err(why), "{text}");
        }
    }
}
