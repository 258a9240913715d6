//! Who runs this, and where; and durations as people write them.

use std::process::Command;
use std::time::Duration;

use cluster_backup::holds::{self, Lease, now_unix_ms};
use cluster_backup::{Error, Manifest, Repository, archive};
use jiff::{Span, SpanRelativeTo};

/// How long a restore is protected from pruning. Unit: milliseconds.
const RESTORE_MS: i64 = 24 * 3600 * 1000;

/// The user's name.
pub fn user() -> String {
    let said = Command::new("id").arg("-un").output();
    let name = said.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    match name {
        Ok(name) if !name.is_empty() => name,
        _ => format!("uid {}", rustix::process::getuid().as_raw()),
    }
}

/// The host's name.
pub fn host() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

/// A lease for a restore; none, and said so, with credentials that may not write.
///
/// # Errors
/// The backup was pruned at this moment.
pub async fn lease_of_restore(
    repository: &Repository,
    backup: &Manifest,
) -> Result<Option<Lease>, Error> {
    let now = now_unix_ms();
    let lease = Lease {
        id: format!("restore-{now}-{:08x}", std::process::id()),
        backup: backup.id.clone(),
        what: "restore".to_owned(),
        by: format!("{} on {}", user(), host()),
        expires_unix_ms: now + RESTORE_MS,
    };
    match holds::take(repository, backup, &lease).await {
        Ok(()) => Ok(Some(lease)),
        Err(error @ Error::Refused(_)) => Err(error),
        Err(error) => {
            eprintln!(
                "No lease ({}): a prune at this time could remove what the restore needs.",
                archive::chain(&error)
            );
            Ok(None)
        }
    }
}

/// "90s", "30m", "7d".
pub fn duration(text: &str) -> Result<Duration, String> {
    let why = || format!("`{text}` is no time (like 90s, 30m, 6h, 7d)");
    let span: Span = text.parse().map_err(|_| why())?;
    let days = SpanRelativeTo::days_are_24_hours();
    let exact = span.to_duration(days).map_err(|_| why())?;
    Duration::try_from(exact).map_err(|_| why())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_people_write_it() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86400)));
        assert!(duration("soon").is_err() && duration("-1h").is_err() && duration("5").is_err());
    }
}
