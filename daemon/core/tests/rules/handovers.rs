//! A hand-over that a new Raft leader finds under way: whom it has not heard yet, it does not judge.

use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::Verdict;
use cluster_core::decide::requests::move_primary;
use cluster_core::model::postgres::Follows;
use cluster_core::model::request::{RequestOutcome, Step};
use cluster_core::model::view::ClusterView;
use cluster_core::model::{Epoch, NodeId, PostgresStatus, RequestId, RequestKind};

use crate::cluster::{done, name};
use crate::decisions::Look;

fn id() -> RequestId {
    RequestId("r".to_owned())
}

fn asked(kind: RequestKind) -> Look {
    let mut look = Look::new();
    for member in ["b", "c"] {
        if let PostgresStatus::Standby(standby) = &mut look.report(member).postgres {
            standby.follows = Some(Follows {
                member: name("a"),
                epoch: Epoch(1),
            });
        }
    }
    let by = "root@db1".to_owned();
    done(&mut look.state, Command::Ask { id: id(), kind, by });
    look
}

fn draining() -> Look {
    let to = name("c");
    let mut look = asked(RequestKind::Switchover {
        to: Some(to.clone()),
    });
    let step = Step::Drain { to };
    done(&mut look.state, Command::Step { id: id(), step });
    look
}

fn after(look: &Look, leading_for_ms: u64) -> Verdict {
    look.asked(&[NodeId(1)], |view| {
        move_primary(&ClusterView {
            leading_for: Duration::from_millis(leading_for_ms),
            ..view.clone()
        })
    })
}

fn fails_with(verdict: Verdict) -> String {
    match verdict {
        Verdict::Propose(command, _) => match *command {
            Command::End {
                outcome: RequestOutcome::Failed { why },
                ..
            } => why,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_drain_found_by_a_new_leader_waits_until_the_target_is_heard() {
    let mut look = draining();
    let report = look.reports.remove(&name("c")).expect("it was there");
    assert_eq!(after(&look, 0), Verdict::Pass);
    let patience = look.asked(&[NodeId(1)], |view| view.fresh_within());
    let patience = u64::try_from(patience.as_millis()).expect("it is short");
    assert_eq!(after(&look, patience), Verdict::Pass);
    assert_eq!(fails_with(after(&look, patience + 1)), "c is not heard");
    // It is heard, and the primary has drained: on it goes.
    look.reports.insert(name("c"), report);
    look.report("a").drained = Some((id(), cluster_core::model::Lsn(200)));
    assert!(matches!(after(&look, 100), Verdict::Propose(command, _)
        if matches!(*command, Command::Revoke { .. })));
}

#[test]
fn a_failover_asked_of_a_new_leader_waits_until_the_target_is_heard() {
    let mut look = asked(RequestKind::Failover { to: name("c") });
    let report = look.reports.remove(&name("c")).expect("it was there");
    assert_eq!(after(&look, 0), Verdict::Pass);
    assert_eq!(fails_with(after(&look, 60_000)), "c is not heard");
    look.reports.insert(name("c"), report);
    assert!(matches!(after(&look, 100), Verdict::Propose(command, _)
        if matches!(*command, Command::Step { .. })));
}
