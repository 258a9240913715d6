//! Leaves recovery, onto exactly the timeline that Raft allocated, and checks that it did.
//!
//! PostgreSQL takes the first number above its own without a history file. Placeholder histories
//! make it skip the numbers that are not ours. One above the server's own timeline is fatal at the next
//! start, so they are removed after a promotion that failed, and before every start (hazards D1, D15,
//! X20). Under a running primary they stay: a standby that comes from an earlier timeline asks it for
//! the history of *every* number in between, and is stranded when one is missing.

use std::time::Duration;

use cluster_core::model::timeline::parse_history;
use cluster_core::model::{Epoch, Lsn, TimelineId};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::data_dir::{is_placeholder, placeholder, segment_suffix};
use super::options::{ConfigInputs, Gate};
use super::supervisor::ServerProcess;
use super::{Error, Postgres, durable_file, processes, sql};

/// How often the end of recovery is looked for. Source: 2 ms costs nothing and is what the
/// measured promotion latency was reached with.
const POLL: Duration = Duration::from_millis(2);

/// The end of the name of a segment that its timeline never filled.
const PARTIAL: &str = ".partial";

/// How a promotion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The timeline, as asked for.
    pub timeline: TimelineId,
    /// Where it began.
    pub fork: Lsn,
}

/// A server in recovery that follows nobody.
struct Sealed {
    /// The timeline of the last restartpoint.
    checkpointed: TimelineId,
    /// Everything before it is replayed.
    end: Lsn,
    /// Bytes of a WAL segment.
    segment: u64,
}

impl Postgres {
    /// Promotes a sealed standby onto `timeline`. The guard must hold an armed lease of `epoch`.
    ///
    /// The gate is closed first. On success `standby.signal` lies under the running primary again (hazards X26), and client
    /// sessions that were open on the standby are ended unless the options keep them. On any error
    /// after the promotion was asked for, the server's state is unknown: kill it, and take a new epoch.
    pub async fn promote(
        &self,
        epoch: Epoch,
        timeline: TimelineId,
        limit: Duration,
    ) -> Result<Promotion, Error> {
        let begin = Instant::now();
        let passed =
            |what| tracing::debug!(what, ms = begin.elapsed().as_millis() as u64, "promotion");
        let _turn = self.inner.change.lock().await;
        let sealed = self.require_sealed().await?;
        passed("sealed");
        if self.inputs().gate == Gate::Open {
            let closed = ConfigInputs {
                gate: Gate::Closed,
                ..self.inputs()
            };
            self.apply_config_in_turn(&closed).await?;
        }
        let newest = self.plant_placeholders(timeline, sealed.checkpointed)?;
        // A cluster without a primary is worse than an archive with a hole.
        if let Err(error) = self.archive_again(newest, sealed.end, sealed.segment) {
            tracing::error!(%error, "WAL that nobody has archived may be missing in the archive");
        }
        passed("planted");
        let promoted = self.leave_recovery(epoch, limit).await;
        passed("out of recovery");
        if !matches!(promoted, Ok(found) if found == timeline) {
            // One above the server's own timeline is fatal at its next start.
            self.remove_placeholders()?;
        }
        let found = promoted?;
        if found != timeline {
            self.kill("promoted onto another timeline").await?;
            return Err(Error::WrongTimeline {
                wanted: timeline,
                found,
            });
        }
        self.put_standby_signal()?;
        let fork = self.fork_of(timeline)?.ok_or(Error::TimelineTaken {
            wanted: timeline,
            why: "its history file is missing".to_owned(),
        })?;
        passed("signal");
        if !self.inputs().keeps_sessions {
            self.end_client_sessions().await?;
        }
        Ok(Promotion { timeline, fork })
    }

    /// [`Postgres::keep_short_parent`] on a thread of its own: it may copy a segment, and only a standby
    /// that comes late needs it. Done before it does nothing. What fails is told, and fails nothing.
    pub fn keep_parent(&self, timeline: TimelineId) -> JoinHandle<()> {
        let postgres = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = postgres.keep_short_parent(timeline) {
                tracing::warn!(
                    %error,
                    "no copy of the last segment of the timeline before: a standby that comes from an \
                     even older one may need a clone"
                );
            }
        })
    }

    /// A promotion renames the last segment of the timeline it leaves, so that no archive takes it for
    /// complete. Where that timeline had begun in the very same segment, a standby that comes from the
    /// one before it asks for the segment by its name, and would be stranded: it gets a copy.
    fn keep_short_parent(&self, timeline: TimelineId) -> Result<(), Error> {
        let wal = self.data_path("pg_wal");
        let text = durable_file::read(&wal.join(timeline.history_file()))?;
        let lines = text
            .and_then(|text| parse_history(&text))
            .unwrap_or_default();
        let [.., begin, end] = lines[..] else {
            return Ok(());
        };
        let parent = format!("{:08X}", end.parent.0);
        let entries = std::fs::read_dir(&wal).into_iter().flatten().flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let partial = names.find(|name| name.starts_with(&parent) && name.ends_with(PARTIAL));
        let Some(partial) = partial.map(|name| wal.join(name)) else {
            return Ok(());
        };
        let bytes = std::fs::read(&partial).map_err(|source| Error::File {
            verb: "read",
            path: partial,
            source,
        })?;
        let segment = (bytes.len() as u64).max(1);
        let path = wal.join(format!("{parent}{}", segment_suffix(end.end, segment)));
        if begin.end.0 / segment != end.end.0 / segment || path.exists() {
            return Ok(());
        }
        // Not a link: PostgreSQL uses old segments again, and the other name is still to be archived.
        // Marked as archived first, so that it never is.
        let status = wal.join("archive_status");
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        durable_file::replace(
            &status.join(format!("{name}.done")),
            b"",
            0o600,
            self.owner(),
        )?;
        durable_file::replace(&path, &bytes, 0o600, self.owner())
    }

    async fn require_sealed(&self) -> Result<Sealed, Error> {
        let not_sealed = |why: &str| {
            Err(Error::NotSealed {
                why: why.to_owned(),
            })
        };
        let pid = match self.process().await? {
            ServerProcess::Running { pid, .. } => pid,
            ServerProcess::None => {
                return Err(Error::NotRunning {
                    why: "stopped".to_owned(),
                });
            }
            ServerProcess::Ending { why } => return Err(Error::NotRunning { why }),
        };
        let session = self.session().await?;
        let row = session
            .query_one(self.limits().statement, sql::IS_SEALED, &[])
            .await?;
        if !row.get::<_, bool>("recovering") {
            return not_sealed("it is a primary already");
        }
        if row.get::<_, bool>("follows") || processes::receiver(pid).is_some() {
            return not_sealed("it still follows a primary");
        }
        let timeline: i32 = row.get("timeline");
        let number = |name: &str| u64::try_from(row.get::<_, i64>(name)).unwrap_or(0);
        Ok(Sealed {
            checkpointed: TimelineId(u32::try_from(timeline).unwrap_or(0)),
            end: Lsn(number("ended")),
            segment: number("segment"),
        })
    }

    /// Makes every number below `timeline` look taken; the newest one that really is.
    fn plant_placeholders(
        &self,
        timeline: TimelineId,
        checkpointed: TimelineId,
    ) -> Result<TimelineId, Error> {
        let taken = |why: String| Error::TimelineTaken {
            wanted: timeline,
            why,
        };
        let known = self.histories()?;
        if let Some((highest, _)) = known.last()
            && *highest >= timeline
        {
            return Err(taken(format!("timeline {highest} is already known here")));
        }
        let own = known
            .iter()
            .rev()
            .find(|(_, text)| !is_placeholder(text))
            .map_or(checkpointed, |(newest, _)| *newest)
            .max(checkpointed);
        if own >= timeline {
            return Err(taken(format!("it is on timeline {own}")));
        }
        // Also those that an earlier primary skipped.
        let first = known
            .iter()
            .find(|(_, text)| !is_placeholder(text))
            .map_or(own, |(first, _)| *first);
        for number in first.0 + 1..timeline.0 {
            let path = self
                .data_path("pg_wal")
                .join(TimelineId(number).history_file());
            if !path.exists() {
                durable_file::write(&path, placeholder().as_bytes(), 0o600, self.owner())?;
            }
        }
        Ok(own)
    }

    /// Asks for the promotion and waits for the end of recovery; returns the timeline it is on.
    async fn leave_recovery(&self, epoch: Epoch, limit: Duration) -> Result<TimelineId, Error> {
        let session = self.session().await?;
        durable_file::replace(&self.data_path("promote"), b"", 0o600, self.owner())?;
        if let Err(error) = self.supervisor().promote(epoch.0).await {
            durable_file::remove(&self.data_path("promote"))?;
            return Err(error.into());
        }
        let begin = Instant::now();
        let statement = self.limits().statement;
        loop {
            let row = session
                .query_one(statement, "SELECT pg_is_in_recovery()", &[])
                .await;
            match row {
                Ok(row) if !row.get::<_, bool>(0) => break,
                Ok(_) => {}
                Err(error) => {
                    if let ServerProcess::Running { .. } = self.process().await? {
                        return Err(error);
                    }
                    let why = self.last_words("it ended during its promotion");
                    return Err(Error::NotRunning { why });
                }
            }
            if begin.elapsed() > limit {
                return Err(Error::TimedOut {
                    what: "promoting",
                    limit,
                });
            }
            sleep(POLL).await;
        }
        let name = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)";
        let hex: String = session.query_one(statement, name, &[]).await?.get(0);
        u32::from_str_radix(&hex, 16)
            .map(TimelineId)
            .map_err(|_| Error::ControlData {
                label: format!("timeline `{hex}`"),
            })
    }
}
