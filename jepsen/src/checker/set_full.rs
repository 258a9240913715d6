//! Sets in real time: what was acknowledged is in every read that begins later, what was read once is in every later
//! read, and nothing is read that nobody added. Read on the primary all the time, at the end on every member.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Edn, Kind, Operation};

use super::verdict::Verdict;

/// What may be seen and be gone later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vanishing {
    /// Nothing.
    Never,
    /// An addition whose end nobody knows: its client cancelled it, and a commit that no longer waits is seen
    /// before any standby has it [A6].
    OfUnknown,
}

/// One set: who added what, and who read it.
#[derive(Default)]
struct Set<'a> {
    adds: BTreeMap<i64, &'a Operation>,
    reads: Vec<(&'a Operation, u64, BTreeSet<i64>)>,
}

/// Checks every set by itself.
pub fn check(operations: &[Operation], property: &str, vanishing: Vanishing) -> Verdict {
    let mut sets: BTreeMap<i64, Set> = BTreeMap::new();
    for operation in operations {
        let Some([Edn::Integer(key), value]) = operation.value.elements() else {
            continue;
        };
        let set = sets.entry(*key).or_default();
        match (operation.f.as_str(), value.integer(), value.numbers()) {
            ("add", Some(element), _) => drop(set.adds.insert(element, operation)),
            ("read", _, Some(elements)) if operation.kind == Kind::Ok => {
                let completed = operation.completed.unwrap_or(u64::MAX);
                set.reads
                    .push((operation, completed, elements.into_iter().collect()));
            }
            _ => {}
        }
    }
    let count = |it: Kind| {
        operations
            .iter()
            .filter(move |o| o.f == "add" && o.kind == it)
    };
    let warned = count(Kind::Info).filter(|it| it.get("acked-with-warning").is_some());
    let looked_at = format!(
        "{} sets, {} reads; {} additions acknowledged, {} of unknown end, {} of these with the warning of a \
         cancelled wait",
        sets.len(),
        sets.values().map(|set| set.reads.len()).sum::<usize>(),
        count(Kind::Ok).count(),
        count(Kind::Info).count(),
        warned.count()
    );
    let mut verdict = Verdict::new(property, looked_at);
    for set in sets.values() {
        judge(set, vanishing, &mut verdict);
    }
    verdict
}

fn judge(set: &Set, vanishing: Vanishing, verdict: &mut Verdict) {
    // The read that saw an element first, as far as anybody can tell from its end.
    let mut first_seen: BTreeMap<i64, (&Operation, u64)> = BTreeMap::new();
    for (read, completed, elements) in &set.reads {
        for element in elements {
            let seen = first_seen.entry(*element).or_insert((read, *completed));
            if *completed < seen.1 {
                *seen = (read, *completed);
            }
            match set.adds.get(element) {
                Some(add) if add.kind == Kind::Fail => {
                    verdict.note("failed-add-read", vec![add.told(), read.told()]);
                }
                Some(add) if add.invoked < *completed => {}
                _ => verdict.note("never-added", vec![format!("{element}"), read.told()]),
            }
        }
    }
    for (read, _, elements) in &set.reads {
        let missing = set.adds.iter().filter(|(it, _)| !elements.contains(it));
        for (element, add) in missing {
            let acknowledged = add.completed.filter(|_| add.kind == Kind::Ok);
            if acknowledged.is_some_and(|at| at < read.invoked) {
                verdict.note(
                    "missing-after-acknowledged",
                    vec![add.told(), read.told(), format!("it lacks {element}")],
                );
            }
            let may_vanish = vanishing == Vanishing::OfUnknown && add.kind == Kind::Info;
            if let Some((before, seen)) = first_seen.get(element)
                && *seen < read.invoked
                && !may_vanish
            {
                verdict.note(
                    "vanished",
                    vec![add.told(), before.told(), read.told(), format!("{element}")],
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::*;

    fn anomalies(text: &str, vanishing: Vanishing) -> Vec<String> {
        let found = check(&history(text), "set-full", vanishing).violations;
        found.into_iter().map(|it| it.anomaly).collect()
    }

    const ADDED: &str = "0 invoke add [1 7] / 0 ok add [1 7] / ";

    #[test]
    fn what_is_under_way_may_be_seen_or_not_and_sets_are_apart() {
        let good = "0 invoke add [1 7] / 1 invoke read [1 nil] / 1 ok read [1 []] / 1 invoke read [1 nil] / \
                    1 ok read [1 [7]] / 0 ok add [1 7] / 1 invoke read [2 nil] / 1 ok read [2 []] / \
                    2 invoke add [1 8] / 2 info add [1 8] / 1 invoke read [1 nil] / 1 ok read [1 [7]] / \
                    3 invoke read [1 nil] / 3 ok read [1 [7 8]] / 4 invoke add [1 9] / 4 fail add [1 9]";
        assert!(anomalies(good, Vanishing::Never).is_empty());
    }

    #[test]
    fn what_was_acknowledged_is_missing() {
        let bad = ADDED.to_owned() + "1 invoke read [1 nil] / 1 ok read [1 []]";
        for vanishing in [Vanishing::Never, Vanishing::OfUnknown] {
            assert_eq!(anomalies(&bad, vanishing), ["missing-after-acknowledged"]);
        }
    }

    #[test]
    fn what_was_seen_is_gone() {
        let bad = "0 invoke add [1 7] / 0 info add [1 7] / 1 invoke read [1 nil] / 1 ok read [1 [7]] / \
                   2 invoke read [1 nil] / 2 ok read [1 []]";
        assert_eq!(anomalies(bad, Vanishing::Never), ["vanished"]);
        assert!(anomalies(bad, Vanishing::OfUnknown).is_empty());
        // Two reads at the same time say nothing.
        let good = "0 invoke add [1 7] / 0 info add [1 7] / 1 invoke read [1 nil] / 2 invoke read [1 nil] / \
                    1 ok read [1 [7]] / 2 ok read [1 []]";
        assert!(anomalies(good, Vanishing::Never).is_empty());
    }

    #[test]
    fn what_nobody_added_and_what_failed_is_read() {
        let bad = "1 invoke read [1 nil] / 1 ok read [1 [7]]";
        assert_eq!(anomalies(bad, Vanishing::Never), ["never-added"]);
        let early = "1 invoke read [1 nil] / 1 ok read [1 [7]] / ".to_owned() + ADDED;
        assert_eq!(anomalies(&early, Vanishing::Never), ["never-added"]);
        let failed =
            "0 invoke add [1 7] / 0 fail add [1 7] / 1 invoke read [1 nil] / 1 ok read [1 [7]]";
        assert_eq!(anomalies(failed, Vanishing::OfUnknown), ["failed-add-read"]);
    }
}
