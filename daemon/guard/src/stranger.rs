//! A server that ran in the data directory before this member ever had it: waited for, never killed.
//!
//! A new guard kills what it finds in its directory, because that is what an earlier guard left. On
//! the host of a server that is yet to be taken over the same would end a healthy primary, so a
//! guard that is told where the member's record lies waits while that record knows of no data
//! directory and a postmaster lives. `clusterd --take-over` stops that server.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::log_line;
use crate::processes::{self, Identity};

/// Short: it is part of the gap of a take-over.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns when no stranger's postmaster lives in the directory; at once in a directory of ours.
/// `waits` is called once, before the first pause.
pub fn wait_until_gone(record: &Path, data_dir: &Path, waits: impl FnOnce()) {
    let Some(pid) = stranger(record, data_dir) else {
        return;
    };
    log_line!(
        "a PostgreSQL that was never this member's runs in {} (process {pid}); it is left alone, \
         and this guard waits (see clusterd --take-over --dry-run)",
        data_dir.display()
    );
    waits();
    while stranger(record, data_dir).is_some() {
        std::thread::sleep(PAUSE);
    }
    log_line!("process {pid} is gone");
}

fn stranger(record: &Path, data_dir: &Path) -> Option<i32> {
    if is_ours(record) {
        return None;
    }
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    // Negative: a single-user run, which is no postmaster.
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let is_there = pid > 1 && processes::read(pid).is_some();
    let place = Identity::of(Path::new(&format!("/proc/{pid}/cwd")));
    let works_here = match (place, Identity::of(data_dir)) {
        (Ok(its), Ok(ours)) => its == ours,
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => false,
        // Not to be seen: rather wait too long than kill.
        (Err(_), _) | (_, Err(_)) => true,
    };
    (is_there && works_here).then_some(pid)
}

/// Whether the record names a life of the data directory, or work that makes one. A record that
/// cannot be read was written by a member that has lived here.
fn is_ours(record: &Path) -> bool {
    let text = match fs::read_to_string(record) {
        Ok(text) => text,
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    let Ok(record) = serde_json::from_str::<serde_json::Value>(&text) else {
        return true;
    };
    ["incarnation", "marker"]
        .iter()
        .any(|key| record.get(key).is_some_and(|value| !value.is_null()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_postmaster_is_waited_for_and_ours_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let (data, record) = (place.path(), place.path().join("member.json"));
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(data)
            .spawn()
            .expect("a process");
        fs::write(data.join("postmaster.pid"), child.id().to_string()).expect("written");
        for ours in [r#"{"incarnation":7}"#, r#"{"marker":"Initdb"}"#, "damaged"] {
            fs::write(&record, ours).expect("written");
            assert_eq!(stranger(&record, data), None, "{ours}");
        }
        fs::write(&record, r#"{"incarnation":null,"marker":null}"#).expect("written");
        assert!(stranger(&record, data).is_some());
        fs::remove_file(&record).expect("removed");
        let end = || {
            child.kill().expect("ours");
            child.wait().expect("ours");
        };
        wait_until_gone(&record, data, end);
        assert_eq!(stranger(&record, data), None);
        let waited = std::cell::Cell::new(false);
        wait_until_gone(&record, data, || waited.set(true));
        assert!(!waited.get(), "nobody to wait for");
    }
}
