//! Every acknowledged row is on every member at the end. In mode `async` a failover may lose the newest
//! rows: they are counted, and a loss without a change of primary is a violation.

use cluster_tests::History;
use cluster_tests::compare::Comparison;

use super::{Finding, Mode, Verdict};

/// Judges what is missing.
pub fn check(mode: Mode, history: &History, found: &Comparison) -> Verdict {
    let looked_at = format!("{} acknowledged rows", history.rows.len());
    let mut verdict = Verdict::new("set", looked_at);
    let newest = history.timelines().into_iter().max().unwrap_or_default();
    for (member, rows) in &found.missing {
        let unforgivable = rows
            .iter()
            .find(|row| mode != Mode::Async || row.timeline == newest);
        let name = format!("{member} lacks {} acknowledged rows", rows.len());
        match (unforgivable, rows.first()) {
            (Some(row), _) => {
                let evidence = [format!("{row:?}")];
                verdict.violations.push(Finding::new(&name, evidence));
            }
            (None, Some(row)) => {
                let evidence = [format!("{row:?}")];
                verdict.allowed.push(Finding::new(&name, evidence));
            }
            (None, None) => {}
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cluster_tests::writer::Row;

    use super::*;

    fn row(timeline: u32, number: i64) -> Row {
        Row {
            writer: 1,
            number,
            server: "10.0.0.1".to_owned(),
            timeline,
            invoked: Duration::from_secs(1),
            acknowledged: Duration::from_secs(2),
        }
    }

    /// Three rows of timeline 1, three of timeline 2; these are gone from one member.
    fn judged(mode: Mode, gone: &[Row]) -> Verdict {
        let rows = [1, 2].into_iter();
        let rows = rows.flat_map(|timeline| (1..=3).map(move |n| row(timeline, n)));
        let history = History {
            rows: rows.collect(),
            ..History::default()
        };
        let mut found = Comparison::default();
        if !gone.is_empty() {
            found.missing.push(("m2".to_owned(), gone.to_vec()));
        }
        check(mode, &history, &found)
    }

    #[test]
    fn one_row_missing_on_one_member_is_a_violation_in_sync_and_strict() {
        for mode in [Mode::Sync, Mode::Strict] {
            assert!(judged(mode, &[]).is_good());
            assert_eq!(judged(mode, &[row(1, 3)]).violations.len(), 1);
        }
    }

    #[test]
    fn in_async_the_end_of_an_older_reign_may_be_lost_and_nothing_else() {
        let verdict = judged(Mode::Async, &[row(1, 3)]);
        assert_eq!((verdict.violations.len(), verdict.allowed.len()), (0, 1));
        assert_eq!(judged(Mode::Async, &[row(2, 3)]).violations.len(), 1);
    }
}
