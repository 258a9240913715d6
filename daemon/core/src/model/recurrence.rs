//! When something is done again and again: moments of the wall clock in UTC, worked out from the text alone, so
//! that every leader finds the same ones. No clock here: the moment is an argument.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cron_text::CronText;
use super::units;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
const WEEK: u64 = 7 * DAY;
/// Names of days. Unix time began on a Thursday.
const DAYS: [&str; 7] = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];

/// What can be written.
const FORMS: &str = "off, `every 6h` (1min to 168h), `daily 02:00`, `weekly sun 02:00` or five fields of cron, as \
     `30 2 * * mon-fri`; in UTC";

/// Moments that come again. Unit: milliseconds, Unix time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Recurrence {
    /// Never.
    #[default]
    Off,
    /// The multiples of this length since Unix time began: `every 6h` is 00:00, 06:00, 12:00 and 18:00 UTC.
    Every {
        /// The length.
        period_ms: u64,
    },
    /// Each day at this minute.
    Daily {
        /// Since midnight.
        minute: u64,
    },
    /// Each week on this day at this minute.
    Weekly {
        /// Days after Thursday.
        day: u64,
        /// Since midnight.
        minute: u64,
    },
    /// Minutes that five fields of cron name: minute, hour, day of the month, month, day of the week.
    Cron(CronText),
}

impl Recurrence {
    /// Whether it never comes.
    pub fn is_off(&self) -> bool {
        *self == Recurrence::Off
    }

    /// Its newest moment that is not after `now`; none when there was none.
    pub fn latest(&self, now: u64) -> Option<u64> {
        if let Recurrence::Cron(text) = self {
            return text.latest(now);
        }
        let (period, offset) = self.grid()?;
        let since = now.checked_sub(offset)?;
        Some(since / period * period + offset)
    }

    /// Its first moment after `now`.
    pub fn next(&self, now: u64) -> Option<u64> {
        if let Recurrence::Cron(text) = self {
            return text.next(now);
        }
        let (period, offset) = self.grid()?;
        match self.latest(now) {
            Some(latest) => latest.checked_add(period),
            None => Some(offset),
        }
    }

    /// How far apart, and where the first one lies; none: never, or not evenly.
    fn grid(&self) -> Option<(u64, u64)> {
        match self {
            Recurrence::Off | Recurrence::Cron(_) => None,
            Recurrence::Every { period_ms } => Some((*period_ms, 0)),
            Recurrence::Daily { minute } => Some((DAY, minute * MINUTE)),
            Recurrence::Weekly { day, minute } => Some((WEEK, day * DAY + minute * MINUTE)),
        }
    }
}

/// `02:00` as minutes since midnight.
fn time_of_day(text: &str) -> Option<u64> {
    let (hour, minute) = text.split_once(':')?;
    let is_plain = |it: &str| it.len() == 2 && it.bytes().all(|byte| byte.is_ascii_digit());
    if !is_plain(hour) || !is_plain(minute) {
        return None;
    }
    let (hour, minute): (u64, u64) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

impl FromStr for Recurrence {
    type Err = String;

    fn from_str(text: &str) -> Result<Recurrence, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let found = match words.as_slice() {
            ["off"] => Some(Recurrence::Off),
            ["every", length] => {
                let period = units::duration(length)?;
                let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
                (MINUTE..=WEEK)
                    .contains(&period_ms)
                    .then_some(Recurrence::Every { period_ms })
            }
            ["daily", time] => time_of_day(time).map(|minute| Recurrence::Daily { minute }),
            ["weekly", day, time] => {
                let day = (0..).zip(DAYS).find(|(_, name)| name == day);
                day.zip(time_of_day(time))
                    .map(|((day, _), minute)| Recurrence::Weekly { day, minute })
            }
            [_, _, _, _, _] => Some(Recurrence::Cron(CronText::read(&words.join(" "))?)),
            _ => None,
        };
        found.ok_or_else(|| format!("`{text}` is no schedule ({FORMS})"))
    }
}

impl fmt::Display for Recurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |minute: u64| format!("{:02}:{:02}", minute / 60, minute % 60);
        match self {
            Recurrence::Off => f.write_str("off"),
            Recurrence::Every { period_ms } => {
                let period = Duration::from_millis(*period_ms);
                write!(f, "every {}", units::show_duration(period))
            }
            Recurrence::Daily { minute } => write!(f, "daily {}", time(*minute)),
            Recurrence::Weekly { day, minute } => {
                let named = (0..).zip(DAYS).find(|(number, _)| number == day);
                let name = named.map_or("?", |(_, name)| name);
                write!(f, "weekly {name} {}", time(*minute))
            }
            Recurrence::Cron(text) => f.write_str(text.as_str()),
        }
    }
}

impl TryFrom<String> for Recurrence {
    type Error = String;

    fn try_from(text: String) -> Result<Recurrence, String> {
        text.parse()
    }
}

impl From<Recurrence> for String {
    fn from(schedule: Recurrence) -> String {
        schedule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Recurrence {
        text.parse().expect("a schedule")
    }

    /// 2026-11-23 06:00:00 UTC, a Monday.
    const MONDAY: u64 = 1_795_413_600_000;
    const HOUR: u64 = 60 * MINUTE;

    #[test]
    fn the_newest_moment_lies_at_or_before_now_and_the_next_one_after_it() {
        for (text, latest, next) in [
            ("every 4h", MONDAY - 2 * HOUR, MONDAY + 2 * HOUR),
            ("every 6h", MONDAY, MONDAY + 6 * HOUR),
            ("daily 02:30", MONDAY - 7 * HOUR / 2, MONDAY + 41 * HOUR / 2),
            ("daily 06:00", MONDAY, MONDAY + DAY),
            ("daily 06:01", MONDAY + MINUTE - DAY, MONDAY + MINUTE),
            ("weekly mon 06:00", MONDAY, MONDAY + WEEK),
            ("weekly sun 06:00", MONDAY - DAY, MONDAY + 6 * DAY),
            ("weekly tue 06:00", MONDAY - 6 * DAY, MONDAY + DAY),
            ("0 6 * * *", MONDAY, MONDAY + DAY),
            ("*/15 * * * *", MONDAY, MONDAY + 15 * MINUTE),
            (
                "30 2 * * mon-fri",
                MONDAY - 7 * HOUR / 2,
                MONDAY + 41 * HOUR / 2,
            ),
            ("1 6 * * 1", MONDAY + MINUTE - WEEK, MONDAY + MINUTE),
            // The first of the month, or a Sunday, as crontab(5) has it.
            ("0 6 1 * sun", MONDAY - DAY, MONDAY + 6 * DAY),
            ("0 6 1 12 *", MONDAY - 357 * DAY, MONDAY + 8 * DAY),
        ] {
            let schedule = read(text);
            assert_eq!(schedule.latest(MONDAY), Some(latest), "{text}");
            assert_eq!(schedule.next(MONDAY), Some(next), "{text}");
        }
        assert_eq!(Recurrence::Off.latest(MONDAY), None);
        assert_eq!(Recurrence::Off.next(MONDAY), None);
    }

    #[test]
    fn before_its_first_moment_there_is_only_a_next_one() {
        let schedule = read("daily 02:00");
        assert_eq!(schedule.latest(HOUR), None);
        assert_eq!(schedule.next(HOUR), Some(2 * HOUR));
    }

    #[test]
    fn what_is_shown_is_read_back_and_what_is_no_schedule_is_refused_with_the_forms() {
        for text in [
            "off",
            "every 90min",
            "every 168h",
            "daily 23:59",
            "weekly wed 00:00",
            "5,35 0-6/2 1 jan,jul *",
        ] {
            assert_eq!(read(text).to_string(), text);
        }
        assert_eq!(read(" daily  02:00 ").to_string(), "daily 02:00");
        for bad in [
            "",
            "on",
            "daily",
            "daily 24:00",
            "daily 2:00",
            "daily 02:60",
            "daily +2:00",
            "every 59s",
            "every 169h",
            "every 0",
            "weekly 02:00",
            "weekly someday 02:00",
            "daily 02:00 UTC",
            "* * * *",
            "* * * * * *",
            "@daily",
            "60 * * * *",
            "* 24 * * *",
            "0 0 30 2 *",
            "a b c d e",
            "-1 * * * *",
        ] {
            let why = bad.parse::<Recurrence>().expect_err(bad);
            assert!(why.contains("daily 02:00"), "{bad}: {why}");
        }
        assert!("every soon".parse::<Recurrence>().is_err());
        let why = "61 * * * *".parse::<Recurrence>().expect_err("no minute");
        assert!(why.contains("61"), "{why}");
    }

    #[test]
    fn a_leap_day_is_found_years_away_in_both_directions_and_at_any_millisecond() {
        let schedule = read("0 0 29 feb *");
        // 2024-02-29 and 2028-02-29, 00:00 UTC.
        let (past, coming) = (1_709_164_800_000, 1_835_395_200_000);
        assert_eq!(schedule.latest(MONDAY + 1), Some(past));
        assert_eq!(schedule.next(MONDAY + 59_999), Some(coming));
        assert_eq!(schedule.latest(coming), Some(coming));
        assert_eq!(schedule.latest(coming - 1), Some(past));
        assert_eq!(schedule.next(coming), Some(1_961_625_600_000));
        assert_eq!(schedule.latest(HOUR), None, "before Unix time began");
    }

    /// Everything is in UTC: an hour that a time zone skips or repeats is there, once.
    #[test]
    fn a_change_to_or_from_summer_time_moves_nothing() {
        // 2026-10-25, 2026-11-01, 2027-03-14 and 2027-03-28: Europe and North America, 00:00 UTC.
        for midnight in [
            1_792_886_400_000,
            1_793_491_200_000,
            1_804_982_400_000,
            1_806_192_000_000,
        ] {
            assert_eq!(midnight % DAY, 0);
            for (text, minute) in [("30 2 * * *", 150), ("30 1 * * sun", 90)] {
                let schedule = read(text);
                let due = midnight + minute * MINUTE;
                assert_eq!(schedule.next(midnight), Some(due), "{text}");
                assert_eq!(schedule.latest(midnight + DAY - 1), Some(due), "{text}");
            }
            let (daily, cron) = (read("daily 02:30"), read("30 2 * * *"));
            let half_hours = read("*/30 * * * *");
            for minute in 0..24 * 60 {
                let now = midnight + minute * MINUTE;
                assert_eq!(cron.latest(now), daily.latest(now));
                assert_eq!(cron.next(now), daily.next(now));
                let half_hour = now / (30 * MINUTE) * 30 * MINUTE;
                assert_eq!(half_hours.latest(now), Some(half_hour));
            }
        }
    }

    #[test]
    fn backward_and_forward_find_the_same_moments_of_cron() {
        for text in [
            "*/7 */5 * * *",
            "30 2 * * mon-fri",
            "0 0 31 * *",
            "0 0 L * *",
            "0 4 * * fri#1",
            "0 0 13 * fri",
        ] {
            let schedule = read(text);
            let mut last = schedule.next(MONDAY).expect(text);
            for _ in 0..50 {
                let next = schedule.next(last).expect(text);
                assert!(next > last, "{text}");
                assert_eq!(schedule.latest(next), Some(next), "{text}");
                assert_eq!(schedule.latest(next - 1), Some(last), "{text}");
                assert_eq!(schedule.next(next - 1), Some(next), "{text}");
                last = next;
            }
        }
    }
}
