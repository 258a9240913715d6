//! The only place that builds parts and starts tasks. Read it from top to bottom: the order is
//! disk, listeners, Raft, PostgreSQL, loops; shutdown is the reverse, and never touches PostgreSQL.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use cluster_core::model::lease::Moment;
use cluster_core::model::member::ArchiveReport;
use cluster_core::model::view::Seen;
use cluster_core::model::{MemberKind, MemberName, MemberReport, NodeId, PostgresStatus};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::api::{self, Listeners};
use crate::backup;
use crate::board::{Board, Propose, RaftBoard, VerdictLine};
use crate::callbacks::{self, Callbacks};
use crate::config::Config;
use crate::exchange::MergedView;
use crate::guard_client::Guard;
use crate::late::LateBackend;
use crate::lease::now;
use crate::local::Local;
use crate::peers::Peers;
use crate::poolers::Poolers;
use crate::postgres::{
    AppDatabase, DataDirKind, GuardSupervisor, Postgres, PostgresOptions, ReplicationTls, Role,
    Secret,
};
use crate::raft::{self, ClusterStore, DataDir, Inbox, ListedMember, RaftOptions};
use crate::reconcile::act::Actor;
use crate::reconcile::backend::{Backend, LeaderWords, Reporter};
use crate::reconcile::cluster_loop::{ClusterLoop, Founding};
use crate::reconcile::durable::DurableRecord;
use crate::reconcile::foresight::BoardForesight;
use crate::reconcile::high_water::HighWater;
use crate::reconcile::member_loop::{Introduction, Looked, MemberLoop, Outlets};
use crate::reconcile::probes::{Chores, Findings};
use crate::reconcile::reports::Reports;
use crate::reconcile::rule_keeper::{Kept, RuleKeeper};
use crate::secret::{AdminToken, ClusterSecret, Masks};
use crate::snapshot;
use crate::startup::{self, Prepared};
use crate::takeover::{Hold, Place, TakeOver};
use crate::telemetry::Telemetry;
use crate::tls::{Tls, TlsFiles};
use crate::webhooks;

/// Orders to the guard from the runtime.
const GUARD_LIMIT: Duration = Duration::from_secs(5);
/// The board is made anew at least this often.
const BOARD_EVERY: Duration = Duration::from_millis(500);

/// Runs this member until it is told to stop. With `take_over`, its loops begin only after the server
/// that runs in its data directory has been stopped. Whatever touches PostgreSQL or its files runs
/// in the runtime `beside` this one: a disk that stands still must not hold up a renewal.
///
/// # Errors
/// It could not start, or a part that cannot be done without has failed.
pub async fn run(
    config: Config,
    prepared: Prepared,
    telemetry: Telemetry,
    take_over: Option<TakeOver>,
    beside: Handle,
) -> anyhow::Result<()> {
    // Disk. (The ports were tried before anything was made: see startup.)
    let durable = DurableRecord::open(&config.state_dir)?;
    let (stop, shutdown) = watch::channel(false);
    let daemon_start = format!("{:016x}", rand::random::<u64>());

    // PostgreSQL, as a façade: nothing is started yet.
    let server = match &config.postgres {
        Some(_) => Some(beside.spawn(open_postgres(config.clone())).await??),
        None => None,
    };
    let data_dir = match &take_over {
        Some(take_over) => take_over.data_dir(),
        None => data_dir_word(server.as_ref().map(|server| &server.0), &durable).await?,
    };

    let callbacks = start_callbacks(&config, &shutdown)?;
    let poolers = Poolers::open(config.pgbouncer.as_ref(), &config.state_dir)?;

    // Listeners: forming goes over them.
    let secret = ClusterSecret::new(config.security.cluster_secret.expose().trim().as_bytes());
    let tls = load_tls(&config)?;
    let late = LateBackend::default();
    let inbox = Inbox::new(secret.clone());
    let board = watch::Sender::new(Arc::new(first_board(&config, &durable, &prepared)));
    let leaving = watch::Sender::new(false);
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    let backups = match (&config.backup, &server) {
        (Some(backup), Some((postgres, _, _))) => {
            let place = backup::Place {
                me: config.name.clone(),
                repository: backup.repository.clone(),
                options: backup.options.clone(),
                state_dir: config.state_dir.clone(),
                postgres: postgres.clone(),
                durable: durable.clone(),
                board: board.subscribe(),
                clock: now,
                turn: Arc::clone(&turn),
            };
            Some(backup::start(place, shutdown.clone())?)
        }
        (Some(_) | None, _) => None,
    };
    let (backups, archive) = backups.map(|it| (it.backups, it.archive)).unzip();
    let options = api::Options {
        http: config.listen.http.to_string(),
        grpc: config.listen.grpc.to_string(),
        tls: tls.clone(),
        token: config
            .security
            .admin_token
            .as_ref()
            .map(|token| AdminToken::new(token.expose())),
        secret: secret.clone(),
    };
    let listeners = Listeners::open(&options).await?;
    let parts = api::Parts {
        board: board.subscribe(),
        lease: Arc::new(prepared.lease.clone()),
        propose: Arc::new(late.clone()),
        peer: Arc::new(late.clone()),
        try_settings: Arc::new(late.clone()),
        local: Arc::new(Local {
            me: config.name.clone(),
            board: board.subscribe(),
            propose: Arc::new(late.clone()),
            postgres: server.as_ref().map(|server| server.0.clone()),
            beside: beside.clone(),
            leaving: leaving.clone(),
            callbacks: callbacks.clone(),
            telemetry: telemetry.clone(),
            config: config.dump(),
            masks: Masks::new(config.secrets()),
        }),
        foresight: Arc::new(BoardForesight),
        backups: backups
            .clone()
            .map(|it| Arc::new(it) as Arc<dyn api::BackupControl>),
        snapshots: api::snapshots::Shelf {
            folder: snapshot::folder(&config.state_dir),
            recipients: backup_recipients(&config),
        },
        extend: {
            let inbox = inbox.clone();
            Box::new(move |routes| {
                routes.add_service(api::raft::service(inbox));
            })
        },
    };
    let serving = tokio::spawn(listeners.serve(options, parts, shutdown.clone()));
    tokio::spawn(say_what_forming_waits_for(inbox.clone()));
    let mut signals = Signals::new()?;

    // Raft: waits until the group has formed or this member is let in.
    let raft_options = raft_options(&config, data_dir, tls.as_ref());
    let store = tokio::select! {
        started = raft::start(raft_options, inbox) => started?,
        () = signals.any() => return Ok(()),
    };

    // Loops.
    let facade = server.as_ref().map(|server| server.0.clone());
    let first = first_report(&config, &durable);
    let record = durable.clone();
    let (mut running, hold, snapshots) = start_loops(Built {
        config: &config,
        prepared,
        store: store.clone(),
        server,
        durable,
        secret,
        tls,
        late,
        board,
        leaving,
        daemon_start,
        shutdown: shutdown.clone(),
        telemetry,
        beside: &beside,
        archive,
        turn,
        backups,
        callbacks: callbacks.clone(),
        poolers,
    });
    snapshot::start(snapshots, shutdown.clone())?;
    tracing::info!(node = %store.identity().node_id, "serves");
    if let Some((take_over, postgres)) = take_over.zip(facade) {
        let place = Place {
            config: &config,
            store: &store,
            postgres: &postgres,
            hold: &hold,
            durable: &record,
        };
        let handed_over = tokio::select! {
            handed_over = take_over.hand_over(&place, first) => handed_over?,
            () = signals.any() => {
                take_over.tell_interrupted();
                return Ok(());
            }
        };
        running.cgroup = late_guard(&config).await?;
        let seen = hold.seen.clone();
        tokio::spawn(async move { take_over.tell(handed_over, seen).await });
    }
    hold.release.send_replace(true);

    // Until told to stop, or a part has failed.
    let ended = tokio::select! {
        () = signals.any() => Ok(()),
        served = serving => match served {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        },
        why = running.failed() => Err(anyhow::anyhow!(why)),
    };
    // The guard and PostgreSQL go on under the last deadline.
    tracing::info!("stops; PostgreSQL goes on under its guard");
    let _ = stop.send(true);
    running.lease.stop();
    tokio::join!(store.shutdown(), callbacks.ended());
    ended
}

/// The programs that this member's own file names.
fn start_callbacks(config: &Config, shutdown: &watch::Receiver<bool>) -> anyhow::Result<Callbacks> {
    let place = callbacks::Place {
        cluster: config.cluster.clone(),
        me: config.name.clone(),
        clock: now,
    };
    let programs = callbacks::Kind::ALL.into_iter().filter_map(|kind| {
        let named = config.callbacks.get(kind.word())?;
        let program = callbacks::Program {
            command: named.command.clone(),
            time_limit: named.time_limit,
        };
        Some((kind, program))
    });
    Callbacks::start(&place, programs.collect(), shutdown)
}

/// The guard of a member whose old server has just been stopped; its control group.
async fn late_guard(config: &Config) -> anyhow::Result<Option<std::path::PathBuf>> {
    let hello = startup::reach_guard(config).await?;
    for wish in startup::missing(&hello) {
        tracing::warn!("{wish}");
    }
    Ok(hello.cgroup_path)
}

/// SIGTERM and SIGINT end only the daemon. SIGHUP, which makes other programs read their files again and
/// would end one that does not listen, changes nothing and is answered in the log.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            hangup: signal(SignalKind::hangup()).context("listen for SIGHUP")?,
        })
    }

    async fn any(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => tracing::warn!(
                    "SIGHUP changes nothing: the config file is read at start (a restart of clusterd interrupts no \
                     session), and `clusterctl reload` writes PostgreSQL's configuration anew"
                ),
            }
        }
    }
}

async fn say_what_forming_waits_for(inbox: Inbox) {
    let mut status = inbox.status();
    let mut said = None;
    loop {
        let now = status.borrow_and_update().clone();
        if said.as_ref() != Some(&now) {
            tracing::info!(group = ?now, "group");
        }
        said = Some(now);
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Whether this member can read what it stores.
fn reads_repository(config: &Config) -> bool {
    let backup = config.backup.as_ref();
    backup.is_some_and(|it| it.options.recipients.is_empty() || it.identity.is_some())
}

/// What verifies and prunes; none without a repository or without a PostgreSQL.
fn backup_programs(config: &Config) -> Option<backup::Programs> {
    let backup = config.backup.as_ref()?;
    let own = |file: &Option<PathBuf>| file.clone().or_else(|| backup.options.credentials.clone());
    Some(backup::Programs {
        binary: backup.binary.clone(),
        repository: backup.repository.clone(),
        read_credentials: own(&backup.read_credentials),
        prune_credentials: own(&backup.prune_credentials),
        identity: backup.identity.clone(),
        bin_dir: config.postgres.as_ref()?.bin_dir.clone(),
        scratch: config.state_dir.join("postgres/verify"),
    })
}

/// Whom a snapshot is encrypted for when its asker names nobody.
fn backup_recipients(config: &Config) -> Vec<String> {
    let readers = config.backup.iter().flat_map(|it| &it.options.recipients);
    readers.map(ToString::to_string).collect()
}

fn load_tls(config: &Config) -> anyhow::Result<Option<Tls>> {
    let Some(tls) = &config.security.tls else {
        return Ok(None);
    };
    let files = TlsFiles {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        authority: tls.authority.clone(),
        client_auth: tls.client_auth,
    };
    Ok(Some(Tls::load(&files)?))
}

fn raft_options(config: &Config, data_dir: DataDir, tls: Option<&Tls>) -> RaftOptions {
    RaftOptions {
        directory: config.state_dir.join("raft"),
        member: config.name.clone(),
        members: config
            .members
            .iter()
            .map(|member| ListedMember {
                name: member.name.clone(),
                address: member.peer.clone(),
                kind: member.kind,
            })
            .collect(),
        accept_no_failover: config.accept_no_failover,
        data_dir,
        tls: tls.map(Tls::client),
        times: config.settings.times(),
        on_failure: Arc::new(|why| {
            // A store that failed must not be answered from again; the guard keeps its deadline.
            eprintln!("clusterd: {why}");
            std::process::exit(74);
        }),
        faults: None,
        snapshot_every: raft::start::SNAPSHOT_EVERY,
        keep_entries: raft::start::KEEP_ENTRIES,
    }
}

async fn data_dir_word(
    postgres: Option<&Postgres>,
    durable: &DurableRecord,
) -> anyhow::Result<DataDir> {
    let Some(postgres) = postgres else {
        return Ok(DataDir::None);
    };
    let kept = durable.get();
    if kept.incarnation.is_some() || kept.marker.is_some() {
        return Ok(DataDir::Ours);
    }
    Ok(match postgres.data_dir_kind().await? {
        DataDirKind::Empty => DataDir::Empty,
        DataDirKind::Adoptable {
            system_identifier, ..
        } => DataDir::Adoptable { system_identifier },
        DataDirKind::Unusable { why, .. } => {
            tracing::error!(why, "the data directory cannot be used");
            DataDir::Foreign
        }
    })
}

async fn open_postgres(config: Config) -> anyhow::Result<(Postgres, Arc<GuardSupervisor>, Guard)> {
    let postgres = config.postgres.as_ref().context("a witness has none")?;
    let secret = |secret: &crate::config::Secret| Secret::new(secret.expose());
    let role = |role: &crate::config::RoleConfig| Role {
        name: role.name.clone(),
        password: secret(&role.password),
    };
    let options = PostgresOptions {
        wal_dir: postgres.wal_dir.clone(),
        socket_dir: postgres.socket_dir.clone(),
        listen_addresses: postgres.listen.clone(),
        port: postgres.port,
        os_user: postgres.os_user.clone(),
        superuser: postgres.superuser.clone(),
        superuser_password: postgres.superuser_password.as_ref().map(secret),
        app: postgres.app.as_ref().map(|app| AppDatabase {
            database: app.database.clone(),
            owner: role(&app.owner),
        }),
        replication_tls: ReplicationTls {
            sslmode: postgres.replication_tls.sslmode.clone(),
            root_certificate: postgres.replication_tls.authority.clone(),
            certificate: postgres.replication_tls.certificate.clone(),
            key: postgres.replication_tls.key.clone(),
        },
        archive_command: config.backup.as_ref().map(|it| {
            let socket = backup::socket(&config.state_dir);
            backup::command(&it.binary, &socket)
        }),
        parameters: postgres.parameters.clone(),
        wal_segment_mb: postgres.wal_segment_mb,
        locale: postgres.locale.clone(),
        encoding: postgres.encoding.clone(),
        hba_lines: postgres.hba.clone(),
        divergent_wal_cap_bytes: postgres.divergent_wal_cap_bytes,
        clone_rate_kb: postgres.clone_rate_kb,
        ..PostgresOptions::new(
            config.name.clone(),
            postgres.bin_dir.clone(),
            postgres.data_dir.clone(),
            config.state_dir.join("postgres"),
            role(&postgres.replication),
            role(&postgres.rewind),
        )
    };
    let guard = Guard::connect(config.guard.socket.clone(), GUARD_LIMIT);
    let supervisor = Arc::new(GuardSupervisor::with_guard(guard.clone()));
    let facade = Postgres::open(options, Arc::clone(&supervisor) as Arc<_>).await?;
    Ok((facade, supervisor, guard))
}

/// Everything `start_loops` puts together.
struct Built<'a> {
    config: &'a Config,
    prepared: Prepared,
    store: ClusterStore,
    server: Option<(Postgres, Arc<GuardSupervisor>, Guard)>,
    durable: DurableRecord,
    secret: ClusterSecret,
    tls: Option<Tls>,
    late: LateBackend,
    board: watch::Sender<Arc<Board>>,
    leaving: watch::Sender<bool>,
    daemon_start: String,
    shutdown: watch::Receiver<bool>,
    telemetry: Telemetry,
    beside: &'a Handle,
    archive: Option<watch::Receiver<Option<ArchiveReport>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    backups: Option<backup::Backups>,
    callbacks: Callbacks,
    poolers: Poolers,
}

/// What runs.
struct Running {
    lease: crate::lease::LeaseKeeper,
    guard: Option<Guard>,
    cgroup: Option<std::path::PathBuf>,
}

impl Running {
    /// Resolves with a sentence when a part has failed that this process cannot replace: the guard
    /// is gone. Its processes are killed here, and the next start makes a new guard.
    async fn failed(&self) -> String {
        let Some(guard) = &self.guard else {
            return std::future::pending().await;
        };
        let mut state = guard.state();
        // Reachable once, then lost for longer than a restart of the connection takes.
        let _ = state.wait_for(|state| state.is_connected).await;
        loop {
            if state.wait_for(|state| !state.is_connected).await.is_err() {
                return std::future::pending().await;
            }
            let back = state.wait_for(|state| state.is_connected);
            if tokio::time::timeout(Duration::from_millis(500), back)
                .await
                .is_err()
            {
                break;
            }
        }
        if let Some(group) = self.cgroup.clone() {
            let killed = tokio::task::spawn_blocking(move || {
                crate::guard_client::kill_cgroup(&group, Duration::from_secs(5))
            });
            tracing::error!(outcome = ?killed.await, "the guard is gone; PostgreSQL is killed");
        } else {
            tracing::error!("the guard is gone; the kernel stops PostgreSQL");
        }
        "the guard is gone; clusterd stops, so that its next start makes a new one".to_owned()
    }
}

/// Starts everything; what touches PostgreSQL or its directory begins when the hold is released.
fn start_loops(built: Built) -> (Running, Hold, snapshot::Place) {
    let Built {
        config,
        prepared,
        store,
        server,
        durable,
        secret,
        tls,
        late,
        ..
    } = built;
    let lease = prepared.lease.clone();
    let backend = Arc::new(Backend {
        me: config.name.clone(),
        daemon_start: built.daemon_start.clone(),
        store: store.clone(),
        peers: Peers::new(config.name.clone(), secret, tls.as_ref().map(Tls::client)),
        reports: Arc::new(Reports::default()),
        words: Mutex::new(LeaderWords::default()),
        refused: std::sync::atomic::AtomicU64::default(),
        postgres: server
            .as_ref()
            .map(|(postgres, _, _)| (postgres.clone(), built.beside.clone())),
    });
    late.set(Arc::clone(&backend));

    let times = config.settings.times();
    let (renew_limit, renew_limits) = watch::channel(times.renew * 2);
    tokio::spawn(Arc::clone(&backend).send_renewals(lease.clone(), prepared.orders, renew_limits));
    tokio::spawn(follow_times(store.clone(), lease.clone(), renew_limit));

    let merged = watch::Sender::new(Arc::new(BTreeMap::<MemberName, Seen>::new()));
    let view = watch::Sender::new(None);
    let is_current = watch::Sender::new(false);
    let report = watch::Sender::new(None);
    let seen = watch::Sender::new(PostgresStatus::Unknown {
        why: "not looked at yet".into(),
    });
    let verdict = watch::Sender::new(Looked::default());
    let audited = watch::Sender::new(None);
    let findings = Arc::new(Findings::with_archive(
        built.archive,
        audited.subscribe(),
        reads_repository(config),
    ));
    let hold = Hold {
        release: watch::Sender::new(false),
        report: report.clone(),
        seen: seen.subscribe(),
        heard: view.subscribe(),
    };
    let kept = watch::Sender::new(Kept::default());
    let high_water = HighWater::open(&config.state_dir);
    let actor = server.as_ref().map(|(postgres, guard, _)| Actor {
        me: config.name.clone(),
        postgres: postgres.clone(),
        guard: Arc::clone(guard),
        durable: durable.clone(),
        lease: lease.clone(),
        proposer: Arc::clone(&backend) as Arc<dyn Propose>,
        merged: merged.subscribe(),
        applied: store.watch(),
        callbacks: built.callbacks.clone(),
        poolers: built.poolers.clone(),
    });
    built.poolers.start(built.board.subscribe(), now);
    let told = webhooks::start(&config.webhooks, &built.board.subscribe());
    if let Err(error) = told {
        tracing::error!(%error, "webhooks are not sent");
    }
    if let Some((postgres, _, _)) = &server {
        let chores = Chores {
            me: config.name.clone(),
            postgres: postgres.clone(),
            seen: seen.subscribe(),
            state: store.watch(),
            merged: merged.subscribe(),
            findings: Arc::clone(&findings),
        };
        let keeper = RuleKeeper {
            postgres: postgres.clone(),
            durable: durable.clone(),
            lease: lease.clone(),
            store: store.clone(),
            report: report.subscribe(),
            findings: Arc::clone(&findings),
            kept: kept.clone(),
        };
        let shutdown = built.shutdown.clone();
        let marks = high_water.clone().keep(durable.clone(), seen.subscribe());
        let start = released(hold.release.subscribe(), async move {
            chores.start();
            tokio::spawn(marks);
            keeper.run(shutdown).await;
        });
        built.beside.spawn(start);
    }
    let node = NodeId(store.identity().node_id);
    let reporter = Reporter {
        backend: Arc::clone(&backend),
        own: report.subscribe(),
        looked: verdict.subscribe(),
        stands_still_after: times.lease * 3,
        merged: merged.clone(),
        view: view.clone(),
        is_current: is_current.clone(),
        limit: (times.renew * 2).max(Duration::from_millis(300)),
    };
    let snapshots = snapshot::Place {
        me: config.name.clone(),
        postgres: server.as_ref().map(|(postgres, _, _)| postgres.clone()),
        folder: snapshot::folder(&config.state_dir),
        repository: config.backup.as_ref().map(|it| it.repository.clone()),
        board: built.board.subscribe(),
        is_current: is_current.subscribe(),
        propose: Arc::clone(&backend) as Arc<dyn Propose>,
        turn: built.turn,
    };
    if let (Some(backups), Some(programs)) = (built.backups, backup_programs(config)) {
        let interval = config.backup.as_ref().map(|it| it.audit_interval);
        if let Some(interval) = interval.filter(|it| !it.is_zero()) {
            let auditor = backup::Auditor {
                me: config.name.clone(),
                programs: programs.clone(),
                board: built.board.subscribe(),
                clock: now,
                interval,
                told: audited,
            };
            let beside = backups.beside.clone();
            beside.spawn(auditor.run(built.shutdown.clone()));
        }
        let keeper = backup::Keeper {
            me: config.name.clone(),
            daemon_start: built.daemon_start.clone(),
            programs,
            backups,
            board: built.board.subscribe(),
            is_current: is_current.subscribe(),
            propose: Arc::clone(&backend) as Arc<dyn Propose>,
        };
        keeper.start(built.shutdown.clone());
    }
    let boarder = Boarder {
        store: store.clone(),
        backend: Arc::clone(&backend),
        report: report.subscribe(),
        verdict: verdict.subscribe(),
        view: view.subscribe(),
        not_granted: prepared.not_granted,
        callbacks: built.callbacks.clone(),
        board: built.board,
        telemetry: built.telemetry,
    };
    let member_loop = MemberLoop {
        who: Introduction {
            me: config.name.clone(),
            node,
            daemon_start: built.daemon_start,
            addresses: config.advertise.clone(),
            tags: config.tags.clone(),
            server_version: server
                .as_ref()
                .map(|(postgres, _, _)| postgres.major().0 * 10_000),
            is_witness: config.kind == MemberKind::Witness,
        },
        actor,
        guard: server.as_ref().map(|(_, _, guard)| guard.clone()),
        store: store.clone(),
        lease: lease.clone(),
        findings,
        high_water,
        kept: kept.subscribe(),
        merged: merged.subscribe(),
        is_current: is_current.subscribe(),
        clones_in_place: config.postgres.as_ref().is_some_and(|it| it.clone_in_place),
        leaving: built.leaving.subscribe(),
        callbacks: built.callbacks,
        outlets: Outlets {
            report,
            seen,
            verdict,
        },
    };
    let founding = Founding {
        cluster: config.cluster.clone(),
        settings: config.settings.clone(),
        members: config
            .members
            .iter()
            .map(|member| (member.name.clone(), member.kind, member.peer.clone()))
            .collect(),
    };
    let cluster_loop = ClusterLoop {
        me: node,
        store,
        backend,
        founding,
    };
    let loop_runs = member_loop.run(built.shutdown.clone());
    built
        .beside
        .spawn(released(hold.release.subscribe(), loop_runs));
    tokio::spawn(reporter.run(built.shutdown.clone()));
    tokio::spawn(cluster_loop.run(built.shutdown.clone()));
    tokio::spawn(boarder.run(built.shutdown));
    let running = Running {
        lease,
        guard: server.map(|(_, _, guard)| guard),
        cgroup: prepared.guard.and_then(|hello| hello.cgroup_path),
    };
    (running, hold, snapshots)
}

/// Runs a task once the hold is released; never, when it is dropped before.
async fn released(mut release: watch::Receiver<bool>, task: impl Future<Output = ()>) {
    if release.wait_for(|go| *go).await.is_ok() {
        task.await;
    }
}

/// A changed preset reaches the lease thread and the limits of renewals.
async fn follow_times(
    store: ClusterStore,
    lease: crate::lease::LeaseKeeper,
    limit: watch::Sender<Duration>,
) {
    let mut applied = store.watch();
    let mut known = None;
    loop {
        let preset = {
            let state = applied.borrow_and_update();
            state
                .state
                .identity
                .as_ref()
                .map(|_| state.state.settings.preset)
        };
        if preset != known
            && let Some(preset) = preset
        {
            let times = preset.times();
            lease.set_times(times);
            limit.send_replace(times.renew * 2);
            known = Some(preset);
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

fn first_board(config: &Config, durable: &DurableRecord, prepared: &Prepared) -> Board {
    Board {
        me: config.name.clone(),
        state: Arc::default(),
        applied_index: 0,
        times: config.settings.times(),
        raft: RaftBoard::default(),
        own: first_report(config, durable),
        refreshed_at: now(),
        postgres_answered_at: None,
        reports: Arc::default(),
        merged_at: now(),
        verdicts: Vec::new(),
        not_granted: prepared.not_granted.clone(),
        last_failover: None,
        failovers: BTreeMap::new(),
        callbacks: Vec::new(),
    }
}

fn first_report(config: &Config, durable: &DurableRecord) -> MemberReport {
    let kept = durable.get();
    MemberReport {
        member: config.name.clone(),
        node: NodeId(0),
        daemon_start: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        addresses: config.advertise.clone(),
        tags: config.tags.clone(),
        incarnation: kept.incarnation,
        system_identifier: None,
        server_version: None,
        postgres: PostgresStatus::Unknown {
            why: "the group has not formed yet".to_owned(),
        },
        min_epoch: kept.min_epoch,
        used: kept.used,
        seal: None,
        set_is_empty: false,
        lease_left_ms: None,
        applied_index: 0,
        not_promotable: Vec::new(),
        health: Default::default(),
        busy: None,
        hears: Vec::new(),
        drained: None,
        done_request: None,
        sync: None,
        checkpointed: Default::default(),
        verdict: "not formed yet".to_owned(),
    }
}

/// Makes the board anew whenever something on it has changed.
struct Boarder {
    store: ClusterStore,
    backend: Arc<Backend>,
    report: watch::Receiver<Option<MemberReport>>,
    verdict: watch::Receiver<Looked>,
    view: watch::Receiver<Option<Arc<MergedView>>>,
    not_granted: Vec<String>,
    callbacks: Callbacks,
    board: watch::Sender<Arc<Board>>,
    telemetry: Telemetry,
}

impl Boarder {
    async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut state = self.store.watch();
        let mut role = self.store.role();
        let mut merged_at = now();
        let mut elections_won = 0;
        let mut was_leader = false;
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                _ = state.changed() => {}
                _ = role.changed() => {}
                _ = self.report.changed() => {}
                changed = self.view.changed() => if changed.is_ok() { merged_at = now() },
                () = tokio::time::sleep(BOARD_EVERY) => {}
            }
            let is_leader = self.backend.leads();
            if is_leader && !was_leader {
                elections_won += 1;
            }
            was_leader = is_leader;
            let board = self.make(merged_at, elections_won);
            self.telemetry.set_epoch(board.state.epoch().0);
            self.board.send_replace(Arc::new(board));
        }
    }

    fn make(&self, merged_at: Moment, elections_won: u64) -> Board {
        let before = Arc::clone(&self.board.borrow());
        let applied = self.store.state();
        let role = self.store.role().borrow().clone();
        let view = self.view.borrow().clone();
        let Looked {
            line,
            looked_at,
            answered_at,
        } = self.verdict.borrow().clone();
        let mut verdicts: Vec<VerdictLine> = view
            .iter()
            .flat_map(|view| view.verdicts.clone())
            .map(|line| line.arrived(merged_at))
            .collect();
        let told = self.callbacks.told();
        verdicts.extend(told.iter().filter_map(callback_line));
        verdicts.extend(line);
        Board {
            me: before.me.clone(),
            state: Arc::clone(&applied.state),
            applied_index: applied.index,
            times: match applied.state.identity {
                Some(_) => applied.state.settings.times(),
                None => before.times,
            },
            raft: RaftBoard {
                me: Some(NodeId(self.store.identity().node_id)),
                term: role.term,
                leader: role.leader,
                is_ready_leader: role.is_leader && role.is_ready,
                voters: self.store.voters().into_iter().map(NodeId).collect(),
                quorum_age: role.quorum_ack_age,
                elections_won,
                renewals_refused: self
                    .backend
                    .refused
                    .load(std::sync::atomic::Ordering::Relaxed),
            },
            own: self
                .report
                .borrow()
                .clone()
                .unwrap_or_else(|| before.own.clone()),
            refreshed_at: looked_at.unwrap_or(before.refreshed_at),
            postgres_answered_at: answered_at,
            reports: view.as_ref().map_or_else(
                || Arc::clone(&before.reports),
                |view| Arc::new(view.reports.clone()),
            ),
            merged_at,
            verdicts,
            not_granted: self.not_granted.clone(),
            last_failover: view.as_ref().and_then(|view| view.last_failover),
            failovers: view
                .as_ref()
                .map(|view| view.failovers.clone())
                .unwrap_or_default(),
            callbacks: told,
        }
    }
}

/// How the newest callback of a kind went, as `status` and `explain` show it.
fn callback_line(told: &callbacks::Told) -> Option<VerdictLine> {
    let last = told.last.as_ref()?;
    let code = match last.is_done {
        true => "callback-done",
        false => "callback-failed",
    };
    Some(VerdictLine {
        rule: told.kind.word().to_owned(),
        code: code.to_owned(),
        text: last.text.clone(),
        since: last.at,
    })
}
