//! Who is there: the processes of our PostgreSQL, those of a PostgreSQL in our data directory that
//! somebody else started, and those of our tools that work in the data directory.
//!
//! "Empty" is a positive statement: it is made from a census that was taken without an error and
//! found none of the three.

use std::collections::HashSet;
use std::io;

use crate::cgroup::Groups;
use crate::processes::{self, Depth, Identity, Process};
use crate::tools::Tools;

/// Everybody who could write to the data directory.
#[derive(Debug, Default)]
pub struct Census {
    /// In our process set.
    pub own: Vec<Process>,
    /// PostgreSQL in our data directory, not ours.
    pub foreign: Vec<Process>,
    /// PostgreSQL in our data directory, run by one of our tools.
    pub of_tools: Vec<Process>,
}

impl Census {
    /// Nobody at all.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.foreign.is_empty() && self.of_tools.is_empty()
    }
}

/// Looks at the control group if there is one, else at the guard's descendants, and in both cases
/// at every process that works in one of the directories.
///
/// # Errors
/// Something could not be read: then nothing is known.
pub fn take(
    groups: Option<&Groups>,
    directories: &[Identity],
    tools: &Tools,
    guard: i32,
) -> io::Result<Census> {
    match groups {
        Some(groups) => by_group(groups, directories, tools),
        None => by_descent(directories, tools, guard),
    }
}

/// Only the PostgreSQL processes in the directories, whosever they are: they are the ones that can
/// acknowledge a write, and finding them costs a sixth of a look at everybody's parents.
///
/// # Errors
/// Something could not be read: then nothing is known.
pub fn take_quickly(directories: &[Identity]) -> io::Result<Census> {
    let own = processes::scan(directories, Depth::InDirectories)?;
    Ok(Census {
        own,
        ..Census::default()
    })
}

/// The directories are scanned first and the groups read second: a process found by the scan that
/// is in no group has either ended meanwhile (looked at again) or is really foreign.
fn by_group(groups: &Groups, directories: &[Identity], tools: &Tools) -> io::Result<Census> {
    let found = processes::scan(directories, Depth::InDirectories)?;
    let own: HashSet<i32> = groups.postgres.processes()?.into_iter().collect();
    let of_tools = tools.group_processes();
    let mut census = Census::default();
    for process in found {
        if of_tools.contains(&process.pid) {
            census.of_tools.push(process);
        } else if !own.contains(&process.pid) && is_still(&process) {
            census.foreign.push(process);
        }
    }
    census.own = own.into_iter().filter_map(processes::read).collect();
    Ok(census)
}

fn by_descent(directories: &[Identity], tools: &Tools, guard: i32) -> io::Result<Census> {
    let all = processes::scan(directories, Depth::All)?;
    let branches = processes::branches(&all, guard);
    let sessions = tools.sessions();
    let mut census = Census::default();
    for process in all {
        let branch = branches.get(&process.pid);
        let is_of_tool = sessions.contains(&process.session)
            || branch.is_some_and(|branch| sessions.contains(branch));
        if is_of_tool {
            if process.is_ours_by_directory {
                census.of_tools.push(process);
            }
        } else if branch.is_some() {
            census.own.push(process);
        } else if process.is_ours_by_directory && is_still(&process) {
            // Its parent may have ended while the list was made: ask again before calling it foreign.
            if processes::descends_from(process.pid, guard) {
                census.own.push(process);
            } else {
                census.foreign.push(process);
            }
        }
    }
    Ok(census)
}

fn is_still(process: &Process) -> bool {
    processes::read(process.pid).is_some_and(|now| now.start_time == process.start_time)
}
