//! The programs that run beside the postmaster: initdb, pg_basebackup, pg_rewind, pg_waldump,
//! `postgres --single`.
//!
//! Each has a session and, where there are control groups, a group of its own, so that it can be
//! killed with all it started and so that its processes are never taken for the postmaster's.

use std::collections::HashSet;

use crate::cgroup::Group;
use crate::log_line;
use crate::processes::{self, Depth, Process};
use crate::protocol::{Exit, ToolEnd, ToolStatus};

/// More running tools than this are refused.
pub const MOST_RUNNING: usize = 16;

/// Ended tools kept for clients that have not asked yet.
const MOST_ENDED: usize = 16;

/// One tool, running or ended.
#[derive(Debug)]
pub struct Tool {
    /// What clients see.
    pub status: ToolStatus,
    group: Option<Group>,
}

/// All tools.
#[derive(Debug, Default)]
pub struct Tools {
    all: Vec<Tool>,
}

impl Tools {
    /// A tool was started.
    pub fn add(&mut self, status: ToolStatus, group: Option<Group>) {
        self.all.push(Tool { status, group });
    }

    /// What clients see.
    pub fn status(&self) -> Vec<ToolStatus> {
        self.all.iter().map(|tool| tool.status.clone()).collect()
    }

    /// The tool with this id.
    pub fn find(&self, id: u64) -> Option<&Tool> {
        self.all.iter().find(|tool| tool.status.id == id)
    }

    /// Running ones.
    pub fn running(&self) -> impl Iterator<Item = &Tool> {
        self.all.iter().filter(|tool| tool.status.ended.is_none())
    }

    /// Sessions of the running tools: each leads one, so the number is its pid.
    pub fn sessions(&self) -> HashSet<i32> {
        self.running().map(|tool| tool.status.pid).collect()
    }

    /// Every process in a tool's control group.
    pub fn group_processes(&self) -> HashSet<i32> {
        self.all
            .iter()
            .filter_map(|tool| tool.group.as_ref()?.processes().ok())
            .flatten()
            .collect()
    }

    /// A child was reaped; if it was a tool, whatever it left behind is killed.
    pub fn note_end(&mut self, pid: i32, exit: Exit, at_ns: u64) -> Option<ToolStatus> {
        let tool = self
            .all
            .iter_mut()
            .find(|tool| tool.status.pid == pid && tool.status.ended.is_none())?;
        tool.status.ended = Some(ToolEnd { exit, at_ns });
        tool.kill_all();
        let status = tool.status.clone();
        let ended = self
            .all
            .iter()
            .filter(|tool| tool.status.ended.is_some())
            .count();
        for _ in MOST_ENDED..ended {
            let oldest = self.all.iter().position(|tool| tool.status.ended.is_some());
            if let Some(oldest) = oldest {
                self.all.remove(oldest).forget();
            }
        }
        Some(status)
    }

    /// A client has seen the end of this tool.
    pub fn forget(&mut self, id: u64) {
        if let Some(place) = self.all.iter().position(|tool| tool.status.id == id) {
            self.all.remove(place).forget();
        }
    }

    /// The guard ends: everything of every running tool is killed.
    pub fn kill_all(&self) {
        self.running().for_each(Tool::kill_all);
    }

    /// Removes every control group of a tool; the guard ends.
    pub fn remove_groups(&mut self) {
        self.all.drain(..).for_each(Tool::forget);
    }
}

impl Tool {
    /// SIGKILL to the tool and everything it started.
    pub fn kill_all(&self) {
        // A child just forked has not joined its group or session yet. While it is not reaped its number
        // is its own; afterwards it may be anybody's.
        if self.status.ended.is_none()
            && let Some(pid) = rustix::process::Pid::from_raw(self.status.pid)
            && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        {
            log_line!("could not kill tool {}: {error}", self.status.id);
        }
        if let Some(group) = &self.group {
            if let Err(error) = group.kill() {
                log_line!(
                    "could not kill the control group of tool {}: {error}",
                    self.status.id
                );
            }
            return;
        }
        match processes::scan(&[], Depth::All) {
            Ok(all) => all
                .iter()
                .filter(|process| process.session == self.status.pid)
                .for_each(Process::kill),
            Err(error) => log_line!("could not look for processes of a tool: {error}"),
        }
    }

    fn forget(self) {
        if let Some(group) = self.group {
            group.remove();
        }
    }
}
