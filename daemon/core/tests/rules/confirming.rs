//! What people are told about commits: who confirms, why the others do not, what may be lost now, and
//! why nobody is promoted.

use std::time::Duration;

use cluster_core::decide::reason::Reason;
use cluster_core::decide::{Confirming, Survivable, blocked, confirming, decide_cluster};
use cluster_core::model::member::Member;
use cluster_core::model::settings::Mode;
use cluster_core::model::view::Seen;
use cluster_core::model::{
    Addresses, Incarnation, MemberKind, NodeId, PostgresStatus, RuleId, Tags,
};

use crate::cluster::{activate, name, propose, revoke, rule};
use crate::decisions::{Look, report, seen, standby};

fn ask(look: &Look) -> Confirming {
    look.asked(&[], confirming)
}

fn why(look: &Look, member: &str) -> String {
    let standbys = ask(look).standbys;
    let one = standbys.iter().find(|it| it.member == name(member));
    let one = one.expect("a standby");
    assert_eq!(one.confirms, one.why_not.is_none());
    one.why_not.clone().unwrap_or_default()
}

/// A look at `n` standbys, all well, under a rule that asks for `k` of them.
fn of(n: usize, k: u32) -> Look {
    let mut look = Look::new();
    let names = ["b", "c", "d", "e"];
    for (node, member) in names.iter().enumerate() {
        let member_name = name(member);
        if node >= n {
            look.state.members.remove(&member_name);
            look.reports.remove(&member_name);
            continue;
        }
        let known = Member {
            node: NodeId(node as u64 + 1),
            kind: MemberKind::Database,
            addresses: Addresses::default(),
            tags: Tags::default(),
            incarnation: Some(Incarnation(1)),
            joining: None,
        };
        look.state.members.insert(member_name.clone(), known);
        let report = report(member, node as u64 + 1, standby(200));
        let age = Duration::ZERO;
        look.reports.insert(member_name, Seen { report, age });
    }
    look.sync().standbys = names[..n].iter().map(|it| seen(it)).collect();
    let named = if k == 0 { &[] } else { &names[..n] };
    look.state.live_rules = vec![rule(1, 1, k, named)];
    look.state.settings.k = k.max(1);
    look
}

fn losses(look: &Look) -> (Option<u32>, Option<u32>) {
    let Survivable {
        standbys,
        with_primary,
        ..
    } = ask(look).survivable;
    (standbys, with_primary)
}

/// The table of hazards 4.2: n − k without the primary, k − 1 together with it.
#[test]
fn the_two_numbers_of_a_rule_are_those_of_the_table() {
    for (n, k, standbys, with_primary) in [
        (1, 1, 0, 0),
        (2, 1, 1, 0),
        (2, 2, 0, 1),
        (3, 2, 1, 1),
        (4, 2, 2, 1),
        (4, 3, 1, 2),
    ] {
        let found = losses(&of(n, k));
        assert_eq!(found, (Some(standbys), Some(with_primary)), "{n}, {k}");
    }
}

#[test]
fn only_those_who_are_well_now_are_counted() {
    let mut look = of(4, 2);
    look.silent("e");
    look.of("e").is_connected = false;
    assert_eq!(losses(&look), (Some(1), Some(0)), "e is gone already");
    look.late("d", 1_500);
    assert_eq!(
        losses(&look),
        (Some(0), Some(0)),
        "d confirms nothing, and could still seal"
    );
    look.silent("d");
    assert_eq!(losses(&look), (Some(0), None));
    look.late("c", 1_500);
    let found = ask(&look);
    assert!(found.writes_wait);
    assert_eq!(found.survivable.standbys, None);
}

#[test]
fn writes_that_wait_are_not_called_well() {
    let mut look = of(1, 1);
    assert_eq!(look.asked(&[], decide_cluster).reason(), Reason::AllWell);
    look.state.settings.mode = Mode::Strict;
    look.late("b", 1_500).silent("b");
    let verdict = look.asked(&[], decide_cluster);
    assert_eq!(verdict.rule, "writes-wait");
    assert_eq!(verdict.reason(), Reason::WritesWait(0, 1));
}

#[test]
fn while_rules_change_the_weakest_of_the_live_ones_counts_and_so_does_their_joint_rule() {
    let mut look = of(3, 2);
    assert_eq!(losses(&look), (Some(1), Some(1)));
    look.state.live_rules.push(rule(2, 1, 1, &["b"]));
    assert_eq!(losses(&look), (Some(0), Some(0)));
    // Either rule alone is blocked without d. Together one of all three may have confirmed.
    look.silent("d");
    assert_eq!(losses(&look), (Some(0), None));
}

#[test]
fn the_votes_allow_no_more_than_a_majority_can_miss() {
    let voters = [0, 1, 2].map(NodeId);
    let mut look = of(2, 2);
    let found = look.asked(&voters, confirming).survivable;
    assert_eq!(
        found.with_primary,
        Some(0),
        "b lost with a leaves one of three"
    );
    assert!(found.votes_limit_with_primary && !found.votes_limit_standbys);
    look.silent("c");
    let found = look.asked(&voters, confirming).survivable;
    assert_eq!((found.standbys, found.with_primary), (Some(0), None));
    let [_, text] = found.sentences(Mode::Sync);
    assert!(text.contains("may not be lost"), "{text}");
}

#[test]
fn a_standby_that_may_not_be_promoted_saves_nobody() {
    let mut look = of(1, 1);
    assert_eq!(losses(&look).1, Some(0));
    look.report("b").not_promotable = vec!["its replay is paused".to_owned()];
    assert_eq!(losses(&look).1, None);
}

#[test]
fn nobody_survives_in_async_nor_when_nobody_confirms() {
    let mut look = of(2, 0);
    assert_eq!(losses(&look), (Some(2), None), "writes never wait");
    look.state.settings.mode = Mode::Async;
    let found = ask(&look);
    assert_eq!((found.wanted_k, found.writes_wait), (0, false));
    let [_, text] = found.survivable.sentences(Mode::Async);
    assert!(text.contains("may lose acknowledged writes"), "{text}");
    assert_eq!(why(&look, "b"), "mode async: nobody has to");
    let mut state = look.state.clone();
    revoke(&mut state);
    look.state = state;
    assert_eq!(losses(&look), (None, None), "there is no primary");
    assert_eq!(why(&look, "b"), "there is no primary");
}

#[test]
fn every_standby_has_its_reason() {
    let mut look = Look::new();
    let confirm: Vec<_> = ask(&look).names().cloned().collect();
    assert_eq!(confirm, [name("b"), name("c")]);
    assert!(ask(&look).is_proven);

    look.late("b", 1_200);
    assert_eq!(why(&look, "b"), "has confirmed nothing for 1.2 s");
    look.silent("b");
    assert_eq!(
        why(&look, "b"),
        "has confirmed nothing for 1.2 s, and is not heard"
    );
    look.of("c").is_connected = false;
    assert_eq!(why(&look, "c"), "is not connected to the primary");
    look.report("c").postgres = PostgresStatus::Stopping;
    assert_eq!(why(&look, "c"), "its PostgreSQL is stopping");

    let mut look = Look::new();
    let other = look.state.members.get_mut(&name("b")).expect("b");
    other.incarnation = Some(Incarnation(9));
    assert_eq!(
        why(&look, "b"),
        "its data directory is another one than the rule names"
    );
    let other = look.state.members.get_mut(&name("b")).expect("b");
    other.incarnation = None;
    assert_eq!(why(&look, "b"), "has no data");

    let mut look = Look::new();
    look.report("a").sync = None;
    assert_eq!(why(&look, "b"), "the primary does not tell who confirms");
    assert!(!ask(&look).is_proven);
}

#[test]
fn a_standby_outside_the_rule_says_how_it_comes_in() {
    let mut look = Look::new();
    assert!(propose(&mut look.state, rule(2, 1, 1, &["c"])).is_ok());
    assert!(activate(&mut look.state, 2, 150, &["c"]).is_ok());
    let sync = look.sync();
    sync.given = RuleId(2);
    sync.proven.as_mut().expect("proven").rule = RuleId(2);
    let in_force = ask(&look).in_force.map(|rule| rule.id);
    assert_eq!(in_force, Some(RuleId(2)));

    look.of("b").proven_for_ms = None;
    assert_eq!(why(&look, "b"), "has not proven yet that it follows");
    look.of("b").has_failed = true;
    look.of("b").proven_for_ms = Some(12_000);
    assert_eq!(why(&look, "b"), "follows for 12 s, joins after 30 s");
    look.of("b").proven_for_ms = Some(30_000);
    assert_eq!(why(&look, "b"), "joins with the next change of the rule");
    assert!(propose(&mut look.state, rule(3, 1, 1, &["b", "c"])).is_ok());
    assert_eq!(
        why(&look, "b"),
        "rule 3 names it, proposed and not activated yet"
    );
    assert_eq!(ask(&look).proposed, Some(RuleId(3)));
    let tags = Tags {
        nosync: true,
        ..Tags::default()
    };
    let mut look = Look::new();
    look.state.live_rules = vec![rule(1, 1, 1, &["c"])];
    look.tag("b", tags);
    assert_eq!(why(&look, "b"), "is tagged nosync");
}

#[test]
fn who_is_missing_since_when_what_is_at_risk_and_what_overrides_it() {
    let mut look = Look::new();
    assert_eq!(look.asked(&[], blocked), None, "there is a primary");
    let mut state = look.state.clone();
    revoke(&mut state);
    look.state = state;
    look.silent("a").silent("b");
    look.report("c").sync = None;
    assert_eq!(
        look.asked(&[], blocked),
        None,
        "c is heard and has not sealed yet: it is waited for"
    );
    look.sealed("c", 150);
    let found = look.asked(&[], blocked).expect("one of b or c may have it");
    let five = Some(Duration::from_secs(5));
    assert_eq!(found.missing, [(name("a"), five), (name("b"), five)]);
    assert_eq!(found.to, Some(name("c")));
    assert_eq!(
        found.command().as_deref(),
        Some("clusterctl failover --to c --reason \"…\"")
    );
    assert!(
        found
            .at_risk
            .starts_with("writes acknowledged behind 0/96 of epoch 1"),
        "{}",
        found.at_risk
    );
    assert!(
        found
            .at_risk
            .contains("at least 50 bytes more were reported"),
        "{}",
        found.at_risk
    );
    look.state.settings.mode = Mode::Async;
    assert_eq!(look.asked(&[], blocked), None, "async waits for nobody");
}

#[test]
fn the_history_says_who_confirms_and_what_may_be_lost_under_each_rule() {
    let mut look = of(3, 1);
    let mut told = |k: u32, named: &[&str]| {
        let id = look.state.last_rule.0 + 1;
        assert!(propose(&mut look.state, rule(id, 1, k, named)).is_ok());
        assert!(activate(&mut look.state, id, 200, named).is_ok());
        look.state.history.last().map(|entry| entry.reason.clone())
    };
    let two = "rule 2: 2 of [b, c, d]; 1 of them may be lost and writes go on, 1 together with the primary";
    assert_eq!(told(2, &["b", "c", "d"]).as_deref(), Some(two));
    let nobody = "rule 3: 0 of []; commits wait for nobody";
    assert_eq!(told(0, &[]).as_deref(), Some(nobody));
}
