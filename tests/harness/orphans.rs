//! The part of a host's first process: orphans are waited for at once. Not every machine the tests
//! run on has a first process that does, and PostgreSQL takes a dead process nobody waited for to be
//! alive.
//!
//! Only orphans are waited for: the test's own children belong to whoever started them. A program of
//! one of these names that a test starts itself is started by [`spawn`] or [`output`], which say so.

use std::collections::BTreeSet;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;
use std::{fs, io};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// What orphans are called here.
const ORPHANS: &[&str] = &[
    "postgres",
    "clusterd-guard",
    "initdb",
    "pg_basebackup",
    "pg_rewind",
];

/// Children that somebody here waits for. Held while one is started, so that none is buried before it
/// is known.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child that its caller waits for.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut own = own();
    let child = command.spawn()?;
    own.insert(i32::try_from(child.id()).unwrap_or_default());
    Ok(child)
}

/// Runs a child to its end and takes what it says.
///
/// # Errors
/// As [`Command::output`].
pub fn output(command: &mut Command) -> io::Result<Output> {
    let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let output = child.wait_with_output();
    own().remove(&pid);
    output
}

/// Makes this process the parent of every orphan below it, once.
pub fn adopt() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let me = rustix::process::getpid();
        if rustix::process::set_child_subreaper(Some(me)).is_ok() {
            std::thread::spawn(|| {
                loop {
                    bury();
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
}

fn bury() {
    let own = own();
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children
            .split_whitespace()
            .filter_map(|word| word.parse::<i32>().ok())
        {
            if !own.contains(&pid) && is_dead_orphan(pid) {
                // Whoever is gone by now is gone: nothing to do about it.
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            }
        }
    }
}

fn is_dead_orphan(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.split_once('(') else {
        return false;
    };
    let Some((name, rest)) = rest.rsplit_once(')') else {
        return false;
    };
    ORPHANS.contains(&name) && rest.trim_start().starts_with('Z')
}
