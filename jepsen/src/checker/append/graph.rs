//! What has to come before what: transactions as nodes, and four kinds of edges between them.

use super::order::Orders;
use super::transaction::{Transaction, Writers};
use crate::history::Kind;

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Because {
    /// It appended the element right before the other's.
    Ww,
    /// The other read what it appended.
    Wr,
    /// It read a list that the other's element was missing from.
    Rw,
    /// It was over before the other began.
    Rt,
}

impl Because {
    /// As in the literature.
    pub fn word(self) -> &'static str {
        match self {
            Because::Ww => "ww",
            Because::Wr => "wr",
            Because::Rw => "rw",
            Because::Rt => "real time",
        }
    }
}

/// An edge; list and element say where it is seen.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// The later one.
    pub to: usize,
    /// Why it is later.
    pub because: Because,
    /// List and element.
    pub seen_in: (i64, i64),
}

/// Edges from each node. The first nodes are the transactions; then come moments: one at the end of each
/// transaction, in a chain, so that real time needs few edges.
#[derive(Debug)]
pub struct Graph {
    /// By node.
    pub edges: Vec<Vec<Edge>>,
    /// How many of the nodes are transactions.
    pub transactions: usize,
}

impl Graph {
    /// Of all transactions that did, or may have, taken effect.
    pub fn new(all: &[Transaction], orders: &Orders, writers: &Writers) -> Self {
        let mut graph = Self {
            edges: vec![Vec::new(); all.len()],
            transactions: all.len(),
        };
        let writer = |key: i64, element: i64| {
            let found = writers.get(&(key, element)).copied();
            found.filter(|it| all[*it].operation.kind != Kind::Fail)
        };
        for (key, order) in orders {
            for pair in order.windows(2) {
                if let (Some(before), Some(after)) = (writer(*key, pair[0]), writer(*key, pair[1]))
                {
                    graph.add(before, after, Because::Ww, (*key, pair[1]));
                }
            }
        }
        for (reader, transaction) in all.iter().enumerate().filter(|(_, it)| it.is_ok()) {
            for (key, list) in transaction.outer_reads() {
                let order = orders.get(&key).map(Vec::as_slice).unwrap_or_default();
                if !order.starts_with(list) {
                    continue;
                }
                if let Some((element, by)) =
                    list.last().and_then(|it| Some((*it, writer(key, *it)?)))
                {
                    graph.add(by, reader, Because::Wr, (key, element));
                }
                if let Some((element, by)) = order
                    .get(list.len())
                    .and_then(|it| Some((*it, writer(key, *it)?)))
                {
                    graph.add(reader, by, Because::Rw, (key, element));
                }
            }
        }
        graph.add_real_time(all);
        graph
    }

    fn add(&mut self, from: usize, to: usize, because: Because, seen_in: (i64, i64)) {
        if from != to {
            self.edges[from].push(Edge {
                to,
                because,
                seen_in,
            });
        }
    }

    fn add_real_time(&mut self, all: &[Transaction]) {
        let ended = all.iter().enumerate().filter(|(_, it)| it.is_ok());
        let mut ends: Vec<(u64, usize)> = ended
            .filter_map(|(place, it)| Some((it.operation.completed?, place)))
            .collect();
        ends.sort_unstable();
        let first = self.edges.len();
        self.edges.resize_with(first + ends.len(), Vec::new);
        for (number, (_, place)) in ends.iter().enumerate() {
            self.add(*place, first + number, Because::Rt, (0, 0));
            if number > 0 {
                self.add(first + number - 1, first + number, Because::Rt, (0, 0));
            }
        }
        for (place, transaction) in all.iter().enumerate() {
            let begun = transaction.operation.invoked;
            let before = ends.partition_point(|(completed, _)| *completed < begun);
            if before > 0 {
                self.add(first + before - 1, place, Because::Rt, (0, 0));
            }
        }
    }
}
