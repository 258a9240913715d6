//! The simulated world: hosts with clocks, guards, daemons and PostgreSQLs; one queue of events.
//!
//! It runs the core's own functions unchanged. Nothing here decides anything; `member.rs`,
//! `actions.rs` and `leader.rs` are a small shell around `decide_member` and `decide_cluster`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::change::command::Founder;
use cluster_core::model::lease::{Granter, Holder, LeaderVote, Moment, Preset};
use cluster_core::model::state::Identity;
use cluster_core::model::view::{Durable, Seen};
use cluster_core::model::{
    ClusterId, ClusterState, Epoch, Generation, MemberKind, MemberName, NodeId, RequestId,
    Settings, Tags,
};

use crate::actions::{Doing, Work};
use crate::checks::Watch;
use crate::clocks::Clock;
use crate::coverage::Coverage;
use crate::faults::Plan;
use crate::kinds::Kind;
use crate::mistakes::Mutant;
use crate::network::{MS, Message, Micros, Network, SECOND};
use crate::postgres::{Postgres, Timelines};
use crate::raft::{RaftNode, Truth};
use crate::random::Random;

/// The longest a loop is away, for the granter's credit.
pub const TICK: Duration = Duration::from_millis(35);

/// The dead-man's switch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guard {
    pub armed: Option<Epoch>,
    pub deadline: Moment,
    pub kill_at: Moment,
    pub burnt: Epoch,
    pub timer_at: Option<Micros>,
}

/// What a daemon knows only as long as it lives.
#[derive(Clone, Debug, Default)]
pub struct Mind {
    pub doing: Option<Doing>,
    pub work: Option<Work>,
    pub seal: Option<cluster_core::model::member::SealReport>,
    pub is_prepared: bool,
    pub drained: Option<(RequestId, cluster_core::model::Lsn)>,
    pub done_request: Option<RequestId>,
    /// A Release under way, and when its answer is given up.
    pub releasing: Option<(Epoch, Micros)>,
    pub needs_rewind: bool,
    pub rewind_impossible: bool,
    /// Committed entries a leader had when it was first heard.
    pub current_from: Option<usize>,
    pub is_current: bool,
    pub is_dirty: bool,
    pub next_decision: Micros,
    pub next_renewal: Micros,
    pub next_report: Micros,
    pub last_reason: &'static str,
    /// X, for the newest rule proven.
    pub proven: Option<cluster_core::model::confirmation::Proven>,
    /// The newest rule by the newest confirmed renewal.
    pub confirmed_newest: Option<cluster_core::model::RuleId>,
    pub next_rule: Micros,
}

/// A confirmation round under way.
#[derive(Clone, Debug)]
pub struct Round {
    pub id: u64,
    pub vote: LeaderVote,
    pub from: usize,
    pub start: u32,
    pub epoch: Epoch,
    pub sent: Moment,
    pub acknowledged: u32,
}

/// What a leading daemon knows.
#[derive(Clone, Debug)]
pub struct Lead {
    pub granter: Granter,
    pub led_since: Duration,
    pub lease_set_at: Duration,
    pub reports: BTreeMap<MemberName, Seen>,
    pub arrived: BTreeMap<MemberName, Moment>,
    pub rounds: Vec<Round>,
    pub deciding: Option<(u32, Moment)>,
    pub next_decision: Micros,
    pub ended: Option<(Epoch, Moment)>,
    pub elect_asked: Option<Moment>,
    pub requests: BTreeMap<RequestId, (cluster_core::model::request::Step, Moment)>,
    pub grants: Vec<Moment>,
    pub last_verdict: &'static str,
    /// The wait is over since then; for a mutant.
    pub over_since: Option<Micros>,
}

impl Lead {
    pub fn new(now: Moment) -> Lead {
        Lead {
            granter: Granter::started(now),
            led_since: Duration::ZERO,
            lease_set_at: Duration::ZERO,
            reports: BTreeMap::new(),
            arrived: BTreeMap::new(),
            rounds: Vec::new(),
            deciding: None,
            next_decision: 0,
            ended: None,
            elect_asked: None,
            requests: BTreeMap::new(),
            grants: Vec::new(),
            last_verdict: "",
            over_since: None,
        }
    }

    /// What an earlier time as leader saw is old.
    pub fn forget(&mut self) {
        self.reports.clear();
        self.arrived.clear();
        self.rounds.clear();
        self.requests.clear();
        self.deciding = None;
    }
}

/// One host.
#[derive(Debug)]
pub struct Node {
    pub name: MemberName,
    pub kind: MemberKind,
    pub tags: Tags,
    pub id: NodeId,
    pub clock: Clock,
    /// The same, unless clocks may do as they like.
    pub guard_clock: Clock,
    pub host_up: bool,
    pub host_frozen: bool,
    pub daemon_up: bool,
    pub daemon_frozen: bool,
    /// Thawed a moment ago: its guard may need K_hard (DESIGN section 1).
    pub thawed_until: Micros,
    pub start: u32,
    pub raft: RaftNode,
    pub lead: Lead,
    pub durable: Durable,
    pub holder: Holder,
    pub mind: Mind,
    pub guard: Guard,
    pub postgres: Postgres,
    pub storage_stuck: Option<Micros>,
    pub inbox: Vec<Message>,
    /// Dies after so many steps of actions.
    pub dies_after_steps: Option<u32>,
}

/// What can happen next.
#[derive(Clone, Debug)]
pub enum Event {
    Tick,
    Deliver {
        to: usize,
        message: Message,
    },
    Guard {
        node: usize,
    },
    Fault,
    StartDaemon {
        node: usize,
    },
    StartHost {
        node: usize,
    },
    Thaw {
        node: usize,
        host: bool,
    },
    Unwedge {
        node: usize,
    },
    StorageWorks {
        node: usize,
    },
    HealNetwork,
    Resume,
    /// A clock breaks.
    Jump,
    /// An operator changes who confirms commits.
    Change,
}

#[derive(Debug)]
struct Due {
    at: Micros,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything.
pub struct World {
    pub now: Micros,
    pub kind: Kind,
    /// The settings of its beginning.
    pub home: Settings,
    /// Operators change who confirms commits; whether it may be nobody.
    pub changes: Option<bool>,
    pub random: Random,
    pub names: Vec<MemberName>,
    pub nodes: Vec<Node>,
    pub network: Network,
    pub truth: Truth,
    pub timelines: Timelines,
    pub coverage: Coverage,
    pub mutant: Mutant,
    pub watch: Watch,
    pub plan: Plan,
    pub next_round: u64,
    pub next_number: u32,
    pub activated: BTreeSet<Epoch>,
    /// Who holds the newest committed reign.
    pub holder: Option<usize>,
    pub violations: Vec<String>,
    pub trace: Option<Vec<String>>,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
}

/// Who takes part and how.
#[derive(Clone, Debug)]
pub struct Setup {
    pub kind: Kind,
    pub databases: usize,
    pub has_witness: bool,
    pub preset: Preset,
    pub tags: Vec<Tags>,
    /// Members that bring a data directory.
    pub brings: usize,
    /// Who confirms commits.
    pub k: u32,
    pub k_min: u32,
    /// The zone of each member, by its place.
    pub zones: BTreeMap<usize, u8>,
    /// Operators change who confirms commits, and may make it nobody.
    pub changes: bool,
    pub may_be_async: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            kind: Kind::ASYNC,
            databases: 3,
            has_witness: false,
            preset: Preset::Fast,
            tags: Vec::new(),
            brings: 0,
            k: 1,
            k_min: 1,
            zones: BTreeMap::new(),
            changes: false,
            may_be_async: false,
        }
    }
}

impl World {
    pub fn new(seed: u64, setup: &Setup, mutant: Mutant) -> World {
        let mut random = Random::new(seed);
        let mut nodes = Vec::new();
        let count = setup.databases + usize::from(setup.has_witness);
        for place in 0..count {
            nodes.push(new_node(place, setup, &mut random));
        }
        let names: Vec<MemberName> = nodes.iter().map(|node| node.name.clone()).collect();
        let voters = nodes.iter().map(|node| node.id).collect();
        let truth = Truth {
            states: vec![Rc::default()],
            voters,
            ..Truth::default()
        };
        let home = settings_of(setup, &names);
        let mut world = World {
            now: SECOND,
            kind: setup.kind,
            home,
            changes: setup.changes.then_some(setup.may_be_async),
            random,
            names,
            nodes,
            network: Network::new(count),
            truth,
            timelines: Timelines::default(),
            coverage: Coverage::default(),
            mutant,
            watch: Watch::new(count),
            plan: Plan {
                writes: 100,
                ..Plan::default()
            },
            next_round: 0,
            next_number: 1,
            activated: BTreeSet::new(),
            holder: None,
            violations: Vec::new(),
            trace: None,
            queue: BinaryHeap::new(),
            order: 0,
        };
        world.form();
        world.after(MS, Event::Tick);
        world
    }

    /// The group forms with its first entry on every member.
    fn form(&mut self) {
        let founders = self
            .nodes
            .iter()
            .map(|node| Founder {
                name: node.name.clone(),
                node: node.id,
                kind: node.kind,
                peer: String::new(),
            })
            .collect();
        let form = Command::Form {
            identity: Identity {
                id: ClusterId("sim".to_owned()),
                name: "sim".parse().expect("a good name"),
                generation: Generation(1),
            },
            members: founders,
            settings: Box::new(self.home.clone()),
        };
        let vote = LeaderVote {
            term: 1,
            node: self.nodes[0].id.0,
        };
        for node in &mut self.nodes {
            node.raft.ballot = Some(vote);
            node.raft.highest_term = 1;
        }
        self.nodes[0].raft.leading = Some(vote);
        let place = self.propose(0, form).expect("it leads");
        for node in 1..self.nodes.len() {
            self.nodes[node].raft.log.push(place);
        }
        self.become_leader(0, vote);
    }

    pub fn after(&mut self, delay: Micros, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Due {
            at: self.now + delay,
            order: self.order,
            event,
        }));
    }

    /// Runs until `end`, or until something is violated.
    pub fn run_until(&mut self, end: Micros) {
        while self.violations.is_empty() {
            let is_due = self.queue.peek().is_some_and(|Reverse(due)| due.at <= end);
            if !is_due {
                self.now = self.now.max(end);
                return;
            }
            let Some(Reverse(due)) = self.queue.pop() else {
                return;
            };
            self.now = due.at;
            self.happen(due.event);
            self.check_safety();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Deliver { to, message } => self.deliver(to, message),
            Event::Guard { node } => {
                self.nodes[node].guard.timer_at = None;
                self.mind_guard(node);
            }
            Event::Fault => self.next_fault(),
            Event::StartDaemon { node } => self.start_daemon(node),
            Event::StartHost { node } => self.start_host(node),
            Event::Thaw { node, host } => self.thaw(node, host),
            Event::Unwedge { node } => self.nodes[node].postgres.wedged_since = None,
            Event::StorageWorks { node } => self.nodes[node].storage_stuck = None,
            Event::HealNetwork => self.network.heal(),
            Event::Jump => self.next_jump(),
            Event::Change => self.next_change(),
            Event::Resume => self.operator(Command::Resume {
                by: "sim".to_owned(),
            }),
        }
    }

    fn tick(&mut self) {
        let next = self.random.between(15 * MS, 35 * MS);
        self.after(next, Event::Tick);
        for node in 0..self.nodes.len() {
            let host = &self.nodes[node];
            if !host.host_up || host.host_frozen {
                continue;
            }
            self.advance_postgres(node);
            if self.answers(node) {
                self.daemon_turn(node);
            }
        }
        self.stream_wal();
    }

    /// Sends; the network may lose it.
    pub fn send(&mut self, from: usize, to: usize, message: Message) {
        if let Some(delay) = self.network.delay(&mut self.random, from, to) {
            self.after(delay, Event::Deliver { to, message });
        }
    }

    fn deliver(&mut self, to: usize, message: Message) {
        let host = &mut self.nodes[to];
        if !host.host_up || !host.daemon_up {
            return;
        }
        if host.host_frozen || host.daemon_frozen {
            host.inbox.push(message);
            return;
        }
        self.receive(to, message);
    }

    pub fn local(&self, node: usize) -> Moment {
        self.nodes[node].clock.read(self.now)
    }

    /// What the guard's clock shows.
    pub fn local_of_guard(&self, node: usize) -> Moment {
        self.nodes[node].guard_clock.read(self.now)
    }

    /// The truth as applied at this member.
    pub fn state_of(&self, node: usize) -> &Rc<ClusterState> {
        &self.truth.states[self.nodes[node].raft.applied]
    }

    /// Its daemon works.
    pub fn answers(&self, node: usize) -> bool {
        let host = &self.nodes[node];
        host.host_up && !host.host_frozen && host.daemon_up && !host.daemon_frozen
    }

    pub fn index_of(&self, name: &MemberName) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    pub fn violated(&mut self, what: &str) {
        let text = format!("at {:.3} s: {what}", self.now as f64 / SECOND as f64);
        self.say_world(|| format!("VIOLATION {text}"));
        self.violations.push(text);
    }

    /// One line of the trace about a member.
    pub fn say(&mut self, node: usize, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let seconds = self.now as f64 / SECOND as f64;
            trace.push(format!("{seconds:8.3} {}: {}", self.names[node], text()));
        }
    }

    pub fn say_world(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let seconds = self.now as f64 / SECOND as f64;
            trace.push(format!("{seconds:8.3} world: {}", text()));
        }
    }

    /// The member that is primary in truth and open to clients, if any.
    pub fn open_primary(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|node| {
            let host = &self.nodes[*node];
            host.host_up
                && !host.host_frozen
                && host.postgres.wedged_since.is_none()
                && host.postgres.dies_at.is_none()
                && host
                    .postgres
                    .writable()
                    .is_some_and(|writable| writable.is_open)
        })
    }
}

fn settings_of(setup: &Setup, names: &[MemberName]) -> Settings {
    let zone = |(place, zone): (&usize, &u8)| (names[*place].clone(), format!("zone{zone}"));
    Settings {
        preset: setup.preset,
        mode: setup.kind.mode,
        k: setup.k,
        k_min: setup.k_min,
        zones: setup.zones.iter().map(zone).collect(),
        ..Settings::default()
    }
}

fn new_node(place: usize, setup: &Setup, random: &mut Random) -> Node {
    let is_witness = place >= setup.databases;
    let name = if is_witness {
        "w"
    } else {
        ["a", "b", "c", "d", "e"][place]
    };
    let mut postgres = Postgres::empty();
    if place < setup.brings {
        postgres.data = Some(crate::postgres::first_data(6_900_000_000 + place as u64));
    }
    let clock = Clock::new(random.between(995_000, 1_005_000));
    Node {
        name: name.parse().expect("a good name"),
        kind: if is_witness {
            MemberKind::Witness
        } else {
            MemberKind::Database
        },
        tags: setup.tags.get(place).cloned().unwrap_or_default(),
        id: NodeId(place as u64 + 1),
        clock,
        guard_clock: clock,
        host_up: true,
        host_frozen: false,
        daemon_up: true,
        daemon_frozen: false,
        thawed_until: 0,
        start: 1,
        raft: RaftNode {
            patience: 400 * MS,
            last_heard: SECOND,
            ..RaftNode::default()
        },
        lead: Lead::new(clock.read(SECOND)),
        durable: Durable::default(),
        holder: Holder::default(),
        mind: Mind::default(),
        guard: Guard::default(),
        postgres,
        storage_stuck: None,
        inbox: Vec::new(),
        dies_after_steps: None,
    }
}
