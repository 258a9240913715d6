//! What the daemon and the guard cost while nothing happens, without PostgreSQL.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use cluster_tests::cost::{self, Cost};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE};

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
        let sum = cost::of_host(&member.host, cost::OURS)?;
        all.insert(format!("{} ({role})", member.name), sum);
    }
    Ok(all)
}
