//! The actions of `decide_member`, carried out in steps that take time and may be cut off between
//! any two of them.

use cluster_core::change::Command;
use cluster_core::decide::Action;
use cluster_core::model::member::SealReport;
use cluster_core::model::view::Marker;
use cluster_core::model::{Epoch, Incarnation, Lsn, RequestId, TimelineId};

use crate::mistakes::Mutant;
use crate::network::{MS, Message, Micros};
use crate::postgres::{Data, Process, Upstream, Writable, first_data};
use crate::world::World;

/// A short action under way.
#[derive(Clone, Debug)]
pub struct Doing {
    pub action: Action,
    pub step: u8,
    pub due: Micros,
}

/// Long work beside the loop.
#[derive(Clone, Debug)]
pub struct Work {
    pub kind: Long,
    pub since: Micros,
    pub due: Micros,
    /// Clone: the old directory is being replaced.
    pub is_swapping: bool,
    /// The timeline of the source: the connection ends with its PostgreSQL.
    pub source: Option<TimelineId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Long {
    Initdb,
    Rewind {
        from: usize,
        epoch: Epoch,
    },
    Clone {
        from: usize,
        epoch: Epoch,
        request: Option<RequestId>,
    },
}

impl Work {
    pub fn word(&self) -> &'static str {
        match self.kind {
            Long::Initdb => "initdb",
            Long::Rewind { .. } => "rewind",
            Long::Clone { .. } => "clone",
        }
    }
}

impl World {
    /// Takes up what was decided, unless something else is being done that it does not override.
    pub fn take_up(&mut self, node: usize, action: Action, is_primary: bool) {
        let name = name(&action);
        self.coverage.count("action", name);
        let kills = |it: &Action| matches!(it, Action::Fence { .. } | Action::Quarantine { .. });
        let is_fence = is_primary && kills(&action);
        if let Some(doing) = &self.nodes[node].mind.doing {
            let same_drain =
                doing.action == action || !matches!(doing.action, Action::Drain { .. });
            let is_overridden = is_fence && !kills(&doing.action);
            if !is_overridden && same_drain {
                return;
            }
        }
        self.nodes[node].mind.doing = None;
        if action == Action::Idle {
            return;
        }
        let due = self.now + self.random.between(100, 8 * MS);
        self.nodes[node].mind.doing = Some(Doing {
            action,
            step: 0,
            due,
        });
    }

    /// One step of the action under way, if it is time.
    pub fn advance_doing(&mut self, node: usize) {
        let is_due = self.nodes[node]
            .mind
            .doing
            .as_ref()
            .is_some_and(|doing| doing.due <= self.now);
        if !is_due || self.falls_here(node) {
            return;
        }
        let Some(mut doing) = self.nodes[node].mind.doing.take() else {
            return;
        };
        match self.carry_out(node, &doing.action.clone(), &mut doing.step) {
            Some(pause) => {
                doing.due = self.now + pause;
                self.nodes[node].mind.doing = Some(doing);
            }
            None => self.nodes[node].mind.is_dirty = true,
        }
    }

    /// The daemon was to die between two steps of what it does.
    fn falls_here(&mut self, node: usize) -> bool {
        match self.nodes[node].dies_after_steps {
            Some(0) => {
                self.coverage.count("world", "died between steps");
                self.crash_daemon(node);
                let away = self.random.between(50 * MS, 2500 * MS);
                self.after(away, crate::world::Event::StartDaemon { node });
                true
            }
            Some(left) => {
                self.nodes[node].dies_after_steps = Some(left - 1);
                false
            }
            None => false,
        }
    }

    /// Returns how long until the next step; none when done.
    fn carry_out(&mut self, node: usize, action: &Action, step: &mut u8) -> Option<Micros> {
        let now = *step;
        *step = step.saturating_add(1);
        match action {
            Action::Idle => None,
            Action::Initdb => self.begin(node, Long::Initdb, 400, 1200),
            Action::Adopt => {
                let life = self.new_life();
                self.nodes[node].durable.incarnation = Some(life);
                None
            }
            Action::Promise { epoch } => {
                let durable = &mut self.nodes[node].durable;
                durable.min_epoch = durable.min_epoch.max(*epoch);
                None
            }
            Action::Detach { .. } => self.detach(node, now),
            Action::FastForward { from, .. } => match self.index_of(from) {
                Some(from) => self.fast_forward(node, from, now),
                None => None,
            },
            Action::ReadEndOfWal { target } => self.read_end(node, *target, now),
            // Nobody pauses replay in this world.
            Action::ReplayEverything { .. } => None,
            Action::StartSealed => self.start_sealed(node, now),
            Action::Attach { to, epoch } => {
                let upstream = self.index_of(to).map(|member| Upstream {
                    member,
                    epoch: *epoch,
                });
                let host = &mut self.nodes[node];
                if host.durable.min_epoch <= *epoch
                    && let Process::Recovery(recovery) = &mut host.postgres.process
                {
                    if self.mutant == Mutant::SealsTrustTheLease {
                        recovery.receiver = None;
                    }
                    recovery.follows = upstream;
                    host.mind.needs_rewind = false;
                    host.mind.rewind_impossible = false;
                    host.mind.seal = None;
                    host.durable.promoted = Epoch::NONE;
                    host.durable.line = host.durable.line.max(Some(*epoch));
                }
                None
            }
            Action::StopDiverged => self.stop_diverged(node, now),
            Action::Rewind { from, epoch } => {
                let from = self.index_of(from)?;
                if !self.nodes[node].postgres.set_is_empty() {
                    return None;
                }
                self.check_source(node, from, *epoch, "rewind");
                let durable = &mut self.nodes[node].durable;
                durable.marker = Some(Marker::Rewind);
                durable.line = durable.line.max(Some(*epoch));
                self.begin(
                    node,
                    Long::Rewind {
                        from,
                        epoch: *epoch,
                    },
                    300,
                    1500,
                )
            }
            Action::Clone {
                from,
                epoch,
                request,
                in_place: _,
            } => {
                let from = self.index_of(from)?;
                self.check_source(node, from, *epoch, "clone");
                let request = request.clone();
                self.begin(
                    node,
                    Long::Clone {
                        from,
                        epoch: *epoch,
                        request,
                    },
                    500,
                    3000,
                )
            }
            Action::Promote {
                epoch, timeline, ..
            } => self.promote(node, *epoch, *timeline, now),
            Action::Prepare { .. } => {
                if now == 0 {
                    return Some(self.random.between(5 * MS, 120 * MS));
                }
                self.nodes[node].mind.is_prepared = true;
                if self.mutant == Mutant::OpenBeforeActivation {
                    self.open(node, self.nodes[node].durable.used);
                }
                None
            }
            Action::Tell(command) => self.tell(node, command, now),
            Action::RestoreSignal => {
                if let Some(data) = &mut self.nodes[node].postgres.data {
                    data.has_signal = true;
                }
                None
            }
            Action::Open { epoch } => {
                self.open(node, *epoch);
                None
            }
            Action::Drain { request, to } => self.drain(node, request, to, now),
            Action::Undrain => {
                self.nodes[node].mind.drained = None;
                let epoch = self.nodes[node].durable.used;
                self.open(node, epoch);
                None
            }
            Action::MarkUsed { epoch } => {
                let durable = &mut self.nodes[node].durable;
                durable.used = durable.used.max(*epoch);
                None
            }
            Action::Fence { .. } => self.fence(node, now),
            Action::Quarantine { .. } => {
                if !self.plan.is_clear_sighted {
                    self.violated("quarantined, and nobody promoted anything by hand");
                }
                self.nodes[node].durable.marker = Some(Marker::Strayed);
                self.fence(node, now)
            }
            Action::KillForeign => {
                let at = self.now + 20 * MS;
                self.nodes[node].postgres.begin_to_die(at, false);
                if now == 0 { Some(40 * MS) } else { None }
            }
            Action::RestartStandby {
                request: Some(request),
            } => self.restart_standby(node, request, now),
            // No simulated server has parameters.
            Action::RestartStandby { request: None } => None,
            Action::Reload { request } => {
                self.nodes[node].mind.done_request = Some(request.clone());
                None
            }
        }
    }

    fn begin(&mut self, node: usize, kind: Long, least: u64, most: u64) -> Option<Micros> {
        if kind == Long::Initdb {
            self.nodes[node].durable.marker = Some(Marker::Initdb);
        }
        let due = self.now + self.random.between(least * MS, most * MS);
        self.nodes[node].postgres.tool_runs = !self.nodes[node].postgres.runs();
        let from = match &kind {
            Long::Initdb => node,
            Long::Rewind { from, .. } | Long::Clone { from, .. } => *from,
        };
        let source = self.nodes[from]
            .postgres
            .data
            .as_ref()
            .map(|data| data.timeline());
        self.nodes[node].mind.work = Some(Work {
            kind,
            since: self.now,
            due,
            is_swapping: false,
            source,
        });
        None
    }

    fn detach(&mut self, node: usize, step: u8) -> Option<Micros> {
        let survives = self.mutant.receivers_survive();
        let takes = self.random.between(2 * MS, 200 * MS);
        let Process::Recovery(recovery) = &mut self.nodes[node].postgres.process else {
            return None;
        };
        if step == 0 {
            recovery.follows = None;
            return Some(takes);
        }
        if !survives {
            recovery.receiver = None;
            recovery.is_streaming = false;
        }
        None
    }

    fn read_end(&mut self, node: usize, target: Epoch, step: u8) -> Option<Micros> {
        if step == 0 {
            return Some(self.random.between(5 * MS, 150 * MS));
        }
        let host = &mut self.nodes[node];
        if host.postgres.runs() || host.durable.min_epoch != target {
            return None;
        }
        let (Some(data), Some(incarnation)) = (&host.postgres.data, host.durable.incarnation)
        else {
            return None;
        };
        host.mind.seal = Some(SealReport {
            member: host.name.clone(),
            incarnation,
            target,
            timeline: data.timeline(),
            end: data.end,
            is_running: false,
        });
        None
    }

    fn start_sealed(&mut self, node: usize, step: u8) -> Option<Micros> {
        if step == 0 {
            if self.mutant != Mutant::StartWithoutSignal
                && let Some(data) = &mut self.nodes[node].postgres.data
            {
                data.has_signal = true;
            }
            return Some(self.random.between(MS, 10 * MS));
        }
        if !self.nodes[node].postgres.set_is_empty() {
            return None;
        }
        self.check_start(node);
        let ready = self.now + self.random.between(30 * MS, 600 * MS);
        let host = &mut self.nodes[node];
        host.guard.armed = None;
        host.mind.is_prepared = false;
        host.postgres.start(ready);
        None
    }

    fn stop_diverged(&mut self, node: usize, step: u8) -> Option<Micros> {
        if step == 0 {
            let at = self.now + self.random.between(10 * MS, 300 * MS);
            self.nodes[node].postgres.begin_to_die(at, true);
            return Some(320 * MS);
        }
        if self.nodes[node].postgres.set_is_empty() {
            self.nodes[node].mind.needs_rewind = true;
        }
        None
    }

    fn promote(
        &mut self,
        node: usize,
        epoch: Epoch,
        timeline: TimelineId,
        step: u8,
    ) -> Option<Micros> {
        match step {
            0 => {
                let durable = &mut self.nodes[node].durable;
                if self.mutant != Mutant::PromoteWithoutUsed {
                    durable.used = durable.used.max(epoch);
                }
                durable.promoted = epoch;
                durable.line = durable.line.max(Some(epoch));
                Some(self.random.between(MS, 20 * MS))
            }
            1 => {
                if !self.arm_guard(node, epoch) {
                    return None;
                }
                Some(self.random.between(MS, 10 * MS))
            }
            2 => {
                let at = self.now + self.random.between(5 * MS, 250 * MS);
                let host = &mut self.nodes[node];
                if let Process::Recovery(recovery) = &mut host.postgres.process {
                    recovery.promoting = Some((at, timeline));
                }
                host.mind.seal = None;
                host.mind.is_prepared = false;
                host.mind.needs_rewind = false;
                Some(at - self.now + 5 * MS)
            }
            _ => {
                let host = &mut self.nodes[node];
                if host.postgres.writable().is_some()
                    && let Some(data) = &mut host.postgres.data
                {
                    data.has_signal = true;
                    return None;
                }
                let is_promoting = matches!(&host.postgres.process,
                    Process::Recovery(recovery) if recovery.promoting.is_some());
                is_promoting.then_some(20 * MS)
            }
        }
    }

    fn tell(&mut self, node: usize, command: &Command, step: u8) -> Option<Micros> {
        if step > 0 {
            return None;
        }
        if let Some(leader) = self.nodes[node].raft.leader {
            let command = Box::new(command.clone());
            self.send(node, leader, Message::Tell { command });
        }
        let answered_in = self.random.between(100 * MS, 250 * MS);
        if let Command::Release { epoch, .. } = command {
            // Told beside the next steps.
            self.nodes[node].mind.releasing = Some((*epoch, self.now + answered_in));
            return None;
        }
        Some(answered_in)
    }

    fn open(&mut self, node: usize, epoch: Epoch) {
        let host = &mut self.nodes[node];
        if let Process::Writable(writable) = &mut host.postgres.process {
            writable.is_open = true;
            self.check_open(node, epoch);
        }
    }

    fn drain(
        &mut self,
        node: usize,
        request: &RequestId,
        to: &cluster_core::model::MemberName,
        step: u8,
    ) -> Option<Micros> {
        let target = self.index_of(to)?;
        let host = &mut self.nodes[node];
        let Process::Writable(Writable { is_open, .. }) = &mut host.postgres.process else {
            return None;
        };
        match step {
            0 => Some(self.random.between(10 * MS, 200 * MS)),
            1 => {
                *is_open = false;
                Some(20 * MS)
            }
            _ => {
                let flushed = host
                    .postgres
                    .data
                    .as_ref()
                    .map_or(Lsn::ZERO, |data| data.end);
                let end = self.nodes[target]
                    .postgres
                    .data
                    .as_ref()
                    .map(|data| data.end);
                if end == Some(flushed) {
                    self.nodes[node].mind.drained = Some((request.clone(), flushed));
                    return None;
                }
                Some(30 * MS)
            }
        }
    }

    fn fence(&mut self, node: usize, step: u8) -> Option<Micros> {
        let state = std::rc::Rc::clone(self.state_of(node));
        let host = &mut self.nodes[node];
        if step == 0 {
            let held = state
                .reign
                .as_ref()
                .filter(|reign| reign.holder == host.name)
                .map_or(Epoch::NONE, |reign| reign.epoch);
            let armed = host.guard.armed.unwrap_or(Epoch::NONE);
            if self.mutant != Mutant::PromoteWithoutUsed {
                host.durable.used = host.durable.used.max(held).max(armed);
            }
            return Some(self.random.between(MS, 10 * MS));
        }
        host.postgres.tool_runs = false;
        if !host.postgres.runs() {
            return None;
        }
        if step == 1 {
            if let Some(epoch) = host.guard.armed {
                host.guard.burnt = host.guard.burnt.max(epoch);
            }
            let at = self.now + self.random.between(2 * MS, 85 * MS);
            self.nodes[node].postgres.begin_to_die(at, false);
        }
        Some(20 * MS)
    }

    fn restart_standby(&mut self, node: usize, request: &RequestId, step: u8) -> Option<Micros> {
        if step == 0 {
            let at = self.now + self.random.between(10 * MS, 200 * MS);
            self.nodes[node].postgres.begin_to_die(at, true);
            return Some(220 * MS);
        }
        if self.nodes[node].postgres.set_is_empty() {
            self.nodes[node].mind.done_request = Some(request.clone());
        }
        None
    }

    fn new_life(&mut self) -> Incarnation {
        self.next_number += 1;
        Incarnation(self.next_number)
    }

    /// Long work gets further.
    pub fn advance_work(&mut self, node: usize) {
        let Some(work) = self.nodes[node].mind.work.clone() else {
            return;
        };
        if work.due > self.now || self.falls_here(node) {
            return;
        }
        match work.kind.clone() {
            Long::Initdb => {
                let life = self.new_life();
                let system = u64::from(self.next_number) + 7_000_000_000;
                self.replace_data(node, life, first_data(system));
            }
            Long::Rewind { from, .. } => match self.copy_of(node, from, &work) {
                Some(data) => {
                    let life = self.new_life();
                    self.replace_data(node, life, data);
                    self.nodes[node].mind.needs_rewind = false;
                    self.coverage.count("world", "rewound");
                }
                None => self.give_up_work(node, true),
            },
            Long::Clone {
                from,
                epoch,
                request,
            } => self.advance_clone(node, from, epoch, request, work),
        }
    }

    fn advance_clone(
        &mut self,
        node: usize,
        from: usize,
        epoch: Epoch,
        request: Option<RequestId>,
        mut work: Work,
    ) {
        let Some(data) = self.copy_of(node, from, &work) else {
            self.give_up_work(node, work.is_swapping);
            return;
        };
        if !work.is_swapping {
            self.nodes[node].postgres.tool_runs = false;
            let at = self.now + self.random.between(5 * MS, 80 * MS);
            self.nodes[node].postgres.begin_to_die(at, true);
            work.is_swapping = true;
            work.due = self.now + 120 * MS;
            self.nodes[node].durable.marker = Some(Marker::Clone);
            self.nodes[node].mind.work = Some(work);
            return;
        }
        if self.nodes[node].postgres.runs() {
            return;
        }
        let life = self.new_life();
        self.replace_data(node, life, data);
        let durable = &mut self.nodes[node].durable;
        durable.line = durable.line.max(Some(epoch));
        let mind = &mut self.nodes[node].mind;
        mind.needs_rewind = false;
        mind.rewind_impossible = false;
        if request.is_some() {
            mind.done_request = request;
        }
        self.coverage.count("world", "cloned");
    }

    /// What a copy of `from` contains now, when it is a primary that can be reached.
    fn copy_of(&mut self, node: usize, from: usize, work: &Work) -> Option<Data> {
        let source = &self.nodes[from];
        let works = source.host_up
            && !source.host_frozen
            && source.postgres.wedged_since.is_none()
            && self.network.both_ways(node, from)
            && (source.postgres.writable().is_some() || self.mutant == Mutant::CloneFromAnybody);
        if !works {
            return None;
        }
        let mut data = source.postgres.data.clone()?;
        // A member that lags may have been told to copy an earlier reign of the same member.
        let wanted = match &work.kind {
            Long::Initdb => None,
            Long::Rewind { epoch, .. } | Long::Clone { epoch, .. } => {
                self.state_of(node).ledger.of_epoch(*epoch)
            }
        };
        let wanted = wanted.map(|entry| entry.timeline);
        let is_it = Some(data.timeline()) == work.source && Some(data.timeline()) == wanted;
        if !is_it && self.mutant != Mutant::CloneFromAnybody {
            return None;
        }
        self.check_copied(node, from);
        data.has_signal = true;
        data.ended_clean = false;
        data.was_in_recovery = true;
        Some(data)
    }

    fn replace_data(&mut self, node: usize, life: Incarnation, data: Data) {
        let host = &mut self.nodes[node];
        host.postgres.data = Some(data);
        host.postgres.unusable = None;
        host.postgres.tool_runs = false;
        host.durable.incarnation = Some(life);
        host.durable.marker = None;
        host.durable.promoted = Epoch::NONE;
        host.mind.work = None;
        host.mind.seal = None;
        host.mind.is_dirty = true;
    }

    fn give_up_work(&mut self, node: usize, keeps_marker: bool) {
        let is_impossible = self.random.chance(300);
        let host = &mut self.nodes[node];
        if !keeps_marker {
            host.durable.marker = None;
        }
        host.mind.rewind_impossible |= is_impossible;
        host.mind.work = None;
        host.postgres.tool_runs = false;
        host.mind.is_dirty = true;
        self.coverage.count("world", "copy failed");
    }
}

/// The action's name, for coverage.
pub fn name(action: &Action) -> &'static str {
    match action {
        Action::Idle => "Idle",
        Action::Initdb => "Initdb",
        Action::Adopt => "Adopt",
        Action::Promise { .. } => "Promise",
        Action::Detach { .. } => "Detach",
        Action::FastForward { .. } => "FastForward",
        Action::ReadEndOfWal { .. } => "ReadEndOfWal",
        Action::ReplayEverything { .. } => "ReplayEverything",
        Action::StartSealed => "StartSealed",
        Action::Attach { .. } => "Attach",
        Action::StopDiverged => "StopDiverged",
        Action::Rewind { .. } => "Rewind",
        Action::Clone { .. } => "Clone",
        Action::Promote { .. } => "Promote",
        Action::Prepare { .. } => "Prepare",
        Action::Tell(_) => "Tell",
        Action::RestoreSignal => "RestoreSignal",
        Action::Open { .. } => "Open",
        Action::Drain { .. } => "Drain",
        Action::Undrain => "Undrain",
        Action::MarkUsed { .. } => "MarkUsed",
        Action::Fence { .. } => "Fence",
        Action::Quarantine { .. } => "Quarantine",
        Action::KillForeign => "KillForeign",
        Action::RestartStandby { .. } => "RestartStandby",
        Action::Reload { .. } => "Reload",
    }
}

/// Every name [`name`] can give, but `Quarantine`: only a promotion by hand leads to it, and that is a
/// case, not a schedule.
pub const NAMES: &[&str] = &[
    "Idle",
    "Initdb",
    "Adopt",
    "Promise",
    "Detach",
    "ReadEndOfWal",
    "StartSealed",
    "Attach",
    "StopDiverged",
    "Rewind",
    "Clone",
    "Promote",
    "Prepare",
    "Tell",
    "RestoreSignal",
    "Open",
    "Drain",
    "Undrain",
    "MarkUsed",
    "Fence",
    "KillForeign",
    "RestartStandby",
    "Reload",
];

/// The action in the words of a transcript.
pub fn sentence(action: &Action) -> String {
    match action {
        Action::Promise { epoch } => format!("promises epoch {epoch}"),
        Action::Detach { .. } => "stops receiving".to_owned(),
        Action::FastForward { from, until, .. } => format!("fetches up to {until} from {from}"),
        Action::ReadEndOfWal { .. } => "reads the end of WAL".to_owned(),
        Action::StartSealed => "starts PostgreSQL sealed".to_owned(),
        Action::Attach { to, epoch } => format!("follows {to} in epoch {epoch}"),
        Action::StopDiverged => "stops to be rewound".to_owned(),
        Action::Rewind { from, .. } => format!("rewinds from {from}"),
        Action::Clone { from, .. } => format!("clones from {from}"),
        Action::Promote {
            epoch, timeline, ..
        } => {
            format!("promotes in epoch {epoch} on timeline {timeline}")
        }
        Action::Tell(command) => format!("tells {}", command_sentence(command)),
        Action::Open { epoch } => format!("opens to clients in epoch {epoch}"),
        Action::Drain { to, .. } => format!("drains for {to}"),
        Action::MarkUsed { epoch } => format!("marks epoch {epoch} used"),
        Action::Fence { why } => format!("kills PostgreSQL: {why}"),
        Action::Quarantine { why } => format!("quarantines its data: {why}"),
        other => name(other).to_lowercase(),
    }
}

/// A command in the words of a transcript.
pub fn command_sentence(command: &Command) -> String {
    match command {
        Command::Grant(grant) => {
            let loss = grant
                .loss
                .as_ref()
                .map(|_| " (loss recorded)")
                .unwrap_or_default();
            format!(
                "grant {} to {} on timeline {}{loss}",
                grant.epoch, grant.member, grant.timeline
            )
        }
        Command::Revoke { epoch, reason } => format!("revoke {epoch}: {reason}"),
        Command::Release { epoch, why, .. } => format!("release {epoch}: {why}"),
        Command::Promoted { epoch, .. } => format!("promoted {epoch}"),
        Command::Activate { epoch, .. } => format!("activate {epoch}"),
        Command::Describe { member, .. } => format!("describe {member}"),
        Command::Initialize { member } => format!("initialize {member}"),
        Command::Initialized { member, .. } => format!("initialized {member}"),
        Command::SettleLease => "settle-lease".to_owned(),
        Command::Step { step, .. } => format!("step {}", step_word(step)),
        Command::End { outcome, .. } => match outcome {
            cluster_core::model::RequestOutcome::Done { text } => format!("end: {text}"),
            cluster_core::model::RequestOutcome::Failed { why } => format!("end, failed: {why}"),
        },
        Command::Replaced { member } => format!("replaced {member}"),
        Command::BeginScheduled { .. } => "begin what is scheduled".to_owned(),
        Command::DropScheduled { why, .. } => format!("drop what is scheduled: {why}"),
        other => format!("{other:?}"),
    }
}

fn step_word(step: &cluster_core::model::request::Step) -> String {
    use cluster_core::model::request::Step;
    match step {
        Step::Accepted => "accepted".to_owned(),
        Step::Prepare { to } => format!("prepare {to}"),
        Step::Drain { to } => format!("drain for {to}"),
        Step::Rolling { member, .. } => format!("turn of {member}"),
        Step::Moving { to } => format!("moving to {to}"),
        Step::Ended(_) => "ended".to_owned(),
    }
}
