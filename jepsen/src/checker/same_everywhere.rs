//! At the end all members are equal: the same rows with the same marks, the same bytes of WAL, the same
//! history of timelines.

use cluster_tests::compare::Comparison;

use super::{Finding, Verdict};

/// Judges what differs.
pub fn check(found: &Comparison) -> Verdict {
    let looked_at = format!(
        "{} rows on the primary, {} segments of WAL compared byte by byte",
        found.rows, found.segments
    );
    let mut verdict = Verdict::new("same everywhere", looked_at);
    let rows = found.differing.iter();
    let rows =
        rows.map(|(member, rows)| format!("{member} differs from the primary in {rows} rows"));
    let wal = found.wal.iter().map(|what| format!("WAL: {what}"));
    let all = rows.chain(wal).map(|what| Finding::new(&what, []));
    verdict.violations.extend(all);
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_row_and_another_byte_are_violations() {
        let found = Comparison {
            differing: vec![("m2".to_owned(), 1)],
            wal: vec!["00000002.history differs on m3".to_owned()],
            ..Comparison::default()
        };
        let verdict = check(&found);
        assert_eq!(verdict.violations.len(), 2, "{verdict}");
        assert!(check(&Comparison::default()).is_good());
    }
}
