//! Looks at the server: SQL when it runs, the control file when it does not. Changes nothing.
//!
//! `observe` never takes longer than about a second. The surprises are all in the proof that
//! recovery has reached the end of its WAL: a restarted standby under-reports for a while
//! (hazards B3 to B5, X1), so a position counts only with that proof.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use cluster_core::model::postgres::{Follows, Primary, Receiver, Sender, Standby};
use cluster_core::model::{Lsn, PostgresStatus, TimelineId};
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;

use super::control_data::ControlData;
use super::data_dir::DataDirKind;
use super::detach::is_held_by;
use super::supervisor::ServerProcess;
use super::{Error, Postgres, conninfo, lock, processes, sql};

/// Looking at files, the control file included.
const FILES_LIMIT: Duration = Duration::from_secs(1);

/// What one look remembers for the next.
#[derive(Default)]
pub(super) struct Observer {
    /// Postmaster, moment and role of the last answer.
    last_answer: Option<(i32, Instant, bool)>,
    /// Since when the server has been pointed at this upstream without streaming.
    unattached: Option<(String, Instant)>,
    /// Postmaster, replay position: the last look saw the retry wait here.
    retry_seen: Option<(i32, Lsn)>,
    /// Postmaster and replay position of a pause, and whether a parameter is the reason.
    paused_short: Option<((i32, Lsn), bool)>,
    /// No new session before this moment: a hung server must not collect backends.
    reconnect_after: Option<Instant>,
    /// The control file as last read, by its modification time.
    control: Option<(SystemTime, ControlData)>,
    /// Where each timeline began.
    forks: Vec<(TimelineId, Lsn)>,
    /// Bytes of a WAL segment.
    pub(super) segment_bytes: Option<u64>,
    /// Where the oldest WAL that is kept begins, and when that was looked up.
    pub(super) oldest_wal: Option<(Lsn, Instant)>,
}

impl Postgres {
    /// What this member's PostgreSQL is right now.
    pub async fn observe(&self) -> PostgresStatus {
        let process = self.process_within(self.limits().connect).await;
        self.observe_process(process).await
    }

    /// The same for a caller that has just asked the supervisor itself.
    pub async fn observe_process(&self, process: Result<ServerProcess, Error>) -> PostgresStatus {
        let mut observer = self.inner.observer.lock().await;
        match process {
            Err(error) => PostgresStatus::Unknown {
                why: error.to_string(),
            },
            Ok(ServerProcess::None) => {
                match timeout(FILES_LIMIT, self.observe_stopped(&mut observer)).await {
                    Ok(status) => status,
                    Err(_) => PostgresStatus::Unknown {
                        why: format!("the data directory did not answer within {FILES_LIMIT:?}"),
                    },
                }
            }
            Ok(ServerProcess::Ending { .. }) => PostgresStatus::Stopping,
            Ok(ServerProcess::Running { pid, for_ms }) => {
                let limit = self.limits().observe;
                match timeout(limit, self.ask(&mut observer, pid)).await {
                    Ok(Ok(status)) => status,
                    Ok(Err(error)) => {
                        self.explain_silence(&mut observer, pid, for_ms, &error)
                            .await
                    }
                    Err(_) => {
                        let error = Error::SqlTimedOut { limit };
                        self.explain_silence(&mut observer, pid, for_ms, &error)
                            .await
                    }
                }
            }
        }
    }

    async fn observe_stopped(&self, observer: &mut Observer) -> PostgresStatus {
        self.drop_session().await;
        observer.last_answer = None;
        observer.retry_seen = None;
        let looked = self.on_disk(|it| {
            let changed = it
                .data_path("global/pg_control")
                .metadata()
                .and_then(|meta| meta.modified());
            let is_copy = it.data_path("backup_label").is_file();
            let signs = (it.has_standby_signal(), is_copy, it.rewound());
            (changed.ok(), it.kind_by_files(), signs)
        });
        let (changed, kind, (has_signal, is_copy, rewound)) = match looked.await {
            Ok((changed, Ok(kind), signs)) => (changed, kind, signs),
            Ok((_, Err(error), _)) | Err(error) => {
                return PostgresStatus::Unknown {
                    why: error.to_string(),
                };
            }
        };
        match kind {
            Some(DataDirKind::Empty) => return PostgresStatus::Empty,
            Some(DataDirKind::Unusable {
                why,
                clone_would_cure,
            }) => {
                return PostgresStatus::Unusable {
                    why,
                    clone_would_cure,
                };
            }
            Some(DataDirKind::Adoptable { .. }) | None => {}
        }
        let found = |control: &ControlData| match rewound {
            Some(rewound) if rewound.is_unfinished(control) => PostgresStatus::Unusable {
                why: "it was rewound, and stopped before it was consistent".to_owned(),
                clone_would_cure: true,
            },
            Some(_) | None => PostgresStatus::Stopped(control.stopped(has_signal, is_copy)),
        };
        if let (Some(changed), Some((read, control))) = (&changed, &observer.control)
            && changed == read
        {
            return found(control);
        }
        let control = self.control_data().await;
        observer.control = None;
        match (self.kind_by_control(&control), control) {
            (
                DataDirKind::Unusable {
                    why,
                    clone_would_cure,
                },
                _,
            ) => PostgresStatus::Unusable {
                why,
                clone_would_cure,
            },
            (DataDirKind::Empty, _) => PostgresStatus::Empty,
            (DataDirKind::Adoptable { .. }, Err(error)) => PostgresStatus::Unknown {
                why: error.to_string(),
            },
            (DataDirKind::Adoptable { .. }, Ok(control)) => {
                let found = found(&control);
                observer.segment_bytes = Some(control.wal_segment_bytes);
                observer.control = changed.map(|changed| (changed, control));
                found
            }
        }
    }

    /// Looks at files on a thread that may hang with its disk, one at a time.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Postgres) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let failed = |why: &str| Error::Probe {
            what: "files",
            why: why.to_owned(),
        };
        let busy = std::sync::Arc::clone(&self.inner.probes.files);
        if busy.swap(true, Ordering::AcqRel) {
            return Err(failed("an earlier look has not come back"));
        }
        let postgres = self.clone();
        let thread = tokio::task::spawn_blocking(move || {
            let seen = look(&postgres);
            busy.store(false, Ordering::Release);
            seen
        });
        match timeout(FILES_LIMIT, thread).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) => Err(failed("the look was given up")),
            Err(_) => Err(failed("the disk did not answer in time")),
        }
    }

    async fn ask(&self, observer: &mut Observer, pid: i32) -> Result<PostgresStatus, Error> {
        if let Some(after) = observer.reconnect_after
            && Instant::now() < after
            && self
                .kept_session()
                .lock()
                .await
                .as_ref()
                .is_none_or(|session| session.is_closed())
        {
            return Err(Error::SqlTimedOut {
                limit: self.limits().observe,
            });
        }
        let limit = self.limits().observe;
        let session = self.session().await?;
        // The walsenders first, our own flush afterwards: a sender that is ahead then really is
        // ahead (DESIGN section 7, hazards X28). Both are sent at once; the server answers in order.
        let (senders, row) = tokio::try_join!(
            biased;
            session.query(limit, sql::SENDERS, &[]),
            session.query_one(limit, sql::OBSERVE, &[]),
        )?;
        let recovering: bool = row.get("recovering");
        observer.last_answer = Some((pid, Instant::now(), !recovering));
        observer.reconnect_after = None;
        if self.is_on_trial() {
            self.on_disk(|it| it.note_answer()).await??;
        }
        if self.has_rewind_note() {
            self.on_disk(Postgres::forget_rewind).await??;
        }
        if recovering {
            self.standby(observer, pid, &row).await
        } else {
            observer.retry_seen = None;
            self.primary(observer, &row, &senders).await
        }
    }

    async fn explain_silence(
        &self,
        observer: &mut Observer,
        pid: i32,
        for_ms: u64,
        error: &Error,
    ) -> PostgresStatus {
        self.drop_session().await;
        let shutting_down = error
            .cannot_connect_now()
            .is_some_and(|said| said.contains("shutting"));
        if shutting_down || *lock(&self.inner.stopping) == Some(pid) {
            return PostgresStatus::Stopping;
        }
        match observer.last_answer {
            Some((answered, when, was_primary)) if answered == pid => {
                let now = Instant::now();
                if observer.reconnect_after.is_none_or(|after| after <= now) {
                    observer.reconnect_after = Some(now + Duration::from_millis(500));
                }
                let for_ms = u64::try_from(when.elapsed().as_millis()).unwrap_or(u64::MAX);
                PostgresStatus::Unresponsive {
                    for_ms,
                    was_primary,
                }
            }
            _ => PostgresStatus::Starting {
                for_ms,
                rewound_for: self.rewound_for().await,
            },
        }
    }

    async fn standby(
        &self,
        observer: &mut Observer,
        pid: i32,
        row: &Row,
    ) -> Result<PostgresStatus, Error> {
        let replayed = lsn(row, "replayed").unwrap_or(Lsn::ZERO);
        let received = lsn(row, "received");
        let receiver = receiver(row, pid);
        let conninfo: String = row.get("conninfo");
        let wait: Option<String> = row.get("startup_wait");
        let retries = wait
            .as_deref()
            .is_some_and(|event| self.major().retry_wait_events().contains(&event));
        let seen_twice = retries && observer.retry_seen == Some((pid, replayed));
        observer.retry_seen = retries.then_some((pid, replayed));
        let caught_up = received.is_some_and(|received| replayed >= received);
        let sealed = receiver.is_none() && conninfo.is_empty();
        let end = received.unwrap_or(Lsn::ZERO).max(replayed);
        let timeline = self
            .recovery_timeline(observer, receiver.as_ref(), end)
            .await?;
        let at_end_of_wal = caught_up || (sealed && seen_twice);
        let replay_paused = row.get::<_, Option<bool>>("paused").unwrap_or(false);
        let is_held = replay_paused
            || row.get::<_, bool>("delayed")
            || wait.as_deref().is_some_and(is_held_by);
        let streams = receiver.as_ref().is_some_and(|it| it.is_streaming);
        observer.unattached = match observer.unattached.take() {
            _ if streams || conninfo.is_empty() => None,
            Some((to, since)) if to == conninfo => Some((to, since)),
            Some(_) | None => Some((conninfo.clone(), Instant::now())),
        };
        let unattached = observer
            .unattached
            .as_ref()
            .map(|(_, since)| since.elapsed());
        let delay: Option<i64> = row.get("delay");
        let replay_delay_ms = if caught_up {
            delay.map(|_| 0)
        } else {
            delay.map(unsigned)
        };
        Ok(PostgresStatus::Standby(Standby {
            timeline,
            received,
            replayed,
            replay_delay_ms,
            replayed_at_unix_ms: row.get::<_, Option<i64>>("replayed_at").map(unsigned),
            replay_paused,
            replay_is_held: is_held && !at_end_of_wal,
            has_too_little: replay_paused
                && self.is_paused_short(observer, (pid, replayed)).await?,
            is_out_of_wal: seen_twice,
            unattached_for_ms: unattached
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            has_frozen_receiver: receiver
                .as_ref()
                .is_some_and(|it| processes::is_frozen(it.pid)),
            receiver,
            at_end_of_wal,
            follows: follows(&conninfo),
            started_unix_ms: unsigned(row.get("started")),
        }))
    }

    /// Asked once for each place where replay stands still.
    async fn is_paused_short(
        &self,
        observer: &mut Observer,
        place: (i32, Lsn),
    ) -> Result<bool, Error> {
        if let Some((known, answer)) = observer.paused_short
            && known == place
        {
            return Ok(answer);
        }
        let answer = self.has_too_little().await?;
        observer.paused_short = Some((place, answer));
        Ok(answer)
    }

    /// The timeline of the last byte of WAL this standby has.
    async fn recovery_timeline(
        &self,
        observer: &mut Observer,
        receiver: Option<&Receiver>,
        end: Lsn,
    ) -> Result<TimelineId, Error> {
        if let Some(receiver) = receiver
            && receiver.is_streaming
            && self
                .fork_known(observer, receiver.timeline)
                .await?
                .is_none_or(|fork| fork < end)
        {
            return Ok(receiver.timeline);
        }
        let segment_bytes = match observer.segment_bytes {
            Some(bytes) => bytes,
            None => {
                let bytes = self.control_data().await?.wal_segment_bytes;
                *observer.segment_bytes.insert(bytes)
            }
        };
        let found = self
            .on_disk(move |it| it.timeline_on_disk(end, segment_bytes))
            .await?;
        if let Some(timeline) = found {
            return Ok(timeline);
        }
        Ok(self.control_data().await?.checkpoint_timeline)
    }

    async fn fork_known(
        &self,
        observer: &mut Observer,
        timeline: TimelineId,
    ) -> Result<Option<Lsn>, Error> {
        if let Some((_, fork)) = observer.forks.iter().find(|(known, _)| *known == timeline) {
            return Ok(Some(*fork));
        }
        let fork = self.on_disk(move |it| it.fork_of(timeline)).await??;
        // A placeholder must not be remembered as a fork.
        if let Some(fork) = fork.filter(|fork| *fork != Lsn::ZERO) {
            observer.forks.push((timeline, fork));
        }
        Ok(fork)
    }

    async fn primary(
        &self,
        observer: &mut Observer,
        row: &Row,
        senders: &[Row],
    ) -> Result<PostgresStatus, Error> {
        let hex: String = row.get::<_, Option<String>>("timeline").unwrap_or_default();
        let timeline =
            u32::from_str_radix(&hex, 16)
                .map(TimelineId)
                .map_err(|_| Error::ControlData {
                    label: format!("timeline `{hex}`"),
                })?;
        let (is_open, has_signal) = self
            .on_disk(|it| (it.hba_is_open(), it.has_standby_signal()))
            .await?;
        Ok(PostgresStatus::Primary(Primary {
            timeline,
            flushed: lsn(row, "flushed").unwrap_or(Lsn::ZERO),
            fork: self.fork_known(observer, timeline).await?,
            is_open: is_open && !self.inner.is_opening.load(Ordering::Acquire),
            has_signal,
            sync_names: row.get("sync_names"),
            senders: senders.iter().map(sender).collect(),
            prepared_transactions: u32::try_from(row.get::<_, i64>("prepared")).unwrap_or(u32::MAX),
            oldest_transaction_ms: row.get::<_, Option<i64>>("oldest").map_or(0, unsigned),
            oldest_wal: self.oldest_wal(observer).await?,
            started_unix_ms: unsigned(row.get("started")),
        }))
    }
}

/// The receiver, from the view if it shows one, else from the list of processes.
fn receiver(row: &Row, postmaster: i32) -> Option<Receiver> {
    if let Some(pid) = row.get::<_, Option<i32>>("receiver_pid") {
        let status: Option<String> = row.get("receiver_status");
        let timeline: Option<i32> = row.get("receiver_timeline");
        return Some(Receiver {
            pid,
            is_streaming: status.as_deref() == Some("streaming"),
            timeline: TimelineId(timeline.and_then(|t| u32::try_from(t).ok()).unwrap_or(0)),
            flushed: lsn(row, "receiver_flushed").unwrap_or(Lsn::ZERO),
            latest_end: lsn(row, "receiver_latest_end").unwrap_or(Lsn::ZERO),
        });
    }
    let seen: Option<i32> = row.get("receiver_seen");
    let pid = seen.or_else(|| processes::receiver(postmaster))?;
    Some(Receiver {
        pid,
        is_streaming: false,
        timeline: TimelineId(0),
        flushed: Lsn::ZERO,
        latest_end: Lsn::ZERO,
    })
}

fn sender(row: &Row) -> Sender {
    let text = |name: &str| row.get::<_, Option<String>>(name).unwrap_or_default();
    let priority: Option<i32> = row.get("sync_priority");
    Sender {
        application_name: text("application_name"),
        user: text("usename"),
        client: text("client"),
        state: text("state"),
        sync_state: text("sync_state"),
        sync_priority: priority.and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
        sent: lsn(row, "sent").unwrap_or(Lsn::ZERO),
        flushed: lsn(row, "flushed").unwrap_or(Lsn::ZERO),
        replayed: lsn(row, "replayed").unwrap_or(Lsn::ZERO),
        started_unix_ms: row.get::<_, Option<i64>>("started").map_or(0, unsigned),
        slot: Some(text("slot")),
        pid: row.get("pid"),
    }
}

fn follows(conninfo: &str) -> Option<Follows> {
    conninfo::follows(conninfo)
}

fn lsn(row: &Row, column: &str) -> Option<Lsn> {
    row.get::<_, Option<i64>>(column)
        .map(|value| Lsn(unsigned(value)))
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
