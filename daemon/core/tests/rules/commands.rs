//! Commands about rules: each refusal has its name, and stored state of earlier builds loads.

use std::collections::BTreeMap;

use cluster_core::change::{Applied, Command, Rejected};
use cluster_core::model::request::Step;
use cluster_core::model::settings::{Durability, Mode};
use cluster_core::model::state::FastForward;
use cluster_core::model::{Epoch, Incarnation, Lsn, RequestId, RequestKind, RuleId, TimelineId};

use crate::cluster::{
    activate, commit, describe, done, formed, grant, name, propose, put, revoke, rule, seal,
    serving, withdraw,
};

#[test]
fn a_grant_needs_every_live_rule_blocked() {
    let mut state = serving();
    revoke(&mut state);
    let one = grant(&state, "b", rule(2, 2, 1, &[]), vec![seal("b", 2, 200)]);
    let missing = vec![name("a"), name("c")];
    assert_eq!(put(&mut state, one), Err(Rejected::NotBlocked { missing }));
    let both = vec![seal("b", 2, 200), seal("c", 2, 150)];
    let both = grant(&state, "b", rule(2, 2, 1, &["c"]), both);
    assert_eq!(put(&mut state, both), Ok(Applied::Changed));
}

#[test]
fn the_old_primary_alone_blocks_its_own_rules_in_the_same_life_only() {
    let mut state = serving();
    revoke(&mut state);
    let own = grant(&state, "a", rule(2, 2, 1, &[]), vec![seal("a", 2, 200)]);
    assert_eq!(put(&mut state.clone(), own), Ok(Applied::Changed));
    describe(&mut state, "a", 2);
    let mut copy = seal("a", 2, 200);
    copy.incarnation = Incarnation(2);
    let mut again = grant(&state, "a", rule(2, 2, 1, &[]), vec![copy]);
    again.incarnation = Incarnation(2);
    assert!(matches!(
        put(&mut state, again),
        Err(Rejected::NotBlocked { .. })
    ));
}

#[test]
fn joint_rule_of_an_open_change_must_be_blocked_too() {
    let mut state = formed(Mode::Sync);
    let sealed = ["a", "b", "c"].map(|it| seal(it, 1, 100)).to_vec();
    let first = grant(&state, "a", rule(1, 1, 1, &["b"]), sealed);
    assert_eq!(put(&mut state, first), Ok(Applied::Changed));
    let fork = Command::Promoted {
        epoch: Epoch(1),
        member: name("a"),
        fork: Lsn(100),
    };
    done(&mut state, fork);
    assert_eq!(activate(&mut state, 1, 110, &["b"]), Ok(Applied::Changed));
    let two = rule(2, 1, 2, &["b", "c"]);
    assert_eq!(propose(&mut state, two), Ok(Applied::Changed));
    revoke(&mut state);
    // b alone blocks rule 1 and rule 2, not the mixture of both: c alone may have confirmed.
    let alone = grant(&state, "b", rule(3, 2, 1, &[]), vec![seal("b", 2, 200)]);
    let missing = vec![name("a"), name("c")];
    assert_eq!(
        put(&mut state, alone),
        Err(Rejected::NotBlocked { missing })
    );
}

#[test]
fn a_grant_goes_to_nobody_who_is_behind_and_rests_on_no_seal_of_another_time() {
    let mut state = serving();
    revoke(&mut state);
    let sealed = vec![seal("b", 2, 200), seal("c", 2, 150)];
    let behind = grant(&state, "c", rule(2, 2, 1, &[]), sealed.clone());
    let refused = Err(Rejected::BehindBest {
        member: name("c"),
        best: name("b"),
    });
    assert_eq!(put(&mut state, behind), refused);
    let mut old = grant(&state, "b", rule(2, 2, 1, &["c"]), sealed.clone());
    old.sealed[1].target = Epoch(1);
    let refused =
        |result| matches!(result, Err(Rejected::BadSeal { member, .. }) if member == name("c"));
    assert!(refused(put(&mut state, old)));
    let mut other_life = grant(&state, "b", rule(2, 2, 1, &["c"]), sealed.clone());
    other_life.sealed[1].incarnation = Incarnation(9);
    assert!(refused(put(&mut state, other_life)));
    let mut elsewhere = grant(&state, "b", rule(2, 2, 1, &["c"]), sealed);
    elsewhere.start = Lsn(201);
    assert!(matches!(
        put(&mut state, elsewhere),
        Err(Rejected::BadSeal { member, .. }) if member == name("b")
    ));
}

#[test]
fn first_rule_names_sealed_members_on_the_line_and_is_no_silent_degrade() {
    let mut state = serving();
    revoke(&mut state);
    let sealed = vec![seal("a", 2, 300), seal("b", 2, 200), seal("c", 2, 150)];
    let degrades = grant(&state, "a", rule(2, 2, 0, &[]), sealed.clone());
    assert!(matches!(
        put(&mut state, degrades),
        Err(Rejected::BadRule(_))
    ));
    // Forced: b is taken although a has more, and a is not on the line of b.
    let id = RequestId("r".to_owned());
    let kind = RequestKind::Failover { to: name("b") };
    let by = "somebody".to_owned();
    let ask = Command::Ask {
        id: id.clone(),
        kind,
        by,
    };
    done(&mut state, ask);
    let step = Step::Moving { to: name("b") };
    done(&mut state, Command::Step { id, step });
    let forced = grant(&state, "b", rule(2, 2, 1, &["a"]), sealed.clone());
    assert!(matches!(put(&mut state, forced), Err(Rejected::BadRule(_))));
    let mut forced = grant(&state, "b", rule(2, 2, 1, &["c"]), sealed);
    // What nobody has written down is no loss that anybody took.
    assert!(matches!(
        put(&mut state, forced.clone()),
        Err(Rejected::BehindBest { .. })
    ));
    forced.loss = Some("everything behind 0/96".to_owned());
    assert_eq!(put(&mut state, forced), Ok(Applied::Changed));
}

#[test]
fn a_rule_is_activated_by_k_of_its_own_members() {
    let mut state = serving();
    assert_eq!(
        propose(&mut state, rule(2, 1, 2, &["b", "c"])),
        Ok(Applied::Changed)
    );
    let few = Err(Rejected::NotConfirmed {
        rule: RuleId(2),
        needed: 2,
        have: 1,
    });
    assert_eq!(activate(&mut state, 2, 200, &["b"]), few);
    assert_eq!(state.live_rules.len(), 2);
    assert_eq!(
        activate(&mut state, 2, 200, &["b", "c"]),
        Ok(Applied::Changed)
    );
    assert_eq!(state.live_rules, vec![rule(2, 1, 2, &["b", "c"])]);
    assert_eq!(
        activate(&mut state, 2, 200, &["b", "c"]),
        Ok(Applied::Unchanged)
    );
}

#[test]
fn proposing_removes_nothing_and_its_refusals_have_names() {
    let mut state = serving();
    for bad in [
        rule(9, 1, 1, &["b"]),
        rule(2, 2, 1, &["b"]),
        rule(2, 1, 1, &["a", "b"]),
        rule(2, 1, 3, &["b", "c"]),
        rule(2, 1, 1, &[]),
        rule(2, 1, 0, &["b"]),
    ] {
        assert!(propose(&mut state, bad.clone()).is_err(), "{bad}");
    }
    for id in 2..=9 {
        let next = rule(id, 1, 1, if id % 2 == 0 { &["b"] } else { &["c"] });
        assert_eq!(propose(&mut state, next), Ok(Applied::Changed));
    }
    assert_eq!(state.live_rules.len(), 9);
    let one_more = propose(&mut state, rule(10, 1, 0, &[]));
    assert_eq!(one_more, Err(Rejected::TooManyProposals(8)));
    revoke(&mut state);
    let late = propose(&mut state, rule(10, 1, 0, &[]));
    assert!(matches!(late, Err(Rejected::WrongPhase { .. })));
    let late = activate(&mut state, 2, 200, &["b"]);
    assert!(matches!(late, Err(Rejected::WrongPhase { .. })));
}

#[test]
fn only_an_open_proposal_is_withdrawn() {
    let mut state = serving();
    assert_eq!(
        propose(&mut state, rule(2, 1, 0, &[])),
        Ok(Applied::Changed)
    );
    assert_eq!(
        withdraw(&mut state, 1),
        Err(Rejected::NotAProposal(RuleId(1)))
    );
    assert_eq!(
        withdraw(&mut state, 7),
        Err(Rejected::NotAProposal(RuleId(7)))
    );
    assert_eq!(withdraw(&mut state, 2), Ok(Applied::Changed));
    assert_eq!(withdraw(&mut state, 2), Ok(Applied::Unchanged));
    assert_eq!(state.live_rules, vec![rule(1, 1, 1, &["b", "c"])]);
    assert_eq!(
        propose(&mut state, rule(3, 1, 0, &[])),
        Ok(Applied::Changed)
    );
    revoke(&mut state);
    assert!(matches!(
        withdraw(&mut state, 3),
        Err(Rejected::WrongPhase { .. })
    ));
}

#[test]
fn strict_has_no_rule_below_its_minimum() {
    let mut state = serving();
    let strict = Durability {
        mode: Mode::Strict,
        k: 1,
        k_min: 1,
        zones: BTreeMap::new(),
    };
    done(&mut state, Command::SetDurability(Box::new(strict)));
    let nobody = propose(&mut state, rule(2, 1, 0, &[]));
    assert_eq!(nobody, Err(Rejected::BelowMinimum { k: 0, k_min: 1 }));
}

#[test]
fn durability_settings_are_checked_as_a_whole() {
    let mut state = serving();
    let good = Durability {
        mode: Mode::Strict,
        k: 2,
        k_min: 1,
        zones: BTreeMap::from([(name("a"), "left".to_owned())]),
    };
    let bad = [
        Durability {
            k: 0,
            ..good.clone()
        },
        Durability {
            k: 9,
            ..good.clone()
        },
        Durability {
            k_min: 0,
            ..good.clone()
        },
        Durability {
            k: 3,
            k_min: 3,
            ..good.clone()
        },
        Durability {
            k: 1,
            k_min: 2,
            ..good.clone()
        },
        Durability {
            zones: BTreeMap::from([(name("z"), "left".to_owned())]),
            ..good.clone()
        },
        Durability {
            zones: BTreeMap::from([(name("a"), " ".to_owned())]),
            ..good.clone()
        },
    ];
    for wanted in bad {
        let result = commit(&mut state, Command::SetDurability(Box::new(wanted.clone())));
        assert!(
            matches!(result, Err(Rejected::BadSettings(_))),
            "{wanted:?}"
        );
    }
    done(&mut state, Command::SetDurability(Box::new(good.clone())));
    assert_eq!(state.settings.durability(), good);
    assert_eq!(state.live_rules.len(), 1, "the rules follow by decisions");
}

#[test]
fn fast_forward_belongs_between_two_reigns() {
    let mut state = serving();
    let wanted = FastForward {
        target: Epoch(2),
        member: name("c"),
        incarnation: Incarnation(1),
        from: name("b"),
        timeline: TimelineId(2),
        until: Lsn(200),
    };
    let ask = |it: FastForward| Command::FastForward(Box::new(it));
    let early = commit(&mut state, ask(wanted.clone()));
    assert!(matches!(early, Err(Rejected::WrongMoment(_))));
    revoke(&mut state);
    let stale = FastForward {
        target: Epoch(1),
        ..wanted.clone()
    };
    let stale = commit(&mut state, ask(stale));
    assert!(matches!(stale, Err(Rejected::WrongEpoch { .. })));
    done(&mut state, ask(wanted));
    let sealed = vec![seal("b", 2, 200), seal("c", 2, 200)];
    let next = grant(&state, "c", rule(2, 2, 1, &["b"]), sealed);
    assert_eq!(put(&mut state, next), Ok(Applied::Changed));
    assert_eq!(state.fast_forward, None);
}
