//! The edges: two listeners, HTTP for proxies and dashboards, gRPC for members and operators. They
//! translate and hold no rule; everything they say comes from the board.

pub mod admin;
pub mod asks;
pub mod config_document;
pub mod discovery;
pub mod documents;
pub mod events;
pub mod explain;
pub mod health;
pub mod http;
pub mod objectives;
pub mod peer;
pub mod planned;
pub mod raft;
pub mod settings;
pub mod snapshots;
pub mod status;
pub mod topology;
pub mod ui;
pub mod writes;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum_server::tls_rustls::RustlsConfig;
use cluster_backup::Manifest;
use cluster_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::RoutesBuilder;
use tonic::transport::server::TcpIncoming;

use crate::board::{Board, Foresight, LeaseView, Propose, TrySettings};
use crate::exchange::PeerBackend;
use crate::secret::{AdminToken, ClusterSecret};
use crate::tls::Tls;

/// How long open connections may finish what they do when the daemon stops.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// What a write is told on a member without a token.
pub const NO_TOKEN_CONFIGURED: &str = "this member has no token configured, so nothing can be \
     changed through it (set `security.admin_token_file` in its config file)";

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct Options {
    /// HTTP, `host:port`.
    pub http: String,
    /// gRPC, `host:port`.
    pub grpc: String,
    /// Certificates for both, when configured.
    pub tls: Option<Tls>,
    /// The shared token of operators; none refuses every change.
    pub token: Option<AdminToken>,
    /// The cluster's secret.
    pub secret: ClusterSecret,
}

/// What the edges stand on.
pub struct Parts {
    /// The newest board.
    pub board: watch::Receiver<Arc<Board>>,
    /// The lease.
    pub lease: Arc<dyn LeaseView>,
    /// The way to change anything.
    pub propose: Arc<dyn Propose>,
    /// What answers other members.
    pub peer: Arc<dyn PeerBackend>,
    /// What every member's PostgreSQL says to settings.
    pub try_settings: Arc<dyn TrySettings>,
    /// What can be done to this member alone.
    pub local: Arc<dyn LocalControl>,
    /// What the cluster would decide.
    pub foresight: Arc<dyn Foresight>,
    /// Backups of this member's server; none without a repository.
    pub backups: Option<Arc<dyn BackupControl>>,
    /// Files of snapshots on this member.
    pub snapshots: snapshots::Shelf,
    /// Adds further gRPC services, such as Raft's.
    pub extend: Box<dyn FnOnce(&mut RoutesBuilder) + Send>,
}

/// What an operator can do to the member that answers, and to no other.
#[async_trait]
pub trait LocalControl: Send + Sync {
    /// Hands the primary over if it is here, then stops PostgreSQL. The sentence tells how it went.
    async fn leave(&self, by: &str, limit: Duration) -> Result<String, String>;
    /// Changes what is logged; refuses a filter that cannot be read.
    fn set_log_level(&self, level: &str) -> Result<(), String>;
    /// What helps to find out what is wrong here, and these texts, with this member's secrets taken out
    /// of all.
    async fn collect(&self, also: Vec<(String, String)>) -> Collected;
}

/// What a member could collect of itself.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Name and text.
    pub files: Vec<(String, String)>,
    /// What could not be collected, and why.
    pub problems: Vec<String>,
}

/// Base backups of the member that answers.
#[async_trait]
pub trait BackupControl: Send + Sync {
    /// Takes one and stores it; answers when its manifest is in the repository.
    async fn create(&self, by: &str) -> Result<Manifest, String>;
    /// Where the repository is, and what it holds, oldest first.
    async fn list(&self) -> Result<(String, Vec<Manifest>), String>;
}

/// The listeners could not be opened or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("{key}: could not listen on {address} ({})", cause(source))]
    Listen {
        /// The key in the config file.
        key: &'static str,
        /// The address.
        address: String,
        /// The system's word.
        source: io::Error,
    },
    /// A listener ended.
    #[error("the {0} listener failed")]
    Http(&'static str, #[source] io::Error),
    /// The gRPC server failed.
    #[error("the gRPC listener failed")]
    Grpc(#[from] tonic::transport::Error),
    /// The descriptions of the services cannot be served.
    #[error("gRPC reflection could not be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use: another clusterd or program has it".into(),
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".into(),
        io::ErrorKind::PermissionDenied => {
            "not permitted: ports below 1024 need a privilege".into()
        }
        _ => error.to_string(),
    }
}

/// Both listeners, open, answering nothing yet.
pub struct Listeners {
    http: TcpListener,
    grpc: TcpListener,
}

impl Listeners {
    /// Opens both.
    ///
    /// # Errors
    /// [`Error::Listen`], naming the key and the address.
    pub async fn open(options: &Options) -> Result<Listeners, Error> {
        let http = open("listen.http", &options.http).await?;
        let grpc = open("listen.grpc", &options.grpc).await?;
        Ok(Listeners { http, grpc })
    }

    /// Where they listen: HTTP, gRPC.
    ///
    /// # Errors
    /// The system does not say.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.http.local_addr()?, self.grpc.local_addr()?))
    }
}

async fn open(key: &'static str, address: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            key,
            address: address.to_owned(),
            source,
        })
}

/// Opens both listeners and serves until `shutdown` is true.
///
/// # Errors
/// A listener cannot be opened or fails.
pub async fn serve(
    options: Options,
    parts: Parts,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Error> {
    let listeners = Listeners::open(&options).await?;
    listeners.serve(options, parts, shutdown).await
}

impl Listeners {
    /// Serves on both until `shutdown` is true.
    ///
    /// # Errors
    /// A listener fails.
    pub async fn serve(
        self,
        options: Options,
        parts: Parts,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let asks = asks::Asks::new(parts.board.clone(), Arc::clone(&parts.propose));
        let followers = events::Followers::new(parts.board.clone());
        let http = http::Http {
            asks: asks.clone(),
            followers: followers.clone(),
            lease: Arc::clone(&parts.lease),
            foresight: Arc::clone(&parts.foresight),
            try_settings: Arc::clone(&parts.try_settings),
            token: options.token.clone(),
            is_https: options.tls.is_some(),
            snapshots: parts.snapshots.clone(),
        };
        let services = (asks, followers);
        let grpc = serve_grpc(
            self.grpc,
            &options,
            parts,
            services,
            stopped(shutdown.clone()),
        );
        let http = serve_http(self.http, http, options.tls.clone(), stopped(shutdown));
        tokio::try_join!(http, grpc).map(|_| ())
    }
}

async fn stopped(mut shutdown: watch::Receiver<bool>) {
    // A sender that is gone means the runtime is: stop as well.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn serve_http(
    listener: TcpListener,
    http: http::Http,
    tls: Option<Tls>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let failed = |error| Error::Http("HTTP", error);
    let listener = listener.into_std().map_err(failed)?;
    let service = http::router(Arc::new(http)).into_make_service();
    let handle = axum_server::Handle::new();
    let stopping = {
        let handle = handle.clone();
        tokio::spawn(async move {
            stop.await;
            handle.graceful_shutdown(Some(DRAIN_LIMIT));
        })
    };
    let served = match tls {
        None => {
            let server = axum_server::from_tcp(listener).map_err(failed)?;
            server.handle(handle).serve(service).await
        }
        Some(tls) => {
            let config = RustlsConfig::from_config(tls.http_server());
            let server = axum_server::from_tcp_rustls(listener, config).map_err(failed)?;
            server.handle(handle).serve(service).await
        }
    };
    stopping.abort();
    served.map_err(failed)
}

async fn serve_grpc(
    listener: TcpListener,
    options: &Options,
    parts: Parts,
    (asks, followers): (asks::Asks, events::Followers),
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<v1::peer_server::PeerServer<peer::PeerService>>()
        .await;
    reporter
        .set_serving::<v1::admin_server::AdminServer<admin::AdminService>>()
        .await;
    reporter
        .set_serving::<v1::planned_server::PlannedServer<planned::grpc::PlannedService>>()
        .await;
    reporter
        .set_serving::<v1::discovery_server::DiscoveryServer<discovery::DiscoveryService>>()
        .await;
    reporter
        .set_serving::<v1::events_server::EventsServer<events::EventsService>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(cluster_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(health)
        .add_service(reflection)
        .add_service(v1::discovery_server::DiscoveryServer::new(
            discovery::DiscoveryService::new(asks.clone(), Arc::clone(&parts.lease)),
        ))
        .add_service(v1::events_server::EventsServer::new(
            events::EventsService { followers },
        ))
        .add_service(v1::peer_server::PeerServer::new(peer::PeerService::new(
            asks.clone(),
            options.secret.clone(),
            parts.peer,
        )))
        .add_service(v1::snapshots_server::SnapshotsServer::new(
            snapshots::grpc::SnapshotService {
                asks: asks.clone(),
                lease: Arc::clone(&parts.lease),
                shelf: parts.snapshots,
                token: options.token.clone(),
            },
        ))
        .add_service(v1::planned_server::PlannedServer::new(
            planned::grpc::PlannedService {
                asks: asks.clone(),
                lease: Arc::clone(&parts.lease),
                foresight: Arc::clone(&parts.foresight),
                token: options.token.clone(),
            },
        ))
        .add_service(v1::admin_server::AdminServer::new(admin::AdminService {
            asks,
            lease: parts.lease,
            local: parts.local,
            try_settings: parts.try_settings,
            foresight: parts.foresight,
            backups: parts.backups,
            token: options.token.clone(),
        }));
    (parts.extend)(&mut routes);
    let mut server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)));
    if let Some(tls) = &options.tls {
        server = server.tls_config(tls.grpc_server())?;
    }
    let serving = server
        .add_routes(routes.routes())
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    // Streams of watchers never end by themselves, so there is no draining here.
    tokio::select! {
        served = serving => served.map_err(Error::from),
        () = stop => Ok(()),
    }
}

/// The token in an `Authorization: Bearer TOKEN` header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
