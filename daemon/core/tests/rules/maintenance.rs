//! Maintenance of a member: nothing is entrusted to it, and it ends by itself.

use cluster_core::change::command::{MaintenanceWish, Rejected};
use cluster_core::change::{Applied, Command};
use cluster_core::decide::Verdict;
use cluster_core::decide::maintenance::over;
use cluster_core::decide::requests::switchover_target;
use cluster_core::model::NodeId;
use cluster_core::model::settings::Mode;
use cluster_core::model::view::ClusterView;

use crate::cluster::{commit, done, name, rule};
use crate::decisions::Look;

const END: u64 = 1_000_000_000_000;

fn wish(member: &str) -> MaintenanceWish {
    MaintenanceWish {
        member: name(member),
        until_unix_ms: END,
        until: "2001-09-09T01:46:40Z".to_owned(),
        force: false,
        by: "root@db1: a new disk".to_owned(),
    }
}

fn begin(wish: MaintenanceWish) -> Command {
    Command::BeginMaintenance(Box::new(wish))
}

fn end(member: &str) -> Command {
    Command::EndMaintenance {
        member: name(member),
        by: "root@db1".to_owned(),
    }
}

fn refused(look: &mut Look, command: Command) -> String {
    let before = look.state.clone();
    let why = commit(&mut look.state, command).expect_err("it is refused");
    assert_eq!(look.state, before, "nothing has changed");
    why.to_string()
}

#[test]
fn the_member_leaves_the_rule_first_and_comes_back_when_it_ends() {
    let mut look = Look::new();
    done(&mut look.state, begin(wish("b")));
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    let mut look = Look::new();
    look.state.live_rules = vec![rule(1, 1, 1, &["c"])];
    assert!(!look.passes(), "b is missed");
    done(&mut look.state, begin(wish("b")));
    assert!(look.passes(), "nobody is missed");
    done(&mut look.state, end("b"));
    assert!(!look.passes(), "b is wanted again");
    let told: Vec<&str> = look
        .state
        .history
        .iter()
        .map(|it| it.what.as_str())
        .collect();
    assert!(
        told.ends_with(&["maintenance", "maintenance-ended"]),
        "{told:?}"
    );
}

#[test]
fn nobody_switches_over_to_it_and_its_readers_are_sent_elsewhere() {
    let mut look = Look::new();
    done(&mut look.state, begin(wish("b")));
    let tags = look.state.tags_of(&name("b"));
    assert!(tags.noloadbalance);
    let to_b = look.asked(&[NodeId(1)], |view| {
        switchover_target(view, Some(&name("b")))
    });
    assert_eq!(to_b, Err("b is in maintenance".to_owned()));
    assert_eq!(look.state.never_promoted(&name("c")), None);
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let mut look = Look::new();
    let why = refused(&mut look, begin(wish("a")));
    assert!(why.contains("a is the primary: hand over first"), "{why}");
    let why = refused(&mut look, end("b"));
    assert_eq!(why, "b is not in maintenance");
    assert_eq!(
        commit(&mut look.state, begin(wish("x"))),
        Err(Rejected::UnknownMember(name("x")))
    );
    assert_eq!(
        commit(&mut look.state, end("x")),
        Err(Rejected::UnknownMember(name("x")))
    );
}

#[test]
fn the_last_that_could_confirm_or_take_over_needs_force() {
    let mut look = Look::new();
    done(&mut look.state, begin(wish("b")));
    let why = refused(&mut look, begin(wish("c")));
    assert!(why.contains("without c 0 standbys could confirm"), "{why}");
    assert!(why.contains("without c nobody could take over"), "{why}");
    let forced = MaintenanceWish {
        force: true,
        ..wish("c")
    };
    assert_eq!(commit(&mut look.state, begin(forced)), Ok(Applied::Changed));
    // Without confirmations and with another one to take over nothing is missed.
    let mut look = Look::new();
    look.settings(Mode::Async, 1, 1, &[]);
    assert_eq!(
        commit(&mut look.state, begin(wish("b"))),
        Ok(Applied::Changed)
    );
    // All that are wanted are needed.
    let mut look = Look::new();
    look.settings(Mode::Sync, 2, 1, &[]);
    let why = refused(&mut look, begin(wish("b")));
    assert!(
        why.contains("1 standbys could confirm commits, of 2"),
        "{why}"
    );
}

#[test]
fn asked_again_it_gets_another_end_and_the_same_question_changes_nothing() {
    let mut look = Look::new();
    done(&mut look.state, begin(wish("b")));
    assert_eq!(
        commit(&mut look.state, begin(wish("b"))),
        Ok(Applied::Unchanged)
    );
    let longer = MaintenanceWish {
        until_unix_ms: END + 5,
        ..wish("b")
    };
    assert_eq!(commit(&mut look.state, begin(longer)), Ok(Applied::Changed));
    assert_eq!(look.state.maintenance[&name("b")].until_unix_ms, END + 5);
}

#[test]
fn it_ends_by_itself_when_its_time_is_up() {
    let mut look = Look::new();
    done(&mut look.state, begin(wish("b")));
    let at = |look: &Look, wall_unix_ms| {
        look.asked(&[NodeId(1)], |view| {
            over(&ClusterView {
                wall_unix_ms,
                ..view.clone()
            })
        })
    };
    assert_eq!(at(&look, None), Verdict::Pass);
    assert_eq!(at(&look, Some(END - 1)), Verdict::Pass);
    let Verdict::Propose(command, reason) = at(&look, Some(END)) else {
        panic!("nothing is proposed");
    };
    assert_eq!(reason.code(), "maintenance-over");
    done(&mut look.state, *command);
    assert!(look.state.maintenance.is_empty());
    assert_eq!(at(&look, Some(END)), Verdict::Pass);
}
