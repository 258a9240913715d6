//! `Postgres`: the list of everything we can do to this member's server. Nobody else runs a
//! program, opens PGDATA or writes SQL.
//!
//! It holds no rule about the cluster: whether to promote, follow or rewind is decided elsewhere.
//! What it does hold is the one way a server may start (DESIGN section 5): always with
//! `standby.signal`, never with a marker of something unfinished, out of recovery only by `promote`.
//!
//! | file | what it can do |
//! |---|---|
//! | `server` | start as a standby, stop, kill, reload, attach, gate |
//! | `detach`, `held_replay` | stop receiving; a standby that does not replay what it has |
//! | `promote` | leave recovery onto exactly one timeline |
//! | `status` | look: SQL when up, control file when down |
//! | `initdb`, `roles` | make a first database and its roles |
//! | `basebackup`, `clone_in_place`, `swap`, `rewind` | become a copy of, or rejoin, another member |
//! | `old_server`, `old_facts`, `old_standby`, `old_pace`, `import` | a server that somebody else runs here, and what is taken over of it |
//! | `backup` | copy itself as archives; hand WAL to the archive again |
//! | `slots`, `probe`, `parameters`, `end_of_wal` | what their names say |
//! | `data_dir`, `config_files`, `hba`, `conninfo`, `control_data` | files and their words |
//! | `sql`, `tool`, `supervisor`, `version` | the ways in, and what differs between majors |

mod backup;
mod basebackup;
mod clone_in_place;
mod config_files;
mod confirmations;
mod conninfo;
mod control_data;
mod data_dir;
mod detach;
mod durable_file;
mod end_of_wal;
mod guard;
mod hba;
mod held_replay;
mod import;
mod initdb;
mod old_facts;
mod old_pace;
mod old_server;
mod old_standby;
mod oldest_wal;
mod options;
mod parameters;
mod pending;
mod probe;
mod processes;
mod promote;
mod rewind;
mod rewound;
mod roles;
mod server;
mod slots;
mod sql;
mod status;
mod supervisor;
mod swap;
mod tool;
mod trial;
mod version;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cluster_core::model::{Lsn, TimelineId};

pub use backup::BaseBackup;
pub use basebackup::{CopyOf, free_bytes};
pub use confirmations::{CommitOverrides, Given};
pub use control_data::ControlData;
pub use data_dir::{DataDirKind, Marker};
pub use guard::{GuardSupervisor, server_process};
pub use import::Imported;
pub use old_facts::{OldFacts, OldParameter, OldRole, OldSlot};
pub use old_pace::OldPace;
pub use old_server::OldServer;
pub use old_standby::OldStandby;
pub use options::{
    AppDatabase, ConfigInputs, FENCE, Gate, Limits, MemberAddress, PostgresOptions, Progress,
    ReplicationTls, Role, Secret, StopMode, Upstream,
};
pub use probe::ProbeLatencies;
pub use promote::Promotion;
pub use rewind::RewindOutcome;
pub use slots::WantedSlot;
pub use supervisor::{Program, ServerProcess, Supervisor, SupervisorError, ToolExit};
pub use version::Major;

use durable_file::Owner;
use sql::Session;
use status::Observer;

/// This member's server. Cheap to clone; all clones are the same server.
#[derive(Clone)]
pub struct Postgres {
    inner: Arc<Inner>,
}

struct Inner {
    options: PostgresOptions,
    limits: Limits,
    owner: Owner,
    major: Major,
    supervisor: Arc<dyn Supervisor>,
    inputs: Mutex<ConfigInputs>,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    observer: tokio::sync::Mutex<Observer>,
    /// One change at a time: a start must not meet a rewind.
    change: tokio::sync::Mutex<()>,
    /// One comparison of slots at a time.
    slots: tokio::sync::Mutex<()>,
    /// The postmaster that was told to stop.
    stopping: Mutex<Option<i32>>,
    /// The gate is open on disk, and the server may not have read that yet.
    is_opening: std::sync::atomic::AtomicBool,
    /// A rewound server has not answered yet.
    is_rewound: std::sync::atomic::AtomicBool,
    probes: probe::Workers,
    /// What starts went well.
    trials: Mutex<trial::Trials>,
    /// The version of the installed program, and when that file was written.
    installed: Mutex<Option<(std::time::SystemTime, String)>>,
    /// One check of parameters at a time: it writes a file.
    validating: tokio::sync::Mutex<()>,
}

impl Postgres {
    /// Checks user and programs; touches neither the data directory nor a server.
    ///
    /// The inputs of the configuration files an earlier daemon wrote are taken over.
    pub async fn open(
        options: PostgresOptions,
        supervisor: Arc<dyn Supervisor>,
    ) -> Result<Postgres, Error> {
        let owner = Owner::look_up(&options.os_user)?;
        durable_file::make_directory(&options.state_dir, owner)?;
        let mut postgres = Inner {
            options,
            limits: Limits::default(),
            owner,
            major: version::OLDEST,
            supervisor,
            inputs: Mutex::default(),
            session: tokio::sync::Mutex::default(),
            observer: tokio::sync::Mutex::default(),
            change: tokio::sync::Mutex::default(),
            slots: tokio::sync::Mutex::default(),
            stopping: Mutex::default(),
            is_opening: std::sync::atomic::AtomicBool::default(),
            is_rewound: std::sync::atomic::AtomicBool::default(),
            probes: probe::Workers::default(),
            trials: Mutex::default(),
            installed: Mutex::default(),
            validating: tokio::sync::Mutex::default(),
        };
        postgres.major = find_major(&postgres.options.bin_dir, owner).await?;
        let postgres = Postgres {
            inner: Arc::new(postgres),
        };
        *lock(&postgres.inner.trials) = postgres.read_trials();
        postgres.read_rewind_note();
        if let Some(inputs) = postgres.read_inputs() {
            postgres.remember_inputs(inputs);
        }
        Ok(postgres)
    }

    /// What it was built with.
    pub fn options(&self) -> &PostgresOptions {
        &self.inner.options
    }

    /// The major version of the programs.
    pub fn major(&self) -> Major {
        self.inner.major
    }

    /// The inputs of the configuration files as last written.
    pub fn inputs(&self) -> ConfigInputs {
        lock(&self.inner.inputs).clone()
    }

    fn remember_inputs(&self, inputs: ConfigInputs) {
        *lock(&self.inner.inputs) = inputs;
    }

    fn limits(&self) -> Limits {
        self.inner.limits
    }

    fn owner(&self) -> Owner {
        self.inner.owner
    }

    fn supervisor(&self) -> &dyn Supervisor {
        self.inner.supervisor.as_ref()
    }

    fn kept_session(&self) -> &tokio::sync::Mutex<Option<Arc<Session>>> {
        &self.inner.session
    }
}

/// The major version of the programs in a directory, asked as the user that runs them.
///
/// # Errors
/// They cannot be run, or are too old.
pub async fn programs_major(bin_dir: &Path, os_user: &str) -> Result<Major, Error> {
    find_major(bin_dir, Owner::look_up(os_user)?).await
}

async fn find_major(bin_dir: &Path, owner: Owner) -> Result<Major, Error> {
    let program = bin_dir.join("postgres");
    let run = tool::command(&program, owner).arg("--version").output();
    let limit = Duration::from_secs(10);
    let output = tokio::time::timeout(limit, run)
        .await
        .map_err(|_| Error::ToolTimedOut {
            tool: "postgres".into(),
            limit,
        })?
        .map_err(|source| Error::RunTool {
            tool: program.display().to_string(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match Major::parse(&text) {
        Some(major) if major >= version::OLDEST => Ok(major),
        _ => Err(Error::UnsupportedVersion {
            found: text.trim().to_owned(),
        }),
    }
}

/// A poisoned lock holds a value that is as good as any: nothing here can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What could not be done, and so what the caller may do instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system does not know the configured user.
    #[error("the operating system has no user `{name}`")]
    NoSuchUser {
        /// The name.
        name: String,
    },
    /// We are neither root nor the configured user.
    #[error("PostgreSQL is to run as `{name}`, and this process is neither root nor that user")]
    WrongUser {
        /// The configured user.
        name: String,
    },
    /// The programs are too old or are no PostgreSQL.
    #[error("unsupported PostgreSQL: `{found}` (13 or newer is needed)")]
    UnsupportedVersion {
        /// What `postgres --version` said.
        found: String,
    },
    /// A file operation failed.
    #[error("could not {verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
    /// The control file lacks something or cannot be read.
    #[error("could not read the control file: missing or bad: {label}")]
    ControlData {
        /// The label, or what the tool said.
        label: String,
    },
    /// A program could not be started.
    #[error("could not run {tool}")]
    RunTool {
        /// Its name.
        tool: String,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
    /// A program ended with an error.
    #[error("{tool} failed ({exit:?}): {said}")]
    ToolFailed {
        /// Its name.
        tool: String,
        /// How it ended.
        exit: ToolExit,
        /// The end of its output.
        said: String,
    },
    /// A program did not end in time.
    #[error("{tool} did not end within {limit:?}")]
    ToolTimedOut {
        /// Its name.
        tool: String,
        /// The limit.
        limit: Duration,
    },
    /// The guard refused or cannot be reached.
    #[error("the guard did not do it: {0}")]
    Supervisor(#[from] SupervisorError),
    /// A statement failed.
    #[error("could not run a statement")]
    Sql {
        /// How it failed.
        #[source]
        source: Box<tokio_postgres::Error>,
    },
    /// A statement or a connection took too long.
    #[error("the server did not answer within {limit:?}")]
    SqlTimedOut {
        /// The limit.
        limit: Duration,
    },
    /// A statement returned nothing where one row was certain.
    #[error("a statement returned no row")]
    NoRow,
    /// The server runs, and this needs it stopped.
    #[error("the server is running")]
    IsRunning,
    /// The server does not run, and this needs it.
    #[error("the server is not running: {why}")]
    NotRunning {
        /// In words.
        why: String,
    },
    /// The data directory is not empty, and this needs it empty.
    #[error("the data directory is not empty")]
    NotEmpty,
    /// The data directory must not be started.
    #[error("the data directory cannot be used: {why}")]
    Unusable {
        /// Why.
        why: String,
    },
    /// Something unfinished was found.
    #[error("an interrupted {} was found; only a new clone cures it", marker.word())]
    Unfinished {
        /// What.
        marker: Marker,
    },
    /// A rule that is not newer than the newest one written here.
    #[error("rule {asked} was asked for, rule {newest} was given already")]
    OldRule {
        /// The one refused.
        asked: cluster_core::model::RuleId,
        /// The newest.
        newest: cluster_core::model::RuleId,
    },
    /// Parameters that would not be accepted; every problem.
    #[error("bad parameters: {}", problems.join("; "))]
    Parameters {
        /// Each with its name.
        problems: Vec<String>,
    },
    /// A wait of ours came to its limit.
    #[error("{what} took longer than {limit:?}")]
    TimedOut {
        /// For what.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The timeline asked for is already taken, or lies behind.
    #[error("cannot promote onto timeline {wanted}: {why}")]
    TimelineTaken {
        /// The timeline asked for.
        wanted: TimelineId,
        /// Why not.
        why: String,
    },
    /// It promoted, but onto another timeline; it was killed.
    #[error("promoted onto timeline {found} instead of {wanted}; the server was killed")]
    WrongTimeline {
        /// The timeline asked for.
        wanted: TimelineId,
        /// The one found.
        found: TimelineId,
    },
    /// It still follows somebody, so it may not be promoted.
    #[error("it is not sealed: {why}")]
    NotSealed {
        /// In words.
        why: String,
    },
    /// A rewind cannot help: only a clone can.
    #[error("a rewind is not possible, a clone is needed: {why}")]
    NeedsClone {
        /// Why.
        why: String,
    },
    /// The source of a copy could not be reached; nothing was changed.
    #[error("could not reach the source: {why}")]
    SourceUnreachable {
        /// What the tool said.
        why: String,
    },
    /// The source of a copy is another database; nothing was changed.
    #[error(
        "the source is database system {found}, not this cluster's {wanted}: nothing was copied"
    )]
    WrongDatabase {
        /// What the source says.
        found: u64,
        /// The cluster's.
        wanted: u64,
    },
    /// The source was granted another epoch while the copy was made.
    #[error(
        "the copy is on timeline {found}, not {wanted}: its source serves another epoch by now; \
         nothing was changed"
    )]
    CopyOfAnotherTimeline {
        /// What the copy says.
        found: TimelineId,
        /// The epoch's.
        wanted: TimelineId,
    },
    /// A finished copy did not pass its check; nothing was changed.
    #[error("the copy is not good: {why}")]
    BadCopy {
        /// What the check said.
        why: String,
    },
    /// The volume is too small.
    #[error("no room: needs {needs_bytes} bytes, has {has_bytes}")]
    NoRoom {
        /// Estimated need.
        needs_bytes: u64,
        /// Free now.
        has_bytes: u64,
    },
    /// WAL could not be read from `from`.
    #[error("could not find the end of WAL from {from}: {why}")]
    EndOfWal {
        /// Where reading began.
        from: Lsn,
        /// What the tool said.
        why: String,
    },
    /// A volume or a commit did not answer its probe.
    #[error("the {what} probe failed: {why}")]
    Probe {
        /// Which.
        what: &'static str,
        /// How.
        why: String,
    },
}

impl Error {
    /// Whether the server answered with SQLSTATE 57P03, and what it said.
    fn cannot_connect_now(&self) -> Option<String> {
        match self {
            Error::Sql { source } => {
                let error = source.as_db_error()?;
                (error.code() == &tokio_postgres::error::SqlState::CANNOT_CONNECT_NOW)
                    .then(|| error.message().to_owned())
            }
            _ => None,
        }
    }
}
