//! The member's loop: look, decide, act, tell. One thing a turn.
//!
//! A turn is quick. What takes long runs as one task; the loop goes on looking meanwhile, and the
//! only thing that may interrupt that task is a fence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::standby_watch::StandbyWatch;
use cluster_core::decide::{Action, MemberVerdict, Reason, decide_member, wants_renewal};
use cluster_core::model::confirmation::SyncReport;
use cluster_core::model::lease::{LeaseTimes, Moment};
use cluster_core::model::member::{Addresses, Busy, Health, SealReport, Tags};
use cluster_core::model::view::{Durable, MemberView, NoRoom, ProcessSet, Seen};
use cluster_core::model::{
    ClusterState, Epoch, Lsn, MemberName, MemberReport, NodeId, PostgresStatus, RequestId,
    TimelineId,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::board::{LeaseView, VerdictLine};
use crate::callbacks::{Callbacks, Server, Sight};
use crate::guard_client::Guard;
use crate::lease::{LeaseKeeper, now};
use crate::postgres::Progress;
use crate::raft::{AppliedState, ClusterStore};
use crate::telemetry;

use super::act::{Actor, Context, Done, Error};
use super::high_water::HighWater;
use super::observe::{Observation, observe};
use super::probes::Findings;
use super::rule_keeper::Kept;

/// A look this often when nothing happens.
const CALM: Duration = Duration::from_millis(200);
/// A look this often while something is under way.
const BRISK: Duration = Duration::from_millis(10);
/// A look this often while a rule change is open; it may stay open for long.
const CHANGING: Duration = Duration::from_millis(30);
/// After a message that did not reach the leader.
const TELL_AGAIN: Duration = Duration::from_millis(40);
/// A clone that did not fit is tried again after this where there is more room by now.
const TRY_ROOM: Duration = Duration::from_secs(5);
/// The same where the data volume shows no more room: another volume may.
const TRY_NO_ROOM: Duration = Duration::from_secs(60);
/// What was seen just before a promise counts for so long. Judgement: a few looks on a busy machine.
const STILL_SO: Duration = Duration::from_millis(50);
/// The word of a restart that was asked for.
const RESTARTING: &str = "restart";
/// After a failed action, so that a lasting fault does not spin.
const AFTER_FAILURE: Duration = Duration::from_millis(300);

/// What this member says of itself in every report, whatever happens.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Own name.
    pub me: MemberName,
    /// Own Raft id.
    pub node: NodeId,
    /// This process.
    pub daemon_start: String,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its tags.
    pub tags: Tags,
    /// Version number of its PostgreSQL programs, e.g. 150000.
    pub server_version: Option<u32>,
    /// It has no PostgreSQL.
    pub is_witness: bool,
}

/// Where the loop's results go.
pub struct Outlets {
    /// The newest report.
    pub report: watch::Sender<Option<MemberReport>>,
    /// The newest status.
    pub seen: watch::Sender<PostgresStatus>,
    /// What the newest turn said.
    pub verdict: watch::Sender<Looked>,
}

/// What the newest turn of the loop said.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// The verdict.
    pub line: Option<VerdictLine>,
    /// When the loop turned.
    pub looked_at: Option<Moment>,
    /// When PostgreSQL last answered.
    pub answered_at: Option<Moment>,
}

/// The loop's parts.
pub struct MemberLoop {
    /// Who this is.
    pub who: Introduction,
    /// None on a witness.
    pub actor: Option<Actor>,
    /// Events of the guard, to look at once.
    pub guard: Option<Guard>,
    /// The truth.
    pub store: ClusterStore,
    /// The lease.
    pub lease: LeaseKeeper,
    /// What the chores found.
    pub findings: Arc<Findings>,
    /// How far this member is known to have come.
    pub high_water: HighWater,
    /// What the rule's keeper has proven.
    pub kept: watch::Receiver<Kept>,
    /// Merged reports of the leader; tells which members are heard.
    pub merged: watch::Receiver<Arc<BTreeMap<MemberName, Seen>>>,
    /// Whether everything a leader had committed at our start is applied here.
    pub is_current: watch::Receiver<bool>,
    /// When two copies do not fit, the old one may be removed first.
    pub clones_in_place: bool,
    /// This member was told to leave: nothing is started any more.
    pub leaving: watch::Receiver<bool>,
    /// The operator's programs.
    pub callbacks: Callbacks,
    /// Results.
    pub outlets: Outlets,
}

/// What is remembered between turns; nothing here must survive a restart.
#[derive(Default)]
struct Memory {
    seal: Option<SealReport>,
    needs_rewind: bool,
    rewind_impossible: bool,
    cannot_read_wal: bool,
    prepared: Option<Epoch>,
    drained: Option<(RequestId, Lsn)>,
    done_request: Option<RequestId>,
    last_flush: Option<(TimelineId, Lsn)>,
    system_identifier: Option<u64>,
    verdict: Option<VerdictLine>,
    answered_at: Option<Moment>,
    /// The last failure's words, so that a lasting one is logged once.
    failure: Option<String>,
    /// The epoch whose Release is on its way to the leader.
    releasing: Option<Epoch>,
    /// The epoch that was given back by a fence, and why.
    gave_up: Option<(Epoch, String)>,
    /// A clone did not fit, and when that was.
    no_room: Option<(NoRoom, Instant)>,
    /// A standby of whom no clone could be made, until one was made of somebody else.
    spent_donor: Option<MemberName>,
    /// What was seen of the standbys, while PostgreSQL is a primary here.
    standbys: Option<StandbyWatch>,
    /// What was seen when a promise was decided, and when: the promise changes nothing of it, and the cluster has no
    /// primary while the next look is awaited.
    before_promise: Option<(Instant, Observation)>,
}

/// The one action under way.
struct Running {
    action: Action,
    since: Instant,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

type Ended = (Action, Result<Done, Error>);

impl MemberLoop {
    /// Runs until `shutdown`; the guard and PostgreSQL go on without it.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut memory = Memory::default();
        let mut running: Option<Running> = None;
        let (ended, mut endings) = mpsc::channel::<Ended>(4);
        let mut state = self.store.watch();
        let mut lease = self.lease.watch();
        let mut current = self.is_current.clone();
        let mut kept = self.kept.clone();
        let mut guard = self.guard.as_ref().map(|guard| guard.events());
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some((action, outcome)) = endings.recv() => {
                    match released_epoch(&action) {
                        Some(_) => memory.releasing = None,
                        None => running = None,
                    }
                    next = self.take_ending(&mut memory, &action, outcome);
                }
                _ = state.changed() => next = Instant::now(),
                _ = lease.changed() => if memory.waits_for_lease() { next = Instant::now() },
                _ = current.changed() => next = Instant::now(),
                // A witness has no keeper.
                Ok(()) = kept.changed() => next = Instant::now(),
                () = guard_event(&mut guard) => next = Instant::now(),
                () = sleep_until(next) => {}
            }
            if Instant::now() < next {
                continue;
            }
            let pace = self.turn(&mut memory, &mut running, &ended).await;
            next = Instant::now() + pace;
        }
        if let Some(running) = running {
            running.task.abort();
        }
    }

    /// One turn; returns when to look again.
    async fn turn(
        &self,
        memory: &mut Memory,
        running: &mut Option<Running>,
        ended: &mpsc::Sender<Ended>,
    ) -> Duration {
        let (looked_at, looked) = match memory.before_promise.take() {
            Some((at, looked)) if at.elapsed() < STILL_SO => (at, looked),
            _ => (Instant::now(), self.look().await),
        };
        let applied = self.store.state();
        let times = applied.state.settings.times();
        let durable = self
            .actor
            .as_ref()
            .map(|a| a.durable.get())
            .unwrap_or_default();
        memory.learn(&self.who.me, &looked, &durable);
        let high_water = self.high_water.of(durable.incarnation);
        if memory
            .seal
            .as_ref()
            .is_some_and(|seal| high_water > Some(seal.end))
        {
            memory.seal = None;
        }
        self.learn_identity(memory, &looked).await;
        let busy = running.as_ref().map(Running::busy);
        let holder = self.lease.holder();
        let health = self.findings.health();
        memory.forget_no_room(health.free_bytes);
        let reports = Arc::clone(&self.merged.borrow());
        let view = MemberView {
            now: now(),
            me: &self.who.me,
            is_witness: self.who.is_witness,
            state: &applied.state,
            truth_is_current: *self.is_current.borrow(),
            times,
            durable: &durable,
            postgres: &looked.postgres,
            system_identifier: memory.system_identifier,
            set: &looked.set,
            holder: &holder,
            health: &health,
            busy: busy.as_ref(),
            seal: memory.seal.as_ref(),
            is_prepared: memory.prepared == Some(applied.state.epoch()),
            drained: memory.drained.as_ref(),
            done_request: memory.done_request.as_ref(),
            releasing: memory.releasing,
            gave_up: memory.gave_up.as_ref(),
            cannot_read_wal: memory.cannot_read_wal,
            needs_rewind: memory.needs_rewind,
            rewind_impossible: memory.rewind_impossible,
            high_water,
            no_room: memory.no_room.as_ref().map(|(room, _)| room),
            spent_donor: memory.spent_donor.as_ref(),
            clones_in_place: self.clones_in_place,
            reports: &reports,
        };
        let wanted = wants_renewal(&view)
            .and_then(|epoch| durable.incarnation.map(|incarnation| (epoch, incarnation)));
        self.lease.want(wanted);
        let mut verdict = decide_member(&view);
        if *self.leaving.borrow() && starts_something(&verdict.action) {
            verdict = MemberVerdict {
                action: Action::Idle,
                reason: Reason::OnRequest("this member was told to leave".to_owned()),
            };
        }
        self.tell_callbacks(&view);
        self.publish(memory, &looked, &durable, &verdict, busy, &applied, times);
        if matches!(verdict.action, Action::Promise { .. }) {
            memory.before_promise = Some((looked_at, looked.clone()));
        }
        self.start(memory, running, ended, verdict, &applied.state, times)
    }

    async fn look(&self) -> Observation {
        match &self.actor {
            Some(actor) => observe(&actor.postgres, &actor.guard).await,
            None => Observation {
                postgres: PostgresStatus::Empty,
                set: ProcessSet {
                    is_empty: true,
                    ..ProcessSet::default()
                },
                answered_at: None,
            },
        }
    }

    /// Told before anything is decided upon it, and never waited for.
    fn tell_callbacks(&self, view: &MemberView<'_>) {
        if !self.callbacks.is_wanted() {
            return;
        }
        let epoch = view.state.epoch();
        let timeline = match view.postgres {
            PostgresStatus::Primary(primary) => Some(primary.timeline),
            PostgresStatus::Standby(standby) => Some(standby.timeline),
            _ => None,
        };
        self.callbacks.look(&Sight {
            server: server(view),
            is_restarting: view.busy.is_some_and(|busy| busy.with == RESTARTING),
            epoch,
            timeline,
        });
    }

    /// The system identifier is read once for each data directory.
    async fn learn_identity(&self, memory: &mut Memory, looked: &Observation) {
        let Some(actor) = &self.actor else { return };
        match looked.postgres {
            PostgresStatus::Empty | PostgresStatus::Unusable { .. } => {
                memory.system_identifier = None;
            }
            _ if memory.system_identifier.is_none() => {
                memory.system_identifier = actor
                    .postgres
                    .control_data()
                    .await
                    .ok()
                    .map(|data| data.system_identifier);
            }
            _ => {}
        }
    }

    /// Starts the decided action, or lets the running one go on.
    fn start(
        &self,
        memory: &mut Memory,
        running: &mut Option<Running>,
        ended: &mpsc::Sender<Ended>,
        verdict: MemberVerdict,
        state: &Arc<cluster_core::model::ClusterState>,
        times: LeaseTimes,
    ) -> Duration {
        let Some(actor) = &self.actor else {
            return CALM;
        };
        let is_fence = kills(&verdict.action);
        if let (Action::Fence { why }, Reason::GiveBack(..) | Reason::CannotWrite(_)) =
            (&verdict.action, &verdict.reason)
        {
            memory.gave_up = Some((state.epoch(), why.clone()));
        }
        if let Some(under_way) = running {
            let is_fencing = kills(&under_way.action);
            if !is_fence || is_fencing {
                return BRISK;
            }
            tracing::warn!(action = ?under_way.action, "interrupted by a fence");
            under_way.task.abort();
            *running = None;
        }
        if verdict.action == Action::Idle {
            return memory.pace(state);
        }
        let (progress, watched) = watch::channel(Progress::default());
        let context = Context {
            state: Arc::clone(state),
            times,
            last_flush: memory.last_flush,
            progress,
        };
        let (actor, ended, action) = (actor.clone(), ended.clone(), verdict.action.clone());
        let released = released_epoch(&action);
        let task = tokio::spawn(async move {
            let begin = Instant::now();
            let outcome = actor.perform(action.clone(), context).await;
            tracing::debug!(
                action = word(&action),
                took_ms = milliseconds(begin.elapsed()),
                is_done = outcome.is_ok(),
                "an action ended"
            );
            let _ = ended.send((action, outcome)).await;
        });
        if released.is_some() {
            // Told beside the next steps: sealing need not wait for the leader's answer.
            memory.releasing = released;
            return Duration::ZERO;
        }
        let action = verdict.action;
        *running = Some(Running {
            action,
            since: Instant::now(),
            progress: watched,
            task,
        });
        BRISK
    }

    fn take_ending(
        &self,
        memory: &mut Memory,
        action: &Action,
        outcome: Result<Done, Error>,
    ) -> Instant {
        match outcome {
            // Files that end before what this member once had are no vote: recovery will say the same,
            // and then it is another life.
            Ok(Done::Sealed(seal))
                if self.high_water.of(Some(seal.incarnation)) > Some(seal.end) =>
            {
                memory.cannot_read_wal = true;
                Instant::now()
            }
            Ok(done) => {
                memory.failure = None;
                if matches!(action, Action::Reload { .. }) {
                    self.callbacks.reloaded();
                }
                memory.take(done);
                Instant::now()
            }
            Err(error) => {
                let text = telemetry::chain(&error);
                if memory.failure.as_ref() != Some(&text) {
                    tracing::warn!(?action, error = text, "an action failed");
                }
                memory.failure = Some(text);
                match action {
                    Action::ReadEndOfWal { .. } => {
                        memory.cannot_read_wal = true;
                        return Instant::now();
                    }
                    Action::Tell(_) | Action::Promote { .. } => return Instant::now() + TELL_AGAIN,
                    Action::Clone { from, .. } => memory.spent_donor = Some(from.clone()),
                    _ => {}
                }
                Instant::now() + AFTER_FAILURE
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn publish(
        &self,
        memory: &mut Memory,
        looked: &Observation,
        durable: &Durable,
        verdict: &MemberVerdict,
        busy: Option<Busy>,
        applied: &AppliedState,
        times: LeaseTimes,
    ) {
        memory.note_verdict(verdict);
        let holder = self.lease.holder();
        let left = holder.valid_until.before(times.stop_soft).since(now());
        let report = MemberReport {
            member: self.who.me.clone(),
            node: self.who.node,
            daemon_start: self.who.daemon_start.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.who.addresses.clone(),
            tags: self.who.tags.clone(),
            incarnation: durable.incarnation,
            system_identifier: memory.system_identifier,
            server_version: self.who.server_version,
            postgres: looked.postgres.clone(),
            min_epoch: durable.min_epoch,
            used: durable.used,
            seal: memory.seal.clone(),
            set_is_empty: looked.set.is_empty,
            lease_left_ms: (!left.is_zero()).then(|| milliseconds(left)),
            applied_index: applied.index,
            not_promotable: not_promotable(&looked.postgres, &self.findings.health()),
            health: self.findings.health(),
            busy: busy.filter(|busy| is_long(&busy.with)),
            hears: self.merged.borrow().keys().cloned().collect(),
            drained: memory.drained.clone(),
            done_request: memory.done_request.clone(),
            sync: memory.sync_report(&looked.postgres, &self.kept.borrow(), &applied.state),
            checkpointed: self.findings.checkpointed(),
            verdict: verdict.reason.to_string(),
        };
        self.outlets.seen.send_if_modified(|seen| {
            let is_new = *seen != looked.postgres;
            if is_new {
                *seen = looked.postgres.clone();
            }
            is_new
        });
        self.outlets.verdict.send_replace(Looked {
            line: memory.verdict.clone(),
            looked_at: Some(now()),
            answered_at: memory.answered_at,
        });
        self.outlets.report.send_replace(Some(report));
    }
}

/// What this look proves of the server. One that is out of recovery counts as a primary only as long as it
/// holds the lease of the newest epoch: nobody is told of a server that was promoted by hand.
fn server(view: &MemberView<'_>) -> Server {
    match view.postgres {
        PostgresStatus::Standby(standby) => Server::Standby {
            started_unix_ms: standby.started_unix_ms,
        },
        PostgresStatus::Primary(primary) => {
            let epoch = view.durable.promoted;
            let is_ours = view
                .state
                .granted()
                .is_some_and(|reign| reign.holder == *view.me && reign.epoch == epoch);
            if is_ours && view.holder.may_serve(epoch, view.now, &view.times) {
                Server::Primary {
                    started_unix_ms: primary.started_unix_ms,
                    is_open: primary.is_open,
                }
            } else {
                Server::Unclear
            }
        }
        PostgresStatus::Stopped(_) | PostgresStatus::Empty | PostgresStatus::Unusable { .. } => {
            Server::Down
        }
        PostgresStatus::Unknown { .. }
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => Server::Unclear,
    }
}

/// Resolves at the next event of the guard; never, when there is no guard.
async fn guard_event(
    events: &mut Option<tokio::sync::broadcast::Receiver<clusterd_guard::protocol::Event>>,
) {
    match events {
        Some(events) => {
            if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Free space below this is no place for a primary. Unit: bytes; a few WAL segments.
const LEAST_FREE: u64 = 64 << 20;

/// Why this member could not be promoted now [B9].
fn not_promotable(postgres: &PostgresStatus, health: &Health) -> Vec<String> {
    let mut reasons = Vec::new();
    if let PostgresStatus::Standby(standby) = postgres
        && standby.has_too_little
    {
        reasons.push(
            "its replay is paused: a parameter is lower than the primary's; a restart cures it"
                .into(),
        );
    }
    for (what, probe) in [("data", health.data_volume), ("WAL", health.wal_volume)] {
        if probe.is_some_and(|probe| probe.has_failed || probe.is_stuck) {
            reasons.push(format!("its {what} volume does not take writes"));
        }
    }
    if health.free_bytes.is_some_and(|free| free < LEAST_FREE) {
        reasons.push("its data volume is full".to_owned());
    }
    reasons
}

/// The epoch this action gives back, if it is a Release.
fn released_epoch(action: &Action) -> Option<Epoch> {
    match action {
        Action::Tell(command) => match **command {
            Command::Release { epoch, .. } => Some(epoch),
            _ => None,
        },
        _ => None,
    }
}

/// What a member that leaves does not do any more; it still fences, releases and promises.
fn starts_something(action: &Action) -> bool {
    matches!(
        action,
        Action::Initdb
            | Action::StartSealed
            | Action::Rewind { .. }
            | Action::Clone { .. }
            | Action::RestartStandby { .. }
    )
}

/// Kills, and so pre-empts what is under way.
fn kills(action: &Action) -> bool {
    matches!(action, Action::Fence { .. } | Action::Quarantine { .. })
}

/// Work that changes the data directory itself; the others are over in a moment.
fn is_long(with: &str) -> bool {
    matches!(with, "initdb" | "clone" | "rewind")
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::Idle => "nothing",
        Action::Initdb => "initdb",
        Action::Adopt => "adopt",
        Action::Promise { .. } => "promise",
        Action::Detach { .. } => "detach",
        Action::FastForward { .. } => "fast-forward",
        Action::ReadEndOfWal { .. } => "reading the end of WAL",
        Action::ReplayEverything { .. } => "replaying everything",
        Action::StartSealed => "start",
        Action::Attach { .. } => "attach",
        Action::StopDiverged => "stop",
        Action::Rewind { .. } => "rewind",
        Action::Clone { .. } => "clone",
        Action::Promote { .. } => "promote",
        Action::Prepare { .. } => "prepare",
        Action::Tell(_) => "telling the leader",
        Action::RestoreSignal => "standby.signal",
        Action::Open { .. } => "open",
        Action::Drain { .. } => "drain",
        Action::Undrain => "undrain",
        Action::MarkUsed { .. } => "used",
        Action::Fence { .. } => "fence",
        Action::Quarantine { .. } => "quarantine",
        Action::KillForeign => "kill foreign processes",
        Action::RestartStandby { .. } => RESTARTING,
        Action::Reload { .. } => "reload",
    }
}

impl Running {
    fn busy(&self) -> Busy {
        let progress = *self.progress.borrow();
        Busy {
            with: word(&self.action).to_owned(),
            for_ms: milliseconds(self.since.elapsed()),
            bytes: progress
                .total_bytes
                .map(|total| (progress.done_bytes, total)),
        }
    }
}

impl Memory {
    /// Takes over what a look proves.
    fn learn(&mut self, me: &MemberName, looked: &Observation, durable: &Durable) {
        if looked.answered_at.is_some() {
            self.answered_at = looked.answered_at;
        }
        // A seal is for one promise and one life of the directory.
        let is_void = self.seal.as_ref().is_some_and(|seal| {
            seal.target != durable.min_epoch || Some(seal.incarnation) != durable.incarnation
        });
        if is_void {
            self.seal = None;
            self.cannot_read_wal = false;
        }
        match &looked.postgres {
            PostgresStatus::Primary(primary) => {
                self.last_flush = Some((primary.timeline, primary.flushed));
                let epoch = durable.promoted;
                let known = self.standbys.take();
                let known = known.filter(|known| known.is_of(epoch, primary));
                let mut standbys =
                    known.unwrap_or_else(|| StandbyWatch::new(epoch, primary, now()));
                standbys.look(primary, now());
                self.standbys = Some(standbys);
                self.seal = None;
                self.cannot_read_wal = false;
            }
            PostgresStatus::Standby(standby) => {
                self.standbys = None;
                self.prepared = None;
                self.drained = None;
                if standby.follows.is_some() || standby.receiver.is_some() {
                    self.seal = None;
                    self.needs_rewind = false;
                    self.rewind_impossible = false;
                } else if standby.at_end_of_wal
                    && let Some(incarnation) = durable.incarnation
                {
                    self.seal = Some(SealReport {
                        member: me.clone(),
                        incarnation,
                        target: durable.min_epoch,
                        timeline: standby.timeline,
                        end: standby.proven_end(),
                        is_running: true,
                    });
                }
            }
            PostgresStatus::Stopped(_)
            | PostgresStatus::Stopping
            | PostgresStatus::Empty
            | PostgresStatus::Unusable { .. } => {
                self.standbys = None;
                self.prepared = None;
                self.drained = None;
            }
            PostgresStatus::Unknown { .. }
            | PostgresStatus::Starting { .. }
            | PostgresStatus::Unresponsive { .. } => {}
        }
    }

    /// What is told of commits and who confirms them; only together with what the keeper knows of
    /// the very same server process.
    fn sync_report(
        &self,
        postgres: &PostgresStatus,
        kept: &Kept,
        state: &ClusterState,
    ) -> Option<SyncReport> {
        let PostgresStatus::Primary(primary) = postgres else {
            return None;
        };
        let standbys = self.standbys.as_ref()?;
        if !standbys.is_of(kept.epoch, primary) || kept.started_unix_ms != primary.started_unix_ms {
            return None;
        }
        let mut rules = state.live_rules.iter().rev();
        let newest = rules.find(|rule| rule.epoch == kept.epoch);
        Some(SyncReport {
            epoch: kept.epoch,
            started_unix_ms: kept.started_unix_ms,
            given: kept.given,
            proven: kept.proven,
            unusable: None,
            standbys: standbys.standbys(newest, now()),
        })
    }

    /// Whether it fits by now is found out by trying.
    fn forget_no_room(&mut self, free_bytes: Option<u64>) {
        let is_over = self.no_room.is_some_and(|(room, since)| {
            let fits = free_bytes.is_some_and(|free| free >= room.needs_bytes);
            since.elapsed() >= if fits { TRY_ROOM } else { TRY_NO_ROOM }
        });
        if is_over {
            self.no_room = None;
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Plain => {}
            Done::Sealed(seal) => self.seal = Some(seal),
            Done::NeedsRewind => self.needs_rewind = true,
            Done::Rejoined { request } => {
                self.system_identifier = None;
                self.needs_rewind = false;
                self.rewind_impossible = false;
                self.no_room = None;
                self.spent_donor = None;
                self.seal = None;
                self.last_flush = None;
                if request.is_some() {
                    self.done_request = request;
                }
            }
            Done::RewindImpossible => self.rewind_impossible = true,
            Done::NoRoom(room) => self.no_room = Some((room, Instant::now())),
            Done::Prepared(epoch) => self.prepared = Some(epoch),
            Done::Drained(request, at) => self.drained = Some((request, at)),
            Done::Undrained => self.drained = None,
            Done::RequestDone(request) => self.done_request = Some(request),
        }
    }

    /// A verdict is logged when it changes, not each turn.
    fn note_verdict(&mut self, verdict: &MemberVerdict) {
        let (code, text) = (verdict.reason.code(), verdict.reason.to_string());
        // What it is busy with was logged when it began.
        if code == "busy" && self.verdict.is_some() {
            return;
        }
        let is_same = self.verdict.as_ref().is_some_and(|line| line.code == code);
        if is_same {
            if let Some(line) = &mut self.verdict {
                line.text = text;
            }
            return;
        }
        tracing::info!(reason = code, action = ?verdict.action, "{text}");
        self.verdict = Some(VerdictLine {
            rule: "member".to_owned(),
            code: code.to_owned(),
            text,
            since: now(),
        });
    }

    /// Whether the next confirmed renewal is what this member waits for.
    fn waits_for_lease(&self) -> bool {
        self.verdict
            .as_ref()
            .is_some_and(|line| line.code == "waiting-for-lease")
    }

    /// How soon to look again when nothing is to be done.
    fn pace(&self, state: &ClusterState) -> Duration {
        if self.is_settling(state) {
            return BRISK;
        }
        // Who confirms commits here is being changed: every flush that a standby shows is news.
        let is_changing = self.standbys.is_some() && state.live_rules.len() > 1;
        if is_changing { CHANGING } else { CALM }
    }

    /// Whether something is under way that a quick look would shorten.
    fn is_settling(&self, state: &ClusterState) -> bool {
        let is_open = state.granted().is_some_and(|reign| reign.is_activated);
        let is_calm = self
            .verdict
            .as_ref()
            .is_some_and(|line| matches!(line.code.as_str(), "serving" | "following" | "witness"));
        state.system_identifier.is_some() && (!is_open || !is_calm)
            || state.moving_request().is_some()
    }
}
