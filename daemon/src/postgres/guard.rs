//! The guard as supervisor of PostgreSQL: the façade's words in the guard's protocol.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use clusterd_guard::clock::boottime_ns;
use clusterd_guard::protocol::{
    Answer, Exit, Request, RunTool, StartPostmaster, Status, StopMode as GuardStop, ToolStop,
};

use super::options::StopMode;
use super::supervisor::{Program, ServerProcess, Supervisor, SupervisorError, ToolExit};
use crate::guard_client::{Error as GuardError, Guard};

/// Any answer but those to a look and to a kill; only a guard without real-time priority on a very
/// busy machine comes near it.
const LIMIT: Duration = Duration::from_secs(10);

/// A look at everything.
const STATUS_LIMIT: Duration = Duration::from_millis(300);

/// How old the status may be that the guard told by itself.
const STATUS_AGE: Duration = Duration::from_secs(1);

/// A kill is answered when it is verified; the guard goes on if we give up.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// Orders to the guard behind a socket.
pub struct GuardSupervisor {
    guard: Guard,
}

impl From<GuardError> for SupervisorError {
    fn from(error: GuardError) -> Self {
        // A refusal's sentence is in its cause.
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        SupervisorError(format!("{error}{}", cause.unwrap_or_default()))
    }
}

impl GuardSupervisor {
    /// Talks to the guard at a socket. Must be called within the runtime.
    pub fn new(socket: PathBuf) -> Self {
        Self::with_guard(Guard::connect(socket, LIMIT))
    }

    /// Shares a connection.
    pub fn with_guard(guard: Guard) -> Self {
        Self { guard }
    }

    /// The guard itself.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// One request and its answer.
    pub async fn ask(&self, request: Request) -> Result<Answer, SupervisorError> {
        Ok(self.guard.call(request).await?)
    }

    /// Kills PostgreSQL processes of our data directory that somebody else started.
    pub async fn kill_foreign(&self) -> Result<(), SupervisorError> {
        self.guard.with_limit(KILL_LIMIT).kill_foreign().await?;
        Ok(())
    }

    /// The status as it is now; on a machine too busy for that, the one the guard told by itself a
    /// moment ago. An empty process set is never taken from an old one: a Release rests on it.
    pub async fn fresh_status(&self) -> Result<Status, SupervisorError> {
        if let Ok(status) = self.guard.with_limit(STATUS_LIMIT).status().await {
            return Ok(status);
        }
        if let Some(status) = self.told_status() {
            return Ok(status);
        }
        // The caller's own limit says how long it can wait.
        Ok(self.guard.status().await?)
    }

    fn told_status(&self) -> Option<Status> {
        let state = self.guard.state();
        let known = state.borrow();
        let status = known
            .status
            .as_ref()
            .filter(|status| age_of(status) < STATUS_AGE && status.set.is_some())?;
        known.is_connected.then(|| status.clone())
    }

    async fn set_id(&self) -> Result<u64, SupervisorError> {
        let set = self.guard.status().await?.set;
        set.map(|set| set.set_id)
            .ok_or_else(|| SupervisorError("no server runs".to_owned()))
    }

    async fn tool_end(
        &self,
        id: u64,
        limit: Option<Duration>,
    ) -> Result<ToolExit, SupervisorError> {
        let guard_pid = self.guard.hello().await?.pid;
        let end = self.guard.tool_end(id, guard_pid);
        let ended = match limit {
            None => end.await?,
            Some(limit) => match tokio::time::timeout(limit, end).await {
                Ok(ended) => ended?,
                Err(_) => {
                    self.guard.stop_tool(id, ToolStop::Kill).await?;
                    return Ok(ToolExit::TimedOut);
                }
            },
        };
        Ok(match ended {
            Exit::Code(code) => ToolExit::Code(code),
            Exit::Signal(signal) => ToolExit::Signal(signal),
        })
    }
}

/// The server's process, as a status of the guard shows it.
pub fn server_process(status: &Status) -> Result<ServerProcess, SupervisorError> {
    if !status.foreign.is_empty() {
        let pids = &status.foreign;
        return Err(SupervisorError(format!(
            "somebody else runs PostgreSQL in our data directory: {pids:?}"
        )));
    }
    if let Some(why) = &status.killing {
        return Ok(ServerProcess::Ending { why: why.clone() });
    }
    match &status.set {
        Some(set) => match &set.postmaster {
            Some(postmaster) => Ok(ServerProcess::Running {
                pid: postmaster.pid,
                for_ms: status.now_ns.saturating_sub(set.started_ns) / 1_000_000,
            }),
            None => Ok(ServerProcess::Ending {
                why: "processes are left".to_owned(),
            }),
        },
        None => match &status.not_verified {
            Some(why) => Err(SupervisorError(why.clone())),
            None => Ok(ServerProcess::None),
        },
    }
}

fn age_of(status: &Status) -> Duration {
    Duration::from_nanos(boottime_ns().saturating_sub(status.now_ns))
}

#[async_trait]
impl Supervisor for GuardSupervisor {
    async fn start_postmaster(
        &self,
        program: Program,
        data_dir: PathBuf,
    ) -> Result<i32, SupervisorError> {
        let meta = data_dir
            .metadata()
            .map_err(|error| SupervisorError(error.to_string()))?;
        let order = StartPostmaster {
            program: program.program,
            args: program.args,
            env: program.env,
            data_dir_dev: meta.dev(),
            data_dir_ino: meta.ino(),
            data_dir,
            output: program.output,
        };
        let (_, postmaster) = self.guard.start_postmaster(order).await?;
        Ok(postmaster.pid)
    }

    async fn stop(&self, mode: StopMode) -> Result<(), SupervisorError> {
        let mode = match mode {
            StopMode::Fast => GuardStop::Fast,
            StopMode::Immediate => GuardStop::Immediate,
        };
        Ok(self.guard.stop(self.set_id().await?, mode).await?)
    }

    async fn reload(&self) -> Result<(), SupervisorError> {
        Ok(self.guard.reload(self.set_id().await?).await?)
    }

    async fn promote(&self, epoch: u64) -> Result<(), SupervisorError> {
        Ok(self.guard.promote(self.set_id().await?, epoch).await?)
    }

    async fn kill(&self, reason: &str) -> Result<(), SupervisorError> {
        self.guard.with_limit(KILL_LIMIT).kill(reason).await?;
        Ok(())
    }

    async fn status(&self) -> Result<ServerProcess, SupervisorError> {
        server_process(&self.fresh_status().await?)
    }

    async fn run_tool(
        &self,
        program: Program,
        limit: Option<Duration>,
    ) -> Result<ToolExit, SupervisorError> {
        let order = RunTool {
            program: program.program,
            args: program.args,
            env: program.env,
            output: program.output,
        };
        let id = self.guard.run_tool(order).await?;
        self.tool_end(id, limit).await
    }

    async fn kill_tools(&self) -> Result<(), SupervisorError> {
        loop {
            let tools = self.guard.status().await?.tools;
            let running = tools
                .iter()
                .filter(|tool| tool.ended.is_none())
                .map(|tool| tool.id);
            let running: Vec<u64> = running.collect();
            if running.is_empty() {
                return Ok(());
            }
            for id in running {
                self.guard.stop_tool(id, ToolStop::Kill).await?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
