//! What `/proc` says: which processes there are, whose children, and in which directory.
//!
//! A PostgreSQL is found by the *device and inode* of its working directory, never by a path or a
//! pid file: a path can be renamed under it and a pid file lies [hazards H2]. The lookup asks the
//! kernel for what it has in memory (`STATX_DONT_SYNC`), so that a directory on a dead network
//! disk cannot stop the guard.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, setpriority_process,
};

/// One directory, by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
}

impl Identity {
    /// Of what the path leads to now.
    ///
    /// # Errors
    /// There is nothing, or it may not be seen.
    pub fn of(path: &Path) -> io::Result<Self> {
        let facts = statx(
            CWD,
            path,
            AtFlags::STATX_DONT_SYNC,
            StatxFlags::INO | StatxFlags::TYPE,
        )?;
        Ok(Self {
            dev: makedev(facts.stx_dev_major, facts.stx_dev_minor),
            ino: facts.stx_ino,
        })
    }
}

/// One process that is not a zombie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process number.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Its session.
    pub session: i32,
    /// `/proc/PID/stat` field 22; with the pid it names a process for good.
    pub start_time: u64,
    /// The kernel's letter for its state.
    pub state: char,
    /// Its working directory is one of those asked for and it runs PostgreSQL's server.
    pub is_ours_by_directory: bool,
}

impl Process {
    /// SIGKILL, to this process and no later one with its number.
    pub fn kill(&self) {
        self.send(Signal::KILL);
        hasten(self.pid);
    }

    /// SIGSTOP, to this process and no later one with its number.
    pub fn stop(&self) {
        self.send(Signal::STOP);
    }

    /// It has stopped and can fork no more.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    fn send(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        // The descriptor first, the comparison second: from then on the number cannot be reused.
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        if start_time(self.pid) == Some(self.start_time) {
            // It may be gone already; the next look tells.
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}

/// SIGKILL to one process of our own control group. One that is gone is what was wanted.
pub fn strike(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Lets a killed process have the processor first: it runs no program any more, but on a busy
/// machine its end could otherwise be verified only when it is its turn. A wish: never an error.
pub fn hasten(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = setpriority_process(Some(pid), -20);
    }
}

/// Reads one process; none if it is gone or a zombie.
pub fn read(pid: i32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let process = parse_stat(&text)?;
    (!matches!(process.state, 'Z' | 'X')).then_some(process)
}

/// Start time of a process, zombies included.
pub fn start_time(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(parse_stat(&text)?.start_time)
}

/// How much of `/proc` to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only processes that work in one of the directories.
    InDirectories,
    /// Every process, with its parent.
    All,
}

/// Every process of this machine, or those of PostgreSQL in the given directories.
///
/// # Errors
/// `/proc` could not be listed. A process that ends meanwhile is simply not in the list.
pub fn scan(directories: &[Identity], depth: Depth) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|text| text.parse::<i32>().ok()) else {
            continue;
        };
        let matches = works_in(pid, directories);
        if !matches && depth == Depth::InDirectories {
            continue;
        }
        if let Some(mut process) = read(pid) {
            process.is_ours_by_directory = matches && runs_postgres(pid);
            if process.is_ours_by_directory || depth == Depth::All {
                found.push(process);
            }
        }
    }
    Ok(found)
}

fn works_in(pid: i32, directories: &[Identity]) -> bool {
    !directories.is_empty()
        && Identity::of(Path::new(&format!("/proc/{pid}/cwd")))
            .is_ok_and(|identity| directories.contains(&identity))
}

/// By the executable's name; by the command's if the executable may not be seen.
fn runs_postgres(pid: i32) -> bool {
    let name = fs::read_link(format!("/proc/{pid}/exe"))
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .or_else(|| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    name.is_some_and(|name| {
        let name = name.trim_end().trim_end_matches(" (deleted)");
        name == "postgres" || name == "postmaster"
    })
}

/// The command in parentheses may itself contain spaces and parentheses: split at the last one.
fn parse_stat(text: &str) -> Option<Process> {
    let (pid, rest) = text.split_once(' ')?;
    let fields: Vec<&str> = rest.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Process {
        pid: pid.parse().ok()?,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        is_ours_by_directory: false,
    })
}

/// Asks the kernel step by step whether `pid` descends from `root`; true for `root`'s children.
pub fn descends_from(pid: i32, root: i32) -> bool {
    let mut here = pid;
    // Process trees are not this deep; the bound ends a loop made by pid reuse.
    for _ in 0..64 {
        match read(here) {
            Some(process) if process.parent == root => return true,
            Some(process) => here = process.parent,
            None => return false,
        }
    }
    false
}

/// Which child of `root` each of its descendants came through.
pub fn branches(processes: &[Process], root: i32) -> HashMap<i32, i32> {
    let parents: HashMap<i32, i32> = processes.iter().map(|it| (it.pid, it.parent)).collect();
    let mut found = HashMap::new();
    for process in processes {
        let mut here = process.pid;
        // A chain is never longer than the list; the bound ends a loop made by pid reuse.
        for _ in 0..=processes.len() {
            match parents.get(&here) {
                Some(&parent) if parent == root => {
                    found.insert(process.pid, here);
                    break;
                }
                Some(&parent) => here = parent,
                None => break,
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_is_read() {
        let line = "42 (a) b (c) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 1";
        let process = parse_stat(line).expect("the line is whole");
        assert_eq!((process.pid, process.parent, process.session), (42, 7, 40));
        assert_eq!((process.state, process.start_time), ('S', 98765));
        assert_eq!(parse_stat("42 (cut"), None);
    }

    #[test]
    fn descendants_are_known_by_the_branch_they_are_on() {
        let process = |pid, parent| Process {
            pid,
            parent,
            session: pid,
            start_time: 1,
            state: 'S',
            is_ours_by_directory: false,
        };
        let all = [
            process(1, 0),
            process(10, 1),
            process(11, 10),
            process(12, 11),
            process(20, 10),
        ];
        let found = branches(&all, 10);
        assert_eq!(found.get(&12), Some(&11));
        assert_eq!(found.get(&20), Some(&20));
        assert_eq!(found.get(&1), None);
        assert_eq!(found.get(&10), None);
    }

    #[test]
    fn a_process_is_found_by_its_directory_only_if_it_runs_postgres() {
        let here = Identity::of(Path::new(".")).expect("the directory exists");
        let own = i32::try_from(std::process::id()).expect("a pid fits");
        assert!(works_in(own, &[here]));
        assert!(
            !scan(&[here], Depth::InDirectories)
                .expect("/proc")
                .iter()
                .any(|it| it.pid == own)
        );
        assert!(
            scan(&[], Depth::All)
                .expect("/proc")
                .iter()
                .any(|it| it.pid == own)
        );
    }
}
