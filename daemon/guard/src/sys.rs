//! The few system calls that need `unsafe`; the only module allowed to use it.
//!
//! Not for anything rustix or nix offer safely. The surprise is `start_child`: the parent does not
//! wait for the `execve`, because loading a program from a disk that hangs would stop the
//! dead-man's switch. A failure before or in `execve` is an exit with code 127 and a line in the
//! child's output file.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::libc;

use crate::privileges::Account;

/// Exit code of a child whose program could not be executed; the shell's convention.
pub const COULD_NOT_EXECUTE: i32 = 127;

/// Kernel default, given back to children because they would inherit ours of 1 ns.
const USUAL_TIMER_SLACK_NS: libc::c_ulong = 50_000;

/// Everything a child needs, put together before the fork so that the child only makes calls.
#[derive(Debug)]
pub struct ChildPlan {
    /// Absolute path of the program.
    program: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    /// Appended to as stdout and stderr; opened after the user was dropped.
    output: CString,
    /// Who the child becomes; none: stays what the guard is.
    account: Option<Account>,
    /// What the kernel sends it when the guard dies.
    death_signal: i32,
}

impl ChildPlan {
    /// Checks and converts the strings.
    ///
    /// # Errors
    /// One of the strings contains a NUL byte.
    pub fn new(
        program: &Path,
        args: &[String],
        env: &[(String, String)],
        output: &Path,
        account: Option<&Account>,
        death_signal: rustix::process::Signal,
    ) -> io::Result<Self> {
        let program = c_string(program.as_os_str())?;
        let mut argv = vec![program.clone()];
        for argument in args {
            argv.push(c_string(OsStr::new(argument))?);
        }
        let envp = env
            .iter()
            .map(|(name, value)| c_string(OsStr::new(&format!("{name}={value}"))))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            program,
            argv,
            envp,
            output: c_string(output.as_os_str())?,
            account: account.cloned(),
            death_signal: death_signal.as_raw(),
        })
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a string contains a NUL byte"))
}

/// Forks a child that follows the plan; returns its pid at once.
///
/// # Errors
/// The fork failed.
pub fn start_child(plan: &ChildPlan, cgroup_procs: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    let argv = pointers(&plan.argv);
    let envp = pointers(&plan.envp);
    let groups: Vec<libc::gid_t> = plan
        .account
        .iter()
        .flat_map(|account| account.groups.iter().map(|group| group.as_raw()))
        .collect();
    // SAFETY: getpid has no preconditions.
    let guard = unsafe { libc::getpid() };
    // SAFETY: this process has one thread, so the child may call anything; it only makes system
    // calls on memory prepared above and never returns.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let cgroup = cgroup_procs.map(|file| file.as_raw_fd());
            let step = become_child(plan, &groups, guard, cgroup)
                // SAFETY: all three point to NUL-terminated data that outlives the call.
                .map(|()| unsafe {
                    libc::execve(plan.program.as_ptr(), argv.as_ptr(), envp.as_ptr());
                })
                .map_or_else(|step| step, |()| "execute the program");
            end_child(step)
        }
        pid => Ok(pid),
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Says on stderr (the output file, once it is open) what failed, and ends the child.
fn end_child(step: &str) -> ! {
    let error = io::Error::last_os_error();
    let text = format!("clusterd-guard: could not {step}: {error}\n");
    // SAFETY: the buffer is valid; _exit ends the child without running the guard's destructors.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(COULD_NOT_EXECUTE)
    }
}

/// Runs in the child, in an order that matters: the control group first (everything after is
/// already caught by `cgroup.kill`), the user before the death signal (a change of user clears it),
/// the output after the user (so that no file is opened with rights the user lacks).
fn become_child(
    plan: &ChildPlan,
    groups: &[libc::gid_t],
    guard: libc::pid_t,
    cgroup: Option<RawFd>,
) -> Result<(), &'static str> {
    // SAFETY: plain system calls on valid memory in a process with one thread.
    unsafe {
        if libc::setsid() < 0 {
            return Err("make a session");
        }
        if let Some(file) = cgroup
            && libc::write(file, c"0".as_ptr().cast(), 1) != 1
        {
            return Err("enter the control group");
        }
        reset_scheduling();
        libc::umask(0o077);
        if let Some(account) = &plan.account {
            let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
            if libc::setgroups(groups.len(), groups.as_ptr()) != 0 {
                return Err("set the groups");
            }
            if libc::setresgid(gid, gid, gid) != 0 || libc::setresuid(uid, uid, uid) != 0 {
                return Err("become the user");
            }
        }
        if libc::prctl(libc::PR_SET_PDEATHSIG, plan.death_signal as libc::c_ulong) != 0 {
            return Err("ask for the parent's death signal");
        }
        if libc::getppid() != guard {
            return Err("go on: the guard is already gone");
        }
        if libc::chdir(c"/".as_ptr()) != 0 {
            return Err("change to the root directory");
        }
        redirect(&plan.output)?;
        // Nothing of the guard or of its clients may be inherited: 3 and up close at the execve.
        if libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        ) != 0
        {
            return Err("close inherited descriptors");
        }
        let mut nothing: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut nothing);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const nothing, std::ptr::null_mut());
        // Whatever the guard's starter ignored (a shell's nohup, say) would be inherited.
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    Ok(())
}

/// From linux/close_range.h: mark instead of close.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Back to what a usual process has; failures do not matter, the kernel resets most of it at fork.
unsafe fn reset_scheduling() {
    // SAFETY: plain system calls on valid memory.
    unsafe {
        let usual: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const usual);
        libc::prctl(libc::PR_SET_TIMERSLACK, USUAL_TIMER_SLACK_NS);
        let file = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if file >= 0 {
            libc::write(file, c"0".as_ptr().cast(), 1);
            libc::close(file);
        }
    }
}

/// stdin from `/dev/null`, stdout and stderr appended to a file that is not a pipe.
unsafe fn redirect(output: &CStr) -> Result<(), &'static str> {
    // SAFETY: plain system calls on valid memory.
    unsafe {
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if nothing < 0 || libc::dup2(nothing, 0) < 0 {
            return Err("open /dev/null");
        }
        let flags = libc::O_WRONLY
            | libc::O_APPEND
            | libc::O_CREAT
            | libc::O_CLOEXEC
            | libc::O_NOCTTY
            | libc::O_NONBLOCK;
        let file = libc::open(output.as_ptr(), flags, 0o600 as libc::c_uint);
        if file < 0 {
            return Err("open the output file");
        }
        let mut facts: libc::stat = std::mem::zeroed();
        if libc::fstat(file, &raw mut facts) != 0 || facts.st_mode & libc::S_IFMT == libc::S_IFIFO {
            return Err("use the output: it is a pipe");
        }
        if libc::dup2(file, 1) < 0 || libc::dup2(file, 2) < 0 {
            return Err("redirect the output");
        }
    }
    Ok(())
}

/// Asks for SCHED_FIFO that no child inherits.
///
/// # Errors
/// The kernel does not permit it.
pub fn set_real_time_priority(priority: i32) -> io::Result<()> {
    // SAFETY: the structure is valid for the call; 0 is this thread.
    let answer = unsafe {
        let mut wanted: libc::sched_param = std::mem::zeroed();
        wanted.sched_priority = priority;
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const wanted,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes every descriptor from 3 up: whatever the starter leaked.
///
/// # Errors
/// The kernel is older than 5.9.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: called first thing in `main`, before any descriptor is owned by a value.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the timeout of a watchdog device; false if the file is not such a device.
pub fn set_watchdog_timeout(device: BorrowedFd<'_>, seconds: i32) -> bool {
    /// `_IOWR('W', 6, int)` of linux/watchdog.h.
    const WDIOC_SETTIMEOUT: libc::c_ulong = 0xc004_5706;
    let mut value: libc::c_int = seconds;
    // SAFETY: the request reads and writes one int, which outlives the call.
    unsafe { libc::ioctl(device.as_raw_fd(), WDIOC_SETTIMEOUT as _, &raw mut value) == 0 }
}

/// Lets the command start in a session of its own and as root again, if this process kept root as
/// its saved user id (`privileges::drop_to`). Without it the child stays the user.
pub fn own_session_as_root(command: &mut Command) {
    let become_root = || {
        // SAFETY: async-signal-safe system calls between fork and exec.
        unsafe {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::setresuid(0, 0, 0) == 0 {
                let root: libc::gid_t = 0;
                libc::setgroups(1, &raw const root);
                libc::setresgid(0, 0, 0);
            }
            let mut nothing: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut nothing);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const nothing, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: the closure makes only async-signal-safe calls and touches no memory of the parent.
    unsafe { command.pre_exec(become_root) };
}
