//! PostgreSQL's auxiliary processes as the kernel shows them.
//!
//! `pg_stat_wal_receiver` shows nothing while a receiver connects, and a frozen startup process
//! keeps an old one alive (hazards X10): only the process list says that there is none.

use std::fs;

/// The process ids of the postmaster's children.
fn children(postmaster: i32) -> Vec<i32> {
    if let Ok(text) = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")) {
        return text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(postmaster))
        .collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also blanks and brackets: the fields begin after the last one.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// The first child whose title holds one of `words`, as PostgreSQL sets it for that process kind.
fn child_titled(postmaster: i32, words: &[&str]) -> Option<i32> {
    children(postmaster).into_iter().find(|pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|bytes| {
            let title = String::from_utf8_lossy(&bytes).into_owned();
            let title = title.strip_prefix("postgres: ").unwrap_or(&title);
            // "postgres: <cluster_name>: startup recovering …"
            let kind = title.split_once(": ").map_or(title, |(_, kind)| kind);
            words.iter().any(|word| kind.starts_with(word))
        })
    })
}

/// Whether this process is stopped (SIGSTOP, a debugger): it is there and does nothing.
pub(super) fn is_frozen(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|rest| rest.starts_with(['T', 't']))
}

/// The walreceiver of this postmaster.
pub(super) fn receiver(postmaster: i32) -> Option<i32> {
    child_titled(postmaster, &["walreceiver", "wal receiver"])
}

/// The startup process and how often it has gone to sleep so far.
pub(super) fn startup_turns(postmaster: i32) -> Option<(i32, u64)> {
    let pid = child_titled(postmaster, &["startup"])?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find(|line| line.starts_with("voluntary_ctxt_switches"))?;
    Some((pid, line.split_whitespace().nth(1)?.parse().ok()?))
}
