//! What the members said: ERROR lines nobody announced, and keeping everything when a test fails.

use std::fs;
use std::path::{Path, PathBuf};

use crate::programs::target_folder;

/// Lines of a daemon's log at level ERROR that contain none of the announced texts.
pub fn unexpected_errors(log: &Path, announced: &[String]) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter(|line| line.contains(" ERROR ") || line.contains("panicked at"))
        .filter(|line| !line.contains(" ERROR openraft"))
        .filter(|line| !announced.iter().any(|text| line.contains(text.as_str())))
        .map(str::to_owned)
        .collect()
}

/// The end of a log, for a message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Copies logs and configurations (no data) to a folder that stays; returns it.
pub fn keep(folder: &Path, name: &str) -> PathBuf {
    let kept = target_folder().join("test-logs").join(name);
    // The test has failed already: what cannot be copied is left out.
    let _ = fs::remove_dir_all(&kept);
    let _ = fs::create_dir_all(&kept);
    copy_texts(folder, &kept, 0);
    kept
}

fn copy_texts(from: &Path, to: &Path, depth: usize) {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let is_text = [".log", ".toml", ".conf", ".cfg", ".json"]
            .iter()
            .any(|end| name.ends_with(end))
            || name.contains("log");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < 4 && name != "volume" && name != "raft" {
                let below = to.join(name.as_ref());
                if fs::create_dir_all(&below).is_ok() {
                    copy_texts(&path, &below, depth + 1);
                    // Only succeeds when nothing was copied into it, which is when it should.
                    let _ = fs::remove_dir(&below);
                }
            }
        } else if is_text {
            let _ = fs::copy(&path, to.join(name.as_ref()));
        }
    }
}
