//! What the daemon and the guard cost while nothing happens, without PostgreSQL.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE};

/// Cost of one member's two processes.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Time on a processor.
    busy: Duration,
    /// Resident memory, bytes.
    resident: u64,
}

/// A line of the table: the dearest member's share of a core and memory.
pub fn measure(cluster: &Cluster, time: Duration) -> Result<String> {
    cluster.wait_healthy(PATIENCE)?;
    let before = costs(cluster)?;
    let from = clock();
    std::thread::sleep(time);
    let after = costs(cluster)?;
    let span = clock() - from;
    let mut shares = Vec::new();
    for (name, cost) in &after {
        let spent = cost
            .busy
            .saturating_sub(before.get(name).copied().unwrap_or_default().busy);
        shares.push(format!(
            "{name} {:.2} % of a core, {} MiB",
            100.0 * spent.as_secs_f64() / span.as_secs_f64(),
            cost.resident / (1024 * 1024)
        ));
    }
    Ok(format!(
        "Idle for {} s, clusterd and guard: {}.",
        span.as_secs(),
        shares.join("; ")
    ))
}

fn costs(cluster: &Cluster) -> Result<BTreeMap<String, Cost>> {
    let mut all = BTreeMap::new();
    for (place, member) in cluster.members.iter().enumerate() {
        let role = if cluster.primaries().contains(&place) {
            "primary"
        } else {
            "standby"
        };
        let mut sum = Cost::default();
        for (pid, name) in member.host.processes() {
            if name == "clusterd" || name == "clusterd-guard" {
                let cost = cost_of(pid).with_context(|| format!("cost of {name}"))?;
                sum.busy += cost.busy;
                sum.resident += cost.resident;
            }
        }
        all.insert(format!("{} ({role})", member.name), sum);
    }
    Ok(all)
}

fn cost_of(pid: i32) -> Result<Cost> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("a name in brackets")?
        .1
        .split_whitespace()
        .collect();
    let number = |place: usize| fields.get(place).and_then(|text| text.parse::<u64>().ok());
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; 24 is pages of 4 KiB.
    let ticks = number(11)
        .zip(number(12))
        .map(|(user, system)| user + system)
        .context("times")?;
    let pages = number(21).context("resident pages")?;
    Ok(Cost {
        busy: Duration::from_millis(10 * ticks),
        resident: 4096 * pages,
    })
}
