//! Planned work over gRPC on a hand-made board: what is taken, what is refused and with which code, and
//! what members show of it.

mod edges;

use cluster_core::change::Command;
use cluster_core::model::PostgresStatus;
use cluster_core::model::schedule::{Conditions, Role, Slot, Work};
use cluster_proto::v1;
use cluster_proto::v1::admin_client::AdminClient;
use cluster_proto::v1::planned_client::PlannedClient;
use clusterd::board::Propose as _;
use edges::*;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

const FUTURE: &str = "2999-12-31T23:00:00+01:00";

async fn channel(running: &Running) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc)).expect("an address");
    endpoint.connect().await.expect("listening")
}

fn with_token<T>(body: T) -> Request<T> {
    let mut request = Request::new(body);
    let value = format!("Bearer {TOKEN}").parse().expect("metadata");
    request.metadata_mut().insert("authorization", value);
    request
}

fn switchover(id: &str, from: &str, to: &str) -> v1::ScheduleRequest {
    let work = v1::ScheduledSwitchover {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    v1::ScheduleRequest {
        request_id: id.to_owned(),
        work: Some(v1::schedule_request::Work::Switchover(work)),
        at: FUTURE.to_owned(),
        by: "tester".to_owned(),
        ..Default::default()
    }
}

fn restart(id: &str, work: v1::ScheduledRestart) -> v1::ScheduleRequest {
    v1::ScheduleRequest {
        work: Some(v1::schedule_request::Work::Restart(work)),
        ..switchover(id, "", "")
    }
}

fn unschedule(what: v1::unschedule_request::What) -> v1::UnscheduleRequest {
    v1::UnscheduleRequest {
        what: Some(what),
        by: "tester".to_owned(),
        dry_run: false,
    }
}

#[tokio::test]
async fn a_switchover_is_scheduled_once_shown_by_status_and_explain_and_taken_back() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = PlannedClient::new(channel(&running).await);
    let mut admin = AdminClient::new(channel(&running).await);
    let dry = v1::ScheduleRequest {
        dry_run: true,
        ..switchover("r1", "a", "b")
    };
    let reply = client.schedule(with_token(dry)).await.expect("would do");
    let notes = reply.into_inner().notes;
    assert!(
        notes.contains(&"b would become primary".to_owned()),
        "{notes:?}"
    );
    assert!(lock(&world.proposed).is_empty());
    for _ in 0..2 {
        let asked = with_token(switchover("r1", "a", "b"));
        let reply = client
            .schedule(asked)
            .await
            .expect("scheduled")
            .into_inner();
        let scheduled = reply.schedule.expect("it");
        assert_eq!(scheduled.due, FUTURE);
        assert_eq!(scheduled.text, "switchover from a to b");
    }
    assert_eq!(
        world.now().state.schedules.len(),
        1,
        "asked twice, done once"
    );
    let second = client.schedule(with_token(switchover("r2", "", "b"))).await;
    let second = second.expect_err("there is one");
    assert_eq!(second.code(), Code::FailedPrecondition);
    assert!(second.message().contains(FUTURE), "{second}");

    let status = admin.get_status(v1::GetStatusRequest {}).await;
    let status = status.expect("open").into_inner();
    assert_eq!(status.schedules.len(), 1);
    assert_eq!(status.schedules[0].by, "tester");
    let member = "b".to_owned();
    let lines = admin.explain(v1::ExplainRequest { member }).await;
    let lines = lines.expect("open").into_inner().lines;
    let line = lines.iter().find(|it| it.code == "scheduled");
    assert_eq!(
        line.map(|it| it.text.as_str()),
        Some("switchover from a to b at 2999-12-31T23:00:00+01:00, by tester")
    );

    let what = v1::unschedule_request::What::Switchover(true);
    let dry = v1::UnscheduleRequest {
        dry_run: true,
        ..unschedule(what.clone())
    };
    client.unschedule(with_token(dry)).await.expect("would do");
    assert_eq!(world.now().state.schedules.len(), 1);
    let taken = client
        .unschedule(with_token(unschedule(what.clone())))
        .await;
    let taken = taken.expect("taken back").into_inner().schedule;
    assert_eq!(taken.map(|it| it.id).as_deref(), Some("r1"));
    let none = client.unschedule(with_token(unschedule(what))).await;
    let none = none.expect_err("nothing is left");
    assert_eq!(
        (none.code(), none.message()),
        (Code::NotFound, "no switchover is scheduled")
    );
}

#[tokio::test]
async fn a_restart_is_scheduled_with_its_conditions_and_what_is_against_them_now() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = PlannedClient::new(channel(&running).await);
    let work = v1::ScheduledRestart {
        member: "b".to_owned(),
        role: "primary".to_owned(),
        older_than: "15.20".to_owned(),
        pending: true,
        limit_ms: 60_000,
    };
    let reply = client.schedule(with_token(restart("r1", work))).await;
    let notes = reply.expect("scheduled").into_inner().notes;
    assert_eq!(
        notes,
        [
            "now b is replica, not primary",
            "now b runs 15.20, which is not below 15.20",
            "now b waits for no restart"
        ]
    );
    let slot = Slot::Restart(name("b"));
    let known = world.now().state.scheduled(&slot).cloned().expect("it");
    let conditions = Conditions {
        role: Some(Role::Primary),
        older_than: Some(150_020),
        pending: true,
        limit_ms: Some(60_000),
        of_unix_ms: Some(1_795_304_110_123),
    };
    let member = name("b");
    assert_eq!(known.work, Work::Restart { member, conditions });
    let of = |member: &str| v1::unschedule_request::What::RestartOf(member.to_owned());
    let none = client.unschedule(with_token(unschedule(of("a")))).await;
    let none = none.expect_err("of b, not of a");
    assert_eq!(none.code(), Code::NotFound);
    let taken = client.unschedule(with_token(unschedule(of("b")))).await;
    taken.expect("taken back");
}

#[tokio::test]
async fn maintenance_begins_is_shown_and_ends_and_what_cannot_be_is_refused() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = PlannedClient::new(channel(&running).await);
    let mut admin = AdminClient::new(channel(&running).await);
    let on = |member: &str, for_s, dry_run| v1::BeginMaintenanceRequest {
        member: member.to_owned(),
        for_s,
        force: true,
        by: "tester".to_owned(),
        dry_run,
    };
    let off = |member: &str| v1::EndMaintenanceRequest {
        member: member.to_owned(),
        by: "tester".to_owned(),
        dry_run: false,
    };
    let dry = client
        .begin_maintenance(with_token(on("b", 60, true)))
        .await;
    dry.expect("it would do");
    assert!(lock(&world.proposed).is_empty());
    let begun = client
        .begin_maintenance(with_token(on("b", 60, false)))
        .await;
    let begun = begun.expect("begun").into_inner().maintenance.expect("it");
    assert_eq!(begun.until_unix_ms - begun.since_unix_ms, 60_000);
    let status = admin.get_status(v1::GetStatusRequest::default()).await;
    let shown = status.expect("a status").into_inner().maintenance;
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(
        (shown[0].member.as_str(), shown[0].by.as_str()),
        ("b", "tester")
    );
    let ended = client.end_maintenance(with_token(off("b"))).await;
    let ended = ended.expect("ended").into_inner().maintenance;
    assert_eq!(ended.map(|it| it.member).as_deref(), Some("b"));
    for (asked, code, words) in [
        (
            on("a", 60, false),
            Code::FailedPrecondition,
            "hand over first",
        ),
        (on("zz", 60, false), Code::FailedPrecondition, "no member"),
        (on("b", 0, false), Code::InvalidArgument, "for_s: 0"),
        (on("B!", 0, false), Code::InvalidArgument, "for_s: 0"),
        (on("B!", 60, false), Code::InvalidArgument, "member"),
    ] {
        let refused = client.begin_maintenance(with_token(asked)).await;
        let refused = refused.expect_err(words);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(words), "{words}: {refused}");
    }
    let none = client.end_maintenance(with_token(off("b"))).await;
    let none = none.expect_err("it has ended");
    assert_eq!(
        (none.code(), none.message()),
        (Code::FailedPrecondition, "b is not in maintenance")
    );
    let stranger = client
        .begin_maintenance(Request::new(on("b", 60, false)))
        .await;
    let code = stranger.expect_err("no token").code();
    assert_eq!(code, Code::Unauthenticated);
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once_and_nothing_is_changed() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = PlannedClient::new(channel(&running).await);
    let work = v1::ScheduledRestart {
        member: "zz".to_owned(),
        role: "king".to_owned(),
        older_than: "9.6".to_owned(),
        ..Default::default()
    };
    let bad = v1::ScheduleRequest {
        at: "2999-12-31T23:00:00".to_owned(),
        ..restart("r1", work)
    };
    let refused = client.schedule(with_token(bad)).await.expect_err("bad");
    assert_eq!(refused.code(), Code::InvalidArgument);
    for words in [
        "there is no member `zz`",
        "role: `king` is none of primary, replica, standby_leader",
        "X.Y or X.Y.Z is accepted: 9.6",
        "at: `2999-12-31T23:00:00`: Timezone information is mandatory for the scheduled restart",
    ] {
        assert!(refused.message().contains(words), "{words}: {refused}");
    }
    assert_eq!(refused.message().lines().count(), 4, "{refused}");
    let witness = client.schedule(with_token(switchover("r1", "", "w"))).await;
    let witness = witness.expect_err("w has no PostgreSQL");
    assert_eq!(witness.code(), Code::FailedPrecondition);
    let empty = v1::ScheduleRequest::default();
    let empty = client.schedule(with_token(empty)).await.expect_err("bad");
    assert_eq!(empty.code(), Code::InvalidArgument);
    let nothing = v1::UnscheduleRequest::default();
    let nothing = client.unschedule(with_token(nothing)).await;
    assert_eq!(nothing.expect_err("bad").code(), Code::InvalidArgument);
    assert!(lock(&world.proposed).is_empty());
}

#[tokio::test]
async fn planned_work_needs_the_token_and_a_leader_and_is_refused_while_paused() {
    let world = World::new(board("a", primary()));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = PlannedClient::new(channel(&running).await);
    let open = client.schedule(switchover("r1", "", "b")).await;
    assert_eq!(open.expect_err("no token").code(), Code::Unauthenticated);
    let what = v1::unschedule_request::What::Switchover(true);
    let open = client.unschedule(unschedule(what.clone())).await;
    assert_eq!(open.expect_err("no token").code(), Code::Unauthenticated);
    *lock(&world.answer) = Script::NoLeader;
    let nobody = client.schedule(with_token(switchover("r1", "", "b"))).await;
    assert_eq!(nobody.expect_err("no leader").code(), Code::Unavailable);
    let nobody = client.unschedule(with_token(unschedule(what))).await;
    assert_eq!(nobody.expect_err("no leader").code(), Code::Unavailable);
    *lock(&world.answer) = Script::Succeeds;
    let by = "me".to_owned();
    world.propose(Command::Pause { by }).await.expect("paused");
    let paused = client.schedule(with_token(switchover("r1", "", "b"))).await;
    let paused = paused.expect_err("paused");
    assert_eq!(paused.code(), Code::FailedPrecondition);
    assert!(paused.message().contains("paused"), "{paused}");
}

#[tokio::test]
async fn a_member_that_is_not_running_is_bound_to_no_server() {
    let world = World::new(board("b", PostgresStatus::Stopping));
    let running = serve(&world, Some(TOKEN), None).await;
    let mut client = PlannedClient::new(channel(&running).await);
    let work = v1::ScheduledRestart {
        member: "a".to_owned(),
        ..Default::default()
    };
    let reply = client.schedule(with_token(restart("r1", work))).await;
    reply.expect("scheduled");
    let work = world.now().state.schedules[0].work.clone();
    let conditions = Conditions::default();
    let member = name("a");
    assert_eq!(work, Work::Restart { member, conditions });
}
