//! No two members took writes at once: every acknowledgement of a reign comes before the first of the
//! next. A reign is named by its timeline, which the server itself writes into each answer.
//!
//! The clock reads when an answer arrives. One that was under way when its server was cut off from clients
//! arrives after the repair, by retransmission, however long ago it was given: it is told and is no
//! violation, unless its row was *sent* after the next reign had acknowledged something.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster_tests::History;
use cluster_tests::writer::Row;

use super::{Finding, Verdict};

/// A server was cut off from clients.
#[derive(Clone, Debug)]
pub struct ClientCut {
    /// Its address.
    pub server: String,
    /// On the harness's clock.
    pub from: Duration,
    /// When it was undone.
    pub to: Duration,
}

/// Checks order of reigns, and that no timeline was used by two servers; with the verdict the longest time
/// during which two reigns acknowledged.
pub fn check(history: &History, cuts: &[ClientCut]) -> (Verdict, Duration) {
    let looked_at = format!("{} acknowledged rows", history.rows.len());
    let mut verdict = Verdict::new("one primary", looked_at);
    let (mut both, mut under_way): (Vec<(Duration, Row)>, Vec<Row>) = Default::default();
    for row in history.overlap().1 {
        let newer = history.rows.iter().filter(|it| it.timeline > row.timeline);
        let first = newer.map(|it| it.acknowledged).min().unwrap_or_default();
        let is_cut = |cut: &ClientCut| {
            cut.server == row.server && cut.from <= row.acknowledged && row.invoked <= cut.to
        };
        match row.invoked < first && cuts.iter().any(is_cut) {
            true => under_way.push(row),
            false => both.push((row.acknowledged.saturating_sub(first), row)),
        }
    }
    let longest = both.iter().map(|(over, _)| *over).max().unwrap_or_default();
    if let Some((_, row)) = both.first() {
        let name = format!("two primaries for {longest:?}, {} rows", both.len());
        let evidence = [format!("{row:?}")];
        verdict.violations.push(Finding::new(&name, evidence));
    }
    if let Some(row) = under_way.first() {
        let name = format!(
            "answers under way when clients were cut off, {} rows",
            under_way.len()
        );
        let evidence = [format!("{row:?}")];
        verdict.allowed.push(Finding::new(&name, evidence));
    }
    let mut servers: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for row in &history.rows {
        servers.entry(row.timeline).or_default().insert(&row.server);
    }
    for (timeline, servers) in servers.iter().filter(|(_, servers)| servers.len() > 1) {
        let name = format!("timeline {timeline} was written by {servers:?}");
        verdict.violations.push(Finding::new(&name, []));
    }
    (verdict, longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows as timeline, sent, acknowledged, server; what is violated and what is told.
    fn judged(rows: &[(u32, u64, u64, &str)], cuts: &[ClientCut]) -> (usize, usize) {
        let row = |(timeline, sent, at, server): &(u32, u64, u64, &str)| Row {
            writer: 1,
            number: 1,
            server: (*server).to_owned(),
            timeline: *timeline,
            invoked: Duration::from_millis(*sent),
            acknowledged: Duration::from_millis(*at),
        };
        let history = History {
            rows: rows.iter().map(row).collect(),
            ..History::default()
        };
        let verdict = check(&history, cuts).0;
        (verdict.violations.len(), verdict.allowed.len())
    }

    #[test]
    fn a_late_row_of_an_older_reign_and_a_timeline_of_two_are_violations() {
        let good = [(1, 0, 1, "a"), (2, 1, 2, "b"), (2, 2, 3, "b")];
        assert_eq!(judged(&good, &[]), (0, 0));
        let late = [(1, 0, 1, "a"), (2, 1, 2, "b"), (1, 1, 3, "a")];
        assert_eq!(judged(&late, &[]), (1, 0));
        assert_eq!(judged(&[(1, 0, 1, "a"), (1, 1, 2, "b")], &[]), (1, 0));
    }

    #[test]
    fn an_answer_that_a_cut_held_up_is_told_and_one_to_a_row_sent_later_is_a_violation() {
        let cut = |server: &str| ClientCut {
            server: server.to_owned(),
            from: Duration::from_millis(10),
            to: Duration::from_millis(50),
        };
        let held_up = [(1, 9, 51, "a"), (2, 30, 31, "b")];
        assert_eq!(judged(&held_up, &[cut("a")]), (0, 1));
        assert_eq!(
            judged(&held_up, &[cut("b")]),
            (1, 0),
            "another server was cut off"
        );
        let sent_later = [(1, 40, 51, "a"), (2, 30, 31, "b")];
        assert_eq!(judged(&sent_later, &[cut("a")]), (1, 0));
        let before_the_cut = [(1, 3, 9, "a"), (2, 4, 5, "b")];
        assert_eq!(judged(&before_the_cut, &[cut("a")]), (1, 0));
    }
}
