//! The Raft leader's loop and its side of the lease: rounds, confirmations, and whatever
//! `decide_cluster` says.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::{RuleVerdict, Verdict, VoterChange, decide_cluster};
use cluster_core::model::lease::{LeaderVote, Moment};
use cluster_core::model::request::Step;
use cluster_core::model::view::{ClusterView, Seen};
use cluster_core::model::{ClusterState, Epoch, MemberReport, NodeId, RequestId};

use crate::mistakes::Mutant;
use crate::network::{MS, Message};
use crate::world::{Round, TICK, World};

/// What the wall clock of every leader shows when a simulation begins, Unix milliseconds.
pub const WALL_UNIX_MS: u64 = 1_795_000_000_000;

impl World {
    /// Leads, and an entry of its own under this vote is applied.
    pub fn is_ready_leader(&self, node: usize) -> bool {
        let host = &self.nodes[node];
        host.raft
            .leading
            .is_some_and(|vote| host.lead.granter.is_ready(vote))
    }

    /// The leader any operator would reach now.
    pub fn ready_leader(&self) -> Option<usize> {
        (0..self.nodes.len())
            .filter(|node| self.answers(*node) && self.is_ready_leader(*node))
            .max_by_key(|node| self.nodes[*node].raft.leading)
    }

    /// An operator's command arrives at the leader.
    pub fn operator(&mut self, command: Command) {
        if let Some(leader) = self.ready_leader() {
            self.propose(leader, command);
        }
    }

    /// The holder asks: a round begins after the request arrived.
    pub fn renew_asked(
        &mut self,
        node: usize,
        from: usize,
        start: u32,
        epoch: Epoch,
        sent: Moment,
    ) {
        let Some(vote) = self.nodes[node].raft.leading else {
            return;
        };
        if !self.nodes[node].lead.granter.is_ready(vote) {
            return;
        }
        self.next_round += 1;
        let id = self.next_round;
        let acknowledged = 1 << node;
        let round = Round {
            id,
            vote,
            from,
            start,
            epoch,
            sent,
            acknowledged,
        };
        if self.mutant == Mutant::LeaderAnswersAlone {
            self.confirm(node, &round);
            return;
        }
        self.nodes[node]
            .lead
            .rounds
            .retain(|round| round.id + 24 > id);
        self.nodes[node].lead.rounds.push(round);
        for other in 0..self.nodes.len() {
            if other != node && self.is_voter(other) {
                self.send(
                    node,
                    other,
                    Message::Round {
                        from: node,
                        vote,
                        round: id,
                    },
                );
            }
        }
    }

    pub fn round_asked(&mut self, node: usize, from: usize, vote: LeaderVote, round: u64) {
        let raft = &mut self.nodes[node].raft;
        if raft.is_wiped || raft.ballot > Some(vote) {
            return;
        }
        if raft.leading.is_some_and(|own| own != vote) {
            raft.leading = None;
            self.nodes[node].lead.granter.follow();
        }
        let raft = &mut self.nodes[node].raft;
        raft.ballot = Some(vote);
        raft.last_heard = self.now;
        raft.leader = Some(from);
        self.send(
            node,
            from,
            Message::RoundAck {
                from: node,
                vote,
                round,
            },
        );
    }

    pub fn round_acknowledged(&mut self, node: usize, from: usize, vote: LeaderVote, round: u64) {
        if self.nodes[node].raft.leading != Some(vote) {
            return;
        }
        let rounds = &mut self.nodes[node].lead.rounds;
        let Some(place) = rounds
            .iter()
            .position(|known| known.id == round && known.vote == vote)
        else {
            return;
        };
        rounds[place].acknowledged |= 1 << from;
        let mask = rounds[place].acknowledged;
        if self.is_majority_mask(mask) {
            let round = self.nodes[node].lead.rounds.swap_remove(place);
            self.confirm(node, &round);
        }
    }

    /// One step with the applying of entries: ready, still granted, base moved, answered.
    fn confirm(&mut self, node: usize, round: &Round) {
        let now = self.local(node);
        let state = Rc::clone(self.state_of(node));
        let granter = &mut self.nodes[node].lead.granter;
        granter.pass(now, TICK);
        if !granter.is_ready(round.vote) {
            return;
        }
        let stands = state.granted().is_some_and(|reign| {
            reign.epoch == round.epoch && reign.holder == self.names[round.from]
        });
        let (start, epoch, sent) = (round.start, round.epoch, round.sent);
        let answer = if stands {
            let lease = state.settings.times().lease;
            granter.confirm(lease);
            Message::Renewed {
                start,
                epoch,
                sent,
                lease,
                newest: state.last_rule,
            }
        } else {
            Message::Refused { start, epoch }
        };
        self.send(node, round.from, answer);
    }

    pub fn report_arrived(&mut self, node: usize, _from: usize, report: MemberReport) {
        if self.nodes[node].raft.leading.is_none() {
            return;
        }
        let now = self.local(node);
        let lead = &mut self.nodes[node].lead;
        let name = report.member.clone();
        lead.arrived.insert(name.clone(), now);
        lead.reports.insert(
            name,
            Seen {
                report,
                age: Duration::ZERO,
            },
        );
    }

    /// One turn of the leader's loop.
    pub fn lead_turn(&mut self, node: usize) {
        let Some(vote) = self.nodes[node].raft.leading else {
            return;
        };
        if !self.nodes[node].lead.granter.is_ready(vote) {
            return;
        }
        let now = self.local(node);
        // One proposal at a time: the next decision sees its outcome.
        if let Some((place, since)) = self.nodes[node].lead.deciding {
            let raft = &self.nodes[node].raft;
            let is_applied = raft.log[..raft.applied]
                .iter()
                .rev()
                .take(8)
                .any(|p| *p == place);
            if !is_applied && now.since(since) < Duration::from_secs(1) {
                return;
            }
            self.nodes[node].lead.deciding = None;
        }
        let is_due = self.nodes[node].lead.next_decision <= self.now;
        if !is_due {
            return;
        }
        let pause = self.random.between(20 * MS, 60 * MS);
        self.nodes[node].lead.next_decision = self.now + pause;
        // Decisions are taken only by a leader that heard a quorum a moment ago.
        let times = self.state_of(node).settings.times();
        let quiet = self.now - self.nodes[node].raft.quorum_at;
        if quiet > 2 * times.heartbeat.as_micros() as u64 + 40 * MS {
            return;
        }
        let verdict = self.judge(node, now);
        self.carry_out_verdict(node, verdict, now);
    }

    fn judge(&mut self, node: usize, now: Moment) -> RuleVerdict {
        let truth = Rc::clone(self.state_of(node));
        self.note_ages(node, &truth, now);
        let state = self.mistaken(node, &truth);
        let learners: Vec<(NodeId, bool)> = self
            .truth
            .learners
            .iter()
            .map(|id| (*id, self.has_caught_up(node, *id)))
            .collect();
        let lead = &self.nodes[node].lead;
        let granter = &lead.granter;
        let settled_from = lead.lease_set_at.max(lead.led_since);
        let recent: Vec<Duration> = lead
            .grants
            .iter()
            .map(|at| now.since(*at))
            .filter(|age| *age < Duration::from_secs(600))
            .collect();
        let ages: BTreeMap<RequestId, Duration> = lead
            .requests
            .iter()
            .map(|(id, (_, since))| (id.clone(), now.since(*since)))
            .collect();
        let view = ClusterView {
            me: self.nodes[node].id,
            state: &state,
            times: state.settings.times(),
            reports: &lead.reports,
            leading_for: granter.stamp().saturating_sub(lead.led_since),
            base_age: granter.base_age(),
            grant_age: granter.grant_age(),
            lease_waited_out: granter.lease_waited_out()
                || self.mutant == Mutant::GrantWithoutWaiting,
            wait_left: granter.wait_left(),
            ended_age: lead.ended.map_or(Duration::ZERO, |(_, at)| now.since(at)),
            voters: &self.truth.voters,
            learners: &learners,
            elect_asked_age: lead.elect_asked.map(|at| now.since(at)),
            previous_lease_settled: state
                .previous_lease
                .is_some_and(|lease| granter.has_led_for(settled_from, lease)),
            recent_grants: &recent,
            request_ages: &ages,
            wall_unix_ms: Some(WALL_UNIX_MS + self.now / MS),
        };
        let verdict = decide_cluster(&view);
        self.check_paused(&state, &verdict);
        verdict
    }

    fn note_ages(&mut self, node: usize, state: &ClusterState, now: Moment) {
        let lead = &mut self.nodes[node].lead;
        for (name, seen) in &mut lead.reports {
            seen.age = lead
                .arrived
                .get(name)
                .map_or(Duration::ZERO, |at| now.since(*at));
        }
        let mut known: BTreeMap<RequestId, (Step, Moment)> = BTreeMap::new();
        for request in state.requests.values().filter(|request| request.is_open()) {
            let since = lead
                .requests
                .get(&request.id)
                .filter(|(step, _)| *step == request.step)
                .map_or(now, |(_, since)| *since);
            known.insert(request.id.clone(), (request.step.clone(), since));
        }
        lead.requests = known;
    }

    fn has_caught_up(&self, leader: usize, id: NodeId) -> bool {
        let committed = self.nodes[leader].raft.committed;
        self.nodes
            .iter()
            .any(|host| host.id == id && !host.raft.is_wiped && host.raft.log.len() >= committed)
    }

    fn carry_out_verdict(&mut self, node: usize, decided: RuleVerdict, now: Moment) {
        let reason = decided.reason();
        let code = reason.code();
        self.coverage.count("rule", decided.rule);
        self.coverage.count("reason", code);
        if self.nodes[node].lead.last_verdict != code {
            self.nodes[node].lead.last_verdict = code;
            let text = match &decided.verdict {
                Verdict::Pass => "all well".to_owned(),
                Verdict::Wait(_) => format!("waits [{code}]"),
                Verdict::Propose(command, _) => {
                    format!(
                        "proposes {} [{code}]",
                        crate::actions::command_sentence(command)
                    )
                }
                Verdict::Voters(change, _) => match change {
                    VoterChange::AddLearner { node, .. } => format!("adds learner {node} [{code}]"),
                    VoterChange::Swap { old, new } => {
                        format!("swaps voter {old} for {new} [{code}]")
                    }
                },
                Verdict::Elect(member, _) => format!("asks {member} to lead [{code}]"),
            };
            self.say(node, || format!("as leader {text}"));
        }
        match decided.verdict {
            Verdict::Pass | Verdict::Wait(_) => {}
            Verdict::Propose(command, _) => self.propose_decided(node, *command, now),
            Verdict::Voters(change, _) => self.change_voters(node, &change),
            Verdict::Elect(member, _) => {
                self.nodes[node].lead.elect_asked = Some(now);
                if let Some(to) = self.index_of(&member) {
                    self.send(node, to, Message::Elect);
                }
            }
        }
    }

    fn propose_decided(&mut self, node: usize, command: Command, now: Moment) {
        if self.mutant == Mutant::NobodyTakesOver && matches!(command, Command::Grant(_)) {
            let is_first = self.truth.newest().reign.is_none();
            if !is_first {
                return;
            }
        }
        if let Some(place) = self.propose(node, command) {
            self.nodes[node].lead.deciding = Some((place, now));
            self.beat(node);
        }
    }

    /// A change of the voters needs a majority of the old and of the new ones.
    fn change_voters(&mut self, node: usize, change: &VoterChange) {
        let reached = |world: &World, voters: &[NodeId]| {
            let count = (0..world.nodes.len())
                .filter(|other| {
                    voters.contains(&world.nodes[*other].id)
                        && !world.nodes[*other].raft.is_wiped
                        && world.answers(*other)
                        && world.network.both_ways(node, *other)
                        && world.nodes[*other].raft.ballot <= world.nodes[node].raft.ballot
                })
                .count();
            count * 2 > voters.len()
        };
        let old = self.truth.voters.clone();
        match change {
            VoterChange::AddLearner { node: id, .. } => {
                if reached(self, &old) && !self.truth.learners.contains(id) {
                    self.truth.learners.push(*id);
                }
            }
            VoterChange::Swap { old: gone, new } => {
                let next: Vec<NodeId> = old
                    .iter()
                    .map(|id| if id == gone { *new } else { *id })
                    .collect();
                if reached(self, &old) && reached(self, &next) {
                    self.truth.voters = next;
                    self.truth.learners.retain(|id| id != new);
                    self.coverage.count("world", "voter swapped");
                }
            }
        }
    }
}
