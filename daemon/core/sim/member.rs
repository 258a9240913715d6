//! A member's daemon: applies the log, renews, asks `decide_member`, reports; and the guard beside
//! it. A thin shell: it decides nothing itself.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::{Action, MemberVerdict, decide_member, wants_renewal};
use cluster_core::model::member::{Busy, Health, Probe, SealReport};
use cluster_core::model::view::{MemberView, ProcessSet, Seen};
use cluster_core::model::{
    Addresses, ClusterState, Epoch, MemberKind, MemberName, MemberReport, Phase, PostgresStatus,
};

use crate::mistakes::Mutant;
use crate::network::{MS, Message, Micros, SECOND};
use crate::postgres::{Process, Upstream};
use crate::world::{Event, Guard, Lead, Mind, TICK, World};

/// What one look at a member gave.
pub struct Look {
    pub state: Rc<ClusterState>,
    pub postgres: PostgresStatus,
    pub set: ProcessSet,
    pub health: Health,
    pub busy: Option<Busy>,
}

/// Disks have room for two copies here: nobody asks what the others have.
static NO_REPORTS: BTreeMap<MemberName, Seen> = BTreeMap::new();

impl World {
    /// One turn of all loops of a daemon.
    pub fn daemon_turn(&mut self, node: usize) {
        self.apply_committed(node);
        let now = self.local(node);
        self.nodes[node].lead.granter.pass(now, TICK);
        if self.nodes[node].raft.leading.is_some() {
            if self.nodes[node].raft.next_beat <= self.now {
                self.beat(node);
            }
            self.apply_committed(node);
            self.lead_turn(node);
        } else {
            self.mind_election(node);
        }
        if self.nodes[node].kind == MemberKind::Witness {
            self.decide_as_witness(node);
        } else {
            self.keep_lease(node);
            self.set_rule(node);
            self.advance_work(node);
            self.advance_doing(node);
            let mind = &self.nodes[node].mind;
            if self.answers(node) && (mind.is_dirty || mind.next_decision <= self.now) {
                self.decide(node);
            }
        }
        if self.answers(node) && self.nodes[node].mind.next_report <= self.now {
            self.report(node);
        }
    }

    /// Applies what is known to be committed; now and then it lags.
    fn apply_committed(&mut self, node: usize) {
        let raft = &self.nodes[node].raft;
        let lags = raft.applied < raft.committed && self.random.chance(self.plan.apply_lag);
        if lags {
            return;
        }
        while self.nodes[node].raft.applied < self.nodes[node].raft.committed {
            let place = self.nodes[node].raft.applied;
            self.nodes[node].raft.applied += 1;
            self.nodes[node].mind.is_dirty = true;
            self.applied_one(node, place);
        }
        let raft = &self.nodes[node].raft;
        let is_current = match self.nodes[node].mind.current_from {
            Some(from) => raft.applied >= from,
            None => false,
        };
        let mind = &mut self.nodes[node].mind;
        mind.is_current = mind.is_current || is_current;
    }

    fn applied_one(&mut self, node: usize, place: usize) {
        let id = self.truth.committed[place];
        let entry = self.truth.arena[id as usize].clone();
        let is_done = self.truth.outcomes[place].is_ok();
        let now = self.local(node);
        let state = Rc::clone(&self.truth.states[place + 1]);
        let lead = &mut self.nodes[node].lead;
        lead.granter.pass(now, TICK);
        if is_done && matches!(entry.stamp.command, Command::Grant(_)) {
            lead.granter.granted();
            lead.grants.push(now);
        }
        if is_done && matches!(entry.stamp.command, Command::SetPreset { .. }) {
            lead.lease_set_at = lead.granter.stamp();
        }
        if let Some(reign) = &state.reign
            && reign.phase != Phase::Granted
            && lead.ended.is_none_or(|(epoch, _)| epoch != reign.epoch)
        {
            lead.ended = Some((reign.epoch, now));
        }
        if self.nodes[node].raft.noop == Some(id)
            && self.nodes[node].raft.leading == Some(entry.vote)
        {
            let waits = !self.mutant.new_leader_does_not_wait();
            let lease = if waits {
                state.longest_lease()
            } else {
                Duration::ZERO
            };
            self.nodes[node].lead.granter.ready(entry.vote, lease);
            let applied = self.nodes[node].raft.applied;
            self.nodes[node].mind.current_from.get_or_insert(applied);
        }
    }

    /// Observes this member.
    pub fn look(&mut self, node: usize) -> Look {
        let unseen = self.random.chance(4) && !self.plan.is_clear_sighted;
        let host = &self.nodes[node];
        let is_marked = host.durable.marker.is_some();
        let mut postgres = host.postgres.status(self.now, &self.names);
        if let PostgresStatus::Primary(primary) = &mut postgres {
            self.fill_primary(node, primary);
        }
        if unseen && host.postgres.runs() && host.postgres.wedged_since.is_none() {
            postgres = PostgresStatus::Unknown {
                why: "no answer yet".to_owned(),
            };
        }
        if let (true, PostgresStatus::Standby(standby)) =
            (self.mutant.receivers_survive(), &mut postgres)
            && standby.follows.is_none()
        {
            standby.receiver = None;
        }
        if is_marked && !host.postgres.runs() {
            let why = "an interrupted step".to_owned();
            postgres = PostgresStatus::Unusable {
                why,
                clone_would_cure: true,
            };
        }
        let set = ProcessSet {
            is_empty: host.postgres.set_is_empty(),
            // The guard forgets it with the last process.
            armed: host.guard.armed.filter(|_| host.postgres.runs()),
            has_foreign: host.postgres.is_foreign,
            guard_answers: true,
        };
        let probe = host.storage_stuck.map(|since| Probe {
            last_ok_age_ms: (self.now - since) / 1000,
            took_ms: 1,
            is_stuck: true,
            has_failed: false,
        });
        let health = Health {
            data_volume: probe,
            ..Health::default()
        };
        let busy = host.mind.work.as_ref().map(|work| Busy {
            with: work.word().to_owned(),
            for_ms: (self.now - work.since) / 1000,
            bytes: None,
        });
        Look {
            state: Rc::clone(self.state_of(node)),
            postgres,
            set,
            health,
            busy,
        }
    }

    /// The core's view of that look.
    pub fn view<'a>(&'a self, node: usize, look: &'a Look) -> MemberView<'a> {
        let host = &self.nodes[node];
        MemberView {
            now: self.local(node),
            me: &host.name,
            is_witness: host.kind == MemberKind::Witness,
            state: &look.state,
            truth_is_current: host.mind.is_current,
            times: look.state.settings.times(),
            durable: &host.durable,
            postgres: &look.postgres,
            system_identifier: host
                .postgres
                .data
                .as_ref()
                .map(|data| data.system_identifier),
            set: &look.set,
            holder: &host.holder,
            health: &look.health,
            busy: look.busy.as_ref(),
            seal: host.mind.seal.as_ref(),
            is_prepared: host.mind.is_prepared,
            drained: host.mind.drained.as_ref(),
            done_request: host.mind.done_request.as_ref(),
            gave_up: None,
            releasing: host
                .mind
                .releasing
                .filter(|(_, until)| *until > self.now)
                .map(|(epoch, _)| epoch),
            needs_rewind: host.mind.needs_rewind,
            rewind_impossible: host.mind.rewind_impossible,
            high_water: None,
            no_room: None,
            spent_donor: None,
            clones_in_place: false,
            reports: &NO_REPORTS,
            cannot_read_wal: false,
        }
    }

    /// A running standby that receives nothing and has read everything is sealed where it stands.
    fn observe_seal(&mut self, node: usize, look: &Look) {
        let host = &mut self.nodes[node];
        let is_used_up = host.durable.used >= host.durable.min_epoch;
        let Some(incarnation) = host.durable.incarnation.filter(|_| !is_used_up) else {
            host.mind.seal = None;
            return;
        };
        if let PostgresStatus::Standby(standby) = &look.postgres {
            let is_still = standby.follows.is_none() && standby.receiver.is_none();
            host.mind.seal = (is_still && standby.at_end_of_wal).then(|| SealReport {
                member: host.name.clone(),
                incarnation,
                target: host.durable.min_epoch,
                timeline: standby.timeline,
                end: standby.proven_end(),
                is_running: true,
            });
        }
    }

    fn decide(&mut self, node: usize) {
        let look = self.look(node);
        // While a step is under way only what must stop is asked for.
        let is_primary = matches!(look.postgres, PostgresStatus::Primary(_));
        let doing = self.nodes[node]
            .mind
            .doing
            .as_ref()
            .map(|doing| &doing.action);
        if doing.is_some_and(|doing| !is_primary && !matches!(doing, Action::Drain { .. })) {
            return;
        }
        self.observe_seal(node, &look);
        let verdict = decide_member(&self.view(node, &look));
        let pause = self.random.between(60 * MS, 140 * MS);
        let mind = &mut self.nodes[node].mind;
        mind.next_decision = self.now + pause;
        mind.is_dirty = false;
        self.note_verdict(node, &verdict);
        self.take_up(node, verdict.action, is_primary);
    }

    fn decide_as_witness(&mut self, node: usize) {
        if self.nodes[node].mind.next_decision > self.now {
            return;
        }
        self.nodes[node].mind.next_decision = self.now + SECOND;
        let look = self.look(node);
        let verdict = decide_member(&self.view(node, &look));
        if verdict.action != Action::Idle {
            self.violated("a witness acts");
        }
        self.coverage.count("reason", verdict.reason.code());
    }

    fn note_verdict(&mut self, node: usize, verdict: &MemberVerdict) {
        let code = verdict.reason.code();
        self.coverage.count("reason", code);
        if self.nodes[node].mind.last_reason != code {
            self.nodes[node].mind.last_reason = code;
            self.say(node, || match &verdict.action {
                Action::Idle => format!("waits [{code}]"),
                action => format!("{} [{code}]", crate::actions::sentence(action)),
            });
        }
    }

    /// The lease thread: renew when it is time.
    fn keep_lease(&mut self, node: usize) {
        if self.nodes[node].mind.next_renewal > self.now {
            return;
        }
        let look = self.look(node);
        let wanted = wants_renewal(&self.view(node, &look));
        let times = look.state.settings.times();
        let (from, start, sent) = (node, self.nodes[node].start, self.local(node));
        let Some(epoch) = wanted else {
            self.nodes[node].mind.next_renewal = self.now + 30 * MS;
            return;
        };
        self.nodes[node].mind.next_renewal = self.now + times.renew.as_micros() as Micros;
        self.coverage.count("world", "renewal asked");
        if let Some(leader) = self.nodes[node].raft.leader {
            self.send(
                node,
                leader,
                Message::Renew {
                    from,
                    start,
                    epoch,
                    sent,
                },
            );
        }
    }

    /// A message arrives at a daemon that works.
    pub fn receive(&mut self, node: usize, message: Message) {
        match message {
            Message::Renew {
                from,
                start,
                epoch,
                sent,
            } => {
                self.renew_asked(node, from, start, epoch, sent);
            }
            Message::Round { from, vote, round } => self.round_asked(node, from, vote, round),
            Message::RoundAck { from, vote, round } => {
                self.round_acknowledged(node, from, vote, round);
            }
            Message::Renewed {
                start,
                epoch,
                sent,
                lease,
                newest,
            } => {
                if self.nodes[node].start != start {
                    return;
                }
                let stop_hard = self.state_of(node).settings.times().stop_hard;
                let host = &mut self.nodes[node];
                host.mind.confirmed_newest = Some(newest);
                host.holder.confirmed(epoch, sent, lease);
                host.mind.is_dirty = true;
                if host.holder.epoch == epoch {
                    self.extend_guard(node, epoch, stop_hard);
                }
            }
            Message::Refused { start, epoch } => {
                let host = &mut self.nodes[node];
                if host.start == start && host.holder.epoch == epoch {
                    host.holder.drop_lease();
                    host.mind.is_dirty = true;
                    self.coverage.count("world", "renewal refused");
                }
            }
            Message::Report { from, report } => self.report_arrived(node, from, *report),
            Message::Tell { command } => {
                let is_ready = self.is_ready_leader(node);
                if is_ready {
                    self.propose(node, *command);
                }
            }
            Message::Elect => self.campaign(node),
        }
    }

    /// The guard takes deadlines for the epoch of its process set only, and only forwards.
    fn extend_guard(&mut self, node: usize, epoch: Epoch, stop_hard: Duration) {
        let deadline = self.nodes[node].holder.valid_until;
        let guard = &mut self.nodes[node].guard;
        if guard.armed == Some(epoch) && guard.burnt < epoch && deadline > guard.deadline {
            guard.deadline = deadline;
            guard.kill_at = deadline.before(stop_hard);
        }
        self.set_guard_timer(node);
    }

    /// Arms it before a promotion.
    pub fn arm_guard(&mut self, node: usize, epoch: Epoch) -> bool {
        let stop_hard = self.state_of(node).settings.times().stop_hard;
        let deadline = self.nodes[node].holder.valid_until;
        let guard = &mut self.nodes[node].guard;
        if guard.burnt >= epoch {
            return false;
        }
        guard.armed = Some(epoch);
        guard.deadline = deadline;
        guard.kill_at = deadline.before(stop_hard);
        self.set_guard_timer(node);
        true
    }

    fn set_guard_timer(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        if host.guard.armed.is_none() || host.guard.timer_at.is_some() {
            return;
        }
        let at = host.guard_clock.real(host.guard.kill_at).max(self.now);
        host.guard.timer_at = Some(at);
        let delay = at - self.now;
        self.after(delay, Event::Guard { node });
    }

    /// Kills when the deadline is near, whatever the daemon does.
    pub fn mind_guard(&mut self, node: usize) {
        let now = self.local_of_guard(node);
        let host = &self.nodes[node];
        let Some(armed) = host.guard.armed else {
            return;
        };
        if !host.host_up || host.host_frozen {
            return;
        }
        if now < host.guard.kill_at {
            self.set_guard_timer(node);
            return;
        }
        if self.mutant == Mutant::GuardNeverKills || host.postgres.set_is_empty() {
            return;
        }
        if host.guard.burnt < armed {
            self.coverage.count("world", "guard killed");
            self.say(node, || {
                format!("guard kills: the lease of epoch {armed} ends")
            });
        }
        self.nodes[node].guard.burnt = armed;
        let takes = self.random.between(MS, 90 * MS);
        let at = self.now + takes;
        self.nodes[node].postgres.begin_to_die(at, false);
    }

    /// PostgreSQL and the guard go on without the daemon.
    pub fn advance_postgres(&mut self, node: usize) {
        if self.nodes[node].guard.armed.is_some() {
            self.mind_guard(node);
        }
        let step = self.random.between(500, 30_000);
        let was = self.nodes[node].postgres.runs();
        let opened = self.nodes[node].postgres.advance(self.now, step);
        if was && !self.nodes[node].postgres.runs() {
            self.nodes[node].mind.is_dirty = true;
        }
        if let Some(timeline) = opened {
            self.nodes[node].mind.is_dirty = true;
            self.check_promotion(node, timeline);
            self.begin_commits(node, timeline);
            self.say(node, || {
                format!("PostgreSQL is out of recovery on timeline {timeline}")
            });
        }
    }

    /// Clients write on whatever lets them; receivers take what their upstream has.
    pub fn stream_wal(&mut self) {
        for node in 0..self.nodes.len() {
            let host = &self.nodes[node];
            if !host.host_up || host.host_frozen || host.postgres.wedged_since.is_some() {
                continue;
            }
            if host
                .postgres
                .writable()
                .is_some_and(|writable| writable.is_open)
            {
                let bytes = self.random.below(self.plan.writes) * 8;
                self.check_write(node);
                if let Some(data) = &mut self.nodes[node].postgres.data {
                    data.end.0 += bytes;
                    if data.end.0 - data.redo.0 > 60_000 {
                        data.redo = data.end;
                    }
                }
            }
        }
        for node in 0..self.nodes.len() {
            self.receive_wal(node);
        }
        for node in 0..self.nodes.len() {
            let host = &self.nodes[node];
            if host.host_up && !host.host_frozen && host.postgres.wedged_since.is_none() {
                self.advance_commits(node);
            }
        }
    }

    fn receive_wal(&mut self, node: usize) {
        let host = &self.nodes[node];
        if !host.host_up || host.host_frozen || host.postgres.wedged_since.is_some() {
            return;
        }
        let Process::Recovery(recovery) = &host.postgres.process else {
            return;
        };
        let Some(upstream) = recovery.receiver.or(recovery.follows) else {
            return;
        };
        let is_connected = self.can_stream(node, upstream);
        if !is_connected {
            if let Process::Recovery(recovery) = &mut self.nodes[node].postgres.process {
                recovery.is_streaming = false;
                // A receiver that cannot connect goes, and comes again.
                recovery.receiver = None;
            }
            return;
        }
        let is_slow = self.random.chance(200);
        let (source, host) = crate::raft::pair(&mut self.nodes, upstream.member, node);
        let (Some(source), Some(data)) = (&source.postgres.data, &mut host.postgres.data) else {
            return;
        };
        let Process::Recovery(recovery) = &mut host.postgres.process else {
            return;
        };
        let before = data.end;
        recovery.receiver.get_or_insert(upstream);
        recovery.is_streaming = true;
        if !is_slow {
            data.end = source.end;
            if data.line.len() != source.line.len() {
                data.line.clone_from(&source.line);
            }
        }
        let has_grown = before != data.end;
        recovery.received = Some(data.end);
        if data.end.0 - data.redo.0 > 60_000 && recovery.replayed.0 > data.redo.0 + 30_000 {
            data.redo = recovery.replayed;
        }
        if has_grown {
            self.check_received(node, upstream.epoch);
        }
        self.reply(node, upstream.member, upstream.epoch);
    }

    fn can_stream(&self, node: usize, upstream: Upstream) -> bool {
        let host = &self.nodes[upstream.member];
        let works = host.host_up
            && !host.host_frozen
            && host.postgres.wedged_since.is_none()
            && host.postgres.writable().is_some()
            && self.network.both_ways(node, upstream.member);
        let (Some(mine), Some(theirs)) = (
            &self.nodes[node].postgres.data,
            &self.nodes[upstream.member].postgres.data,
        ) else {
            return false;
        };
        works && mine.is_prefix_of(theirs)
    }

    fn report(&mut self, node: usize) {
        let pause = self.random.between(120 * MS, 220 * MS);
        self.nodes[node].mind.next_report = self.now + pause;
        let Some(leader) = self.nodes[node].raft.leader else {
            return;
        };
        let look = self.look(node);
        self.observe_seal(node, &look);
        let host = &self.nodes[node];
        let seal = host
            .mind
            .seal
            .clone()
            .filter(|seal| seal.target == host.durable.min_epoch);
        let report = MemberReport {
            member: host.name.clone(),
            node: host.id,
            daemon_start: String::new(),
            version: String::new(),
            addresses: Addresses::default(),
            tags: host.tags.clone(),
            incarnation: host.durable.incarnation,
            system_identifier: host
                .postgres
                .data
                .as_ref()
                .map(|data| data.system_identifier),
            server_version: Some(150_000),
            postgres: look.postgres,
            min_epoch: host.durable.min_epoch,
            used: host.durable.used,
            seal,
            set_is_empty: look.set.is_empty,
            lease_left_ms: None,
            applied_index: host.raft.applied as u64,
            not_promotable: Vec::new(),
            health: look.health,
            busy: look.busy,
            hears: Vec::new(),
            drained: host.mind.drained.clone(),
            done_request: host.mind.done_request.clone(),
            sync: self.sync_report(node),
            checkpointed: host.durable.used,
            verdict: String::new(),
        };
        if let Some(seal) = &report.seal {
            self.check_seal(node, &seal.clone());
        }
        self.send(
            node,
            leader,
            Message::Report {
                from: node,
                report: Box::new(report),
            },
        );
    }

    /// The daemon dies; what is durable, the guard and PostgreSQL stay.
    pub fn crash_daemon(&mut self, node: usize) {
        self.say(node, || "clusterd dies".to_owned());
        let keeps_tool = self.random.chance(500);
        let applied = self.nodes[node].raft.applied as u64;
        let rolled_back = self.random.below(4.min(applied + 1));
        let now = self.local(node);
        let host = &mut self.nodes[node];
        host.daemon_up = false;
        host.daemon_frozen = false;
        host.mind = Mind::default();
        host.inbox.clear();
        host.lead = Lead::new(now);
        host.raft.applied -= rolled_back as usize;
        host.raft.committed = host.raft.applied;
        host.raft.leader = None;
        host.raft.noop = None;
        host.raft.leading = None;
        host.postgres.tool_runs = host.postgres.tool_runs && keeps_tool;
        host.dies_after_steps = None;
    }

    pub fn start_daemon(&mut self, node: usize) {
        if self.nodes[node].daemon_up || !self.nodes[node].host_up {
            return;
        }
        self.say(node, || "clusterd starts".to_owned());
        let resumes = self.random.chance(500);
        let election = self
            .state_of(node)
            .settings
            .times()
            .election_max
            .as_micros() as Micros;
        let now = self.local(node);
        let host = &mut self.nodes[node];
        host.daemon_up = true;
        host.start += 1;
        host.mind = Mind::default();
        host.lead = Lead::new(now);
        host.raft.last_heard = self.now;
        host.raft.patience = 2 * election;
        host.holder = cluster_core::model::lease::Holder::default();
        if let Some(epoch) = host.guard.armed
            && host.guard.burnt < epoch
            && !host.postgres.set_is_empty()
        {
            host.holder.epoch = epoch;
            host.holder.valid_until = host.guard.deadline;
        }
        let own = host.raft.ballot.filter(|vote| vote.node == host.id.0);
        // openraft resumes the leadership of its term, when it had won it.
        if let Some(vote) = own
            && resumes
            && host
                .raft
                .log
                .iter()
                .any(|place| self.truth.arena[*place as usize].vote == vote)
        {
            self.coverage.count("world", "leader resumed its term");
            self.become_leader(node, vote);
        }
    }

    /// The whole host dies.
    pub fn crash_host(&mut self, node: usize) {
        if self.nodes[node].daemon_up {
            self.crash_daemon(node);
        }
        self.say(node, || "host dies".to_owned());
        let lies = self.mutant == Mutant::DiskLies;
        let host = &mut self.nodes[node];
        if let (true, Process::Recovery(_), Some(data)) =
            (lies, &host.postgres.process, &mut host.postgres.data)
        {
            let begin = data
                .line
                .last()
                .map_or(cluster_core::model::Lsn::ZERO, |(_, begin)| *begin);
            data.end = cluster_core::model::Lsn(data.end.0.saturating_sub(20_000))
                .max(begin)
                .max(data.redo);
        }
        host.host_up = false;
        host.host_frozen = false;
        host.postgres.vanish();
        host.postgres.tool_runs = false;
        host.guard = Guard::default();
        host.storage_stuck = None;
    }

    pub fn start_host(&mut self, node: usize) {
        if self.nodes[node].host_up {
            return;
        }
        let host = &mut self.nodes[node];
        host.host_up = true;
        host.clock.boot(self.now);
        host.guard_clock.boot(self.now);
        if self.random.chance(self.plan.damage) {
            // A damaged directory is no copy any more: not the last one.
            let may_lose = self.open_primary().is_some_and(|primary| primary != node);
            let clone_would_cure = may_lose && self.random.chance(500);
            self.coverage.count("fault", "directory unusable");
            self.nodes[node].postgres.unusable = Some(clone_would_cure);
        }
        self.start_daemon(node);
    }

    /// A frozen daemon, or a frozen host, goes on.
    pub fn thaw(&mut self, node: usize, is_host: bool) {
        let stop_hard = self.state_of(node).settings.times().stop_hard.as_micros() as Micros;
        let host = &mut self.nodes[node];
        if is_host && host.host_frozen {
            host.host_frozen = false;
            host.thawed_until = self.now + stop_hard + 5 * MS;
        } else if !is_host {
            host.daemon_frozen = false;
        }
        // The guard's timer fires first thing.
        self.mind_guard(node);
        if !self.answers(node) {
            return;
        }
        for message in std::mem::take(&mut self.nodes[node].inbox) {
            if self.answers(node) {
                self.receive(node, message);
            }
        }
    }
}
