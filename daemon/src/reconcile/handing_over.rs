//! The old primary's part of a hand-over: writers are gone, and the target has everything.

use std::time::Duration;

use cluster_core::model::{Lsn, MemberName, PostgresStatus, RequestId};
use tokio::time::{Instant, sleep, timeout};

use super::act::{Actor, Done, Error, doing};
use super::observe::observe;

/// A checkpoint before a hand-over.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(25);
/// The target of a hand-over catches up after writers are gone.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// So many looks in a row, a few milliseconds apart, without a client session: then none writes.
const SILENT_LOOKS: u32 = 2;
/// The same while clients are kept out.
const LOOK: Duration = Duration::from_millis(2);

impl Actor {
    /// The operator's program and a checkpoint first, while clients still write; then the poolers hold them
    /// back, and the gap begins.
    pub(super) async fn drain(&self, request: RequestId, to: &MemberName) -> Result<Done, Error> {
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
