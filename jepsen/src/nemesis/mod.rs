//! Faults, each with its repair; one at a time, or two at once now and then.

mod kill;
mod partition;
mod pause;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use cluster_tests::Cluster;
use cluster_tests::writer::clock;
use rand::rngs::StdRng;
use rand::{Rng, RngExt as _};

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
    /// The whole host stands still for a while.
    FreezeHost,
    /// No member hears it and it hears none; clients still reach it.
    Isolate,
    /// It hears the others, they do not hear it.
    Mute,
    /// They hear it, it does not hear them.
    Deafen,
    /// Only the members' own port is cut; replication and clients go on.
    CutPeerPort,
}

impl Fault {
    /// All of them.
    pub fn all() -> &'static [Fault] {
        Fault::value_variants()
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
        write!(
            f,
            "{:?} {} ({role}) for {:?}",
            self.fault, self.member, self.lasted
        )
    }
}

/// Chooses a fault and a member, does it, waits, undoes it, and lets the cluster breathe.
pub fn strike(cluster: &mut Cluster, menu: &[Fault], chance: &mut StdRng) -> Result<Blow> {
    // Drawn in this order whatever happens, so that a seed means the same run each time.
    let fault = menu[pick(chance, menu.len())];
    let wants_primary = chance.random_bool(0.6);
    let other = pick(chance, cluster.members.len());
    let lasts = Duration::from_millis(chance.random_range(200..9000));
    let breath = Duration::from_millis(chance.random_range(500..6000));
    // A daemon whose guard is gone ends by itself: a service manager would start it again.
    cluster.start_all()?;
    let primary = cluster.primaries().first().copied();
    let target = primary.filter(|_| wants_primary).unwrap_or(other);
    let at = clock();
    begin(fault, cluster, target)?;
    std::thread::sleep(lasts);
    end(fault, cluster, target)?;
    let blow = Blow {
        at,
        fault,
        member: cluster.members[target].name.clone(),
        was_primary: primary == Some(target),
        lasted: clock() - at,
    };
    std::thread::sleep(breath);
    Ok(blow)
}

/// Undoes whatever may still be broken.
pub fn heal_all(cluster: &mut Cluster) -> Result<()> {
    for member in &cluster.members {
        member.heal()?;
        member.host.thaw()?;
    }
    cluster.start_all()
}

fn begin(fault: Fault, cluster: &mut Cluster, target: usize) -> Result<()> {
    match fault {
        Fault::KillHost | Fault::KillDaemon | Fault::KillGuard | Fault::KillPostgres => {
            kill::begin(fault, &mut cluster.members[target])
        }
        Fault::PauseDaemon | Fault::FreezeHost => pause::begin(fault, &cluster.members[target]),
        Fault::Isolate | Fault::Mute | Fault::Deafen | Fault::CutPeerPort => {
            partition::begin(fault, cluster, target)
        }
    }
}

fn end(fault: Fault, cluster: &mut Cluster, target: usize) -> Result<()> {
    let member = &mut cluster.members[target];
    match fault {
        Fault::KillHost | Fault::KillDaemon | Fault::KillGuard | Fault::KillPostgres => {
            if member.is_running() {
                Ok(())
            } else {
                member.start()
            }
        }
        Fault::PauseDaemon | Fault::FreezeHost => pause::end(fault, member),
        Fault::Isolate | Fault::Mute | Fault::Deafen | Fault::CutPeerPort => member.heal(),
    }
}

fn pick(chance: &mut impl Rng, of: usize) -> usize {
    chance.random_range(0..of)
}
