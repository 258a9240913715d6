//! Set: each row is inserted once and must be there at the end. Eight writers follow the primary, one
//! more is bound to each member and never gives a statement up, so that a second primary is seen.

use std::time::Duration;

use anyhow::Result;
use cluster_tests::writer::Row;
use cluster_tests::{Cluster, History, Writers};

/// The writers.
pub struct Set {
    following: Writers,
    bound: Vec<Writers>,
}

impl Set {
    /// Starts them.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let following = cluster.start_writers(8)?;
        let places = 0..cluster.members.len();
        let bound = places
            .map(|member| cluster.faithful_writers(member, 1))
            .collect();
        Ok(Self { following, bound })
    }

    /// Rows acknowledged to the following writers.
    pub fn count(&self) -> usize {
        self.following.count()
    }

    /// The newest row acknowledged to a following writer later than `since`.
    pub fn newest_after(&self, since: Duration) -> Option<Row> {
        self.following.newest_after(since)
    }

    /// Ends them.
    pub fn stop(self) -> History {
        let mut history = self.following.stop();
        for bound in self.bound {
            history.merge(bound.stop());
        }
        history
    }
}
