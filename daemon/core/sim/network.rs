//! Links between members: up or cut in each direction, slow or lossy; and what travels on them.

use cluster_core::change::Command;
use cluster_core::model::lease::{LeaderVote, Moment};
use cluster_core::model::{Epoch, MemberReport, RuleId};
use std::time::Duration;

use crate::random::Random;

/// Real time of the simulated world, in microseconds. No member can read it.
pub type Micros = u64;

/// One millisecond.
pub const MS: Micros = 1000;
/// One second.
pub const SECOND: Micros = 1_000_000;

/// What one daemon sends another. Raft's log travels in `raft.rs`; the lease path is messages.
#[derive(Clone, Debug)]
pub enum Message {
    /// The holder's daemon asks for a renewal; `start` names its process.
    Renew {
        from: usize,
        start: u32,
        epoch: Epoch,
        sent: Moment,
    },
    /// A leader's confirmation round.
    Round {
        from: usize,
        vote: LeaderVote,
        round: u64,
    },
    /// A voter's answer to it.
    RoundAck {
        from: usize,
        vote: LeaderVote,
        round: u64,
    },
    /// Confirmed.
    Renewed {
        start: u32,
        epoch: Epoch,
        sent: Moment,
        lease: Duration,
        newest: RuleId,
    },
    /// Refused: the epoch does not stand any more.
    Refused { start: u32, epoch: Epoch },
    /// A member's report.
    Report {
        from: usize,
        report: Box<MemberReport>,
    },
    /// A command a member wants recorded.
    Tell { command: Box<Command> },
    /// The leader asks this member to campaign.
    Elect,
}

/// The state of every link.
#[derive(Clone, Debug)]
pub struct Network {
    count: usize,
    cut: Vec<bool>,
    /// Longest one-way delay.
    pub slowest: Micros,
    /// Messages lost, per mille.
    pub loss: u64,
}

/// One way on a healthy network: at most half a heartbeat of `fast`.
const HEALTHY: Micros = 8 * MS;

impl Network {
    pub fn new(count: usize) -> Network {
        Network {
            count,
            cut: vec![false; count * count],
            slowest: HEALTHY,
            loss: 0,
        }
    }

    pub fn is_up(&self, from: usize, to: usize) -> bool {
        !self.cut[from * self.count + to]
    }

    pub fn both_ways(&self, left: usize, right: usize) -> bool {
        self.is_up(left, right) && self.is_up(right, left)
    }

    pub fn set(&mut self, from: usize, to: usize, is_up: bool) {
        if from != to {
            self.cut[from * self.count + to] = !is_up;
        }
    }

    /// Cuts every link between members of different groups.
    pub fn split(&mut self, group_of: &[u8]) {
        for from in 0..self.count {
            for to in 0..self.count {
                if group_of[from] != group_of[to] {
                    self.set(from, to, false);
                }
            }
        }
    }

    /// Every link works well again.
    pub fn heal(&mut self) {
        self.cut.iter_mut().for_each(|cut| *cut = false);
        self.slowest = HEALTHY;
        self.loss = 0;
    }

    /// How long this message takes; none when it is lost.
    pub fn delay(&self, random: &mut Random, from: usize, to: usize) -> Option<Micros> {
        if from == to {
            return Some(random.between(20, 200));
        }
        if !self.is_up(from, to) || random.chance(self.loss) {
            return None;
        }
        Some(random.between(100, self.slowest))
    }
}
