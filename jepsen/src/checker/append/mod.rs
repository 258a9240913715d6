//! List-append, judged as Elle does: the longest read of each list gives the order of its elements, the
//! orders give edges between transactions, and a cycle is an anomaly. What a level forbids:
//!
//! | level | forbidden |
//! |---|---|
//! | read committed | G0, G1a, G1b, G1c, dirty update, incompatible order, lost writes |
//! | repeatable read | also G-single, G-nonadjacent, lost update; not G2 (write skew): it is snapshot isolation |
//! | serializable | also G2 |
//!
//! each also with real time: all clients write on one primary, and an acknowledged transaction is
//! seen by every one that begins later. Source: Kingsbury and Alvaro, Elle (VLDB 2020); Adya 1999.

mod cycle;
mod graph;
mod order;
mod transaction;

use crate::history::Operation;
use crate::workload::Isolation;

use self::cycle::{Cycle, Shape};
use self::graph::{Because, Graph};
use self::order::Repeat;
use self::transaction::Transaction;
use super::verdict::{Finding, Verdict};

/// Steps of the search for each shape of cycle.
const STEPS: usize = 30_000_000;
/// And where a cycle may be and is only told.
const STEPS_OF_ALLOWED: usize = 1_000_000;

/// Checks a history at one level.
pub fn check(operations: &[Operation], isolation: Isolation) -> Verdict {
    let (all, unreadable) = transaction::transactions(operations);
    let ok = all.iter().filter(|it| it.is_ok()).count();
    let looked_at = format!("{ok} of {} transactions took effect", all.len());
    let mut verdict = Verdict::new(&format!("append at {}", isolation.word()), looked_at);
    verdict.unknown = unreadable;
    let writers = transaction::writers(&all);
    let (orders, incompatible) = order::orders(&all);
    let repeat = match isolation {
        Isolation::ReadCommitted => Repeat::Newer,
        Isolation::RepeatableRead | Isolation::Serializable => Repeat::Same,
    };
    verdict.violations = incompatible;
    verdict
        .violations
        .extend(order::wrong_reads(&all, &writers));
    verdict.violations.extend(order::inconsistent(&all, repeat));
    verdict.violations.extend(order::lost(&all));
    let updates = order::lost_updates(&all);
    match repeat {
        Repeat::Same => verdict.violations.extend(updates),
        Repeat::Newer => verdict.allowed.extend(updates),
    }
    let graph = Graph::new(&all, &orders, &writers);
    let (forbidden, allowed) = shapes(isolation);
    for shape in forbidden {
        let cycles = cycle::search(&graph, *shape, STEPS);
        if !cycles.is_complete {
            verdict
                .unknown
                .push(format!("{STEPS} steps were not enough for {shape:?}"));
        }
        let found = cycles.found.iter();
        let told = found.map(|(name, cycle)| told(name, cycle, &all, &graph));
        add_new(&mut verdict.violations, told);
    }
    for shape in allowed {
        let cycles = cycle::search(&graph, *shape, STEPS_OF_ALLOWED);
        let is_new = |name: &String| verdict.violations.iter().all(|it| it.anomaly != *name);
        let found = cycles.found.iter().filter(|(name, _)| is_new(name));
        let told = found.map(|(name, cycle)| told(name, cycle, &all, &graph));
        add_new(&mut verdict.allowed, told.collect::<Vec<_>>());
    }
    verdict
}

/// Shapes that a level forbids, and those that it allows.
fn shapes(isolation: Isolation) -> (&'static [Shape], &'static [Shape]) {
    const ALL: &[Shape] = &[
        cycle::G0,
        cycle::G1C,
        cycle::G_SINGLE,
        cycle::G_NONADJACENT,
        cycle::G2,
    ];
    ALL.split_at(match isolation {
        Isolation::ReadCommitted => 2,
        Isolation::RepeatableRead => 4,
        Isolation::Serializable => 5,
    })
}

/// One of each name.
fn add_new(held: &mut Vec<Finding>, found: impl IntoIterator<Item = Finding>) {
    for finding in found {
        if held.iter().all(|it| it.anomaly != finding.anomaly) {
            held.push(finding);
        }
    }
}

/// A cycle in words: each transaction once, and why it comes before the next.
fn told(name: &str, cycle: &Cycle, all: &[Transaction], graph: &Graph) -> Finding {
    let steps: Vec<_> = cycle
        .iter()
        .filter(|(node, _)| *node < graph.transactions)
        .collect();
    let number = |node: usize| steps.iter().position(|(it, _)| *it == node).unwrap_or(0) + 1;
    let mut lines = Vec::new();
    for (place, (node, _)) in steps.iter().enumerate() {
        lines.push(format!("T{}: {}", place + 1, all[*node].operation.told()));
    }
    for (place, (node, edge)) in steps.iter().enumerate() {
        let next = number(steps[(place + 1) % steps.len()].0);
        let (key, element) = edge.seen_in;
        let why = match edge.because {
            Because::Ww => format!("T{next} appended {element} to list {key} right after it"),
            Because::Wr => format!("T{next} read its {element} in list {key}"),
            Because::Rw => {
                format!("it did not see {element} in list {key}, which T{next} appended")
            }
            Because::Rt => format!("it was over when T{next} began"),
        };
        let (word, from) = (edge.because.word(), number(*node));
        lines.push(format!("T{from} before T{next} ({word}): {why}"));
    }
    Finding::new(name, lines)
}

#[cfg(test)]
mod tests;
