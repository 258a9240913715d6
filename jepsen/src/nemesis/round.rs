//! One round: a fault is chosen with everything about it, done, undone, and the cluster breathes.

use std::time::Duration;

use anyhow::Result;
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, wait_until};
use rand::rngs::StdRng;
use rand::{Rng, RngExt as _};

use super::{Blow, Fault, begin, heal_all};
use crate::checker::Mode;
use crate::workload::Workloads;

/// A single loss must be over by then, without anybody's help.
const HELD: Duration = Duration::from_secs(40);
/// A repaired cluster takes writes again by then.
const REPAIRED: Duration = Duration::from_secs(60);

/// What a round has to know.
pub struct Round<'a> {
    /// Faults to choose from.
    pub menu: &'a [Fault],
    /// Who has to confirm.
    pub mode: Mode,
    /// Confirmations.
    pub k: u32,
    /// Those who write meanwhile.
    pub workload: &'a Workloads,
}

/// Everything about a fault that chance decides.
struct Draw {
    fault: Fault,
    wants_primary: bool,
    other: usize,
    is_held: bool,
    moment: Duration,
    lasts: Duration,
    breath: Duration,
}

impl Draw {
    /// Drawn in this order whatever happens, so that a seed means the same run each time.
    fn new(menu: &[Fault], members: usize, chance: &mut StdRng) -> Self {
        Self {
            fault: menu[pick(chance, menu.len())],
            wants_primary: chance.random_bool(0.6),
            other: pick(chance, members),
            is_held: chance.random_bool(0.5),
            moment: Duration::from_millis(chance.random_range(0..3000)),
            lasts: Duration::from_millis(chance.random_range(200..9000)),
            breath: Duration::from_millis(chance.random_range(500..4000)),
        }
    }
}

/// Does one round; what was done, and what must not have been seen meanwhile.
pub fn strike(
    cluster: &mut Cluster,
    round: &Round,
    chance: &mut StdRng,
) -> Result<(Blow, Vec<String>)> {
    let draw = Draw::new(round.menu, cluster.members.len(), chance);
    let mut seen = Vec::new();
    // A daemon whose guard is gone ends by itself: a service manager would start it again.
    cluster.start_all()?;
    let is_held = draw.is_held && !draw.fault.is_degrade();
    if is_held && let Err(error) = wait_whole(cluster, round) {
        seen.push(format!("not whole again: {error:#}"));
    }
    let primary = cluster.primaries().first().copied();
    let wants_primary = draw.wants_primary || draw.fault.is_degrade();
    let target = primary.filter(|_| wants_primary).unwrap_or(draw.other);
    let at = clock();
    begin(draw.fault, cluster, target, draw.moment)?;
    std::thread::sleep(draw.lasts);
    if is_held && let Err(error) = wait_rows(round.workload, clock(), HELD) {
        let (fault, name) = (draw.fault, &cluster.members[target].name);
        seen.push(format!(
            "a single loss ({fault:?} of {name}) ends writing: {error:#}"
        ));
        seen.push(cluster.status().unwrap_or_default());
    }
    heal_all(cluster)?;
    let blow = Blow {
        at,
        fault: draw.fault,
        member: cluster.members[target].name.clone(),
        was_primary: primary == Some(target),
        was_held: is_held,
        lasted: clock() - at,
    };
    std::thread::sleep(draw.breath);
    // A daemon may have ended since, of a guard that was killed.
    let repaired = wait_until("rows after the repair", REPAIRED, || {
        cluster.start_all().map_err(|error| format!("{error:#}"))?;
        match round.workload.newest_after(at + blow.lasted) {
            Some(_) => Ok(()),
            None => Err(cluster.seen()),
        }
    });
    if let Err(error) = repaired {
        seen.push(format!("{blow}: {error:#}"));
        seen.push(cluster.status().unwrap_or_default());
    }
    Ok((blow, seen))
}

/// All members stream, and outside `async` a rule that has been the same for a while is satisfied: no
/// change is under way.
fn wait_whole(cluster: &Cluster, round: &Round) -> Result<()> {
    if round.mode == Mode::Async {
        return cluster.wait_healthy(REPAIRED).map(drop);
    }
    cluster.wait_settled(round.k, 1, REPAIRED).map(drop)
}

fn wait_rows(workload: &Workloads, since: Duration, limit: Duration) -> Result<()> {
    wait_until("rows without a repair", limit, || {
        match workload.newest_after(since) {
            Some(_) => Ok(()),
            None => Err(format!("{} rows, none of them since", workload.count())),
        }
    })
}

fn pick(chance: &mut impl Rng, of: usize) -> usize {
    chance.random_range(0..of)
}
