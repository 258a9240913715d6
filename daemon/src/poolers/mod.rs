//! PgBouncers that are paused around a planned switchover: their clients wait and notice nothing else.
//!
//! The old primary's daemon pauses them just before writers are fenced, and resumes them when the request has
//! ended and a primary is open. Nothing may leave one paused: a note on disk says that they may be, from before
//! the first PAUSE until every one has answered RESUME; a daemon that finds the note at its start resumes them.
//! And whoever becomes primary resumes them too: the old one's host may be gone.

mod console;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cluster_core::model::lease::Moment;
use cluster_core::model::{ClusterState, Epoch, PostgresStatus, RequestId};
use futures_util::future::join_all;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::board::Board;
use crate::config::PgbouncerConfig;

use console::Console;

/// The name of the note in the state directory.
const NOTE: &str = "pgbouncers-paused";
/// They are resumed after this whatever has become of the request: clients that wait longer would rather have
/// an error. Longer than a switchover takes, shorter than PgBouncer's `query_wait_timeout` of 120 s.
const LONGEST: Duration = Duration::from_secs(30);
/// One RESUME.
const RESUME_LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts.
const RESUME_AGAIN: Duration = Duration::from_millis(300);
/// One that has not answered for so long was stopped; started anew it is not paused.
const GIVEN_UP: Duration = Duration::from_secs(600);
/// A load balancer between PgBouncer and the primary sees the new one with its next check: with ours every 200 ms
/// while a server is down. A client that comes to PgBouncer before that gets an error.
const SETTLE: Duration = Duration::from_millis(800);
/// Whoever becomes primary leaves it to the old one for so long.
const LEFT_TO_THE_OLD: Duration = Duration::from_secs(5);
/// How often it is looked whether the primary is open.
const LOOK: Duration = Duration::from_millis(50);

/// All of them; cheap to clone, and without any every call returns at once.
#[derive(Clone, Default)]
pub struct Poolers(Option<Arc<Inner>>);

struct Inner {
    /// A command at a time to each: a late RESUME must not follow the PAUSE of the next request.
    consoles: Vec<Mutex<Console>>,
    pause_limit: Duration,
    note: PathBuf,
    /// For which request they are, or may be, paused.
    held: watch::Sender<Option<Held>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    request: RequestId,
    since: Instant,
}

impl Poolers {
    /// Those of the configuration; found paused by an earlier daemon they are resumed.
    ///
    /// # Errors
    /// An address that cannot be one, or a note that cannot be read.
    pub fn open(config: Option<&PgbouncerConfig>, state_dir: &Path) -> anyhow::Result<Poolers> {
        let Some(config) = config else {
            return Ok(Poolers::default());
        };
        let consoles = config.addresses.iter();
        let consoles = consoles.map(|address| Console::new(address, config).map(Mutex::new));
        let note = state_dir.join(NOTE);
        // Half a note names no request that is known, and is as good: whatever is paused is resumed.
        let found = match fs::read(&note) {
            Ok(bytes) => Some(Held {
                request: RequestId(String::from_utf8_lossy(&bytes).into_owned()),
                since: Instant::now(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Poolers(Some(Arc::new(Inner {
            consoles: consoles.collect::<Result<_, _>>()?,
            pause_limit: config.pause_limit,
            note,
            held: watch::Sender::new(found),
        }))))
    }

    /// Pauses all, for no longer than the limit. One that cannot be paused holds nothing up: its clients' sessions
    /// end as they would without it.
    pub async fn pause(&self, request: &RequestId) {
        let Some(inner) = &self.0 else {
            return;
        };
        let begin = Instant::now();
        let deadline = begin + inner.pause_limit;
        // Not even a disk that stands still holds a switchover up.
        let noted = timeout_at(deadline, inner.write_note(request)).await;
        if let Err(error) = noted.unwrap_or_else(|_| Err(anyhow::anyhow!("not in time"))) {
            tracing::warn!(%error, "PgBouncers are not paused: the note of it could not be written");
            return;
        }
        inner.held.send_replace(Some(Held {
            request: request.clone(),
            since: begin,
        }));
        let each = inner.consoles.iter().map(async |console| {
            let Ok(console) = timeout_at(deadline, console.lock()).await else {
                return false;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match console.pause(left).await {
                Ok(()) => true,
                Err(error) => {
                    let pgbouncer = console.address.as_str();
                    tracing::warn!(pgbouncer, %error, "not paused before the switchover");
                    false
                }
            }
        });
        let paused = join_all(each).await.into_iter().filter(|it| *it).count();
        let (all, ms) = (inner.consoles.len(), begin.elapsed().as_millis());
        tracing::info!(%request, paused, all, ms, "PgBouncers are paused");
    }

    /// Resumes them whenever it is time, until the daemon ends.
    pub fn start(&self, board: watch::Receiver<Arc<Board>>, clock: fn() -> Moment) {
        if let Some(inner) = self.0.clone() {
            let keeper = Arc::clone(&inner);
            let seen = board.clone();
            tokio::spawn(async move { keeper.keep(seen, clock).await });
            tokio::spawn(async move { inner.resume_as_primary(board).await });
        }
    }
}

impl Inner {
    async fn keep(&self, board: watch::Receiver<Arc<Board>>, clock: fn() -> Moment) {
        let mut held = self.held.subscribe();
        loop {
            let Ok(now) = held.wait_for(Option::is_some).await.map(|it| it.clone()) else {
                return;
            };
            let Some(now) = now else { continue };
            let is_time = || {
                let board = board.borrow().clone();
                now.since.elapsed() >= LONGEST
                    || is_over(&board.state, &now.request)
                        && !is_moving(&board.state)
                        && has_open_primary(&board, clock())
            };
            if !is_time() {
                sleep(LOOK).await;
                continue;
            }
            sleep(SETTLE).await;
            // The next hand-over may have begun, or the new primary may be gone.
            if !is_time() {
                continue;
            }
            let each = self
                .consoles
                .iter()
                .map(|console| self.resume(console, &now));
            if join_all(each).await.into_iter().all(|is_done| is_done) {
                self.forget(&now).await;
            }
        }
    }

    /// Whoever has become primary resumes what an old one may have left behind: each epoch once, and not because
    /// this daemon was started anew.
    async fn resume_as_primary(&self, mut board: watch::Receiver<Arc<Board>>) {
        let mut told = Epoch::NONE;
        let mut opened = None;
        loop {
            let now = Arc::clone(&board.borrow_and_update());
            if told == Epoch::NONE {
                told = now.state.epoch();
            }
            let reign = open_reign_here(&now).filter(|epoch| *epoch > told);
            opened = reign.map(|epoch| match opened {
                Some((known, since)) if known == epoch => (epoch, since),
                _ => (epoch, Instant::now()),
            });
            if let Some((epoch, since)) = opened
                && since.elapsed() >= LEFT_TO_THE_OLD
                && !is_moving(&now.state)
                && (self.resume_left_behind().await || since.elapsed() > GIVEN_UP)
            {
                told = epoch;
            }
            let again = async {
                match opened {
                    Some(_) => sleep(RESUME_AGAIN).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = board.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    }

    /// None that is paused for a hand-over of this member's own. Whether all the others have answered.
    async fn resume_left_behind(&self) -> bool {
        let each = self.consoles.iter().map(async |console| {
            let console = console.lock().await;
            if self.held.borrow().is_some() {
                return true;
            }
            let told = console.resume(RESUME_LIMIT).await;
            if let Err(error) = &told {
                let pgbouncer = console.address.as_str();
                tracing::debug!(pgbouncer, %error, "not told yet that there is a new primary");
            }
            told.is_ok()
        });
        join_all(each).await.into_iter().all(|is_told| is_told)
    }

    /// True when it is resumed, or given up; false when it is paused for another request by now.
    async fn resume(&self, console: &Mutex<Console>, now: &Held) -> bool {
        let begin = Instant::now();
        let mut has_failed = false;
        loop {
            let console = console.lock().await;
            if self.held.borrow().as_ref() != Some(now) {
                return false;
            }
            let pgbouncer = console.address.as_str();
            let error = match console.resume(RESUME_LIMIT).await {
                Ok(()) => {
                    let ms = now.since.elapsed().as_millis();
                    tracing::info!(pgbouncer, ms, request = %now.request, "PgBouncer is resumed");
                    return true;
                }
                Err(error) => error,
            };
            if begin.elapsed() > GIVEN_UP {
                tracing::error!(pgbouncer, %error, "PgBouncer could not be resumed: RESUME by hand if it runs");
                return true;
            }
            if !has_failed {
                tracing::warn!(pgbouncer, %error, "PgBouncer is not resumed yet; it is tried again");
            }
            has_failed = true;
            drop(console);
            sleep(RESUME_AGAIN).await;
        }
    }

    async fn write_note(&self, request: &RequestId) -> anyhow::Result<()> {
        let (note, text) = (self.note.clone(), request.to_string());
        let written = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let mut file = File::create(&note)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            note.parent()
                .map_or(Ok(()), |place| File::open(place)?.sync_all())
        });
        Ok(written.await??)
    }

    async fn forget(&self, now: &Held) {
        let note = self.note.clone();
        self.held.send_if_modified(|held| {
            let is_mine = held.as_ref() == Some(now);
            if is_mine {
                *held = None;
            }
            is_mine
        });
        let removed = tokio::task::spawn_blocking(move || fs::remove_file(note)).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::warn!("the note that PgBouncers may be paused could not be removed");
        }
    }
}

/// The epoch under which this member is primary, once clients are let in.
fn open_reign_here(board: &Board) -> Option<Epoch> {
    let reign = board.state.granted()?;
    let is_open = matches!(&board.own.postgres, PostgresStatus::Primary(it) if it.is_open);
    (reign.is_activated && reign.holder == board.me && is_open).then_some(reign.epoch)
}

/// A hand-over is under way: whoever began it has paused, or is about to, and a RESUME in the middle of it sends
/// clients to a server that lets nobody in.
fn is_moving(state: &ClusterState) -> bool {
    let mut open = state.open_requests().into_iter();
    open.any(|request| request.kind.moves_primary())
}

/// The request has ended, or is not known any more.
fn is_over(state: &ClusterState, request: &RequestId) -> bool {
    state.requests.get(request).is_none_or(|it| !it.is_open())
}

/// Whoever resumes too early sends clients to a closed gate.
fn has_open_primary(board: &Board, now: Moment) -> bool {
    let Some(reign) = board.state.granted().filter(|reign| reign.is_activated) else {
        return false;
    };
    board.look(now, |view| {
        let report = view.fresh(&reign.holder);
        report.is_some_and(|report| {
            matches!(&report.postgres, PostgresStatus::Primary(primary)
                if primary.is_open && primary.timeline == reign.timeline)
        })
    })
}
