//! The control group that holds the postmaster: entered before the program runs, killed with one
//! write, empty when the kernel says so.
//!
//! Only cgroup v2 with `cgroup.kill` (Linux 5.14) is used; it may be mounted at `/sys/fs/cgroup` or,
//! on hybrid systems, at `/sys/fs/cgroup/unified`. No controller is enabled: the group is a list of
//! processes that nobody can leave, not a limit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::privileges::Account;

/// Why there is no control group.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cgroup2 file system is mounted, or this process is not in its tree.
    #[error("no cgroup v2 is mounted where this process can be found in it")]
    NotMounted,
    /// A directory or file of the tree could not be used.
    #[error("could not {operation} {path}")]
    Use {
        /// Verb.
        operation: &'static str,
        /// Object.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// One control group and its open files.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    procs: File,
    kill: File,
}

impl Group {
    fn create(path: PathBuf, owner: Option<&Account>) -> Result<Self, Error> {
        match fs::create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Use {
                    operation: "create",
                    path,
                    source,
                });
            }
            Ok(()) | Err(_) => {}
        }
        let open = |name: &str| {
            let file = path.join(name);
            OpenOptions::new()
                .write(true)
                .open(&file)
                .map_err(|source| Error::Use {
                    operation: "open",
                    path: file,
                    source,
                })
        };
        let (procs, kill) = (open("cgroup.procs")?, open("cgroup.kill")?);
        // Each level of groups is accounted for at every switch of a task; the service's own group has
        // what people look at. Linux before 6.1 has no such file.
        let _ = fs::write(path.join("cgroup.pressure"), "0");
        if let Some(account) = owner {
            for name in ["cgroup.kill", "cgroup.procs"] {
                let file = path.join(name);
                chown(
                    &file,
                    Some(account.uid.as_raw()),
                    Some(account.gid.as_raw()),
                )
                .map_err(|source| Error::Use {
                    operation: "change the owner of",
                    path: file,
                    source,
                })?;
            }
        }
        Ok(Self { path, procs, kill })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file a child writes itself into.
    pub fn procs_file(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }

    /// SIGKILL to everyone in it, in one step that no fork can outrun.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn kill(&self) -> io::Result<()> {
        (&self.kill).write_all(b"1")
    }

    /// Processes in it, zombies not counted.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// The kernel's own word that nobody is left in it or below it.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn is_empty(&self) -> io::Result<bool> {
        let text = fs::read_to_string(self.path.join("cgroup.events"))?;
        Ok(text.lines().any(|line| line == "populated 0"))
    }

    /// Removes the directory; it stays if somebody is in it.
    pub fn remove(self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The groups of one guard: `<root>/pg` and `<root>/tools/<id>`.
#[derive(Debug)]
pub struct Groups {
    root: PathBuf,
    owner: Option<Account>,
    /// The postmaster's.
    pub postgres: Group,
    tools: PathBuf,
}

impl Groups {
    /// Finds or makes the groups below `parent`; none: below this process's own group.
    ///
    /// # Errors
    /// There is no usable cgroup v2.
    pub fn open(parent: Option<&Path>, name: &str, owner: Option<&Account>) -> Result<Self, Error> {
        let parent = match parent {
            Some(path) => path.to_owned(),
            None => own_group().ok_or(Error::NotMounted)?,
        };
        let root = parent.join(name);
        let make = |path: PathBuf| match fs::create_dir(&path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Error::Use {
                operation: "create",
                path,
                source,
            }),
            Ok(()) | Err(_) => Ok(path),
        };
        let root = make(root)?;
        let tools = make(root.join("tools"))?;
        let postgres = Group::create(root.join("pg"), owner)?;
        Ok(Self {
            root,
            owner: owner.cloned(),
            postgres,
            tools,
        })
    }

    /// The directory that holds all of them.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A group for one tool.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn for_tool(&self, id: u64) -> Result<Group, Error> {
        Group::create(self.tools.join(id.to_string()), self.owner.as_ref())
    }

    /// Kills whatever is in any of them and says how many there were; for a guard's start.
    ///
    /// # Errors
    /// The tree could not be read or written.
    pub fn kill_left_over(root: &Path) -> io::Result<usize> {
        let mut groups = vec![root.join("pg"), root.join("tools")];
        match fs::read_dir(root.join("tools")) {
            Ok(entries) => {
                groups.extend(
                    entries
                        .flatten()
                        .map(|it| it.path())
                        .filter(|it| it.is_dir()),
                );
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut found = 0;
        for group in groups {
            match fs::read_to_string(group.join("cgroup.procs")) {
                Ok(text) => found += text.lines().count(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            fs::write(group.join("cgroup.kill"), "1")?;
            if group
                .parent()
                .is_some_and(|parent| parent.ends_with("tools"))
            {
                let _ = fs::remove_dir(&group);
            }
        }
        Ok(found)
    }

    /// Nobody is left in any group below `root`.
    ///
    /// # Errors
    /// The tree could not be read.
    pub fn is_empty(root: &Path) -> io::Result<bool> {
        match fs::read_to_string(root.join("cgroup.events")) {
            Ok(text) => Ok(text.lines().any(|line| line == "populated 0")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Removes the directories; those with somebody in them stay.
    pub fn remove(self) {
        let Self {
            root,
            postgres,
            tools,
            ..
        } = self;
        postgres.remove();
        let _ = fs::remove_dir(tools);
        let _ = fs::remove_dir(root);
    }
}

/// Is this a directory of a cgroup v2 tree that can be killed?
pub fn is_group(path: &Path) -> bool {
    path.join("cgroup.kill").exists()
}

/// This process's own group, as a directory.
fn own_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find_group(&groups, &mounts)
}

fn find_group(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next()? != "cgroup2" {
            return None;
        }
        let fields: Vec<&str> = before.split(' ').collect();
        let (mounted, point) = (fields.get(3)?, fields.get(4)?);
        let below = Path::new(own).strip_prefix(mounted).ok()?;
        Some(Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_on_a_hybrid_system() {
        let groups = "4:memory:/x\n0::/system.slice/clusterd-guard.service\n";
        assert_eq!(
            find_group(groups, HYBRID),
            Some("/sys/fs/cgroup/unified/system.slice/clusterd-guard.service".into())
        );
        assert_eq!(
            find_group("0::/\n", HYBRID),
            Some("/sys/fs/cgroup/unified/".into())
        );
    }

    #[test]
    fn the_own_group_is_found_below_a_mounted_subtree() {
        let mounts = "41 31 0:38 /docker/7 /sys/fs/cgroup rw shared:9 - cgroup2 cgroup rw\n";
        assert_eq!(
            find_group("0::/docker/7/a\n", mounts),
            Some("/sys/fs/cgroup/a".into())
        );
        assert_eq!(find_group("0::/elsewhere\n", mounts), None);
    }

    #[test]
    fn without_cgroup_v2_there_is_none() {
        assert_eq!(find_group("4:memory:/x\n", HYBRID), None);
        assert_eq!(
            find_group("0::/\n", "32 31 0:29 / /c rw - cgroup cgroup rw\n"),
            None
        );
    }
}
