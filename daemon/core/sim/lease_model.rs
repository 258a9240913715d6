//! The lease in small: three voters (two members and a witness), discrete time, every step optional
//! and as late as it likes. State and steps; the search is in `lease_search.rs`.
//!
//! The arithmetic is the core's own: `Granter`, `Holder`, `apply`, with its own drift of 0.5 % and
//! the presets `lan` (two ticks long) and `fast` (one). Only the mutants change what they are given.

use std::time::Duration;

use cluster_core::model::lease::{
    DRIFT_PER_MILLE, GRANULARITY, Granter, Holder, LeaderVote, Moment,
};
use cluster_core::model::{Epoch, MemberName, Phase};

use crate::lease_truth::{Change, Truths};

/// Nodes 0 and 1 are members, 2 is the witness.
pub const NODES: usize = 3;
pub const MEMBERS: usize = 2;

/// One tick of real time: `lan` is two of them, and with drift a little more on one clock and a
/// little less on another.
const TICK_MS: u64 = 1500;

/// In so many ticks every lease is over on every clock.
const USEFUL_TICKS: u8 = 3;

/// What is made wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    CountedFromTheReply,
    AnswersWithoutQuorum,
    RoundBegunBeforeTheRequest,
    NewLeaderDoesNotWait,
    RestartedLeaderCountsFromZero,
    WaitWithoutDrift,
    GuardDependsOnTheDaemon,
    LeaseLengthNotInTheAnswer,
    ReadyForgetsALongerLease,
}

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub ticks: u8,
    pub terms: u8,
    pub epochs: u8,
    pub in_flight: usize,
    pub restarts: u8,
    pub presets: u8,
    /// The cluster begins with the short lease.
    pub begins_short: bool,
    pub releases: bool,
    /// Who leads at first.
    pub leader: usize,
    /// Who may campaign.
    pub campaigns: [bool; NODES],
    /// Whether each node's clock is the fast one.
    pub fast: [bool; NODES],
}

/// A renewal on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flight {
    Asked {
        member: u8,
        epoch: u8,
        sent: u8,
    },
    Round {
        member: u8,
        epoch: u8,
        sent: u8,
        leader: u8,
        vote: LeaderVote,
        acks: u8,
    },
    Answered {
        member: u8,
        epoch: u8,
        sent: u8,
        lease: Duration,
    },
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Voter {
    pub ballot: LeaderVote,
    pub leading: Option<LeaderVote>,
    pub applied: u8,
    pub noop: Option<u8>,
    pub granter: Granter,
    /// Who acknowledged a heartbeat of the first leader before all this: only a mutant looks.
    pub acked: u8,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub holder: Holder,
    pub used: u8,
    /// PostgreSQL out of recovery: epoch and the guard's deadline.
    pub writable: Option<(u8, Moment)>,
    pub releasing: Option<u8>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub tick: u8,
    pub voters: [Voter; NODES],
    pub servers: [Server; MEMBERS],
    pub flights: Vec<Flight>,
    /// The truth after every committed entry.
    pub log: Vec<u16>,
    pub restarts: u8,
    pub presets: u8,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Tick,
    Send {
        member: u8,
    },
    Receive {
        flight: u8,
        leader: u8,
    },
    Acknowledge {
        flight: u8,
        voter: u8,
    },
    Confirm {
        flight: u8,
    },
    Answer {
        flight: u8,
    },
    Promote {
        member: u8,
    },
    Stop {
        member: u8,
    },
    Campaign {
        node: u8,
        with: u8,
    },
    Commit {
        leader: u8,
        with: u8,
        change: Change,
    },
    Apply {
        node: u8,
    },
    Restart {
        node: u8,
        back: u8,
    },
}

fn vote(term: u64, node: u64) -> LeaderVote {
    LeaderVote { term, node }
}

/// This node's clock at this tick.
pub fn clock(bounds: &Bounds, node: usize, tick: u8) -> Moment {
    let drift = u64::from(DRIFT_PER_MILLE);
    let rate = if bounds.fast[node] {
        1000 + drift
    } else {
        1000 - drift
    };
    Moment(Duration::from_micros(
        u64::from(tick) * TICK_MS * rate + 1_000_000_000,
    ))
}

/// The length for which the core's wait is `lease` and not more.
fn without_drift(lease: Duration) -> Duration {
    (lease - GRANULARITY) * (1000 - DRIFT_PER_MILLE) / (1000 + DRIFT_PER_MILLE)
}

impl State {
    /// One node leads and member 0 is primary in epoch 1, its first renewal just confirmed.
    pub fn first(bounds: &Bounds, truths: &Truths) -> State {
        let begin = truths.first();
        let lease = truths.get(begin).longest_lease();
        let first = vote(1, bounds.leader as u64);
        let voters = [0, 1, 2].map(|node| Voter {
            ballot: first,
            leading: None,
            applied: 0,
            noop: None,
            granter: Granter::started(clock(bounds, node, 0)),
            acked: 0,
        });
        let idle = Server {
            holder: Holder::default(),
            used: 0,
            writable: None,
            releasing: None,
        };
        let mut state = State {
            tick: 0,
            voters,
            servers: [idle.clone(), idle],
            flights: Vec::new(),
            log: vec![begin],
            restarts: 0,
            presets: 0,
        };
        let leader = &mut state.voters[bounds.leader];
        leader.leading = Some(first);
        leader.acked = 0b111;
        leader.granter.lead(first, lease);
        leader.granter.ready(first, lease);
        leader.granter.confirm(lease);
        let server = &mut state.servers[0];
        server
            .holder
            .confirmed(Epoch(1), clock(bounds, 0, 0), lease);
        server.used = 1;
        server.writable = Some((1, server.holder.valid_until));
        state
    }

    /// What must never be: a writable PostgreSQL on a member that does not hold the newest reign.
    pub fn is_broken(&self, truths: &Truths) -> bool {
        let holder = truths.holder(*self.log.last().unwrap_or(&0));
        (0..MEMBERS).any(|member| self.servers[member].writable.is_some() && holder != member)
    }

    fn obey(&mut self, node: usize, vote: LeaderVote) {
        let voter = &mut self.voters[node];
        voter.ballot = vote;
        if voter.leading.is_some_and(|own| own != vote) {
            voter.leading = None;
            voter.granter.follow();
        }
    }

    fn is_ready(&self, node: usize) -> Option<LeaderVote> {
        let voter = &self.voters[node];
        voter.leading.filter(|vote| voter.granter.is_ready(*vote))
    }

    /// Every step that is possible here.
    pub fn steps(&self, bounds: &Bounds, truths: &Truths, wrong: Wrong) -> Vec<Step> {
        let mut steps = Vec::with_capacity(24);
        if self.tick < bounds.ticks {
            steps.push(Step::Tick);
        }
        self.member_steps(bounds, truths, &mut steps);
        self.flight_steps(wrong, &mut steps);
        for node in 0..NODES as u8 {
            let voter = &self.voters[usize::from(node)];
            if usize::from(voter.applied) + 1 < self.log.len() {
                steps.push(Step::Apply { node });
            }
            if self.restarts < bounds.restarts {
                steps.push(Step::Restart { node, back: 0 });
                if voter.applied > 0 {
                    steps.push(Step::Restart { node, back: 1 });
                }
            }
            for other in (0..NODES as u8).filter(|other| *other != node) {
                self.pair_steps(node, other, bounds, truths, &mut steps);
            }
        }
        steps
    }

    fn member_steps(&self, bounds: &Bounds, truths: &Truths, steps: &mut Vec<Step>) {
        for member in 0..MEMBERS as u8 {
            let server = &self.servers[usize::from(member)];
            let known = self.log[usize::from(self.voters[usize::from(member)].applied)];
            let held = truths
                .granted(known)
                .filter(|(_, holder)| *holder == usize::from(member));
            let mine = self
                .flights
                .iter()
                .filter(|flight| flight.member() == member)
                .count();
            if let Some((epoch, _)) = held {
                let again = Flight::Asked {
                    member,
                    epoch,
                    sent: self.tick,
                };
                if mine < bounds.in_flight && !self.flights.contains(&again) {
                    steps.push(Step::Send { member });
                }
                let now = clock(bounds, usize::from(member), self.tick);
                let lasts = server.holder.epoch == Epoch(u64::from(epoch))
                    && now < server.holder.valid_until;
                if server.used < epoch && server.writable.is_none() && lasts {
                    steps.push(Step::Promote { member });
                }
            }
            if bounds.releases && server.writable.is_some() {
                steps.push(Step::Stop { member });
            }
        }
    }

    fn flight_steps(&self, wrong: Wrong, steps: &mut Vec<Step>) {
        for (place, flight) in self.flights.iter().enumerate() {
            let place = place as u8;
            match flight {
                Flight::Asked { .. } => {
                    for leader in 0..NODES {
                        if self.is_ready(leader).is_some() {
                            steps.push(Step::Receive {
                                flight: place,
                                leader: leader as u8,
                            });
                        }
                    }
                }
                Flight::Round {
                    leader, vote, acks, ..
                } => {
                    for voter in 0..NODES as u8 {
                        let may = self.voters[usize::from(voter)].ballot <= *vote;
                        if voter != *leader && acks & (1 << voter) == 0 && may {
                            steps.push(Step::Acknowledge {
                                flight: place,
                                voter,
                            });
                        }
                    }
                    if acks.count_ones() >= 2 || wrong == Wrong::AnswersWithoutQuorum {
                        steps.push(Step::Confirm { flight: place });
                    }
                }
                Flight::Answered { .. } => steps.push(Step::Answer { flight: place }),
            }
        }
    }

    /// What node can do with the help of one other voter: a quorum of three.
    fn pair_steps(
        &self,
        node: u8,
        with: u8,
        bounds: &Bounds,
        truths: &Truths,
        steps: &mut Vec<Step>,
    ) {
        let (own, other) = (
            &self.voters[usize::from(node)],
            &self.voters[usize::from(with)],
        );
        let next = own.ballot.term.max(other.ballot.term) + 1;
        if next <= u64::from(bounds.terms) && bounds.campaigns[usize::from(node)] {
            steps.push(Step::Campaign { node, with });
        }
        let Some(leading) = own.leading.filter(|leading| other.ballot <= *leading) else {
            return;
        };
        let mut commit = |change| {
            steps.push(Step::Commit {
                leader: node,
                with,
                change,
            })
        };
        if own.noop.is_none() && !own.granter.is_ready(leading) {
            commit(Change::Noop);
        }
        if !own.granter.is_ready(leading) {
            return;
        }
        let known = self.log[usize::from(own.applied)];
        let state = truths.get(known);
        let epoch = truths.epoch(known);
        match state.reign.as_ref().map(|reign| reign.phase) {
            Some(Phase::Granted) => commit(Change::Revoke),
            Some(phase) if epoch < bounds.epochs => {
                for member in 0..MEMBERS as u8 {
                    let is_same = truths.holder(known) == usize::from(member);
                    let may = is_same || phase == Phase::Released || own.granter.lease_waited_out();
                    if may && usize::from(own.applied) + 1 == self.log.len() {
                        commit(Change::Grant { member });
                    }
                }
            }
            Some(_) | None => {}
        }
        if self.presets < bounds.presets && state.previous_lease.is_none() {
            commit(Change::OtherPreset);
        }
        for member in 0..MEMBERS as u8 {
            if let Some(epoch) = self.servers[usize::from(member)].releasing {
                commit(Change::Release { member, epoch });
            }
        }
    }

    /// The state after `step`.
    pub fn after(&self, step: Step, bounds: &Bounds, truths: &mut Truths, wrong: Wrong) -> State {
        let mut next = self.clone();
        match step {
            Step::Tick => next.let_time_pass(bounds, wrong),
            Step::Send { member } => {
                let known = self.log[usize::from(self.voters[usize::from(member)].applied)];
                let epoch = truths.epoch(known);
                next.flights.push(Flight::Asked {
                    member,
                    epoch,
                    sent: self.tick,
                });
            }
            Step::Receive { flight, leader } => next.receive(flight, leader, wrong),
            Step::Acknowledge { flight, voter } => {
                if let Flight::Round { vote, acks, .. } = &mut next.flights[usize::from(flight)] {
                    *acks |= 1 << voter;
                    let vote = *vote;
                    next.obey(usize::from(voter), vote);
                }
            }
            Step::Confirm { flight } => next.confirm(flight, truths, wrong),
            Step::Answer { flight } => next.answer(flight, bounds, truths, wrong),
            Step::Promote { member } => {
                let server = &mut next.servers[usize::from(member)];
                let epoch = server.holder.epoch.0 as u8;
                server.used = epoch;
                server.writable = Some((epoch, server.holder.valid_until));
            }
            Step::Stop { member } => {
                let server = &mut next.servers[usize::from(member)];
                server.releasing = server.writable.map(|(epoch, _)| epoch);
                server.writable = None;
            }
            Step::Campaign { node, with } => next.campaign(node, with, truths, wrong),
            Step::Commit {
                leader,
                with,
                change,
            } => next.commit(leader, with, change, truths),
            Step::Apply { node } => next.apply(node, truths, wrong),
            Step::Restart { node, back } => next.restart(node, back, bounds, truths, wrong),
        }
        let depends_on_old_answers = matches!(
            wrong,
            Wrong::CountedFromTheReply | Wrong::LeaseLengthNotInTheAnswer
        );
        if !depends_on_old_answers {
            next.forget_the_irrelevant(bounds, wrong);
        }
        next.flights.sort_unstable();
        next
    }

    /// Makes states equal that differ only in what nothing can depend on any more.
    fn forget_the_irrelevant(&mut self, bounds: &Bounds, wrong: Wrong) {
        let tick = self.tick;
        let holders = [self.servers[0].holder, self.servers[1].holder];
        self.flights.retain(|flight| {
            // What was sent before the longest lease can extend nothing.
            let is_late = flight.sent() + USEFUL_TICKS <= tick;
            let holder = holders[usize::from(flight.member())];
            let extends = match flight {
                Flight::Answered {
                    member,
                    sent,
                    lease,
                    epoch,
                } => {
                    let until = clock(bounds, usize::from(*member), *sent).after(*lease);
                    let of = Epoch(u64::from(*epoch));
                    of > holder.epoch || of == holder.epoch && until > holder.valid_until
                }
                Flight::Asked { .. } | Flight::Round { .. } => true,
            };
            !is_late && extends
        });
        for member in 0..MEMBERS {
            let now = clock(bounds, member, tick);
            let server = &mut self.servers[member];
            server.holder.renewed_at = Moment::default();
            if server.holder.valid_until <= now {
                server.holder.valid_until = Moment::default();
            }
        }
        let highest = self
            .voters
            .iter()
            .map(|voter| voter.ballot.term)
            .max()
            .unwrap_or(0);
        let above = |vote: LeaderVote| {
            self.voters
                .iter()
                .filter(|voter| voter.ballot > vote)
                .count()
                >= 2
        };
        let is_over = self
            .voters
            .each_ref()
            .map(|voter| voter.leading.is_some_and(above));
        for (node, voter) in self.voters.iter_mut().enumerate() {
            let needs_quorum = !matches!(
                wrong,
                Wrong::AnswersWithoutQuorum | Wrong::RoundBegunBeforeTheRequest
            );
            if is_over[node] && needs_quorum {
                // Two of three have gone on: it reaches no quorum again.
                voter.leading = None;
            }
            let may_lead = highest < u64::from(bounds.terms) && bounds.campaigns[node];
            if voter.leading.is_none() && !may_lead {
                // Nor will it lead again.
                voter.granter = Granter::started(Moment::default());
                voter.noop = None;
                if node >= MEMBERS {
                    voter.applied = self.log.len() as u8 - 1;
                }
            }
        }
        let kept = bounds.restarts.saturating_sub(self.restarts);
        let least = self
            .voters
            .iter()
            .map(|voter| voter.applied)
            .min()
            .unwrap_or(0);
        let gone = least.saturating_sub(kept);
        self.log.drain(..usize::from(gone));
        for voter in &mut self.voters {
            voter.applied -= gone;
            voter.noop = voter.noop.map(|noop| noop.saturating_sub(gone));
        }
    }

    fn let_time_pass(&mut self, bounds: &Bounds, wrong: Wrong) {
        self.tick += 1;
        for node in 0..NODES {
            let now = clock(bounds, node, self.tick);
            self.voters[node]
                .granter
                .pass(now, Duration::from_millis(TICK_MS));
        }
        for member in 0..MEMBERS {
            let now = clock(bounds, member, self.tick);
            let server = &mut self.servers[member];
            // The guard kills, at the last instant it may.
            if server.writable.is_some_and(|(_, deadline)| now >= deadline)
                && wrong != Wrong::GuardDependsOnTheDaemon
            {
                server.writable = None;
            }
        }
    }

    fn receive(&mut self, place: u8, leader: u8, wrong: Wrong) {
        let Flight::Asked {
            member,
            epoch,
            sent,
        } = self.flights[usize::from(place)]
        else {
            return;
        };
        let voter = &self.voters[usize::from(leader)];
        let Some(vote) = voter.leading else { return };
        let old = if wrong == Wrong::RoundBegunBeforeTheRequest {
            voter.acked
        } else {
            0
        };
        let acks = (1 << leader) | old;
        self.flights[usize::from(place)] = Flight::Round {
            member,
            epoch,
            sent,
            leader,
            vote,
            acks,
        };
    }

    /// One step with the applied truth: ready, still granted, base moved, answered.
    fn confirm(&mut self, place: u8, truths: &Truths, wrong: Wrong) {
        let Flight::Round {
            member,
            epoch,
            sent,
            leader,
            vote,
            ..
        } = self.flights[usize::from(place)]
        else {
            return;
        };
        let voter = &mut self.voters[usize::from(leader)];
        let known = self.log[usize::from(voter.applied)];
        let stands = truths.granted(known) == Some((epoch, usize::from(member)));
        if !voter.granter.is_ready(vote) || !stands {
            self.flights.remove(usize::from(place));
            return;
        }
        let lease = truths.get(known).settings.times().lease;
        voter.granter.confirm(match wrong {
            Wrong::WaitWithoutDrift => without_drift(lease),
            _ => lease,
        });
        self.flights[usize::from(place)] = Flight::Answered {
            member,
            epoch,
            sent,
            lease,
        };
    }

    fn answer(&mut self, place: u8, bounds: &Bounds, truths: &Truths, wrong: Wrong) {
        let Flight::Answered {
            member,
            epoch,
            sent,
            lease,
        } = self.flights.remove(usize::from(place))
        else {
            return;
        };
        let node = usize::from(member);
        let known = self.log[usize::from(self.voters[node].applied)];
        let sent = match wrong {
            Wrong::CountedFromTheReply => clock(bounds, node, self.tick),
            _ => clock(bounds, node, sent),
        };
        let lease = match wrong {
            Wrong::LeaseLengthNotInTheAnswer => truths.get(known).settings.times().lease,
            _ => lease,
        };
        let server = &mut self.servers[node];
        let before = server.holder;
        server
            .holder
            .confirmed(Epoch(u64::from(epoch)), sent, lease);
        debug_assert!(server.holder.epoch >= before.epoch);
        if let Some((of, deadline)) = &mut server.writable
            && *of == epoch
        {
            *deadline = (*deadline).max(server.holder.valid_until);
        }
    }

    fn lease_waited_by(truth: Duration, wrong: Wrong) -> Duration {
        match wrong {
            Wrong::NewLeaderDoesNotWait => Duration::ZERO,
            Wrong::WaitWithoutDrift => without_drift(truth),
            _ => truth,
        }
    }

    fn campaign(&mut self, node: u8, with: u8, truths: &Truths, wrong: Wrong) {
        let (node, with) = (usize::from(node), usize::from(with));
        let term = self.voters[node]
            .ballot
            .term
            .max(self.voters[with].ballot.term)
            + 1;
        let vote = vote(term, node as u64);
        self.obey(node, vote);
        self.obey(with, vote);
        let known = self.log[usize::from(self.voters[node].applied)];
        let lease = State::lease_waited_by(truths.get(known).longest_lease(), wrong);
        let voter = &mut self.voters[node];
        voter.leading = Some(vote);
        voter.noop = None;
        voter.acked = 0;
        voter.granter.lead(vote, lease);
    }

    fn commit(&mut self, leader: u8, with: u8, change: Change, truths: &mut Truths) {
        let Some(vote) = self.voters[usize::from(leader)].leading else {
            return;
        };
        self.obey(usize::from(with), vote);
        let newest = *self.log.last().unwrap_or(&0);
        let after = truths.apply(newest, change);
        self.log.push(after);
        match change {
            Change::Noop => {
                self.voters[usize::from(leader)].noop = Some(self.log.len() as u8 - 1);
            }
            Change::OtherPreset => self.presets += 1,
            Change::Release { member, .. } => self.servers[usize::from(member)].releasing = None,
            Change::Revoke | Change::Grant { .. } => {}
        }
    }

    fn apply(&mut self, node: u8, truths: &Truths, wrong: Wrong) {
        let voter = &mut self.voters[usize::from(node)];
        voter.applied += 1;
        let known = self.log[usize::from(voter.applied)];
        if let (Some(noop), Some(vote)) = (voter.noop, voter.leading)
            && voter.applied >= noop
        {
            voter.noop = None;
            let lease = match wrong {
                Wrong::ReadyForgetsALongerLease => Duration::ZERO,
                Wrong::RestartedLeaderCountsFromZero if self.restarts > 0 => Duration::ZERO,
                _ => State::lease_waited_by(truths.get(known).longest_lease(), wrong),
            };
            voter.granter.ready(vote, lease);
        }
    }

    /// The process starts anew; a leader goes on in its term, its truth may lag.
    fn restart(&mut self, node: u8, back: u8, bounds: &Bounds, truths: &Truths, wrong: Wrong) {
        self.restarts += 1;
        let now = clock(bounds, usize::from(node), self.tick);
        let voter = &mut self.voters[usize::from(node)];
        voter.applied -= back;
        voter.noop = None;
        voter.granter = Granter::started(now);
        let known = self.log[usize::from(voter.applied)];
        if let Some(vote) = voter.leading {
            let lease = match wrong {
                Wrong::RestartedLeaderCountsFromZero => Duration::ZERO,
                _ => State::lease_waited_by(truths.get(known).longest_lease(), wrong),
            };
            voter.granter.lead(vote, lease);
        }
        self.flights.retain(|flight| match flight {
            Flight::Round { leader, .. } => *leader != node,
            Flight::Asked { .. } => true,
            Flight::Answered { member, .. } => *member != node,
        });
        if let Some(server) = self.servers.get_mut(usize::from(node)) {
            // Epoch and deadline come back from the guard, for what it is armed for.
            server.holder = Holder::default();
            if let Some((epoch, deadline)) = server.writable {
                server.holder.epoch = Epoch(u64::from(epoch));
                server.holder.valid_until = deadline;
            }
        }
    }
}

impl Flight {
    fn sent(&self) -> u8 {
        match self {
            Flight::Asked { sent, .. }
            | Flight::Round { sent, .. }
            | Flight::Answered { sent, .. } => *sent,
        }
    }

    fn member(&self) -> u8 {
        match self {
            Flight::Asked { member, .. }
            | Flight::Round { member, .. }
            | Flight::Answered { member, .. } => *member,
        }
    }
}

/// The members' names.
pub fn member_name(member: usize) -> MemberName {
    ["a", "b"][member].parse().expect("a good name")
}
