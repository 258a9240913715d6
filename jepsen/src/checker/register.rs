//! Linearizability of single values: is there an order of all operations on a key, each at one moment
//! between its beginning and its end, in which every read is right? Searched key by key.
//!
//! Source: Wing and Gong 1993, with the memory of visited states of Lowe 2017. An operation that
//! nobody knows the end of may take effect at any moment after its beginning, or never. The search is
//! bounded: a key whose bound is hit is not proven, and that is said.

use std::collections::{BTreeMap, HashSet};

use crate::history::{Edn, Kind, Operation};

use super::verdict::{Finding, Verdict};

/// Steps of the search for one key.
pub const STEPS: usize = 2_000_000;

/// What an operation does to a value.
#[derive(Clone, Copy, Debug)]
enum Action {
    Read(Option<i64>),
    Write(i64),
    Swap(i64, i64),
}

impl Action {
    /// The value after it; none if it cannot have been done on this one.
    fn after(self, value: Option<i64>) -> Option<Option<i64>> {
        match self {
            Action::Read(seen) => (seen == value).then_some(value),
            Action::Write(new) => Some(Some(new)),
            Action::Swap(old, new) => (value == Some(old)).then_some(Some(new)),
        }
    }
}

/// What a search found.
enum Searched {
    Linearizable,
    /// Stuck for good; at best until this operation had to be over.
    Stuck(usize),
    BoundHit,
}

/// Checks every key.
pub fn check(operations: &[Operation], steps: usize) -> Verdict {
    let mut keys: BTreeMap<i64, Vec<(&Operation, Action)>> = BTreeMap::new();
    let mut verdict = Verdict::new("register", String::new());
    for operation in operations.iter().filter(|it| it.kind != Kind::Fail) {
        match parsed(operation) {
            // A read without an answer tells nothing.
            Some((_, Action::Read(_))) if operation.kind == Kind::Info => {}
            Some((key, action)) => keys.entry(key).or_default().push((operation, action)),
            None => verdict
                .unknown
                .push(format!("unreadable: {}", operation.told())),
        }
    }
    let counted: usize = keys.values().map(Vec::len).sum();
    verdict.looked_at = format!("{counted} operations on {} keys", keys.len());
    for (key, all) in &keys {
        match search(all, steps) {
            Searched::Linearizable => {}
            Searched::Stuck(at) => {
                let evidence = evidence(all, at);
                verdict
                    .violations
                    .push(Finding::new("not-linearizable", evidence));
            }
            Searched::BoundHit => {
                verdict
                    .unknown
                    .push(format!("key {key}: {steps} steps were not enough"));
            }
        }
    }
    // One is enough to read; the one with the fewest lines.
    verdict.violations.sort_by_key(|it| it.evidence.len());
    verdict.violations.truncate(3);
    verdict
}

fn parsed(operation: &Operation) -> Option<(i64, Action)> {
    let [key, value] = operation.value.elements()? else {
        return None;
    };
    let action = match (operation.f.as_str(), value) {
        ("read", Edn::Nil) => Action::Read(None),
        ("read", value) => Action::Read(Some(value.integer()?)),
        ("write", value) => Action::Write(value.integer()?),
        ("cas", value) => match value.numbers()?[..] {
            [old, new] => Action::Swap(old, new),
            _ => return None,
        },
        _ => return None,
    };
    Some((key.integer()?, action))
}

/// Beginnings and ends in order of time, as a list from which operations are taken and put back.
struct Entries {
    /// Operation and whether this is its end; entry 0 stands before the first.
    all: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    begin: Vec<usize>,
    end: Vec<usize>,
}

impl Entries {
    fn new(operations: &[(&Operation, Action)]) -> Self {
        let mut timed = Vec::new();
        for (place, (operation, _)) in operations.iter().enumerate() {
            timed.push((operation.invoked, false, place));
            timed.push((operation.completed.unwrap_or(u64::MAX), true, place));
        }
        // At one moment beginnings come first: that allows more, never less.
        timed.sort_unstable();
        let mut entries = Self {
            all: vec![(usize::MAX, false)],
            next: (1..=timed.len() + 1).collect(),
            previous: (0..=timed.len() + 1)
                .map(|it: usize| it.saturating_sub(1))
                .collect(),
            begin: vec![0; operations.len()],
            end: vec![0; operations.len()],
        };
        for (_, is_end, place) in timed {
            let slot = if is_end {
                &mut entries.end
            } else {
                &mut entries.begin
            };
            slot[place] = entries.all.len();
            entries.all.push((place, is_end));
        }
        entries
    }

    fn take(&mut self, operation: usize) {
        for entry in [self.begin[operation], self.end[operation]] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    fn put_back(&mut self, operation: usize) {
        for entry in [self.end[operation], self.begin[operation]] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            self.next[previous] = entry;
            self.previous[next] = entry;
        }
    }
}

fn search(operations: &[(&Operation, Action)], steps: usize) -> Searched {
    let mut entries = Entries::new(operations);
    let mut done = vec![0_u64; operations.len() / 64 + 1];
    let mut value: Option<i64> = None;
    let mut visited: HashSet<(Vec<u64>, Option<i64>)> = HashSet::new();
    let mut path: Vec<(usize, Option<i64>)> = Vec::new();
    let mut stuck = 0;
    let mut entry = entries.next[0];
    for _ in 0..steps {
        let Some((place, is_end)) = entries.all.get(entry).copied() else {
            return Searched::Linearizable;
        };
        if !is_end {
            if let Some(after) = operations[place].1.after(value) {
                done[place / 64] |= 1 << (place % 64);
                if visited.insert((done.clone(), after)) {
                    path.push((place, value));
                    value = after;
                    entries.take(place);
                    entry = entries.next[0];
                    continue;
                }
                done[place / 64] &= !(1 << (place % 64));
            }
            entry = entries.next[entry];
            continue;
        }
        // Ends that nobody knows come last: all others are placed.
        if operations[place].0.completed.is_none() {
            return Searched::Linearizable;
        }
        stuck = stuck.max(entry);
        let Some((last, before)) = path.pop() else {
            return Searched::Stuck(entries.all[stuck].0);
        };
        value = before;
        done[last / 64] &= !(1 << (last % 64));
        entries.put_back(last);
        entry = entries.next[entries.begin[last]];
    }
    Searched::BoundHit
}

/// The operation that finds no place, what overlaps it, and the last three before.
fn evidence(operations: &[(&Operation, Action)], at: usize) -> Vec<String> {
    let stuck = operations[at].0;
    let end = stuck.completed.unwrap_or(u64::MAX);
    let mut before: Vec<&Operation> = Vec::new();
    let mut beside: Vec<&Operation> = Vec::new();
    for (operation, _) in operations.iter().filter(|it| it.0.invoked <= end) {
        match operation.completed {
            Some(completed) if completed < stuck.invoked => before.push(operation),
            _ if std::ptr::eq(*operation, stuck) => {}
            _ => beside.push(operation),
        }
    }
    before.sort_by_key(|it| it.completed);
    let last = before.iter().rev().take(3).rev();
    let mut lines: Vec<String> = last.map(|it| format!("before: {}", it.told())).collect();
    lines.extend(
        beside
            .iter()
            .map(|it| format!("at the same time: {}", it.told())),
    );
    lines.push(format!("has no place: {}", stuck.told()));
    lines
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::*;

    fn is_good(text: &str) -> bool {
        let verdict = check(&history(text), STEPS);
        assert!(verdict.unknown.is_empty(), "{verdict}");
        verdict.violations.is_empty()
    }

    #[test]
    fn one_after_the_other_is_linearizable_and_an_old_value_is_not() {
        let written = "0 invoke read [7 nil] / 0 ok read [7 nil] / 0 invoke write [7 1] / 0 ok write [7 1] / ";
        assert!(is_good(&format!(
            "{written} 1 invoke read [7 nil] / 1 ok read [7 1]"
        )));
        assert!(!is_good(&format!(
            "{written} 1 invoke read [7 nil] / 1 ok read [7 nil]"
        )));
        assert!(!is_good(&format!(
            "{written} 1 invoke read [7 nil] / 1 ok read [7 2]"
        )));
        assert!(is_good(&format!(
            "{written} 1 invoke read [8 nil] / 1 ok read [8 nil]"
        )));
    }

    #[test]
    fn overlapping_operations_may_come_in_either_order_but_only_one() {
        let both =
            "0 invoke write [1 1] / 1 invoke write [1 2] / 0 ok write [1 1] / 1 ok write [1 2] / ";
        let read = |value| format!("2 invoke read [1 nil] / 2 ok read [1 {value}] / ");
        assert!(is_good(&(both.to_owned() + &read(1))));
        assert!(is_good(&(both.to_owned() + &read(2))));
        assert!(!is_good(&(both.to_owned() + &read(1) + &read(2))));
    }

    #[test]
    fn an_unknown_end_may_come_late_or_never_and_a_failed_write_must_not() {
        let begun = "0 invoke write [1 1] / 0 info write [1 1] / ";
        let read = |value: &str| format!("2 invoke read [1 nil] / 2 ok read [1 {value}] / ");
        assert!(is_good(&(begun.to_owned() + &read("nil") + &read("1"))));
        assert!(is_good(&(begun.to_owned() + &read("nil"))));
        assert!(!is_good(&(begun.to_owned() + &read("1") + &read("nil"))));
        let failed = "0 invoke write [1 1] / 0 fail write [1 1] / ";
        assert!(!is_good(&(failed.to_owned() + &read("1"))));
    }

    #[test]
    fn compare_and_set_needs_what_it_expects() {
        let written = "0 invoke write [1 1] / 0 ok write [1 1] / ";
        let swap =
            |old, new| format!("1 invoke cas [1 [{old} {new}]] / 1 ok cas [1 [{old} {new}]] / ");
        assert!(is_good(&(written.to_owned() + &swap(1, 2) + &swap(2, 3))));
        assert!(!is_good(&(written.to_owned() + &swap(1, 2) + &swap(1, 3))));
    }

    #[test]
    fn a_search_that_is_cut_short_is_not_proven() {
        let all: String = (0..12)
            .map(|n| format!("{n} invoke write [1 {n}] / {n} info write [1 {n}] / "))
            .collect();
        let text = all + "99 invoke read [1 nil] / 99 ok read [1 77]";
        let verdict = check(&history(&text), 1000);
        assert!(
            !verdict.is_good() && verdict.violations.is_empty(),
            "{verdict}"
        );
    }
}
