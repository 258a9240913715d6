//! What is scheduled: recorded once, begun when due, and otherwise dropped with a reason.

use std::time::Duration;

use cluster_core::change::command::{Rejected, Scheduling};
use cluster_core::change::{Applied, Command};
use cluster_core::decide::schedules::{LATEST, due};
use cluster_core::decide::{Verdict, decide_cluster};
use cluster_core::model::member::{Pending, PendingRestart, SERVER_VERSION};
use cluster_core::model::schedule::{Conditions, Due, Role, Slot, Work};
use cluster_core::model::view::ClusterView;
use cluster_core::model::{
    ClusterState, NodeId, PostgresStatus, RequestId, RequestKind, RequestOutcome,
};

use crate::cluster::{commit, done, name, serving};
use crate::decisions::{Look, STARTED};

const DUE: u64 = 1_000_000_000_000;

fn scheduling(id: &str, work: Work) -> Scheduling {
    Scheduling {
        id: RequestId(id.to_owned()),
        work,
        due: Due {
            unix_ms: DUE,
            text: "2001-09-09T03:46:40+02:00".to_owned(),
        },
        replaces: false,
        by: "root@db1".to_owned(),
    }
}

fn schedule(id: &str, work: Work) -> Command {
    Command::Schedule(Box::new(scheduling(id, work)))
}

fn to(member: &str) -> Work {
    Work::Switchover {
        from: None,
        to: Some(name(member)),
    }
}

fn from_a() -> Work {
    Work::Switchover {
        from: Some(name("a")),
        to: None,
    }
}

fn restart(member: &str, conditions: Conditions) -> Work {
    Work::Restart {
        member: name(member),
        conditions,
    }
}

/// The rule's word so long after the time that was wanted; negative: before it.
fn after(look: &Look, ms: i64) -> Verdict {
    look.asked(&[NodeId(1)], |view| {
        due(&ClusterView {
            wall_unix_ms: Some(DUE.saturating_add_signed(ms)),
            ..view.clone()
        })
    })
}

/// What is proposed then is applied.
fn carried_out(look: &mut Look, ms: i64) -> Command {
    let Verdict::Propose(command, _) = after(look, ms) else {
        panic!("nothing is proposed: {:?}", after(look, ms));
    };
    done(&mut look.state, (*command).clone());
    *command
}

fn dropped(look: &mut Look, ms: i64) -> String {
    match carried_out(look, ms) {
        Command::DropScheduled { why, .. } => {
            let last = look.state.history.last().expect("it is told");
            assert_eq!(last.what, "schedule-dropped");
            assert!(last.reason.ends_with(&why), "{}", last.reason);
            assert!(look.state.schedules.is_empty());
            assert!(look.state.requests.is_empty(), "and nothing is done");
            why
        }
        other => panic!("{other:?}"),
    }
}

fn look(work: Work) -> Look {
    let mut look = Look::new();
    done(&mut look.state, schedule("s", work));
    look
}

fn told(state: &ClusterState) -> (&str, &str) {
    let last = state.history.last().expect("something happened");
    (&last.what, &last.reason)
}

#[test]
fn nothing_before_its_time_and_then_a_request_like_any_other() {
    let mut look = look(to("b"));
    assert_eq!(after(&look, -1), Verdict::Pass);
    carried_out(&mut look, 0);
    assert!(look.state.schedules.is_empty());
    let request = &look.state.requests[&RequestId("s".to_owned())];
    let kind = RequestKind::Switchover {
        to: Some(name("b")),
    };
    assert_eq!(request.kind, kind);
    assert_eq!(
        request.by,
        "root@db1 (scheduled for 2001-09-09T03:46:40+02:00)"
    );
    assert!(request.is_open());
    assert_eq!(after(&look, 0), Verdict::Pass, "once");
}

#[test]
fn it_is_begun_a_little_late_and_dropped_when_it_is_too_late() {
    let latest = i64::try_from(LATEST.as_millis()).expect("short");
    let mut first = look(to("b"));
    assert!(matches!(
        carried_out(&mut first, latest),
        Command::BeginScheduled { .. }
    ));
    let mut second = look(to("b"));
    let why = dropped(&mut second, latest + 5000);
    assert_eq!(why, "too late by 35 s (30 s are allowed)");
}

#[test]
fn a_pause_holds_it_up_until_it_is_too_late() {
    let mut look = look(to("b"));
    done(&mut look.state, Command::Pause { by: "x".to_owned() });
    assert_eq!(after(&look, 0), Verdict::Pass);
    assert_eq!(
        dropped(&mut look, 31_000),
        "too late by 31 s (30 s are allowed); the cluster is paused"
    );
}

#[test]
fn a_lost_primary_comes_first() {
    let look = look(to("b"));
    let verdict = look.asked(&[NodeId(1)], |view| {
        decide_cluster(&ClusterView {
            wall_unix_ms: Some(DUE),
            base_age: Duration::from_secs(60),
            grant_age: Some(Duration::from_secs(60)),
            ..view.clone()
        })
    });
    assert_eq!(verdict.rule, "primary-lost");
}

#[test]
fn what_refuses_a_request_by_hand_drops_it_with_the_same_words() {
    let cases = [
        (to("a"), "a is the primary already"),
        (
            Work::Switchover {
                from: Some(name("b")),
                to: None,
            },
            "b is not the primary now, a is",
        ),
    ];
    for (work, why) in cases {
        let mut look = look(work);
        carried_out(&mut look, 0);
        assert!(look.state.requests.is_empty() && look.state.schedules.is_empty());
        let (what, reason) = told(&look.state);
        assert_eq!(what, "schedule-dropped");
        assert!(reason.ends_with(why), "{reason}");
    }
    // Another switchover is under way.
    let mut look = look(from_a());
    let kind = RequestKind::Switchover { to: None };
    let by = String::new();
    let id = RequestId("by-hand".to_owned());
    done(&mut look.state, Command::Ask { id, kind, by });
    carried_out(&mut look, 0);
    let (what, reason) = told(&look.state);
    assert_eq!(what, "schedule-dropped");
    assert!(reason.contains("a switchover is under way"), "{reason}");
}

#[test]
fn a_restart_is_bound_to_its_conditions() {
    let all = Conditions {
        role: Some(Role::Primary),
        older_than: Some(150_022),
        pending: true,
        limit_ms: Some(60_000),
        of_unix_ms: Some(STARTED),
    };
    let mut good = look(restart("a", all.clone()));
    good.report("a").server_version = Some(150_021);
    good.report("a").health.pending_restart = Some(Pending {
        of_unix_ms: STARTED,
        what: vec![PendingRestart {
            name: "shared_buffers".to_owned(),
            from: "1".to_owned(),
            to: "2".to_owned(),
        }],
    });
    carried_out(&mut good, 0);
    let request = &good.state.requests[&RequestId("s".to_owned())];
    assert_eq!(request.limit_ms, Some(60_000));

    let mut bad = look(restart(
        "b",
        Conditions {
            of_unix_ms: Some(17),
            ..all
        },
    ));
    bad.report("b").server_version = Some(150_022);
    assert_eq!(
        dropped(&mut bad, 0),
        "b was started anew since this was scheduled, and is replica, not primary, and runs 15.22, \
         which is not below 15.22, and waits for no restart"
    );
    let mut stopped = look(restart(
        "b",
        Conditions {
            of_unix_ms: Some(0),
            role: Some(Role::Replica),
            older_than: Some(150_022),
            ..Conditions::default()
        },
    ));
    stopped.report("b").postgres = PostgresStatus::Stopping;
    stopped.report("b").server_version = None;
    assert_eq!(
        dropped(&mut stopped, 0),
        "b is stopping, and is stopping, not replica, and does not tell its version"
    );
}

#[test]
fn a_restart_bound_to_a_version_goes_by_the_server_that_runs() {
    let older = Conditions {
        older_than: Some(150_022),
        ..Conditions::default()
    };
    let mut upgraded = look(restart("a", older));
    let report = upgraded.report("a");
    // The packages are newer already, and the daemon was restarted with them.
    report.server_version = Some(150_022);
    report.health.pending_restart = Some(Pending {
        of_unix_ms: STARTED,
        what: vec![PendingRestart {
            name: SERVER_VERSION.to_owned(),
            from: "15.21 (Debian 15.21-0+deb12u1)".to_owned(),
            to: "15.22 (Debian 15.22-0+deb12u1)".to_owned(),
        }],
    });
    carried_out(&mut upgraded, 0);
}

#[test]
fn a_member_that_is_not_heard_is_waited_for() {
    let mut look = look(restart("b", Conditions::default()));
    look.silent("b");
    assert_eq!(after(&look, 10_000), Verdict::Pass);
    assert_eq!(
        dropped(&mut look, 31_000),
        "too late by 31 s (30 s are allowed); b is not heard"
    );
}

#[test]
fn a_restart_that_takes_too_long_has_failed() {
    let conditions = Conditions {
        limit_ms: Some(60_000),
        ..Conditions::default()
    };
    for member in ["a", "b"] {
        let mut look = look(restart(member, conditions.clone()));
        carried_out(&mut look, 0);
        if member == "a" {
            let (verdict, code) = look.verdict();
            assert_eq!(code, "restart-requested");
            let Verdict::Propose(command, _) = verdict else {
                panic!("{verdict:?}");
            };
            done(&mut look.state, *command);
        }
        let id = RequestId("s".to_owned());
        look.ages.insert(id.clone(), Duration::from_secs(61));
        let why = "not done within 60 s".to_owned();
        let outcome = RequestOutcome::Failed { why };
        match look.verdict() {
            (Verdict::Propose(command, _), "request-failed") => {
                assert_eq!(*command, Command::End { id, outcome });
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn there_is_one_of_each_and_the_same_question_is_answered_once() {
    let mut state = serving();
    done(&mut state, schedule("1", to("b")));
    done(
        &mut state,
        schedule("2", restart("b", Conditions::default())),
    );
    done(
        &mut state,
        schedule("3", restart("c", Conditions::default())),
    );
    assert_eq!(
        commit(&mut state, schedule("1", to("b"))),
        Ok(Applied::Unchanged),
        "asked again"
    );
    assert!(matches!(
        commit(&mut state, schedule("1", to("c"))),
        Err(Rejected::Refused(_))
    ));
    for (id, work) in [("4", to("c")), ("5", restart("b", Conditions::default()))] {
        let refused = commit(&mut state, schedule(id, work));
        let Err(why @ Rejected::Scheduled { .. }) = refused else {
            panic!("{refused:?}");
        };
        let text = why.to_string();
        assert!(text.contains("2001-09-09T03:46:40+02:00"), "{text}");
    }
    let instead = Scheduling {
        replaces: true,
        ..scheduling("6", to("c"))
    };
    done(&mut state, Command::Schedule(Box::new(instead)));
    assert_eq!(state.schedules.len(), 3);
    let (what, reason) = told(&state);
    assert_eq!(what, "scheduled");
    assert!(reason.contains("instead of switchover to b"), "{reason}");
    assert_eq!(
        state
            .scheduled(&Slot::Switchover)
            .map(|it| it.id.0.as_str()),
        Some("6")
    );
}

#[test]
fn what_cannot_be_scheduled_is_refused_at_once() {
    let mut state = serving();
    let unknown = commit(&mut state, schedule("1", to("zz")));
    assert_eq!(unknown, Err(Rejected::UnknownMember(name("zz"))));
    let itself = Work::Switchover {
        from: Some(name("b")),
        to: Some(name("b")),
    };
    assert!(commit(&mut state, schedule("1", itself)).is_err());
    done(&mut state, Command::Pause { by: "x".to_owned() });
    let paused = commit(&mut state, schedule("1", to("b")));
    assert!(
        paused.is_err_and(|why| why.to_string().contains("paused")),
        "not while paused"
    );
}

#[test]
fn what_is_taken_back_is_told_and_only_that_is() {
    let mut state = serving();
    done(&mut state, schedule("1", to("b")));
    done(
        &mut state,
        schedule("2", restart("b", Conditions::default())),
    );
    let take_back = |slot| Command::Unschedule {
        slot,
        by: "root@db2".to_owned(),
    };
    let none = commit(&mut state, take_back(Slot::Restart(name("c"))));
    let none = none.map_err(|why| why.to_string());
    assert_eq!(none, Err("no restart of c is scheduled".to_owned()));
    done(&mut state, take_back(Slot::Switchover));
    assert_eq!(told(&state).0, "unscheduled");
    assert_eq!(state.schedules.len(), 1);
    let none = commit(&mut state, take_back(Slot::Switchover));
    assert!(matches!(none, Err(Rejected::NotScheduled(_))));
}
