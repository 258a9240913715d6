//! The command line, with its help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit::CODES;
use crate::time::parse_duration;

const PLACES: &str = "\
Where the members are: --endpoints, else CLUSTERCTL_ENDPOINTS, else the first file there is of
~/.config/clusterctl.toml and /etc/clusterd/clusterctl.toml, else localhost:8009. Any member answers
and forwards to the leader. Such a file looks like this, every key optional:

  endpoints = [\"db1.example:8009\", \"db2.example:8009\", \"db3.example:8009\"]
  token_file = \"/etc/clusterd/admin-token\"
  tls_ca = \"/etc/clusterd/tls/ca.crt\"
  tls_cert = \"/etc/clusterd/tls/client.crt\"
  tls_key = \"/etc/clusterd/tls/client.key\"

Data goes to stdout, everything else to stderr.
";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "clusterctl",
    version,
    about = "Looks at and steers a Matriarch cluster of PostgreSQL servers",
    after_help = format!("{PLACES}\n{CODES}"),
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub struct Arguments {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What applies to every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// gRPC addresses of members, tried in this order
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "CLUSTERCTL_ENDPOINTS",
        hide_env_values = true
    )]
    pub endpoints: Vec<String>,
    /// How data is written
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub output: Format,
    /// Answers yes to the question that dangerous commands ask
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// File with the token that changes need; the token itself may be in CLUSTERCTL_TOKEN
    #[arg(long, global = true, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// Talks TLS, and checks members with the certificates in this file (PEM)
    #[arg(long, global = true, value_name = "PATH")]
    pub tls_ca: Option<PathBuf>,
    /// Certificate (PEM) to show to members; needs --tls-key
    #[arg(long, global = true, value_name = "PATH", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert
    #[arg(long, global = true, value_name = "PATH", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// How data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// Tab-separated lines, the first names the columns
    Tsv,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Members, one a line: role, state, timeline, positions, lag
    List(Watch),
    /// Whether every member is consistent with the cluster, and if not, why
    Overview(Watch),
    /// Members as a tree: who streams from whom
    Topology(Watch),
    /// One screen for a bad night: primary, lease, tolerance, who could take over, why
    Status(Watch),
    /// What would happen if the primary died now; of a member: why it is not promotable or in sync
    Explain(Explain),
    /// What happened: epochs, requests, and why
    History(History),
    /// The same as a stream, with who was behind it
    Events(Events),
    /// Planned hand-over to the named or the best standby
    Switchover(Switchover),
    /// Promotes a member although the cluster would not by itself; may lose transactions
    Failover(Failover),
    /// Restarts PostgreSQL on members, one after the other
    Restart(Restart),
    /// Writes PostgreSQL's configuration again and reloads it on members
    Reload(OnMembers),
    /// Clones a standby anew from the primary
    Reinit(Reinit),
    /// Stops all automatic action of the cluster
    Pause(Change),
    /// Ends a pause
    Resume(Change),
    /// Takes an open request back
    Cancel(Cancel),
    /// Takes back what is scheduled: the switchover, or the restart of members
    Flush(Flush),
    /// A member that is worked on: it confirms no commit, is not promoted, and gets no new readers
    Maintenance(Maintenance),
    /// What the whole cluster shares: durability mode, confirmations, zones, times
    Settings(Settings),
    /// Members as Raft knows them, and their replacement
    Members(Members),
    /// Base backups in the repository
    Backup(Backup),
    /// Snapshots: the whole cluster as one file, and back
    Snapshot(Snapshot),
    /// Getting data back: what was promised, what was measured
    Dr(Dr),
    /// Waits until the cluster is as wanted
    Wait(Wait),
    /// Prints a connection string of the cluster
    Dsn(Dsn),
    /// Collects what is known of every member into one file, for whoever helps
    Bundle(Bundle),
    /// What concerns the member on this host only
    Local(Local),
    /// Makes a member's config from its Patroni file; asks no member
    ImportPatroni(ImportPatroni),
    /// Versions of this tool and of every member
    Version,
    /// How to try a whole cluster on this machine
    Demo,
}

/// A command that only reads and can be repeated.
#[derive(Clone, Copy, Debug, Args)]
pub struct Watch {
    /// Shows it again every so many seconds, until interrupted
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..=3600)
    )]
    pub watch: Option<u32>,
}

/// `import-patroni`.
#[derive(Clone, Debug, Args)]
pub struct ImportPatroni {
    /// The member's Patroni file
    #[arg(value_name = "PATRONI.YML")]
    pub file: PathBuf,
    /// Every member of the cluster to be, with commas between: db1=10.0.0.1,db2=10.0.0.2,db3=10.0.0.3:witness
    #[arg(
        long,
        required = true,
        value_delimiter = ',',
        value_name = "NAME=HOST[:PORT][:witness]"
    )]
    pub members: Vec<String>,
    /// What `patronictl show-config` prints; without it, what the cluster was bootstrapped with
    #[arg(long, value_name = "FILE")]
    pub dynamic: Option<PathBuf>,
    /// A folder that is made for the config, the secrets and the list of what is not carried over
    #[arg(long, value_name = "FOLDER", default_value = "clusterd-config")]
    pub folder: PathBuf,
}

/// `dr`.
#[derive(Clone, Debug, Args)]
pub struct Dr {
    /// What to do.
    #[command(subcommand)]
    pub command: DrCommand,
}

/// What to do about getting data back.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum DrCommand {
    /// Each objective: what is promised, what was measured and when, whether it is kept and since when it is not
    Status(Watch),
}

/// `explain`.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// Why this member is not promotable, why it does not confirm commits, what it waits for
    #[arg(value_name = "MEMBER")]
    pub member: Option<String>,
    /// Repeat it.
    #[command(flatten)]
    pub watch: Watch,
}

/// `events`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Events {
    /// Goes on with whatever happens, at another member when this one is lost, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// Begins with so many of the newest; 0: all that is remembered
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub limit: u32,
    /// Begins after the event of this index instead
    #[arg(long, value_name = "INDEX", conflicts_with = "limit")]
    pub after: Option<u64>,
}

/// `bundle`.
#[derive(Clone, Debug, Args)]
pub struct Bundle {
    /// Where it goes, a name that ends in .tar.zst; nothing is overwritten
    #[arg(value_name = "FILE.tar.zst")]
    pub file: Option<PathBuf>,
}

/// `history`.
#[derive(Clone, Copy, Debug, Args)]
pub struct History {
    /// Only the newest so many lines
    #[arg(
        short = 'n',
        long,
        value_name = "COUNT",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub limit: u32,
    /// Repeat it.
    #[command(flatten)]
    pub watch: Watch,
}

/// How a change is asked for.
#[derive(Clone, Debug, Args)]
pub struct Change {
    /// Only says what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Why; goes into the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// How long to wait for the end of a request.
#[derive(Clone, Copy, Debug, Args)]
pub struct Waiting {
    /// How long to wait for the end: 30, 30s, 5min
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub timeout: Duration,
    /// Returns as soon as the request is recorded
    #[arg(long)]
    pub no_wait: bool,
}

/// `switchover`.
#[derive(Clone, Debug, Args)]
pub struct Switchover {
    /// The new primary; without it the best standby
    #[arg(long, value_name = "MEMBER", alias = "candidate")]
    pub to: Option<String>,
    /// Goes on only if this is the primary when it begins
    #[arg(long, value_name = "MEMBER", aliases = ["leader", "primary"])]
    pub from: Option<String>,
    /// Not now but then, ISO 8601 with a time zone: 2026-11-24T03:00:00+01:00
    #[arg(long, value_name = "TIME")]
    pub scheduled: Option<String>,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
    /// How long to wait.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// `failover`.
#[derive(Clone, Debug, Args)]
pub struct Failover {
    /// The new primary
    #[arg(long, value_name = "MEMBER", alias = "candidate")]
    pub to: String,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
    /// How long to wait.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// A verb on members.
#[derive(Clone, Debug, Args)]
pub struct OnMembers {
    /// On which members
    #[arg(required = true, value_name = "MEMBER")]
    pub members: Vec<String>,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
    /// How long to wait.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// `flush`.
#[derive(Clone, Debug, Args)]
pub struct Flush {
    /// `switchover`, or `restart` and the members it is scheduled for
    #[arg(required = true, value_name = "switchover | restart MEMBER")]
    pub words: Vec<String>,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
}

/// `maintenance`.
#[derive(Clone, Debug, Args)]
pub struct Maintenance {
    /// What to do.
    #[command(subcommand)]
    pub command: MaintenanceCommand,
}

/// What to do about maintenance.
#[derive(Clone, Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Begins: waits until no commit needs the member any more, then it may be taken away
    On(MaintenanceOn),
    /// Ends: it is a member like the others again
    Off(MaintenanceOff),
}

/// `maintenance on`.
#[derive(Clone, Debug, Args)]
pub struct MaintenanceOn {
    /// Which member; a primary hands over first (`clusterctl switchover`)
    #[arg(value_name = "MEMBER")]
    pub member: String,
    /// It ends by itself after this, 30 days at most; asked again it ends later: 30min, 4h
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, default_value = "1h")]
    pub length: Duration,
    /// Even when too few could confirm commits, or nobody could take over, without it
    #[arg(long)]
    pub force: bool,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
    /// How long to wait.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// `maintenance off`.
#[derive(Clone, Debug, Args)]
pub struct MaintenanceOff {
    /// Which member
    #[arg(value_name = "MEMBER")]
    pub member: String,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
}

/// What must be so for a restart.
#[derive(Clone, Debug, Default, Args)]
pub struct Conditions {
    /// Only where PostgreSQL is primary, or replica
    #[arg(
        long,
        value_name = "ROLE",
        value_parser = ["primary", "replica", "standby_leader"],
        conflicts_with = "pending"
    )]
    pub role: Option<String>,
    /// Only where the server is older than this version: 15.21
    #[arg(long, value_name = "VERSION", conflicts_with = "pending")]
    pub pg_version: Option<String>,
    /// Only where something waits for a restart
    #[arg(long, conflicts_with = "pending")]
    pub if_pending: bool,
}

/// `restart`.
#[derive(Clone, Debug, Args)]
pub struct Restart {
    /// On which members
    #[arg(
        required_unless_present = "pending",
        conflicts_with = "pending",
        value_name = "MEMBER"
    )]
    pub members: Vec<String>,
    /// On every member that waits for a restart: the standbys first, one at a time, while others confirm
    /// commits; then a switchover away from the primary, whose old member restarts by that
    #[arg(long)]
    pub pending: bool,
    /// Not now but then, ISO 8601 with a time zone: 2026-11-24T03:00:00+01:00
    #[arg(long, value_name = "TIME", conflicts_with = "pending")]
    pub scheduled: Option<String>,
    /// What must be so, now or then.
    #[command(flatten)]
    pub conditions: Conditions,
    /// With --scheduled: a restart that takes longer has failed
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "scheduled")]
    pub limit: Option<Duration>,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
    /// How long to wait for the end: 10min, 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10min")]
    pub timeout: Duration,
    /// Returns as soon as it is recorded
    #[arg(long)]
    pub no_wait: bool,
}

/// `reinit`.
#[derive(Clone, Debug, Args)]
pub struct Reinit {
    /// Which standby
    #[arg(value_name = "MEMBER")]
    pub member: String,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
    /// How long to wait for the end: 30min, 6h
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1h")]
    pub timeout: Duration,
    /// Returns as soon as the request is recorded
    #[arg(long)]
    pub no_wait: bool,
}

/// `cancel`.
#[derive(Clone, Debug, Args)]
pub struct Cancel {
    /// The request's id, as `status` shows it
    #[arg(value_name = "REQUEST")]
    pub request: String,
    /// Why; goes into the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `settings`.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// What to do.
    #[command(subcommand)]
    pub command: SettingsCommand,
}

/// What to do with settings.
#[derive(Clone, Debug, Subcommand)]
pub enum SettingsCommand {
    /// All settings, and who confirms commits before whom
    Show,
    /// Changes settings: all that are named, or none
    #[command(after_help = SETTINGS_KEYS)]
    Set(SetSettings),
    /// Changes the whole document in an editor (VISUAL or EDITOR)
    #[command(after_help = SETTINGS_KEYS)]
    Edit(Change),
    /// Who changed what, when and why: the newest 20 revisions
    History,
    /// How two revisions differ, or one and what is in force
    Diff(Diff),
    /// Goes back to an earlier revision, which becomes the newest
    Rollback(Rollback),
}

/// `settings diff`.
#[derive(Clone, Debug, Args)]
pub struct Diff {
    /// A revision, see `settings history`
    #[arg(value_name = "REVISION")]
    pub from: u64,
    /// Another one; without it, what is in force
    #[arg(value_name = "REVISION")]
    pub to: Option<u64>,
}

/// `settings rollback`.
#[derive(Clone, Debug, Args)]
pub struct Rollback {
    /// Which, see `settings history`
    #[arg(value_name = "REVISION")]
    pub revision: u64,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
}

const SETTINGS_KEYS: &str = "\
Keys:
  mode           who must confirm a commit: sync (k standbys, or as many as there are),
                 strict (never fewer than k_min, without them writes wait), async (nobody)
  k              how many standbys confirm a commit, 1 to 8
  k_min          in strict: never fewer than so many
  preset         times of lease and Raft: fast, lan, wan
  zones.MEMBER   the failure domain of a member; empty takes it away
  parameters.NAME
                 a PostgreSQL parameter of every member; empty takes it away. Every member's PostgreSQL is
                 asked before anything changes. A member's config file wins over it
  primary.parameters.NAME, standby.parameters.NAME
                 the same of whoever is the primary, and of the standbys; they win over the ones above
  maximum_lag_on_failover, seal_patience, probe_limit, keep_standby_sessions
                 as in the table [settings] of the config file
  backup_schedule
                 when a base backup is taken, in UTC: \"every 6h\", \"daily 02:00\", \"weekly sun 02:00\", five
                 fields of cron (\"30 2 * * mon-fri\") or off
  verify_schedule, prune_schedule
                 the same: when the newest backup is verified, and when what nothing needs is deleted
  verify_level, verify_timeout
                 how far a verification goes: files, archive or start; when it is given up
  keep_window, keep_at_least
                 what a pruning leaves: any moment this far back, and so many backups
  rto, rpo, backup_age, verification_age
                 what is promised, as a time or off; `dr status` says what is kept
With --member, over what the member's config file says (empty: as the file says):
  parameters.NAME    a PostgreSQL parameter of this member; it wins over all others
  nofailover         true: never promoted
  failover_priority  among standbys that are equally far the higher is preferred; 0 means never
  noloadbalance      true: 503 on the replica paths
  clonefrom          true: preferred source of a clone
  nosync             true: no commit waits for it
  sync_priority      higher confirms first; 0 is the same as nosync";

/// `settings set`.
#[derive(Clone, Debug, Args)]
pub struct SetSettings {
    /// What becomes what
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub assignments: Vec<String>,
    /// For this member only
    #[arg(long, value_name = "NAME")]
    pub member: Option<String>,
    /// Refused when somebody has changed the settings since this revision
    #[arg(long, value_name = "REVISION")]
    pub expected_revision: Option<u64>,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
}

/// `members`.
#[derive(Clone, Debug, Args)]
pub struct Members {
    /// What to do.
    #[command(subcommand)]
    pub command: MembersCommand,
}

/// What to do with members.
#[derive(Clone, Debug, Subcommand)]
pub enum MembersCommand {
    /// Raft ids, addresses, versions, incarnations
    List,
    /// A host comes back with an empty disk: it gets a new id, catches up, takes its place again
    Replace(Replace),
}

/// `members replace`.
#[derive(Clone, Debug, Args)]
pub struct Replace {
    /// Which member
    #[arg(value_name = "NAME")]
    pub member: String,
    /// Its new gRPC address, if that changes
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: Option<String>,
    /// How it is asked for.
    #[command(flatten)]
    pub change: Change,
}

/// `wait`.
#[derive(Clone, Debug, Args)]
#[group(id = "what", required = true, multiple = true, args = ["healthy", "primary", "streaming"])]
pub struct Wait {
    /// A primary accepts writes, every member is heard and does what it should
    #[arg(long)]
    pub healthy: bool,
    /// This member is the primary and accepts writes
    #[arg(long, value_name = "NAME")]
    pub primary: Option<String>,
    /// Every standby streams in the newest epoch
    #[arg(long)]
    pub streaming: bool,
    /// How long to wait: 30, 30s, 5min
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    pub timeout: Duration,
}

/// `dsn`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Dsn {
    /// Whom it leads to
    #[arg(long, value_enum, default_value = "any", value_name = "ROLE")]
    pub role: DsnRole,
}

/// Whom a connection string leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DsnRole {
    /// Names every member and finds the primary by itself, also after a failover
    Any,
    /// The member that is primary now
    Primary,
    /// Names every standby of now
    Replica,
}

/// `backup`.
#[derive(Clone, Debug, Args)]
pub struct Backup {
    /// What to do.
    #[command(subcommand)]
    pub command: BackupCommand,
}

/// What to do with base backups.
#[derive(Clone, Debug, Subcommand)]
pub enum BackupCommand {
    /// Copies a standby's PostgreSQL (the primary's, if there is no standby) into the repository
    Create(CreateBackup),
    /// What the repository holds
    List,
}

/// `backup create`.
#[derive(Clone, Debug, Args)]
pub struct CreateBackup {
    /// Of this member
    #[arg(long, value_name = "NAME")]
    pub member: Option<String>,
    /// Why; goes into the member's log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `snapshot`.
#[derive(Clone, Debug, Args)]
pub struct Snapshot {
    /// What to do.
    #[command(subcommand)]
    pub command: SnapshotCommand,
}

/// What to do with snapshots.
#[derive(Clone, Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Begins one, and prints its uuid; a standby is copied, or the primary if there is none
    Create(CreateSnapshot),
    /// How each member stands towards one: processing, completed, missing or failed
    Status(SnapshotStatus),
    /// All that are remembered, newest first
    List,
    /// Writes the file of a completed one to stdout, and checks it
    Download {
        /// Which
        #[arg(value_name = "UUID")]
        uuid: String,
    },
    /// Makes the data directory of a new cluster from a file; on its host, as PostgreSQL's user
    Restore(RestoreSnapshot),
}

/// `snapshot create`.
#[derive(Clone, Debug, Args)]
pub struct CreateSnapshot {
    /// Copies this member
    #[arg(long, value_name = "NAME")]
    pub member: Option<String>,
    /// Encrypts it for this public key (clusterd-backup key generate); may be repeated. Without it for
    /// the recipients in [backup] of the member that is asked
    #[arg(long = "recipient", value_name = "KEY", conflicts_with = "plain")]
    pub recipients: Vec<String>,
    /// Does not encrypt it
    #[arg(long)]
    pub plain: bool,
    /// Why; goes into the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `snapshot status`.
#[derive(Clone, Debug, Args)]
pub struct SnapshotStatus {
    /// Which
    #[arg(value_name = "UUID")]
    pub uuid: String,
    /// Repeat it.
    #[command(flatten)]
    pub watch: Watch,
}

/// `snapshot restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreSnapshot {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// An empty or new directory, absolute: postgres.data_dir of one member of the new cluster
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// Where PostgreSQL's programs are
    #[arg(long, value_name = "DIR")]
    pub bin_dir: PathBuf,
    /// File of a private key that opens it
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// `local`.
#[derive(Clone, Debug, Args)]
pub struct Local {
    /// What to do.
    #[command(subcommand)]
    pub command: LocalCommand,
}

/// What to do with the member on this host. Without --endpoints it is localhost:8009.
#[derive(Clone, Debug, Subcommand)]
pub enum LocalCommand {
    /// Hands the primary over if it is here, then stops PostgreSQL
    Leave(Leave),
    /// Says whether the quorum would survive a restart of this daemon: exit code 0 or 3
    MayRestart,
    /// Changes how much the daemon logs, until it is restarted
    LogLevel(LogLevel),
}

/// `local leave`.
#[derive(Clone, Debug, Args)]
pub struct Leave {
    /// Called by this systemd unit when it stops: asks nothing, and does nothing when the unit is only
    /// being restarted or its daemon is already gone
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// How long the hand-over may take before PostgreSQL is stopped all the same
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    pub timeout: Duration,
    /// Why; goes into the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `local log-level`.
#[derive(Clone, Debug, Args)]
pub struct LogLevel {
    /// error, warn, info, debug, trace, or like info,clusterd::raft=debug
    #[arg(value_name = "LEVEL")]
    pub level: String,
}
