//! One action at a time: carries out what `decide_member` said, and tells the loop how it ended.
//!
//! Holds no rule. Each action can be dropped at any await (a fence pre-empts it): what must survive
//! that is made durable before the step it protects.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::Action;
use cluster_core::decide::rule_setter::first_value;
use cluster_core::model::lease::LeaseTimes;
use cluster_core::model::member::SealReport;
use cluster_core::model::settings::Role;
use cluster_core::model::snapshot::RestoredNote;
use cluster_core::model::view::{Marker, NoRoom, Seen};
use cluster_core::model::{
    ClusterState, Epoch, Incarnation, Lsn, MemberKind, MemberName, PostgresStatus, RequestId,
    TimelineId,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::board::{LeaseView, Propose, ProposeError};
use crate::callbacks::Callbacks;
use crate::lease::{LeaseKeeper, now};
use crate::poolers::Poolers;
use crate::postgres::{
    self, ConfigInputs, CopyOf, Gate, GuardSupervisor, MemberAddress, Postgres, Progress, Upstream,
    WantedSlot,
};
use crate::raft::AppliedState;

use super::durable::{self, DurableRecord};
use super::observe::{observe, process_set};
use super::parameters;

/// Waiting for the receiver to go.
pub(super) const DETACH_LIMIT: Duration = Duration::from_secs(10);
/// A promotion that takes longer is given up: the epoch is used.
const PROMOTE_LIMIT: Duration = Duration::from_secs(30);
/// A checkpoint before a hand-over.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(25);
/// The target of a hand-over catches up after writers are gone.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// A clean stop, then immediate, then kill.
const STOP_BUDGET: Duration = Duration::from_secs(60);
/// So many looks in a row, a few milliseconds apart, without a client session: then none writes.
const SILENT_LOOKS: u32 = 2;
/// How long a rewound server may take to reach consistency.
const REWOUND_START_LIMIT: Duration = Duration::from_secs(3600);
/// The source of a rewind has its first checkpoint by then.
const SOURCE_CHECKPOINT_LIMIT: Duration = Duration::from_secs(120);
/// One attempt to tell the leader.
const TELL_LIMIT: Duration = Duration::from_secs(2);
/// How often a wait looks again.
pub(super) const STEP: Duration = Duration::from_millis(5);
/// The same while clients are kept out.
const LOOK: Duration = Duration::from_millis(2);

/// Why an action did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL or one of its tools.
    #[error("could not {doing}")]
    Postgres {
        /// What was tried.
        doing: &'static str,
        /// How it failed.
        #[source]
        source: postgres::Error,
    },
    /// The durable record.
    #[error("could not keep a promise")]
    Durable(#[from] durable::Error),
    /// The leader.
    #[error("could not tell the leader")]
    Propose(#[from] ProposeError),
    /// The guard.
    #[error("the guard did not do it: {0}")]
    Guard(String),
    /// Something needed is not known.
    #[error("{0}")]
    Unknown(String),
    /// Not in time.
    #[error("{what} took longer than {limit:?}")]
    TimedOut {
        /// What.
        what: &'static str,
        /// How long it may take.
        limit: Duration,
    },
}

pub(super) fn doing(what: &'static str) -> impl FnOnce(postgres::Error) -> Error {
    move |source| Error::Postgres {
        doing: what,
        source,
    }
}

/// What the loop must remember of an action that ended well.
#[derive(Debug)]
pub enum Done {
    /// Nothing.
    Plain,
    /// The end of WAL of the stopped server.
    Sealed(SealReport),
    /// Stopped because it had diverged.
    NeedsRewind,
    /// It follows the primary's line again, as a new incarnation.
    Rejoined {
        /// The request that asked for it, if any.
        request: Option<RequestId>,
    },
    /// Only a clone cures it.
    RewindImpossible,
    /// A clone does not fit.
    NoRoom(NoRoom),
    /// Roles and slots are there.
    Prepared(Epoch),
    /// Writers are gone and the target has everything.
    Drained(RequestId, Lsn),
    /// Clients are back.
    Undrained,
    /// A request was carried out.
    RequestDone(RequestId),
}

/// Everything an action needs; cheap to clone.
#[derive(Clone)]
pub struct Actor {
    /// Own name.
    pub me: MemberName,
    /// The server.
    pub postgres: Postgres,
    /// Its guard.
    pub guard: Arc<GuardSupervisor>,
    /// The durable record.
    pub durable: DurableRecord,
    /// The lease.
    pub lease: LeaseKeeper,
    /// The way to the leader.
    pub proposer: Arc<dyn Propose>,
    /// The merged reports, to see how far a source is.
    pub merged: watch::Receiver<Arc<std::collections::BTreeMap<MemberName, Seen>>>,
    /// The applied truth, to see that an epoch is over.
    pub applied: watch::Receiver<Arc<AppliedState>>,
    /// The operator's programs.
    pub callbacks: Callbacks,
    /// PgBouncers that wait while the primary moves.
    pub poolers: Poolers,
}

/// What was true when the action was decided.
#[derive(Clone)]
pub struct Context {
    /// The applied truth.
    pub state: Arc<ClusterState>,
    /// Times in force.
    pub times: LeaseTimes,
    /// The newest flush position seen while PostgreSQL was primary here, and its timeline.
    pub last_flush: Option<(TimelineId, Lsn)>,
    /// Told about the bytes of long work.
    pub progress: watch::Sender<Progress>,
}

impl Actor {
    /// Carries out one action.
    ///
    /// # Errors
    /// [`Error`]; the loop looks again and decides anew.
    pub async fn perform(&self, action: Action, context: Context) -> Result<Done, Error> {
        match action {
            Action::Idle => Ok(Done::Plain),
            Action::Initdb => self.initdb().await,
            Action::Adopt => self.adopt().await,
            Action::Promise { epoch } => {
                self.durable
                    .change(move |kept| kept.min_epoch = kept.min_epoch.max(epoch))
                    .await?;
                Ok(Done::Plain)
            }
            Action::FastForward {
                from,
                target,
                timeline,
                until,
            } => {
                self.fast_forward(&from, target, (timeline, until), &context)
                    .await
            }
            Action::Detach { .. } => {
                self.postgres
                    .detach(DETACH_LIMIT)
                    .await
                    .map_err(doing("stop receiving WAL"))?;
                Ok(Done::Plain)
            }
            Action::ReadEndOfWal { target } => self.read_end_of_wal(target, &context).await,
            Action::ReplayEverything { .. } => self.replay_everything().await,
            Action::StartSealed => {
                let inputs = self.inputs(&context.state);
                self.postgres
                    .start_standby(&inputs)
                    .await
                    .map_err(doing("start PostgreSQL"))?;
                Ok(Done::Plain)
            }
            Action::Attach { to, epoch } => self.attach(&to, epoch, &context).await,
            Action::StopDiverged => {
                self.postgres
                    .stop_budgeted(STOP_BUDGET)
                    .await
                    .map_err(doing("stop PostgreSQL"))?;
                Ok(Done::NeedsRewind)
            }
            Action::Rewind { from, epoch } => self.rewind(&from, epoch, &context).await,
            Action::Clone {
                from,
                epoch,
                request,
                in_place,
            } => {
                let cloned = self
                    .clone_from(&from, (epoch, request), in_place, context)
                    .await;
                no_room(cloned, in_place.is_some())
            }
            Action::Promote {
                epoch,
                timeline,
                start,
            } => self.promote(epoch, timeline, start, &context).await,
            Action::Prepare { epoch } => self.prepare(epoch, &context.state).await,
            Action::Tell(command) => self.tell(*command).await,
            Action::RestoreSignal => {
                self.postgres
                    .put_standby_signal()
                    .map_err(doing("write standby.signal"))?;
                Ok(Done::Plain)
            }
            Action::Open { .. } => {
                self.postgres
                    .open_gate()
                    .await
                    .map_err(doing("let clients in"))?;
                Ok(Done::Plain)
            }
            Action::Drain { request, to } => self.drain(request, &to).await,
            Action::Undrain => {
                self.postgres
                    .open_gate()
                    .await
                    .map_err(doing("let clients in"))?;
                Ok(Done::Undrained)
            }
            Action::MarkUsed { epoch } => self.mark_used(epoch).await.map(|()| Done::Plain),
            Action::Fence { why } => self.fence(&why, &context.state).await,
            Action::Quarantine { why } => self.quarantine(&why, &context.state).await,
            Action::KillForeign => {
                self.guard
                    .kill_foreign()
                    .await
                    .map_err(|error| Error::Guard(error.to_string()))?;
                Ok(Done::Plain)
            }
            Action::RestartStandby { request } => {
                self.callbacks.before_stop().await;
                self.postgres
                    .stop_budgeted(STOP_BUDGET)
                    .await
                    .map_err(doing("stop PostgreSQL"))?;
                let inputs = self.inputs(&context.state);
                self.postgres
                    .start_standby(&inputs)
                    .await
                    .map_err(doing("start PostgreSQL"))?;
                Ok(match request {
                    Some(request) => Done::RequestDone(request),
                    None => Done::Plain,
                })
            }
            Action::Reload { request } => {
                let is_holder = context
                    .state
                    .granted()
                    .is_some_and(|reign| reign.holder == self.me);
                let role = if is_holder {
                    Role::Primary
                } else {
                    Role::Standby
                };
                let wanted = parameters::of(&self.me, &context.state.settings, role);
                let members = member_addresses(&self.me, &context.state);
                let edit = |inputs: &mut ConfigInputs| {
                    wanted.put(inputs);
                    inputs.members = members;
                };
                self.postgres
                    .edit_config(edit)
                    .await
                    .map_err(doing("reload PostgreSQL"))?;
                Ok(Done::RequestDone(request))
            }
        }
    }

    /// Configuration of a sealed standby: no upstream, the fence, the gate closed.
    fn inputs(&self, state: &ClusterState) -> ConfigInputs {
        let mut inputs = ConfigInputs {
            members: member_addresses(&self.me, state),
            ..ConfigInputs::default()
        };
        parameters::of(&self.me, &state.settings, Role::Standby).put(&mut inputs);
        inputs
    }

    /// What a restore left in the directory is told to the cluster before the data can become its: from
    /// then on nobody archives where the old cluster did [K3]. Told twice, it changes nothing.
    async fn adopt(&self) -> Result<Done, Error> {
        let note = self.postgres.restored_note();
        if let Some(text) = note.map_err(doing("read where the data came from"))? {
            let note: RestoredNote = serde_json::from_str(&text).map_err(|error| {
                Error::Unknown(format!("where the data came from cannot be read: {error}"))
            })?;
            let command = Command::Restored {
                member: self.me.clone(),
                origin: Box::new(note.origin),
                settings: Box::new(note.settings),
            };
            self.proposer.propose(command).await?;
            let forgotten = self.postgres.forget_restored_note();
            forgotten.map_err(doing("remove the note of a restore"))?;
        }
        self.new_incarnation().await?;
        Ok(Done::Plain)
    }

    async fn new_incarnation(&self) -> Result<Incarnation, Error> {
        let incarnation = Incarnation(rand::random());
        self.durable
            .change(move |kept| {
                kept.incarnation = Some(incarnation);
                kept.marker = None;
                kept.promoted = Epoch::NONE;
            })
            .await?;
        Ok(incarnation)
    }

    async fn initdb(&self) -> Result<Done, Error> {
        self.durable
            .change(|kept| kept.marker = Some(Marker::Initdb))
            .await?;
        self.postgres
            .initdb()
            .await
            .map_err(doing("make the first data directory"))?;
        self.new_incarnation().await?;
        Ok(Done::Plain)
    }

    pub(super) fn upstream(
        &self,
        to: &MemberName,
        epoch: Epoch,
        state: &ClusterState,
    ) -> Result<Upstream, Error> {
        let address = state
            .members
            .get(to)
            .map(|member| member.addresses.postgres.clone())
            .unwrap_or_default();
        let (host, port) = address
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
            .ok_or_else(|| {
                Error::Unknown(format!("where {to}'s PostgreSQL listens is not known"))
            })?;
        let incarnation = self
            .durable
            .get()
            .incarnation
            // A clone has none yet; the name it streams the copy under is in no rule.
            .unwrap_or(Incarnation(0));
        Ok(Upstream {
            member: to.clone(),
            host,
            port,
            epoch,
            incarnation,
            slot: Some(self.me.slot_name()),
            is_forward: false,
        })
    }

    async fn attach(
        &self,
        to: &MemberName,
        epoch: Epoch,
        context: &Context,
    ) -> Result<Done, Error> {
        let upstream = self.upstream(to, epoch, &context.state)?;
        // Following e is a promise too: nothing older is ever acknowledged again.
        let kept = self
            .durable
            .change(move |kept| {
                kept.min_epoch = kept.min_epoch.max(epoch);
                kept.promoted = Epoch::NONE;
                kept.line = kept.line.max(Some(epoch));
            })
            .await?;
        if kept.min_epoch > epoch {
            return Err(Error::Unknown(format!(
                "a newer epoch than {epoch} was promised"
            )));
        }
        let inputs = ConfigInputs {
            upstream: Some(upstream),
            gate: Gate::Open,
            ..self.inputs(&context.state)
        };
        self.postgres
            .apply_config(&inputs)
            .await
            .map_err(doing("follow the primary"))?;
        Ok(Done::Plain)
    }

    async fn rewind(
        &self,
        from: &MemberName,
        epoch: Epoch,
        context: &Context,
    ) -> Result<Done, Error> {
        let upstream = self.upstream(from, epoch, &context.state)?;
        self.wait_for_checkpoint(from, epoch).await?;
        self.may_hold(epoch).await?;
        let control = self
            .postgres
            .control_data()
            .await
            .map_err(doing("read the control file"))?;
        let timeline = control
            .min_recovery_timeline
            .unwrap_or(control.checkpoint_timeline);
        let reign = context.state.followable();
        let target = reign.map(|reign| reign.timeline).unwrap_or(timeline);
        let fork = match context
            .state
            .ledger
            .relation(timeline, control.min_recovery_end, target)
        {
            cluster_core::model::ledger::Relation::Diverged { fork } => fork,
            _ => return Err(Error::Unknown("it has not diverged".to_owned())),
        };
        let left = context.state.ledger.left_behind(timeline, target, fork);
        match self.postgres.rewind(&upstream, &left, fork).await {
            Ok(outcome) => {
                tracing::info!(?outcome, "rewound");
                self.new_incarnation().await?;
                self.start_rewound(from, epoch, context).await?;
                Ok(Done::Rejoined { request: None })
            }
            Err(postgres::Error::NeedsClone { why }) => {
                tracing::warn!(why, "a rewind is not possible");
                Ok(Done::RewindImpossible)
            }
            Err(source) => Err(Error::Postgres {
                doing: "rewind",
                source,
            }),
        }
    }

    /// The first start after a rewind has the upstream at once: the directory is consistent only at a
    /// position whose WAL lies at the source alone. pg_rewind itself has put it on that line.
    async fn start_rewound(
        &self,
        from: &MemberName,
        epoch: Epoch,
        context: &Context,
    ) -> Result<(), Error> {
        let upstream = self.upstream(from, epoch, &context.state)?;
        let inputs = ConfigInputs {
            upstream: Some(upstream),
            ..self.inputs(&context.state)
        };
        self.postgres
            .start_standby(&inputs)
            .await
            .map_err(doing("start PostgreSQL"))?;
        let mut applied = self.applied.clone();
        let is_over = applied.wait_for(|applied| {
            let reign = applied.state.granted();
            reign.is_none_or(|reign| reign.epoch != epoch)
        });
        tokio::select! {
            answers = self.postgres.wait_answering(REWOUND_START_LIMIT) => {
                answers.map_err(doing("wait for the rewound server"))?;
            }
            _ = is_over => {
                return Err(Error::Unknown(format!("epoch {epoch} is over")));
            }
        }
        self.attach(from, epoch, context).await.map(drop)
    }

    /// Until the source says that it has completed a checkpoint in this epoch.
    async fn wait_for_checkpoint(&self, from: &MemberName, epoch: Epoch) -> Result<(), Error> {
        let mut merged = self.merged.clone();
        let limit = SOURCE_CHECKPOINT_LIMIT;
        let seen = merged.wait_for(|reports| {
            reports
                .get(from)
                .is_some_and(|seen| seen.report.checkpointed >= epoch)
        });
        match timeout(limit, seen).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_closed)) => Err(Error::Unknown("this daemon is stopping".to_owned())),
            Err(_elapsed) => Err(Error::TimedOut {
                what: "the checkpoint of the source",
                limit,
            }),
        }
    }

    async fn clone_from(
        &self,
        from: &MemberName,
        (epoch, request): (Epoch, Option<RequestId>),
        in_place: Option<u64>,
        context: Context,
    ) -> Result<Done, Error> {
        let upstream = self.upstream(from, epoch, &context.state)?;
        let upstream = Upstream {
            slot: None,
            ..upstream
        };
        self.postgres
            .stop_budgeted(STOP_BUDGET)
            .await
            .map_err(doing("stop PostgreSQL"))?;
        let inputs = self.inputs(&context.state);
        self.postgres
            .apply_config(&inputs)
            .await
            .map_err(doing("write the configuration"))?;
        let reign = context.state.reign.as_ref();
        let reign = reign.filter(|reign| reign.epoch == epoch);
        let wanted = context.state.system_identifier.zip(reign);
        let wanted = wanted.map(|(database, reign)| CopyOf {
            database,
            timeline: reign.timeline,
        });
        let cloned = match in_place {
            None => {
                let postgres = &self.postgres;
                postgres
                    .clone_from(&upstream, wanted, context.progress)
                    .await
            }
            Some(needs_bytes) => {
                self.postgres
                    .require_room_in_place(needs_bytes)
                    .map_err(doing("clone in place"))?;
                tracing::warn!(
                    needs_bytes,
                    "the old copy is removed before the new one is made"
                );
                self.durable
                    .change(|kept| kept.marker = Some(Marker::Clone))
                    .await?;
                let postgres = &self.postgres;
                postgres
                    .clone_in_place(&upstream, wanted, context.progress)
                    .await
            }
        };
        cloned.map_err(doing("clone"))?;
        // Not before: until the copy is in place the old data goes on following whom it follows.
        self.may_hold(epoch).await?;
        self.new_incarnation().await?;
        Ok(Done::Rejoined { request })
    }

    /// `used` durable, guard armed, promote; the order is the point.
    async fn promote(
        &self,
        epoch: Epoch,
        timeline: TimelineId,
        start: Lsn,
        context: &Context,
    ) -> Result<Done, Error> {
        let used = self.durable.change(move |kept| {
            kept.used = kept.used.max(epoch);
            kept.promoted = epoch;
            kept.line = kept.line.max(Some(epoch));
        });
        let newest = self.lease.newest_rule(epoch);
        let (rule, sync_names) = first_value(&context.state, epoch, newest);
        let inputs = ConfigInputs {
            rule,
            sync_names,
            ..self.inputs(&context.state)
        };
        // Configuring a sealed standby promotes nothing: it need not wait for the disk.
        let (used, armed, configured) = tokio::join!(
            used,
            self.wait_until_armed(epoch, context.times.renew * 4),
            self.postgres.apply_config(&inputs),
        );
        used?;
        armed?;
        configured.map_err(doing("configure the promotion"))?;
        if !self
            .lease
            .holder()
            .may_promote(epoch, now(), &context.times)
        {
            return self
                .give_up(format!("the lease of epoch {epoch} is not fresh"))
                .await;
        }
        match self.postgres.promote(epoch, timeline, PROMOTE_LIMIT).await {
            Ok(promotion) if promotion.fork == start => {
                // What fails here is done again by the loop, and `Promoted` is told by it then.
                let Ok(prepared) = self.prepare(epoch, &context.state).await else {
                    return Ok(Done::Plain);
                };
                // Not through another look: everybody waits for it.
                let told = self.tell(Command::Promoted {
                    epoch,
                    member: self.me.clone(),
                    fork: start,
                });
                if let Err(error) = told.await {
                    tracing::debug!(%error, "the promotion is told again");
                }
                Ok(prepared)
            }
            Ok(promotion) => {
                self.give_up(format!("it forked at {}, not at {start}", promotion.fork))
                    .await
            }
            Err(source) => {
                tracing::warn!(error = %source, "the promotion failed; the server is killed");
                let _ = self.postgres.kill("a promotion failed").await;
                Err(Error::Postgres {
                    doing: "promote",
                    source,
                })
            }
        }
    }

    async fn give_up(&self, why: String) -> Result<Done, Error> {
        let _ = self.postgres.kill(&why).await;
        Err(Error::Unknown(why))
    }

    /// The lease thread arms the guard with every confirmed renewal, before it tells anybody.
    async fn wait_until_armed(&self, epoch: Epoch, limit: Duration) -> Result<(), Error> {
        let mut lease = self.lease.watch();
        let armed = async {
            loop {
                let status = self.guard.fresh_status().await;
                if status.is_ok_and(|status| process_set(&status).armed == Some(epoch)) {
                    return;
                }
                let _ = timeout(STEP, lease.changed()).await;
            }
        };
        timeout(limit, armed).await.map_err(|_| Error::TimedOut {
            what: "arming the guard",
            limit,
        })
    }

    /// The first primary of a cluster makes the roles; every primary has a slot for every member.
    async fn prepare(&self, epoch: Epoch, state: &ClusterState) -> Result<Done, Error> {
        let had_primary = state
            .ledger
            .entries
            .iter()
            .any(|entry| entry.epoch < epoch && entry.fork.is_some());
        // Not "the first epoch": that one may have been lost before it made them.
        if !had_primary {
            self.postgres
                .create_roles()
                .await
                .map_err(doing("create the roles"))?;
        }
        let wanted = wanted_slots(&self.me, state, &[]);
        self.postgres
            .apply_slots(&wanted)
            .await
            .map_err(doing("make the slots"))?;
        if let Some(reign) = state.granted() {
            // Not waited for.
            drop(self.postgres.keep_parent(reign.timeline));
        }
        Ok(Done::Prepared(epoch))
    }

    async fn tell(&self, command: Command) -> Result<Done, Error> {
        match timeout(TELL_LIMIT, self.proposer.propose(command)).await {
            Ok(told) => told.map(|()| Done::Plain).map_err(Error::from),
            Err(_elapsed) => Err(Error::TimedOut {
                what: "telling the leader",
                limit: TELL_LIMIT,
            }),
        }
    }

    async fn mark_used(&self, epoch: Epoch) -> Result<(), Error> {
        self.durable
            .change(move |kept| kept.used = kept.used.max(epoch))
            .await?;
        Ok(())
    }

    /// Whatever this member holds is used up first, so that no restart can promote again.
    async fn fence(&self, why: &str, state: &ClusterState) -> Result<Done, Error> {
        let held = state.reign.as_ref().filter(|reign| reign.holder == self.me);
        if let Some(reign) = held {
            let epoch = reign.epoch;
            // The kill must not wait for a disk that is the very reason for it.
            let marked = timeout(Duration::from_millis(200), self.mark_used(epoch)).await;
            if !matches!(marked, Ok(Ok(()))) {
                tracing::warn!(%epoch, "could not mark the epoch as used before the kill");
            }
        }
        let _ = self.postgres.cancel_tools().await;
        self.postgres
            .kill(why)
            .await
            .map_err(doing("kill PostgreSQL"))?;
        Ok(Done::Plain)
    }

    /// What was seen is gone with the server, so it is kept first; a disk that does not take it must
    /// not hold up the kill.
    async fn quarantine(&self, why: &str, state: &ClusterState) -> Result<Done, Error> {
        let mark = || {
            self.durable
                .change(|kept| kept.marker = Some(Marker::Strayed))
        };
        let marked = timeout(Duration::from_millis(200), mark()).await;
        self.fence(why, state).await?;
        if !matches!(marked, Ok(Ok(_))) {
            mark().await?;
        }
        tracing::warn!(
            why,
            "this data is not the cluster's; it will be replaced by a clone"
        );
        Ok(Done::Plain)
    }

    /// WAL of this epoch may lie here from now on.
    pub(super) async fn may_hold(&self, epoch: Epoch) -> Result<(), Error> {
        self.durable
            .change(move |kept| kept.line = kept.line.max(Some(epoch)))
            .await?;
        Ok(())
    }

    /// The operator's program and a checkpoint first, while clients still write; then the poolers hold them
    /// back, and the gap begins.
    async fn drain(&self, request: RequestId, to: &MemberName) -> Result<Done, Error> {
        self.callbacks.before_stop().await;
        self.postgres
            .checkpoint(CHECKPOINT_LIMIT)
            .await
            .map_err(doing("checkpoint"))?;
        self.poolers.pause(&request).await;
        let begin = Instant::now();
        let passed = |what| tracing::debug!(what, ms = milliseconds(begin.elapsed()), "drain");
        self.postgres
            .close_gate()
            .await
            .map_err(doing("keep clients out"))?;
        passed("closed");
        let drained = async {
            self.wait_until_silent().await?;
            passed("silent");
            // A session that was ended leaves the record of its abort behind, flushed by nobody. It would come to
            // the disk after the target was asked, and the old primary would have more than anybody.
            let flushed = self.postgres.nudge().await;
            flushed.map_err(doing("flush what ended sessions left"))?;
            let at = self.wait_until_flushed(to).await;
            passed("flushed");
            at
        };
        match timeout(DRAIN_LIMIT, drained).await {
            Ok(drained) => drained.map(|at| Done::Drained(request, at)),
            Err(_elapsed) => Err(Error::TimedOut {
                what: "draining",
                limit: DRAIN_LIMIT,
            }),
        }
    }

    /// A session told to end may finish its commit first, and one that was logging in while the gate
    /// closed is not seen yet: only a silence that lasts means that nobody writes.
    async fn wait_until_silent(&self) -> Result<(), Error> {
        let mut looks_without_sessions = 0_u32;
        loop {
            let told = self.postgres.end_client_sessions().await;
            match told.map_err(doing("end client sessions"))? {
                0 => looks_without_sessions += 1,
                _ => looks_without_sessions = 0,
            }
            if looks_without_sessions >= SILENT_LOOKS {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Until `to` has flushed everything this primary has; says how much that is.
    async fn wait_until_flushed(&self, to: &MemberName) -> Result<Lsn, Error> {
        let prefix = format!("{to}~");
        loop {
            let looked = observe(&self.postgres, &self.guard).await;
            let PostgresStatus::Primary(primary) = looked.postgres else {
                return Err(Error::Unknown("it is no primary any more".to_owned()));
            };
            let has_all = primary.senders.iter().any(|sender| {
                sender.application_name.starts_with(&prefix) && sender.flushed >= primary.flushed
            });
            if has_all {
                return Ok(primary.flushed);
            }
            sleep(LOOK).await;
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// That a clone does not fit is something to remember, not to try again at once.
fn no_room(cloned: Result<Done, Error>, even_in_place: bool) -> Result<Done, Error> {
    match cloned {
        Err(Error::Postgres {
            source:
                postgres::Error::NoRoom {
                    needs_bytes,
                    has_bytes,
                },
            ..
        }) => Ok(Done::NoRoom(NoRoom {
            needs_bytes,
            has_bytes,
            even_in_place,
        })),
        other => other,
    }
}

/// Who may stream from this member: every other one with a PostgreSQL, from where Raft knows it.
pub fn member_addresses(me: &MemberName, state: &ClusterState) -> Vec<MemberAddress> {
    state
        .members
        .iter()
        .filter(|(name, member)| *name != me && member.kind == MemberKind::Database)
        .filter_map(|(name, member)| hba_address(name, &member.addresses.postgres))
        .collect()
}

fn hba_address(name: &MemberName, address: &str) -> Option<MemberAddress> {
    let (host, _port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let mut addresses: Vec<std::net::IpAddr> = host.parse().into_iter().collect();
    // Between loopback addresses of one host every connection comes from the first of them.
    let first = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    if addresses
        .iter()
        .any(|address| address.is_loopback() && *address != first)
    {
        addresses.push(first);
    }
    let host_name = addresses.is_empty().then(|| host.to_owned());
    Some(MemberAddress {
        member: name.clone(),
        addresses,
        host_name,
    })
}

/// A slot for every other member with a PostgreSQL, moved along to where that member is known to be.
pub fn wanted_slots(
    me: &MemberName,
    state: &ClusterState,
    reached: &[(MemberName, Lsn)],
) -> Vec<WantedSlot> {
    state
        .databases()
        .filter(|(name, _)| *name != me)
        .map(|(name, _)| WantedSlot {
            name: name.slot_name(),
            reached: reached
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, lsn)| *lsn),
        })
        .collect()
}
