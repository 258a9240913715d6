//! At the end all members are equal: the same rows with the same marks, the same bytes of WAL, the same
//! history of timelines.

use cluster_tests::compare::Comparison;

use crate::report::Report;

/// Judges what differs.
pub fn check(found: &Comparison, report: &mut Report) {
    for (member, rows) in &found.differing {
        report.violation(format!("{member} differs from the primary in {rows} rows"));
    }
    for what in &found.wal {
        report.violation(format!("WAL: {what}"));
    }
    report.note(format!(
        "{} rows on the primary, {} segments of WAL compared byte by byte",
        found.rows, found.segments
    ));
}

#[cfg(test)]
mod tests {
    use cluster_tests::History;

    use super::*;

    #[test]
    fn another_row_and_another_byte_are_violations() {
        let found = Comparison {
            differing: vec![("m2".to_owned(), 1)],
            wal: vec!["00000002.history differs on m3".to_owned()],
            ..Comparison::default()
        };
        let mut report = Report::of_history(&History::default());
        check(&found, &mut report);
        assert_eq!(report.violations().len(), 2, "{report}");
    }
}
