//! Waiting for a condition: with a limit, and with a last word on what was seen instead.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Calls `look` until it answers `Ok`; after `limit` fails with `what` and the last thing seen.
///
/// # Errors
/// The limit passed.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if started.elapsed() >= limit => {
                bail!("waited {limit:?} for: {what}; last seen: {seen}")
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// Looks again and again for as long as `time`; fails as soon as `look` does. For what must *not*
/// happen.
///
/// # Errors
/// It happened.
pub fn stays(
    what: &str,
    time: Duration,
    mut look: impl FnMut() -> Result<(), String>,
) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < time {
        if let Err(seen) = look() {
            bail!(
                "did not stay: {what}; after {:?}: {seen}",
                started.elapsed()
            );
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}
