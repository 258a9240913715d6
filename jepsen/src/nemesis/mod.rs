//! Faults, each with its repair; one at a time, or two of one kind in a row that belong together.

mod degrade;
mod kill;
mod partition;
mod pause;
mod round;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use cluster_tests::Cluster;

use crate::history::{Edn, Event, Kind, Process};

pub use round::{Round, strike};

/// What can be done to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Every process of the host.
    KillHost,
    /// SIGKILL to clusterd.
    KillDaemon,
    /// SIGKILL to the guard.
    KillGuard,
    /// SIGKILL to the postmaster.
    KillPostgres,
    /// SIGSTOP to clusterd, for a while.
    PauseDaemon,
    /// SIGSTOP to every process of PostgreSQL.
    FreezePostgres,
    /// SIGSTOP to the receiver of WAL; on a primary, to one sender.
    FreezeReplication,
    /// The whole host stands still for a while.
    FreezeHost,
    /// No member hears it and it hears none; clients still reach it.
    Isolate,
    /// Nobody reaches it, clients neither.
    CutAll,
    /// It hears the others, they do not hear it.
    Mute,
    /// They hear it, it does not hear them.
    Deafen,
    /// Only the members' own port is cut; replication and clients go on.
    CutPeerPort,
    /// Only PostgreSQL's port is cut, between members: a primary loses its standbys and nothing else.
    CutReplication,
    /// Every standby's PostgreSQL stands still, and at some moment of what follows the primary is isolated.
    DegradeThenIsolate,
    /// The same, and the primary's host is killed.
    DegradeThenKill,
    /// The same, and the primary's host stands still.
    DegradeThenFreeze,
}

/// Faults that are chosen from together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Menu {
    /// Kill, freeze and partition of any one member.
    Members,
    /// A primary without its standbys, without everybody, and at every moment of a degrade.
    Cuts,
    /// All there are.
    All,
}

impl Menu {
    /// Its faults.
    pub fn faults(self) -> Vec<Fault> {
        let all = Fault::value_variants().iter().copied();
        let is_cut = |fault: &Fault| {
            fault.is_degrade()
                || matches!(
                    fault,
                    Fault::CutReplication | Fault::Isolate | Fault::CutAll
                )
        };
        match self {
            Menu::Members => all.filter(|fault| !fault.is_degrade()).collect(),
            Menu::Cuts => all.filter(is_cut).collect(),
            Menu::All => all.collect(),
        }
    }
}

impl Fault {
    /// Hits the standbys first and then the primary: more than one loss.
    pub fn is_degrade(self) -> bool {
        matches!(
            self,
            Fault::DegradeThenIsolate | Fault::DegradeThenKill | Fault::DegradeThenFreeze
        )
    }
}

/// One fault that was done and undone.
#[derive(Clone, Debug)]
pub struct Blow {
    /// When, on the harness's clock.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// To whom.
    pub member: String,
    /// Whether it was the primary then.
    pub was_primary: bool,
    /// The cluster was whole before, and the fault was not undone before rows came in again.
    pub was_held: bool,
    /// How long.
    pub lasted: Duration,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.was_primary {
            "primary"
        } else {
            "not primary"
        };
        let held = if self.was_held { ", held" } else { "" };
        write!(
            f,
            "{:?} {} ({role}{held}) for {:?}",
            self.fault, self.member, self.lasted
        )
    }
}

impl Blow {
    /// Its beginning and its end, as events of the nemesis.
    pub fn events(&self) -> [Event; 2] {
        let word = self.fault.to_possible_value();
        let word = word.map_or_else(String::new, |it| it.get_name().to_owned());
        let event = |at: Duration, f: &str| Event {
            time: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
            kind: Kind::Info,
            process: Process::Nemesis,
            f: f.to_owned(),
            value: Edn::Text(self.member.clone()),
            more: vec![("was-primary".to_owned(), Edn::Bool(self.was_primary))],
        };
        [
            event(self.at, &word),
            event(self.at + self.lasted, &format!("undo-{word}")),
        ]
    }
}

/// Undoes whatever may still be broken.
pub fn heal_all(cluster: &mut Cluster) -> Result<()> {
    for member in &cluster.members {
        member.heal()?;
        member.host.thaw()?;
        member.continue_postgres();
        if member.daemon_pid().is_ok() {
            // It may have ended by itself this moment.
            let _ = member.continue_daemon();
        }
    }
    cluster.start_all()
}

fn begin(fault: Fault, cluster: &mut Cluster, target: usize, moment: Duration) -> Result<()> {
    match fault {
        Fault::KillHost | Fault::KillDaemon | Fault::KillGuard | Fault::KillPostgres => {
            kill::begin(fault, &mut cluster.members[target])
        }
        Fault::PauseDaemon
        | Fault::FreezePostgres
        | Fault::FreezeReplication
        | Fault::FreezeHost => pause::begin(fault, &cluster.members[target]),
        Fault::Isolate
        | Fault::CutAll
        | Fault::Mute
        | Fault::Deafen
        | Fault::CutPeerPort
        | Fault::CutReplication => partition::begin(fault, cluster, target),
        Fault::DegradeThenIsolate | Fault::DegradeThenKill | Fault::DegradeThenFreeze => {
            degrade::begin(fault, cluster, target, moment)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_on_a_menu_and_only_degrades_hit_more_than_one_member() {
        let all = Menu::All.faults();
        let some: Vec<Fault> = [Menu::Members, Menu::Cuts]
            .iter()
            .flat_map(|menu| menu.faults())
            .collect();
        assert!(all.iter().all(|fault| some.contains(fault)));
        assert!(!Menu::Members.faults().iter().any(|it| it.is_degrade()));
        assert!(Menu::Cuts.faults().iter().any(|it| it.is_degrade()));
    }
}
