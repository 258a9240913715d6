//! What is done to the primary, and how it is undone.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use cluster_tests::{Cluster, PATIENCE};

/// One way to lose a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Event {
    /// Every process of the primary's host killed at once.
    HostLost,
    /// The primary's host frozen for longer than the lease, then thawed.
    HostFrozen,
    /// The primary cut off from the members; clients still reach it.
    CutOff,
    /// clusterd killed and started again at once.
    DaemonKilled,
    /// clusterd stopped (SIGSTOP) for longer than the lease, then continued.
    DaemonFrozen,
    /// The guard killed.
    GuardKilled,
    /// Guard and clusterd killed together; clusterd is started again at once.
    BothKilled,
    /// The postmaster killed.
    PostgresKilled,
    /// A planned switchover.
    Switchover,
}

impl Event {
    /// All of them, in the order of the table.
    pub fn all() -> &'static [Event] {
        Event::value_variants()
    }

    /// As the table names it.
    pub fn title(self) -> &'static str {
        match self {
            Event::HostLost => "primary's host lost",
            Event::HostFrozen => "primary's host frozen 3 × D, thawed",
            Event::CutOff => "primary cut off, clients still reach it",
            Event::DaemonKilled => "clusterd killed, started again at once",
            Event::DaemonFrozen => "clusterd stopped 3 × D",
            Event::GuardKilled => "guard killed",
            Event::BothKilled => "guard and clusterd killed",
            Event::PostgresKilled => "postmaster killed",
            Event::Switchover => "planned switchover",
        }
    }

    /// Does it.
    pub fn strike(self, cluster: &mut Cluster, primary: usize) -> Result<()> {
        let member = &mut cluster.members[primary];
        match self {
            Event::HostLost => member.kill_host(),
            Event::HostFrozen => member.host.freeze(),
            Event::CutOff => cluster.isolate(primary),
            Event::DaemonKilled => {
                member.kill_daemon()?;
                member.start()
            }
            Event::DaemonFrozen => member.stop_daemon(),
            Event::GuardKilled => {
                member.kill_guard()?;
                member.restart_when_it_ends(PATIENCE)
            }
            Event::BothKilled => {
                member.kill_guard()?;
                member.kill_daemon()?;
                member.start()
            }
            Event::PostgresKilled => member.kill_postmaster(),
            Event::Switchover => cluster.ctl(&["switchover", "--yes"]).map(drop),
        }
    }

    /// Undoes it and waits until all is well again.
    pub fn repair(self, cluster: &mut Cluster, struck: usize) -> Result<()> {
        let member = &mut cluster.members[struck];
        match self {
            Event::HostLost => member.start()?,
            Event::HostFrozen => member.host.thaw()?,
            Event::CutOff => member.heal()?,
            Event::DaemonFrozen => member.continue_daemon()?,
            Event::DaemonKilled
            | Event::GuardKilled
            | Event::BothKilled
            | Event::PostgresKilled
            | Event::Switchover => {}
        }
        cluster
            .wait_healthy(PATIENCE)
            .context("the cluster did not become healthy again")?;
        Ok(())
    }

    /// How long it lasts before it is undone; counted from the blow.
    pub fn lasts(self, lease: Duration) -> Duration {
        match self {
            Event::HostFrozen | Event::DaemonFrozen | Event::CutOff => 3 * lease,
            Event::HostLost
            | Event::DaemonKilled
            | Event::GuardKilled
            | Event::BothKilled
            | Event::PostgresKilled
            | Event::Switchover => Duration::from_secs(1),
        }
    }
}
