//! What clients may order, and when it is refused. Each order is checked completely before
//! anything changes; every refusal has a code and a sentence.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::clock;
use crate::guard::{Guard, LastCensus};
use crate::kill::{Cause, Scope};
use crate::log_line;
use crate::process_set::{self, ProcessSet};
use crate::processes::{self, Identity};
use crate::protocol::{
    Answer, Arm, Hello, ProcessId, Refusal, RefusalCode, Request, RunTool, StartPostmaster, Status,
    StopMode, ToolStatus, ToolStop, VERSION,
};
use crate::server::{ClientId, Received};
use crate::sys::{self, ChildPlan};
use crate::tools;

fn refuse<T>(code: RefusalCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        code,
        message: message.into(),
    })
}

impl Guard {
    /// Does what one line asks, and answers it (a kill is answered when it is verified).
    pub(crate) fn obey(&mut self, received: Received) {
        let client = received.client;
        match received.line {
            Ok(line) => {
                if let Some(result) = self.carry_out(client, line.id, line.request) {
                    self.answer(client, Some(line.id), result);
                }
            }
            Err(message) => self.answer(client, None, refuse(RefusalCode::Malformed, message)),
        }
    }

    /// None: the answer comes later.
    fn carry_out(
        &mut self,
        client: ClientId,
        id: u64,
        request: Request,
    ) -> Option<Result<Answer, Refusal>> {
        Some(match request {
            Request::Hello { version } => self.hello(version),
            Request::Subscribe => {
                if let Some(server) = &mut self.server {
                    server.subscribe(client);
                }
                Ok(Answer::Subscribed)
            }
            Request::StartPostmaster(order) => self.start_postmaster(&order),
            Request::Arm(wanted) => self.arm(wanted),
            Request::Stop { set_id, mode } => self.stop(set_id, mode),
            Request::Reload { set_id } => self.signal_postmaster(set_id, Signal::HUP),
            Request::Promote { set_id, epoch } => self.promote(set_id, epoch),
            Request::Kill { reason } => {
                let waiting = Some((client, id));
                self.begin_kill_for(Cause::Ordered(reason), Scope::Everything, waiting);
                return None;
            }
            Request::KillForeign => {
                self.begin_kill_for(Cause::Foreign, Scope::Foreign, Some((client, id)));
                return None;
            }
            Request::RunTool(order) => self.run_tool(order),
            Request::StopTool { id, how } => self.stop_tool(id, how),
            Request::AcknowledgeTool { id } => self.acknowledge_tool(id),
            Request::Status => Ok(Answer::Status(Box::new(self.status()))),
        })
    }

    fn hello(&mut self, version: u32) -> Result<Answer, Refusal> {
        if version != VERSION {
            let message = format!("this guard speaks version {VERSION}, not {version}");
            return refuse(RefusalCode::WrongVersion, message);
        }
        let granted = self.privileges.clone();
        Ok(Answer::Hello(Box::new(Hello {
            version: VERSION,
            pid: self.pid,
            boot_id: granted.boot_id,
            real_time_priority: granted.real_time_priority,
            memory_lock: granted.memory_lock,
            oom_protection: granted.oom_protection,
            timer_slack: granted.timer_slack,
            cgroup: granted.cgroup,
            cgroup_path: self
                .groups
                .as_ref()
                .map(|groups| groups.postgres.path().to_owned()),
            watchdog: self.watchdog.granted(),
            kill_latency_us: granted
                .kill_latency
                .map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            status: self.status(),
        })))
    }

    fn start_postmaster(&mut self, order: &StartPostmaster) -> Result<Answer, Refusal> {
        self.refuse_start_now()?;
        let directory = self.checked_directory(order)?;
        if let Err(message) = self
            .locks
            .lock_directory(&self.arguments.data_dir, directory)
        {
            return refuse(RefusalCode::DataDirectoryLocked, message);
        }
        self.path_directory = Some(directory);
        match self.census() {
            Ok(census) if census.is_empty() => {}
            Ok(census) => {
                let found: Vec<i32> = census
                    .own
                    .iter()
                    .chain(&census.foreign)
                    .chain(&census.of_tools)
                    .map(|process| process.pid)
                    .collect();
                let message = format!("processes of this PostgreSQL are still there: {found:?}");
                return refuse(RefusalCode::SetNotEmpty, message);
            }
            Err(error) => {
                let message = format!("could not verify that the process set is empty: {error}");
                return refuse(RefusalCode::SetNotEmpty, message);
            }
        }
        let plan = ChildPlan::new(
            &order.program,
            &order.args,
            &order.env,
            &order.output,
            self.account_to_become(),
            Signal::QUIT,
        );
        let group = self
            .groups
            .as_ref()
            .map(|groups| groups.postgres.procs_file());
        let pid = plan
            .and_then(|plan| sys::start_child(&plan, group))
            .or_else(|error| {
                refuse(RefusalCode::SpawnFailed, format!("could not fork: {error}"))
            })?;
        let postmaster = ProcessId {
            pid,
            start_time: processes::start_time(pid).unwrap_or(0),
        };
        let set_id = self.fresh_id();
        self.set = Some(ProcessSet {
            id: set_id,
            postmaster: Some(postmaster),
            started_ns: clock::boottime_ns(),
            armed: None,
        });
        self.set_directory = Some(directory);
        self.set_timer();
        log_line!(
            "set {set_id}: postmaster {pid} started ({})",
            order.program.display()
        );
        Ok(Answer::Started { set_id, postmaster })
    }

    fn refuse_start_now(&self) -> Result<(), Refusal> {
        if self.is_ending() {
            return refuse(RefusalCode::Ending, "the guard is ending");
        }
        if let Some(killing) = &self.killing {
            let message = format!("a kill is under way ({})", killing.cause.text());
            return refuse(RefusalCode::Killing, message);
        }
        match &self.set {
            Some(set) => refuse(
                RefusalCode::SetNotEmpty,
                format!("set {} is running", set.id),
            ),
            None => Ok(()),
        }
    }

    /// The directory the caller means, the one on disk and the one this guard is for are the same,
    /// and what starts in it starts as a standby.
    fn checked_directory(&self, order: &StartPostmaster) -> Result<Identity, Refusal> {
        let own = &self.arguments.data_dir;
        let wrong = |message| refuse(RefusalCode::WrongDataDirectory, message);
        let found = match (Identity::of(&order.data_dir), Identity::of(own)) {
            (Ok(theirs), Ok(ours)) if theirs == ours => ours,
            (Ok(_), Ok(_)) => {
                return wrong(format!(
                    "{} is not this guard's data directory {}",
                    order.data_dir.display(),
                    own.display()
                ));
            }
            (Err(error), _) | (_, Err(error)) => {
                return wrong(format!(
                    "could not look at {}: {error}",
                    order.data_dir.display()
                ));
            }
        };
        let meant = Identity {
            dev: order.data_dir_dev,
            ino: order.data_dir_ino,
        };
        if meant != found {
            return wrong(format!(
                "the data directory is device {} inode {}, not device {} inode {}",
                found.dev, found.ino, meant.dev, meant.ino
            ));
        }
        let signal = own.join("standby.signal");
        if !std::fs::symlink_metadata(&signal).is_ok_and(|facts| facts.is_file()) {
            let message = format!(
                "{} is missing: every start is a standby start",
                signal.display()
            );
            return refuse(RefusalCode::NoStandbySignal, message);
        }
        Ok(found)
    }

    /// None when the guard already is the user.
    fn account_to_become(&self) -> Option<&crate::privileges::Account> {
        nix::unistd::Uid::effective()
            .is_root()
            .then_some(&self.arguments.account)
    }

    fn current_set(&mut self, set_id: u64) -> Result<&mut ProcessSet, Refusal> {
        let Some(set) = &mut self.set else {
            return refuse(RefusalCode::NoSuchSet, "there is no process set");
        };
        if set.id != set_id {
            let message = format!("the current set is {}, not {set_id}", set.id);
            return refuse(RefusalCode::NoSuchSet, message);
        }
        Ok(set)
    }

    fn arm(&mut self, wanted: Arm) -> Result<Answer, Refusal> {
        let (burnt, is_killing) = (self.burnt, self.killing.is_some());
        let set = self.current_set(wanted.set_id)?;
        let before = set.armed;
        if set.postmaster.is_none() {
            return refuse(RefusalCode::NoPostmaster, "the postmaster is gone");
        }
        let armed = process_set::arm(set, burnt, wanted, clock::boottime_ns())?;
        if before.is_none() && is_killing {
            // A standby that is being killed gets no lease any more.
            set.armed = None;
            return refuse(RefusalCode::Killing, "a kill is under way");
        }
        if before != Some(armed) {
            self.set_timer();
            self.watchdog.feed();
        }
        if before.is_none() {
            log_line!("set {}: armed for epoch {}", armed.set_id, armed.epoch);
        }
        Ok(Answer::Armed(armed))
    }

    /// An immediate stop burns the epoch: a lease must not be extended behind it.
    fn stop(&mut self, set_id: u64, mode: StopMode) -> Result<Answer, Refusal> {
        match mode {
            StopMode::Fast => self.signal_postmaster(set_id, Signal::INT),
            StopMode::Immediate => {
                let answer = self.signal_postmaster(set_id, Signal::QUIT)?;
                if let Some(armed) = self.current_set(set_id)?.armed {
                    self.burnt.burn(armed.epoch);
                }
                Ok(answer)
            }
        }
    }

    /// Without a deadline in force a promotion would make a primary that nobody ends.
    fn promote(&mut self, set_id: u64, epoch: u64) -> Result<Answer, Refusal> {
        let burnt = self.burnt.highest();
        let now_ns = clock::boottime_ns();
        match self.current_set(set_id)?.armed {
            Some(armed) if armed.epoch == epoch && armed.kill_at_ns > now_ns => {}
            Some(_) | None => {
                let message = format!("the set is not armed for epoch {epoch}");
                return refuse(RefusalCode::NotArmed, message);
            }
        }
        if burnt >= Some(epoch) {
            return refuse(RefusalCode::EpochBurnt, format!("epoch {epoch} is over"));
        }
        self.signal_postmaster(set_id, Signal::USR1)
    }

    fn signal_postmaster(&mut self, set_id: u64, signal: Signal) -> Result<Answer, Refusal> {
        let Some(postmaster) = self.current_set(set_id)?.postmaster else {
            return refuse(RefusalCode::NoPostmaster, "the postmaster is gone");
        };
        // Our child, not yet reaped: the number is still its own.
        send(postmaster.pid, signal)?;
        Ok(Answer::Signalled {
            pid: postmaster.pid,
        })
    }

    fn run_tool(&mut self, order: RunTool) -> Result<Answer, Refusal> {
        if self.is_ending() {
            return refuse(RefusalCode::Ending, "the guard is ending");
        }
        if self.tools.running().count() >= tools::MOST_RUNNING {
            let message = format!("{} tools run already", tools::MOST_RUNNING);
            return refuse(RefusalCode::TooManyTools, message);
        }
        let id = self.fresh_id();
        let failed = |message: String| Refusal {
            code: RefusalCode::SpawnFailed,
            message,
        };
        let group = match &self.groups {
            Some(groups) => Some(
                groups
                    .for_tool(id)
                    .map_err(|error| failed(format!("{error}: {}", source_of(&error))))?,
            ),
            None => None,
        };
        let plan = ChildPlan::new(
            &order.program,
            &order.args,
            &order.env,
            &order.output,
            self.account_to_become(),
            Signal::TERM,
        );
        let procs = group.as_ref().map(crate::cgroup::Group::procs_file);
        let pid = plan
            .and_then(|plan| sys::start_child(&plan, procs))
            .map_err(|error| failed(format!("could not fork: {error}")))?;
        log_line!("tool {id}: {} is pid {pid}", order.program.display());
        let started_ns = clock::boottime_ns();
        let status = ToolStatus {
            id,
            pid,
            program: order.program,
            started_ns,
            ended: None,
        };
        self.tools.add(status, group);
        Ok(Answer::ToolStarted { id, pid })
    }

    fn stop_tool(&mut self, id: u64, how: ToolStop) -> Result<Answer, Refusal> {
        let Some(tool) = self.tools.find(id) else {
            return refuse(RefusalCode::NoSuchTool, format!("there is no tool {id}"));
        };
        let pid = tool.status.pid;
        if tool.status.ended.is_some() {
            // Idempotent: what was asked for is so already.
            return Ok(Answer::Signalled { pid });
        }
        match how {
            ToolStop::Terminate => send(pid, Signal::TERM)?,
            ToolStop::Kill => tool.kill_all(),
        }
        Ok(Answer::Signalled { pid })
    }

    fn acknowledge_tool(&mut self, id: u64) -> Result<Answer, Refusal> {
        match self.tools.find(id) {
            Some(tool) if tool.status.ended.is_none() => {
                refuse(RefusalCode::ToolRuns, format!("tool {id} still runs"))
            }
            Some(_) | None => {
                self.tools.forget(id);
                Ok(Answer::Acknowledged)
            }
        }
    }

    pub(crate) fn status(&mut self) -> Status {
        if self.set.is_none() && self.killing.is_none() {
            self.path_directory = Identity::of(&self.arguments.data_dir).ok();
        }
        let (processes, is_empty, not_verified, foreign) = match self.recent_census() {
            // The postmaster runs, so "empty" is no question.
            Some(recent) => (recent.own, false, None, recent.foreign),
            None => self.fresh_census(),
        };
        Status {
            now_ns: clock::boottime_ns(),
            set: self.set.as_ref().map(ProcessSet::status),
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
            empty: is_empty,
            not_verified,
            burnt_epoch: self.burnt.highest(),
            killing: self.killing.as_ref().map(|killing| killing.cause.text()),
            last_exit: self.last_exit,
            last_kill: self.last_kill.clone(),
            tools: self.tools.status(),
            foreign,
        }
    }
}

/// While our postmaster runs, everybody's `/proc` is read no more often than this: it is the
/// guard's only cost, and "empty" is never answered from it.
const CENSUS_EVERY_NS: u64 = 1_000_000_000;

impl Guard {
    /// The last census, if our postmaster has been running since and it is recent.
    fn recent_census(&self) -> Option<LastCensus> {
        let set = self.set.as_ref().filter(|_| self.killing.is_none())?;
        set.postmaster?;
        let recent = self.last_census.as_ref()?;
        let age = clock::boottime_ns().saturating_sub(recent.taken_ns);
        (recent.set_id == set.id && age < CENSUS_EVERY_NS).then(|| recent.clone())
    }

    fn fresh_census(&mut self) -> (usize, bool, Option<String>, Vec<i32>) {
        let census = match self.census() {
            Ok(census) => census,
            Err(error) => return (0, false, Some(error.to_string()), Vec::new()),
        };
        let is_quiet = self.set.is_none() && self.killing.is_none();
        let foreign: Vec<i32> = census.foreign.iter().map(|process| process.pid).collect();
        self.last_census = self.set.as_ref().map(|set| LastCensus {
            taken_ns: clock::boottime_ns(),
            set_id: set.id,
            own: census.own.len(),
            foreign: foreign.clone(),
        });
        (
            census.own.len(),
            is_quiet && census.is_empty(),
            None,
            foreign,
        )
    }
}

fn send(pid: i32, signal: Signal) -> Result<(), Refusal> {
    Pid::from_raw(pid)
        .map_or(Ok(()), |pid| kill_process(pid, signal))
        .or_else(|error| {
            refuse(
                RefusalCode::SignalFailed,
                format!("signal not sent: {error}"),
            )
        })
}

fn source_of(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

/// Where a guard keeps its lock: beside the socket.
pub fn lock_path(socket: &Path) -> std::path::PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}
