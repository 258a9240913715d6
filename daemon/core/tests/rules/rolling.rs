//! `restart --pending` from beginning to end, and parameters that are taken back.

use cluster_core::change::{Applied, Command};
use cluster_core::decide::Verdict;
use cluster_core::model::member::{Pending, PendingRestart, Refusal, RefusedParameter};
use cluster_core::model::postgres::Follows;
use cluster_core::model::request::{RequestOutcome, Step};
use cluster_core::model::{Epoch, PostgresStatus, RequestId, RequestKind, SettingsChange};

use crate::cluster::{commit, done, name};
use crate::decisions::{Look, STARTED};

fn roll() -> RequestId {
    RequestId("r".to_owned())
}

/// Everybody streams and waits for a restart.
fn waiting() -> Look {
    let mut look = Look::new();
    for member in ["a", "b", "c"] {
        if let PostgresStatus::Standby(standby) = &mut look.report(member).postgres {
            standby.follows = Some(Follows {
                member: name("a"),
                epoch: Epoch(1),
            });
        }
        waits(&mut look, member, &["shared_buffers"]);
    }
    done(
        &mut look.state,
        Command::Ask {
            id: roll(),
            kind: RequestKind::RestartPending,
            by: "root@db1".to_owned(),
        },
    );
    look
}

fn waits(look: &mut Look, member: &str, names: &[&str]) {
    let of_unix_ms = if member == "a" { STARTED } else { 0 };
    let what = names.iter().map(|it| PendingRestart {
        name: (*it).to_owned(),
        from: "128MB".to_owned(),
        to: "1GB".to_owned(),
    });
    let what = what.collect();
    look.report(member).health.pending_restart = Some(Pending { of_unix_ms, what });
}

/// The next proposal is carried out.
fn carries_out(look: &mut Look) -> Command {
    match look.verdict() {
        (Verdict::Propose(command, _), _) => {
            assert_eq!(
                commit(&mut look.state, (*command).clone()),
                Ok(Applied::Changed),
                "{command:?}"
            );
            *command
        }
        other => panic!("{other:?}"),
    }
}

/// First it is told whose turn it is, then a request of its own is asked for.
fn asks(look: &mut Look, number: u32, member: &str, kind: RequestKind) -> RequestId {
    let step = Step::Rolling {
        member: name(member),
        number,
    };
    assert_eq!(carries_out(look), Command::Step { id: roll(), step });
    match carries_out(look) {
        Command::Ask { id, kind: is, by } => {
            assert_eq!(is, kind);
            assert_eq!(by, "root@db1 (restart --pending)");
            id
        }
        other => panic!("{other:?}"),
    }
}

fn ends(look: &mut Look, id: RequestId, outcome: RequestOutcome) {
    done(&mut look.state, Command::End { id, outcome });
}

fn well(text: &str) -> RequestOutcome {
    RequestOutcome::Done {
        text: text.to_owned(),
    }
}

fn restart(member: &str) -> RequestKind {
    RequestKind::Restart {
        member: name(member),
    }
}

#[test]
fn standbys_first_then_a_switchover_and_the_end_tells_all() {
    let mut look = waiting();
    for (number, member) in [(1, "b"), (2, "c")] {
        let id = asks(&mut look, number, member, restart(member));
        assert!(look.passes(), "one at a time");
        ends(&mut look, id, well(&format!("restart of {member} done")));
        waits(&mut look, member, &[]);
    }
    let to = Some(name("b"));
    let id = asks(&mut look, 3, "a", RequestKind::Switchover { to });
    ends(&mut look, id, well("switched over"));
    waits(&mut look, "a", &[]);
    let outcome = well("restart of b done; restart of c done; switched over");
    let end = Command::End {
        id: roll(),
        outcome,
    };
    assert_eq!(carries_out(&mut look), end);
    assert!(look.passes());
}

#[test]
fn it_waits_until_others_would_confirm_commits_and_everybody_has_spoken() {
    let mut look = waiting();
    // Nothing is known of the new postmaster yet.
    look.report("c").health.pending_restart = None;
    assert!(look.passes());
    waits(&mut look, "c", &[]);
    look.silent("c");
    assert!(look.passes(), "c is not heard");
    let mut look = waiting();
    look.settings(cluster_core::model::settings::Mode::Sync, 2, 1, &[]);
    // k = 2 of two standbys: nobody could do better than to restart one.
    carries_out_until_rule(&mut look);
    let mut look = waiting();
    look.state.live_rules[0].set.remove(&name("c"));
    assert!(
        !matches!(look.verdict(), (Verdict::Propose(command, _), _) if matches!(*command, Command::Step { .. })),
        "only b confirms"
    );
}

/// With a change of the rule under way no restart is asked for.
fn carries_out_until_rule(look: &mut Look) {
    let (verdict, code) = look.verdict();
    assert!(
        matches!(&verdict, Verdict::Propose(command, _) if matches!(**command, Command::Propose { .. })),
        "{verdict:?} {code}"
    );
}

#[test]
fn it_fails_with_the_words_of_what_failed_and_goes_no_further() {
    let mut look = waiting();
    let id = asks(&mut look, 1, "b", restart("b"));
    let why = "b is not heard".to_owned();
    ends(&mut look, id, RequestOutcome::Failed { why });
    let Command::End { outcome, .. } = carries_out(&mut look) else {
        panic!("it ends")
    };
    let why = "restart failed: b is not heard".to_owned();
    assert_eq!(outcome, RequestOutcome::Failed { why });

    let mut look = waiting();
    let id = asks(&mut look, 1, "b", restart("b"));
    ends(&mut look, id, well("restart of b done"));
    let Command::End { outcome, .. } = carries_out(&mut look) else {
        panic!("it ends")
    };
    let RequestOutcome::Failed { why } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        why.contains("still waits for a restart: shared_buffers 128MB -> 1GB"),
        "{why}"
    );
}

#[test]
fn two_rolls_at_once_are_refused() {
    let mut look = waiting();
    let again = Command::Ask {
        id: RequestId("s".to_owned()),
        kind: RequestKind::RestartPending,
        by: String::new(),
    };
    assert!(commit(&mut look.state, again).is_err());
}

#[test]
fn what_a_member_could_not_start_with_is_taken_back_and_nothing_else() {
    let mut look = Look::new();
    let mut change = SettingsChange::default();
    for (parameter, value) in [("shared_buffers", "1PB"), ("work_mem", "8MB")] {
        let value = Some(value.to_owned());
        change.parameters.insert(parameter.to_owned(), value);
    }
    done(
        &mut look.state,
        Command::ChangeSettings {
            change: Box::new(change),
            expected: None,
            by: "root@db1".to_owned(),
        },
    );
    assert!(look.passes());
    look.report("b").health.refusal = Some(Refusal {
        parameters: vec![RefusedParameter {
            name: "shared_buffers".to_owned(),
            wanted: Some("1PB".to_owned()),
            kept: None,
        }],
        why: "could not map memory".to_owned(),
    });
    let command = carries_out(&mut look);
    assert!(
        matches!(&command, Command::ChangeSettings { by, expected: Some(_), .. }
        if by == "clusterd: b could not start with them: could not map memory")
    );
    let left: Vec<&String> = look.state.settings.parameters.keys().collect();
    assert_eq!(left, ["work_mem"]);
    assert!(look.passes(), "once is enough");
}
