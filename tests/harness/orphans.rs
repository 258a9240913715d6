//! The part of a host's first process: orphans are waited for at once. Not every machine the tests
//! run on has a first process that does, and PostgreSQL takes a dead process nobody waited for to be
//! alive.
//!
//! Only what can be nobody else's child is waited for, by name: the test's own children belong to
//! whoever started them.

use std::fs;
use std::sync::Once;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Programs that the test never starts itself.
const ORPHANS: &[&str] = &[
    "postgres",
    "clusterd-guard",
    "initdb",
    "pg_basebackup",
    "pg_rewind",
];

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
            if is_dead_orphan(pid) {
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
