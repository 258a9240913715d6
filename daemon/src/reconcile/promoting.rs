//! Becoming the primary of an epoch, once: `used` durable, guard armed, promoted, prepared, told.

use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::rule_setter::first_value;
use cluster_core::model::{ClusterState, Epoch, Lsn, TimelineId};
use tokio::time::timeout;

use crate::board::LeaseView;
use crate::lease::now;
use crate::postgres::ConfigInputs;

use super::act::{Actor, Context, Done, Error, STEP, doing};
use super::neighbours::wanted_slots;
use super::observe::process_set;

/// A promotion that takes longer is given up: the epoch is used.
const PROMOTE_LIMIT: Duration = Duration::from_secs(30);

impl Actor {
    /// `used` durable, guard armed, promote; the order is the point.
    pub(super) async fn promote(
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
    pub(super) async fn prepare(&self, epoch: Epoch, state: &ClusterState) -> Result<Done, Error> {
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
}
