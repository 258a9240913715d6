//! The guard's log: one plain line on stderr, with both clocks.
//!
//! stderr is a file, so a line never waits for a reader. Even so nothing is logged between the
//! deadline and the kill: a file may be on a disk that hangs.

use std::fmt::Arguments;
use std::io::Write;

use crate::clock;

/// Writes one line; a failure to write is ignored because there is nowhere left to say it.
pub fn line(text: Arguments<'_>) {
    let now = clock::boottime();
    let written = format!(
        "{} boot={}.{:06} {text}\n",
        clock::wall_text(),
        now.as_secs(),
        now.subsec_micros()
    );
    let _ = std::io::stderr().write_all(written.as_bytes());
}

/// Formats and writes one log line.
#[macro_export]
macro_rules! log_line {
    ($($part:tt)*) => { $crate::log::line(format_args!($($part)*)) };
}
