//! Cycles: transactions of which each has to come before itself. Which kinds of edges a cycle needs says
//! which anomaly it is (Adya 1999; names as Elle has them, with `-realtime` where it needs real time).

use std::collections::{BTreeMap, HashMap, VecDeque};

use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;

use super::graph::{Because, Edge, Graph};

/// A kind of cycle to look for: one edge of `begins`, and back over `goes_on`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    begins: Because,
    goes_on: &'static [Because],
    /// No two `Rw` next to each other.
    is_spaced: bool,
}

/// Cycles that only appends make.
pub const G0: Shape = Shape {
    begins: Because::Ww,
    goes_on: &[Because::Ww],
    is_spaced: false,
};
/// Cycles of appends and of reads of them.
pub const G1C: Shape = Shape {
    begins: Because::Wr,
    goes_on: &[Because::Ww, Because::Wr],
    is_spaced: false,
};
/// Cycles with one read of something older.
pub const G_SINGLE: Shape = Shape {
    begins: Because::Rw,
    goes_on: &[Because::Ww, Because::Wr],
    is_spaced: false,
};
/// Cycles with several reads of something older, never two in a row.
pub const G_NONADJACENT: Shape = Shape {
    begins: Because::Rw,
    goes_on: &[Because::Ww, Because::Wr, Because::Rw],
    is_spaced: true,
};
/// Cycles with any number of reads of something older: write skew.
pub const G2: Shape = Shape {
    begins: Because::Rw,
    goes_on: &[Because::Ww, Because::Wr, Because::Rw],
    is_spaced: false,
};

/// A cycle: nodes, each with the edge that leads on from it.
pub type Cycle = Vec<(usize, Edge)>;

/// What a search found: for each anomaly the shortest cycle, and whether all was looked at.
#[derive(Debug, Default)]
pub struct Cycles {
    /// By name.
    pub found: BTreeMap<String, Cycle>,
    /// The bound was not hit.
    pub is_complete: bool,
}

/// Looks for a shape, without real time and then with it, within so many steps.
pub fn search(graph: &Graph, shape: Shape, steps: usize) -> Cycles {
    let mut cycles = Cycles::default();
    let mut left = steps;
    for has_time in [false, true] {
        let is_used = |because: Because| {
            shape.begins == because
                || shape.goes_on.contains(&because)
                || has_time && because == Because::Rt
        };
        let component = components(graph, is_used);
        for (from, edges) in graph.edges.iter().enumerate() {
            let begins = edges.iter().filter(|edge| {
                edge.because == shape.begins && component[from] == component[edge.to]
            });
            for edge in begins {
                let inside = |it: &Edge| {
                    is_goes_on(shape, has_time, it) && component[it.to] == component[from]
                };
                let Some(back) = way(graph, (edge.to, from), shape, inside, &mut left) else {
                    continue;
                };
                let mut cycle = vec![(from, *edge)];
                cycle.extend(back);
                let length = |it: &Cycle| {
                    it.iter()
                        .filter(|(node, _)| *node < graph.transactions)
                        .count()
                };
                let held = cycles.found.get(&name(&cycle));
                if held.is_none_or(|held| length(&cycle) < length(held)) {
                    cycles.found.insert(name(&cycle), cycle);
                }
            }
        }
    }
    cycles.is_complete = left > 0;
    cycles
}

fn is_goes_on(shape: Shape, has_time: bool, edge: &Edge) -> bool {
    shape.goes_on.contains(&edge.because) || has_time && edge.because == Because::Rt
}

/// The number of the strongly connected component of each node.
fn components(graph: &Graph, is_used: impl Fn(Because) -> bool) -> Vec<usize> {
    let mut plain = DiGraph::<(), ()>::with_capacity(graph.edges.len(), graph.edges.len());
    let nodes: Vec<_> = graph.edges.iter().map(|_| plain.add_node(())).collect();
    for (from, edges) in graph.edges.iter().enumerate() {
        for edge in edges.iter().filter(|it| is_used(it.because)) {
            plain.add_edge(nodes[from], nodes[edge.to], ());
        }
    }
    let mut component = vec![0; graph.edges.len()];
    for (number, members) in tarjan_scc(&plain).into_iter().enumerate() {
        for member in members {
            component[member.index()] = number;
        }
    }
    component
}

/// The way between two nodes that has the fewest transactions; moments cost nothing. Where `Rw` must be spaced, the way begins and ends without one.
fn way(
    graph: &Graph,
    (from, to): (usize, usize),
    shape: Shape,
    is_inside: impl Fn(&Edge) -> bool,
    left: &mut usize,
) -> Option<Cycle> {
    let start = (from, true);
    let mut came: HashMap<(usize, bool), ((usize, bool), Edge)> = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        let (node, after_rw) = at;
        for edge in graph.edges[node].iter().filter(|it| is_inside(it)) {
            *left = left.checked_sub(1)?;
            let is_rw = edge.because == Because::Rw;
            if shape.is_spaced && is_rw && after_rw {
                continue;
            }
            let next = (edge.to, shape.is_spaced && is_rw);
            if edge.to == to && !(shape.is_spaced && is_rw) {
                let mut cycle = vec![(node, *edge)];
                let mut back = at;
                while back != start {
                    let (before, edge) = came[&back];
                    cycle.push((before.0, edge));
                    back = before;
                }
                cycle.reverse();
                return Some(cycle);
            }
            if next != start && !came.contains_key(&next) {
                came.insert(next, (at, *edge));
                match edge.to < graph.transactions {
                    true => queue.push_back(next),
                    false => queue.push_front(next),
                }
            }
        }
    }
    None
}

/// What a cycle is called, by the edges it has.
fn name(cycle: &Cycle) -> String {
    let kinds: Vec<Because> = cycle.iter().map(|(_, edge)| edge.because).collect();
    let reads = kinds.iter().filter(|it| **it == Because::Rw).count();
    let around = kinds.iter().zip(kinds.iter().cycle().skip(1));
    let is_adjacent = around
        .into_iter()
        .any(|pair| pair == (&Because::Rw, &Because::Rw));
    let name = match reads {
        0 if kinds.contains(&Because::Wr) => "G1c",
        0 => "G0",
        1 => "G-single",
        _ if is_adjacent => "G2-item",
        _ => "G-nonadjacent",
    };
    match kinds.contains(&Because::Rt) {
        true => format!("{name}-realtime"),
        false => name.to_owned(),
    }
}
