//! The clocks: `CLOCK_BOOTTIME` for every deadline, wall time for people only.
//!
//! Boot time goes on while the machine is suspended, which is why the lease uses it and neither
//! `Instant` (stops) nor wall time (jumps). Values of two boots must never be compared: `boot_id`
//! tells them apart.

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspended time included.
pub fn boottime() -> Duration {
    read(ClockId::Boottime)
}

/// Time since boot in nanoseconds, the unit of every deadline in the protocol.
pub fn boottime_ns() -> u64 {
    nanoseconds(boottime())
}

/// Wall time since 1970; for log lines and for noticing a pause the boot clock did not show.
pub fn realtime() -> Duration {
    read(ClockId::Realtime)
}

/// The kernel's name for this boot.
///
/// # Errors
/// The kernel's file could not be read.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// A duration in whole nanoseconds; 584 years fit.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Wall time as `2026-11-21T23:35:10.123Z`.
pub fn wall_text() -> String {
    format_wall(realtime())
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Civil date from a day count; the algorithm is Howard Hinnant's `civil_from_days`.
fn format_wall(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        since_1970.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_text_follows_the_calendar() {
        assert_eq!(
            format_wall(Duration::from_millis(0)),
            "1970-01-01T00:00:00.000Z"
        );
        assert_eq!(
            format_wall(Duration::from_millis(951_827_696_789)),
            "2000-02-29T12:34:56.789Z"
        );
        assert_eq!(
            format_wall(Duration::from_secs(1_795_304_110)),
            "2026-11-21T23:35:10.000Z"
        );
    }

    #[test]
    fn boot_time_moves_forward() {
        let before = boottime_ns();
        assert!(boottime_ns() >= before);
        assert!(before > 0);
    }
}
