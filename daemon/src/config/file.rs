//! The config file as it is written: one struct a table, nothing checked but the names of keys.
//!
//! Times, sizes and addresses stay text here (`"10s"`, `"16MB"`, `"host:port"`), so that
//! `validate.rs` can report every bad one at once; serde would stop at the first. The documentation
//! of the keys for people is `config/clusterd.toml`; a test compares the two.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cluster_core::model::settings::Mode;
use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this member.
    pub name: String,
    /// `database` or `witness`.
    pub kind: String,
    /// Directory of the daemon's own durable state.
    pub state_dir: PathBuf,
    /// Lease and Raft times of a new cluster: `fast`, `lan` or `wan`.
    pub preset: String,
    /// A group of two voters is accepted.
    pub accept_no_failover: bool,
    /// Where this member listens.
    pub listen: ListenTable,
    /// Where others reach this member.
    pub advertise: AdvertiseTable,
    /// Secrets and certificates.
    pub security: SecurityTable,
    /// The PostgreSQL of this member; absent on a witness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresTable>,
    /// The dead-man's switch.
    pub guard: GuardTable,
    /// Backups and archived WAL; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupTable>,
    /// Programs that are told what happens to PostgreSQL here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callbacks: Option<CallbacksTable>,
    /// PgBouncers that are paused around a switchover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgbouncer: Option<PgbouncerTable>,
    /// Endpoints that events are sent to by whoever leads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<WebhookTable>,
    /// What an operator says about this member.
    pub tags: TagsTable,
    /// Logging.
    pub log: LogTable,
    /// Settings the cluster starts with.
    pub settings: SettingsTable,
    /// Every first member, this one included.
    pub members: Vec<MemberTable>,
}

/// One entry of `[[members]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemberTable {
    /// Its name.
    pub name: String,
    /// `database` or `witness`.
    pub kind: String,
    /// Its gRPC address, `host:port`, as the others reach it.
    pub peer: String,
}

/// `[listen]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenTable {
    /// gRPC, `address:port`.
    pub grpc: String,
    /// HTTP, `address:port`.
    pub http: String,
}

/// `[advertise]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdvertiseTable {
    /// gRPC, `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// HTTP, `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// PostgreSQL, `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<String>,
}

/// `[security]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityTable {
    /// Shared by all members, in every handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_secret: Option<Secret>,
    /// File that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_secret_file: Option<PathBuf>,
    /// Needed by every verb that changes anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<Secret>,
    /// File that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token_file: Option<PathBuf>,
    /// Certificate chain (PEM) of both listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Certificates (PEM) that the other members' certificates are signed by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// Only clients with a certificate signed by `tls_ca` may talk gRPC.
    pub client_auth: bool,
}

/// `[postgres]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresTable {
    /// Directory of `postgres`, `initdb`, `pg_rewind` and the others.
    pub bin_dir: PathBuf,
    /// PGDATA.
    pub data_dir: PathBuf,
    /// Separate directory for WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_dir: Option<PathBuf>,
    /// Directory of the Unix socket; default `socket` below `state_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_dir: Option<PathBuf>,
    /// `listen_addresses`.
    pub listen: Vec<String>,
    /// `port`.
    pub port: u16,
    /// Operating system user that PostgreSQL runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_user: Option<String>,
    /// Superuser of the database.
    pub superuser: String,
    /// Its password over TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superuser_password: Option<Secret>,
    /// File that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superuser_password_file: Option<PathBuf>,
    /// Role that standbys stream with.
    pub replication_user: String,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_password: Option<Secret>,
    /// File that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_password_file: Option<PathBuf>,
    /// Role that pg_rewind connects with.
    pub rewind_user: String,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewind_password: Option<Secret>,
    /// File that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewind_password_file: Option<PathBuf>,
    /// Database created at bootstrap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_database: Option<String>,
    /// Its owner, created at bootstrap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_user: Option<String>,
    /// The owner's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_password: Option<Secret>,
    /// File that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_password_file: Option<PathBuf>,
    /// `--locale` of a new cluster.
    pub locale: String,
    /// `--encoding` of a new cluster.
    pub encoding: String,
    /// `--wal-segsize` of a new cluster.
    pub wal_segment_size: String,
    /// Lines of `pg_hba.conf` for clients.
    pub hba: Vec<String>,
    /// libpq's `sslmode` between members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sslmode: Option<String>,
    /// libpq's `sslcert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_cert: Option<PathBuf>,
    /// libpq's `sslkey`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_key: Option<PathBuf>,
    /// libpq's `sslrootcert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_ca: Option<PathBuf>,
    /// A clone may replace the old copy before it is complete.
    pub clone_in_place: bool,
    /// Space for WAL set aside before a rewind.
    pub divergent_wal_cap: String,
    /// Bandwidth of a clone, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clone_rate_limit: Option<String>,
    /// This member's own PostgreSQL parameters.
    pub parameters: BTreeMap<String, toml::Value>,
}

/// `[guard]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardTable {
    /// `daemon` or `service`.
    pub started_by: String,
    /// The program; default `clusterd-guard` beside `clusterd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
    /// Its socket; default `guard.sock` below `state_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// `auto`, `none` or the parent group's directory.
    pub cgroup: String,
    /// SCHED_FIFO priority; 0 asks for none.
    pub realtime_priority: u8,
    /// Watchdog device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<PathBuf>,
    /// Timeout given to the device.
    pub watchdog_timeout: String,
}

/// `[backup]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupTable {
    /// The repository: an absolute path of a directory, or the URL of an object store.
    pub repository: String,
    /// File of the object store's options and credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// Public keys that everything is encrypted for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// Bandwidth of base backups to the repository, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<String>,
    /// File of options and credentials with which scheduled verifications read; default `credentials`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_credentials: Option<PathBuf>,
    /// File of options and credentials with which scheduled prunings delete; default `credentials`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune_credentials: Option<PathBuf>,
    /// File of a private key that opens what `recipients` encrypt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<PathBuf>,
    /// How often the archive is looked at for holes; 0: never.
    pub audit_interval: String,
    /// The program that PostgreSQL archives with; default `clusterd-backup` beside `clusterd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
}

impl Default for BackupTable {
    fn default() -> Self {
        BackupTable {
            repository: String::new(),
            credentials: None,
            recipients: Vec::new(),
            max_rate: None,
            read_credentials: None,
            prune_credentials: None,
            identity: None,
            audit_interval: "10min".to_owned(),
            binary: None,
        }
    }
}

/// `[callbacks]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallbacksTable {
    /// PostgreSQL runs here now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_start: Option<CallbackTable>,
    /// It does not any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_stop: Option<CallbackTable>,
    /// It was restarted on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_restart: Option<CallbackTable>,
    /// It has another role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_role_change: Option<CallbackTable>,
    /// It has read its configuration again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_reload: Option<CallbackTable>,
    /// The new primary lets clients in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_activate: Option<CallbackTable>,
    /// Before it is stopped on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_stop: Option<CallbackTable>,
}

/// One of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallbackTable {
    /// The program and the arguments that come before clusterd's.
    pub command: Vec<String>,
    /// After this it is killed; absent: the default of its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<String>,
}

/// `[pgbouncer]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PgbouncerTable {
    /// `host:port` of each.
    pub addresses: Vec<String>,
    /// One of its `admin_users`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// That user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The same, in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// How long a switchover waits for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_limit: Option<String>,
}

/// One entry of `[[webhooks]]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookTable {
    /// What it is called in the log.
    pub name: String,
    /// `json`, `pagerduty` or `opsgenie`.
    pub format: String,
    /// Where to; the two services have one of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The service's key; of `json` a bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// The same, in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Events at least as grave as `info`, `warning` or `critical`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least: Option<String>,
}

/// `[tags]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TagsTable {
    /// Never promoted.
    pub nofailover: bool,
    /// Higher is preferred among equals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_priority: Option<u32>,
    /// Answers 503 on replica paths.
    pub noloadbalance: bool,
    /// Preferred source of a clone.
    pub clonefrom: bool,
    /// Never a sync standby.
    pub nosync: bool,
    /// Higher confirms first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_priority: Option<u32>,
    /// Any others.
    pub custom: BTreeMap<String, toml::Value>,
}

/// `[log]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogTable {
    /// `text` or `json`.
    pub format: String,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives.
    pub level: String,
}

/// `[settings]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsTable {
    /// Who must confirm a commit: `sync`, `strict` or `async`.
    pub mode: String,
    /// How many standbys confirm a commit.
    pub k: u32,
    /// In `strict`: never fewer than so many.
    pub k_min: u32,
    /// The failure domain of each member.
    pub zones: BTreeMap<String, toml::Value>,
    /// A standby further behind is no candidate.
    pub maximum_lag_on_failover: String,
    /// How long sealing waits for a member that is heard.
    pub seal_patience: String,
    /// How long a primary's disk may be silent.
    pub probe_limit: String,
    /// Sessions on a standby survive its promotion.
    pub keep_standby_sessions: bool,
    /// When the cluster takes a base backup by itself.
    pub backup_schedule: String,
    /// PostgreSQL parameters of every member.
    pub parameters: BTreeMap<String, toml::Value>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            cluster: String::new(),
            name: String::new(),
            kind: "database".to_owned(),
            state_dir: "/var/lib/clusterd".into(),
            preset: "lan".to_owned(),
            accept_no_failover: false,
            listen: ListenTable::default(),
            advertise: AdvertiseTable::default(),
            security: SecurityTable::default(),
            postgres: None,
            guard: GuardTable::default(),
            backup: None,
            callbacks: None,
            pgbouncer: None,
            webhooks: Vec::new(),
            tags: TagsTable::default(),
            log: LogTable::default(),
            settings: SettingsTable::default(),
            members: Vec::new(),
        }
    }
}

impl Default for MemberTable {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: "database".to_owned(),
            peer: String::new(),
        }
    }
}

impl Default for ListenTable {
    fn default() -> Self {
        Self {
            grpc: "0.0.0.0:8009".to_owned(),
            http: "0.0.0.0:8008".to_owned(),
        }
    }
}

impl Default for PostgresTable {
    fn default() -> Self {
        Self {
            bin_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            wal_dir: None,
            socket_dir: None,
            listen: vec!["*".to_owned()],
            port: 5432,
            os_user: None,
            superuser: "postgres".to_owned(),
            superuser_password: None,
            superuser_password_file: None,
            replication_user: "replicator".to_owned(),
            replication_password: None,
            replication_password_file: None,
            rewind_user: "rewinder".to_owned(),
            rewind_password: None,
            rewind_password_file: None,
            app_database: None,
            app_user: None,
            app_password: None,
            app_password_file: None,
            locale: "C.UTF-8".to_owned(),
            encoding: "UTF8".to_owned(),
            wal_segment_size: "4MB".to_owned(),
            hba: Vec::new(),
            sslmode: None,
            ssl_cert: None,
            ssl_key: None,
            ssl_ca: None,
            clone_in_place: false,
            divergent_wal_cap: "4GB".to_owned(),
            clone_rate_limit: None,
            parameters: BTreeMap::new(),
        }
    }
}

impl Default for GuardTable {
    fn default() -> Self {
        Self {
            started_by: "daemon".to_owned(),
            binary: None,
            socket: None,
            cgroup: "auto".to_owned(),
            realtime_priority: 10,
            watchdog: None,
            watchdog_timeout: "0s".to_owned(),
        }
    }
}

impl Default for LogTable {
    fn default() -> Self {
        Self {
            format: "text".to_owned(),
            level: "info".to_owned(),
        }
    }
}

impl Default for SettingsTable {
    fn default() -> Self {
        Self {
            mode: Mode::default().word().to_owned(),
            k: 1,
            k_min: 1,
            zones: BTreeMap::new(),
            maximum_lag_on_failover: "1MB".to_owned(),
            seal_patience: "1s".to_owned(),
            probe_limit: "5s".to_owned(),
            keep_standby_sessions: false,
            backup_schedule: "off".to_owned(),
            parameters: BTreeMap::new(),
        }
    }
}
