//! Chores beside the loop: durable probes, slots, foreign settings, the first checkpoint of an
//! epoch. Each is bounded; none decides anything. What they find goes into the member's report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster_core::model::lease::Moment;
use cluster_core::model::member::{ArchiveReport, Health, Pending, Probe, Refusal};
use cluster_core::model::settings::Mode;
use cluster_core::model::view::Seen;
use cluster_core::model::{ArchiveAudit, Epoch, Lsn, MemberName, PostgresStatus};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio::time::{interval, sleep, timeout};

use crate::lease::now;
use crate::postgres::Postgres;
use crate::raft::AppliedState;

use super::commit_watch::CommitFindings;
use super::neighbours::{member_addresses, wanted_slots};

/// How often a volume and a commit are tried. One small write a second is free.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// One attempt.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// A volume with less free space than this takes no writes. Unit: bytes; two WAL segments of a new
/// cluster.
const FULL: u64 = 8 << 20;
/// How often slots are compared.
const SLOTS_EVERY: Duration = Duration::from_secs(2);
/// How often settings from elsewhere are looked for.
const SETTINGS_EVERY: Duration = Duration::from_secs(5);
/// The first checkpoint of an epoch, spread over other work.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(300);

/// What the chores have found.
#[derive(Default)]
pub struct Findings {
    inner: Mutex<Inner>,
    archive: Option<watch::Receiver<Option<ArchiveReport>>>,
    audit: Option<watch::Receiver<Option<ArchiveAudit>>>,
    reads_repository: bool,
    written: Notify,
}

#[derive(Default)]
struct Inner {
    data: Track,
    wal: Track,
    commit: Track,
    checkpointed: Epoch,
    free_bytes: Option<u64>,
    commits: CommitFindings,
    strangers_ended: u64,
    pending: Option<Pending>,
    refusal: Option<Refusal>,
}

#[derive(Default)]
struct Track {
    last_ok: Option<(Moment, Duration)>,
    has_failed: bool,
}

impl Track {
    fn took<E: std::fmt::Display>(&mut self, what: &str, outcome: Result<Duration, E>) {
        match outcome {
            Ok(took) => {
                self.last_ok = Some((now(), took));
                self.has_failed = false;
            }
            Err(error) => {
                if !self.has_failed {
                    tracing::warn!(what, %error, "durable probe failed");
                }
                self.has_failed = true;
            }
        }
    }

    fn probe(&self) -> Option<Probe> {
        let (at, took) = self.last_ok?;
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let age = now().since(at);
        Some(Probe {
            last_ok_age_ms: milliseconds(age),
            took_ms: milliseconds(took),
            is_stuck: age > PROBE_EVERY + PROBE_LIMIT,
            has_failed: self.has_failed,
        })
    }
}

impl Findings {
    /// With what is told of the archive, when there is one.
    pub fn with_archive(
        archive: Option<watch::Receiver<Option<ArchiveReport>>>,
        audit: watch::Receiver<Option<ArchiveAudit>>,
        reads_repository: bool,
    ) -> Findings {
        Findings {
            archive,
            audit: Some(audit),
            reads_repository,
            ..Findings::default()
        }
    }

    /// What is known now.
    pub fn health(&self) -> Health {
        let inner = self.lock();
        Health {
            data_volume: inner.data.probe(),
            wal_volume: inner.wal.probe(),
            commit: inner.commit.probe(),
            free_bytes: inner.free_bytes,
            commits_watched: inner.commits.is_known,
            commit_overrides: inner.commits.overrides.clone(),
            cancelled_waits: inner.commits.cancelled,
            strangers_ended: inner.strangers_ended,
            pending_restart: inner.pending.clone(),
            refusal: inner.refusal.clone(),
            archive: self.archive.as_ref().and_then(|it| it.borrow().clone()),
            audit: self.audit.as_ref().and_then(|it| it.borrow().clone()),
            has_repository: self.archive.is_some(),
            reads_repository: self.reads_repository,
        }
    }

    pub(super) fn set_pending(&self, found: Option<Pending>) {
        self.lock().pending = found;
    }

    pub(super) fn set_refusal(&self, found: Option<Refusal>) {
        self.lock().refusal = found;
    }

    /// Parameters were written: what waits for a restart is another question now.
    pub(super) fn ask_again(&self) {
        self.lock().pending = None;
        self.written.notify_one();
    }

    /// Resolves with the next [`Findings::ask_again`].
    pub(super) fn asked_again(&self) -> Notified<'_> {
        self.written.notified()
    }

    /// What is known of commits that wait for nobody.
    pub(super) fn commits(&self) -> CommitFindings {
        self.lock().commits.clone()
    }

    pub(super) fn set_commits(&self, found: CommitFindings) {
        self.lock().commits = found;
    }

    pub(super) fn add_strangers(&self, count: usize) {
        self.lock().strangers_ended += count as u64;
    }

    /// The newest epoch under which a checkpoint was completed here.
    pub fn checkpointed(&self) -> Epoch {
        self.lock().checkpointed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the chores look at.
#[derive(Clone)]
pub struct Chores {
    /// Own name.
    pub me: MemberName,
    /// The server.
    pub postgres: Postgres,
    /// What it is, as the loop last saw it.
    pub seen: watch::Receiver<PostgresStatus>,
    /// The applied truth.
    pub state: watch::Receiver<Arc<AppliedState>>,
    /// The merged reports.
    pub merged: watch::Receiver<Arc<BTreeMap<MemberName, Seen>>>,
    /// Where findings go.
    pub findings: Arc<Findings>,
}

impl Chores {
    /// Starts every chore; they end with the runtime.
    pub fn start(&self) {
        tokio::spawn(self.clone().probe_volumes());
        tokio::spawn(self.clone().probe_commits());
        tokio::spawn(self.clone().keep_slots());
        tokio::spawn(self.clone().admit_members());
        tokio::spawn(self.clone().watch_settings());
        tokio::spawn(self.clone().follow_settings());
        tokio::spawn(self.clone().watch_pending());
        tokio::spawn(self.clone().watch_commits());
        tokio::spawn(self.clone().checkpoint_each_epoch());
    }

    async fn probe_volumes(self) {
        let mut tick = interval(PROBE_EVERY);
        loop {
            tick.tick().await;
            let outcome = self.postgres.probe_volumes(PROBE_LIMIT).await;
            let free = self.free_bytes().await;
            let mut found = self.findings.lock();
            found.free_bytes = free;
            match outcome {
                Ok(took) => {
                    // A block that is there already can be written over on a full volume; PostgreSQL
                    // cannot extend anything there.
                    let data = match free {
                        Some(free) if free < FULL => Err(format!("only {free} bytes are free")),
                        Some(_) | None => Ok(took.data),
                    };
                    found.data.took("data volume", data);
                    found.wal.took("WAL volume", Ok::<_, String>(took.wal));
                }
                Err(error) => {
                    let text = error.to_string();
                    found.data.took("data volume", Err(text.clone()));
                    found.wal.took("WAL volume", Err(text));
                }
            }
        }
    }

    /// Asked of a thread that may stand still: a volume that hangs must not hold up the member's loop.
    async fn free_bytes(&self) -> Option<u64> {
        let data_dir = self.postgres.options().data_dir.clone();
        let asked = tokio::task::spawn_blocking(move || free_bytes(&data_dir));
        timeout(PROBE_LIMIT, asked).await.ok()?.ok()?
    }

    async fn probe_commits(self) {
        let mut tick = interval(PROBE_EVERY);
        loop {
            tick.tick().await;
            let seen = self.seen.borrow().clone();
            match seen {
                PostgresStatus::Primary(_) => {}
                // It stands still: its last commit grows older, which is what the limit is for [H6].
                PostgresStatus::Unresponsive {
                    was_primary: true, ..
                } => continue,
                _ => {
                    self.findings.lock().commit = Track::default();
                    continue;
                }
            }
            // Its WAL would put the old primary ahead of the target of a hand-over. What is not tried does
            // not grow older either: a hand-over that is called off late is no fault of the disk's.
            if self
                .state
                .borrow()
                .state
                .open_requests()
                .iter()
                .any(|open| open.kind.moves_primary())
            {
                self.findings.lock().commit = Track::default();
                continue;
            }
            let outcome = self.postgres.probe_commit(PROBE_LIMIT).await;
            let mut found = self.findings.lock();
            if found.commit.last_ok.is_none() {
                // The limit counts from the first look, not from an earlier reign.
                found.commit.last_ok = Some((now(), Duration::ZERO));
            }
            found.commit.took("local commit", outcome);
        }
    }

    /// Slots for every member on every member, moved along [D20].
    async fn keep_slots(self) {
        let mut tick = interval(SLOTS_EVERY);
        loop {
            tick.tick().await;
            let is_up = matches!(
                *self.seen.borrow(),
                PostgresStatus::Primary(_) | PostgresStatus::Standby(_)
            );
            let state = Arc::clone(&self.state.borrow().state);
            if !is_up || state.identity.is_none() {
                continue;
            }
            let wanted = wanted_slots(&self.me, &state, &self.reached());
            if let Err(error) = self.postgres.apply_slots(&wanted).await {
                tracing::debug!(%error, "slots could not be kept");
            }
        }
    }

    /// A member whose address Raft learns only while this primary runs (one that was silent when it was
    /// promoted, or has moved to another host) could not stream from it otherwise.
    async fn admit_members(self) {
        let mut tick = interval(SLOTS_EVERY);
        loop {
            tick.tick().await;
            if !matches!(*self.seen.borrow(), PostgresStatus::Primary(_)) {
                continue;
            }
            let state = Arc::clone(&self.state.borrow().state);
            let members = member_addresses(&self.me, &state);
            match self.postgres.admit_members(&members).await {
                Ok(true) => tracing::info!("the members that may stream from here have changed"),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "members could not be let in"),
            }
        }
    }

    /// How far each standby is known to have flushed.
    fn reached(&self) -> Vec<(MemberName, Lsn)> {
        let merged = self.merged.borrow();
        merged
            .iter()
            .filter_map(|(name, seen)| match &seen.report.postgres {
                PostgresStatus::Standby(standby) => Some((name.clone(), standby.replayed)),
                _ => None,
            })
            .collect()
    }

    /// Managed parameters that come from somewhere else are taken out and named.
    async fn watch_settings(self) {
        let mut tick = interval(SETTINGS_EVERY);
        loop {
            tick.tick().await;
            let is_up = matches!(
                *self.seen.borrow(),
                PostgresStatus::Primary(_) | PostgresStatus::Standby(_)
            );
            if !is_up {
                continue;
            }
            match self.postgres.take_foreign_settings().await {
                Ok(names) if !names.is_empty() => {
                    tracing::warn!(
                        ?names,
                        "managed parameters set by somebody else were removed"
                    );
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "settings could not be looked at"),
            }
        }
    }

    /// A member can be rewound from this primary only after its first checkpoint [D8].
    async fn checkpoint_each_epoch(mut self) {
        loop {
            let epoch = self.serving_epoch();
            if let Some(epoch) = epoch.filter(|epoch| *epoch > self.findings.checkpointed()) {
                match self.postgres.checkpoint(CHECKPOINT_LIMIT).await {
                    Ok(()) if self.serving_epoch() == Some(epoch) => {
                        self.findings.lock().checkpointed = epoch;
                    }
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the first checkpoint of the epoch failed");
                        sleep(Duration::from_secs(1)).await;
                    }
                }
                continue;
            }
            if self.seen.changed().await.is_err() {
                return;
            }
        }
    }

    /// The epoch this member is primary of, if it is, and may be copied from.
    fn serving_epoch(&self) -> Option<Epoch> {
        let seen = self.seen.borrow();
        let PostgresStatus::Primary(primary) = &*seen else {
            return None;
        };
        let applied = self.state.borrow();
        let reign = applied.state.granted()?;
        // In `strict` one that is not open yet may wait for a member that must be rewound first.
        let is_strict = applied.state.settings.mode == Mode::Strict;
        let is_due = reign.is_activated || is_strict && reign.fork.is_some();
        (is_due && reign.holder == self.me && reign.timeline == primary.timeline)
            .then_some(reign.epoch)
    }
}

/// Free bytes of the volume of `path`, for an ordinary user.
fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let volume = rustix::fs::statvfs(path).ok()?;
    Some(volume.f_bavail.saturating_mul(volume.f_frsize))
}
