//! The hand-over itself: wait until the group has chosen this member, stop the old server, let the
//! loops begin, measure the gap.
//!
//! The member loop and the chores are held back until the old server is gone: they look at the guard
//! and write to the data directory, and neither may happen before. Meanwhile one report of ours says
//! that this member brings data, so that the group's decision is made before the gap begins.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cluster_core::model::{MemberReport, NodeId, PostgresStatus};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::exchange::MergedView;
use crate::postgres::Postgres;
use crate::raft::{ClusterStore, DataDir};
use crate::reconcile::durable::DurableRecord;
use crate::telemetry;

use super::way_back::KEPT;
use super::{Looked, look, standby};

/// The checkpoint before the stop; a large server on slow disks takes its time, and clients go on.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(3600);
/// The stop: it has little to write after a checkpoint, but waits for streaming standbys.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(600);
/// After the checkpoint, the leader must be heard again within this.
const HEARD_LIMIT: Duration = Duration::from_secs(10);
/// A server that serves nobody after this long is told to the operator.
pub(super) const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// What the runtime holds back, and what it lends meanwhile.
pub struct Hold {
    /// Lets the member loop and the chores begin.
    pub release: watch::Sender<bool>,
    /// This member's report.
    pub report: watch::Sender<Option<MemberReport>>,
    /// PostgreSQL, as the member loop sees it later.
    pub seen: watch::Receiver<PostgresStatus>,
    /// Changes with every answer of the leader.
    pub heard: watch::Receiver<Option<Arc<MergedView>>>,
}

/// A take-over that was confirmed.
pub struct TakeOver {
    looked: Looked,
}

/// The member whose server is handed over.
pub struct Place<'a> {
    /// Its config.
    pub config: &'a Config,
    /// The truth.
    pub store: &'a ClusterStore,
    /// Its PostgreSQL, before the guard.
    pub postgres: &'a Postgres,
    /// What is held back.
    pub hold: &'a Hold,
    /// Its record.
    pub durable: &'a DurableRecord,
}

/// What was stopped, and may be started under the guard now.
#[derive(Clone, Copy, Debug)]
pub enum HandedOver {
    /// The old primary.
    Primary(Gap),
    /// An old standby.
    Standby,
}

/// The gap so far.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    began: Instant,
    checkpoint: Duration,
    stop: Duration,
}

impl TakeOver {
    pub(super) fn new(looked: Looked) -> TakeOver {
        TakeOver { looked }
    }

    /// What this member says of its data directory while the group forms.
    pub fn data_dir(&self) -> DataDir {
        let system_identifier = self.looked.facts.system_identifier;
        match self.looked.is_standby() {
            true => DataDir::Standby { system_identifier },
            false => DataDir::Adoptable { system_identifier },
        }
    }

    /// Waits for the group, then stops the old server; of a standby, when its primary is taken over.
    /// `first` is this member's report so far.
    ///
    /// # Errors
    /// Why it was not done; the old directory is as it was.
    pub async fn hand_over(
        &self,
        place: &Place<'_>,
        first: MemberReport,
    ) -> anyhow::Result<HandedOver> {
        let first = MemberReport {
            node: NodeId(place.store.identity().node_id),
            ..first
        };
        if self.looked.is_standby() {
            standby::hand_over(&self.looked, place, first).await?;
            return Ok(HandedOver::Standby);
        }
        let Place {
            config,
            store,
            postgres,
            hold,
            ..
        } = *place;
        self.wait_until_chosen(config, store, hold, first).await?;
        let gap = self.stop_old(config, postgres, hold).await?;
        Ok(HandedOver::Primary(gap))
    }

    /// Waits until the replicated truth says that this member brings the first data: the group has
    /// formed, a leader is ready, and a quorum has just written something because of us.
    async fn wait_until_chosen(
        &self,
        config: &Config,
        store: &ClusterStore,
        hold: &Hold,
        first: MemberReport,
    ) -> anyhow::Result<()> {
        hold.report.send_replace(Some(MemberReport {
            system_identifier: Some(self.looked.facts.system_identifier),
            postgres: PostgresStatus::Unknown {
                why: "the server to be taken over still serves".to_owned(),
            },
            verdict: "waits to be taken over".to_owned(),
            ..first
        }));
        let mut applied = store.watch();
        let chosen = applied
            .wait_for(|applied| applied.state.initializer.is_some())
            .await
            .context("Raft has ended")?
            .state
            .initializer
            .clone();
        if let Some(other) = chosen.filter(|chosen| *chosen != config.name) {
            bail!(
                "the cluster's first data comes from {other}: nothing is taken over here, and the \
                 old server was not touched"
            );
        }
        tracing::info!(
            reason = "take-over",
            "the group waits for the server to be taken over"
        );
        Ok(())
    }

    /// Stops the old server. Until its process gets the signal, nothing in its directory changes.
    async fn stop_old(
        &self,
        config: &Config,
        postgres: &Postgres,
        hold: &Hold,
    ) -> anyhow::Result<Gap> {
        // Forming may have taken days, and somebody may have changed something.
        let now = look(config).await?;
        now.refuse()?;
        anyhow::ensure!(
            !now.is_standby(),
            "it is a standby now; nothing was changed"
        );
        let superuser = &postgres.options().superuser;
        let old = &now.old;
        let checkpoint = old.checkpoint(superuser, CHECKPOINT_LIMIT).await?;
        old.checkpoint(superuser, CHECKPOINT_LIMIT).await?;
        let mut heard = hold.heard.clone();
        heard.mark_unchanged();
        match timeout(HEARD_LIMIT, heard.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => {
                bail!("the group's leader is not heard any more; nothing was changed")
            }
        }
        keep(config, postgres, &now)?;
        tracing::info!(
            reason = "take-over",
            pid = old.pid,
            ?checkpoint,
            "stops the old server"
        );
        let began = Instant::now();
        let stopped = async {
            old.stop(STOP_LIMIT).await?;
            let control = postgres.control_data().await?;
            anyhow::ensure!(
                control.state == "shut down",
                "it ended as `{}`",
                control.state
            );
            anyhow::Ok(())
        };
        if let Err(error) = stopped.await {
            postgres.drop_kept_import()?;
            return Err(error.context("the old server did not stop cleanly; its directory is as it was: start it as before"));
        }
        Ok(Gap {
            began,
            checkpoint,
            stop: began.elapsed(),
        })
    }

    /// Waits until the member does what it was taken over for, and tells so.
    pub async fn tell(self, handed_over: HandedOver, seen: watch::Receiver<PostgresStatus>) {
        match handed_over {
            HandedOver::Primary(gap) => self.tell_gap(gap, seen).await,
            HandedOver::Standby => standby::tell_streaming(&self.looked, seen).await,
        }
    }

    /// Waits until clients are let in, and tells how long they were kept out.
    async fn tell_gap(self, gap: Gap, mut seen: watch::Receiver<PostgresStatus>) {
        let is_open = |status: &PostgresStatus| matches!(status, PostgresStatus::Primary(primary) if primary.is_open);
        let way_back = self.looked.way_back.join("\n  ");
        match timeout(OPEN_LIMIT, seen.wait_for(is_open)).await {
            Ok(Ok(_)) => {
                let whole = gap.began.elapsed();
                tracing::info!(
                    reason = "taken-over",
                    gap_ms = milliseconds(whole),
                    stop_ms = milliseconds(gap.stop),
                    checkpoint_ms = milliseconds(gap.checkpoint),
                    "taken over with one restart; clients were kept out for {:.3} s",
                    whole.as_secs_f64()
                );
                println!("\nThe way back\n  {way_back}");
            }
            Ok(Err(_)) | Err(_) => tracing::warn!(
                reason = "take-over",
                "clients are not let in yet, {OPEN_LIMIT:?} after the stop (see `clusterctl status`)"
            ),
        }
    }

    /// Told when the operator ends the daemon before the old server was handed over.
    pub fn tell_interrupted(&self) {
        let state = if self.looked.old.is_alive() {
            "the old server runs as before; nothing was changed"
        } else {
            "the old server is stopped and its directory as it was; start it as before, or start \
             clusterd to go on"
        };
        tracing::warn!(reason = "take-over", "interrupted: {state}");
    }
}

/// What the way back and the first start need, outside the data directory.
pub(super) fn keep(config: &Config, postgres: &Postgres, looked: &Looked) -> anyhow::Result<()> {
    let kept = config.state_dir.join(KEPT);
    std::fs::create_dir_all(&kept).with_context(|| format!("create {}", kept.display()))?;
    let copy = |name: &str| {
        let from = postgres.options().data_dir.join(name);
        copy_if_there(&from, &kept.join(name)).with_context(|| format!("copy {}", from.display()))
    };
    copy("postgresql.auto.conf")?;
    copy("postmaster.opts")?;
    let text = looked.way_back.join("\n") + "\n";
    std::fs::write(kept.join("way-back.txt"), text).context("write the way back")?;
    std::fs::write(kept.join("report.txt"), looked.report(config)).context("write the report")?;
    postgres
        .keep_import(&looked.findings.imported)
        .map_err(|error| anyhow::anyhow!("{}", telemetry::chain(&error)))
}

fn copy_if_there(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::copy(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        copied => copied.map(drop),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
