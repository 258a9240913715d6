//! The HTTP API over a hand-made board: Patroni's matrix of role × path × method × HTTP version
//! through raw sockets, the bodies, the metrics and the token.

mod edges;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::model::member::{ArchiveReport, Pending, PendingRestart};
use cluster_core::model::schedule::Work;
use cluster_core::model::snapshot::{MemberPart, SnapshotFile};
use cluster_core::model::{
    Addresses, Lsn, MemberKind, NodeId, PostgresStatus, RequestKind, TimelineId,
};
use clusterd::board::{Board, Propose};
use edges::*;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Answer {
    line: String,
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, wanted: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

async fn send(to: SocketAddr, text: &str) -> Answer {
    let mut stream = TcpStream::connect(to).await.expect("listening");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("the connection is closed after the answer")
        .expect("read");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole answer");
    let line = head.lines().next().expect("a status line").to_owned();
    let code = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a code");
    Answer {
        code,
        line,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn ask(to: SocketAddr, method: &str, version: &str, path: &str) -> Answer {
    let host = if version == "1.0" {
        ""
    } else {
        "Host: x\r\nConnection: close\r\n"
    };
    send(to, &format!("{method} {path} HTTP/{version}\r\n{host}\r\n")).await
}

async fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, "GET", "1.1", path).await
}

async fn post(to: SocketAddr, path: &str, token: Option<&str>, body: &str) -> Answer {
    send_body(to, "POST", path, token, body).await
}

async fn send_body(
    to: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Answer {
    let token = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n{body}"
    );
    send(to, &text).await
}

/// The conditions of member a, each with its letter in the table.
fn conditions() -> Vec<(char, Board, Duration)> {
    let held = Duration::from_secs(2);
    let replayed = 0x3ff_0000;
    let mut closed = board("a", primary());
    let mut state = (*closed.state).clone();
    state.reign.as_mut().expect("a reign").is_activated = false;
    closed.state = Arc::new(state);
    let mut silent = board("a", primary());
    silent.postgres_answered_at = Some(NOW.before(Duration::from_millis(1500)));
    let mut unbalanced = board("b", standby(true, replayed));
    unbalanced.own.tags.noloadbalance = true;
    let mut stale = board("b", standby(true, replayed));
    stale.postgres_answered_at = Some(NOW.before(Duration::from_secs(10)));
    let ruled = |k, also: &[&str]| {
        let mut board = board("b", standby(true, replayed));
        let mut state = (*board.state).clone();
        with_rule(&mut state, k, also);
        board.state = Arc::new(state);
        board
    };
    vec![
        ('P', board("a", primary()), held),
        // Less than K_soft left: the daemon has stopped answering as primary.
        ('L', board("a", primary()), Duration::from_millis(300)),
        ('N', closed, held),
        ('S', silent, held),
        ('R', board("b", standby(true, replayed)), Duration::ZERO),
        ('A', board("b", standby(false, replayed)), Duration::ZERO),
        ('O', unbalanced, Duration::ZERO),
        ('T', stale, Duration::ZERO),
        ('X', board("b", stopped()), Duration::ZERO),
        ('Y', ruled(1, &[]), Duration::ZERO),
        ('Q', ruled(1, &["b"]), Duration::ZERO),
    ]
}

/// Path, and the conditions under which it answers 200.
const HEALTH: &[(&str, &str)] = &[
    ("/", "P"),
    ("/primary", "P"),
    ("/master", "P"),
    ("/leader", "P"),
    ("/read-write", "P"),
    ("/?tag_nothing=x", "P"),
    ("/primary/anything", "P"),
    ("/xx-primary-yy", "P"),
    ("/standby-leader", ""),
    ("/standby_leader", ""),
    ("/replica", "RAYQ"),
    ("/my-replica-check", "RAYQ"),
    ("/read-only", "PRAYQ"),
    ("/read-only/x", "PRAYQ"),
    ("/health", "PLNSRAOYQ"),
    ("/healthz", "PLNSRAOYQ"),
    ("/sync", "Y"),
    ("/synchronous", "Y"),
    ("/sync/x", ""),
    ("/quorum", "Q"),
    ("/async", "RA"),
    ("/asynchronous", "RA"),
    ("/read-only-sync", "PY"),
    ("/read-only-synchronous", "PY"),
    ("/read-only-quorum", "PQ"),
    ("/nonsense", ""),
    ("/replica?replication_state=streaming", "RYQ"),
    ("/replica?lag=64kB", "RAYQ"),
    ("/replica?lag=65535", ""),
    ("/replica?lag=nonsense", "RAYQ"),
    ("/replica?tag_zone=x", ""),
];

const OTHERS: &[(&str, &str)] = &[
    ("/patroni", "PLNSRAOTXYQ"),
    ("/patroni/x", "PLNSRAOTXYQ"),
    ("/cluster", "PLNSRAOTXYQ"),
    ("/history", "PLNSRAOTXYQ"),
    ("/config", "PLNSRAOTXYQ"),
    ("/metrics", "PLNSRAOTXYQ"),
    ("/liveness", "PLNSRAOTXYQ"),
    ("/readiness", "PROYQ"),
    ("/readiness?lag=1", "P"),
    ("/dsn", "PLNSRAOTXYQ"),
];

#[tokio::test]
async fn every_path_answers_as_patroni_does_in_every_condition_method_and_version() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    for (letter, board, left) in conditions() {
        world.show(board);
        *lock(&world.holder) = lease_left(left);
        for (is_health, (path, ok)) in HEALTH
            .iter()
            .map(|row| (true, row))
            .chain(OTHERS.iter().map(|row| (false, row)))
        {
            let expected = if ok.contains(letter) { 200 } else { 503 };
            for method in ["GET", "HEAD", "OPTIONS"] {
                for version in ["1.0", "1.1"] {
                    let answer = ask(running.http, method, version, path).await;
                    let what = format!("{letter}: {method} {path} HTTP/{version}");
                    assert_eq!(answer.code, expected, "{what}");
                    assert!(
                        answer.line.starts_with(&format!("HTTP/{version} ")),
                        "{what}"
                    );
                    assert_eq!(answer.header("x-clusterd-epoch"), Some("1"), "{what}");
                    if is_health && method == "GET" {
                        let body = answer.json();
                        assert_eq!(body["epoch"], 1, "{what}");
                        assert_eq!(body["patroni"]["scope"], "batman", "{what}");
                    }
                    if method == "HEAD" || (is_health && method == "OPTIONS") {
                        assert_eq!(answer.body, "", "{what}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_primary_path_never_answers_200_on_a_lease_of_another_epoch() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    assert_eq!(get(running.http, "/primary").await.code, 200);
    lock(&world.holder).epoch.0 = 2;
    assert_eq!(get(running.http, "/primary").await.code, 503);
}

#[tokio::test]
async fn tags_filter_where_patroni_filters() {
    let mut tagged = board("b", standby(true, 0x3ff_0000));
    tagged.own.tags.nofailover = true;
    tagged
        .own
        .tags
        .custom
        .insert("zone".to_owned(), "east side".to_owned());
    let world = World::new(tagged);
    let running = serve(&world, None, None).await;
    for (path, code) in [
        ("/replica?tag_zone=east%20side", 200),
        ("/replica?tag_zone=east+side&tag_nofailover=true", 200),
        ("/replica?tag_zone=west", 503),
        ("/replica?tag_nosync=true", 503),
        ("/replica?tag_zone=", 200),
        ("/health?tag_zone=west", 503),
        ("/primary?tag_zone=east%20side", 503),
    ] {
        assert_eq!(get(running.http, path).await.code, code, "{path}");
    }
}

#[tokio::test]
async fn the_status_of_a_primary_has_patronis_fields() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let answer = get(running.http, "/patroni").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    assert_eq!(body["state"], "running");
    assert_eq!(body["role"], "primary");
    assert_eq!(body["server_version"], 150_020);
    assert_eq!(body["timeline"], 2);
    assert_eq!(body["xlog"]["location"], 0x400_0000);
    assert_eq!(
        body["postmaster_start_time"],
        "2026-11-21 23:35:10.123000+00:00"
    );
    assert_eq!(body["database_system_identifier"], "77");
    assert_eq!(body["patroni"]["name"], "a");
    assert_eq!(body["replication"][0]["application_name"], "b~00000062~1");
    assert_eq!(body.get("pause"), None);
    assert_eq!(body.get("cluster_unlocked"), None);

    world.show(board("b", standby(true, 0x3ff_0000)));
    let body = get(running.http, "/patroni").await.json();
    assert_eq!(body["role"], "replica");
    assert_eq!(body["replication_state"], "streaming");
    assert_eq!(body["xlog"]["received_location"], 0x3ff_0000);
    assert_eq!(
        body["xlog"]["replayed_timestamp"],
        "2026-11-21 23:35:10.500000+00:00"
    );
    assert_eq!(body["xlog"]["paused"], false);
}

#[tokio::test]
async fn the_cluster_document_lists_members_as_patroni_does() {
    let mut lagging = board("a", primary());
    let mut reports = (*lagging.reports).clone();
    let b = reports.get_mut(&name("b")).expect("b");
    b.report.postgres = standby(true, 0x3fe_0000);
    lagging.reports = Arc::new(reports);
    let world = World::new(lagging);
    let running = serve(&world, None, None).await;
    let body = get(running.http, "/cluster/foo").await.json();
    assert_eq!(body["scope"], "batman");
    let members = body["members"].as_array().expect("members");
    assert_eq!(
        members.len(),
        2,
        "the witness is no member to Patroni's clients"
    );
    assert_eq!(body["witnesses"][0]["name"], "w");
    let (a, b) = (&members[0], &members[1]);
    assert_eq!(
        (&a["role"], &a["state"]),
        (&"leader".into(), &"running".into())
    );
    assert_eq!(a["api_url"], "http://10.0.0.1:8008/patroni");
    assert_eq!((&a["host"], &a["port"]), (&"10.0.0.1".into(), &5432.into()));
    assert_eq!(a.get("lag"), None);
    assert_eq!(
        (&b["role"], &b["state"]),
        (&"replica".into(), &"streaming".into())
    );
    assert_eq!(b["timeline"], 2);
    assert_eq!(b["receive_lsn"], Lsn(0x3ff_0000).to_string());
    assert_eq!(
        (&b["receive_lag"], &b["replay_lag"]),
        (&0x1_0000.into(), &0x2_0000.into())
    );

    let mut gone = (*world.now()).clone();
    gone.merged_at = NOW.before(Duration::from_secs(60));
    world.show(gone);
    let body = get(running.http, "/cluster").await.json();
    assert_eq!(
        body["members"][1]["state"], "unknown",
        "not heard for a minute"
    );
}

#[tokio::test]
async fn the_cluster_document_tells_who_confirms_commits() {
    let mut sync = in_sync(board("a", primary()));
    sync.own.health.cancelled_waits = 3;
    sync.own.health.strangers_ended = 4;
    sync.own.health.archive = Some(ArchiveReport {
        newest: None,
        recoverable_unix_ms: Some(1_790_000_000_500),
        waiting: 3,
        failure: None,
    });
    sync.own.health.commit_overrides = vec!["role app: synchronous_commit = off".to_owned()];
    let world = World::new(sync);
    let running = serve(&world, None, None).await;
    let body = get(running.http, "/cluster").await.json();
    assert_eq!(body["members"][1]["role"], "sync_standby");
    let durability = &body["durability"];
    assert_eq!(durability["mode"], "sync");
    assert_eq!(durability["k"], 1);
    assert_eq!(durability["rule"], 2);
    assert_eq!(durability["confirming"][0], "b");
    assert_eq!(durability["survivable_with_primary"], 0);
    let text = get(running.http, "/metrics").await.body;
    let labels = r#"{name="a",scope="batman"}"#;
    for line in [
        format!("clusterd_sync_k_wanted{labels} 1"),
        format!("clusterd_sync_k{labels} 1"),
        format!("clusterd_sync_rule{labels} 2"),
        format!("clusterd_sync_confirming_standbys{labels} 1"),
        format!("clusterd_sync_writes_wait{labels} 0"),
        format!("clusterd_sync_survivable_standbys{labels} 0"),
        format!("clusterd_sync_survivable_with_primary{labels} 0"),
        format!("clusterd_live_rules{labels} 1"),
        format!("clusterd_sync_rule_changes_total{labels} 2"),
        format!("clusterd_sync_cancelled_waits_total{labels} 3"),
        format!("clusterd_sync_commit_overrides{labels} 1"),
        format!("clusterd_sync_strangers_ended_total{labels} 4"),
        format!("clusterd_archive_waiting_files{labels} 3"),
        format!("clusterd_archive_failing{labels} 0"),
        format!("clusterd_archive_last_recoverable_time{labels} 1790000000.5"),
        r#"clusterd_sync_mode{mode="sync",name="a",scope="batman"} 1"#.to_owned(),
        r#"clusterd_sync_confirms{member="b",name="a",scope="batman"} 1"#.to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

/// A proposal says who may confirm one day; roles and health paths go by what is activated.
#[tokio::test]
async fn a_proposed_rule_changes_no_role_before_it_is_activated() {
    let mut proposed = board("b", standby(true, 0x3ff_0000));
    let mut state = (*proposed.state).clone();
    with_rule(&mut state, 1, &[]);
    let mut next = state.live_rules[0].clone();
    next.id.0 = 3;
    next.k = 0;
    next.set.clear();
    state.live_rules.push(next);
    proposed.state = Arc::new(state);
    let world = World::new(proposed.clone());
    let running = serve(&world, None, None).await;
    assert_eq!(get(running.http, "/sync").await.code, 200);
    assert_eq!(get(running.http, "/async").await.code, 503);
    let mut state = (*proposed.state).clone();
    state.live_rules.remove(0);
    proposed.state = Arc::new(state);
    world.show(proposed);
    assert_eq!(get(running.http, "/sync").await.code, 503);
    assert_eq!(get(running.http, "/async").await.code, 200);
    let text = get(running.http, "/metrics").await.body;
    let line = r#"patroni_sync_standby{name="a",scope="batman"} 0"#;
    assert!(text.lines().any(|found| found == line), "{line}");
}

#[tokio::test]
async fn the_settings_are_one_document_that_is_changed_in_parts() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let before = get(running.http, "/config").await;
    assert_eq!(before.header("content-type"), Some("application/json"));
    let before = before.json();
    assert_eq!(
        (&before["mode"], &before["k"]),
        (&"async".into(), &1.into())
    );
    assert_eq!(before["zones"], serde_json::json!({}));
    let wanted = r#"{"mode":"sync","k":2,"zones":{"a":"east"},"members":{"b":{"nosync":true}}}"#;
    let answer = send_body(running.http, "PATCH", "/config", None, wanted).await;
    assert_eq!(answer.code, 401);
    let answer = send_body(running.http, "PATCH", "/config", Some(TOKEN), wanted).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    assert_eq!(answer.json(), get(running.http, "/config").await.json());
    assert_eq!(answer.json()["members"]["b"]["nosync"], true);
    assert_eq!(
        answer.json()["preset"],
        before["preset"],
        "not named, not changed"
    );
    let wanted = r#"{"zones":{"a":null},"members":{"b":{"nosync":null}}}"#;
    let answer = send_body(running.http, "PATCH", "/config", Some(TOKEN), wanted).await;
    assert_eq!(answer.json()["zones"], serde_json::json!({}));
    assert_eq!(answer.json()["members"], serde_json::json!({}));

    let count = lock(&world.proposed).len();
    let bad = r#"{"mode":"quorum","colour":"red","k":9,"zones":{"zz":"x"}}"#;
    let answer = send_body(running.http, "PATCH", "/config", Some(TOKEN), bad).await;
    assert_eq!(answer.code, 400);
    for part in [
        "sync, strict or async",
        "colour: no such key",
        "at most 8",
        "no member zz",
    ] {
        assert!(answer.body.contains(part), "{part}: {}", answer.body);
    }
    for bad in ["[]", "{", r#"{"zones":3}"#, r#"{"k":[1]}"#, "{}"] {
        let answer = send_body(running.http, "PATCH", "/config", Some(TOKEN), bad).await;
        assert_eq!(answer.code, 400, "{bad}: {}", answer.body);
    }
    assert_eq!(lock(&world.proposed).len(), count);
    *lock(&world.answer) = Script::NoLeader;
    let answer = send_body(running.http, "PATCH", "/config", Some(TOKEN), r#"{"k":3}"#).await;
    assert_eq!(answer.code, 503);
}

/// A `PUT /config` that holds only for this revision.
async fn put_if(to: SocketAddr, revision: &str, body: &str) -> Answer {
    let length = body.len();
    let text = format!(
        "PUT /config HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
         If-Match: {revision}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    send(to, &text).await
}

#[tokio::test]
async fn parameters_are_tried_by_every_postgresql_before_they_are_proposed() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let wanted =
        r#"{"postgresql":{"parameters":{"work_mem":"8MB"}},"standby":{"parameters":{"my.own":1}}}"#;
    let answer = send_body(running.http, "PATCH", "/config", Some(TOKEN), wanted).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    let shown = get(running.http, "/config").await;
    assert_eq!(shown.json()["postgresql"]["parameters"]["work_mem"], "8MB");
    assert_eq!(shown.json()["standby"]["parameters"]["my.own"], "1");
    let count = lock(&world.proposed).len();
    for (bad, words) in [
        (
            r#"{"parameters":{"fsync":"off"}}"#,
            "parameters.fsync: belongs to clusterd",
        ),
        (
            r#"{"parameters":{"shared_preload_libraries":"x"}}"#,
            "config file",
        ),
        (
            r#"{"parameters":{"work_men":"8MB"}}"#,
            "a: unrecognized configuration parameter",
        ),
        (
            r#"{"members":{"b":{"parameters":{"port":"1"}}}}"#,
            "belongs to clusterd",
        ),
        (
            r#"{"members":{"w":{"nofailover":true}}}"#,
            "a witness has no PostgreSQL",
        ),
    ] {
        let answer = send_body(running.http, "PATCH", "/config", Some(TOKEN), bad).await;
        assert_eq!(answer.code, 400, "{bad}");
        assert!(answer.body.contains(words), "{words}: {}", answer.body);
    }
    assert_eq!(lock(&world.proposed).len(), count, "nothing was proposed");
}

#[tokio::test]
async fn a_whole_document_is_put_only_over_the_one_that_was_read() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let first = get(running.http, "/config").await;
    assert_eq!(first.header("etag"), Some("\"0\""));
    let mut wanted = first.json();
    wanted["k"] = 2.into();
    let answer = put_if(running.http, "\"0\"", &wanted.to_string()).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    let second = get(running.http, "/config").await;
    assert_eq!(second.json(), wanted, "what is shown can be put back");
    let etag = second.header("etag").expect("a revision").to_owned();
    assert_ne!(etag, "\"0\"");
    wanted["k"] = 3.into();
    let answer = put_if(running.http, "\"0\"", &wanted.to_string()).await;
    assert_eq!(answer.code, 412, "{}", answer.body);
    assert!(
        answer.body.contains("somebody changed them"),
        "{}",
        answer.body
    );
    assert_eq!(get(running.http, "/config").await.json()["k"], 2);
    assert_eq!(put_if(running.http, "new", "{}").await.code, 400);
    // What is not named gets its default.
    let answer = put_if(running.http, &etag, r#"{"mode":"async"}"#).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    assert_eq!(get(running.http, "/config").await.json()["k"], 1);
}

#[tokio::test]
async fn what_waits_for_a_restart_is_told_with_old_and_new_value() {
    let mut board = board("a", primary());
    let PostgresStatus::Primary(primary) = &board.own.postgres else {
        panic!("a primary")
    };
    let pending = |of_unix_ms| Pending {
        of_unix_ms,
        what: vec![PendingRestart {
            name: "shared_buffers".to_owned(),
            from: "128MB".to_owned(),
            to: "1GB".to_owned(),
        }],
    };
    let started = primary.started_unix_ms;
    board.own.health.pending_restart = Some(pending(started));
    let world = World::new(board.clone());
    let running = serve(&world, None, None).await;
    let body = get(running.http, "/patroni").await.json();
    assert_eq!(body["pending_restart"], true);
    // The condition of `POST /restart` is met by that, and by nothing else.
    let running_with_token = serve(&world, Some(TOKEN), None).await;
    let when_pending = r#"{"restart_pending":true}"#;
    let answer = post(
        running_with_token.http,
        "/restart",
        Some(TOKEN),
        when_pending,
    )
    .await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    let reason = &body["pending_restart_reason"]["shared_buffers"];
    assert_eq!(
        (&reason["old_value"], &reason["new_value"]),
        (&"128MB".into(), &"1GB".into())
    );
    let text = get(running.http, "/metrics").await.body;
    let line = r#"patroni_pending_restart{name="a",scope="batman"} 1"#;
    assert!(text.lines().any(|found| found == line), "{line}");
    // What was said of another postmaster is nothing about this one.
    board.own.health.pending_restart = Some(pending(started + 1));
    world.show(board);
    let body = get(running.http, "/patroni").await.json();
    assert_eq!(body.get("pending_restart"), None);
    let answer = post(
        running_with_token.http,
        "/restart",
        Some(TOKEN),
        when_pending,
    )
    .await;
    assert_eq!(answer.code, 503, "{}", answer.body);
}

#[tokio::test]
async fn history_tells_where_each_timeline_was_left_and_why() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let body = get(running.http, "/history").await.json();
    let line = &body[0];
    assert_eq!(line[0], 1);
    assert_eq!(line[1], 0x300_0060);
    assert_eq!(line[2], "first-primary");
    assert!(
        line[3]
            .as_str()
            .expect("a time")
            .starts_with("2026-11-21T23:35:10")
    );
    assert_eq!(line[4], "a");
    assert_eq!(body.as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn the_dsn_finds_the_primary_by_itself() {
    let world = World::new(board("b", standby(true, 0x3ff_0000)));
    let running = serve(&world, None, None).await;
    let dsn = get(running.http, "/dsn").await.body;
    assert_eq!(
        dsn,
        "host=10.0.0.2,10.0.0.1 port=5432,5432 dbname=postgres target_session_attrs=read-write\n"
    );
    let dsn = get(running.http, "/dsn?role=primary").await.body;
    assert_eq!(dsn, "host=10.0.0.2 port=5432 dbname=postgres\n");
    assert_eq!(get(running.http, "/dsn?role=king").await.code, 400);
}

#[tokio::test]
async fn metrics_have_patronis_names_and_our_own() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let answer = get(running.http, "/metrics").await;
    assert!(
        answer
            .header("content-type")
            .expect("type")
            .starts_with("text/plain")
    );
    let labels = r#"{name="a",scope="batman"}"#;
    for line in [
        format!("patroni_postgres_running{labels} 1"),
        format!("patroni_primary{labels} 1"),
        format!("patroni_replica{labels} 0"),
        format!("patroni_xlog_location{labels} 67108864"),
        format!("patroni_postgres_timeline{labels} 2"),
        format!("patroni_postgres_server_version{labels} 150020"),
        format!("patroni_postgres_state{labels} 5"),
        format!("patroni_postmaster_start_time{labels} 1795304110.123"),
        format!("clusterd_epoch{labels} 1"),
        format!("clusterd_raft_term{labels} 4"),
        format!("clusterd_renewals_refused_total{labels} 5"),
        format!("clusterd_lease_remaining_seconds{labels} 2"),
        format!("clusterd_first_renewal_seconds{labels} 0.12"),
        format!("clusterd_last_failover_seconds{labels} 2.5"),
        format!("clusterd_raft_voters_up{labels} 3"),
        r#"clusterd_failovers_total{name="a",reason="primary-silent",scope="batman"} 1"#.to_owned(),
        r#"clusterd_replay_lag_bytes{member="b",name="a",scope="batman"} 65536"#.to_owned(),
        "# TYPE patroni_xlog_location counter".to_owned(),
        "# Values: 0=initializing new cluster, 1=initdb failed, 2=running custom bootstrap script, \
         3=custom bootstrap failed, 4=creating replica, 5=running, 6=starting, 7=starting after \
         custom bootstrap, 8=start failed, 9=restarting, 10=restart failed, 11=stopping, \
         12=stopped, 13=stop failed, 14=crashed"
            .to_owned(),
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line}\n{}", answer.body);
    }
    for series in [
        "patroni_version",
        "patroni_standby_leader",
        "patroni_sync_standby",
        "patroni_quorum_standby",
        "patroni_xlog_received_location",
        "patroni_xlog_replayed_location",
        "patroni_xlog_replayed_timestamp",
        "patroni_xlog_paused",
        "patroni_postgres_streaming",
        "patroni_postgres_in_archive_recovery",
        "patroni_cluster_unlocked",
        "patroni_failsafe_mode_is_active",
        "patroni_dcs_last_seen",
        "patroni_pending_restart",
        "patroni_is_paused",
        "patroni_failover_priority",
    ] {
        assert!(
            answer.body.contains(&format!("\n{series}{labels} ")),
            "{series}"
        );
        assert!(
            answer.body.contains(&format!("# HELP {series} ")),
            "{series}"
        );
    }
}

#[tokio::test]
async fn nothing_is_changed_without_the_token() {
    let world = World::new(board("a", primary()));
    let body = r#"{"leader":"a","candidate":"b"}"#;
    let closed = serve(&world, None, None).await;
    let answer = post(closed.http, "/switchover", Some(TOKEN), body).await;
    assert_eq!(answer.code, 403);
    assert!(
        answer.body.contains("no token configured"),
        "{}",
        answer.body
    );

    let running = serve(&world, Some(TOKEN), None).await;
    for path in [
        "/switchover",
        "/failover",
        "/restart",
        "/reload",
        "/reinitialize",
    ] {
        let answer = post(running.http, path, None, body).await;
        assert_eq!(
            (answer.code, answer.body.as_str()),
            (401, "no auth header received")
        );
        assert!(answer.header("www-authenticate").is_some());
        let answer = post(running.http, path, Some("open"), body).await;
        assert_eq!(
            (answer.code, answer.body.as_str()),
            (401, "not authenticated")
        );
    }
    assert!(lock(&world.proposed).is_empty());
    for (method, path) in [
        ("PUT", "/switchover"),
        ("PATCH", "/switchover"),
        ("DELETE", "/failover"),
        ("DELETE", "/config"),
    ] {
        assert_eq!(
            ask(running.http, method, "1.1", path).await.code,
            501,
            "{method} {path}"
        );
    }
    for path in ["/switchover", "/restart"] {
        let answer = ask(running.http, "DELETE", "1.1", path).await;
        assert_eq!(answer.code, 401, "{path}");
    }
    assert_eq!(
        post(running.http, "/nonsense", Some(TOKEN), "").await.code,
        501
    );
}

#[tokio::test]
async fn a_switchover_answers_with_patronis_sentences() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    for (body, code, text) in [
        ("", 400, "invalid JSON"),
        ("[]", 400, "invalid JSON"),
        (
            "{}",
            400,
            "Switchover could be performed only from a specific leader",
        ),
        (
            r#"{"leader":"a","candidate":"a"}"#,
            400,
            "Switchover target and source are the same",
        ),
        (r#"{"leader":"b"}"#, 412, "leader name does not match"),
        (
            r#"{"leader":"a","candidate":"zz"}"#,
            412,
            "candidate does not exists",
        ),
        (
            r#"{"leader":"a","candidate":"w"}"#,
            412,
            "no good candidates have been found",
        ),
        (
            r#"{"leader":"a","candidate":"b"}"#,
            200,
            "Successfully switched over to \"b\"",
        ),
    ] {
        let answer = post(running.http, "/switchover", Some(TOKEN), body).await;
        assert_eq!(answer.code, code, "{body}: {}", answer.body);
        assert!(answer.body.contains(text), "{body}: {}", answer.body);
    }
    assert_eq!(
        lock(&world.proposed).len(),
        1,
        "only what was valid was proposed"
    );
}

#[tokio::test]
async fn a_failover_needs_a_candidate_and_says_how_it_went() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let answer = post(running.http, "/failover", Some(TOKEN), "{}").await;
    assert_eq!(answer.code, 400);
    assert_eq!(
        answer.body,
        "Failover could be performed only to a specific candidate"
    );
    *lock(&world.answer) = Script::Fails;
    let body = r#"{"candidate":"b"}"#;
    let answer = post(running.http, "/failover", Some(TOKEN), body).await;
    assert_eq!(answer.code, 503);
    assert!(
        answer.body.starts_with("Failover failed"),
        "{}",
        answer.body
    );
    *lock(&world.answer) = Script::Succeeds;
    let answer = post(running.http, "/failover", Some(TOKEN), body).await;
    assert_eq!(
        (answer.code, answer.body.as_str()),
        (200, "Successfully failed over to \"b\"")
    );
    *lock(&world.answer) = Script::NoLeader;
    let answer = post(running.http, "/restart", Some(TOKEN), "").await;
    assert_eq!(answer.code, 503);
    assert!(
        answer.body.contains("no leader can be reached"),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn restart_reload_and_reinitialize_concern_the_member_that_is_asked() {
    let world = World::new(board("b", standby(true, 0x3ff_0000)));
    let running = serve(&world, Some(TOKEN), None).await;
    for (path, body, code, text) in [
        ("/restart", "", 200, "restarted successfully"),
        (
            "/restart",
            r#"{"role":"king"}"#,
            400,
            "PostgreSQL role should be either",
        ),
        (
            "/restart",
            r#"{"role":"primary"}"#,
            503,
            "restart conditions are not satisfied",
        ),
        (
            "/restart",
            r#"{"postgres_version":"15.20"}"#,
            503,
            "restart conditions are not satisfied",
        ),
        (
            "/restart",
            r#"{"colour":"red"}"#,
            400,
            "Unknown filter for the scheduled restart: colour",
        ),
        (
            "/restart",
            r#"{"timeout":0}"#,
            400,
            "Timeout should be a positive number of seconds",
        ),
        ("/reload", "", 202, "reload scheduled"),
        ("/reinitialize", "{}", 200, "reinitialize started"),
    ] {
        let answer = post(running.http, path, Some(TOKEN), body).await;
        assert_eq!(answer.code, code, "{path} {body}: {}", answer.body);
        assert!(answer.body.contains(text), "{path} {body}: {}", answer.body);
    }
    let asked: Vec<RequestKind> = lock(&world.proposed)
        .iter()
        .filter_map(|command| match command {
            Command::Ask { kind, .. } => Some(kind.clone()),
            _ => None,
        })
        .collect();
    let member = name("a");
    assert_eq!(
        asked,
        [
            RequestKind::Restart {
                member: member.clone()
            },
            RequestKind::Reload {
                member: member.clone()
            },
            RequestKind::Reinit { member },
        ]
    );
    world.show(board("a", primary()));
    let answer = post(running.http, "/reinitialize", Some(TOKEN), "").await;
    assert_eq!(answer.code, 503);
    assert_eq!(answer.body, "I am the leader, can not reinitialize");
}

const FUTURE: &str = "2999-12-31T23:00:00+01:00";

/// Each of the cases by itself, on a board where a is primary and asked.
async fn answers(path: &str, cases: &[(&str, u16, &str)]) {
    for (body, code, text) in cases {
        let world = World::new(board("a", primary()));
        let running = serve(&world, Some(TOKEN), None).await;
        let answer = post(running.http, path, Some(TOKEN), body).await;
        assert_eq!(
            (answer.code, answer.body.as_str()),
            (*code, *text),
            "{path} {body}"
        );
        let is_good = *code == 202;
        assert_eq!(lock(&world.proposed).len(), usize::from(is_good), "{body}");
        assert_eq!(world.now().state.schedules.len(), usize::from(is_good));
    }
}

#[tokio::test]
async fn a_scheduled_switchover_answers_with_patronis_codes_and_sentences() {
    let unreadable = "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO \
                      8601";
    answers(
        "/switchover",
        &[
            (
                r#"{"leader":"a","candidate":"b","scheduled_at":"2999-12-31T23:00:00+01:00"}"#,
                202,
                "Switchover scheduled",
            ),
            (
                r#"{"leader":"b","scheduled_at":"2999-12-31 23:00Z"}"#,
                202,
                "Switchover scheduled",
            ),
            (
                r#"{"scheduled_at":"2999-12-31T23:00:00+01:00"}"#,
                400,
                "Switchover could be performed only from a specific leader",
            ),
            (
                r#"{"leader":"a","scheduled_at":"2999-12-31T23:00:00"}"#,
                400,
                "Timezone information is mandatory for the scheduled switchover",
            ),
            (
                r#"{"leader":"a","scheduled_at":"2016-08-27T12:45:00+00:00"}"#,
                422,
                "Cannot schedule switchover in the past",
            ),
            (r#"{"leader":"a","scheduled_at":"soon"}"#, 422, unreadable),
            (r#"{"leader":"a","scheduled_at":17}"#, 422, unreadable),
            (
                r#"{"leader":"a","candidate":"a","scheduled_at":"2999-12-31T23:00:00+01:00"}"#,
                400,
                "Switchover target and source are the same",
            ),
            (
                r#"{"leader":"a","candidate":"zz","scheduled_at":"2999-12-31T23:00:00+01:00"}"#,
                412,
                "candidate does not exists",
            ),
            (
                r#"{"leader":"yy","candidate":"w","scheduled_at":"2999-12-31T23:00:00"}"#,
                400,
                "Timezone information is mandatory for the scheduled switchover\nleader name does not \
                 match\ncandidate does not exists",
            ),
        ],
    )
    .await;
    answers(
        "/failover",
        &[(
            r#"{"leader":"a","candidate":"b","scheduled_at":"2999-12-31T23:00:00+01:00"}"#,
            400,
            "Failover can't be scheduled",
        )],
    )
    .await;
}

#[tokio::test]
async fn a_scheduled_switchover_is_shown_replaced_and_deleted() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let delete = || send_body(running.http, "DELETE", "/switchover", Some(TOKEN), "");
    let none = delete().await;
    assert_eq!(
        (none.code, none.body.as_str()),
        (404, "no switchover is scheduled")
    );
    for to in ["", r#","candidate":"b""#] {
        let body = format!(r#"{{"leader":"a","scheduled_at":"{FUTURE}"{to}}}"#);
        let answer = post(running.http, "/switchover", Some(TOKEN), &body).await;
        assert_eq!(answer.code, 202, "as in Patroni the newest counts");
    }
    let shown = get(running.http, "/cluster").await.json();
    assert_eq!(
        shown["scheduled_switchover"],
        serde_json::json!({ "at": FUTURE, "from": "a", "to": "b" })
    );
    let deleted = delete().await;
    assert_eq!(
        (deleted.code, deleted.body.as_str()),
        (200, "scheduled switchover deleted")
    );
    let shown = get(running.http, "/cluster").await.json();
    assert_eq!(shown.get("scheduled_switchover"), None);
    assert_eq!(delete().await.code, 404);
}

#[tokio::test]
async fn a_scheduled_restart_answers_with_patronis_codes_and_sentences() {
    let role = "PostgreSQL role should be either primary, standby_leader, or replica";
    answers(
        "/restart",
        &[
            (
                r#"{"schedule":"2999-12-31T23:00:00+01:00"}"#,
                202,
                "Restart scheduled",
            ),
            (
                r#"{"schedule":"2999-12-31T23:00:00"}"#,
                400,
                "Timezone information is mandatory for the scheduled restart",
            ),
            (
                r#"{"schedule":"2016-08-27T12:45:00+00:00"}"#,
                422,
                "Cannot schedule restart in the past",
            ),
            (
                r#"{"schedule":null}"#,
                422,
                "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
            ),
            (
                r#"{"schedule":"2999-12-31T23:00:00Z","role":"king"}"#,
                400,
                role,
            ),
            (
                r#"{"schedule":"2999-12-31T23:00:00Z","postgres_version":"9.6"}"#,
                400,
                "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 9.6",
            ),
            (
                r#"{"schedule":"2999-12-31T23:00:00Z","timeout":"0"}"#,
                400,
                "Timeout should be a positive number of seconds",
            ),
            (
                r#"{"schedule":"2999-12-31T23:00:00Z","colour":"red"}"#,
                400,
                "Unknown filter for the scheduled restart: colour",
            ),
        ],
    )
    .await;
    let bad = r#"{"colour":"red","role":"king","schedule":"soon"}"#;
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let answer = post(running.http, "/restart", Some(TOKEN), bad).await;
    assert_eq!(answer.code, 400);
    assert_eq!(answer.body.lines().count(), 3, "{}", answer.body);
}

#[tokio::test]
async fn a_scheduled_restart_is_one_a_member_shown_and_deleted() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let body = r#"{"schedule":"2999-12-31T23:00:00+01:00","role":"primary","postgres_version":"15.21",
                   "timeout":"60","restart_pending":true}"#;
    let answer = post(running.http, "/restart", Some(TOKEN), body).await;
    assert_eq!(
        (answer.code, answer.body.as_str()),
        (202, "Restart scheduled")
    );
    let wanted = serde_json::json!({
        "schedule": FUTURE, "role": "primary", "postgres_version": "15.21", "timeout": 60,
        "restart_pending": true,
    });
    let own = get(running.http, "/patroni").await.json();
    assert_eq!(own["scheduled_restart"], wanted);
    let cluster = get(running.http, "/cluster").await.json();
    let members = cluster["members"].as_array().expect("members");
    let of = |name: &str| members.iter().find(|it| it["name"] == name).expect("it");
    assert_eq!(of("a")["scheduled_restart"], wanted);
    assert_eq!(of("b").get("scheduled_restart"), None);
    let second = post(running.http, "/restart", Some(TOKEN), body).await;
    assert_eq!(
        (second.code, second.body.as_str()),
        (409, "Another restart is already scheduled")
    );
    let work = &world.now().state.schedules[0].work;
    let Work::Restart { conditions, .. } = work else {
        panic!("{work:?}");
    };
    assert_eq!(
        conditions.of_unix_ms,
        Some(1_795_304_110_123),
        "this server"
    );
    let delete = || send_body(running.http, "DELETE", "/restart", Some(TOKEN), "");
    let (first, second) = (delete().await, delete().await);
    assert_eq!(
        (first.code, first.body.as_str()),
        (200, "scheduled restart deleted")
    );
    assert_eq!(
        (second.code, second.body.as_str()),
        (404, "no restarts are scheduled")
    );
}

#[tokio::test]
async fn nothing_is_scheduled_while_paused_or_without_a_leader() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let switchover = format!(r#"{{"leader":"a","candidate":"b","scheduled_at":"{FUTURE}"}}"#);
    let restart = format!(r#"{{"schedule":"{FUTURE}"}}"#);
    *lock(&world.answer) = Script::NoLeader;
    for (path, body) in [("/switchover", &switchover), ("/restart", &restart)] {
        let answer = post(running.http, path, Some(TOKEN), body).await;
        assert_eq!(answer.code, 503, "{}", answer.body);
        let delete = send_body(running.http, "DELETE", path, Some(TOKEN), "").await;
        assert_eq!(delete.code, 503, "{}", delete.body);
    }
    *lock(&world.answer) = Script::Succeeds;
    let by = "me".to_owned();
    world.propose(Command::Pause { by }).await.expect("paused");
    let answer = post(running.http, "/switchover", Some(TOKEN), &switchover).await;
    assert_eq!(
        (answer.code, answer.body.as_str()),
        (400, "Can't schedule switchover in the paused state")
    );
    let answer = post(running.http, "/restart", Some(TOKEN), &restart).await;
    assert_eq!(
        (answer.code, answer.body.as_str()),
        (500, "Can't schedule restart in the paused state")
    );
    assert!(world.now().state.schedules.is_empty());
}

#[tokio::test]
async fn liveness_fails_when_the_loop_hangs_and_not_while_paused() {
    let mut hung = board("b", standby(true, 0x3ff_0000));
    hung.refreshed_at = NOW.before(Duration::from_secs(60));
    let world = World::new(hung.clone());
    let running = serve(&world, None, None).await;
    assert_eq!(get(running.http, "/liveness").await.code, 503);
    let mut state = (*hung.state).clone();
    state.pause = Some(cluster_core::model::state::Pause {
        by: "me".to_owned(),
        at_unix_ms: 1,
    });
    hung.state = Arc::new(state);
    world.show(hung);
    assert_eq!(get(running.http, "/liveness").await.code, 200);
    assert_eq!(get(running.http, "/patroni").await.json()["pause"], true);
}

#[tokio::test]
async fn a_member_without_data_says_so() {
    let mut empty = board("b", PostgresStatus::Empty);
    empty.own.busy = Some(cluster_core::model::member::Busy {
        with: "clone".to_owned(),
        for_ms: 1000,
        bytes: None,
    });
    let world = World::new(empty);
    let running = serve(&world, None, None).await;
    let body = get(running.http, "/patroni").await.json();
    assert_eq!(
        (&body["state"], &body["role"]),
        (&"creating replica".into(), &"uninitialized".into())
    );
    assert_eq!(body.get("xlog"), None);
}

/// Begins, is under way, is complete: what each path says on the way, and who is let in.
#[tokio::test]
async fn a_snapshot_is_404_until_it_is_complete_and_its_file_needs_the_token() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let http = running.http;
    let plain = r#"{"plain": true}"#;
    assert_eq!(post(http, "/snapshot", None, plain).await.code, 401);
    for (body, words) in [
        ("", "holds the whole database"),
        ("[]", "an object is expected"),
        (r#"{"plain": 1, "colour": "red"}"#, "colour: unknown"),
        (r#"{"recipients": ["age1short"]}"#, "is no public key"),
        (r#"{"plain": true, "member": "w"}"#, "w is neither"),
    ] {
        let answer = post(http, "/snapshot", Some(TOKEN), body).await;
        assert!(matches!(answer.code, 400 | 412), "{body}: {}", answer.code);
        assert!(answer.body.contains(words), "{body}: {}", answer.body);
    }
    assert_eq!(
        get(http, "/snapshot").await.json(),
        Value::Array(Vec::new())
    );
    let begun = post(http, "/snapshot", Some(TOKEN), plain).await;
    assert_eq!(
        (begun.code, &begun.json()["status"]),
        (200, &"processing".into())
    );
    let uuid = begun.json()["uuid"].as_str().expect("a uuid").to_owned();
    let tar = format!("/snapshot/{uuid}.tar");
    assert_eq!(
        get(http, &tar).await.code,
        401,
        "not even whether it is there"
    );
    let early = send_body(http, "GET", &tar, Some(TOKEN), "").await;
    assert_eq!(early.code, 404);
    assert!(early.body.contains("processing"), "{}", early.body);

    let (id, member) = (uuid.parse().expect("a uuid"), name("a"));
    let part = MemberPart {
        node: NodeId(1),
        kind: MemberKind::Database,
        incarnation: None,
        postgres: "primary".to_owned(),
        timeline: None,
        lsn: None,
        version: String::new(),
        server_version: None,
        addresses: Addresses::default(),
        repository: None,
    };
    let file = SnapshotFile {
        bytes: 12,
        sha256: "00".repeat(32),
        timeline: TimelineId(2),
        start: Lsn(1),
        end: Lsn(2),
        major: 15,
    };
    let describe = Command::DescribeSnapshot {
        id,
        member: member.clone(),
        part: Box::new(part),
    };
    world.propose(describe).await.expect("applied");
    let id = uuid.parse().expect("a uuid");
    let complete = Command::CompleteSnapshot { id, member, file };
    world.propose(complete).await.expect("applied");
    let known = get(http, &format!("/snapshot/{uuid}")).await.json();
    assert_eq!(known["members"]["a"]["status"], "completed");
    assert_eq!(known["members"]["b"]["status"], "missing");
    // A file of another size is none, and its bytes do not go out.
    let path = world.snapshots.path().join(format!("{uuid}.tar"));
    for wrong in [None, Some("too short")] {
        if let Some(text) = wrong {
            std::fs::write(&path, text).expect("written");
        }
        let answer = send_body(http, "GET", &tar, Some(TOKEN), "").await;
        assert_eq!(answer.code, 404, "{}", answer.body);
    }
    std::fs::write(&path, "twelve bytes").expect("written");
    let whole = send_body(http, "GET", &tar, Some(TOKEN), "").await;
    assert_eq!((whole.code, whole.body.as_str()), (200, "twelve bytes"));
    assert_eq!(whole.header("content-length"), Some("12"));
    assert_eq!(get(http, &tar).await.code, 401);
    assert_eq!(ask(http, "DELETE", "1.1", &tar).await.code, 501);
    for path in [
        "/snapshot/../../etc/passwd",
        "/snapshot/x.tar",
        "/snapshot/x",
    ] {
        let answer = send_body(http, "GET", path, Some(TOKEN), "").await;
        assert_eq!(answer.code, 404, "{path}");
    }
}
