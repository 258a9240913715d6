//! Five fields of cron as a schedule. What they mean is the library's to say (crontab(5), and `L`, `W` and `#`); here
//! it meets Unix time, in UTC, so that no hour is there twice or not at all. No clock: the moment is an argument.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The fields, separated by one space each: they can be read, and name a moment that comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronText(String);

impl CronText {
    /// Takes five fields, separated by one space each.
    ///
    /// # Errors
    /// In words: what cannot be read; a day that never comes, as February 30.
    pub(super) fn read(text: &str) -> Result<CronText, String> {
        let cron = parse(text)?;
        let first = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
        match cron.find_next_occurrence(&first, true) {
            Ok(_) => Ok(CronText(text.to_owned())),
            Err(_) => Err(refused(text, "it never comes")),
        }
    }

    /// The fields.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The newest moment that is not after `now`.
    pub(super) fn latest(&self, now: u64) -> Option<u64> {
        let from = civil(now)?;
        let found = parse(&self.0).ok()?.find_previous_occurrence(&from, true);
        unix_ms(found.ok()?)
    }

    /// The first moment after `now`.
    pub(super) fn next(&self, now: u64) -> Option<u64> {
        let from = civil(now)?;
        let found = parse(&self.0).ok()?.find_next_occurrence(&from, false);
        unix_ms(found.ok()?)
    }
}

fn parse(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    parser
        .parse(text)
        .map_err(|why| refused(text, &why.to_string()))
}

fn refused(text: &str, why: &str) -> String {
    format!(
        "`{text}` is no schedule: {why} (minute, hour, day of the month, month, day of the week, or words as `daily \
         02:00`)"
    )
}

/// The whole second, so that what is found is one.
fn civil(unix_ms: u64) -> Option<DateTime> {
    let at = Timestamp::from_second(i64::try_from(unix_ms / 1000).ok()?).ok()?;
    Some(TimeZone::UTC.to_datetime(at))
}

fn unix_ms(at: DateTime) -> Option<u64> {
    let at = TimeZone::UTC.to_timestamp(at).ok()?;
    u64::try_from(at.as_millisecond()).ok()
}
