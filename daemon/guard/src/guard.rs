//! The guard itself: its state and its one loop.
//!
//! Each wake-up looks at the deadline before anything else, and again after waiting: the timer is
//! what wakes the guard, the comparison is what decides. A kill is stepped by the loop, so that
//! clients are answered while a process refuses to die. Orders of clients are in `orders`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal as NixSignal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::arguments::Arguments;
use crate::census::{self, Census};
use crate::cgroup::Groups;
use crate::clock;
use crate::kill::{Cause, Found, Killing, Scope};
use crate::log_line;
use crate::process_set::{Burnt, ProcessSet};
use crate::processes::Identity;
use crate::protocol::{
    Answer, Event, Exit, Granted, GuardLine, KillReport, Outcome, PostmasterExit, Refusal,
};
use crate::server::{ClientId, Server};
use crate::startup::Locks;
use crate::tools::Tools;
use crate::watchdog::Watchdog;

/// Pause between two strikes: short against K_hard, long enough not to starve the dying.
const STRIKE_PAUSE: Duration = Duration::from_millis(1);

/// Strikes without a pause in between: stop, kill, and two looks that find nobody.
const STRIKES_A_STEP: u32 = 4;

/// How long an ending guard waits for an immediate stop before it kills.
const ENDING_GRACE_NS: u64 = 1_000_000_000;

/// What the system granted this guard; fixed at its start.
#[derive(Debug, Clone)]
pub struct Privileges {
    /// This boot.
    pub boot_id: String,
    /// SCHED_FIFO.
    pub real_time_priority: Granted,
    /// mlockall.
    pub memory_lock: Granted,
    /// oom_score_adj.
    pub oom_protection: Granted,
    /// Timer slack.
    pub timer_slack: Granted,
    /// Control group.
    pub cgroup: Granted,
    /// Order to verified, one child.
    pub kill_latency: Option<Duration>,
}

/// Everything the guard knows.
#[derive(Debug)]
pub struct Guard {
    pub(crate) arguments: Arguments,
    pub(crate) privileges: Privileges,
    pub(crate) pid: i32,
    pub(crate) groups: Option<Groups>,
    pub(crate) locks: Locks,
    pub(crate) tools: Tools,
    pub(crate) set: Option<ProcessSet>,
    /// The data directory as the current set was started in.
    pub(crate) set_directory: Option<Identity>,
    /// What the data directory's path leads to; looked up only while no set depends on the answer.
    pub(crate) path_directory: Option<Identity>,
    pub(crate) burnt: Burnt,
    pub(crate) killing: Option<Killing>,
    pub(crate) last_exit: Option<PostmasterExit>,
    pub(crate) last_kill: Option<KillReport>,
    pub(crate) last_id: u64,
    /// The census answered to `Status` while our postmaster runs, and when it was taken.
    pub(crate) last_census: Option<LastCensus>,
    pub(crate) watchdog: Watchdog,
    pub(crate) server: Option<Server>,
    ending_since: Option<u64>,
    signals: SignalFd,
    timer: OwnedFd,
}

/// A census that is good enough for a server that runs anyway.
#[derive(Debug, Clone)]
pub(crate) struct LastCensus {
    pub(crate) taken_ns: u64,
    pub(crate) set_id: u64,
    pub(crate) own: usize,
    pub(crate) foreign: Vec<i32>,
}

impl Guard {
    /// Puts the parts together; serves nobody yet.
    ///
    /// # Errors
    /// The timer could not be made.
    pub fn new(
        arguments: Arguments,
        privileges: Privileges,
        groups: Option<Groups>,
        locks: Locks,
        signals: SignalFd,
    ) -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let watchdog = Watchdog::new(arguments.watchdog.clone(), arguments.watchdog_timeout);
        Ok(Self {
            path_directory: Identity::of(&arguments.data_dir).ok(),
            arguments,
            privileges,
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            groups,
            locks,
            tools: Tools::default(),
            set: None,
            set_directory: None,
            burnt: Burnt::default(),
            killing: None,
            last_exit: None,
            last_kill: None,
            last_census: None,
            last_id: 0,
            watchdog,
            server: None,
            ending_since: None,
            signals,
            timer,
        })
    }

    /// Kills what an earlier guard left, for at most `limit`; what is left then is killed while
    /// serving, and nothing is called empty before.
    pub fn kill_left_over(&mut self, limit: Duration) {
        let end_ns = clock::boottime_ns() + clock::nanoseconds(limit);
        self.begin_kill(Cause::LeftOver, Scope::Everything);
        while self.killing.is_some() && clock::boottime_ns() < end_ns {
            self.reap();
            self.step_kill();
            self.wait_for(Some(STRIKE_PAUSE));
        }
    }

    /// Serves until SIGTERM has been obeyed.
    pub fn run(&mut self, server: Server) {
        self.server = Some(server);
        loop {
            self.check_deadline();
            self.step_kill();
            if self.has_ended() {
                return;
            }
            let pause = match (&self.killing, self.ending_since) {
                (Some(_), _) => Some(STRIKE_PAUSE),
                (None, Some(_)) => Some(STRIKE_PAUSE * 10),
                (None, None) => None,
            };
            self.wait_for(pause);
            self.check_deadline();
            self.read_signals();
            self.reap();
            self.serve();
        }
    }

    fn serve(&mut self) {
        let received = self.server.as_mut().map(Server::turn).unwrap_or_default();
        for received in received {
            // A deadline may pass while a long queue of requests is worked off.
            self.check_deadline();
            self.obey(received);
        }
    }

    /// Sleeps until something happens, or for `pause`.
    fn wait_for(&self, pause: Option<Duration>) {
        let mut list = vec![
            PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        if let Some(server) = &self.server {
            server.watch(&mut list);
        }
        let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
        // An interrupted wait is a wake-up like any other.
        let _ = poll(&mut list, pause.as_ref());
    }

    /// Kills if the set's time is over.
    pub(crate) fn check_deadline(&mut self) {
        let Some(armed) = self.set.as_ref().and_then(|set| set.armed) else {
            return;
        };
        let is_killing = self
            .killing
            .as_ref()
            .is_some_and(|killing| killing.scope == Scope::Everything);
        let is_over = self.burnt.highest() >= Some(armed.epoch) && is_killing;
        if clock::boottime_ns() >= armed.kill_at_ns && !is_over {
            self.begin_kill(Cause::Deadline, Scope::Everything);
        }
    }

    /// Makes the timer fire at the set's deadline, or never.
    pub(crate) fn set_timer(&self) {
        let at_ns = self
            .set
            .as_ref()
            .and_then(ProcessSet::kill_at_ns)
            .unwrap_or(0);
        self.set_timer_to(Duration::from_nanos(at_ns));
    }

    fn stop_timer(&self) {
        self.set_timer_to(Duration::ZERO);
    }

    fn set_timer_to(&self, at: Duration) {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let it_value = Timespec::try_from(at).unwrap_or(zero);
        let setting = Itimerspec {
            it_interval: zero,
            it_value,
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting) {
            log_line!("could not set the timer: {error}");
        }
    }

    /// A kill nobody ordered.
    fn begin_kill(&mut self, cause: Cause, scope: Scope) {
        self.begin_kill_for(cause, scope, None);
    }

    /// The kill first, every word about it afterwards. `waiting` is answered when it is verified.
    pub(crate) fn begin_kill_for(
        &mut self,
        cause: Cause,
        scope: Scope,
        waiting: Option<(ClientId, u64)>,
    ) {
        let now_ns = clock::boottime_ns();
        let set_id = self.set.as_ref().map(|set| set.id);
        let groups = self.groups.as_ref();
        let text = cause.text();
        let is_sweep = matches!(cause, Cause::PostmasterExited | Cause::LeftOver);
        if cause.burns()
            && let Some(armed) = self.set.as_ref().and_then(|set| set.armed)
        {
            self.burnt.burn(armed.epoch);
        }
        match &mut self.killing {
            Some(killing) => {
                killing.widen(scope, set_id, groups);
                killing.waiting.extend(waiting);
            }
            None => {
                let mut killing = Killing::begin(cause, scope, set_id, now_ns, groups);
                killing.waiting.extend(waiting);
                self.killing = Some(killing);
            }
        }
        if scope == Scope::Everything {
            // It would stay readable, and the loop would never sleep while somebody refuses to die.
            self.stop_timer();
        }
        self.step_kill();
        if self.killing.is_none() && is_sweep {
            return;
        }
        log_line!("kill of set {set_id:?}: {text}");
        self.publish(&Event::KillBegan {
            set_id,
            reason: text,
        });
    }

    /// A few strikes, or the end of the kill.
    fn step_kill(&mut self) {
        let Some(mut killing) = self.killing.take() else {
            return;
        };
        let mut found = Found::LookAgain;
        if killing.is_group_dying(self.groups.as_ref()) {
            killing.strike_group(self.groups.as_ref());
            self.killing = Some(killing);
            return;
        }
        for _ in 0..STRIKES_A_STEP {
            let census = if killing.is_quick() {
                census::take_quickly(&self.directories())
            } else {
                self.census()
            };
            // A look that failed proves nothing: the next step looks again.
            found = census.map_or(Found::Dying, |census| {
                killing.strike(&census, self.groups.as_ref())
            });
            if found != Found::LookAgain {
                break;
            }
        }
        let must_be_reaped = killing.scope == Scope::Everything
            && self
                .set
                .as_ref()
                .is_some_and(|set| set.postmaster.is_some());
        if found == Found::Nobody && !must_be_reaped {
            self.finish_kill(killing);
        } else {
            self.killing = Some(killing);
        }
    }

    fn finish_kill(&mut self, killing: Killing) {
        let report = killing.report(clock::boottime_ns());
        let ended = match killing.scope {
            Scope::Everything => self.set.take(),
            Scope::Foreign => None,
        };
        if killing.scope == Scope::Everything {
            self.set_directory = None;
            self.path_directory = Identity::of(&self.arguments.data_dir).ok();
            self.watchdog.disarm();
        }
        for (client, id) in killing.waiting {
            self.answer(client, Some(id), Ok(Answer::Killed(report.clone())));
        }
        if report.killed > 0 || killing.cause.burns() {
            log_line!(
                "killed and verified: {} processes in {} us ({})",
                report.killed,
                (report.end_ns - report.begin_ns) / 1_000,
                report.reason
            );
            self.publish(&Event::Killed(report.clone()));
            self.last_kill = Some(report);
        }
        if let Some(set) = ended {
            log_line!("set {} is empty", set.id);
            self.publish(&Event::SetEmpty { set_id: set.id });
        }
        self.set_timer();
    }

    /// Looks at everybody who could write to the data directory.
    pub(crate) fn census(&self) -> io::Result<Census> {
        census::take(
            self.groups.as_ref(),
            &self.directories(),
            &self.tools,
            self.pid,
        )
    }

    /// The data directory under its path and under the set's own inode, which may have moved.
    fn directories(&self) -> Vec<Identity> {
        let mut directories: Vec<Identity> = self.set_directory.into_iter().collect();
        directories.extend(
            self.path_directory
                .filter(|it| Some(*it) != self.set_directory),
        );
        directories
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo.cast_signed();
            if number == NixSignal::SIGTERM as i32 && self.ending_since.is_none() {
                log_line!("SIGTERM: the guard ends");
                self.begin_ending();
            }
        }
    }

    fn begin_ending(&mut self) {
        self.ending_since = Some(clock::boottime_ns());
        let postmaster = self.set.as_ref().and_then(|set| set.postmaster);
        if let Some(pid) = postmaster.and_then(|it| Pid::from_raw(it.pid)) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        for tool in self.tools.running() {
            if let Some(pid) = Pid::from_raw(tool.status.pid) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }

    /// The guard is ending: no more starts.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending_since.is_some()
    }

    fn has_ended(&mut self) -> bool {
        let Some(since) = self.ending_since else {
            return false;
        };
        let is_late = clock::boottime_ns() > since + ENDING_GRACE_NS;
        if is_late {
            self.tools.kill_all();
        }
        if self.set.is_some() {
            if is_late && self.killing.is_none() {
                self.begin_kill(Cause::Ending, Scope::Everything);
            }
            return false;
        }
        self.killing.is_none() && self.tools.running().next().is_none()
    }

    /// Ends in order: nobody of ours is left.
    pub fn close(mut self) {
        self.tools.remove_groups();
        if let Some(groups) = self.groups.take() {
            groups.remove();
        }
        let _ = std::fs::remove_file(&self.arguments.socket);
        log_line!("ended");
    }

    /// Collects every child that ended, orphans included.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => continue,
            };
            let at_ns = clock::boottime_ns();
            let is_postmaster = self
                .set
                .as_ref()
                .and_then(|set| set.postmaster)
                .is_some_and(|postmaster| postmaster.pid == pid);
            if is_postmaster {
                self.note_postmaster_exit(pid, exit, at_ns);
            } else if let Some(ended) = self.tools.note_end(pid, exit, at_ns) {
                log_line!("tool {} (pid {pid}) ended: {exit:?}", ended.id);
                self.publish(&Event::ToolExited(ended));
            }
        }
    }

    /// The children of a postmaster must not outlive it: a computing one goes on committing.
    fn note_postmaster_exit(&mut self, pid: i32, exit: Exit, at_ns: u64) {
        let Some(set) = &mut self.set else { return };
        set.postmaster = None;
        // A clean shutdown leaves the epoch usable for a restart under the same grant.
        if exit != Exit::Code(0)
            && let Some(armed) = set.armed
        {
            self.burnt.burn(armed.epoch);
        }
        let ended = PostmasterExit {
            set_id: set.id,
            pid,
            exit,
            at_ns,
        };
        self.last_exit = Some(ended);
        self.publish(&Event::PostmasterExited(ended));
        if self.killing.is_none() {
            self.begin_kill(Cause::PostmasterExited, Scope::Everything);
        } else if let Some(killing) = &mut self.killing {
            killing.widen(Scope::Everything, Some(ended.set_id), self.groups.as_ref());
        }
        log_line!("postmaster {pid} of set {} ended: {exit:?}", ended.set_id);
    }

    /// A number no set and no tool of this boot had before.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.last_id = clock::boottime_ns().max(self.last_id + 1);
        self.last_id
    }

    pub(crate) fn publish(&mut self, event: &Event) {
        if let Some(server) = &mut self.server {
            server.publish(event);
        }
    }

    pub(crate) fn answer(
        &mut self,
        client: ClientId,
        id: Option<u64>,
        result: Result<Answer, Refusal>,
    ) {
        let outcome = match result {
            Ok(answer) => Outcome::Done(answer),
            Err(refusal) => Outcome::Refused(refusal),
        };
        if let Some(server) = &mut self.server {
            server.send(client, &GuardLine::Answer { id, outcome });
        }
    }
}
