//! The few truths of the search, each made by the core's own `apply` and kept once.
//!
//! A wrong way of handling them is a switch here, around `apply`: the truth is doctored before or
//! after, production code knows nothing of it.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use cluster_core::change::command::{COMMAND_VERSION, Founder, Grant};
use cluster_core::change::{Command, Stamp, apply, invariants};
use cluster_core::model::member::SealReport;
use cluster_core::model::settings::Mode;
use cluster_core::model::state::Identity;
use cluster_core::model::{
    Addresses, ClusterId, ClusterState, Epoch, Generation, Incarnation, Lsn, MemberKind,
    MemberName, NodeId, Phase, Rule, RuleId, Settings, Tags, TimelineId,
};

use crate::world::{Content, Held, MOST, Wrong};

/// What can be committed. Members are numbers, sets are masks of lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    Revoke,
    Grant {
        member: u8,
        sealed: [Option<Held>; MOST],
        first: Content,
    },
    Promoted {
        member: u8,
        epoch: u8,
        fork: u8,
    },
    Propose(Content),
    Activate {
        rule: u8,
        at: u8,
        by: Content,
    },
    Withdraw {
        rule: u8,
    },
    Describe {
        member: u8,
        life: u8,
    },
}

/// One truth, and what the search asks of it most.
#[derive(Debug)]
pub struct Truth {
    pub state: ClusterState,
    pub epoch: u8,
    pub holder: usize,
    pub is_granted: bool,
    pub is_activated: bool,
    /// Live rules: id, epoch, content.
    pub live: Vec<(u8, u8, Content)>,
}

/// Every truth met so far, by number.
pub struct Truths {
    wrong: Wrong,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    truths: Vec<Arc<Truth>>,
    numbers: BTreeMap<String, u32>,
    after: BTreeMap<(u32, Change), Option<u32>>,
}

pub fn member_name(member: usize) -> MemberName {
    ["a", "b", "c", "d"][member].parse().expect("a good name")
}

fn number_of(name: &MemberName) -> usize {
    (0..MOST)
        .find(|member| member_name(*member) == *name)
        .expect("one of ours")
}

/// The life of a data directory, as Raft sees it.
fn incarnation(life: u8) -> Incarnation {
    Incarnation(u32::from(life) + 1)
}

/// Epoch e opens timeline e + 1: the base is 1, and nobody skips one here.
pub fn timeline(epoch: u8) -> TimelineId {
    TimelineId(u32::from(epoch) + 1)
}

fn set(content: Content) -> BTreeMap<MemberName, Incarnation> {
    (0..MOST)
        .filter_map(|member| {
            let life = content.life_of(member)?;
            Some((member_name(member), incarnation(life)))
        })
        .collect()
}

fn content(rule: &Rule) -> Content {
    let mut content = Content::nobody(rule.k as u8);
    for (name, life) in &rule.set {
        content = content.with(number_of(name), (life.0 - 1) as u8);
    }
    content
}

fn seal(member: usize, held: Held) -> SealReport {
    SealReport {
        member: member_name(member),
        incarnation: incarnation(held.life),
        target: Epoch(u64::from(held.target)),
        timeline: timeline(held.line),
        end: Lsn(u64::from(held.end)),
        is_running: true,
    }
}

fn commit(state: &mut ClusterState, command: Command) -> bool {
    let stamp = Stamp {
        version: COMMAND_VERSION,
        at_unix_ms: 0,
        command,
    };
    apply(state, 1, &stamp).is_ok()
}

impl Truths {
    /// A cluster of `members`, all at the start of epoch 1 under `first`, `a` the primary; the
    /// number of the first truth is 0.
    pub fn new(members: usize, first: Content, wrong: Wrong) -> Truths {
        let mut state = ClusterState::default();
        let founders = (0..members).map(|member| Founder {
            name: member_name(member),
            node: NodeId(member as u64),
            kind: MemberKind::Database,
            peer: String::new(),
        });
        let mut done = |command| assert!(commit(&mut state, command), "the first truth is made");
        done(Command::Form {
            identity: Identity {
                id: ClusterId("search".to_owned()),
                name: "search".parse().expect("a good name"),
                generation: Generation(1),
            },
            members: founders.collect(),
            settings: Box::new(Settings {
                mode: Mode::Sync,
                ..Settings::default()
            }),
        });
        for member in 0..members {
            done(describe(member, 0));
        }
        let member = member_name(0);
        done(Command::Initialize {
            member: member.clone(),
        });
        done(Command::Initialized {
            member,
            system_identifier: 1,
            timeline: TimelineId::FIRST,
        });
        let mut sealed = [None; MOST];
        for held in sealed.iter_mut().take(members) {
            *held = Some(Held {
                life: 0,
                target: 1,
                line: 0,
                end: 0,
            });
        }
        // A Grant does not degrade; a search that begins with k = 0 proposes it at once.
        let granted = if first.k() == 0 {
            Content::nobody(1)
        } else {
            first
        };
        let grant = grant(&state, 0, sealed, granted);
        let mut done = |command| assert!(commit(&mut state, command), "the first truth is made");
        done(grant);
        done(Command::Promoted {
            epoch: Epoch(1),
            member: member_name(0),
            fork: Lsn(0),
        });
        if first.k() == 0 {
            done(Command::Propose {
                rule: Rule {
                    id: RuleId(2),
                    epoch: Epoch(1),
                    k: 0,
                    set: BTreeMap::new(),
                },
            });
        }
        let rule = state.last_rule;
        assert!(commit(
            &mut state,
            Command::Activate {
                epoch: Epoch(1),
                rule,
                at: Lsn(1),
                by: set(first),
            }
        ));
        let mut known = Known::default();
        known.keep(state);
        Truths {
            wrong,
            known: RwLock::new(known),
        }
    }

    pub fn get(&self, number: u32) -> Arc<Truth> {
        let known = self.known.read().expect("no search panicked");
        known.truths[number as usize].clone()
    }

    pub fn count(&self) -> usize {
        self.known.read().expect("no search panicked").truths.len()
    }

    /// The truth after a change; none when `apply` refuses it.
    pub fn after(&self, number: u32, change: Change) -> Option<u32> {
        {
            let known = self.known.read().expect("no search panicked");
            if let Some(after) = known.after.get(&(number, change)) {
                return *after;
            }
        }
        let mut state = self.get(number).state.clone();
        let is_done = self.change(&mut state, change);
        let mut known = self.known.write().expect("no search panicked");
        let after = is_done.then(|| {
            let broken = invariants::check(&state);
            assert!(
                broken.is_empty() || self.wrong != Wrong::Nothing,
                "{broken:?} after {change:?}"
            );
            known.keep(state)
        });
        known.after.insert((number, change), after);
        after
    }

    fn change(&self, state: &mut ClusterState, change: Change) -> bool {
        let epoch = state.epoch();
        match change {
            Change::Revoke => commit(
                state,
                Command::Revoke {
                    epoch,
                    reason: String::new(),
                },
            ),
            Change::Grant {
                member,
                sealed,
                first,
            } => self.granted(state, usize::from(member), sealed, first),
            Change::Promoted {
                member,
                epoch,
                fork,
            } => commit(
                state,
                Command::Promoted {
                    epoch: Epoch(u64::from(epoch)),
                    member: member_name(usize::from(member)),
                    fork: Lsn(u64::from(fork)),
                },
            ),
            Change::Propose(content) => self.proposed(state, content),
            Change::Activate { rule, at, by } => commit(
                state,
                Command::Activate {
                    epoch,
                    rule: RuleId(u64::from(rule)),
                    at: Lsn(u64::from(at)),
                    by: set(by),
                },
            ),
            Change::Withdraw { rule } => commit(
                state,
                Command::Withdraw {
                    epoch,
                    rule: RuleId(u64::from(rule)),
                },
            ),
            Change::Describe { member, life } => commit(state, describe(member.into(), life)),
        }
    }

    fn proposed(&self, state: &mut ClusterState, content: Content) -> bool {
        let epoch = state.epoch();
        let rule = Rule {
            id: RuleId(state.last_rule.0 + 1),
            epoch,
            k: u32::from(content.k()),
            set: set(content),
        };
        let id = rule.id;
        if !commit(state, Command::Propose { rule }) {
            return false;
        }
        if self.wrong == Wrong::ProposalSupersedes {
            // All but the newest one and the epoch's first are forgotten.
            let first = state
                .live_rules
                .iter()
                .find(|rule| rule.epoch == epoch)
                .map(|rule| rule.id);
            state
                .live_rules
                .retain(|rule| rule.epoch != epoch || rule.id == id || Some(rule.id) == first);
        }
        true
    }

    /// A Grant, tried against the live rules as the mutant sees them.
    fn granted(
        &self,
        state: &mut ClusterState,
        member: usize,
        sealed: [Option<Held>; MOST],
        first: Content,
    ) -> bool {
        let live = state.live_rules.clone();
        let (oldest, newest) = (live.first().cloned(), live.last().cloned());
        let one_by_one: Vec<Vec<Rule>> = match self.wrong {
            Wrong::OldRuleNotBlocked => vec![newest.into_iter().collect()],
            Wrong::NewRuleNotBlocked => vec![oldest.into_iter().collect()],
            Wrong::NoJointRule => live.iter().map(|rule| vec![rule.clone()]).collect(),
            _ => vec![live.clone()],
        };
        let mut after = None;
        for seen in one_by_one {
            let mut tried = state.clone();
            tried.live_rules = seen;
            let grant = grant(&tried, member, self.seen(sealed, member), first);
            if !commit(&mut tried, grant) {
                return false;
            }
            after = Some(tried);
        }
        let Some(after) = after else { return false };
        *state = after;
        let given = state.live_rules.pop();
        state.live_rules = live;
        if self.wrong == Wrong::LiveDroppedAtGrant {
            state.live_rules.clear();
        }
        state.live_rules.extend(given);
        true
    }

    /// The seals as the mutant sees them.
    fn seen(&self, mut sealed: [Option<Held>; MOST], chosen: usize) -> [Option<Held>; MOST] {
        if self.wrong == Wrong::LsnWithoutTimeline
            && let Some(line) = sealed[chosen].map(|held| held.line)
        {
            for held in sealed.iter_mut().flatten() {
                held.line = line;
            }
        }
        sealed
    }
}

impl Known {
    fn keep(&mut self, mut state: ClusterState) -> u32 {
        // What is for people only would keep equal truths apart.
        state.history.clear();
        let text = serde_json::to_string(&state).expect("a truth can be written");
        let next = self.truths.len() as u32;
        let number = *self.numbers.entry(text).or_insert(next);
        if number == next {
            self.truths.push(Arc::new(Truth::of(state)));
        }
        number
    }
}

impl Truth {
    fn of(state: ClusterState) -> Truth {
        let reign = state
            .reign
            .as_ref()
            .expect("there is a primary from the start");
        Truth {
            epoch: reign.epoch.0 as u8,
            holder: number_of(&reign.holder),
            is_granted: reign.phase == Phase::Granted,
            is_activated: reign.is_activated,
            live: state
                .live_rules
                .iter()
                .map(|rule| (rule.id.0 as u8, rule.epoch.0 as u8, content(rule)))
                .collect(),
            state,
        }
    }

    /// Member, life, parent epoch and start of one reign; and whether its fork is known.
    pub fn reign(&self, epoch: u8) -> Option<(usize, u8, u8, u8, bool)> {
        let entry = self.state.ledger.of_epoch(Epoch(u64::from(epoch)))?;
        Some((
            number_of(&entry.member),
            (entry.incarnation.0 - 1) as u8,
            (entry.parent.0 - 1) as u8,
            entry.start.0 as u8,
            entry.fork.is_some(),
        ))
    }
}

fn describe(member: usize, life: u8) -> Command {
    Command::Describe {
        member: member_name(member),
        addresses: Addresses::default(),
        tags: Tags::default(),
        incarnation: Some(incarnation(life)),
    }
}

fn grant(
    state: &ClusterState,
    member: usize,
    sealed: [Option<Held>; MOST],
    first: Content,
) -> Command {
    let epoch = state.epoch().next();
    let own = sealed[member].expect("the chosen one has sealed");
    Command::Grant(Box::new(Grant {
        epoch,
        member: member_name(member),
        incarnation: incarnation(own.life),
        timeline: state.ledger.highest().next(),
        parent: timeline(own.line),
        start: Lsn(u64::from(own.end)),
        first_rule: Rule {
            id: RuleId(state.last_rule.0 + 1),
            epoch,
            k: u32::from(first.k()),
            set: set(first),
        },
        sealed: (0..MOST)
            .filter_map(|other| Some(seal(other, sealed[other]?)))
            .collect(),
        live: state.live_rules.iter().map(|rule| rule.id).collect(),
        reason: String::new(),
        loss: None,
    }))
}
