//! No two members took writes at once: every acknowledgement of a reign comes before the first of the
//! next. A reign is named by its timeline, which the server itself writes into each answer.

use std::collections::{BTreeMap, BTreeSet};

use cluster_tests::History;

use crate::report::Report;

/// Checks order of reigns, and that no timeline was used by two servers.
pub fn check(history: &History, report: &mut Report) {
    let (overlap, late) = history.overlap();
    report.overlap = overlap;
    if let Some(row) = late.first() {
        report.violation(format!(
            "two primaries for {overlap:?}, {} rows: {row:?}",
            late.len()
        ));
    }
    let mut servers: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for row in &history.rows {
        servers.entry(row.timeline).or_default().insert(&row.server);
    }
    for (timeline, servers) in servers.iter().filter(|(_, servers)| servers.len() > 1) {
        report.violation(format!("timeline {timeline} was written by {servers:?}"));
    }
}
