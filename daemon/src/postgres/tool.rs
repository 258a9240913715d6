//! Runs PostgreSQL's programs: long ones through the supervisor, short readers directly.
//!
//! The environment is built from nothing, so that no variable of ours (a password, a locale)
//! reaches a program; output of long ones goes to a file that nobody has to read.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::durable_file::Owner;
use super::supervisor::{Program, ToolExit};
use super::{Error, Postgres};

/// What a short tool said.
#[derive(Clone, Debug)]
pub struct ToolOutput {
    /// Whether it ended with 0.
    pub success: bool,
    /// stdout.
    pub stdout: String,
    /// stderr.
    pub stderr: String,
}

/// The environment of every program.
pub fn environment(extra: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
        ("HOME", "/nonexistent"),
    ]
    .iter()
    .chain(extra)
    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
    .collect();
    // An operator's library path is the one thing a hand-installed PostgreSQL may need from us.
    if let Ok(path) = std::env::var("LD_LIBRARY_PATH") {
        env.push(("LD_LIBRARY_PATH".to_owned(), path));
    }
    env
}

/// A command prepared to run as PostgreSQL's user.
pub fn command(program: &Path, owner: Owner) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(environment(&[]))
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if owner.hand_over {
        command.gid(owner.gid).uid(owner.uid);
    }
    command
}

impl Postgres {
    /// Where a program of this PostgreSQL is.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.options().bin_dir.join(name)
    }

    /// Runs a short program that only reads, and returns what it said.
    pub(super) async fn read_tool(&self, name: &str, args: &[String]) -> Result<ToolOutput, Error> {
        let limit = self.limits().short_tool;
        let mut command = command(&self.program(name), self.owner());
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = tokio::time::timeout(limit, command.output())
            .await
            .map_err(|_| Error::ToolTimedOut {
                tool: name.to_owned(),
                limit,
            })?
            .map_err(|source| Error::RunTool {
                tool: name.to_owned(),
                source,
            })?;
        Ok(ToolOutput {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a long program through the supervisor; returns its output when it ended with 0.
    pub(super) async fn run_tool(
        &self,
        name: &str,
        args: Vec<String>,
        limit: Option<Duration>,
    ) -> Result<String, Error> {
        let output = self.state_path(&format!("{name}.log"));
        super::durable_file::write(&output, b"", 0o600, self.owner())?;
        let program = Program {
            program: self.program(name),
            args,
            env: environment(&[]),
            output: output.clone(),
        };
        let exit = self.supervisor().run_tool(program, limit).await?;
        let said = super::durable_file::read(&output)?.unwrap_or_default();
        match exit {
            ToolExit::Code(0) => Ok(said),
            ToolExit::TimedOut => Err(Error::ToolTimedOut {
                tool: name.to_owned(),
                limit: limit.unwrap_or_default(),
            }),
            ToolExit::Code(_) | ToolExit::Signal(_) => Err(Error::ToolFailed {
                tool: name.to_owned(),
                exit,
                said: tail(&said),
            }),
        }
    }
}

/// The end of what a program said, short enough for a message.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(6)..].join("; ")
}
