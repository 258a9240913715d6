//! Lengths and moments, as people read and write them. UTC only: two operators in two countries look
//! at the same text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads `30`, `30s`, `250ms`, `5min`, `1h`.
///
/// # Errors
/// A sentence with the forms that would do.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let bad = || format!("`{text}` is not a time (30, 30s, 250ms, 5min, 1h)");
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number
        .checked_mul(factor)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

/// `250 ms`, `2.7 s`, `12 min`, `3 h 5 min`, `2 d 4 h`.
pub fn length(ms: u64) -> String {
    let seconds = ms / 1000;
    let pair = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        small => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds}.{} s", ms % 1000 / 100),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// `2026-11-21 23:40:11 UTC`.
pub fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, counted in years that begin in March, so that the leap day is the last.
    // Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        of_day / 3600,
        of_day % 3600 / 60,
        of_day % 60
    )
}

/// This host's wall clock, in Unix milliseconds.
pub fn now_unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// `17 kB`, `4 MB`, `1.5 GB`; powers of 1024, as PostgreSQL has them.
pub fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = count * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, units[unit]),
        rest => format!("{}.{rest} {}", tenths / 10, units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_right_around_leap_days() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(moment(1_709_251_199_999), "2024-02-29 23:59:59 UTC");
        assert_eq!(moment(1_709_251_200_000), "2024-03-01 00:00:00 UTC");
        assert_eq!(moment(4_102_444_800_000), "2100-01-01 00:00:00 UTC");
    }

    #[test]
    fn lengths_are_short() {
        assert_eq!(length(250), "250 ms");
        assert_eq!(length(2749), "2.7 s");
        assert_eq!(length(720_000), "12 min");
        assert_eq!(length(11_100_000), "3 h 5 min");
        assert_eq!(length(187_200_000), "2 d 4 h");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(1 << 20), "1 MB");
        assert_eq!(bytes(3 << 29), "1.5 GB");
    }

    #[test]
    fn times_are_read_with_and_without_unit() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_duration("soon").is_err() && parse_duration("1d").is_err());
    }
}
