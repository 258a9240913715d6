//! Tells how far the archive is: for the member's report, and so for `status` and the metrics.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster_backup::lineage::SegmentSize;
use cluster_backup::names::WalName;
use cluster_core::model::PostgresStatus;
use cluster_core::model::lease::Moment;
use cluster_core::model::member::{ArchiveFailure, ArchiveReport};
use tokio::sync::watch;

use crate::board::Board;

use super::coverage::Coverage;
use super::taker::now_unix_ms;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Its parts.
pub struct Teller {
    /// `pg_wal`.
    pub directory: PathBuf,
    /// The newest board.
    pub board: watch::Receiver<Arc<Board>>,
    /// This host's clock, as the board's moments are told by it.
    pub clock: fn() -> Moment,
    /// Where it is told; none on a member that is not the primary.
    pub told: watch::Sender<Option<ArchiveReport>>,
    /// What is known.
    pub known: Mutex<Known>,
}

/// What is known.
#[derive(Debug, Default)]
pub struct Known {
    coverage: Coverage,
    newest: Option<String>,
    failure: Option<ArchiveFailure>,
}

impl Teller {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall_ms(&self, at: Moment) -> u64 {
        let ago = (self.clock)().since(at).as_millis();
        let wall = u64::try_from(now_unix_ms()).unwrap_or(0);
        wall.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
    }

    /// PostgreSQL was told that a file is archived: it asks for one after the other, the oldest first.
    pub fn archived(&self, name: &WalName) {
        let length = std::fs::metadata(self.directory.join(name.as_str()));
        let size = length.ok().and_then(|it| SegmentSize::new(it.len()));
        let segment = size.and_then(|size| Some((size, size.segment(name)?)));
        let mut known = self.known();
        if let Some((size, segment)) = segment.filter(|_| name.is_segment()) {
            let end = size.begin(segment.number + 1);
            known.coverage.archived(segment.timeline, end);
        }
        known.newest = Some(name.as_str().to_owned());
        known.failure = None;
    }

    /// A file could not be archived.
    pub fn failed(&self, why: &str) {
        let mut known = self.known();
        let before = known.failure.take();
        let since_unix_ms = before.map_or_else(
            || u64::try_from(now_unix_ms()).unwrap_or(0),
            |before| before.since_unix_ms,
        );
        known.failure = Some(ArchiveFailure {
            why: why.to_owned(),
            since_unix_ms,
        });
    }

    /// Runs until it is dropped.
    pub async fn run(&self) {
        // Moments of the last two answers, the newer first.
        let mut answers = [None, None];
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let board = Arc::clone(&self.board.borrow());
            let PostgresStatus::Primary(primary) = &board.own.postgres else {
                answers = [None, None];
                *self.known() = Known::default();
                self.told.send_if_modified(|told| told.take().is_some());
                continue;
            };
            let answered = board.postgres_answered_at;
            if answered != answers[0] {
                // The board may show a newer answer's moment with the position of the one before it: a
                // position is surely as new as the answer before that one.
                if let Some(at) = answers[1] {
                    let at_ms = self.wall_ms(at);
                    let mut known = self.known();
                    known
                        .coverage
                        .note(primary.timeline, at_ms, primary.flushed);
                }
                answers = [answered, answers[0]];
            }
            let report = self.report();
            self.told.send_if_modified(|told| {
                let is_new = told.as_ref() != Some(&report);
                *told = Some(report);
                is_new
            });
        }
    }

    fn report(&self) -> ArchiveReport {
        let entries = std::fs::read_dir(self.directory.join("archive_status"));
        let waiting = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b".ready"))
            .count();
        let known = self.known();
        ArchiveReport {
            newest: known.newest.clone(),
            recoverable_unix_ms: known.coverage.recoverable(),
            waiting: waiting as u64,
            failure: known.failure.clone(),
        }
    }
}
