//! Every state of the lease in small, breadth first: no member has a writable PostgreSQL while
//! another one holds the newest committed reign (stronger than "one writable primary").
//!
//! Source: DESIGN section 6. A counterexample found is the shortest there is within the bounds.

use std::hash::{Hash, Hasher};

use crate::lease_model::{Bounds, State, Step, Wrong};
use crate::lease_truth::Truths;

/// A set of fingerprints, open addressing: the search spends its time here.
struct Seen {
    slots: Vec<u64>,
    count: usize,
}

impl Seen {
    fn new() -> Seen {
        Seen {
            slots: vec![0; 1 << 16],
            count: 0,
        }
    }

    /// Whether it is new.
    fn insert(&mut self, print: u64) -> bool {
        if self.count * 2 > self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            self.slots = vec![0; old.len() * 2];
            for print in old.into_iter().filter(|print| *print != 0) {
                self.place(print);
            }
        }
        let is_new = self.place(print);
        self.count += usize::from(is_new);
        is_new
    }

    fn place(&mut self, print: u64) -> bool {
        let mask = self.slots.len() - 1;
        let mut at = print as usize & mask;
        while self.slots[at] != 0 {
            if self.slots[at] == print {
                return false;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = print;
        true
    }
}

/// What a search found.
struct Found {
    states: usize,
    edges: u64,
    depth: usize,
    is_complete: bool,
    counterexample: Option<Vec<Step>>,
}

/// Quick, and good enough: with ten million states the chance that any two share a fingerprint is
/// about one in a hundred thousand.
struct Fingerprint(u64);

impl Fingerprint {
    fn mix(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * u128::from(0x9E37_79B9_7F4A_7C15_u64);
        self.0 = (product >> 64) as u64 ^ product as u64 ^ value.rotate_left(29);
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value) + 0x100);
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value) + 0x1_0000_0000);
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn print_of(state: &State) -> u64 {
    let mut hasher = Fingerprint(0x517C_C1B7_2722_0A95);
    state.hash(&mut hasher);
    hasher.finish() | 1
}

fn search(bounds: &Bounds, wrong: Wrong, most: usize) -> Found {
    let mut truths = Truths::new(bounds.begins_short);
    let mut seen = Seen::new();
    let first = State::first(bounds, &truths);
    seen.insert(print_of(&first));
    // Per state met: the state before it and the step that led here.
    let mut came: Vec<(u32, Step)> = vec![(0, Step::Tick)];
    let mut frontier = vec![(0_u32, first)];
    let (mut edges, mut depth) = (0, 0);
    while !frontier.is_empty() && came.len() < most {
        depth += 1;
        let mut next = Vec::new();
        for (from, state) in frontier {
            for step in state.steps(bounds, &truths, wrong) {
                edges += 1;
                let after = state.after(step, bounds, &mut truths, wrong);
                if !seen.insert(print_of(&after)) {
                    continue;
                }
                came.push((from, step));
                let place = (came.len() - 1) as u32;
                if after.is_broken(&truths) {
                    let counterexample = Some(way(&came, place));
                    return Found {
                        states: came.len(),
                        edges,
                        depth,
                        is_complete: false,
                        counterexample,
                    };
                }
                next.push((place, after));
            }
        }
        frontier = next;
        if std::env::var("SIM_VERBOSE").is_ok() {
            println!(
                "depth {depth}: {} new, {} in all",
                frontier.len(),
                came.len()
            );
        }
    }
    Found {
        states: came.len(),
        edges,
        depth,
        is_complete: frontier.is_empty(),
        counterexample: None,
    }
}

fn way(came: &[(u32, Step)], mut place: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    while place != 0 {
        let (before, step) = came[place as usize];
        steps.push(step);
        place = before;
    }
    steps.reverse();
    steps
}

const SLOW_HOLDER: [bool; 3] = [false, true, true];

/// One leader, the witness's; the holder's clock is slow, all others are fast.
fn one_term() -> Bounds {
    let more = |name, least| limit(name).unwrap_or(least);
    Bounds {
        ticks: more("SIM_LEASE_TICKS", 4),
        terms: 1,
        epochs: 2,
        in_flight: usize::from(more("SIM_LEASE_FLIGHTS", 1)),
        restarts: 0,
        presets: 0,
        begins_short: false,
        releases: false,
        leader: 2,
        campaigns: [true; 3],
        fast: SLOW_HOLDER,
    }
}

/// The other member may become leader.
fn two_terms() -> Bounds {
    Bounds {
        terms: 2,
        campaigns: [false, true, false],
        ..one_term()
    }
}

/// The lease is short at first, one tick, and may become longer.
fn short(bounds: Bounds) -> Bounds {
    Bounds {
        begins_short: true,
        ticks: limit("SIM_LEASE_TICKS").unwrap_or(2),
        ..bounds
    }
}

/// Wider bounds for a long search at night.
fn limit(name: &str) -> Option<u8> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// So many states of a slice are looked at where nothing may be found; `SIM_LEASE_MOST` for more.
const MOST: usize = 300_000;

/// Every mutant is found within so many.
const MOST_OF_A_MUTANT: usize = 6_000_000;

fn must_hold(name: &str, bounds: &Bounds) {
    let most = std::env::var("SIM_LEASE_MOST")
        .ok()
        .and_then(|text| text.parse().ok());
    let found = search(bounds, Wrong::Nothing, most.unwrap_or(MOST));
    let how_far = if found.is_complete {
        "complete"
    } else {
        "stopped: none to this depth"
    };
    println!(
        "{name}: {} states, {} steps, depth {}, {how_far}; {bounds:?}",
        found.states, found.edges, found.depth
    );
    if let Some(way) = found.counterexample {
        panic!("{name}: two primaries after {way:#?}");
    }
}

fn must_fail(wrong: Wrong, bounds: &Bounds) {
    let found = search(bounds, wrong, MOST_OF_A_MUTANT);
    let Some(way) = found.counterexample else {
        panic!("{wrong:?} survives {} states, {bounds:?}", found.states);
    };
    println!(
        "{wrong:?}: caught at depth {} of {} states: {way:?}",
        way.len(),
        found.states
    );
}

#[test]
fn the_lease_holds_for_every_mix_of_clocks() {
    for mix in 0..8 {
        let fast = [mix & 1 != 0, mix & 2 != 0, mix & 4 != 0];
        must_hold("clocks", &Bounds { fast, ..one_term() });
    }
}

#[test]
fn the_lease_holds_over_three_terms() {
    must_hold(
        "terms",
        &Bounds {
            terms: 3,
            ticks: 3,
            ..two_terms()
        },
    );
}

#[test]
fn the_lease_holds_whoever_campaigns() {
    must_hold(
        "anybody",
        &Bounds {
            campaigns: [true; 3],
            ticks: 3,
            ..two_terms()
        },
    );
}

#[test]
fn the_lease_holds_with_two_renewals_in_flight() {
    must_hold(
        "flights",
        &Bounds {
            in_flight: 2,
            ticks: 3,
            ..two_terms()
        },
    );
}

#[test]
fn the_lease_holds_with_restarts_in_the_same_term() {
    must_hold(
        "restarts",
        &Bounds {
            restarts: 2,
            ticks: 3,
            ..one_term()
        },
    );
}

#[test]
fn the_lease_holds_with_a_restart_and_an_election() {
    must_hold(
        "restart",
        &Bounds {
            restarts: 1,
            ticks: 3,
            ..two_terms()
        },
    );
}

#[test]
fn the_lease_holds_while_its_length_changes() {
    must_hold(
        "shorter",
        &Bounds {
            presets: 1,
            ticks: 3,
            ..one_term()
        },
    );
    must_hold(
        "longer",
        &short(Bounds {
            presets: 1,
            ..two_terms()
        }),
    );
}

#[test]
fn the_lease_holds_while_its_length_changes_over_a_restart() {
    must_hold(
        "longer",
        &short(Bounds {
            presets: 1,
            restarts: 1,
            ..one_term()
        }),
    );
}

#[test]
fn the_lease_holds_with_release_and_a_grant_to_the_same_member() {
    must_hold(
        "release",
        &Bounds {
            releases: true,
            epochs: 3,
            ticks: 3,
            ..one_term()
        },
    );
}

#[test]
fn a_lease_counted_from_the_reply_is_caught() {
    must_fail(Wrong::CountedFromTheReply, &one_term());
}

#[test]
fn a_leader_that_answers_without_a_quorum_is_caught() {
    must_fail(
        Wrong::AnswersWithoutQuorum,
        &Bounds {
            ticks: 3,
            ..two_terms()
        },
    );
}

#[test]
fn a_round_begun_before_the_request_is_caught() {
    must_fail(
        Wrong::RoundBegunBeforeTheRequest,
        &Bounds {
            ticks: 3,
            ..two_terms()
        },
    );
}

#[test]
fn a_new_leader_that_does_not_wait_is_caught() {
    must_fail(Wrong::NewLeaderDoesNotWait, &two_terms());
}

#[test]
fn a_restarted_leader_that_counts_from_zero_is_caught() {
    must_fail(
        Wrong::RestartedLeaderCountsFromZero,
        &Bounds {
            restarts: 1,
            ..one_term()
        },
    );
}

#[test]
fn a_wait_without_drift_is_caught() {
    must_fail(Wrong::WaitWithoutDrift, &one_term());
}

#[test]
fn a_guard_that_depends_on_the_daemon_is_caught() {
    must_fail(Wrong::GuardDependsOnTheDaemon, &one_term());
}

#[test]
fn a_lease_length_that_is_not_in_the_answer_is_caught() {
    must_fail(
        Wrong::LeaseLengthNotInTheAnswer,
        &Bounds {
            presets: 1,
            ..one_term()
        },
    );
}

/// Found while this was written: the wait of a leader that restarted counted the lease length it
/// had applied by then, not what an entry it had yet to apply again made of it.
#[test]
fn a_longer_lease_applied_only_after_the_restart_is_caught() {
    must_fail(
        Wrong::ReadyForgetsALongerLease,
        &short(Bounds {
            presets: 1,
            restarts: 1,
            ..one_term()
        }),
    );
}
