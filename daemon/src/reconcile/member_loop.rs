//! The member's loop: look, decide, act, tell. One thing a turn.
//!
//! A turn is quick. What takes long runs as one task; the loop goes on looking meanwhile, and the
//! only thing that may interrupt that task is a fence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::decide::{Action, MemberVerdict, Reason, decide_member, wants_renewal};
use cluster_core::model::lease::{LeaseTimes, Moment};
use cluster_core::model::member::{Addresses, Tags};
use cluster_core::model::view::{MemberView, ProcessSet, Seen};
use cluster_core::model::{MemberName, MemberReport, NodeId, PostgresStatus};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::board::{LeaseView, VerdictLine};
use crate::callbacks::Callbacks;
use crate::guard_client::Guard;
use crate::lease::{LeaseKeeper, now};
use crate::postgres::Progress;
use crate::raft::ClusterStore;
use crate::telemetry;

use super::act::{Actor, Context, Done, Error};
use super::high_water::HighWater;
use super::memory::{BRISK, CALM, Memory};
use super::observe::{Observation, observe};
use super::probes::Findings;
use super::rule_keeper::Kept;
use super::running::{Running, kills, milliseconds, released_epoch, starts_something, word};

/// After a message that did not reach the leader.
const TELL_AGAIN: Duration = Duration::from_millis(40);
/// What was seen just before a promise counts for so long. Judgement: a few looks on a busy machine.
const STILL_SO: Duration = Duration::from_millis(50);
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
