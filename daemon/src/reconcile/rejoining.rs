//! Following the primary's line: attached as it is, rewound, or cloned anew.
//!
//! Holds no rule; `cluster_core::decide::rejoin` says which of them is wanted.

use std::time::Duration;

use cluster_core::model::view::{Marker, NoRoom};
use cluster_core::model::{ClusterState, Epoch, Incarnation, MemberName, RequestId};
use tokio::time::timeout;

use crate::postgres::{self, ConfigInputs, CopyOf, Gate, Upstream};

use super::act::{Actor, Context, Done, Error, STOP_BUDGET, doing};

/// How long a rewound server may take to reach consistency.
const REWOUND_START_LIMIT: Duration = Duration::from_secs(3600);
/// The source of a rewind has its first checkpoint by then.
const SOURCE_CHECKPOINT_LIMIT: Duration = Duration::from_secs(120);

impl Actor {
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

    pub(super) async fn attach(
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

    pub(super) async fn rewind(
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

    pub(super) async fn clone_from(
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
}

/// That a clone does not fit is something to remember, not to try again at once.
pub(super) fn no_room(cloned: Result<Done, Error>, even_in_place: bool) -> Result<Done, Error> {
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
