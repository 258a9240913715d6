//! The replicated history as a stream: gRPC `Events.Follow`, and server-sent events at `/events`.
//!
//! A follower is a log index and nothing more: it is told what came after, from the history on the
//! member's own board, so it may go on at any member. A slow one costs a few waiting events, and its
//! place is given to somebody else.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::response::sse;
use cluster_core::model::ClusterState;
use cluster_core::model::state::{HISTORY_KEPT, HistoryEntry};
use cluster_proto::v1;
use cluster_proto::v1::follow_events_reply::Told;
use futures_util::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::documents::timestamp_iso;
use crate::board::Board;

/// How many may follow a member at once, by gRPC and HTTP together.
pub const MOST_FOLLOWERS: usize = 64;
/// Events that wait for one reader.
const WAITING: usize = 64;
/// A reader that takes nothing for so long, with [`WAITING`] events waiting, loses its place.
const SLOW_AFTER: Duration = Duration::from_secs(10);
/// A silent connection says so often that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// What everybody is told who comes when all places are taken.
const FULL: &str = "64 follow this member's events already; ask another member, or come back later";

/// Whom the cluster's own doings are put down to.
const CLUSTER: &str = "cluster";

/// Where a follower begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After this index.
    After(u64),
    /// With so many of the newest events.
    Newest(usize),
}

/// What a follower is told; an error is the last thing, and says why.
pub type Events = Pin<Box<dyn Stream<Item = Result<Told, String>> + Send>>;

/// Everybody who follows this member's events; cheap to clone.
#[derive(Clone)]
pub struct Followers {
    board: watch::Receiver<Arc<Board>>,
    places: Arc<Semaphore>,
    slow_after: Duration,
}

impl Followers {
    /// Of the events on this board.
    pub fn new(board: watch::Receiver<Arc<Board>>) -> Followers {
        Followers {
            board,
            places: Arc::new(Semaphore::new(MOST_FOLLOWERS)),
            slow_after: SLOW_AFTER,
        }
    }

    /// The same with another patience.
    pub fn with_patience(self, slow_after: Duration) -> Followers {
        Followers { slow_after, ..self }
    }

    /// What there is from `from` on, and, unless `stops_at_end`, whatever comes.
    ///
    /// # Errors
    /// All places are taken; the sentence that says so.
    pub fn follow(&self, from: Start, stops_at_end: bool) -> Result<Events, String> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| FULL.to_owned())?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let why = Arc::new(OnceLock::new());
        let teller = Teller {
            board: self.board.clone(),
            sender,
            slow_after: self.slow_after,
            why: Arc::clone(&why),
            _place: place,
        };
        tokio::spawn(teller.tell(from, stops_at_end));
        let last = futures_util::stream::once(async move { why.get().cloned() });
        let last = last.filter_map(async |why| why.map(Err));
        Ok(Box::pin(ReceiverStream::new(receiver).map(Ok).chain(last)))
    }
}

/// Tells one follower.
struct Teller {
    board: watch::Receiver<Arc<Board>>,
    sender: mpsc::Sender<Told>,
    slow_after: Duration,
    /// Why it ended, when the follower should know.
    why: Arc<OnceLock<String>>,
    _place: OwnedSemaphorePermit,
}

impl Teller {
    async fn tell(mut self, from: Start, stops_at_end: bool) {
        let mut seen = match from {
            Start::After(index) => index,
            Start::Newest(count) => begin(&self.board.borrow().state.history, count),
        };
        loop {
            let state = Arc::clone(&self.board.borrow_and_update().state);
            for told in unseen(&state, seen) {
                if let Told::Event(event) = &told {
                    seen = event.index;
                }
                match self.sender.send_timeout(told, self.slow_after).await {
                    Ok(()) => {}
                    Err(SendTimeoutError::Closed(_)) => return,
                    Err(SendTimeoutError::Timeout(_)) => {
                        let seconds = self.slow_after.as_secs_f32();
                        let _ = self.why.set(format!(
                            "too slow: {WAITING} events have waited for {seconds} s; come back with \
                             the last index seen"
                        ));
                        return;
                    }
                }
            }
            if stops_at_end {
                return;
            }
            tokio::select! {
                () = self.sender.closed() => return,
                changed = self.board.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// The index after which the newest `count` begin.
fn begin(history: &[HistoryEntry], count: usize) -> u64 {
    let first = history.len().saturating_sub(count);
    let before = first.checked_sub(1).and_then(|place| history.get(place));
    before.map_or(0, |entry| entry.index)
}

/// What somebody who has seen everything up to `seen` has not: first whether something between is
/// forgotten, then the events.
fn unseen(state: &ClusterState, seen: u64) -> Vec<Told> {
    let history = &state.history;
    let start = history.partition_point(|entry| entry.index <= seen);
    let oldest = history.first().filter(|_| history.len() >= HISTORY_KEPT);
    // Who comes with nothing expects no more than is remembered.
    let forgotten = oldest
        .filter(|oldest| seen > 0 && seen < oldest.index)
        .map(|oldest| {
            Told::Forgotten(v1::Forgotten {
                after: seen,
                oldest: oldest.index,
            })
        });
    let events = history[start..].iter();
    let events = events.map(|entry| Told::Event(event(state, entry)));
    forgotten.into_iter().chain(events).collect()
}

/// The newest events, oldest first.
pub fn newest(state: &ClusterState, count: usize) -> Vec<v1::Event> {
    let history = &state.history;
    let newest = history[history.len().saturating_sub(count)..].iter();
    newest.map(|entry| event(state, entry)).collect()
}

/// Everything after this index that is remembered.
pub fn events_after(state: &ClusterState, seen: u64) -> impl Iterator<Item = v1::Event> + '_ {
    let start = state.history.partition_point(|entry| entry.index <= seen);
    state.history[start..]
        .iter()
        .map(|entry| event(state, entry))
}

/// When it happened, as every document has it.
pub fn time(event: &v1::Event) -> String {
    timestamp_iso(event.at_unix_ms)
}

fn event(state: &ClusterState, entry: &HistoryEntry) -> v1::Event {
    v1::Event {
        index: entry.index,
        at_unix_ms: entry.at_unix_ms,
        epoch: entry.epoch.0,
        what: entry.what.clone(),
        member: entry
            .member
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        timeline: entry.timeline.map(|timeline| timeline.0),
        lsn: entry.lsn.map(|lsn| lsn.0),
        reason: entry.reason.clone(),
        who: who(state, entry).to_owned(),
    }
}

/// Who is behind it. A request is remembered with its asker; elsewhere the line's own text says it.
fn who<'a>(state: &'a ClusterState, entry: &'a HistoryEntry) -> &'a str {
    let after = |mark: &str| entry.reason.split_once(mark).map(|(_, by)| by);
    let asker = match entry.what.as_str() {
        "paused" | "resumed" => Some(entry.reason.as_str()),
        "settings" | "scheduled" | "unscheduled" | "maintenance" => after(", by "),
        "replace" => after(" by "),
        "request" => {
            let mut requests = state.requests.values();
            let request = requests.find(|request| request.index == entry.index);
            request
                .map(|request| request.by.as_str())
                .or_else(|| after(" by "))
        }
        _ => None,
    };
    asker.unwrap_or(CLUSTER)
}

/// An event as JSON, for `/events` and the page.
pub fn json(event: &v1::Event) -> Value {
    json!({
        "index": event.index,
        "time": timestamp_iso(event.at_unix_ms),
        "at_unix_ms": event.at_unix_ms,
        "epoch": event.epoch,
        "what": event.what,
        "member": (!event.member.is_empty()).then_some(&event.member),
        "timeline": event.timeline,
        "lsn": event.lsn.map(|lsn| cluster_core::model::Lsn(lsn).to_string()),
        "reason": event.reason,
        "who": event.who,
    })
}

/// The stream for a browser: events without a name, each with its index as id; `forgotten` and
/// `dropped` by name.
pub fn server_sent(
    events: Events,
) -> sse::Sse<sse::KeepAliveStream<impl Stream<Item = Result<sse::Event, Infallible>>>> {
    let lines = events.map(|told| {
        let named =
            |name: &str, data: Value| sse::Event::default().event(name).data(data.to_string());
        Ok(match told {
            Ok(Told::Event(event)) => sse::Event::default()
                .id(event.index.to_string())
                .data(json(&event).to_string()),
            Ok(Told::Forgotten(gap)) => named(
                "forgotten",
                json!({ "after": gap.after, "oldest": gap.oldest }),
            ),
            Err(why) => named("dropped", json!({ "why": why })),
        })
    });
    let alive = sse::KeepAlive::new().interval(SIGN_OF_LIFE).text("alive");
    sse::Sse::new(lines).keep_alive(alive)
}

/// The gRPC service.
pub struct EventsService {
    /// Everybody who follows.
    pub followers: Followers,
}

#[tonic::async_trait]
impl v1::events_server::Events for EventsService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<v1::FollowEventsReply, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<v1::FollowEventsRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let asked = request.into_inner();
        let from = match (asked.after, asked.newest) {
            (Some(index), _) => Start::After(index),
            (None, 0) => Start::Newest(usize::MAX),
            (None, count) => Start::Newest(count as usize),
        };
        let events = self.followers.follow(from, asked.stops_at_end);
        let events = events.map_err(Status::resource_exhausted)?;
        Ok(Response::new(Box::pin(events.map(|told| match told {
            Ok(told) => Ok(v1::FollowEventsReply { told: Some(told) }),
            Err(why) => Err(Status::resource_exhausted(why)),
        }))))
    }
}
