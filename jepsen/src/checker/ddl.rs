//! Tables that were made, changed and dropped: at the end every member has the same ones, each in a state that the
//! answers explain. One client works on a table, and leaves it when it does not know how a step ended.

use std::collections::BTreeMap;

use crate::history::{Edn, Kind, Operation};

use super::verdict::Verdict;

/// Columns and indexes; none when it is not there.
type Table = Option<(i64, i64)>;

/// Checks what every member has at the end.
pub fn check(operations: &[Operation]) -> Verdict {
    let mut allowed: BTreeMap<i64, Vec<Table>> = BTreeMap::new();
    let mut steps = 0;
    for operation in operations {
        let (Some(table), Some(step)) = (operation.value.integer(), step(&operation.f)) else {
            continue;
        };
        steps += 1;
        let states = allowed.entry(table).or_insert_with(|| vec![None]);
        let after = states.iter().map(|it| step(*it)).collect();
        match operation.kind {
            Kind::Ok => *states = after,
            Kind::Info => states.extend(after),
            Kind::Fail | Kind::Invoke => {}
        }
    }
    let is_read = |it: &&Operation| it.f == "read" && it.kind == Kind::Ok;
    let reads: Vec<(&Operation, BTreeMap<i64, Table>)> = operations
        .iter()
        .filter(is_read)
        .filter_map(|it| Some((it, tables(&it.value)?)))
        .collect();
    let looked_at = format!(
        "{steps} steps on {} tables, {} catalogues read",
        allowed.len(),
        reads.len()
    );
    let mut verdict = Verdict::new("ddl", looked_at);
    let node = |read: &Operation| read.get("node").map_or(String::new(), |it| it.to_string());
    for (read, found) in &reads {
        if let Some(unknown) = found.keys().find(|it| !allowed.contains_key(it)) {
            verdict.note(
                "never-made",
                vec![format!("table {unknown} on {}", node(read))],
            );
        }
        for (table, states) in &allowed {
            let is = found.get(table).copied().flatten();
            if !states.contains(&is) {
                let text = format!(
                    "table {table} on {}: {is:?}, not one of {states:?}",
                    node(read)
                );
                let of_it = operations
                    .iter()
                    .filter(|it| it.value.integer() == Some(*table));
                let evidence = of_it.map(Operation::told).chain([text]);
                verdict.note("unexplained-table", evidence);
            }
        }
        if let Some((first, other)) = reads.first().filter(|(_, other)| other != found) {
            let differs = allowed.keys().find(|it| other.get(it) != found.get(it));
            let text = format!("{differs:?} on {} and {}", node(first), node(read));
            verdict.note("catalogues-differ", vec![text]);
        }
    }
    verdict
}

/// What an operation makes of a table.
fn step(f: &str) -> Option<fn(Table) -> Table> {
    match f {
        "create" => Some(|_| Some((1, 0))),
        "add" => Some(|it| it.map(|(columns, indexes)| (columns + 1, indexes))),
        "remove" => Some(|it| it.map(|(columns, indexes)| (columns - 1, indexes))),
        "index" => Some(|it| it.map(|(columns, indexes)| (columns, indexes + 1))),
        "drop" => Some(|_| None),
        _ => None,
    }
}

fn tables(value: &Edn) -> Option<BTreeMap<i64, Table>> {
    let table = |it: &Edn| match it.numbers()?[..] {
        [table, columns, indexes] => Some((table, Some((columns, indexes)))),
        _ => None,
    };
    value.elements()?.iter().map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::*;

    fn anomalies(text: &str) -> Vec<String> {
        let found = check(&history(text)).violations;
        found.into_iter().map(|it| it.anomaly).collect()
    }

    const MADE: &str = "0 invoke create 4 / 0 ok create 4 / 0 invoke add 4 / 0 ok add 4 / ";

    fn read(tables: &str) -> String {
        format!("9 invoke read nil / 9 ok read {tables} / ")
    }

    #[test]
    fn a_step_of_unknown_end_may_be_there_or_not() {
        let text = MADE.to_owned() + "0 invoke index 4 / 0 info index 4 / ";
        for seen in ["[[4 2 0]]", "[[4 2 1]]"] {
            assert!(anomalies(&(text.clone() + &read(seen) + &read(seen))).is_empty());
        }
        let dropped = MADE.to_owned() + "0 invoke drop 4 / 0 ok drop 4 / " + &read("[]");
        assert!(anomalies(&dropped).is_empty());
        let failed = MADE.to_owned() + "0 invoke drop 4 / 0 fail drop 4 / " + &read("[[4 2 0]]");
        assert!(anomalies(&failed).is_empty());
    }

    #[test]
    fn what_answers_do_not_explain_is_found() {
        for seen in ["[]", "[[4 1 0]]", "[[4 2 1]]"] {
            let found = anomalies(&(MADE.to_owned() + &read(seen)));
            assert_eq!(found, ["unexplained-table"], "{seen}");
        }
        let more = MADE.to_owned() + &read("[[4 2 0] [5 1 0]]");
        assert_eq!(anomalies(&more), ["never-made"]);
    }

    #[test]
    fn members_that_differ_are_found() {
        let text = MADE.to_owned() + "0 invoke index 4 / 0 info index 4 / ";
        let text = text + &read("[[4 2 0]]") + &read("[[4 2 1]]");
        assert_eq!(anomalies(&text), ["catalogues-differ"]);
    }
}
