//! No two members took writes at once: every acknowledgement of a reign comes before the first of the
//! next. A reign is named by its timeline, which the server itself writes into each answer.

use std::collections::{BTreeMap, BTreeSet};

use cluster_tests::History;

use super::{Finding, Verdict};

/// Checks order of reigns, and that no timeline was used by two servers.
pub fn check(history: &History) -> Verdict {
    let looked_at = format!("{} acknowledged rows", history.rows.len());
    let mut verdict = Verdict::new("one primary", looked_at);
    let (overlap, late) = history.overlap();
    if let Some(row) = late.first() {
        let name = format!("two primaries for {overlap:?}, {} rows", late.len());
        let evidence = [format!("{row:?}")];
        verdict.violations.push(Finding::new(&name, evidence));
    }
    let mut servers: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for row in &history.rows {
        servers.entry(row.timeline).or_default().insert(&row.server);
    }
    for (timeline, servers) in servers.iter().filter(|(_, servers)| servers.len() > 1) {
        let name = format!("timeline {timeline} was written by {servers:?}");
        verdict.violations.push(Finding::new(&name, []));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cluster_tests::writer::Row;

    use super::*;

    fn judged(rows: &[(u32, u64, &str)]) -> usize {
        let row = |(timeline, at, server): &(u32, u64, &str)| Row {
            writer: 1,
            number: 1,
            server: (*server).to_owned(),
            timeline: *timeline,
            invoked: Duration::from_millis(*at),
            acknowledged: Duration::from_millis(*at),
        };
        let history = History {
            rows: rows.iter().map(row).collect(),
            ..History::default()
        };
        check(&history).violations.len()
    }

    #[test]
    fn a_late_row_of_an_older_reign_and_a_timeline_of_two_are_violations() {
        assert_eq!(judged(&[(1, 1, "a"), (2, 2, "b"), (2, 3, "b")]), 0);
        assert_eq!(judged(&[(1, 1, "a"), (2, 2, "b"), (1, 3, "a")]), 1);
        assert_eq!(judged(&[(1, 1, "a"), (1, 2, "b")]), 1);
    }
}
