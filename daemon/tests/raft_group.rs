//! Members of one group in one process: real stores, real gRPC over loopback, no PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::change::command::Grant;
use cluster_core::model::lease::{LeaseTimes, Preset};
use cluster_core::model::member::SealReport;
use cluster_core::model::settings::Mode;
use cluster_core::model::state::Identity as ClusterIdentity;
use cluster_core::model::{
    ClusterId, Epoch, Generation, Incarnation, Lsn, MemberKind, MemberName, NodeId, Rule, RuleId,
    Settings, TimelineId,
};
use clusterd::api;
use clusterd::raft::{
    self, ClusterSecret, ClusterStore, DataDir, GroupStatus, Inbox, LinkFaults, ListedMember,
    ProposeError, RaftOptions, RenewRefused, StartError,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &[u8] = b"a secret of the tests only";

/// Polls until `look` finds something; says what it last saw when it gives up.
async fn wait_until<T, S: Debug>(what: &str, mut look: impl FnMut() -> Result<T, S>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > until => panic!("{what}: last saw {seen:?}"),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Links that lose messages.
#[derive(Default)]
struct Cuts(Mutex<BTreeSet<(u64, u64)>>);

impl LinkFaults for Cuts {
    fn delivers(&self, from: u64, to: u64) -> bool {
        !self.0.lock().unwrap().contains(&(from, to))
    }
}

impl Cuts {
    fn cut(&self, from: u64, to: u64) {
        self.0.lock().unwrap().insert((from, to));
    }

    fn cut_both(&self, a: u64, b: u64) {
        self.cut(a, b);
        self.cut(b, a);
    }

    fn heal(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// One place where a member may run.
struct Host {
    name: MemberName,
    address: SocketAddr,
    folder: PathBuf,
    running: Option<Running>,
}

struct Running {
    server: JoinHandle<()>,
    end_server: tokio::sync::oneshot::Sender<()>,
    inbox: Inbox,
    starting: Option<JoinHandle<Result<ClusterStore, StartError>>>,
    store: Option<ClusterStore>,
}

struct Group {
    hosts: Vec<Host>,
    cuts: Arc<Cuts>,
    failures: Arc<Mutex<Vec<String>>>,
    times: LeaseTimes,
    data_dirs: BTreeMap<String, DataDir>,
    snapshot_every: u64,
    _folder: TempDir,
}

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

impl Group {
    /// Hosts `a`, `b`, … with empty disks, nothing running.
    async fn of(count: usize) -> Group {
        // `RUST_LOG=openraft=info,clusterd=debug` shows what happened.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(
                std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned()),
            ))
            .with_writer(std::io::stderr)
            .try_init();
        let folder = tempfile::tempdir().unwrap();
        let mut hosts = Vec::new();
        for place in 0..count {
            let text = char::from(b'a' + u8::try_from(place).unwrap()).to_string();
            // The port is free again when the listener is dropped.
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            hosts.push(Host {
                name: name(&text),
                address: listener.local_addr().unwrap(),
                folder: folder.path().join(text),
                running: None,
            });
        }
        Group {
            hosts,
            cuts: Arc::default(),
            failures: Arc::default(),
            // The slowest preset: the tests must not fail because the machine is busy.
            times: Preset::Wan.times(),
            data_dirs: BTreeMap::new(),
            snapshot_every: 500,
            _folder: folder,
        }
    }

    /// As [`Group::of`], formed.
    async fn formed(count: usize) -> Group {
        let mut group = Group::of(count).await;
        group.start_all().await;
        group
    }

    async fn start_all(&mut self) {
        for place in 0..self.hosts.len() {
            self.launch(place).await;
        }
        for place in 0..self.hosts.len() {
            self.started(place).await;
        }
    }

    fn list(&self) -> Vec<ListedMember> {
        self.hosts
            .iter()
            .map(|host| ListedMember {
                name: host.name.clone(),
                address: host.address.to_string(),
                kind: MemberKind::Database,
            })
            .collect()
    }

    async fn launch(&mut self, place: usize) {
        let list = self.list();
        self.launch_with(place, list).await;
    }

    async fn launch_with(&mut self, place: usize, members: Vec<ListedMember>) {
        let host = &mut self.hosts[place];
        assert!(host.running.is_none());
        let inbox = Inbox::new(ClusterSecret::new(SECRET));
        let listener = TcpListener::bind(host.address).await.unwrap();
        let service = api::raft::service(inbox.clone());
        let (end_server, ended) = tokio::sync::oneshot::channel();
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .tcp_nodelay(true)
                .add_service(service)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                    let _ = ended.await;
                })
                .await
                .unwrap();
        });
        let failures = Arc::clone(&self.failures);
        let options = RaftOptions {
            directory: host.folder.clone(),
            member: host.name.clone(),
            members,
            accept_no_failover: false,
            data_dir: self
                .data_dirs
                .get(host.name.as_str())
                .copied()
                .unwrap_or(DataDir::Empty),
            tls: None,
            times: self.times,
            on_failure: Arc::new(move |why| failures.lock().unwrap().push(why.to_owned())),
            faults: Some(Arc::clone(&self.cuts) as Arc<dyn LinkFaults>),
            snapshot_every: self.snapshot_every,
            keep_entries: 20,
        };
        let starting = Some(tokio::spawn(raft::start(options, inbox.clone())));
        host.running = Some(Running {
            server,
            end_server,
            inbox,
            starting,
            store: None,
        });
    }

    async fn started(&mut self, place: usize) {
        let running = self.hosts[place].running.as_mut().unwrap();
        let starting = running.starting.take().unwrap();
        let store = timeout(LIMIT, starting).await.unwrap_or_else(|_| {
            panic!(
                "member {place} does not start: {:?}",
                *running.inbox.status().borrow()
            )
        });
        running.store = Some(store.unwrap().unwrap());
    }

    fn store(&self, place: usize) -> &ClusterStore {
        self.hosts[place]
            .running
            .as_ref()
            .unwrap()
            .store
            .as_ref()
            .unwrap()
    }

    fn stores(&self) -> impl Iterator<Item = (usize, &ClusterStore)> {
        self.hosts.iter().enumerate().filter_map(|(place, host)| {
            host.running
                .as_ref()
                .and_then(|running| running.store.as_ref())
                .map(|s| (place, s))
        })
    }

    async fn stop(&mut self, place: usize) {
        let running = self.hosts[place].running.take().unwrap();
        if let Some(starting) = running.starting {
            starting.abort();
            let _ = starting.await;
        }
        running.inbox.detach();
        // Closes the connections too: a process that ends would.
        let _ = running.end_server.send(());
        timeout(LIMIT, running.server).await.unwrap().unwrap();
        if let Some(store) = running.store {
            store.shutdown().await;
        }
    }

    /// The place of a leader that is ready, among `places`.
    async fn leader_among(&self, places: &[usize]) -> usize {
        wait_until("a ready leader", || {
            let roles: Vec<_> = self
                .stores()
                .filter(|(place, _)| places.contains(place))
                .map(|(place, store)| (place, store.role().borrow().clone()))
                .collect();
            roles
                .iter()
                .find(|(_, role)| role.is_ready && !role.is_silent)
                .map(|(place, _)| *place)
                .ok_or(roles)
        })
        .await
    }

    /// Something is committed by a leader among `places`; a busy machine may change it meanwhile.
    async fn commit_among(&self, places: &[usize]) {
        let until = Instant::now() + LIMIT;
        loop {
            let leader = self.leader_among(places).await;
            match self.store(leader).propose(Command::SettleLease).await {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < until, "nothing is committed: {error}"),
            }
        }
    }

    async fn leader(&self) -> usize {
        let all: Vec<usize> = (0..self.hosts.len()).collect();
        self.leader_among(&all).await
    }

    fn others(&self, place: usize) -> Vec<usize> {
        (0..self.hosts.len())
            .filter(|other| *other != place)
            .collect()
    }

    fn node(&self, place: usize) -> u64 {
        self.store(place).identity().node_id
    }

    async fn all_applied(&self, index: u64) {
        for (place, store) in self.stores() {
            wait_until("everybody applies", || {
                let at = store.state().index;
                if at >= index {
                    Ok(())
                } else {
                    Err((place, at, index))
                }
            })
            .await;
        }
    }
}

/// Writes `Form` and a grant of epoch 1 to `a`, so that `a` may renew.
async fn grant_to_a(leader: &ClusterStore) {
    let identity = leader.identity();
    let members = leader
        .nodes()
        .into_iter()
        .map(|(node, peer)| cluster_core::change::command::Founder {
            name: name(&peer.name),
            node: NodeId(node),
            kind: MemberKind::Database,
            peer: peer.address,
        })
        .collect();
    let form = Command::Form {
        identity: ClusterIdentity {
            id: ClusterId(identity.cluster_id.clone()),
            name: "test".parse().unwrap(),
            generation: Generation(identity.generation),
        },
        members,
        // The lease and the group: no rule holds a Grant up.
        settings: Box::new(Settings {
            mode: Mode::Async,
            ..Settings::default()
        }),
    };
    let _ = leader.propose(form).await.unwrap();
    let describe = Command::Describe {
        member: name("a"),
        addresses: leader.state().state.members[&name("a")].addresses.clone(),
        tags: cluster_core::model::Tags::default(),
        incarnation: Some(Incarnation(1)),
    };
    leader.propose(describe).await.unwrap();
    leader
        .propose(Command::Initialize { member: name("a") })
        .await
        .unwrap();
    let initialized = Command::Initialized {
        member: name("a"),
        system_identifier: 7,
        timeline: TimelineId(1),
    };
    leader.propose(initialized).await.unwrap();
    leader
        .propose(Command::Grant(Box::new(first_grant())))
        .await
        .unwrap();
}

fn first_grant() -> Grant {
    let seal = SealReport {
        member: name("a"),
        incarnation: Incarnation(1),
        target: Epoch(1),
        timeline: TimelineId(1),
        end: Lsn(100),
        is_running: true,
    };
    Grant {
        epoch: Epoch(1),
        member: name("a"),
        incarnation: Incarnation(1),
        timeline: TimelineId(2),
        parent: TimelineId(1),
        start: Lsn(100),
        first_rule: Rule {
            id: RuleId(1),
            epoch: Epoch(1),
            k: 0,
            set: BTreeMap::new(),
        },
        sealed: vec![seal],
        live: Vec::new(),
        reason: "first".to_owned(),
        loss: None,
    }
}

fn pause(by: &str) -> Command {
    Command::Describe {
        member: name("a"),
        addresses: cluster_core::model::Addresses {
            http: by.to_owned(),
            ..Default::default()
        },
        tags: cluster_core::model::Tags::default(),
        incarnation: Some(Incarnation(1)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_form_elect_commit_and_outlive_their_leader() {
    let mut group = Group::formed(3).await;
    let leader = group.leader().await;
    assert_eq!(group.store(leader).voters(), BTreeSet::from([1, 2, 3]));
    grant_to_a(group.store(leader)).await;
    let written = group.store(leader).write(pause("one")).await.unwrap();
    group.all_applied(written.index).await;
    let before = group.store(leader).role().borrow().vote;

    let other = group.others(leader)[0];
    let refused = group.store(other).propose(pause("two")).await.unwrap_err();
    let hint = NodeId(group.node(leader));
    assert!(matches!(refused, ProposeError::NotLeader { leader: Some(to), .. } if to == hint));

    group.stop(leader).await;
    let next = group.leader().await;
    assert_ne!(next, leader);
    assert!(group.store(next).role().borrow().vote > before);
    let written = group.store(next).write(pause("three")).await.unwrap();
    group.all_applied(written.index).await;

    group.launch(leader).await;
    group.started(leader).await;
    group.all_applied(written.index).await;
    let addresses = &group.store(leader).state().state.members[&name("a")].addresses;
    assert_eq!(addresses.http, "three");
    assert_eq!(*group.failures.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_confirms_a_renewal_only_to_the_holder_of_the_epoch() {
    let group = Group::formed(3).await;
    let leader = group.store(group.leader().await);
    grant_to_a(leader).await;
    let answer = leader
        .renew(&name("a"), Epoch(1), Incarnation(1))
        .await
        .unwrap();
    // D is a setting of the cluster, not of Raft's timers.
    assert_eq!(answer.lease, Preset::Lan.times().lease);
    assert_eq!(answer.newest_rule, RuleId(1));
    assert!(!leader.granter(|granter, _| granter.lease_waited_out()));
    for (member, epoch, life) in [("b", 1, 1), ("a", 2, 1), ("a", 0, 1), ("a", 1, 2)] {
        let refused = leader
            .renew(&name(member), Epoch(epoch), Incarnation(life))
            .await;
        assert!(
            matches!(refused, Err(RenewRefused::NotGranted { .. })),
            "{member} {epoch} {life}: {refused:?}"
        );
    }
    let revoke = Command::Revoke {
        epoch: Epoch(1),
        reason: "test".to_owned(),
    };
    leader.propose(revoke).await.unwrap();
    let refused = leader.renew(&name("a"), Epoch(1), Incarnation(1)).await;
    assert!(
        matches!(refused, Err(RenewRefused::NotGranted { .. })),
        "{refused:?}"
    );
    let follower = group.others(group.leader().await)[0];
    let refused = group
        .store(follower)
        .renew(&name("a"), Epoch(1), Incarnation(1))
        .await;
    assert!(
        matches!(
            refused,
            Err(RenewRefused::NotLeader {
                leader: Some(_),
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_refuses_renewals_and_writes() {
    let group = Group::formed(3).await;
    let place = group.leader().await;
    let leader = group.store(place);
    grant_to_a(leader).await;
    leader
        .renew(&name("a"), Epoch(1), Incarnation(1))
        .await
        .unwrap();
    for other in group.others(place) {
        group.cuts.cut_both(group.node(place), group.node(other));
    }
    // From the first message lost on: nothing may be confirmed, although it still leads.
    let begun = Instant::now();
    let base = leader.granter(|granter, _| granter.stamp() - granter.base_age());
    while begun.elapsed() < Duration::from_secs(2) {
        let refused = leader.renew(&name("a"), Epoch(1), Incarnation(1)).await;
        assert!(
            matches!(
                refused,
                Err(RenewRefused::NoQuorum | RenewRefused::NotLeader { .. })
            ),
            "{refused:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
    let base_now = leader.granter(|granter, _| granter.stamp() - granter.base_age());
    assert_eq!(base_now, base, "an unconfirmed renewal moved the base");
    assert!(leader.propose(pause("lost")).await.is_err());
    let next = group.leader_among(&group.others(place)).await;
    let refused = group
        .store(next)
        .renew(&name("b"), Epoch(1), Incarnation(1))
        .await;
    assert!(
        matches!(refused, Err(RenewRefused::NotGranted { .. })),
        "{refused:?}"
    );
    group
        .store(next)
        .renew(&name("a"), Epoch(1), Incarnation(1))
        .await
        .unwrap();
    group.cuts.heal();
    wait_until("the old leader follows", || {
        let role = leader.role().borrow().clone();
        if role.leader == Some(NodeId(group.node(next))) && !role.is_silent {
            Ok(())
        } else {
            Err(role)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_lost_in_one_direction_do_not_block_an_election() {
    let group = Group::formed(3).await;
    let place = group.leader().await;
    let others = group.others(place);
    // Heartbeats arrive, so both followers keep their vote lease; no answer comes back.
    for other in &others {
        group.cuts.cut(group.node(*other), group.node(place));
    }
    group.commit_among(&others).await;
}

/// The library has no pre-vote: a member that nobody answers would raise its term with every election,
/// and depose the leader when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_cut_off_called_no_elections_and_deposes_nobody() {
    let group = Group::formed(3).await;
    let place = group.leader().await;
    let leader = group.store(place);
    grant_to_a(leader).await;
    let vote = leader.role().borrow().vote;
    let lonely = group.others(place)[0];
    let alone = group.store(lonely);
    // A quorum elects without it.
    wait_until("it has heard of the leader", || {
        let role = alone.role().borrow().clone();
        if role.vote == vote { Ok(()) } else { Err(role) }
    })
    .await;
    for other in group.others(lonely) {
        group.cuts.cut_both(group.node(lonely), group.node(other));
    }
    let until = Instant::now() + group.times.election_max * 8;
    while Instant::now() < until {
        assert_eq!(alone.role().borrow().vote, vote, "it called an election");
        sleep(Duration::from_millis(20)).await;
    }
    group.cuts.heal();
    leader.propose(pause("back")).await.unwrap();
    wait_until("it follows the same leader", || {
        let role = alone.role().borrow().clone();
        let known = alone.state();
        let of_a = known.state.members.get(&name("a"));
        let is_told = of_a.is_some_and(|it| it.addresses.http == "back");
        if is_told && role.leader == Some(NodeId(group.node(place))) {
            Ok(())
        } else {
            Err(role)
        }
    })
    .await;
    assert_eq!(leader.role().borrow().vote, vote, "the leader was deposed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_sees_only_the_bridge_lets_the_others_elect() {
    let mut group = Group::formed(5).await;
    let place = group.leader().await;
    let others = group.others(place);
    let (bridge, dead) = (others[0], others[3]);
    group.stop(dead).await;
    for other in [others[1], others[2]] {
        group.cuts.cut_both(group.node(place), group.node(other));
    }
    group.commit_among(&[bridge, others[1], others[2]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_leader_is_not_ready_before_an_entry_of_its_own() {
    let mut group = Group::formed(3).await;
    let place = group.leader().await;
    grant_to_a(group.store(place)).await;
    let before = group.store(place).role().borrow().vote.unwrap();
    // Nobody may take over meanwhile, and nobody may answer the restarted leader.
    let others = group.others(place);
    for other in &others {
        group.cuts.cut(group.node(*other), group.node(place));
    }
    let node = group.node(place);
    group.stop(place).await;
    group.launch(place).await;
    group.started(place).await;
    let store = group.store(place);
    assert_eq!(store.identity().node_id, node);
    let role = wait_until("it resumes", || {
        let role = store.role().borrow().clone();
        if role.is_leader { Ok(role) } else { Err(role) }
    })
    .await;
    assert_eq!(
        role.vote,
        Some(before),
        "the same vote as before the restart"
    );
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        assert!(!store.role().borrow().is_ready);
        assert!(!store.granter(|granter, _| granter.is_ready(before)));
        assert!(
            store
                .renew(&name("a"), Epoch(1), Incarnation(1))
                .await
                .is_err()
        );
        sleep(Duration::from_millis(5)).await;
    }
    group.cuts.heal();
    let next = group.leader().await;
    group
        .store(next)
        .renew(&name("a"), Epoch(1), Incarnation(1))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_snapshots_stay_bounded_and_a_late_member_catches_up() {
    let mut group = Group::of(3).await;
    group.snapshot_every = 50;
    group.start_all().await;
    let place = group.leader().await;
    grant_to_a(group.store(place)).await;
    let late = group.others(place)[0];
    group.stop(late).await;
    let mut last = 0;
    for turn in 0..300 {
        last = group
            .store(place)
            .write(pause(&turn.to_string()))
            .await
            .unwrap()
            .index;
    }
    wait_until("the log is cut", || {
        let kept = group.store(place).kept_entries();
        if kept <= 50 + 20 + 64 {
            Ok(())
        } else {
            Err(kept)
        }
    })
    .await;
    group.launch(late).await;
    group.started(late).await;
    group.all_applied(last).await;
    assert_eq!(
        group.store(late).state().state.members[&name("a")]
            .addresses
            .http,
        "299",
        "by snapshot: the entries are gone"
    );
    assert!(group.store(late).kept_entries() < 200);
    for place in 0..3 {
        group.stop(place).await;
    }
    group.start_all().await;
    group.leader().await;
    group.all_applied(last).await;
    assert_eq!(*group.failures.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_waits_for_every_listed_member() {
    let mut group = Group::of(3).await;
    group.launch(0).await;
    group.launch(1).await;
    let status = group.hosts[0].running.as_ref().unwrap().inbox.status();
    wait_until("it says for whom it waits", || {
        let now = status.borrow().clone();
        match &now {
            GroupStatus::Waiting(why) if why.contains("waiting for c: unreachable") => Ok(()),
            _ => Err(now),
        }
    })
    .await;
    for _ in 0..100 {
        for host in &group.hosts[..2] {
            assert!(
                !host
                    .running
                    .as_ref()
                    .unwrap()
                    .starting
                    .as_ref()
                    .unwrap()
                    .is_finished()
            );
        }
        sleep(Duration::from_millis(10)).await;
    }
    group.launch(2).await;
    for place in 0..3 {
        group.started(place).await;
    }
    let ids: Vec<u64> = (0..3).map(|place| group.node(place)).collect();
    assert_eq!(ids, [1, 2, 3], "places in the sorted list");
    group.leader().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn different_lists_and_foreign_data_do_not_form_a_group() {
    let mut group = Group::of(3).await;
    group.data_dirs.insert("c".to_owned(), DataDir::Ours);
    group.launch(0).await;
    group.launch(2).await;
    let mut other_list = group.list();
    other_list[0].address = "127.0.0.1:1".to_owned();
    group.launch_with(1, other_list).await;
    let status = group.hosts[0].running.as_ref().unwrap().inbox.status();
    let says = async |text: &str| {
        wait_until(text, || {
            let now = status.borrow().clone();
            match &now {
                GroupStatus::Waiting(why) if why.contains(text) => Ok(()),
                _ => Err(now),
            }
        })
        .await;
    };
    says("the member list of b differs").await;
    group.stop(1).await;
    group.launch(1).await;
    says("the data directory of c is ours").await;
    group.stop(2).await;
    group.data_dirs.insert(
        "c".to_owned(),
        DataDir::Adoptable {
            system_identifier: 7,
        },
    );
    group.data_dirs.insert(
        "b".to_owned(),
        DataDir::Adoptable {
            system_identifier: 7,
        },
    );
    group.stop(1).await;
    group.launch(1).await;
    group.launch(2).await;
    says("b and c each bring a database").await;
    group.stop(1).await;
    group.data_dirs.remove("b");
    group.launch(1).await;
    for place in 0..3 {
        group.started(place).await;
    }
    group.leader().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_without_witness_are_refused() {
    let mut group = Group::of(2).await;
    group.launch(0).await;
    let starting = group.hosts[0]
        .running
        .as_mut()
        .unwrap()
        .starting
        .take()
        .unwrap();
    let refused = starting.await.unwrap().err().expect("refused").to_string();
    assert!(refused.contains("--accept-no-failover"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_member_is_let_in_under_a_new_id_and_never_votes_under_the_old_one() {
    let mut group = Group::formed(3).await;
    let leader = group.leader().await;
    grant_to_a(group.store(leader)).await;
    let wiped = group.others(leader)[0];
    let old = group.node(wiped);
    group.stop(wiped).await;
    std::fs::remove_dir_all(&group.hosts[wiped].folder).unwrap();
    group.launch(wiped).await;
    let status = group.hosts[wiped].running.as_ref().unwrap().inbox.status();
    wait_until("it says what would help", || {
        let now = status.borrow().clone();
        match &now {
            GroupStatus::Waiting(why) if why.contains("clusterctl members replace") => Ok(()),
            _ => Err(now),
        }
    })
    .await;
    let store = group.store(leader).clone();
    let member = group.hosts[wiped].name.clone();
    let joiners = wait_until("the leader hears it", || {
        let joiners = store.joiners();
        if joiners.is_empty() {
            Err("nobody")
        } else {
            Ok(joiners)
        }
    })
    .await;
    assert_eq!(joiners[0].name, member);
    let command = Command::ReplaceMember {
        member: member.clone(),
        peer: joiners[0].address.clone(),
        by: "test".to_owned(),
    };
    let new = NodeId(store.write(command).await.unwrap().index);
    for _again in 0..2 {
        store
            .replace_member(&member, &joiners[0].address, NodeId(old), new, LIMIT)
            .await
            .unwrap();
    }
    group.started(wiped).await;
    assert_eq!(group.node(wiped), new.0);
    let voters = store.voters();
    assert!(
        voters.contains(&new.0) && !voters.contains(&old) && voters.len() == 3,
        "{voters:?}"
    );
    let last = store
        .write(Command::Replaced { member })
        .await
        .unwrap()
        .index;
    group.all_applied(last).await;
    // The new voter counts: with the third one gone there is still a quorum.
    let third = group
        .others(leader)
        .into_iter()
        .find(|place| *place != wiped)
        .unwrap();
    group.stop(third).await;
    group.commit_among(&[leader, wiped]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_put_back_is_noticed_by_the_peers_when_both_of_its_files_are_old() {
    let mut group = Group::formed(3).await;
    let leader = group.leader().await;
    grant_to_a(group.store(leader)).await;
    let victim = group.others(leader)[0];
    let folder = group.hosts[victim].folder.clone();
    let saved = folder.with_extension("saved");
    group.stop(victim).await;
    copy(&folder, &saved);
    group.launch(victim).await;
    group.started(victim).await;
    let last = group
        .store(leader)
        .write(pause("later"))
        .await
        .unwrap()
        .index;
    group.all_applied(last).await;
    group.stop(victim).await;
    std::fs::remove_dir_all(&folder).unwrap();
    copy(&saved, &folder);
    group.launch(victim).await;
    group.started(victim).await;
    let why = wait_until("it is told", || {
        let failures = group.failures.lock().unwrap().clone();
        failures.first().cloned().ok_or("no failure yet")
    })
    .await;
    assert!(
        why.contains("rolled back") && why.contains("clusterctl members replace"),
        "{why}"
    );
    assert!(group.store(victim).failure().is_some());
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_without_the_secret_is_not_answered() {
    let group = Group::formed(3).await;
    let place = group.leader().await;
    let inbox = Inbox::new(ClusterSecret::new(b"another secret altogether"));
    let host = &group.hosts[place];
    let door = host.running.as_ref().unwrap().inbox.door().unwrap();
    let call = clusterd::raft::handshake::Call {
        cluster_id: "",
        generation: 0,
        from: "b",
        to: host.name.as_str(),
        method: "Probe",
    };
    let proof = inbox.secret().proof(&call);
    assert!(door.probed("b", host.name.as_str(), &proof).is_err());
    let proof = ClusterSecret::new(SECRET).proof(&call);
    assert!(door.probed("b", host.name.as_str(), &proof).is_ok());
}

/// Asks for a vote in a far term, as somebody who knows the secret; what was answered.
async fn ask_for_vote(
    host: &Host,
    cluster: (&str, u64),
    (from, to): (u64, u64),
    term: u64,
) -> Result<(), tonic::Status> {
    let (cluster_id, generation) = cluster;
    let vote = openraft::raft::VoteRequest::new(openraft::Vote::new(term, from), None);
    let proof = ClusterSecret::new(SECRET).proof(&raft::handshake::Call {
        cluster_id,
        generation,
        from: &from.to_string(),
        to: &to.to_string(),
        method: "Vote",
    });
    let mut request = tonic::Request::new(cluster_proto::v1::RaftRequest {
        cluster_id: cluster_id.to_owned(),
        generation,
        from,
        to,
        mark: None,
        seen: None,
        payload: raft::codec::to_json(&vote).unwrap(),
    });
    let proof = proof.parse().unwrap();
    request
        .metadata_mut()
        .insert(raft::handshake::PROOF_KEY, proof);
    let address = format!("http://{}", host.address);
    let client = cluster_proto::v1::raft_client::RaftClient::connect(address).await;
    client.unwrap().vote(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_answers_only_to_its_own_id_in_its_own_cluster_and_generation() {
    let group = Group::formed(3).await;
    let leader = group.leader().await;
    let place = group.others(leader)[0];
    let store = group.store(place);
    let own = store.identity();
    let from = group.node(leader);
    let cluster = own.cluster_id.as_str();
    let wait = group.times.election_max * 3;
    let before = store.role().borrow().vote;
    let cases = [
        ((cluster, 1), own.node_id + 1, "this is node"),
        ((cluster, 1), 0, "this is node"),
        (
            ("0123456789abcdef", 1),
            own.node_id,
            "this is generation 1 of cluster",
        ),
        ((cluster, 2), own.node_id, "not generation 2 of"),
    ];
    for (claimed, to, sentence) in cases {
        let refused = ask_for_vote(&group.hosts[place], claimed, (from, to), 1000).await;
        let status = refused.expect_err("a message for somebody else was answered");
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(sentence), "{status}");
    }
    // The library saw none of them, so no term was raised, and the group did not notice.
    assert_eq!(store.role().borrow().vote, before);
    let again = group.leader().await;
    assert_eq!(again, leader);
    // The right address is the only difference: this one gets through to the library.
    let until = Instant::now() + wait + LIMIT;
    loop {
        let target = (from, own.node_id);
        match ask_for_vote(&group.hosts[place], (cluster, 1), target, 0).await {
            Ok(()) => break,
            // A member that has just started answers no vote yet.
            Err(status) if status.code() == tonic::Code::Aborted => {
                assert!(Instant::now() < until, "{status}");
                sleep(Duration::from_millis(50)).await;
            }
            Err(status) => panic!("{status}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forming_that_was_cut_off_goes_on_with_the_same_cluster() {
    // As a crash of the first member leaves it: its own identity on disk, `b` told, `c` not.
    let mut group = Group::of(3).await;
    let identity = founders_identity(&group);
    for (place, founders) in [(0, identity.founders.clone()), (1, Vec::new())] {
        let node_id = place as u64 + 1;
        let mine = raft::Identity {
            node_id,
            founders,
            ..identity.clone()
        };
        let host = &group.hosts[place];
        let failure = raft::Failure::new(Arc::new(|_| {}));
        let store =
            raft::log_store::LogStore::open(&host.folder, host.name.as_str(), failure).unwrap();
        store.adopt(mine).await.unwrap();
        store.close().await;
    }
    group.launch(2).await;
    group.launch(1).await;
    let status = group.hosts[2].running.as_ref().unwrap().inbox.status();
    wait_until("it does not form a second cluster", || {
        let now = status.borrow().clone();
        match &now {
            GroupStatus::Waiting(why) if why.contains("being formed") => Ok(()),
            _ => Err(now),
        }
    })
    .await;
    group.launch(0).await;
    for place in 0..3 {
        group.started(place).await;
        assert_eq!(
            group.store(place).identity().cluster_id,
            identity.cluster_id
        );
        assert_eq!(group.node(place), place as u64 + 1);
    }
    group.leader().await;
}

fn founders_identity(group: &Group) -> raft::Identity {
    let founders = (1..)
        .zip(&group.hosts)
        .map(|(node_id, host)| raft::types::Founder {
            node_id,
            node: raft::PeerNode {
                name: host.name.to_string(),
                address: host.address.to_string(),
            },
        })
        .collect();
    raft::Identity {
        cluster_id: "c0ffee".to_owned(),
        generation: 1,
        node_id: 1,
        founders,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_taken_once_and_only_for_the_process_that_was_asked() {
    let mut group = Group::of(3).await;
    group.launch(1).await;
    let door = {
        let inbox = group.hosts[1].running.as_ref().unwrap().inbox.clone();
        wait_until("the door opens", || inbox.door().ok_or("closed")).await
    };
    let secret = ClusterSecret::new(SECRET);
    let proof = |method| {
        let call = clusterd::raft::handshake::Call {
            cluster_id: "",
            generation: 0,
            from: "a",
            to: "b",
            method,
        };
        secret.proof(&call)
    };
    let told = door.probed("a", "b", &proof("Probe")).unwrap();
    let offer = raft::group::Offer {
        from: "a".to_owned(),
        nonce: told.nonce,
        identity: raft::Identity {
            node_id: 2,
            founders: Vec::new(),
            ..founders_identity(&group)
        },
        list_hash: Some(told.list_hash),
    };
    let mut refused = vec![offer.clone(), offer.clone(), offer.clone(), offer.clone()];
    refused[0].nonce += 1;
    refused[1].identity.node_id = 3;
    refused[2].list_hash = Some("another".to_owned());
    refused[3].from = "c".to_owned();
    for offer in refused {
        assert!(
            door.offered(offer.clone(), "b", &proof("Adopt"))
                .await
                .is_err(),
            "{offer:?}"
        );
    }
    assert!(
        door.offered(offer.clone(), "c", &proof("Adopt"))
            .await
            .is_err()
    );
    door.offered(offer.clone(), "b", &proof("Adopt"))
        .await
        .unwrap();
    door.offered(offer.clone(), "b", &proof("Adopt"))
        .await
        .unwrap();
    let mut other = offer;
    other.identity.cluster_id = "beef".to_owned();
    assert!(door.offered(other, "b", &proof("Adopt")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_calls_for_an_election_leads() {
    let group = Group::formed(3).await;
    let before = group.leader().await;
    let wanted = group.others(before)[0];
    // It must know the leader, and have all it has, before it may take its place.
    wait_until("it follows", || {
        let role = group.store(wanted).role().borrow().clone();
        if role.leader.is_some() {
            Ok(())
        } else {
            Err(role)
        }
    })
    .await;
    group.all_applied(group.store(before).state().index).await;
    // A leader refuses votes for one election timeout after its own election.
    sleep(group.times.election_max + group.times.heartbeat).await;
    assert!(group.store(wanted).elect().await);
    wait_until("it leads", || {
        let role = group.store(wanted).role().borrow().clone();
        if role.is_ready { Ok(()) } else { Err(role) }
    })
    .await;
    assert!(
        !group.store(wanted).elect().await,
        "not again so soon, and not as the leader"
    );
    group
        .store(wanted)
        .propose(Command::SettleLease)
        .await
        .unwrap();
}
