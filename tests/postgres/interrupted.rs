//! Programs of PostgreSQL killed at one exact moment, by running them step by step.
//!
//! Linux lets a debugger stop a process at each of its system calls: between any two of them the
//! disk can be looked at, and the process killed. No library has to be put into PostgreSQL.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::place::LIMIT;

/// Kills `pid` at the first system call before or after which `is_time` says so.
pub fn kill_when(pid: i32, mut is_time: impl FnMut() -> bool) -> Result<()> {
    let stopped = stop_when(pid, |_| Ok(is_time()))?;
    // Killed while it stands still: not one more step is taken.
    nix::sys::signal::kill(stopped, Signal::SIGKILL).context("kill the process")
}

/// Holds `pid` still at the moment it is about to send `to` a SIGHUP, until `go`; says when through
/// `held`.
#[cfg(target_arch = "x86_64")]
pub fn hold_before_signal(pid: i32, to: i32, held: &Sender<()>, go: &Receiver<()>) -> Result<()> {
    const KILL: u64 = 62;
    let stopped = stop_when(pid, |pid| {
        let registers = ptrace::getregs(pid).context("read its registers")?;
        let is_to = i32::try_from(registers.rdi).is_ok_and(|it| it == to);
        Ok(registers.orig_rax == KILL && is_to && registers.rsi == Signal::SIGHUP as u64)
    })?;
    held.send(()).context("say so")?;
    go.recv_timeout(LIMIT).context("never told to go on")?;
    ptrace::detach(stopped, None).context("let it go")
}

/// Lets a process run from system call to system call until `is_time` says so; it stands still then.
/// Runs on one thread, because only the thread that attached may go on.
fn stop_when(pid: i32, mut is_time: impl FnMut(Pid) -> Result<bool>) -> Result<Pid> {
    let pid = Pid::from_raw(pid);
    ptrace::attach(pid).context("attach to the process")?;
    let begin = Instant::now();
    let mut pending = None;
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).context("wait for the process")? {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                bail!("it ended before the moment came")
            }
            WaitStatus::Stopped(_, Signal::SIGSTOP | Signal::SIGTRAP) => {}
            WaitStatus::Stopped(_, signal) => pending = Some(signal),
            _ => {}
        }
        // A signal is passed on first: who detaches here would swallow it.
        if pending.is_none() && is_time(pid)? {
            return Ok(pid);
        }
        ensure!(begin.elapsed() < LIMIT, "the moment never came");
        ptrace::syscall(pid, pending.take()).context("let the process go on")?;
    }
}

/// Waits until a tool works on this data directory; its process.
pub fn wait_for_tool(tool: &str, data_dir: &Path) -> Result<i32> {
    let begin = Instant::now();
    let place = data_dir.display().to_string();
    loop {
        for entry in Path::new("/proc").read_dir()?.flatten() {
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            let program = words.split('\0').next().unwrap_or_default();
            if program.ends_with(tool)
                && words.contains(&place)
                && let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse().ok())
            {
                return Ok(pid);
            }
        }
        ensure!(begin.elapsed() < LIMIT, "{tool} never ran");
        std::thread::sleep(Duration::from_millis(1));
    }
}
