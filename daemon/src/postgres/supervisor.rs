//! What the façade needs from whoever owns the processes of PostgreSQL: in production the guard.
//!
//! Only long programs go this way (postmaster, initdb, pg_basebackup, pg_rewind): they must live
//! and die with the guard, not with the daemon. Short readers such as pg_controldata do not.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use super::options::StopMode;

/// A program to run as PostgreSQL's user.
#[derive(Clone, Debug)]
pub struct Program {
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments without the program's own name. Never a password.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// File that stdout and stderr are appended to.
    pub output: PathBuf,
}

/// What the supervisor knows about the postmaster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerProcess {
    /// None, and nothing of it is left.
    None,
    /// It runs.
    Running {
        /// Its process id.
        pid: i32,
        /// How long it has been running, in milliseconds.
        for_ms: u64,
    },
    /// The postmaster is gone, or a kill is under way, and processes of it may be left.
    Ending {
        /// In words.
        why: String,
    },
}

/// How a tool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolExit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// The limit passed; it was killed.
    TimedOut,
}

/// The supervisor refused or cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SupervisorError(pub String);

/// The owner of the processes of one PostgreSQL.
#[async_trait]
pub trait Supervisor: Send + Sync + 'static {
    /// Starts a postmaster; returns its process id. Refused while anything of an older one is left.
    async fn start_postmaster(
        &self,
        program: Program,
        data_dir: PathBuf,
    ) -> Result<i32, SupervisorError>;
    /// Asks the postmaster to stop; does not wait.
    async fn stop(&self, mode: StopMode) -> Result<(), SupervisorError>;
    /// SIGHUP.
    async fn reload(&self) -> Result<(), SupervisorError>;
    /// SIGUSR1: look for the `promote` file. Only with a lease armed for this epoch.
    async fn promote(&self, epoch: u64) -> Result<(), SupervisorError>;
    /// Kills every process of this PostgreSQL and verifies it.
    async fn kill(&self, reason: &str) -> Result<(), SupervisorError>;
    /// Looks.
    async fn status(&self) -> Result<ServerProcess, SupervisorError>;
    /// Runs a program to its end, or kills it at the limit. Dropping the future leaves it running.
    async fn run_tool(
        &self,
        program: Program,
        limit: Option<Duration>,
    ) -> Result<ToolExit, SupervisorError>;
    /// Kills every tool that still runs, an earlier daemon's too, and waits until none does.
    async fn kill_tools(&self) -> Result<(), SupervisorError>;
}
