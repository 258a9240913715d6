//! What is done to the primary or to a standby, and how it is undone.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use cluster_tests::{Cluster, PATIENCE};

/// One way to lose a primary, or a standby that every commit waits for.
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
    /// The postmaster of a standby killed; both standbys confirm every commit.
    StandbyPostgresKilled,
    /// Every process of such a standby's host killed at once.
    StandbyHostLost,
    /// Such a standby cut off from everybody.
    StandbyCutOff,
    /// Every process of such a standby's PostgreSQL stopped: its connections stay open.
    StandbyFrozen,
}

impl Event {
    /// All that a durability mode has, in the order of the table: in `async` nobody waits for a standby.
    pub fn all(mode: &str) -> Vec<Event> {
        let all = Event::value_variants().iter().copied();
        all.filter(|event| mode != "async" || !event.is_of_standby())
            .collect()
    }

    /// Whether it hits a standby; the rule asks for both of two then.
    pub fn is_of_standby(self) -> bool {
        matches!(
            self,
            Event::StandbyPostgresKilled
                | Event::StandbyHostLost
                | Event::StandbyCutOff
                | Event::StandbyFrozen
        )
    }

    /// Who is hit.
    pub fn victim(self, cluster: &Cluster, primary: usize) -> usize {
        match self.is_of_standby() {
            true => (primary + 1) % cluster.members.len(),
            false => primary,
        }
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
            Event::StandbyPostgresKilled => "a standby's postmaster killed, `k = 2` of 2",
            Event::StandbyHostLost => "a standby's host lost, `k = 2` of 2",
            Event::StandbyCutOff => "a standby cut off, `k = 2` of 2",
            Event::StandbyFrozen => "a standby's PostgreSQL stopped, `k = 2` of 2",
        }
    }

    /// Does it.
    pub fn strike(self, cluster: &mut Cluster, victim: usize) -> Result<()> {
        let member = &mut cluster.members[victim];
        match self {
            Event::HostLost | Event::StandbyHostLost => member.kill_host(),
            Event::HostFrozen => member.host.freeze(),
            Event::CutOff | Event::StandbyCutOff => cluster.isolate(victim),
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
            Event::PostgresKilled | Event::StandbyPostgresKilled => member.kill_postmaster(),
            Event::StandbyFrozen => member.stop_postgres(),
            Event::Switchover => cluster.ctl(&["switchover", "--yes"]).map(drop),
        }
    }

    /// Undoes it and waits until all is well again.
    pub fn repair(self, cluster: &mut Cluster, struck: usize) -> Result<()> {
        let member = &mut cluster.members[struck];
        match self {
            Event::HostLost | Event::StandbyHostLost => member.start()?,
            Event::HostFrozen => member.host.thaw()?,
            Event::CutOff | Event::StandbyCutOff => member.heal()?,
            Event::DaemonFrozen => member.continue_daemon()?,
            Event::StandbyFrozen => member.continue_postgres(),
            Event::DaemonKilled
            | Event::GuardKilled
            | Event::BothKilled
            | Event::PostgresKilled
            | Event::StandbyPostgresKilled
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
            Event::HostFrozen
            | Event::DaemonFrozen
            | Event::CutOff
            | Event::StandbyHostLost
            | Event::StandbyCutOff
            | Event::StandbyFrozen => 3 * lease,
            Event::HostLost
            | Event::DaemonKilled
            | Event::GuardKilled
            | Event::BothKilled
            | Event::PostgresKilled
            | Event::StandbyPostgresKilled
            | Event::Switchover => Duration::from_secs(1),
        }
    }
}
