//! A cluster of three made by commands: what the tests of rules begin with.

use std::collections::BTreeMap;

use cluster_core::change::command::{COMMAND_VERSION, Founder, Grant};
use cluster_core::change::{Applied, Command, Rejected, Stamp, apply, invariants};
use cluster_core::model::member::SealReport;
use cluster_core::model::settings::Mode;
use cluster_core::model::state::Identity;
use cluster_core::model::{
    Addresses, ClusterId, ClusterState, Epoch, Generation, Incarnation, Lsn, MemberKind,
    MemberName, NodeId, Rule, RuleId, Settings, Tags, TimelineId,
};

pub fn name(text: &str) -> MemberName {
    text.parse().expect("a good name")
}

pub fn set(names: &[&str]) -> BTreeMap<MemberName, Incarnation> {
    names.iter().map(|it| (name(it), Incarnation(1))).collect()
}

pub fn commit(state: &mut ClusterState, command: Command) -> Result<Applied, Rejected> {
    let before = state.clone();
    let stamp = Stamp {
        version: COMMAND_VERSION,
        at_unix_ms: 0,
        command,
    };
    let result = apply(state, 1, &stamp);
    if result.is_err() {
        assert_eq!(*state, before, "a refused command changes nothing");
    }
    assert_eq!(invariants::check(state), Vec::<String>::new());
    result
}

pub fn done(state: &mut ClusterState, command: Command) {
    assert_eq!(commit(state, command), Ok(Applied::Changed));
}

pub fn seal(member: &str, epoch: u64, end: u64) -> SealReport {
    SealReport {
        member: name(member),
        incarnation: Incarnation(1),
        target: Epoch(epoch),
        timeline: TimelineId(u32::try_from(epoch).expect("small")),
        end: Lsn(end),
        is_running: true,
    }
}

pub fn rule(id: u64, epoch: u64, k: u32, names: &[&str]) -> Rule {
    Rule {
        id: RuleId(id),
        epoch: Epoch(epoch),
        k,
        set: set(names),
    }
}

pub fn grant(
    state: &ClusterState,
    member: &str,
    first_rule: Rule,
    sealed: Vec<SealReport>,
) -> Grant {
    let own = sealed.iter().find(|it| it.member == name(member));
    let own = own.cloned().unwrap_or_else(|| seal(member, 1, 0));
    Grant {
        epoch: state.epoch().next(),
        member: name(member),
        incarnation: Incarnation(1),
        timeline: state.ledger.highest().next(),
        parent: own.timeline,
        start: own.end,
        first_rule,
        sealed,
        live: state.live_rules.iter().map(|rule| rule.id).collect(),
        reason: String::new(),
        loss: None,
    }
}

pub fn put(state: &mut ClusterState, grant: Grant) -> Result<Applied, Rejected> {
    commit(state, Command::Grant(Box::new(grant)))
}

pub fn propose(state: &mut ClusterState, rule: Rule) -> Result<Applied, Rejected> {
    commit(state, Command::Propose { rule })
}

pub fn activate(
    state: &mut ClusterState,
    rule: u64,
    at: u64,
    by: &[&str],
) -> Result<Applied, Rejected> {
    let epoch = state.epoch();
    commit(
        state,
        Command::Activate {
            epoch,
            rule: RuleId(rule),
            at: Lsn(at),
            by: set(by),
        },
    )
}

pub fn withdraw(state: &mut ClusterState, rule: u64) -> Result<Applied, Rejected> {
    let epoch = state.epoch();
    let rule = RuleId(rule);
    commit(state, Command::Withdraw { epoch, rule })
}

pub fn revoke(state: &mut ClusterState) {
    let epoch = state.epoch();
    let reason = "primary-silent".to_owned();
    done(state, Command::Revoke { epoch, reason });
}

/// Members a, b, c; the first data on a; nobody granted yet.
pub fn formed(mode: Mode) -> ClusterState {
    let mut state = ClusterState::default();
    let founder = |(node, it): (usize, &str)| Founder {
        name: name(it),
        node: NodeId(node as u64),
        kind: MemberKind::Database,
        peer: String::new(),
    };
    let settings = Settings {
        mode,
        ..Settings::default()
    };
    done(
        &mut state,
        Command::Form {
            identity: Identity {
                id: ClusterId("x".to_owned()),
                name: "x".parse().expect("a good name"),
                generation: Generation(1),
            },
            members: ["a", "b", "c"]
                .into_iter()
                .enumerate()
                .map(founder)
                .collect(),
            settings: Box::new(settings),
        },
    );
    for member in ["a", "b", "c"] {
        describe(&mut state, member, 1);
    }
    let member = name("a");
    done(&mut state, Command::Initialize { member });
    done(
        &mut state,
        Command::Initialized {
            member: name("a"),
            system_identifier: 1,
            timeline: TimelineId(1),
        },
    );
    state
}

pub fn describe(state: &mut ClusterState, member: &str, life: u32) {
    let member = name(member);
    let command = Command::Describe {
        member,
        addresses: Addresses::default(),
        tags: Tags::default(),
        incarnation: Some(Incarnation(life)),
    };
    done(state, command);
}

/// a serves epoch 1 under rule 1: one of b and c. Everything begins at 0/64.
pub fn serving() -> ClusterState {
    let mut state = formed(Mode::Sync);
    let sealed = ["a", "b", "c"].map(|it| seal(it, 1, 100)).to_vec();
    let first = grant(&state, "a", rule(1, 1, 1, &["b", "c"]), sealed);
    assert_eq!(put(&mut state, first), Ok(Applied::Changed));
    done(
        &mut state,
        Command::Promoted {
            epoch: Epoch(1),
            member: name("a"),
            fork: Lsn(100),
        },
    );
    assert_eq!(activate(&mut state, 1, 110, &["b"]), Ok(Applied::Changed));
    state
}
