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

    /// `client_connection_check_interval` exists.
    pub fn has_client_connection_check(self) -> bool {
        self.0 >= 14
    }
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
