//! Maintenance of one member: for a while nothing is entrusted to it.

use serde::{Deserialize, Serialize};

use super::member::Tags;

/// A member that may be taken away at any moment. It streams on while it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// Who asked, and why.
    pub by: String,
    /// Since when, Unix milliseconds of the proposer's clock. Display only.
    pub since_unix_ms: u64,
    /// Until when, Unix milliseconds; it ends by itself then.
    pub until_unix_ms: u64,
}

impl Maintenance {
    /// The tags of a member meanwhile: it confirms no commit, is not promoted, and gets no new readers.
    pub fn over(announced: &Tags) -> Tags {
        Tags {
            nofailover: true,
            nosync: true,
            noloadbalance: true,
            ..announced.clone()
        }
    }
}
