//! A hand-made board, a lease and a proposer, and both listeners over them; no Raft, no PostgreSQL.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use cluster_core::change::command::{COMMAND_VERSION, Founder, Grant};
use cluster_core::change::{Command, Stamp, apply};
use cluster_core::model::confirmation::{Proven, StandbySeen, SyncReport};
use cluster_core::model::lease::{Holder, Moment, Preset};
use cluster_core::model::postgres::{Primary, Receiver, Sender, Standby, Stopped};
use cluster_core::model::request::Step;
use cluster_core::model::settings::Mode;
use cluster_core::model::state::Identity;
use cluster_core::model::view::Seen;
use cluster_core::model::*;
use clusterd::api::{Collected, Listeners, LocalControl, Options, Parts};
use clusterd::board::{
    Board, Candidate, Foresight, LeaseView, Propose, ProposeError, RaftBoard, Tried, TrySettings,
    VerdictLine,
};
use clusterd::exchange::{
    AgedVerdict, MergedView, NotLeader, PeerBackend, RenewAnswer, RenewRequest,
};
use clusterd::secret::{AdminToken, ClusterSecret};
use clusterd::tls::Tls;
use tokio::sync::watch;

pub const TOKEN: &str = "open sesame";
pub const SECRET: &[u8] = b"0123456789abcdef";
/// The moment at which every test's clock stands.
pub const NOW: Moment = Moment(Duration::from_secs(1000));

pub fn name(text: &str) -> MemberName {
    text.parse().expect("member name")
}

pub fn identity() -> Identity {
    Identity {
        id: ClusterId("c0ffee".to_owned()),
        name: "batman".parse().expect("cluster name"),
        generation: Generation(1),
    }
}

fn lives(member: &str) -> Incarnation {
    Incarnation(u32::from(member.as_bytes()[0]))
}

fn addresses(member: &str) -> Addresses {
    let host = u32::from(member.as_bytes()[0] - b'a') + 1;
    Addresses {
        peer: format!("10.0.0.{host}:8009"),
        http: format!("10.0.0.{host}:8008"),
        postgres: format!("10.0.0.{host}:5432"),
    }
}

/// Applies a command as if it were the next log entry.
pub fn step(state: &mut ClusterState, index: &mut u64, command: Command) {
    *index += 1;
    let stamp = Stamp {
        version: COMMAND_VERSION,
        at_unix_ms: 1_795_304_110_000 + *index,
        command,
    };
    apply(state, *index, &stamp).expect("a valid story");
}

/// Members a and b with data, w a witness; `primary` holds epoch 1, activated, on timeline 2.
pub fn story(primary: &str) -> (ClusterState, u64) {
    let (mut state, mut index) = (ClusterState::default(), 0);
    let founder = |member: &str, node, kind| Founder {
        name: name(member),
        node: NodeId(node),
        kind,
        peer: addresses(member).peer,
    };
    let members = vec![
        founder("a", 1, MemberKind::Database),
        founder("b", 2, MemberKind::Database),
        founder("w", 3, MemberKind::Witness),
    ];
    let settings = Box::new(Settings {
        mode: Mode::Async,
        ..Settings::default()
    });
    step(
        &mut state,
        &mut index,
        Command::Form {
            identity: identity(),
            members,
            settings,
        },
    );
    for member in ["a", "b"] {
        let incarnation = Some(lives(member));
        let (addresses, tags) = (addresses(member), Tags::default());
        let describe = Command::Describe {
            member: name(member),
            addresses,
            tags,
            incarnation,
        };
        step(&mut state, &mut index, describe);
    }
    let member = name(primary);
    step(
        &mut state,
        &mut index,
        Command::Initialize {
            member: member.clone(),
        },
    );
    let made = Command::Initialized {
        member: member.clone(),
        system_identifier: 77,
        timeline: TimelineId(1),
    };
    step(&mut state, &mut index, made);
    let grant = Grant {
        epoch: Epoch(1),
        member: member.clone(),
        incarnation: lives(primary),
        timeline: TimelineId(2),
        parent: TimelineId(1),
        start: Lsn(0x300_0000),
        first_rule: Rule {
            id: RuleId(1),
            epoch: Epoch(1),
            k: 0,
            set: BTreeMap::new(),
        },
        sealed: Vec::new(),
        live: Vec::new(),
        reason: "first-primary".to_owned(),
        loss: None,
    };
    step(&mut state, &mut index, Command::Grant(Box::new(grant)));
    let promoted = Command::Promoted {
        epoch: Epoch(1),
        member,
        fork: Lsn(0x300_0060),
    };
    step(&mut state, &mut index, promoted);
    let activate = Command::Activate {
        epoch: Epoch(1),
        rule: RuleId(1),
        at: Lsn(0x300_0060),
        by: BTreeMap::new(),
    };
    step(&mut state, &mut index, activate);
    (state, index)
}

/// Makes a rule that names member a the activated one.
pub fn with_rule(state: &mut ClusterState, k: u32, also: &[&str]) {
    let set = also
        .iter()
        .chain(&["a"])
        .map(|member| (name(member), lives(member)))
        .collect();
    state.live_rules = vec![Rule {
        id: RuleId(2),
        epoch: Epoch(1),
        k,
        set,
    }];
}

/// Mode sync on a board where a is primary: rule 2 wants b, and b confirms.
pub fn in_sync(mut board: Board) -> Board {
    let mut state = (*board.state).clone();
    state.settings.mode = Mode::Sync;
    state.live_rules = vec![Rule {
        id: RuleId(2),
        epoch: Epoch(1),
        k: 1,
        set: BTreeMap::from([(name("b"), lives("b"))]),
    }];
    state.last_rule = RuleId(2);
    board.state = Arc::new(state);
    board.own.sync = Some(SyncReport {
        epoch: Epoch(1),
        started_unix_ms: 1_795_304_110_123,
        given: RuleId(2),
        proven: Some(Proven {
            rule: RuleId(2),
            x: Lsn(0x3ff_0000),
        }),
        unusable: None,
        standbys: vec![StandbySeen {
            member: name("b"),
            incarnation: lives("b"),
            is_connected: true,
            proven_for_ms: Some(60_000),
            late_for_ms: Some(120),
            has_failed: false,
        }],
    });
    board
}

pub fn primary() -> PostgresStatus {
    PostgresStatus::Primary(Primary {
        timeline: TimelineId(2),
        flushed: Lsn(0x400_0000),
        fork: Some(Lsn(0x300_0060)),
        is_open: true,
        has_signal: true,
        sync_names: String::new(),
        senders: vec![Sender {
            application_name: "b~00000062~1".to_owned(),
            user: "replicator".to_owned(),
            client: "10.0.0.2".to_owned(),
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
            sync_priority: 0,
            sent: Lsn(0x400_0000),
            flushed: Lsn(0x400_0000),
            replayed: Lsn(0x400_0000),
            started_unix_ms: 1_795_304_110_000,
            slot: Some("clusterd_b".to_owned()),
            pid: 4711,
        }],
        prepared_transactions: 0,
        oldest_transaction_ms: 0,
        oldest_wal: None,
        started_unix_ms: 1_795_304_110_123,
    })
}

pub fn standby(is_streaming: bool, replayed: u64) -> PostgresStatus {
    PostgresStatus::Standby(Standby {
        timeline: TimelineId(2),
        received: Some(Lsn(0x3ff_0000)),
        replayed: Lsn(replayed),
        replay_delay_ms: Some(3),
        replayed_at_unix_ms: Some(1_795_304_110_500),
        replay_paused: false,
        replay_is_held: false,
        has_too_little: false,
        is_out_of_wal: false,
        has_frozen_receiver: false,
        unattached_for_ms: None,
        receiver: Some(Receiver {
            pid: 1,
            is_streaming,
            timeline: TimelineId(2),
            flushed: Lsn(0x3ff_0000),
            latest_end: Lsn(0x400_0000),
        }),
        at_end_of_wal: true,
        follows: None,
        started_unix_ms: 1_795_304_110_123,
    })
}

pub fn stopped() -> PostgresStatus {
    PostgresStatus::Stopped(Stopped {
        clean: true,
        was_in_recovery: true,
        checkpoint_timeline: TimelineId(2),
        checkpoint: Lsn(0x3ff_0000),
        min_recovery_end: Lsn(0x3ff_0000),
        min_recovery_timeline: Some(TimelineId(2)),
        has_signal: true,
    })
}

pub fn report(member: &str, node: u64, postgres: PostgresStatus) -> MemberReport {
    MemberReport {
        member: name(member),
        node: NodeId(node),
        daemon_start: "boot/1".to_owned(),
        version: "0.1.0".to_owned(),
        addresses: addresses(member),
        tags: Tags::default(),
        incarnation: Some(lives(member)),
        system_identifier: Some(77),
        server_version: Some(150_020),
        postgres,
        min_epoch: Epoch(1),
        used: Epoch(1),
        seal: None,
        set_is_empty: false,
        lease_left_ms: None,
        applied_index: 9,
        not_promotable: Vec::new(),
        health: Default::default(),
        busy: None,
        hears: Vec::new(),
        drained: None,
        done_request: None,
        sync: None,
        checkpointed: Epoch(1),
        verdict: "all is well".to_owned(),
    }
}

/// Member a's board in the story where `primary` is primary; a's PostgreSQL is `own`.
pub fn board(primary_name: &str, own: PostgresStatus) -> Board {
    let (state, applied_index) = story(primary_name);
    let other = if primary_name == "b" {
        primary()
    } else {
        standby(true, 0x3ff_0000)
    };
    let seen = |report| Seen {
        report,
        age: Duration::from_millis(100),
    };
    let reports = [
        seen(report("b", 2, other)),
        seen(report("w", 3, PostgresStatus::Empty)),
    ];
    Board {
        me: name("a"),
        state: Arc::new(state),
        applied_index,
        times: Preset::Lan.times(),
        raft: RaftBoard {
            me: Some(NodeId(1)),
            term: 4,
            leader: Some(NodeId(3)),
            voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            renewals_refused: 5,
            elections_won: 2,
            ..RaftBoard::default()
        },
        own: report("a", 1, own),
        refreshed_at: NOW,
        postgres_answered_at: Some(NOW.before(Duration::from_millis(200))),
        reports: Arc::new(
            reports
                .into_iter()
                .map(|seen| (seen.report.member.clone(), seen))
                .collect(),
        ),
        merged_at: NOW,
        verdicts: vec![VerdictLine {
            rule: "failover".to_owned(),
            code: "primary-healthy".to_owned(),
            text: "the primary renews its lease".to_owned(),
            since: NOW.before(Duration::from_secs(7)),
        }],
        not_granted: vec!["real-time priority".to_owned()],
        last_failover: Some(Duration::from_millis(2500)),
        failovers: BTreeMap::from([("primary-silent".to_owned(), 1)]),
        callbacks: Vec::new(),
    }
}

/// A lease of epoch 1 with this much left.
pub fn lease_left(left: Duration) -> Holder {
    Holder {
        epoch: Epoch(1),
        valid_until: NOW.after(left),
        renewed_at: NOW,
    }
}

/// What the tests put in place of Raft, the loops and the lease thread.
pub struct World {
    pub board: watch::Sender<Arc<Board>>,
    pub holder: Mutex<Holder>,
    pub proposed: Mutex<Vec<Command>>,
    pub answer: Mutex<Script>,
    /// Files of snapshots.
    pub snapshots: tempfile::TempDir,
}

/// How a proposal goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Applied; a request then runs its course and ends as asked.
    Succeeds,
    /// Applied; a request then fails.
    Fails,
    /// Applied; a request stays open.
    Hangs,
    NoLeader,
    Unknown,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}

impl World {
    pub fn new(board: Board) -> Arc<World> {
        Arc::new(World {
            board: watch::channel(Arc::new(board)).0,
            holder: Mutex::new(lease_left(Duration::from_secs(2))),
            proposed: Mutex::default(),
            answer: Mutex::new(Script::Succeeds),
            snapshots: tempfile::tempdir().expect("a directory"),
        })
    }

    pub fn show(&self, board: Board) {
        self.board.send_replace(Arc::new(board));
    }

    pub fn now(&self) -> Arc<Board> {
        Arc::clone(&self.board.borrow())
    }

    fn apply(&self, command: Command) -> Result<(), cluster_core::change::Rejected> {
        let mut board = (*self.now()).clone();
        let mut state = (*board.state).clone();
        board.applied_index += 1;
        let stamp = Stamp {
            version: COMMAND_VERSION,
            at_unix_ms: 1,
            command,
        };
        apply(&mut state, board.applied_index, &stamp)?;
        board.state = Arc::new(state);
        self.show(board);
        Ok(())
    }

    /// A switchover as the loops would carry it out, on the state alone.
    fn move_primary(&self, to: &MemberName) {
        let mut board = (*self.now()).clone();
        let mut state = (*board.state).clone();
        if let Some(reign) = &mut state.reign {
            reign.epoch = reign.epoch.next();
            reign.holder = to.clone();
        }
        board.state = Arc::new(state);
        self.show(board);
    }
}

impl LeaseView for World {
    fn holder(&self) -> Holder {
        *lock(&self.holder)
    }

    fn now(&self) -> Moment {
        NOW
    }

    fn first_renewal(&self) -> Option<Duration> {
        Some(Duration::from_millis(120))
    }
}

#[async_trait]
impl Propose for World {
    async fn propose(&self, command: Command) -> Result<(), ProposeError> {
        let script = *lock(&self.answer);
        match script {
            Script::NoLeader => return Err(ProposeError::NoLeader("nobody answers".to_owned())),
            Script::Unknown => return Err(ProposeError::Unknown),
            Script::Succeeds | Script::Fails | Script::Hangs => {}
        }
        let before = self.now().state.requests.len();
        self.apply(command.clone())
            .map_err(ProposeError::Rejected)?;
        lock(&self.proposed).push(command.clone());
        let Command::Ask { id, kind, .. } = command else {
            return Ok(());
        };
        if self.now().state.requests.len() == before {
            return Ok(());
        }
        let to = match &kind {
            RequestKind::Switchover { to: Some(to) } | RequestKind::Failover { to } => to.clone(),
            _ => name("b"),
        };
        let outcome = match script {
            Script::Succeeds => RequestOutcome::Done {
                text: "as asked".to_owned(),
            },
            Script::Fails => RequestOutcome::Failed {
                why: "it did not want to".to_owned(),
            },
            _ => return Ok(()),
        };
        if kind.moves_primary() {
            let step = Step::Prepare { to: to.clone() };
            self.apply(Command::Step {
                id: id.clone(),
                step,
            })
            .map_err(ProposeError::Rejected)?;
            if script == Script::Succeeds {
                self.move_primary(&to);
            }
        }
        self.apply(Command::End { id, outcome })
            .map_err(ProposeError::Rejected)
    }
}

#[async_trait]
impl LocalControl for World {
    async fn leave(&self, by: &str, _limit: Duration) -> Result<String, String> {
        Ok(format!("left for {by}"))
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        if level == "nonsense!" {
            Err("not a filter".to_owned())
        } else {
            Ok(())
        }
    }

    async fn collect(&self, mut also: Vec<(String, String)>) -> Collected {
        also.push(("config.toml".to_owned(), "name = \"a\"\n".to_owned()));
        Collected {
            files: also,
            problems: vec!["no control data".to_owned()],
        }
    }
}

impl Foresight for World {
    fn explain(&self, _board: &Board) -> Vec<(String, String)> {
        vec![(
            "would-grant".to_owned(),
            "b would become primary".to_owned(),
        )]
    }

    fn candidates(&self, board: &Board) -> Vec<Candidate> {
        let holder = board.state.granted().map(|reign| reign.holder.clone());
        board
            .state
            .databases()
            .filter(|(member, _)| Some(*member) != holder.as_ref())
            .map(|(member, _)| Candidate {
                member: member.clone(),
                reasons: Vec::new(),
            })
            .collect()
    }
}

#[async_trait]
impl TrySettings for World {
    async fn try_settings(&self, settings: &Settings) -> Tried {
        let mut tried = Tried::default();
        for problem in PeerBackend::try_parameters(self, settings.clone()).await {
            tried.problems.push(format!("a: {problem}"));
        }
        tried
            .not_tried
            .push("not tried on b: it is away".to_owned());
        tried
    }
}

#[async_trait]
impl PeerBackend for World {
    /// A PostgreSQL that knows one parameter.
    async fn try_parameters(&self, settings: Settings) -> Vec<String> {
        let unknown = settings
            .parameters
            .keys()
            .filter(|name| *name != "work_mem");
        unknown
            .map(|name| format!("unrecognized configuration parameter \"{name}\""))
            .collect()
    }

    async fn report(&self, report: MemberReport) -> Result<MergedView, NotLeader> {
        if *lock(&self.answer) == Script::NoLeader {
            let why = "a follows w".to_owned();
            return Err(NotLeader {
                leader: Some(name("w")),
                why,
            });
        }
        let now = NOW;
        let board = self.now();
        let age = Duration::from_millis(1);
        Ok(MergedView {
            leader: board.me.clone(),
            term: board.raft.term,
            reports: BTreeMap::from([(report.member.clone(), Seen { report, age })]),
            verdicts: board
                .verdicts
                .iter()
                .map(|line| AgedVerdict::of(line, now))
                .collect(),
            last_failover: board.last_failover,
            failovers: board.failovers.clone(),
            applied_index: board.applied_index,
            asked_to_lead: None,
        })
    }

    async fn propose(&self, _from: MemberName, command: Command) -> Result<(), ProposeError> {
        Propose::propose(self, command).await
    }

    async fn renew(&self, request: RenewRequest) -> RenewAnswer {
        if request.epoch == Epoch(1) {
            let lease = Duration::from_millis(3000);
            return RenewAnswer::Confirmed {
                lease,
                newest_rule: RuleId(1),
            };
        }
        RenewAnswer::Refused {
            code: "wrong-epoch".to_owned(),
            newer_epoch: Some(Epoch(1)),
            leader: Some(name("w")),
        }
    }
}

/// Both listeners over a world.
pub struct Running {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

pub async fn serve(world: &Arc<World>, token: Option<&str>, tls: Option<Tls>) -> Running {
    let options = Options {
        http: "127.0.0.1:0".to_owned(),
        grpc: "127.0.0.1:0".to_owned(),
        tls,
        token: token.map(AdminToken::new),
        secret: ClusterSecret::new(SECRET),
    };
    let listeners = Listeners::open(&options).await.expect("two free ports");
    let (http, grpc) = listeners.addresses().expect("bound");
    let (stop, stopping) = watch::channel(false);
    let parts = Parts {
        board: world.board.subscribe(),
        lease: world.clone(),
        propose: world.clone(),
        peer: world.clone(),
        try_settings: world.clone(),
        local: world.clone(),
        foresight: world.clone(),
        backups: None,
        snapshots: clusterd::api::snapshots::Shelf {
            folder: world.snapshots.path().to_owned(),
            recipients: Vec::new(),
        },
        extend: Box::new(|_| {}),
    };
    tokio::spawn(async move {
        listeners
            .serve(options, parts, stopping)
            .await
            .expect("serves until it is stopped");
    });
    Running { http, grpc, stop }
}
