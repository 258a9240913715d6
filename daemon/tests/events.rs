//! The history as a stream, by gRPC and HTTP, and the page's document, over a hand-made board.

mod edges;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::model::member::{ArchiveFailure, ArchiveReport};
use cluster_core::model::state::HISTORY_KEPT;
use cluster_proto::v1;
use cluster_proto::v1::admin_client::AdminClient;
use cluster_proto::v1::events_client::EventsClient;
use cluster_proto::v1::follow_events_reply::Told;
use clusterd::api::events::{Followers, MOST_FOLLOWERS, Start};
use edges::*;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

const LIMIT: Duration = Duration::from_secs(10);

async fn channel(running: &Running) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc)).expect("an address");
    endpoint.connect().await.expect("listening")
}

/// Adds events to the history of `world`, one a log entry.
fn happen(world: &World, count: usize) {
    let mut board = (*world.now()).clone();
    let mut state = (*board.state).clone();
    for _ in 0..count {
        let command = match state.pause {
            None => Command::Pause {
                by: "ann@db1: a test".to_owned(),
            },
            Some(_) => Command::Resume {
                by: "ann@db1".to_owned(),
            },
        };
        step(&mut state, &mut board.applied_index, command);
    }
    board.state = Arc::new(state);
    world.show(board);
}

async fn next(stream: &mut Streaming<v1::FollowEventsReply>) -> Option<Told> {
    let told = tokio::time::timeout(LIMIT, stream.message()).await;
    told.expect("in time").expect("no error")?.told
}

fn index(told: &Told) -> u64 {
    match told {
        Told::Event(event) => event.index,
        Told::Forgotten(_) => 0,
    }
}

#[tokio::test]
async fn a_follower_goes_on_where_it_was_without_gap_or_twin() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let mut client = EventsClient::new(channel(&running).await);
    let wanted: Vec<u64> = world
        .now()
        .state
        .history
        .iter()
        .map(|it| it.index)
        .collect();
    let all = v1::FollowEventsRequest {
        stops_at_end: true,
        ..Default::default()
    };
    let mut stream = client.follow(all).await.expect("open").into_inner();
    let mut seen = Vec::new();
    while let Some(told) = next(&mut stream).await {
        seen.push(index(&told));
    }
    assert_eq!(seen, wanted);

    // Cut off in the middle, and on at another connection.
    let from = |after| v1::FollowEventsRequest {
        after: Some(after),
        ..Default::default()
    };
    let first = from(wanted[1]);
    let mut stream = client.follow(first).await.expect("open").into_inner();
    let told = next(&mut stream).await.expect("an event");
    assert_eq!(index(&told), wanted[2]);
    drop(stream);
    let second = from(wanted[2]);
    let mut stream = client.follow(second).await.expect("open").into_inner();
    let mut seen = vec![wanted[2]];
    while seen.len() < wanted.len() - 2 {
        seen.push(index(&next(&mut stream).await.expect("an event")));
    }
    assert_eq!(seen, wanted[2..]);

    // What happens meanwhile comes by itself, with who did it.
    happen(&world, 2);
    let who = async |stream: &mut _| match next(stream).await {
        Some(Told::Event(event)) => (event.what, event.who),
        other => panic!("{other:?}"),
    };
    let paused = ("paused".to_owned(), "ann@db1: a test".to_owned());
    assert_eq!(who(&mut stream).await, paused);
    let resumed = ("resumed".to_owned(), "ann@db1".to_owned());
    assert_eq!(who(&mut stream).await, resumed);
}

#[tokio::test]
async fn what_is_forgotten_is_said() {
    let world = World::new(board("a", primary()));
    happen(&world, HISTORY_KEPT + 10);
    let followers = Followers::new(world.board.subscribe());
    let oldest = world.now().state.history[0].index;
    let told = async |start| {
        let stream = followers.follow(start, true).expect("a place");
        let told: Vec<_> = stream.collect().await;
        told.into_iter()
            .map(|it| it.expect("told"))
            .collect::<Vec<_>>()
    };
    let late = told(Start::After(2)).await;
    let gap = v1::Forgotten { after: 2, oldest };
    assert_eq!(late[0], Told::Forgotten(gap));
    assert_eq!(index(&late[1]), oldest);
    assert_eq!(late.len(), HISTORY_KEPT + 1);
    let in_time = told(Start::After(oldest)).await;
    assert_eq!(index(&in_time[0]), oldest + 1);
    assert_eq!(in_time.len(), HISTORY_KEPT - 1);
    assert_eq!(told(Start::Newest(3)).await.len(), 3);
}

#[tokio::test]
async fn places_are_bounded_and_a_slow_reader_loses_its_own_with_a_sentence() {
    let world = World::new(board("a", primary()));
    happen(&world, 200);
    let patience = Duration::from_millis(50);
    let followers = Followers::new(world.board.subscribe()).with_patience(patience);
    let mut slow: Vec<_> = (0..MOST_FOLLOWERS)
        .map(|_| followers.follow(Start::After(0), false).expect("a place"))
        .collect();
    let full = followers.follow(Start::After(0), false).err();
    let full = full.expect("all places are taken");
    assert!(full.contains("64 follow"), "{full}");
    // Nobody reads, so all lose their places, and another gets one.
    let free = async {
        loop {
            match followers.follow(Start::Newest(1), false) {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let fast = tokio::time::timeout(LIMIT, free).await;
    let mut fast = fast.expect("a place becomes free");
    assert!(fast.next().await.expect("an event").is_ok());
    let mut told: Vec<_> = slow.remove(0).collect().await;
    let last = told.pop().expect("something").expect_err("why it ended");
    assert!(last.contains("too slow"), "{last}");
    assert!(told.len() < 200 && told.iter().all(Result::is_ok));
}

#[tokio::test]
async fn grpc_says_when_all_places_are_taken() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let mut client = EventsClient::new(channel(&running).await);
    let request = v1::FollowEventsRequest::default();
    let mut held = Vec::new();
    for _ in 0..MOST_FOLLOWERS {
        held.push(client.follow(request).await.expect("a place"));
    }
    let error = client.follow(request).await.expect_err("no place");
    assert_eq!(error.code(), Code::ResourceExhausted);
    let answer = read_until(running.http, "/events", "", "follow this member").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

/// What is answered until `wanted` has come.
async fn read_until(to: SocketAddr, path: &str, header: &str, wanted: &str) -> String {
    let mut stream = TcpStream::connect(to).await.expect("listening");
    let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut seen = String::new();
    let mut buffer = [0_u8; 4096];
    while !seen.contains(wanted) {
        let read = tokio::time::timeout(LIMIT, stream.read(&mut buffer)).await;
        let count = read.unwrap_or_else(|_| panic!("no `{wanted}` in {seen}"));
        let count = count.expect("read");
        assert!(count > 0, "ended without `{wanted}`: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    seen
}

#[tokio::test]
async fn server_sent_events_carry_their_index_and_go_on_after_the_last_one() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let history = world.now().state.history.clone();
    let (before, last) = (&history[history.len() - 2], &history[history.len() - 1]);
    let end = format!("id: {}\n", last.index);
    let seen = read_until(running.http, "/events?limit=1", "", &end).await;
    assert!(seen.contains("content-type: text/event-stream"), "{seen}");
    assert!(seen.contains("x-clusterd-epoch: 1"), "{seen}");
    assert!(!seen.contains(&format!("id: {}\n", before.index)), "{seen}");

    happen(&world, 1);
    let header = format!("Last-Event-ID: {}\r\n", before.index);
    let seen = read_until(running.http, "/events?limit=9", &header, "\"paused\"").await;
    let ids: Vec<&str> = seen
        .lines()
        .filter_map(|it| it.strip_prefix("id: "))
        .collect();
    let wanted = [last.index, last.index + 1].map(|it| it.to_string());
    assert!(ids.iter().zip(&wanted).all(|(id, it)| id == it), "{seen}");
    let mut data = seen.lines().filter_map(|it| it.strip_prefix("data: "));
    let event: Value = serde_json::from_str(data.next_back().expect("an event")).expect("JSON");
    let names = [
        "index", "time", "what", "member", "epoch", "timeline", "lsn", "reason", "who",
    ];
    for name in names {
        assert!(event.get(name).is_some(), "{name} in {event}");
    }
    assert_eq!(event["who"], "ann@db1: a test");

    for header in ["Last-Event-ID: soon\r\n", "Last-Event-ID: -1\r\n"] {
        let seen = read_until(running.http, "/events", header, "a number is expected").await;
        assert!(seen.starts_with("HTTP/1.1 400"), "{seen}");
    }
}

async fn get(running: &Running, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(running.http).await.expect("listening");
    let text = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut seen = String::new();
    let reading = stream.read_to_string(&mut seen);
    let read = tokio::time::timeout(LIMIT, reading).await;
    read.expect("in time").expect("text");
    let (head, body) = seen.split_once("\r\n\r\n").expect("a whole answer");
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn the_page_is_one_document_that_runs_nothing_else() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let (head, page) = get(&running, "/ui").await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    let nonce = head.split("script-src 'nonce-").nth(1);
    let nonce = nonce.and_then(|it| it.split('\'').next()).expect("a nonce");
    assert_eq!(page.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert!(
        head.contains("default-src 'none'") && !head.contains("unsafe"),
        "{head}"
    );
    assert!(
        !page.contains("{nonce}") && !page.contains("http://db"),
        "{page}"
    );
    for foreign in ["src=\"", "@import", "url(", "href=\"http"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let (again, _) = get(&running, "/ui/").await;
    assert!(
        again.contains("nonce-") && !again.contains(nonce),
        "used once"
    );
    let (head, _) = get(&running, "/ui/nothing").await;
    assert!(head.starts_with("HTTP/1.0 404"), "{head}");
}

#[tokio::test]
async fn the_pages_document_tells_what_status_tells_and_keeps_what_is_not_for_all() {
    let mut board = in_sync(board("a", primary()));
    board.own.health.archive = Some(ArchiveReport {
        newest: None,
        recoverable_unix_ms: Some(1_795_304_110_000),
        waiting: 2,
        failure: Some(ArchiveFailure {
            why: "could not put s3://private-bucket/x".to_owned(),
            since_unix_ms: 1_795_304_110_500,
        }),
    });
    let world = World::new(board.clone());
    let running = serve(&world, None, None).await;
    let state = async || -> Value {
        let (_, body) = get(&running, "/ui/state").await;
        serde_json::from_str(&body).expect("JSON")
    };
    let seen = state().await;
    assert_eq!(seen["primary"], "a");
    assert_eq!(seen["old_because"], Value::Null);
    assert_eq!(seen["durability"]["rule"]["members"][0], "b");
    assert_eq!(seen["durability"]["confirming"][0], "b");
    assert_eq!(seen["lease"]["left_ms"], 2000);
    assert_eq!(seen["archive"]["waiting"], 2);
    assert_eq!(seen["if_primary_died"][0]["code"], "would-grant");
    let codes = |seen: &Value, member: usize| -> Vec<String> {
        let lines = seen["members"][member]["why"].as_array().expect("lines");
        let codes = lines
            .iter()
            .map(|it| it["code"].as_str().unwrap_or_default());
        codes.map(ToOwned::to_owned).collect()
    };
    assert_eq!(codes(&seen, 0), ["is-primary", "does"]);
    assert_eq!(codes(&seen, 1), ["candidate", "confirms", "does"]);
    assert_eq!(codes(&seen, 2), ["witness"]);
    let newest = board.state.history.last().expect("an event").index;
    let events = seen["events"].as_array().expect("events");
    assert_eq!(events.last().expect("an event")["index"], newest);
    for hidden in ["private-bucket", "10.0.0.", "real-time priority"] {
        assert!(!seen.to_string().contains(hidden), "{hidden} in {seen}");
    }

    // Nothing was heard for longer than a lease.
    board.merged_at = NOW.before(Duration::from_secs(9));
    world.show(board.clone());
    let seen = state().await;
    let why = seen["old_because"].as_str().expect("old");
    assert!(
        why.contains("a has heard nothing of the cluster for 9 s"),
        "{why}"
    );
    assert_eq!(seen["members"][1]["is_heard"], false);
    assert_eq!(codes(&seen, 1)[0], "not-heard");
    // A leader that no majority answers hears itself.
    board.merged_at = NOW;
    board.raft.quorum_age = Some(Duration::from_secs(7));
    world.show(board);
    let why = state().await["old_because"].to_string();
    assert!(why.contains("no majority for 7 s"), "{why}");
}

#[tokio::test]
async fn one_member_is_explained_and_an_unknown_one_is_refused() {
    let mut board = in_sync(board("a", primary()));
    let mut state = (*board.state).clone();
    state.live_rules[0].set.clear();
    state.live_rules[0].k = 0;
    board.state = Arc::new(state);
    board.own.sync = None;
    board.own.busy = None;
    let world = World::new(board);
    let running = serve(&world, None, None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let member = |name: &str| v1::ExplainRequest {
        member: name.to_owned(),
    };
    let lines = client
        .explain(member("b"))
        .await
        .expect("open")
        .into_inner()
        .lines;
    let about = |code: &str| {
        let line = lines.iter().find(|line| line.code == code);
        line.unwrap_or_else(|| panic!("{code} in {lines:?}"))
            .text
            .clone()
    };
    assert!(about("candidate").contains("before all others"));
    assert!(about("does-not-confirm").starts_with("does not confirm commits: "));
    assert_eq!(about("does"), "its own last decision: all is well");
    let error = client.explain(member("x")).await.expect_err("unknown");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.message(), "there is no member x (there are: a, b, w)");
}

#[tokio::test]
async fn collecting_needs_the_token() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let request = v1::LocalCollectRequest::default;
    let error = client.local_collect(request()).await.expect_err("no token");
    assert_eq!(error.code(), Code::Unauthenticated);
    let mut allowed = tonic::Request::new(request());
    let bearer = format!("Bearer {TOKEN}").parse().expect("a header");
    allowed.metadata_mut().insert("authorization", bearer);
    let found = client
        .local_collect(allowed)
        .await
        .expect("allowed")
        .into_inner();
    assert_eq!(found.files[0].name, "config.toml");
    assert_eq!(found.problems, ["no control data"]);
}
