//! What lists say without any graph: in which order elements came, and reads that no order explains.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::transaction::{Step, Transaction, Writers};
use crate::checker::verdict::Finding;
use crate::history::Kind;

/// Elements of each list in the order they came, from its longest read.
pub type Orders = BTreeMap<i64, Vec<i64>>;

/// Orders, and reads of one list of which neither continues the other.
pub fn orders(all: &[Transaction]) -> (Orders, Vec<Finding>) {
    let mut longest: BTreeMap<i64, (&[i64], usize)> = BTreeMap::new();
    for (place, transaction) in all.iter().enumerate() {
        for (key, list) in transaction.reads() {
            let held = longest.entry(key).or_insert((list, place));
            if list.len() > held.0.len() {
                *held = (list, place);
            }
        }
    }
    let mut found = Vec::new();
    for transaction in all {
        for (key, list) in transaction.reads() {
            let (whole, by) = longest[&key];
            if !whole.starts_with(list) {
                let evidence = [transaction.operation.told(), all[by].operation.told()];
                found.push(named(
                    &format!("incompatible-order of list {key}"),
                    evidence,
                ));
            }
        }
    }
    let orders = longest.into_iter();
    let orders = orders.map(|(key, (list, _))| (key, list.to_vec()));
    (orders.collect(), shortest(found))
}

/// Elements that were read and should not have been: of transactions that failed (G1a), from the middle
/// of one (G1b), of nobody, and twice; and an element of one that succeeded put after one of one that failed.
pub fn wrong_reads(all: &[Transaction], writers: &Writers) -> Vec<Finding> {
    let mut found = Vec::new();
    for (reader, transaction) in all.iter().enumerate() {
        for (key, list) in transaction.reads() {
            let told = || transaction.operation.told();
            let mut seen = HashSet::new();
            if let Some(twice) = list.iter().find(|it| !seen.insert(**it)) {
                found.push(named(
                    &format!("element {twice} of list {key} twice"),
                    [told()],
                ));
            }
            let mut dirty = None;
            for element in list {
                let Some(writer) = writers.get(&(key, *element)) else {
                    let name = format!("element {element} of list {key} that nobody appended");
                    found.push(named(&name, [told()]));
                    continue;
                };
                let by = &all[*writer];
                match (by.operation.kind, dirty) {
                    (Kind::Fail, _) => {
                        found.push(named("G1a aborted-read", [by.operation.told(), told()]));
                        dirty = Some(by);
                    }
                    (Kind::Ok, Some(failed)) => {
                        let evidence = [failed.operation.told(), by.operation.told(), told()];
                        found.push(named("dirty-update", evidence));
                    }
                    _ => {}
                }
            }
            let last = list
                .last()
                .and_then(|it| Some((it, writers.get(&(key, *it))?)));
            if let Some((element, writer)) = last.filter(|(_, writer)| **writer != reader)
                && all[*writer].appended(key).last() != Some(*element)
            {
                let evidence = [all[*writer].operation.told(), told()];
                found.push(named("G1b intermediate-read", evidence));
            }
        }
    }
    shortest(found)
}

/// Transactions that contradict themselves: a list read again after one's own appends must end with
/// them; where reads repeat it must be what was read before, and them.
pub fn inconsistent(all: &[Transaction], reads_repeat: Repeat) -> Vec<Finding> {
    let mut found = Vec::new();
    for transaction in all.iter().filter(|it| it.is_ok()) {
        let mut read: HashMap<i64, Vec<i64>> = HashMap::new();
        let mut own: HashMap<i64, Vec<i64>> = HashMap::new();
        for step in &transaction.steps {
            match step {
                Step::Append { key, element } => {
                    own.entry(*key).or_default().push(*element);
                    if let Some(list) = read.get_mut(key) {
                        list.push(*element);
                    }
                }
                Step::Read {
                    key,
                    list: Some(list),
                } => {
                    let is_own = own.get(key).is_none_or(|own| list.ends_with(own));
                    let before = read.insert(*key, list.clone());
                    let is_same = before.is_none_or(|before| before == *list);
                    if !is_own || reads_repeat == Repeat::Same && !is_same {
                        found.push(named("internal", [transaction.operation.told()]));
                    }
                }
                Step::Read { .. } => {}
            }
        }
    }
    shortest(found)
}

/// What a list that is read twice in a transaction shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The same, whatever others did meanwhile.
    Same,
    /// What others did meanwhile.
    Newer,
}

/// Elements acknowledged before a read began that the read does not show.
pub fn lost(all: &[Transaction]) -> Vec<Finding> {
    let mut acknowledged: HashMap<i64, Vec<(u64, i64, usize)>> = HashMap::new();
    for (place, transaction) in all.iter().enumerate().filter(|(_, it)| it.is_ok()) {
        let Some(completed) = transaction.operation.completed else {
            continue;
        };
        for step in &transaction.steps {
            if let Step::Append { key, element } = step {
                let list = acknowledged.entry(*key).or_default();
                list.push((completed, *element, place));
            }
        }
    }
    let mut found = Vec::new();
    for transaction in all {
        for (key, list) in transaction.reads() {
            let present: HashSet<&i64> = list.iter().collect();
            let before = acknowledged.get(&key).into_iter().flatten();
            let missing = before
                .filter(|(completed, ..)| *completed < transaction.operation.invoked)
                .find(|(_, element, _)| !present.contains(element));
            if let Some((_, element, writer)) = missing {
                let evidence = [all[*writer].operation.told(), transaction.operation.told()];
                found.push(named(
                    &format!("lost-write {element} of list {key}"),
                    evidence,
                ));
            }
        }
    }
    shortest(found)
}

/// Two transactions that succeeded, read the same list and both appended to it without seeing the other.
pub fn lost_updates(all: &[Transaction]) -> Vec<Finding> {
    let mut readers: HashMap<(i64, usize), usize> = HashMap::new();
    let mut found = Vec::new();
    for (place, transaction) in all.iter().enumerate().filter(|(_, it)| it.is_ok()) {
        let mut read = HashSet::new();
        for (key, list) in transaction.outer_reads() {
            if !read.insert(key) || transaction.appended(key).next().is_none() {
                continue;
            }
            if let Some(other) = readers.insert((key, list.len()), place) {
                let evidence = [all[other].operation.told(), transaction.operation.told()];
                found.push(named(&format!("lost-update of list {key}"), evidence));
            }
        }
    }
    shortest(found)
}

fn named<const N: usize>(anomaly: &str, evidence: [String; N]) -> Finding {
    Finding::new(anomaly, evidence)
}

/// The shortest of each kind, with how many there are.
fn shortest(found: Vec<Finding>) -> Vec<Finding> {
    let mut kinds: BTreeMap<String, (usize, Finding)> = BTreeMap::new();
    let length = |it: &Finding| it.evidence.iter().map(String::len).sum::<usize>();
    for finding in found {
        let words = finding.anomaly.split(' ');
        let kind: String = words.filter(|it| it.parse::<i64>().is_err()).collect();
        match kinds.get_mut(&kind) {
            None => {
                kinds.insert(kind, (1, finding));
            }
            Some((count, held)) => {
                *count += 1;
                if length(&finding) < length(held) {
                    *held = finding;
                }
            }
        }
    }
    let told = |(count, mut finding): (usize, Finding)| {
        if count > 1 {
            finding.anomaly.push_str(&format!(", one of {count}"));
        }
        finding
    };
    kinds.into_values().map(told).collect()
}
