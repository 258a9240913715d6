//! Transactions of the list-append workload, as the checker needs them.

use std::collections::HashMap;

use crate::history::{Edn, Kind, Operation};

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An element is put at the end of a list.
    Append {
        /// Which list.
        key: i64,
        /// What.
        element: i64,
    },
    /// A list is read; in a transaction that is not known to have ended, nothing is known of it.
    Read {
        /// Which list.
        key: i64,
        /// What it was.
        list: Option<Vec<i64>>,
    },
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Transaction<'a> {
    /// What was recorded.
    pub operation: &'a Operation,
    /// In order.
    pub steps: Vec<Step>,
}

impl Transaction<'_> {
    /// Whether it is known to have taken effect.
    pub fn is_ok(&self) -> bool {
        self.operation.kind == Kind::Ok
    }

    /// What it appended to a list, in order.
    pub fn appended(&self, list: i64) -> impl Iterator<Item = i64> + '_ {
        self.steps.iter().filter_map(move |step| match step {
            Step::Append { key, element } if *key == list => Some(*element),
            _ => None,
        })
    }

    /// Its reads.
    pub fn reads(&self) -> impl Iterator<Item = (i64, &[i64])> {
        self.steps.iter().filter_map(|step| match step {
            Step::Read {
                key,
                list: Some(list),
            } => Some((*key, list.as_slice())),
            _ => None,
        })
    }

    /// Reads of lists to which it had appended nothing before: these show what others did.
    pub fn outer_reads(&self) -> Vec<(i64, &[i64])> {
        let mut found = Vec::new();
        let mut own: Vec<i64> = Vec::new();
        for step in &self.steps {
            match step {
                Step::Append { key, .. } => own.push(*key),
                Step::Read {
                    key,
                    list: Some(list),
                } if !own.contains(key) => found.push((*key, list.as_slice())),
                Step::Read { .. } => {}
            }
        }
        found
    }
}

/// All transactions, and who wrote which element of which list. Unreadable ones are given back as text:
/// a history with one of them proves nothing.
pub fn transactions(operations: &[Operation]) -> (Vec<Transaction<'_>>, Vec<String>) {
    let (mut all, mut unreadable) = (Vec::new(), Vec::new());
    for operation in operations.iter().filter(|it| it.f == "txn") {
        let steps = operation.value.elements();
        match steps.and_then(|steps| steps.iter().map(step).collect()) {
            Some(steps) => all.push(Transaction { operation, steps }),
            None => unreadable.push(format!("unreadable: {}", operation.told())),
        }
    }
    (all, unreadable)
}

fn step(value: &Edn) -> Option<Step> {
    let [f, key, value] = value.elements()? else {
        return None;
    };
    let key = key.integer()?;
    match (f.word()?, value) {
        ("append", element) => Some(Step::Append {
            key,
            element: element.integer()?,
        }),
        ("r", Edn::Nil) => Some(Step::Read { key, list: None }),
        ("r", list) => Some(Step::Read {
            key,
            list: Some(list.numbers()?),
        }),
        _ => None,
    }
}

/// Who appended an element to a list.
pub type Writers = HashMap<(i64, i64), usize>;

/// Writers by list and element.
pub fn writers(all: &[Transaction]) -> Writers {
    let mut writers = Writers::new();
    for (place, transaction) in all.iter().enumerate() {
        for step in &transaction.steps {
            if let Step::Append { key, element } = step {
                writers.insert((*key, *element), place);
            }
        }
    }
    writers
}
