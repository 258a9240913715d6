//! The parts of sealing that take steps of their own: the end of WAL from files, what another sealed
//! member has more, and a replay that nobody holds back any more.
//!
//! Holds no rule; `cluster_core::decide::seal` says which of them is wanted.

use std::time::Duration;

use cluster_core::model::member::SealReport;
use cluster_core::model::{Epoch, Incarnation, Lsn, MemberName, PostgresStatus, TimelineId};
use tokio::time::{sleep, timeout};

use crate::postgres::Upstream;

use super::act::{Actor, Context, DETACH_LIMIT, Done, Error, STEP, doing};
use super::observe::observe;

/// Fetching what the best sealed member has more: the tail of a WAL, usually a moment.
const FETCH_LIMIT: Duration = Duration::from_secs(60);
/// A replay that nobody pauses or delays any more goes on within this. Judgement: a paused startup
/// process looks once a second.
const LIFTED_SOON: Duration = Duration::from_secs(2);

impl Actor {
    /// The end of WAL as the files say. Of a former primary: from its last known flush position if that
    /// is the beginning of something, else from its last checkpoint.
    pub(super) async fn read_end_of_wal(
        &self,
        target: Epoch,
        context: &Context,
    ) -> Result<Done, Error> {
        let kept = self.durable.get();
        let incarnation = kept
            .incarnation
            .ok_or_else(|| Error::Unknown("no data directory".to_owned()))?;
        let looked = observe(&self.postgres, &self.guard).await;
        if let PostgresStatus::Standby(_) = looked.postgres {
            return self.read_held_end(target, incarnation).await;
        }
        let promoted = context
            .state
            .ledger
            .of_epoch(kept.promoted)
            .map(|entry| entry.timeline);
        let own = match promoted {
            Some(timeline) => {
                let fork = self
                    .postgres
                    .fork_of(timeline)
                    .map_err(doing("read the history"))?;
                fork.map(|fork| (timeline, fork))
            }
            None => None,
        };
        // A primary that was just stopped knows where it was: nothing else need be read, and others wait for it.
        let last = context.last_flush;
        let known = last.filter(|(seen, _)| own.is_some_and(|(timeline, _)| timeline == *seen));
        let end = match known {
            Some((timeline, flushed)) => self.end_from(flushed, timeline).await.ok(),
            None => None,
        };
        let (timeline, end) = match known.zip(end) {
            Some(((timeline, _), end)) => (timeline, end),
            None => self.end_from_checkpoint(own, context).await?,
        };
        let member = self.me.clone();
        Ok(Done::Sealed(SealReport {
            member,
            incarnation,
            target,
            timeline,
            end,
            is_running: false,
        }))
    }

    async fn end_from(&self, from: Lsn, timeline: TimelineId) -> Result<Lsn, Error> {
        let read = self.postgres.end_of_wal_on_disk(from, timeline).await;
        read.map_err(doing("read the end of WAL"))
    }

    /// From what the control file says, or from where its own reign began, whichever is later.
    async fn end_from_checkpoint(
        &self,
        own: Option<(TimelineId, Lsn)>,
        context: &Context,
    ) -> Result<(TimelineId, Lsn), Error> {
        let control = self
            .postgres
            .control_data()
            .await
            .map_err(doing("read the control file"))?;
        let timeline = own.map_or(control.checkpoint_timeline, |(timeline, _)| timeline);
        let checkpoint = control.redo.max(own.map_or(Lsn::ZERO, |(_, fork)| fork));
        if let Some((seen, flushed)) = context.last_flush
            && seen == timeline
            && let Ok(end) = self.end_from(flushed, timeline).await
        {
            return Ok((timeline, end));
        }
        Ok((timeline, self.end_from(checkpoint, timeline).await?))
    }

    /// A standby that is held back tells the end of what it has, as if it had replayed it.
    async fn read_held_end(&self, target: Epoch, incarnation: Incarnation) -> Result<Done, Error> {
        let held = self.postgres.end_of_held_wal().await;
        let (timeline, end) = held.map_err(doing("read the end of WAL"))?;
        Ok(Done::Sealed(SealReport {
            member: self.me.clone(),
            incarnation,
            target,
            timeline,
            end,
            is_running: true,
        }))
    }

    /// Ends whatever holds replay back: pause, delay, and the sessions whose queries are in its way.
    pub(super) async fn replay_everything(&self) -> Result<Done, Error> {
        let lifted = self.postgres.replay_everything().await;
        lifted.map_err(doing("let replay go on"))?;
        if timeout(LIFTED_SOON, self.wait_until_replay_goes_on())
            .await
            .is_ok()
            || self.postgres.inputs().keeps_sessions
        {
            return Ok(Done::Plain);
        }
        // Then a query of a client is in its way; a promotion would end that session as well.
        let ended = self.postgres.end_client_sessions().await;
        ended.map_err(doing("end client sessions"))?;
        // If it is still held afterwards, the loop decides the same again.
        let _ = timeout(LIFTED_SOON, self.wait_until_replay_goes_on()).await;
        Ok(Done::Plain)
    }

    async fn wait_until_replay_goes_on(&self) {
        while let PostgresStatus::Standby(standby) =
            observe(&self.postgres, &self.guard).await.postgres
            && standby.replay_is_held
        {
            sleep(STEP).await;
        }
    }

    /// Fetches from another sealed member what that one has more, and stops receiving again. Both have
    /// promised `target`: nothing of it can grow meanwhile.
    pub(super) async fn fast_forward(
        &self,
        from: &MemberName,
        target: Epoch,
        (timeline, until): (TimelineId, Lsn),
        context: &Context,
    ) -> Result<Done, Error> {
        if self.durable.get().min_epoch != target {
            return Err(Error::Unknown(format!(
                "not sealed for epoch {target} any more"
            )));
        }
        let of_timeline = context.state.ledger.entry(timeline);
        let of_timeline = of_timeline.map(|entry| entry.epoch).ok_or_else(|| {
            Error::Unknown(format!("timeline {timeline} is in no ledger known here"))
        })?;
        self.may_hold(of_timeline).await?;
        let upstream = Upstream {
            slot: None,
            is_forward: true,
            ..self.upstream(from, target, &context.state)?
        };
        self.postgres
            .attach(upstream)
            .await
            .map_err(doing("fetch what another member has more"))?;
        let fetched = timeout(FETCH_LIMIT, self.wait_until_replayed(until)).await;
        // Whatever came of it: no receiver is left, and the end of WAL is proven anew.
        self.postgres
            .detach(DETACH_LIMIT)
            .await
            .map_err(doing("stop receiving WAL"))?;
        match fetched {
            Ok(fetched) => fetched.map(|()| Done::Plain),
            Err(_elapsed) => Err(Error::TimedOut {
                what: "fetching what another member has more",
                limit: FETCH_LIMIT,
            }),
        }
    }

    async fn wait_until_replayed(&self, until: Lsn) -> Result<(), Error> {
        loop {
            let looked = observe(&self.postgres, &self.guard).await;
            let PostgresStatus::Standby(standby) = looked.postgres else {
                return Err(Error::Unknown("it is no standby any more".to_owned()));
            };
            if standby.replayed >= until {
                return Ok(());
            }
            sleep(STEP).await;
        }
    }
}
