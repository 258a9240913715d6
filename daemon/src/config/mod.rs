//! This member's config file: read once, checked as a whole, then immutable.
//!
//! `file.rs` is the TOML as written, `validate.rs` turns it into [`Config`] and lists every problem
//! at once. Nothing is opened, started or created before that. What the whole cluster shares and
//! changes at run time is not here but in `cluster_core::model::Settings`; the table `[settings]`
//! only says what a cluster is formed with.
//!
//! Secrets come from the file itself, from a file it names, or from the environment, which wins:
//! `CLUSTERD_CLUSTER_SECRET`, `CLUSTERD_ADMIN_TOKEN`, `CLUSTERD_SUPERUSER_PASSWORD`,
//! `CLUSTERD_REPLICATION_PASSWORD`, `CLUSTERD_REWIND_PASSWORD`, `CLUSTERD_APP_PASSWORD`.
//! `CLUSTERD_ACCEPT_NO_FAILOVER=1` is the key of that name.

pub mod file;
pub mod secret;
pub mod units;
mod validate;

#[cfg(test)]
pub(crate) use validate::postgres::PROGRAMS;

use crate::webhooks::payload::Severity;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_core::model::{Addresses, ClusterName, MemberKind, MemberName, Settings, Tags};

use file::File;
pub use secret::Secret;

/// Looks a variable of the environment up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything this member was told, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the cluster.
    pub cluster: ClusterName,
    /// This member's name.
    pub name: MemberName,
    /// Whether it has a PostgreSQL.
    pub kind: MemberKind,
    /// Directory of the daemon's own durable state. Absolute, never inside PGDATA.
    pub state_dir: PathBuf,
    /// The first members, sorted by name, this one included.
    pub members: Vec<ListedMember>,
    /// A group of two voters is accepted.
    pub accept_no_failover: bool,
    /// Where this member listens.
    pub listen: Listen,
    /// Where others reach this member.
    pub advertise: Addresses,
    /// Secrets and certificates.
    pub security: Security,
    /// None on a witness.
    pub postgres: Option<PostgresConfig>,
    /// The dead-man's switch.
    pub guard: GuardConfig,
    /// Backups and archived WAL.
    pub backup: Option<BackupConfig>,
    /// Programs that are told what happens to PostgreSQL here, by the callback's name.
    pub callbacks: BTreeMap<&'static str, CallbackProgram>,
    /// PgBouncers that are paused around a switchover.
    pub pgbouncer: Option<PgbouncerConfig>,
    /// Endpoints that events are sent to while this member leads.
    pub webhooks: Vec<WebhookConfig>,
    /// What an operator says about this member.
    pub tags: Tags,
    /// Logging.
    pub log: LogConfig,
    /// What a cluster is formed with; the applied state rules afterwards.
    pub settings: Settings,
    /// The file with every default filled in, for `--dump-config`.
    effective: File,
}

/// What an endpoint understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    /// The event as `/events` has it.
    Json,
    /// Events API v2.
    Pagerduty,
    /// Alert API.
    Opsgenie,
}

/// An endpoint that events are sent to.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// What it is called in the log.
    pub name: String,
    /// What it understands.
    pub format: WebhookFormat,
    /// Where to.
    pub url: String,
    /// The service's key; of `json` a bearer token.
    pub key: Option<Secret>,
    /// Events at least as grave.
    pub least: Severity,
}

/// PgBouncers that are paused around a switchover.
#[derive(Clone, Debug)]
pub struct PgbouncerConfig {
    /// `host:port` of each.
    pub addresses: Vec<String>,
    /// Who gives the commands.
    pub user: String,
    /// None: their `pg_hba` or `auth_type` asks for none.
    pub password: Option<Secret>,
    /// How long a switchover waits for transactions to end.
    pub pause_limit: Duration,
}

/// Where backups and archived WAL go.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// An absolute path of a directory, or the URL of an object store.
    pub repository: String,
    /// What it is opened with: file of credentials, public keys, rate.
    pub options: cluster_backup::Options,
    /// Credentials with which scheduled verifications read; none: those of the options.
    pub read_credentials: Option<PathBuf>,
    /// Credentials with which scheduled prunings delete; none: those of the options.
    pub prune_credentials: Option<PathBuf>,
    /// The private key that opens what is encrypted.
    pub identity: Option<PathBuf>,
    /// How often the archive is looked at for holes; zero: never.
    pub audit_interval: Duration,
    /// The program that PostgreSQL archives with.
    pub binary: PathBuf,
}

/// A program of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackProgram {
    /// Its absolute path, and the arguments that come before clusterd's.
    pub command: Vec<String>,
    /// After this it is killed with its process group.
    pub time_limit: Duration,
}

/// One first member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMember {
    /// Its name.
    pub name: MemberName,
    /// Whether it has a PostgreSQL.
    pub kind: MemberKind,
    /// Its gRPC address, `host:port`.
    pub peer: String,
}

/// Where this member listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// gRPC: Raft, peers, admin, discovery.
    pub grpc: SocketAddr,
    /// HTTP: health checks and metrics.
    pub http: SocketAddr,
}

/// Secrets and certificates.
#[derive(Clone, Debug)]
pub struct Security {
    /// Shared by all members, in every handshake.
    pub cluster_secret: Secret,
    /// Needed by every verb that changes anything; none = those verbs are refused.
    pub admin_token: Option<Secret>,
    /// Both listeners, when configured.
    pub tls: Option<Tls>,
}

/// Certificates of the listeners and towards other members. All PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// What the other members' certificates are signed by.
    pub authority: PathBuf,
    /// Only clients with a certificate signed by `authority` may talk gRPC.
    pub client_auth: bool,
}

/// A role of the database with its password.
#[derive(Clone, Debug)]
pub struct RoleConfig {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: Secret,
}

/// An application's database, created at bootstrap.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// The database's name.
    pub database: String,
    /// The role that owns it.
    pub owner: RoleConfig,
}

/// Encryption of replication and rewind connections: libpq's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationTls {
    /// `sslmode`; none leaves libpq's default.
    pub sslmode: Option<String>,
    /// `sslcert`.
    pub certificate: Option<PathBuf>,
    /// `sslkey`.
    pub key: Option<PathBuf>,
    /// `sslrootcert`.
    pub authority: Option<PathBuf>,
}

/// The PostgreSQL of this member.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Directory of the programs.
    pub bin_dir: PathBuf,
    /// PGDATA.
    pub data_dir: PathBuf,
    /// Separate directory for WAL.
    pub wal_dir: Option<PathBuf>,
    /// Directory of the Unix socket.
    pub socket_dir: PathBuf,
    /// `listen_addresses`.
    pub listen: Vec<String>,
    /// `port`.
    pub port: u16,
    /// Operating system user.
    pub os_user: String,
    /// Superuser of the database.
    pub superuser: String,
    /// Its password over TCP.
    pub superuser_password: Option<Secret>,
    /// Role that standbys stream with.
    pub replication: RoleConfig,
    /// Role that pg_rewind connects with.
    pub rewind: RoleConfig,
    /// Created at bootstrap.
    pub app: Option<AppConfig>,
    /// `--locale` of a new cluster.
    pub locale: String,
    /// `--encoding` of a new cluster.
    pub encoding: String,
    /// `--wal-segsize` of a new cluster. Unit: MiB.
    pub wal_segment_mb: u32,
    /// Lines of `pg_hba.conf` for clients.
    pub hba: Vec<String>,
    /// This member's own parameters.
    pub parameters: BTreeMap<String, String>,
    /// Encryption between members.
    pub replication_tls: ReplicationTls,
    /// A clone may replace the old copy before it is complete.
    pub clone_in_place: bool,
    /// Space for WAL set aside before a rewind. Unit: bytes.
    pub divergent_wal_cap_bytes: u64,
    /// Bandwidth of a clone. Unit: kB (1024 bytes) a second.
    pub clone_rate_kb: Option<u32>,
}

/// Who starts the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardStarter {
    /// The daemon, in a session of its own, when nobody answers on the socket.
    Daemon,
    /// A service manager; the daemon waits for it.
    Service,
}

/// Where the guard gets its control group from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupConfig {
    /// Below its own group if that works, else none.
    Auto,
    /// Never.
    None,
    /// Below this directory.
    Below(PathBuf),
}

impl fmt::Display for CgroupConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CgroupConfig::Auto => f.write_str("auto"),
            CgroupConfig::None => f.write_str("none"),
            CgroupConfig::Below(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The dead-man's switch.
#[derive(Clone, Debug)]
pub struct GuardConfig {
    /// Who starts it.
    pub started_by: GuardStarter,
    /// The program; none = `clusterd-guard` beside this program.
    pub binary: Option<PathBuf>,
    /// Its socket.
    pub socket: PathBuf,
    /// Its control group; `Display` gives the guard's own argument.
    pub cgroup: CgroupConfig,
    /// SCHED_FIFO priority, 1 to 99; 0 asks for none.
    pub realtime_priority: u8,
    /// Watchdog device.
    pub watchdog: Option<PathBuf>,
    /// Timeout given to the device; zero leaves the device's own.
    pub watchdog_timeout: Duration,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// How lines are written.
    pub format: LogFormat,
    /// A level, or directives (`info,clusterd::raft=debug`).
    pub level: String,
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("could not read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of another type.
    #[error("{path}: {message}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, column and what is wrong.
        message: String,
    },
    /// It reads, but will not do.
    #[error("{path} will not do:\n  {}", problems.join("\n  "))]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Every problem, as `key: what is wrong (what would do)`.
        problems: Vec<String>,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read or will not do; every problem is listed.
    pub fn load(path: &Path, environment: Environment<'_>) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let file = parse(path, &text)?;
        let mut problems = Vec::new();
        if file.holds_secrets() {
            problems.extend(validate::too_open(path).map(|why| format!("(this file): {why}")));
        }
        match validate::check(file, environment) {
            Ok(config) if problems.is_empty() => Ok(config),
            Ok(_) => Err(Error::Invalid {
                path: path.to_owned(),
                problems,
            }),
            Err(more) => {
                problems.extend(more);
                Err(Error::Invalid {
                    path: path.to_owned(),
                    problems,
                })
            }
        }
    }

    /// The file with every default filled in and every secret masked, as TOML.
    pub fn dump(&self) -> String {
        toml::to_string_pretty(&self.effective)
            .unwrap_or_else(|error| format!("# could not be written: {error}\n"))
    }

    /// Every text in it that must not be shown: secrets, and parameters that may hold one.
    pub fn secrets(&self) -> Vec<String> {
        let security = &self.security;
        let mut secrets: Vec<&str> = vec![security.cluster_secret.expose()];
        secrets.extend(security.admin_token.as_ref().map(Secret::expose));
        let keys = self.webhooks.iter().filter_map(|hook| hook.key.as_ref());
        secrets.extend(keys.map(Secret::expose));
        let pgbouncer = self.pgbouncer.as_ref();
        secrets.extend(
            pgbouncer
                .and_then(|it| it.password.as_ref())
                .map(Secret::expose),
        );
        if let Some(postgres) = &self.postgres {
            let roles = [&postgres.replication, &postgres.rewind];
            let owners = postgres.app.iter().map(|app| &app.owner);
            let roles = roles.into_iter().chain(owners);
            secrets.extend(roles.map(|role| role.password.expose()));
            secrets.extend(postgres.superuser_password.as_ref().map(Secret::expose));
            let may_hold_one = |name: &str| {
                let words = ["_command", "conninfo", "passphrase", "password"];
                words.iter().any(|word| name.contains(word))
            };
            let values = postgres.parameters.iter();
            secrets.extend(
                values
                    .filter(|(name, value)| may_hold_one(name) && value.len() >= 8)
                    .map(|(_, value)| value.as_str()),
            );
        }
        secrets.iter().map(|text| text.trim().to_owned()).collect()
    }

    /// This member's own entry of the list.
    pub fn own_entry(&self) -> &ListedMember {
        self.members
            .iter()
            .find(|member| member.name == self.name)
            .expect("validate refuses a list without this member")
    }
}

fn parse(path: &Path, text: &str) -> Result<File, Error> {
    toml::from_str(text).map_err(|error| Error::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

/// The process's own environment.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests;
