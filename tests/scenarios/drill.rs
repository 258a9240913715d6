//! The drill most scenarios share: writers write, something breaks, somebody else takes over, it is
//! repaired, and what was acknowledged is compared with what is there.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::writer::{clock, require_no_overlap};
use cluster_tests::{Cluster, History, PATIENCE, Writers, wait_until};

/// Length of a lease in preset `lan`.
pub const LEASE: Duration = Duration::from_secs(3);

/// Longest write outage a scenario accepts: several times the target, because scenarios run on busy
/// machines and ask what happens; how fast it is, the benchmark measures.
pub const LONGEST_OUTAGE: Duration = Duration::from_secs(15);

/// Writers at work on a healthy cluster.
pub struct Drill {
    /// Who was primary before the blow.
    pub primary: usize,
    following: Writers,
    faithful: Vec<Writers>,
    began: Duration,
}

impl Drill {
    /// Starts writers, some of them bound to one member each, and waits until they write.
    pub fn begin(cluster: &Cluster) -> Result<Self> {
        let primary = cluster.wait_healthy(PATIENCE)?;
        Self::begin_on(cluster, primary)
    }

    /// The same, once so many of at least so many standbys confirm every commit.
    pub fn begin_confirmed(cluster: &Cluster, confirmations: u32, standbys: usize) -> Result<Self> {
        // A standby nobody needs joins only after half a minute.
        let primary = cluster.wait_settled(confirmations, standbys, 2 * PATIENCE)?;
        Self::begin_on(cluster, primary)
    }

    fn begin_on(cluster: &Cluster, primary: usize) -> Result<Self> {
        let following = cluster.start_writers(4)?;
        let databases =
            (0..cluster.members.len()).filter(|place| !cluster.members[*place].is_witness);
        let faithful = databases
            .map(|member| cluster.faithful_writers(member, 1))
            .collect();
        wait_until("writers at work", PATIENCE, || match following.count() {
            rows if rows >= 100 => Ok(()),
            rows => Err(format!("{rows} rows")),
        })?;
        Ok(Self {
            primary,
            following,
            faithful,
            began: clock(),
        })
    }

    /// Waits until another member serves and the writers have found it; who.
    pub fn wait_takeover(&self, cluster: &Cluster) -> Result<usize> {
        let new = cluster.wait_other_primary(self.primary, PATIENCE)?;
        let address = cluster.members[new].host.address.clone();
        wait_until("writers found the new primary", PATIENCE, || {
            match self.following.newest_after(self.began) {
                Some(row) if row.server == address => Ok(()),
                newest => Err(format!("{newest:?}")),
            }
        })?;
        Ok(new)
    }

    /// Waits until rows come in again after this moment.
    pub fn wait_writing(&self, since: Duration) -> Result<()> {
        wait_until("writers at work again", PATIENCE, || {
            self.following
                .newest_after(since)
                .map(drop)
                .ok_or_else(|| "no row since".to_owned())
        })
    }

    /// Rows acknowledged so far.
    pub fn count(&self) -> usize {
        self.following.count()
    }

    /// Longest time without a row since a moment.
    pub fn outage_since(&self, from: Duration) -> Duration {
        self.following.so_far().outage(from, clock())
    }

    /// As [`Drill::end`], and every acknowledged row is on every member, and all members are equal.
    pub fn end_complete(self, cluster: &Cluster) -> Result<(History, Duration)> {
        let (history, outage) = self.end(cluster)?;
        cluster.require_complete(&history)?;
        Ok((history, outage))
    }

    /// Ends the writers when all is healthy again, and checks what holds after every blow: no two
    /// primaries at once, and nothing of the newest reign missing. Gives the longest outage too.
    pub fn end(self, cluster: &Cluster) -> Result<(History, Duration)> {
        let now = clock();
        self.wait_writing(now)?;
        let until = clock();
        let mut history = self.following.stop();
        let outage = history.outage(self.began, until);
        for group in self.faithful {
            history.merge(group.stop());
        }
        require_no_overlap(&history)?;
        let primary = cluster.wait_healthy(PATIENCE)?;
        let missing = cluster.missing(primary, &history)?;
        let newest = history.timelines().into_iter().max().unwrap_or_default();
        let lost = missing.iter().find(|row| row.timeline == newest);
        ensure!(
            lost.is_none(),
            "acknowledged in this reign and missing: {lost:?}"
        );
        eprintln!(
            "outage {outage:?}, {} rows acknowledged, {} of older reigns missing",
            history.rows.len(),
            missing.len()
        );
        Ok((history, outage))
    }
}
