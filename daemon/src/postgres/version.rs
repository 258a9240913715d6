//! What differs between the supported majors, 13 to 18. Nothing else may ask for the version.
//!
//! The surprise: most of what we use did not change; the list is short on purpose.

use std::fmt;

/// A major version of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Major(pub u32);

/// The oldest major that works.
pub const OLDEST: Major = Major(13);

impl Major {
    /// From `postgres (PostgreSQL) 15.18 (Debian …)` or from `PG_VERSION`.
    pub fn parse(text: &str) -> Option<Major> {
        let word = text
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().map(Major)
    }

    /// `allow_alter_system` exists.
    pub fn has_allow_alter_system(self) -> bool {
        self.0 >= 17
    }

    /// Checkpoints have statistics of their own, `pg_stat_checkpointer`.
    pub fn has_checkpointer_statistics(self) -> bool {
        self.0 >= 17
    }

    /// `pg_use_reserved_connections` and `reserved_connections` exist.
    pub fn has_reserved_connections(self) -> bool {
        self.0 >= 16
    }

    /// initdb takes `--set`; before that, values go through a bootstrap run.
    pub fn initdb_has_set(self) -> bool {
        self.0 >= 16
    }

    /// initdb makes checksums without being asked; being asked is right on every major.
    pub fn has_default_checksums(self) -> bool {
        self.0 >= 18
    }

    /// The startup process' wait events that mean "nothing more on disk, I look again soon".
    pub fn retry_wait_events(self) -> &'static [&'static str] {
        // 13: documented under Timeout as RecoveryRetrieveRetryInterval; unchanged to 18.
        &["RecoveryRetrieveRetryInterval"]
    }

    /// `recovery_init_sync_method` exists.
    pub fn has_recovery_init_sync_method(self) -> bool {
        self.0 >= 14
    }

    /// `client_connection_check_interval` exists.
    pub fn has_client_connection_check(self) -> bool {
        self.0 >= 14
    }
}

/// The version in what `postgres -V` says, in the words of the parameter `server_version`.
pub fn of_program(said: &str) -> Option<String> {
    let (_, version) = said.trim().split_once("(PostgreSQL) ")?;
    Some(version.to_owned())
}

/// Whether this kernel's `syncfs` reports writes that failed. Source: 5.8 and later do, PostgreSQL's
/// manual on `recovery_init_sync_method`.
pub fn syncfs_reports_errors(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|word| word.parse::<u32>().ok());
    let version = next().zip(next());
    version.is_some_and(|version| version >= (5, 8))
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_kernels_are_trusted_with_syncfs() {
        for (release, is_trusted) in [
            ("6.18.44", true),
            ("5.8.0-rc1", true),
            ("5.7.19-generic", false),
            ("4.18.0-553.el8", false),
            ("10.0", true),
            ("unknown", false),
        ] {
            assert_eq!(syncfs_reports_errors(release), is_trusted, "{release}");
        }
    }

    #[test]
    fn the_major_is_found_in_every_form() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 15),
            ("postgres (PostgreSQL) 18.6", 18),
            ("postgres (PostgreSQL) 19devel", 19),
            ("13\n", 13),
        ] {
            assert_eq!(Major::parse(text), Some(Major(major)), "{text}");
        }
        assert_eq!(Major::parse("nonsense"), None);
    }
}
