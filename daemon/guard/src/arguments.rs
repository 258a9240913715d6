//! The command line, checked as a whole: every problem is reported at once, exit code 2.

use std::path::{Path, PathBuf};

use clap::Parser;
use nix::unistd::Uid;

use crate::cgroup;
use crate::privileges::Account;

/// As written on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "clusterd-guard",
    version,
    about = "Parent of the postmaster and dead-man's switch"
)]
struct Written {
    /// Unix socket to serve; its directory must exist.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The PostgreSQL data directory; it need not exist yet.
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// User that PostgreSQL runs as and that may use the socket; needed when started as root.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// auto: below the guard's own control group; none; or the parent group's directory.
    #[arg(long, value_name = "auto|none|PATH", default_value = "auto")]
    cgroup: String,
    /// SCHED_FIFO priority, 1 to 99; 0 asks for none.
    #[arg(long, value_name = "N", default_value = "10")]
    realtime_priority: String,
    /// The daemon's record of this member (member.json in its state directory): while it knows of no
    /// data directory, a PostgreSQL that runs in the data directory is waited for, not killed.
    #[arg(long, value_name = "PATH")]
    member_record: Option<PathBuf>,
    /// Watchdog device, open and fed only while a lease is valid.
    #[arg(long, value_name = "PATH")]
    watchdog: Option<PathBuf>,
    /// Timeout given to the watchdog device, in seconds; 0 leaves the device's own.
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    watchdog_timeout: String,
}

/// Where the control group comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupChoice {
    /// Below the guard's own group if that works, else none.
    Auto,
    /// Never.
    None,
    /// Below this directory; it must work.
    Below(PathBuf),
}

/// The checked command line.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Absolute path of the socket.
    pub socket: PathBuf,
    /// Absolute path of the data directory, its parent without symbolic links.
    pub data_dir: PathBuf,
    /// Who PostgreSQL runs as, and who may use the socket.
    pub account: Account,
    /// Control group.
    pub cgroup: CgroupChoice,
    /// 0: none.
    pub realtime_priority: i32,
    /// The daemon's record of this member.
    pub member_record: Option<PathBuf>,
    /// Watchdog device.
    pub watchdog: Option<PathBuf>,
    /// Seconds, 0: the device's own.
    pub watchdog_timeout: i32,
}

/// Reads the process's command line.
///
/// # Errors
/// All problems, one sentence each.
pub fn read() -> Result<Arguments, Vec<String>> {
    check(Written::parse())
}

fn check(written: Written) -> Result<Arguments, Vec<String>> {
    let mut problems = Vec::new();
    let socket = require(written.socket, "--socket", &mut problems);
    if !socket.as_os_str().is_empty() && !socket.parent().is_some_and(Path::is_dir) {
        problems.push("--socket: its directory does not exist (create it first)".to_owned());
    }
    let data_dir = require(written.data_dir, "--data-dir", &mut problems);
    let account = account(written.user.as_deref(), &mut problems);
    let cgroup = match written.cgroup.as_str() {
        "auto" => CgroupChoice::Auto,
        "none" => CgroupChoice::None,
        path => CgroupChoice::Below(path.into()),
    };
    if let CgroupChoice::Below(path) = &cgroup
        && !(path.is_absolute() && cgroup::is_group(path))
    {
        problems.push(format!(
            "--cgroup: {} is no cgroup v2 directory with cgroup.kill (auto and none need none)",
            path.display()
        ));
    }
    let realtime_priority = number(
        &written.realtime_priority,
        99,
        "--realtime-priority",
        &mut problems,
    );
    let watchdog_timeout = number(
        &written.watchdog_timeout,
        3_600,
        "--watchdog-timeout",
        &mut problems,
    );
    match account {
        Some(account) if problems.is_empty() => Ok(Arguments {
            data_dir: without_links(&data_dir),
            socket,
            account,
            cgroup,
            realtime_priority,
            member_record: written.member_record,
            watchdog: written.watchdog,
            watchdog_timeout,
        }),
        Some(_) | None => Err(problems),
    }
}

fn require(path: Option<PathBuf>, name: &str, problems: &mut Vec<String>) -> PathBuf {
    let path = path.unwrap_or_default();
    if path.as_os_str().is_empty() {
        problems.push(format!("{name}: missing"));
    } else if !path.is_absolute() {
        problems.push(format!(
            "{name}: {} is not an absolute path",
            path.display()
        ));
    }
    path
}

fn number(text: &str, highest: i32, name: &str, problems: &mut Vec<String>) -> i32 {
    match text.parse() {
        Ok(number) if (0..=highest).contains(&number) => number,
        Ok(_) | Err(_) => {
            problems.push(format!(
                "{name}: {text} is not a number from 0 to {highest}"
            ));
            0
        }
    }
}

fn account(name: Option<&str>, problems: &mut Vec<String>) -> Option<Account> {
    let is_root = Uid::effective().is_root();
    let found = match name {
        Some(name) => Account::of_name(name),
        None => Account::current(),
    };
    match found {
        Err(error) => problems.push(format!("--user: {error}")),
        Ok(account) if account.uid.is_root() => {
            problems.push("--user: PostgreSQL refuses root (name the user it runs as)".to_owned());
        }
        Ok(account) if !is_root && account.uid != Uid::effective() => problems.push(format!(
            "--user: only root can run PostgreSQL as {} (start the guard as that user)",
            account.name
        )),
        Ok(account) => return Some(account),
    }
    None
}

/// The same directory must give the same control group name however it is written.
fn without_links(path: &Path) -> PathBuf {
    match (
        path.canonicalize(),
        path.parent().map(Path::canonicalize),
        path.file_name(),
    ) {
        (Ok(whole), _, _) => whole,
        (Err(_), Some(Ok(parent)), Some(name)) => parent.join(name),
        (Err(_), _, _) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let written = Written::parse_from([
            "clusterd-guard",
            "--socket=relative",
            "--user=no-such-user-here",
            "--cgroup=/proc",
            "--realtime-priority=100",
            "--watchdog-timeout=x",
        ]);
        let problems = check(written).expect_err("nothing of this is right");
        for name in [
            "--socket",
            "--data-dir",
            "--user",
            "--cgroup",
            "--realtime",
            "--watchdog-t",
        ] {
            assert!(
                problems.iter().any(|it| it.starts_with(name)),
                "{name}: {problems:?}"
            );
        }
    }
}
