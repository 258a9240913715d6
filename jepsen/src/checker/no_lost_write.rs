//! Every acknowledged row is there at the end. In mode `async` a failover may lose the newest rows:
//! they are counted, and a loss without a change of primary is a violation.

use anyhow::Result;
use cluster_tests::{Cluster, History};

use crate::report::Report;

/// Compares what was acknowledged with what the primary has.
pub fn check(
    cluster: &Cluster,
    primary: usize,
    history: &History,
    report: &mut Report,
) -> Result<()> {
    let missing = cluster.missing(primary, history)?;
    report.missing = missing.len();
    let newest = history.timelines().into_iter().max().unwrap_or_default();
    if let Some(row) = missing.iter().find(|row| row.timeline == newest) {
        report.violation(format!("lost without a failover after it: {row:?}"));
    }
    Ok(())
}
