//! Events sent to somebody else's HTTP endpoint, by whoever leads.
//!
//! A change of the leader loses none: the new one begins with what happened in the minute before, under the
//! same ids, so that a receiver can tell what it has. Each endpoint has a queue of its own; a slow one delays
//! nobody.

pub mod payload;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_core::model::ClusterState;
use cluster_proto::v1;
use reqwest::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::api::events::events_after;
use crate::board::Board;
use crate::config::{WebhookConfig, WebhookFormat};

use payload::{Source, body, is_end, severity};

/// Events that wait for one endpoint; newer ones are dropped, and said so.
const WAITING: usize = 256;
/// What a leader before may not have sent.
const BEFORE: Duration = Duration::from_secs(60);
/// One attempt.
const LIMIT: Duration = Duration::from_secs(10);
/// The first pause between two attempts; each is twice as long, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What could not be delivered for so long is given up.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// Sends what happens from now on to each of them, as long as this member leads.
///
/// # Errors
/// No HTTP client can be made.
pub fn start(
    hooks: &[WebhookConfig],
    board: &watch::Receiver<Arc<Board>>,
) -> Result<(), reqwest::Error> {
    if hooks.is_empty() {
        return Ok(());
    }
    // Installed already where clusterd runs; the client cannot be made without.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    for hook in hooks {
        let (queue, waiting) = mpsc::channel(WAITING);
        let sender = Sender {
            hook: hook.clone(),
            client: client.clone(),
        };
        tokio::spawn(sender.run(waiting));
        tokio::spawn(follow(hook.clone(), board.clone(), queue));
    }
    Ok(())
}

/// One event, with what its cluster is called.
struct Told {
    cluster: String,
    id: String,
    event: v1::Event,
}

async fn follow(
    hook: WebhookConfig,
    mut board: watch::Receiver<Arc<Board>>,
    queue: mpsc::Sender<Told>,
) {
    // The last that was told; none while somebody else leads.
    let mut told: Option<u64> = None;
    loop {
        let now = Arc::clone(&board.borrow_and_update());
        if !now.raft.is_ready_leader {
            told = None;
        } else if let Some(identity) = &now.state.identity {
            let after = told.unwrap_or_else(|| a_minute_ago(&now.state));
            let mut newest = after;
            for event in events_after(&now.state, after) {
                newest = event.index;
                if severity(&event) < hook.least && !is_end(&event) {
                    continue;
                }
                let it = Told {
                    cluster: identity.name.to_string(),
                    id: identity.id.to_string(),
                    event,
                };
                if queue.try_send(it).is_err() {
                    tracing::warn!(
                        webhook = hook.name,
                        "events are dropped: {WAITING} wait for the endpoint"
                    );
                }
            }
            told = Some(newest);
        }
        if board.changed().await.is_err() {
            return;
        }
    }
}

/// The index after which the events of the last minute begin, by the clocks that wrote them.
fn a_minute_ago(state: &ClusterState) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = now.unwrap_or_default().saturating_sub(BEFORE).as_millis();
    let old = state.history.iter().rev();
    let mut old = old.skip_while(|entry| u128::from(entry.at_unix_ms) >= since);
    old.next().map_or(0, |entry| entry.index)
}

struct Sender {
    hook: WebhookConfig,
    client: reqwest::Client,
}

/// What came of one attempt.
enum Outcome {
    Delivered,
    /// It will not be taken: the endpoint says so.
    Refused(String),
    /// Perhaps later.
    Later(String),
}

impl Sender {
    async fn run(self, mut waiting: mpsc::Receiver<Told>) {
        while let Some(told) = waiting.recv().await {
            self.deliver(&told).await;
        }
    }

    async fn deliver(&self, told: &Told) {
        let begin = Instant::now();
        let (mut pause, webhook) = (AGAIN, self.hook.name.as_str());
        loop {
            let index = told.event.index;
            match self.post(told).await {
                Outcome::Delivered => return,
                Outcome::Refused(why) => {
                    tracing::error!(webhook, index, why, "an event was refused");
                    return;
                }
                Outcome::Later(why) if begin.elapsed() > GIVEN_UP => {
                    tracing::error!(webhook, index, why, "an event could not be delivered");
                    return;
                }
                Outcome::Later(why) => {
                    if pause == AGAIN {
                        tracing::warn!(webhook, index, why, "not delivered yet; it is tried again");
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn post(&self, told: &Told) -> Outcome {
        let source = Source {
            cluster: &told.cluster,
            id: &told.id,
        };
        let key = self.hook.key.as_ref().map_or("", |key| key.expose());
        let (path, body) = body(self.hook.format, key, source, &told.event);
        let mut request = self
            .client
            .post(format!("{}{path}", self.hook.url))
            .header("content-type", "application/json")
            .body(body.to_string());
        request = match self.hook.format {
            WebhookFormat::Opsgenie => request.header("authorization", format!("GenieKey {key}")),
            WebhookFormat::Json if !key.is_empty() => request.bearer_auth(key),
            WebhookFormat::Json | WebhookFormat::Pagerduty => request,
        };
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Outcome::Delivered,
            Ok(answer) if is_final(answer.status()) => {
                Outcome::Refused(answer.status().to_string())
            }
            Ok(answer) => Outcome::Later(answer.status().to_string()),
            // Its address may hold a key.
            Err(error) => Outcome::Later(error.without_url().to_string()),
        }
    }
}

/// The same request will not do later either.
fn is_final(status: StatusCode) -> bool {
    status.is_client_error()
        && status != StatusCode::TOO_MANY_REQUESTS
        && status != StatusCode::REQUEST_TIMEOUT
}
