//! What a copy restored to a point must hold, told from what clients knew: whatever was acknowledged
//! before the point was asked for, and nothing that was sent after it was answered. Between the two, a
//! row may be on either side, but a writer's rows have no gap: it sends one after the other.

use std::collections::{BTreeMap, BTreeSet};

use crate::History;

use super::Point;

/// Everything that is wrong with a copy that holds `found`.
pub fn judge(history: &History, point: &Point, found: &BTreeSet<(u32, i64)>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut absent: BTreeMap<u32, i64> = BTreeMap::new();
    let mut known = BTreeSet::new();
    let mut rows: Vec<_> = history.rows.iter().collect();
    rows.sort_by_key(|row| (row.writer, row.number));
    for row in rows {
        let key = (row.writer, row.number);
        known.insert(key);
        match found.contains(&key) {
            false if row.acknowledged < point.before => {
                wrong.push(format!(
                    "{key:?} was acknowledged before it, and is not there"
                ));
            }
            true if row.invoked > point.after => {
                wrong.push(format!("{key:?} was sent after it, and is there"));
            }
            true => {
                if let Some(gap) = absent.get(&row.writer) {
                    wrong.push(format!("{key:?} is there, and {gap} before it is not"));
                }
            }
            false => {
                absent.entry(row.writer).or_insert(row.number);
            }
        }
    }
    let strange = found
        .iter()
        .filter(|key| !known.contains(key) && !history.unknown.contains_key(key));
    wrong.extend(strange.map(|key| format!("{key:?} is there, and nobody sent it")));
    wrong
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::writer::Row;

    use super::super::Target;
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Two writers, a row every 10 ms, acknowledged 5 ms later.
    fn history() -> History {
        let row = |writer: u32, number: i64| {
            let invoked = at(u64::try_from(number).expect("small") * 10 + u64::from(writer));
            Row {
                writer,
                number,
                server: "a".to_owned(),
                timeline: 1,
                invoked,
                acknowledged: invoked + at(5),
            }
        };
        let numbers = || 1..=10;
        History {
            rows: numbers()
                .flat_map(|number| [row(0, number), row(1, number)])
                .collect(),
            unknown: [((0, 11), Duration::ZERO)].into(),
            ..History::default()
        }
    }

    fn judged(change: impl FnOnce(&mut BTreeSet<(u32, i64)>)) -> Vec<String> {
        let point = Point {
            target: Target::Lsn("0/0".to_owned()),
            before: at(54),
            after: at(58),
        };
        // Acknowledged by 49 ms and 50 ms: 1 to 4 of both; 5 is in doubt.
        let mut found: BTreeSet<_> = (1..=4).flat_map(|it| [(0, it), (1, it)]).collect();
        change(&mut found);
        judge(&history(), &point, &found)
    }

    #[test]
    fn what_is_in_doubt_may_be_on_either_side() {
        assert_eq!(judged(|_| {}), Vec::<String>::new());
        assert_eq!(
            judged(|found| {
                found.insert((0, 5));
                found.insert((1, 5));
                found.insert((0, 11));
            }),
            Vec::<String>::new()
        );
    }

    #[test]
    fn every_way_to_be_wrong_is_found() {
        let lost = judged(|found| {
            found.remove(&(1, 4));
        });
        assert!(lost[0].contains("is not there"), "{lost:?}");
        let late = judged(|found| {
            found.extend([(0, 5), (0, 6)]);
        });
        assert!(late[0].contains("sent after it"), "{late:?}");
        let strange = judged(|found| {
            found.insert((7, 1));
        });
        assert!(strange[0].contains("nobody sent"), "{strange:?}");
    }

    #[test]
    fn a_gap_in_doubt_is_found() {
        let mut history = history();
        for row in &mut history.rows {
            row.acknowledged = at(1000);
        }
        let point = Point {
            target: Target::Lsn("0/0".to_owned()),
            before: at(0),
            after: at(500),
        };
        let gap = judge(&history, &point, &BTreeSet::from([(0, 1), (0, 3)]));
        assert!(gap[0].contains("before it is not"), "{gap:?}");
    }
}
