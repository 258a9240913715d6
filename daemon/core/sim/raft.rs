//! An abstract Raft with openraft's habits: durable ballots (term, node), logs that a later leader
//! overwrites, a leader that stays one for itself while isolated, and one that resumes its term
//! after a restart.
//!
//! Not message by message: an append to a follower is one step. The lease path, where order within
//! a round matters, is messages in `world.rs`.

use std::rc::Rc;

use cluster_core::change::command::COMMAND_VERSION;
use cluster_core::change::{Applied, Command, Rejected, Stamp, invariants};
use cluster_core::model::lease::LeaderVote;
use cluster_core::model::{ClusterState, NodeId};

use crate::mistakes::{Mutant, apply_as};
use crate::network::Micros;
use crate::world::World;

/// One log entry, wherever it lies.
#[derive(Clone, Debug)]
pub struct Entry {
    pub vote: LeaderVote,
    pub stamp: Rc<Stamp>,
}

/// One member's part in Raft.
#[derive(Clone, Debug, Default)]
pub struct RaftNode {
    /// Durable: the highest vote granted or obeyed.
    pub ballot: Option<LeaderVote>,
    /// Durable: places in the arena.
    pub log: Vec<u32>,
    /// Wiped: belongs to nobody until it was added again.
    pub is_wiped: bool,
    pub leading: Option<LeaderVote>,
    pub committed: usize,
    pub applied: usize,
    pub leader: Option<usize>,
    pub last_heard: Micros,
    pub patience: Micros,
    pub quorum_at: Micros,
    pub next_beat: Micros,
    /// Place in the arena of the entry that makes this leader ready.
    pub noop: Option<u32>,
    pub highest_term: u64,
}

/// The log as it was committed, and the truth after every entry.
#[derive(Debug, Default)]
pub struct Truth {
    pub arena: Vec<Entry>,
    pub committed: Vec<u32>,
    /// `states[n]` is the truth after `n` entries.
    pub states: Vec<Rc<ClusterState>>,
    pub outcomes: Vec<Result<Applied, Rejected>>,
    /// A second copy, applied on its own: property S1.
    pub shadow: ClusterState,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
}

impl Truth {
    pub fn newest(&self) -> &Rc<ClusterState> {
        self.states
            .last()
            .expect("the state before the first entry is always there")
    }

    pub fn new_entry(&mut self, vote: LeaderVote, command: Command) -> u32 {
        let stamp = Stamp {
            version: COMMAND_VERSION,
            at_unix_ms: 0,
            command,
        };
        self.arena.push(Entry {
            vote,
            stamp: Rc::new(stamp),
        });
        (self.arena.len() - 1) as u32
    }

    /// Applies one more committed entry. Returns what is broken.
    fn commit(&mut self, place: u32, mutant: Mutant) -> Vec<String> {
        let index = self.committed.len() as u64 + 1;
        let stamp = Rc::clone(&self.arena[place as usize].stamp);
        let mut next = ClusterState::clone(self.newest());
        let outcome = apply_as(mutant, &mut next, index, &stamp);
        let again = apply_as(mutant, &mut self.shadow, index, &stamp);
        let mut broken: Vec<String> = invariants::check(&next)
            .into_iter()
            .map(|text| format!("S2 S9: {text}"))
            .collect();
        if again != outcome || self.shadow != next {
            broken.push(format!("S1: apply gave two answers at index {index}"));
        }
        if outcome.is_err() && next != **self.newest() {
            broken.push(format!(
                "S1: a rejected command changed the truth at index {index}"
            ));
        }
        self.committed.push(place);
        self.states.push(Rc::new(next));
        self.outcomes.push(outcome);
        broken
    }
}

impl World {
    pub fn is_voter(&self, node: usize) -> bool {
        self.truth.voters.contains(&self.nodes[node].id) && !self.nodes[node].raft.is_wiped
    }

    fn is_majority(&self, nodes: &[usize]) -> bool {
        let votes = nodes.iter().filter(|node| self.is_voter(**node)).count();
        votes * 2 > self.truth.voters.len()
    }

    /// A count of acknowledgements, as bits, is a majority of the voters.
    pub fn is_majority_mask(&self, mask: u32) -> bool {
        let nodes: Vec<usize> = (0..self.nodes.len())
            .filter(|n| mask & (1 << n) != 0)
            .collect();
        self.is_majority(&nodes)
    }

    fn obey(&mut self, node: usize, vote: LeaderVote) {
        let raft = &mut self.nodes[node].raft;
        raft.ballot = Some(vote);
        raft.highest_term = raft.highest_term.max(vote.term);
        if raft.leading.is_some_and(|own| own != vote) {
            raft.leading = None;
            self.nodes[node].lead.granter.follow();
        }
    }

    /// A follower that has not heard a leader for long enough campaigns.
    pub fn mind_election(&mut self, node: usize) {
        let raft = &self.nodes[node].raft;
        if raft.leading.is_some() || !self.is_voter(node) {
            return;
        }
        if self.now.saturating_sub(raft.last_heard) > raft.patience {
            self.campaign(node);
        }
    }

    pub fn campaign(&mut self, node: usize) {
        if !self.is_voter(node) {
            return;
        }
        let times = self.state_of(node).settings.times();
        let (least, most) = (
            times.election_min.as_micros(),
            times.election_max.as_micros(),
        );
        let patience = self.random.between(least as u64, most as u64);
        let raft = &mut self.nodes[node].raft;
        raft.patience = patience;
        raft.last_heard = self.now;
        raft.leading = None;
        raft.highest_term += 1;
        let vote = LeaderVote {
            term: raft.highest_term,
            node: self.nodes[node].id.0,
        };
        self.nodes[node].raft.ballot = Some(vote);
        let mine = self.last_log(node);
        let mut votes = vec![node];
        for other in 0..self.nodes.len() {
            let is_reached = other != node
                && self.is_voter(other)
                && self.network.is_up(node, other)
                && self.answers(other);
            if !is_reached {
                continue;
            }
            let is_better = self.last_log(other) > mine;
            let ballot = self.nodes[other].raft.ballot;
            if ballot < Some(vote) && !is_better {
                self.obey(other, vote);
                self.nodes[other].raft.last_heard = self.now;
                if self.network.is_up(other, node) {
                    votes.push(other);
                }
            } else if is_better && self.nodes[other].raft.leading.is_some() && ballot < Some(vote) {
                // A leader that meets a higher vote steps down, also when it does not vote for it.
                self.nodes[other].raft.leading = None;
                self.nodes[other].lead.granter.follow();
            }
            let term = self.nodes[other].raft.highest_term.max(vote.term);
            self.nodes[other].raft.highest_term = term;
            if self.network.is_up(other, node) {
                let raft = &mut self.nodes[node].raft;
                raft.highest_term = raft.highest_term.max(term);
            }
        }
        if self.is_majority(&votes) {
            self.become_leader(node, vote);
        }
    }

    fn last_log(&self, node: usize) -> (Option<LeaderVote>, usize) {
        let log = &self.nodes[node].raft.log;
        (
            log.last()
                .map(|place| self.truth.arena[*place as usize].vote),
            log.len(),
        )
    }

    /// Leads under `vote` from now on, by election or by resuming after a restart.
    pub fn become_leader(&mut self, node: usize, vote: LeaderVote) {
        let noop = Command::Noop {
            by: self.nodes[node].id,
            start: String::new(),
        };
        let place = self.truth.new_entry(vote, noop);
        let lease = self.state_of(node).longest_lease();
        let now = self.local(node);
        let raft = &mut self.nodes[node].raft;
        raft.leading = Some(vote);
        raft.leader = Some(node);
        raft.log.push(place);
        raft.noop = Some(place);
        raft.quorum_at = self.now;
        raft.next_beat = self.now;
        let lead = &mut self.nodes[node].lead;
        lead.forget();
        lead.granter.pass(now, crate::world::TICK);
        if !self.mutant.new_leader_does_not_wait() {
            lead.granter.lead(vote, lease);
        } else {
            lead.granter.lead(vote, std::time::Duration::ZERO);
        }
        let stamp = lead.granter.stamp();
        lead.led_since = stamp;
        self.coverage.count("world", "election won");
        self.say(node, || format!("leads term {}", vote.term));
    }

    /// Appends at the leader; it commits when a quorum has it. Returns its place.
    pub fn propose(&mut self, node: usize, command: Command) -> Option<u32> {
        let vote = self.nodes[node].raft.leading?;
        let place = self.truth.new_entry(vote, command);
        self.nodes[node].raft.log.push(place);
        self.nodes[node].raft.next_beat = self.now;
        Some(place)
    }

    /// One heartbeat: append to everybody reachable, commit what a quorum has.
    pub fn beat(&mut self, node: usize) {
        let Some(vote) = self.nodes[node].raft.leading else {
            return;
        };
        let times = self.state_of(node).settings.times();
        self.nodes[node].raft.next_beat = self.now + times.heartbeat.as_micros() as u64;
        let quiet = self.now.saturating_sub(self.nodes[node].raft.quorum_at);
        if quiet > 2 * times.election_max.as_micros() as u64 && !self.random.chance(30) {
            return;
        }
        let mut acknowledged = vec![node];
        for other in 0..self.nodes.len() {
            if other == node || !self.network.is_up(node, other) || !self.answers(other) {
                continue;
            }
            if self.nodes[other].raft.is_wiped && !self.is_known_learner(other) {
                continue;
            }
            if self.nodes[other].raft.ballot > Some(vote) {
                if self.network.is_up(other, node) {
                    self.nodes[node].raft.leading = None;
                    self.nodes[node].lead.granter.follow();
                    let term = self.nodes[other].raft.highest_term;
                    let raft = &mut self.nodes[node].raft;
                    raft.highest_term = raft.highest_term.max(term);
                    return;
                }
                continue;
            }
            self.append(node, other, vote);
            if self.network.is_up(other, node) {
                acknowledged.push(other);
            }
        }
        if self.is_majority(&acknowledged) {
            self.nodes[node].raft.quorum_at = self.now;
            self.commit_all(node);
        }
    }

    /// A wiped store has no id; only the one it gets anew lets it in.
    fn is_known_learner(&self, node: usize) -> bool {
        self.truth.learners.contains(&self.nodes[node].id)
    }

    fn append(&mut self, leader: usize, other: usize, vote: LeaderVote) {
        self.obey(other, vote);
        let committed = self.nodes[leader].raft.committed;
        let (from, to) = pair(&mut self.nodes, leader, other);
        let keep = from
            .raft
            .log
            .iter()
            .zip(&to.raft.log)
            .take_while(|(a, b)| a == b)
            .count();
        if keep < from.raft.log.len() {
            to.raft.log.truncate(keep);
            to.raft.log.extend_from_slice(&from.raft.log[keep..]);
        } else {
            to.raft.log.truncate(keep);
        }
        to.raft.is_wiped = false;
        to.raft.last_heard = self.now;
        to.raft.leader = Some(leader);
        to.raft.committed = to.raft.committed.max(committed);
        if to.mind.current_from.is_none() {
            to.mind.current_from = Some(committed);
        }
    }

    fn commit_all(&mut self, node: usize) {
        let log = self.nodes[node].raft.log.clone();
        let known = self.truth.committed.len().min(log.len());
        if log[..known] != self.truth.committed[..known] || log.len() < self.truth.committed.len() {
            self.violated("S1: a leader lacks a committed entry");
            return;
        }
        for place in &log[known..] {
            for broken in self.truth.commit(*place, self.mutant) {
                self.violated(&broken);
            }
            self.committed_one(*place);
        }
        self.nodes[node].raft.committed = log.len();
    }
}

/// Two different items, both to be changed.
pub fn pair<T>(items: &mut [T], left: usize, right: usize) -> (&mut T, &mut T) {
    if left < right {
        let (head, tail) = items.split_at_mut(right);
        (&mut head[left], &mut tail[0])
    } else {
        let (head, tail) = items.split_at_mut(left);
        (&mut tail[0], &mut head[right])
    }
}
