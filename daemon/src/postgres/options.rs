//! What the façade is told by its owner: places, names, roles, and what a configuration is made of.
//!
//! No config file is read here; the runtime builds these values. Passwords are `Secret`s, so that
//! no log line and no error can print one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cluster_core::model::{Epoch, Incarnation, MemberName, RuleId};
use serde::{Deserialize, Serialize};

/// A text that must never be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that must write it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A role with a password.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Its password, in clear; only its SCRAM verifier ever reaches SQL.
    pub password: Secret,
}

/// An application's database and its owner, created at bootstrap.
#[derive(Clone, Debug)]
pub struct AppDatabase {
    /// The database's name.
    pub database: String,
    /// The role that owns it.
    pub owner: Role,
}

/// How replication and rewind connections between members are encrypted.
#[derive(Clone, Debug, Default)]
pub struct ReplicationTls {
    /// libpq's `sslmode`; none leaves libpq's default.
    pub sslmode: Option<String>,
    /// `sslrootcert`.
    pub root_certificate: Option<PathBuf>,
    /// `sslcert`.
    pub certificate: Option<PathBuf>,
    /// `sslkey`.
    pub key: Option<PathBuf>,
}

/// Who may be let in by hba for replication and rewind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAddress {
    /// The member.
    pub member: MemberName,
    /// Its addresses; when it is only known by name, `host_name` is used.
    pub addresses: Vec<IpAddr>,
    /// A DNS name, as written in hba.
    pub host_name: Option<String>,
}

/// Everything the façade needs to know that does not change while it lives.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// This member's name.
    pub member: MemberName,
    /// Where `postgres`, `initdb`, `pg_rewind`… are.
    pub bin_dir: PathBuf,
    /// PGDATA.
    pub data_dir: PathBuf,
    /// A separate directory for WAL; `pg_wal` is then a symbolic link to it.
    pub wal_dir: Option<PathBuf>,
    /// Where tablespaces of other members lie here: their path, ours. Others keep their path.
    pub tablespace_map: Vec<(PathBuf, PathBuf)>,
    /// Our own directory, outside PGDATA: configuration files, passfile, markers, output of PostgreSQL.
    pub state_dir: PathBuf,
    /// Where the Unix socket lies.
    pub socket_dir: PathBuf,
    /// `listen_addresses`.
    pub listen_addresses: Vec<String>,
    /// `port`.
    pub port: u16,
    /// The operating system's user that PostgreSQL runs as.
    pub os_user: String,
    /// The superuser the daemon connects as, over the socket, by `peer`.
    pub superuser: String,
    /// The superuser's password, for connections over TCP; set at initdb.
    pub superuser_password: Option<Secret>,
    /// The role standbys stream with.
    pub replication: Role,
    /// The role `pg_rewind` connects with.
    pub rewind: Role,
    /// Created at bootstrap when set.
    pub app: Option<AppDatabase>,
    /// Encryption between members.
    pub replication_tls: ReplicationTls,
    /// `archive_command` of every server here; none leaves archiving to nobody.
    pub archive_command: Option<String>,
    /// Those of the member's config file.
    pub parameters: BTreeMap<String, String>,
    /// `--wal-segsize` of a new cluster, in MiB.
    pub wal_segment_mb: u32,
    /// `--locale` of a new cluster.
    pub locale: String,
    /// `--encoding` of a new cluster.
    pub encoding: String,
    /// Lines of `pg_hba.conf` for clients, used while the gate is open.
    pub hba_lines: Vec<String>,
    /// How much divergent WAL may be set aside before a rewind, in bytes.
    pub divergent_wal_cap_bytes: u64,
    /// `--max-rate` of a basebackup, in kilobytes a second.
    pub clone_rate_kb: Option<u32>,
}

impl PostgresOptions {
    /// Options with the defaults of a new cluster; the rest is set field by field.
    pub fn new(
        member: MemberName,
        bin_dir: PathBuf,
        data_dir: PathBuf,
        state_dir: PathBuf,
        replication: Role,
        rewind: Role,
    ) -> Self {
        Self {
            member,
            bin_dir,
            data_dir,
            wal_dir: None,
            tablespace_map: Vec::new(),
            socket_dir: state_dir.join("socket"),
            state_dir,
            listen_addresses: vec!["localhost".to_owned()],
            port: 5432,
            os_user: "postgres".to_owned(),
            superuser: "postgres".to_owned(),
            superuser_password: None,
            replication,
            rewind,
            app: None,
            replication_tls: ReplicationTls::default(),
            archive_command: None,
            parameters: BTreeMap::new(),
            wal_segment_mb: 4,
            locale: "C.UTF-8".to_owned(),
            encoding: "UTF8".to_owned(),
            hba_lines: Vec::new(),
            divergent_wal_cap_bytes: 4 << 30,
            clone_rate_kb: None,
        }
    }
}

/// The server a standby streams from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// The upstream member's name.
    pub member: MemberName,
    /// Its address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The epoch in which this conninfo was generated.
    pub epoch: Epoch,
    /// The incarnation of *our own* data directory.
    pub incarnation: Incarnation,
    /// Our slot on the upstream.
    pub slot: Option<String>,
    /// Only to fetch what a sealed member has more: under a name that no rule can hold.
    #[serde(default)]
    pub is_forward: bool,
}

impl Upstream {
    /// The name under which our walreceiver shows itself: `member~incarnation~epoch`, or one that is
    /// none of a member's.
    pub fn application_name(&self, own: &MemberName) -> String {
        if self.is_forward {
            return format!("_forward~{own}~{}", self.epoch);
        }
        SyncName {
            member: own.clone(),
            incarnation: self.incarnation,
            epoch: self.epoch,
        }
        .to_string()
    }
}

/// Whether clients may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    /// Only the daemon, and members for replication and rewind.
    Closed,
    /// The configured client lines as well.
    Open,
}

/// What the configuration files are generated from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigInputs {
    /// Where to stream from; none = sealed or primary.
    pub upstream: Option<Upstream>,
    /// `synchronous_standby_names`, as text.
    pub sync_names: String,
    /// The rule `sync_names` was made from; 0 = none, the fence.
    #[serde(default)]
    pub rule: RuleId,
    /// Whether clients may connect.
    pub gate: Gate,
    /// The cluster's parameters for this role; those of the member's config file win over them.
    pub parameters: BTreeMap<String, String>,
    /// What is set for this member at run time; it wins over all others.
    #[serde(default)]
    pub member_parameters: BTreeMap<String, String>,
    /// The other members, for hba.
    pub members: Vec<MemberAddress>,
    /// `restore_command`; cleared by `detach`.
    pub restore_command: Option<String>,
    /// `archive_command`, when archiving is on.
    pub archive_command: Option<String>,
    /// Whether sessions open on a standby survive its promotion (DESIGN section 7).
    #[serde(default)]
    pub keeps_sessions: bool,
    /// No apply delay, whatever the parameters say: somebody needs what lies here.
    #[serde(default)]
    pub replays_at_once: bool,
}

pub use cluster_core::model::confirmation::FENCE;
use cluster_core::model::confirmation::SyncName;

impl Default for ConfigInputs {
    /// Sealed: no upstream, the fence in force, the gate closed.
    fn default() -> Self {
        Self {
            upstream: None,
            sync_names: FENCE.to_owned(),
            rule: RuleId::default(),
            gate: Gate::Closed,
            parameters: BTreeMap::new(),
            member_parameters: BTreeMap::new(),
            members: Vec::new(),
            restore_command: None,
            archive_command: None,
            keeps_sessions: false,
            replays_at_once: false,
        }
    }
}

/// How a running server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions end, then a shutdown checkpoint.
    Fast,
    /// At once; recovery at the next start.
    Immediate,
}

/// How far a long copy has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written so far.
    pub done_bytes: u64,
    /// Bytes expected, when known.
    pub total_bytes: Option<u64>,
}

/// Time limits of the façade's own waits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One statement of `observe`.
    pub observe: Duration,
    /// One connection attempt.
    pub connect: Duration,
    /// A statement that changes something.
    pub statement: Duration,
    /// A short tool such as `pg_controldata`.
    pub short_tool: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            observe: Duration::from_millis(500),
            connect: Duration::from_millis(400),
            statement: Duration::from_secs(10),
            short_tool: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let role = Role {
            name: "replicator".into(),
            password: Secret::new("hunter2"),
        };
        assert!(!format!("{role:?}").contains("hunter2"));
    }

    #[test]
    fn a_sync_name_says_member_incarnation_and_epoch() {
        let upstream = Upstream {
            member: "n2".parse().expect("valid"),
            host: "127.0.0.1".into(),
            port: 5432,
            epoch: Epoch(7),
            incarnation: Incarnation(0xab),
            slot: None,
            is_forward: false,
        };
        assert_eq!(
            upstream.application_name(&"n1".parse().expect("valid")),
            "n1~000000ab~7"
        );
    }
}
