//! Events sent to a real HTTP endpoint, over a hand-made board: by the leader alone, none lost, each told apart.

mod edges;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use cluster_core::change::command::COMMAND_VERSION;
use cluster_core::change::{Command, Stamp, apply};
use clusterd::config::{WebhookConfig, WebhookFormat};
use clusterd::webhooks;
use clusterd::webhooks::payload::Severity;
use edges::*;
use serde_json::Value;
use tokio::net::TcpListener;

/// What has arrived, and how the next ones are answered: the last answer stays.
#[derive(Clone, Default)]
struct Endpoint {
    arrived: Arc<Mutex<Vec<(String, Value)>>>,
    answers: Arc<Mutex<Vec<StatusCode>>>,
}

impl Endpoint {
    async fn open(answers: &[StatusCode]) -> (Endpoint, String) {
        let endpoint = Endpoint::default();
        *lock(&endpoint.answers) = answers.to_vec();
        let routes = Router::new().fallback(take).with_state(endpoint.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (endpoint, format!("http://{address}/told"))
    }

    /// Once so many have arrived.
    async fn arrived(&self, count: usize) -> Vec<(String, Value)> {
        for _ in 0..1000 {
            let arrived = lock(&self.arrived).clone();
            if arrived.len() >= count {
                return arrived;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("only {:?}", lock(&self.arrived));
    }
}

async fn take(State(endpoint): State<Endpoint>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let token = headers.get("authorization");
    let token = token.and_then(|it| it.to_str().ok()).unwrap_or_default();
    let body = serde_json::from_slice(&body).expect("JSON");
    lock(&endpoint.arrived).push((token.to_owned(), body));
    let mut answers = lock(&endpoint.answers);
    match answers.len() {
        0 => StatusCode::OK,
        1 => answers[0],
        _ => answers.remove(0),
    }
}

fn hook(url: String, least: Severity) -> WebhookConfig {
    WebhookConfig {
        name: "told".to_owned(),
        format: WebhookFormat::Json,
        url,
        key: Some(clusterd::config::Secret::new("known")),
        least,
    }
}

/// The world's leader is this member, or is not.
fn lead(world: &World, leads: bool) {
    let mut board = (*world.now()).clone();
    board.raft.is_ready_leader = leads;
    world.show(board);
}

fn happen(world: &World, command: Command) -> u64 {
    let mut board = (*world.now()).clone();
    let mut state = (*board.state).clone();
    board.applied_index += 1;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let stamp = Stamp {
        version: COMMAND_VERSION,
        at_unix_ms: u64::try_from(now.as_millis()).expect("it fits"),
        command,
    };
    apply(&mut state, board.applied_index, &stamp).expect("a valid story");
    board.state = Arc::new(state);
    let index = board.applied_index;
    world.show(board);
    index
}

fn pause() -> Command {
    Command::Pause {
        by: "ann@db1".to_owned(),
    }
}

fn resume() -> Command {
    Command::Resume {
        by: "ann@db1".to_owned(),
    }
}

fn indexes(arrived: &[(String, Value)]) -> Vec<u64> {
    let each = arrived.iter().map(|(_, body)| body["index"].as_u64());
    each.map(Option::unwrap_or_default).collect()
}

#[tokio::test]
async fn the_leader_tells_every_event_once_and_again_until_it_is_taken() {
    let busy = StatusCode::SERVICE_UNAVAILABLE;
    let (endpoint, url) = Endpoint::open(&[busy, StatusCode::OK]).await;
    let world = World::new(board("a", primary()));
    lead(&world, true);
    webhooks::start(&[hook(url, Severity::Info)], &world.board.subscribe()).expect("a client");
    let first = happen(&world, pause());
    let second = happen(&world, resume());
    let arrived = endpoint.arrived(3).await;
    assert_eq!(indexes(&arrived), [first, first, second]);
    let (token, body) = &arrived[0];
    assert_eq!(token, "Bearer known");
    assert_eq!(body["what"], "paused");
    assert_eq!(body["who"], "ann@db1");
    assert_eq!(
        arrived[0].1["id"], arrived[1].1["id"],
        "told apart by its id"
    );
    assert_ne!(arrived[1].1["id"], arrived[2].1["id"]);
}

#[tokio::test]
async fn whoever_does_not_lead_is_silent_and_a_new_leader_tells_what_just_happened() {
    let (endpoint, url) = Endpoint::open(&[]).await;
    let world = World::new(board("a", primary()));
    lead(&world, false);
    webhooks::start(&[hook(url, Severity::Info)], &world.board.subscribe()).expect("a client");
    let before = happen(&world, pause());
    lead(&world, true);
    assert_eq!(indexes(&endpoint.arrived(1).await), [before]);
    lead(&world, false);
    let meanwhile = happen(&world, resume());
    // One thread runs all: whoever follows the board has its turn.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    lead(&world, true);
    // The minute before is told again, under the same ids.
    let arrived = endpoint.arrived(3).await;
    assert_eq!(indexes(&arrived), [before, before, meanwhile]);
}

#[tokio::test]
async fn what_is_refused_is_not_sent_again_and_what_is_not_grave_is_not_sent() {
    let (endpoint, url) = Endpoint::open(&[StatusCode::BAD_REQUEST]).await;
    let (grave, grave_url) = Endpoint::open(&[]).await;
    let world = World::new(board("a", primary()));
    lead(&world, true);
    let hooks = [
        hook(url, Severity::Info),
        hook(grave_url, Severity::Warning),
    ];
    webhooks::start(&hooks, &world.board.subscribe()).expect("a client");
    let first = happen(&world, pause());
    let second = happen(&world, resume());
    assert_eq!(indexes(&endpoint.arrived(2).await), [first, second]);
    let epoch = world.now().state.epoch();
    let reason = "primary-silent".to_owned();
    let lost = happen(&world, Command::Revoke { epoch, reason });
    assert_eq!(indexes(&grave.arrived(1).await), [lost]);
    assert_eq!(grave.arrived(1).await[0].1["severity"], "critical");
}
