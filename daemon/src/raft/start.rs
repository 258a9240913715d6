//! From an options struct to a running [`ClusterStore`]: open, find an identity, start the library.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::model::lease::LeaseTimes;
use cluster_core::model::{MemberName, NodeId};
use openraft::error::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::ClientTlsConfig;

use super::answers::{MembershipError, Role};
use super::failure::{Failure, OnFailure};
use super::forming::{self, Caller};
use super::group::{DataDir, Door, GroupError, GroupStatus, Joiner, ListedMember, MemberList};
use super::handshake::SeenMarks;
use super::inbox::{Attached, Inbox};
use super::log_store::LogStore;
use super::machine::Machine;
use super::network::{Channels, LinkFaults, Links, Network};
use super::pulse::Pulse;
use super::silence::Silence;
use super::store::{ClusterStore, Shared};
use super::store_open::StoreError;
use super::stream::AppendStreams;
use super::types::{Identity, PeerNode, Raft};

/// A snapshot after this many entries. Source: the state is small; this keeps start-up short.
pub const SNAPSHOT_EVERY: u64 = 500;
/// Entries kept behind a snapshot, for followers that are a little late.
pub const KEEP_ENTRIES: u64 = 200;
/// A learner this many entries behind counts as caught up.
const LAG_ALLOWED: u64 = 50;
/// Bytes of a snapshot in one message; in JSON they are about four times as many.
const SNAPSHOT_CHUNK: u64 = 512 * 1024;
/// Most entries in one message.
const MOST_ENTRIES: u64 = 64;

/// How long a predecessor that is just ending may still hold the files.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(2);
const PREDECESSOR_LOOK: Duration = Duration::from_millis(20);

/// What Raft needs to know to start.
pub struct RaftOptions {
    /// Where log, snapshot and mark live. Nothing else may be in it.
    pub directory: PathBuf,
    /// This member.
    pub member: MemberName,
    /// Every member, this one included, as the config file lists them.
    pub members: Vec<ListedMember>,
    /// Two voters without witness are all right.
    pub accept_no_failover: bool,
    /// What is in the place for the data directory.
    pub data_dir: DataDir,
    /// TLS towards peers.
    pub tls: Option<ClientTlsConfig>,
    /// Times of the preset in the config file; a replicated preset is taken from the store instead.
    pub times: LeaseTimes,
    /// Must end the process.
    pub on_failure: OnFailure,
    /// Lost messages, in tests.
    pub faults: Option<Arc<dyn LinkFaults>>,
    /// [`SNAPSHOT_EVERY`]; less in tests.
    pub snapshot_every: u64,
    /// [`KEEP_ENTRIES`]; less in tests.
    pub keep_entries: u64,
}

/// Why Raft did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The member list will not do.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The library said no.
    #[error("could not start Raft: {0}")]
    Library(String),
}

/// Opens the store, forms the group or waits to be let in, and starts Raft.
///
/// `inbox` must be served already: others ask this member what it knows. Waits as long as the
/// group cannot form; [`Inbox::status`] says for what.
///
/// # Errors
/// [`StartError`]: this member must not vote.
pub async fn start(options: RaftOptions, inbox: Inbox) -> Result<ClusterStore, StartError> {
    let list = MemberList::new(
        &options.member,
        options.members.clone(),
        options.accept_no_failover,
    )?;
    let failure = Failure::new(Arc::clone(&options.on_failure));
    let (log, machine) = open(&options, &failure).await?;
    let was_pristine = log.is_pristine();
    let door = Door::new(
        options.member.clone(),
        inbox.secret().clone(),
        list,
        options.data_dir,
        log.clone(),
        inbox.status_sender(),
    );
    inbox.open_door(door.clone());
    let caller = Caller {
        channels: Arc::new(Channels::default()),
        tls: options.tls.clone(),
        times: options.times,
        own: options.member.to_string(),
        secret: inbox.secret().clone(),
    };
    let identity = forming::find_identity(&door, &caller).await;
    let parts = Parts {
        log,
        machine,
        identity,
        failure,
        door,
        caller,
        was_pristine,
    };
    run(options, inbox, parts).await
}

async fn open(options: &RaftOptions, failure: &Failure) -> Result<(LogStore, Machine), StartError> {
    let (directory, member) = (options.directory.clone(), options.member.to_string());
    let failure = failure.clone();
    let open_once = move || {
        let log = LogStore::open(&directory, &member, failure.clone())?;
        let machine = Machine::open(&directory, &member, failure.clone())?;
        Ok::<_, StoreError>((log, machine))
    };
    let until = Instant::now() + PREDECESSOR_LIMIT;
    loop {
        let opened = tokio::task::spawn_blocking(open_once.clone()).await;
        match opened.map_err(|error| StartError::Library(error.to_string()))? {
            Err(StoreError::InUse { .. }) if Instant::now() < until => {
                tokio::time::sleep(PREDECESSOR_LOOK).await;
            }
            other => return Ok(other?),
        }
    }
}

struct Parts {
    log: LogStore,
    machine: Machine,
    identity: Identity,
    failure: Failure,
    door: Door,
    caller: Caller,
    was_pristine: bool,
}

async fn run(options: RaftOptions, inbox: Inbox, parts: Parts) -> Result<ClusterStore, StartError> {
    let Parts {
        log,
        machine,
        identity,
        failure,
        door,
        caller,
        was_pristine,
    } = parts;
    let times = times_in_force(&options, &log, &machine);
    let silence = Arc::new(Silence::new(times));
    let links = Arc::new(Links {
        identity: identity.clone(),
        secret: inbox.secret().clone(),
        tls: options.tls.clone(),
        times,
        store: log.clone(),
        seen: Arc::new(SeenMarks::default()),
        silence: Arc::clone(&silence),
        failure: failure.clone(),
        faults: options.faults.clone(),
        channels: Arc::clone(&caller.channels),
        streams: AppendStreams::default(),
    });
    let raft = Raft::new(
        identity.node_id,
        Arc::new(config(&options, &times, &identity, was_pristine)?),
        Network {
            links: Arc::clone(&links),
        },
        log.clone(),
        machine.clone(),
    )
    .await
    .map_err(|fatal| StartError::Library(fatal.to_string()))?;

    // The library forgets its vote lease over a restart; a store that never voted promised nothing.
    let now = Instant::now();
    let refuse_votes_until = if was_pristine {
        now
    } else {
        now + times.election_max
    };
    let elect_from = (!was_pristine).then(|| now + times.election_max * 2);
    let heard_leader = Arc::new(watch::channel(None).0);
    inbox.attach(Attached {
        raft: raft.clone(),
        links: Arc::clone(&links),
        refuse_votes_until,
        heard_leader: Arc::clone(&heard_leader),
    });
    let shared = Arc::new(Shared {
        raft,
        machine,
        log,
        inbox,
        identity: identity.clone(),
        times,
        silence,
        links,
        role: watch::channel(Role::default()).0,
        heard_leader,
        failure,
        pulse: Mutex::default(),
        wake: Notify::new(),
        last_elect: Mutex::default(),
        door,
        caller,
    });
    let start = format!("{}/{:016x}", super::boot_id(), rand::random::<u64>());
    let pulse = tokio::spawn(Pulse::new(Arc::clone(&shared), start, elect_from).run());
    *shared
        .pulse
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(pulse);
    let store = ClusterStore { shared };
    if was_pristine && !identity.founders.is_empty() {
        store.begin(&identity).await?;
    }
    Ok(store)
}

fn config(
    options: &RaftOptions,
    times: &LeaseTimes,
    identity: &Identity,
    was_pristine: bool,
) -> Result<Config, StartError> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: identity.cluster_id.clone(),
        heartbeat_interval: ms(times.heartbeat),
        election_timeout_min: ms(times.election_min),
        election_timeout_max: ms(times.election_max),
        install_snapshot_timeout: 5_000,
        max_payload_entries: MOST_ENTRIES,
        replication_lag_threshold: LAG_ALLOWED,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        snapshot_max_chunk_size: SNAPSHOT_CHUNK,
        max_in_snapshot_log_to_keep: options.keep_entries,
        enable_elect: was_pristine,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| StartError::Library(error.to_string()))
}

/// The preset as far as this store knows it. A change of preset reaches Raft's own timers with the
/// next start of each daemon.
fn times_in_force(options: &RaftOptions, log: &LogStore, machine: &Machine) -> LeaseTimes {
    let state = machine.watch().borrow().state.clone();
    let stored = state.identity.as_ref().map(|_| state.settings.preset);
    let logged = log.last_command(|command| match command {
        Command::SetPreset { preset } => Some(*preset),
        Command::ChangeSettings { change, .. } => {
            let whole = change.whole.as_ref().map(|whole| whole.preset);
            change.preset.or(whole)
        }
        Command::Form { settings, .. } | Command::Restored { settings, .. } => {
            Some(settings.preset)
        }
        _ => None,
    });
    logged
        .or(stored)
        .map_or(options.times, |preset| preset.times())
}

impl ClusterStore {
    /// Lets Raft begin with the founders; nothing when it has begun.
    async fn begin(&self, identity: &Identity) -> Result<(), StartError> {
        let founders: BTreeMap<u64, PeerNode> = identity
            .founders
            .iter()
            .map(|f| (f.node_id, f.node.clone()))
            .collect();
        match self.shared.raft.initialize(founders).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(StartError::Library(error.to_string())),
        }
    }

    /// Members with an empty store that asked this member to be let in, lately.
    pub fn joiners(&self) -> Vec<Joiner> {
        self.shared.door.joiners(Duration::from_secs(10))
    }

    /// Gives the empty store of `name` at `address` the voter id `new`, then puts it in the place
    /// of `old`. Repeating it is safe.
    ///
    /// # Errors
    /// [`MembershipError`]: it does not answer, is not empty, or does not catch up.
    pub async fn replace_member(
        &self,
        name: &MemberName,
        address: &str,
        old: NodeId,
        new: NodeId,
        limit: Duration,
    ) -> Result<(), MembershipError> {
        let identity = Identity {
            node_id: new.0,
            founders: Vec::new(),
            ..self.shared.identity.clone()
        };
        self.shared
            .caller
            .adopt(name.as_str(), address, &identity, None)
            .await
            .map_err(|why| MembershipError::Refused(format!("{name} at {address}: {why}")))?;
        let node = PeerNode {
            name: name.to_string(),
            address: address.to_owned(),
        };
        self.replace_voter(old, new, node, limit).await
    }

    /// Follows this member's way into the group.
    pub fn group_status(&self) -> watch::Receiver<GroupStatus> {
        self.shared.door.status()
    }
}
