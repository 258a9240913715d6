//! The gRPC services over a hand-made board: discovery, admin with its token and error codes, the
//! peer service with its secret, health, TLS, and a port in use.

mod edges;

use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::{Command, Rejected};
use cluster_core::model::member::SealReport;
use cluster_core::model::{
    ClusterId, Epoch, Generation, Incarnation, Lsn, MemberName, RequestKind, RuleId, TimelineId,
};
use cluster_proto::v1;
use cluster_proto::v1::admin_client::AdminClient;
use cluster_proto::v1::discovery_client::DiscoveryClient;
use clusterd::api;
use clusterd::board::ProposeError;
use clusterd::exchange::{RenewAnswer, RenewRequest};
use clusterd::peers::{Error, Peers, Target};
use clusterd::secret::{AdminToken, ClusterSecret};
use clusterd::tls::{Tls, TlsFiles};
use edges::*;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

const LIMIT: Duration = Duration::from_secs(5);

async fn channel(running: &Running) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc)).expect("an address");
    endpoint.connect().await.expect("listening")
}

fn with_token<T>(token: &str, body: T) -> Request<T> {
    let mut request = Request::new(body);
    let value = format!("Bearer {token}").parse().expect("metadata");
    request.metadata_mut().insert("authorization", value);
    request
}

fn kind(kind: &RequestKind) -> Option<v1::RequestKind> {
    Some(clusterd::wire::encode_kind(kind))
}

fn switchover(wait_ms: u32) -> v1::AskRequest {
    v1::AskRequest {
        request_id: "r1".to_owned(),
        kind: kind(&RequestKind::Switchover {
            to: Some(name("b")),
        }),
        by: "tester".to_owned(),
        wait_ms,
        ..v1::AskRequest::default()
    }
}

async fn steps(
    client: &mut AdminClient<Channel>,
    ask: v1::AskRequest,
) -> Result<Vec<v1::AskProgress>, tonic::Status> {
    let mut stream = client.ask(with_token(TOKEN, ask)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(progress) = stream.message().await? {
        all.push(progress);
    }
    Ok(all)
}

#[tokio::test]
async fn discovery_names_the_primary_and_the_standbys_with_their_lag() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let mut client = DiscoveryClient::new(channel(&running).await);
    let topology = client
        .get(v1::GetTopologyRequest {})
        .await
        .expect("answered")
        .into_inner();
    let primary = topology.primary.expect("a primary");
    assert_eq!(
        (primary.member.as_str(), primary.host.as_str(), primary.port),
        ("a", "10.0.0.1", 5432)
    );
    assert_eq!((topology.cluster.as_str(), topology.epoch), ("batman", 1));
    assert_eq!(
        topology.standbys.len(),
        1,
        "the witness takes no connections"
    );
    let standby = &topology.standbys[0];
    assert_eq!(standby.state, "streaming");
    assert_eq!(standby.replay_lag_bytes, Some(0x1_0000));
    assert!(
        topology.dsn.starts_with("host=10.0.0.1,10.0.0.2 "),
        "{}",
        topology.dsn
    );

    *lock(&world.holder) = lease_left(Duration::ZERO);
    let topology = client
        .get(v1::GetTopologyRequest {})
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(
        topology.primary, None,
        "a member without lease does not name itself"
    );
}

#[tokio::test]
async fn a_watch_is_told_of_a_new_primary_and_of_a_lease_that_ran_out_and_not_of_mere_lag() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let mut client = DiscoveryClient::new(channel(&running).await);
    let watching = client
        .watch(v1::WatchTopologyRequest {})
        .await
        .expect("answered");
    let mut stream = watching.into_inner();
    let mut next = async || {
        let message = tokio::time::timeout(LIMIT, stream.message())
            .await
            .expect("in time");
        message.expect("no error").expect("not over")
    };
    assert_eq!(
        next()
            .await
            .primary
            .map(|primary| primary.member)
            .as_deref(),
        Some("a")
    );
    // More lag alone is not sent: the next message is about the lease.
    let mut lagging = board("a", primary());
    let mut reports = (*lagging.reports).clone();
    reports.get_mut(&name("b")).expect("b").report.postgres = standby(true, 0x3fe_0000);
    lagging.reports = Arc::new(reports);
    world.show(lagging);
    *lock(&world.holder) = lease_left(Duration::ZERO);
    assert_eq!(next().await.primary, None);
    world.show(board("b", standby(true, 0x3ff_0000)));
    assert_eq!(
        next()
            .await
            .primary
            .map(|primary| primary.member)
            .as_deref(),
        Some("b")
    );
}

#[tokio::test]
async fn status_tells_who_is_what_and_how_much_may_fail() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let status = client
        .get_status(v1::GetStatusRequest {})
        .await
        .expect("open")
        .into_inner();
    assert_eq!(
        (status.cluster.as_str(), status.primary.as_str()),
        ("batman", "a")
    );
    assert_eq!((status.voters_up, status.voters_total), (3, 3));
    assert_eq!(status.failure_tolerance, "one more voter may be lost");
    assert_eq!(status.lease_left_ms, Some(2000));
    assert_eq!(status.raft_leader, "w");
    assert_eq!(status.verdicts[0].age_ms, 7000);
    assert_eq!(status.candidates[0].member, "b");
    assert!(status.candidates[0].is_eligible);
    let roles: Vec<_> = status.members.iter().map(v1::MemberStatus::role).collect();
    assert_eq!(
        roles,
        [v1::Role::Primary, v1::Role::Standby, v1::Role::Witness]
    );
    assert_eq!(status.members[1].receive_lag_bytes, Some(0x1_0000));
    let history = client
        .get_history(v1::GetHistoryRequest { limit: 2 })
        .await
        .expect("open");
    let what: Vec<_> = history
        .into_inner()
        .entries
        .into_iter()
        .map(|line| line.what)
        .collect();
    assert_eq!(what, ["promoted", "activated"]);
    let lines = client
        .explain(v1::ExplainRequest::default())
        .await
        .expect("open")
        .into_inner()
        .lines;
    assert_eq!(lines[0].code, "would-grant");

    let mut lonely = board("a", primary());
    lonely.merged_at = NOW.before(Duration::from_secs(60));
    world.show(lonely);
    let status = client
        .get_status(v1::GetStatusRequest {})
        .await
        .expect("open")
        .into_inner();
    assert_eq!(
        status.failure_tolerance,
        "no quorum: 1 more of 3 voters must come back"
    );
    let may = client
        .local_may_restart(v1::LocalMayRestartRequest {})
        .await
        .expect("open");
    assert!(
        !may.into_inner().may,
        "a restart would take the quorum away"
    );
}

#[tokio::test]
async fn status_tells_who_confirms_commits_and_what_may_be_lost() {
    let world = World::new(in_sync(board("a", primary())));
    let running = serve(&world, None, None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let mut ask = async || {
        let answer = client.get_status(v1::GetStatusRequest {}).await;
        answer.expect("open").into_inner()
    };
    let status = ask().await;
    assert_eq!(status.mode, "sync");
    assert_eq!(status.fence_in_ms, Some(1600), "2 s of lease, less K_soft");
    assert_eq!(status.blocked, None);
    let found = status.confirming.expect("always told");
    let rule = found.in_force.expect("a rule");
    assert_eq!((rule.id, rule.k, found.is_proven), (2, 1, true));
    assert_eq!(found.members, ["b"]);
    assert_eq!(
        (found.survivable_standbys, found.survivable_with_primary),
        (Some(0), Some(0))
    );
    let b = &status.members[1];
    assert_eq!(b.role(), v1::Role::SyncStandby);
    assert!(b.confirms && b.why_not_confirming.is_empty());
    assert_eq!(
        (b.receive_lag_bytes, b.receive_delay_ms),
        (Some(0x1_0000), Some(120))
    );
    assert_eq!(b.replay_delay_ms, Some(3));

    // A proposal changes nobody's role: it proves nothing.
    let mut proposed = in_sync(board("a", primary()));
    let mut state = (*proposed.state).clone();
    let mut next = state.live_rules[0].clone();
    next.id.0 = 3;
    next.k = 0;
    next.set.clear();
    state.live_rules.push(next);
    proposed.state = Arc::new(state);
    world.show(proposed);
    let status = ask().await;
    assert_eq!(status.members[1].role(), v1::Role::SyncStandby);
    assert_eq!(status.confirming.expect("told").proposed, Some(3));
    assert_eq!(status.rules.len(), 2);

    let mut late = in_sync(board("a", primary()));
    let sync = late.own.sync.as_mut().expect("told");
    sync.standbys[0].late_for_ms = Some(1_500);
    world.show(late);
    let status = ask().await;
    let found = status.confirming.expect("told");
    assert!(found.writes_wait && found.members.is_empty());
    assert_eq!(
        status.members[1].why_not_confirming,
        "has confirmed nothing for 1.5 s"
    );
}

#[tokio::test]
async fn status_tells_which_members_are_missing_and_how_to_go_on_without_them() {
    let mut lost = in_sync(board("a", stopped()));
    let mut state = (*lost.state).clone();
    let reign = state.reign.as_mut().expect("a reign");
    (reign.holder, reign.incarnation) = (name("b"), Incarnation(0x62));
    reign.phase = cluster_core::model::Phase::Revoked;
    state.ledger.entries[0].member = name("b");
    state.ledger.entries[0].incarnation = Incarnation(0x62);
    state.live_rules[0].set.insert(name("c"), Incarnation(0x63));
    lost.state = Arc::new(state);
    let mut reports = (*lost.reports).clone();
    reports.get_mut(&name("b")).expect("b").age = Duration::from_secs(8);
    lost.reports = Arc::new(reports);
    lost.own.min_epoch = Epoch(2);
    lost.own.seal = Some(SealReport {
        member: name("a"),
        incarnation: Incarnation(0x61),
        target: Epoch(2),
        timeline: TimelineId(2),
        end: Lsn(0x3ff_0000),
        is_running: false,
    });
    let world = World::new(lost);
    let running = serve(&world, None, None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let status = client.get_status(v1::GetStatusRequest {}).await;
    let status = status.expect("open").into_inner();
    let blocked = status.blocked.expect("nobody may be promoted");
    let missing: Vec<_> = blocked
        .missing
        .iter()
        .map(|one| (one.member.as_str(), one.silent_ms))
        .collect();
    assert_eq!(missing, [("b", Some(8000)), ("c", None)]);
    assert_eq!(blocked.command, "clusterctl failover --to a --reason \"…\"");
    assert!(
        blocked.at_risk.contains("behind 0/3FF0000"),
        "{}",
        blocked.at_risk
    );
    assert_eq!(status.fence_in_ms, None);
}

fn set(assignments: &[(&str, &str, &str)], dry_run: bool) -> v1::ChangeSettingsRequest {
    let assignments = assignments
        .iter()
        .map(|(key, value, member)| v1::Assignment {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            member: (*member).to_owned(),
        });
    v1::ChangeSettingsRequest {
        assignments: assignments.collect(),
        by: "tester: why not".to_owned(),
        dry_run,
        ..v1::ChangeSettingsRequest::default()
    }
}

#[tokio::test]
async fn settings_are_shown_and_changed_as_a_whole() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let wanted = [
        ("mode", "sync", ""),
        ("k", "2", ""),
        ("sync_priority", "4", "b"),
    ];
    let would = client
        .change_settings(with_token(TOKEN, set(&wanted, true)))
        .await
        .expect("would be taken")
        .into_inner();
    let changes = [
        "mode async -> sync",
        "k 1 -> 2",
        "members.b.sync_priority as announced -> 4",
    ];
    assert_eq!(would.changes, changes);
    assert_eq!(would.lowers, Vec::<String>::new());
    assert!(
        would
            .notes
            .iter()
            .any(|it| it.contains("2 should confirm and 1 could now")),
        "{:?}",
        would.notes
    );
    assert!(
        lock(&world.proposed).is_empty(),
        "a dry run changes nothing"
    );
    let done = client
        .change_settings(with_token(TOKEN, set(&wanted, false)))
        .await
        .expect("taken")
        .into_inner();
    assert_eq!(done.changes, changes);
    assert!(matches!(
        lock(&world.proposed).last(),
        Some(Command::ChangeSettings { by, .. }) if by == "tester: why not"
    ));
    let shown = client.get_settings(v1::GetSettingsRequest {}).await;
    let shown = shown.expect("open to everybody").into_inner();
    let settings = shown.settings.expect("the document");
    assert_eq!((settings.mode.as_str(), settings.k), ("sync", 2));
    let priorities: Vec<_> = shown
        .priorities
        .iter()
        .map(|one| (one.member.as_str(), one.priority, one.is_set))
        .collect();
    assert_eq!(priorities, [("a", 1, false), ("b", 4, true)]);

    let lower = client
        .change_settings(with_token(TOKEN, set(&[("mode", "async", "")], true)))
        .await
        .expect("would be taken")
        .into_inner();
    assert_eq!(lower.lowers.len(), 1, "{:?}", lower.lowers);
}

#[tokio::test]
async fn every_problem_of_a_change_of_settings_is_told_at_once() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let bad = [
        ("colour", "red", ""),
        ("mode", "quorum", ""),
        ("k", "9", ""),
        ("zones.zz", "east", ""),
        ("nosync", "true", "w"),
    ];
    for dry_run in [true, false] {
        let error = client
            .change_settings(with_token(TOKEN, set(&bad, dry_run)))
            .await
            .expect_err("refused");
        assert_eq!(error.code(), Code::FailedPrecondition);
        for part in [
            "colour: no such key",
            "sync, strict or async",
            "at most 8",
            "no member zz",
            "a witness has no PostgreSQL",
        ] {
            assert!(error.message().contains(part), "{part}: {error}");
        }
    }
    assert!(lock(&world.proposed).is_empty());
    for (script, code) in [
        (Script::NoLeader, Code::Unavailable),
        (Script::Unknown, Code::DeadlineExceeded),
    ] {
        *lock(&world.answer) = script;
        let error = client
            .change_settings(with_token(TOKEN, set(&[("k", "2", "")], false)))
            .await
            .expect_err("not done");
        assert_eq!(error.code(), code, "{error}");
    }
}

#[tokio::test]
async fn a_switchover_is_streamed_until_it_ends() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let all = steps(&mut client, switchover(5000)).await.expect("done");
    let last = all.last().expect("an end");
    assert_eq!(
        (last.step(), last.text.as_str()),
        (v1::RequestStep::Done, "as asked")
    );
    assert_eq!(last.request_id, "r1");
    let again = steps(&mut client, switchover(5000)).await;
    let again = again.expect("asking again with the same id shows the same request");
    assert_eq!(again.last().expect("an end").step(), v1::RequestStep::Done);
    assert_eq!(
        world.now().state.epoch(),
        Epoch(2),
        "nothing was moved a second time"
    );
}

#[tokio::test]
async fn each_way_a_request_can_go_has_its_own_code() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = AdminClient::new(channel(&running).await);
    *lock(&world.answer) = Script::Hangs;
    let error = steps(&mut client, switchover(100))
        .await
        .expect_err("still open");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    let mut second = switchover(100);
    second.request_id = "r2".to_owned();
    let error = steps(&mut client, second.clone())
        .await
        .expect_err("another is open");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("is under way"), "{error}");
    let cancel = v1::CancelRequestRequest {
        request_id: "r1".to_owned(),
        by: "tester".to_owned(),
    };
    client
        .cancel_request(with_token(TOKEN, cancel))
        .await
        .expect("taken back");
    for (script, code) in [
        (Script::NoLeader, Code::Unavailable),
        (Script::Unknown, Code::DeadlineExceeded),
    ] {
        *lock(&world.answer) = script;
        let error = steps(&mut client, second.clone())
            .await
            .expect_err("not done");
        assert_eq!(error.code(), code, "{error}");
    }
    *lock(&world.answer) = Script::Fails;
    let all = steps(&mut client, second).await.expect("ended");
    assert_eq!(all.last().expect("an end").step(), v1::RequestStep::Failed);
    let unknown = v1::AskRequest {
        kind: kind(&RequestKind::Restart { member: name("zz") }),
        ..switchover(100)
    };
    let unknown = v1::AskRequest {
        request_id: "r3".to_owned(),
        ..unknown
    };
    let error = steps(&mut client, unknown)
        .await
        .expect_err("there is no such member");
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error.message().contains("there is no member `zz`"),
        "{error}"
    );
    let other = v1::AskRequest {
        expected_primary: "b".to_owned(),
        ..switchover(100)
    };
    let error = steps(&mut client, other).await.expect_err("a is primary");
    assert!(error.message().contains("b is not the primary"), "{error}");
}

#[tokio::test]
async fn a_dry_run_checks_and_changes_nothing() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let before = world.now().state.clone();
    let ask = v1::AskRequest {
        dry_run: true,
        ..switchover(5000)
    };
    let all = steps(&mut client, ask).await.expect("would be accepted");
    assert!(
        all[0].notes.contains(&"b would become primary".to_owned()),
        "{:?}",
        all[0].notes
    );
    let to_itself = v1::AskRequest {
        dry_run: true,
        kind: kind(&RequestKind::Switchover {
            to: Some(name("a")),
        }),
        ..switchover(0)
    };
    let error = steps(&mut client, to_itself)
        .await
        .expect_err("would be refused");
    assert_eq!(error.code(), Code::FailedPrecondition);
    let pause = v1::PauseRequest {
        by: "tester".to_owned(),
        dry_run: true,
    };
    client
        .pause(with_token(TOKEN, pause))
        .await
        .expect("would be accepted");
    assert_eq!(world.now().state, before);
    assert!(lock(&world.proposed).is_empty());
}

#[tokio::test]
async fn every_change_needs_the_token_and_reads_do_not() {
    let world = World::new(board("a", primary()));
    let closed = serve(&world, None, None).await;
    let mut client = AdminClient::new(channel(&closed).await);
    let error = client
        .ask(with_token(TOKEN, switchover(0)))
        .await
        .expect_err("refused");
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("no token configured"), "{error}");

    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = AdminClient::new(channel(&running).await);
    let by = || "tester".to_owned();
    let pause = || v1::PauseRequest {
        by: by(),
        dry_run: false,
    };
    let error = client.pause(pause()).await.expect_err("no token");
    assert_eq!(error.code(), Code::Unauthenticated);
    let wrong = "wrong";
    let codes = [
        client
            .pause(with_token(wrong, pause()))
            .await
            .expect_err("wrong")
            .code(),
        client
            .resume(with_token(wrong, v1::ResumeRequest::default()))
            .await
            .expect_err("wrong")
            .code(),
        client
            .replace_member(with_token(wrong, v1::ReplaceMemberRequest::default()))
            .await
            .expect_err("wrong")
            .code(),
        client
            .cancel_request(with_token(wrong, v1::CancelRequestRequest::default()))
            .await
            .expect_err("wrong")
            .code(),
        client
            .set_log_level(with_token(wrong, v1::SetLogLevelRequest::default()))
            .await
            .expect_err("wrong")
            .code(),
        client
            .local_leave(with_token(wrong, v1::LocalLeaveRequest::default()))
            .await
            .expect_err("wrong")
            .code(),
        client
            .change_settings(with_token(wrong, set(&[("mode", "sync", "")], true)))
            .await
            .expect_err("wrong")
            .code(),
        client
            .ask(with_token(wrong, switchover(0)))
            .await
            .expect_err("wrong")
            .code(),
    ];
    assert_eq!(codes, [Code::PermissionDenied; 8]);
    assert!(lock(&world.proposed).is_empty());

    client
        .pause(with_token(TOKEN, pause()))
        .await
        .expect("paused");
    let error = client
        .pause(with_token(TOKEN, pause()))
        .await
        .expect_err("already");
    assert!(error.message().contains("already paused"), "{error}");
    let status = client
        .get_status(v1::GetStatusRequest {})
        .await
        .expect("open")
        .into_inner();
    assert_eq!(
        status.pause.map(|pause| pause.by).as_deref(),
        Some("tester")
    );
    let resume = v1::ResumeRequest {
        by: by(),
        dry_run: false,
    };
    client
        .resume(with_token(TOKEN, resume))
        .await
        .expect("resumed");
    let replace = v1::ReplaceMemberRequest {
        member: "b".to_owned(),
        by: by(),
        ..Default::default()
    };
    client
        .replace_member(with_token(TOKEN, replace))
        .await
        .expect("may join");
    let peer = "10.0.0.2:8009".to_owned();
    let expected = Command::ReplaceMember {
        member: name("b"),
        peer,
        by: by(),
    };
    assert_eq!(
        lock(&world.proposed).last(),
        Some(&expected),
        "the address is kept"
    );
}

fn peers(secret: &[u8]) -> Peers {
    Peers::new(name("b"), ClusterSecret::new(secret), None)
}

fn renewal(epoch: u64) -> RenewRequest {
    RenewRequest {
        member: name("b"),
        epoch: Epoch(epoch),
        incarnation: Incarnation(7),
        attempt: "boot/1/1".to_owned(),
    }
}

#[tokio::test]
async fn members_report_propose_and_renew() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let (identity, to, address) = (identity(), name("a"), running.grpc.to_string());
    let to = Target {
        identity: &identity,
        name: &to,
        address: &address,
    };
    let peers = peers(SECRET);
    let own = report("b", 2, standby(true, 0x3ff_0000));
    let view = peers.report(to, &own, LIMIT).await.expect("merged");
    assert_eq!(view.reports[&name("b")].report, own);
    assert_eq!(view.verdicts[0].age, Duration::from_secs(7));
    let confirmed = peers.renew(to, &renewal(1), LIMIT).await.expect("answered");
    let lease = Duration::from_secs(3);
    assert_eq!(
        confirmed,
        RenewAnswer::Confirmed {
            lease,
            newest_rule: RuleId(1)
        }
    );
    let refused = peers.renew(to, &renewal(9), LIMIT).await.expect("answered");
    assert!(matches!(refused, RenewAnswer::Refused { code, .. } if code == "wrong-epoch"));
    let pause = Command::Pause { by: "b".to_owned() };
    peers.propose(to, &pause, LIMIT).await.expect("applied");
    assert!(world.now().state.pause.is_some());
    match peers.propose(to, &pause, LIMIT).await {
        Err(ProposeError::Rejected(Rejected::Refused(why))) => {
            assert_eq!(why, "cluster is already paused");
        }
        other => panic!("{other:?}"),
    }
    *lock(&world.answer) = Script::NoLeader;
    assert!(matches!(
        peers.propose(to, &pause, LIMIT).await,
        Err(ProposeError::NoLeader(_))
    ));
    match peers.report(to, &own, LIMIT).await {
        Err(Error::NotLeader(not)) => assert_eq!(not.leader, Some(name("w"))),
        other => panic!("{other:?}"),
    }
    *lock(&world.answer) = Script::Unknown;
    assert!(matches!(
        peers.propose(to, &pause, LIMIT).await,
        Err(ProposeError::Unknown)
    ));
}

#[tokio::test]
async fn strangers_other_clusters_and_wrong_members_are_refused() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let address = running.grpc.to_string();
    let (a, b) = (name("a"), name("b"));
    let own = identity();
    let mut other_cluster = identity();
    other_cluster.id = ClusterId("dead".to_owned());
    let mut other_life = identity();
    other_life.generation = Generation(2);
    let stranger: MemberName = name("x");
    let cases = [
        (
            peers(b"another secret.."),
            &own,
            &a,
            "does not know this cluster's secret",
        ),
        (
            peers(SECRET),
            &other_cluster,
            &a,
            "belongs to cluster c0ffee generation 1",
        ),
        (
            peers(SECRET),
            &other_life,
            &a,
            "belongs to cluster c0ffee generation 1",
        ),
        (
            peers(SECRET),
            &own,
            &b,
            "this is member a, the caller meant b",
        ),
        (
            Peers::new(stranger, ClusterSecret::new(SECRET), None),
            &own,
            &a,
            "there is no member `x`",
        ),
    ];
    for (peers, identity, to, sentence) in cases {
        let to = Target {
            identity,
            name: to,
            address: &address,
        };
        match peers.renew(to, &renewal(1), LIMIT).await {
            Err(Error::Refused { why, .. }) => assert!(why.contains(sentence), "{why}"),
            other => panic!("{sentence}: {other:?}"),
        }
        let pause = Command::Pause { by: "x".to_owned() };
        assert!(matches!(
            peers.propose(to, &pause, LIMIT).await,
            Err(ProposeError::NoLeader(_))
        ));
    }
    assert!(lock(&world.proposed).is_empty());
    let liar = report("w", 3, standby(true, 1));
    let to = Target {
        identity: &own,
        name: &a,
        address: &address,
    };
    assert!(
        peers(SECRET).report(to, &liar, LIMIT).await.is_err(),
        "b speaks for b only"
    );
}

#[tokio::test]
async fn a_member_that_is_gone_is_told_from_one_that_may_have_heard() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("bound").to_string();
    let (identity, to) = (identity(), name("a"));
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").to_string()
    };
    let peers = peers(SECRET);
    let pause = Command::Pause { by: "b".to_owned() };
    let to = |address| Target {
        identity: &identity,
        name: &to,
        address,
    };
    match peers.propose(to(&closed), &pause, LIMIT).await {
        Err(ProposeError::NoLeader(why)) => assert!(why.contains("could not reach a"), "{why}"),
        other => panic!("nothing was sent: {other:?}"),
    }
    // Accepts into its backlog and never answers.
    let limit = Duration::from_millis(300);
    assert!(matches!(
        peers.propose(to(&silent), &pause, limit).await,
        Err(ProposeError::Unknown)
    ));
    match peers.renew(to(&silent), &renewal(1), limit).await {
        Err(Error::TimedOut { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_standard_health_service_answers() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let mut client = HealthClient::new(channel(&running).await);
    for service in [
        "",
        "clusterd.v1.Admin",
        "clusterd.v1.Discovery",
        "clusterd.v1.Peer",
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = client.check(request).await.expect("known").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
}

#[tokio::test]
async fn reflection_lists_every_service() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, None).await;
    let mut client = ServerReflectionClient::new(channel(&running).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = client
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let answer = asked
        .expect("answered")
        .into_inner()
        .message()
        .await
        .expect("no error");
    let Some(MessageResponse::ListServicesResponse(list)) =
        answer.expect("one answer").message_response
    else {
        panic!("a list was asked for");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in ["Admin", "Discovery", "Events", "Peer", "Raft"] {
        assert!(
            names.contains(&format!("clusterd.v1.{service}")),
            "{service}: {names:?}"
        );
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let options = |http: &str, grpc: &str| api::Options {
        http: http.to_owned(),
        grpc: grpc.to_owned(),
        tls: None,
        token: Some(AdminToken::new(TOKEN)),
        secret: ClusterSecret::new(SECRET),
    };
    for (options, key) in [
        (options(&address, "127.0.0.1:0"), "listen.http"),
        (options("127.0.0.1:0", &address), "listen.grpc"),
    ] {
        let error = match api::Listeners::open(&options).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("the port is taken"),
        };
        let expected = format!("{key}: could not listen on {address} (the port is in use");
        assert!(error.starts_with(&expected), "{error}");
    }
}

/// Certificates of a small authority for 127.0.0.1.
fn certificates(folder: &std::path::Path) -> TlsFiles {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).expect("signed");
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let own = own.signed_by(&key, &issuer).expect("signed");
    TlsFiles {
        certificate: write("own.pem", own.pem()),
        key: write("own.key", key.serialize_pem()),
        authority: write("ca.pem", authority_certificate.pem()),
        client_auth: false,
    }
}

/// One HTTPS request by hand; the answer's first line.
fn https_status_line(address: std::net::SocketAddr, authority: &std::path::Path) -> String {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use std::io::{Read, Write};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority).expect("readable") {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerName::try_from("127.0.0.1").expect("a name");
    let connection = rustls::ClientConnection::new(Arc::new(config), server).expect("a client");
    let socket = std::net::TcpStream::connect(address).expect("listening");
    socket.set_read_timeout(Some(LIMIT)).expect("set");
    let mut stream = rustls::StreamOwned::new(connection, socket);
    stream
        .write_all(b"GET /primary HTTP/1.0\r\n\r\n")
        .expect("sent");
    let mut bytes = Vec::new();
    // The end of the connection may come without TLS's goodbye.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_speak_tls_when_certificates_are_configured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = certificates(folder.path());
    let tls = Tls::load(&files).expect("usable");
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, Some(tls.clone())).await;
    let (identity, to, address) = (identity(), name("a"), running.grpc.to_string());
    let to = Target {
        identity: &identity,
        name: &to,
        address: &address,
    };
    let peers = Peers::new(name("b"), ClusterSecret::new(SECRET), Some(tls.client()));
    peers.renew(to, &renewal(1), LIMIT).await.expect("over TLS");
    let plain = Peers::new(name("b"), ClusterSecret::new(SECRET), None);
    assert!(
        plain.renew(to, &renewal(1), LIMIT).await.is_err(),
        "no plain text any more"
    );
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let other = Tls::load(&certificates(elsewhere.path())).expect("usable");
    let wrong = Peers::new(name("b"), ClusterSecret::new(SECRET), Some(other.client()));
    assert!(
        wrong.renew(to, &renewal(1), LIMIT).await.is_err(),
        "another authority"
    );
    let (http, authority) = (running.http, files.authority.clone());
    let line = tokio::task::spawn_blocking(move || https_status_line(http, &authority));
    assert_eq!(line.await.expect("no panic"), "HTTP/1.0 200 OK");
}

#[tokio::test]
async fn a_client_without_certificate_is_refused_when_one_is_required() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = TlsFiles {
        client_auth: true,
        ..certificates(folder.path())
    };
    let tls = Tls::load(&files).expect("usable");
    let world = World::new(board("a", primary()));
    let running = serve(&world, None, Some(tls.clone())).await;
    let authority = std::fs::read(&files.authority).expect("readable");
    let bare = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(authority));
    let (identity, to, address) = (identity(), name("a"), running.grpc.to_string());
    let to = Target {
        identity: &identity,
        name: &to,
        address: &address,
    };
    let peers = |tls| Peers::new(name("b"), ClusterSecret::new(SECRET), Some(tls));
    peers(tls.client())
        .renew(to, &renewal(1), LIMIT)
        .await
        .expect("shows its certificate");
    assert!(
        peers(bare).renew(to, &renewal(1), LIMIT).await.is_err(),
        "shows none"
    );
}
