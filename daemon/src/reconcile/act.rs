//! One action at a time: carries out what `decide_member` said, and tells the loop how it ended.
//!
//! Holds no rule. Each action can be dropped at any await (a fence pre-empts it): what must survive
//! that is made durable before the step it protects.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::Action;
use cluster_core::model::lease::LeaseTimes;
use cluster_core::model::member::SealReport;
use cluster_core::model::settings::Role;
use cluster_core::model::snapshot::RestoredNote;
use cluster_core::model::view::{Marker, NoRoom, Seen};
use cluster_core::model::{
    ClusterState, Epoch, Incarnation, Lsn, MemberName, RequestId, TimelineId,
};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::board::{Propose, ProposeError};
use crate::callbacks::Callbacks;
use crate::lease::LeaseKeeper;
use crate::poolers::Poolers;
use crate::postgres::{self, ConfigInputs, GuardSupervisor, Postgres, Progress};
use crate::raft::AppliedState;

use super::durable::{self, DurableRecord};
use super::neighbours::member_addresses;
use super::parameters;
use super::rejoining::no_room;

/// Waiting for the receiver to go.
pub(super) const DETACH_LIMIT: Duration = Duration::from_secs(10);
/// A clean stop, then immediate, then kill.
pub(super) const STOP_BUDGET: Duration = Duration::from_secs(60);
/// One attempt to tell the leader.
const TELL_LIMIT: Duration = Duration::from_secs(2);
/// How often a wait looks again.
pub(super) const STEP: Duration = Duration::from_millis(5);

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
    pub(super) fn inputs(&self, state: &ClusterState) -> ConfigInputs {
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

    pub(super) async fn new_incarnation(&self) -> Result<Incarnation, Error> {
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

    pub(super) async fn tell(&self, command: Command) -> Result<Done, Error> {
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
}
