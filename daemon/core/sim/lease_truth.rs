//! The few truths of the lease model, each made by the core's own `apply` and kept once.

use std::collections::BTreeMap;

use cluster_core::change::command::{COMMAND_VERSION, Founder, Grant};
use cluster_core::change::{Command, Stamp, apply};
use cluster_core::model::lease::Preset;
use cluster_core::model::settings::Mode;
use cluster_core::model::state::Identity;
use cluster_core::model::{
    Addresses, ClusterId, ClusterState, Epoch, Generation, Incarnation, Lsn, MemberKind, NodeId,
    Phase, Rule, RuleId, Settings, Tags, TimelineId,
};

use crate::lease_model::member_name;

/// What can be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Noop,
    Revoke,
    Grant { member: u8 },
    Release { member: u8, epoch: u8 },
    OtherPreset,
}

/// Every truth met so far, by number.
pub struct Truths {
    states: Vec<ClusterState>,
    numbers: BTreeMap<String, u16>,
    after: BTreeMap<(u16, Change), u16>,
}

fn done(state: &mut ClusterState, command: Command) {
    let stamp = Stamp {
        version: COMMAND_VERSION,
        at_unix_ms: 0,
        command,
    };
    // A command that comes too late is rejected and changes nothing.
    let _ = apply(state, 1, &stamp);
    // What is for people only would keep equal truths apart.
    state.history.clear();
}

impl Truths {
    pub fn new(begins_short: bool) -> Truths {
        let mut truths = Truths {
            states: Vec::new(),
            numbers: BTreeMap::new(),
            after: BTreeMap::new(),
        };
        let preset = if begins_short {
            Preset::Fast
        } else {
            Preset::Lan
        };
        let mut state = ClusterState::default();
        let members = (0..2).map(|member| Founder {
            name: member_name(member),
            node: NodeId(member as u64),
            kind: MemberKind::Database,
            peer: String::new(),
        });
        done(
            &mut state,
            Command::Form {
                identity: Identity {
                    id: ClusterId("search".to_owned()),
                    name: "search".parse().expect("a good name"),
                    generation: Generation(1),
                },
                members: members.collect(),
                settings: Box::new(Settings {
                    preset,
                    // The lease alone: no rule holds anything up.
                    mode: Mode::Async,
                    ..Settings::default()
                }),
            },
        );
        for member in 0..2 {
            done(
                &mut state,
                Command::Describe {
                    member: member_name(member),
                    addresses: Addresses::default(),
                    tags: Tags::default(),
                    incarnation: Some(Incarnation(member as u32)),
                },
            );
        }
        let member = member_name(0);
        done(
            &mut state,
            Command::Initialize {
                member: member.clone(),
            },
        );
        let timeline = TimelineId::FIRST;
        done(
            &mut state,
            Command::Initialized {
                member,
                system_identifier: 1,
                timeline,
            },
        );
        let grant = grant(&state, 0);
        done(&mut state, grant);
        assert_eq!(state.epoch(), Epoch(1));
        truths.keep(state);
        truths
    }

    fn keep(&mut self, state: ClusterState) -> u16 {
        let text = format!("{state:?}");
        let next = self.states.len() as u16;
        let number = *self.numbers.entry(text).or_insert(next);
        if number == next {
            self.states.push(state);
        }
        number
    }

    pub fn first(&self) -> u16 {
        0
    }

    pub fn get(&self, number: u16) -> &ClusterState {
        &self.states[usize::from(number)]
    }

    pub fn epoch(&self, number: u16) -> u8 {
        self.get(number).epoch().0 as u8
    }

    pub fn holder(&self, number: u16) -> usize {
        let holder = self
            .get(number)
            .reign
            .as_ref()
            .map(|reign| reign.holder.as_str());
        usize::from(holder == Some("b"))
    }

    /// Epoch and holder, while granted.
    pub fn granted(&self, number: u16) -> Option<(u8, usize)> {
        let is_granted = self.get(number).granted().is_some();
        is_granted.then(|| (self.epoch(number), self.holder(number)))
    }

    pub fn apply(&mut self, number: u16, change: Change) -> u16 {
        if let Some(known) = self.after.get(&(number, change)) {
            return *known;
        }
        let mut state = self.get(number).clone();
        let epoch = state.epoch();
        let command = match change {
            Change::Noop => Command::Noop {
                by: NodeId(0),
                start: String::new(),
            },
            Change::Revoke => Command::Revoke {
                epoch,
                reason: "search".to_owned(),
            },
            Change::Grant { member } => grant(&state, usize::from(member)),
            Change::Release { member, epoch } => {
                let (member, epoch) = (member_name(usize::from(member)), Epoch(u64::from(epoch)));
                Command::Release {
                    epoch,
                    member,
                    why: String::new(),
                }
            }
            Change::OtherPreset => Command::SetPreset {
                preset: match state.settings.preset {
                    Preset::Lan => Preset::Fast,
                    Preset::Fast | Preset::Wan => Preset::Lan,
                },
            },
        };
        done(&mut state, command);
        // These texts and counters do not matter to the lease.
        if state
            .reign
            .as_ref()
            .is_some_and(|reign| reign.phase == Phase::Granted)
        {
            state.live_rules.drain(..state.live_rules.len() - 1);
        }
        let after = self.keep(state);
        self.after.insert((number, change), after);
        after
    }
}

fn grant(state: &ClusterState, member: usize) -> Command {
    let epoch = state.epoch().next();
    let id = RuleId(state.last_rule.0 + 1);
    Command::Grant(Box::new(Grant {
        epoch,
        member: member_name(member),
        incarnation: Incarnation(member as u32),
        timeline: state.ledger.highest().next(),
        parent: TimelineId::FIRST,
        start: Lsn(1),
        first_rule: Rule {
            id,
            epoch,
            k: 0,
            set: BTreeMap::new(),
        },
        sealed: Vec::new(),
        live: state.live_rules.iter().map(|rule| rule.id).collect(),
        reason: String::new(),
        loss: None,
    }))
}
