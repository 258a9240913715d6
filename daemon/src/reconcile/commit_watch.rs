//! A chore of the primary: who does not wait for the confirmation that the mode promises. Files, roles,
//! functions and sessions that lower `synchronous_commit` [A9], and waits that were cancelled: their
//! commits may be lost by a failover although the client went on [A6]. It changes nothing; it tells.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use cluster_core::model::PostgresStatus;
use cluster_core::model::lease::Moment;
use tokio::time::interval;

use crate::lease::now;
use crate::postgres::CommitOverrides;

use super::probes::Chores;

/// How often.
const EVERY: Duration = Duration::from_secs(5);
/// How long a session that was caught stands in the list: a look sees only what runs at that moment.
/// Judgement: longer than a job that is started every few minutes.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Most sessions remembered, by role and database.
const MOST: usize = 20;
/// What PostgreSQL writes when a client is told that its commit may not be replicated. Its messages are
/// in English whatever the locale (`lc_messages` is managed).
const CANCELLED: &[u8] = b"canceling wait for synchronous replication";
/// The server's output is read in pieces of this size, one a look: it may be a busy log.
const PIECE: u64 = 4 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitFindings {
    /// Looked for on a primary.
    pub is_known: bool,
    /// `role app in shop: synchronous_commit=off`, one a line.
    pub overrides: Vec<String>,
    /// Cancelled waits since this daemon started.
    pub cancelled: u64,
}

impl Chores {
    pub(super) async fn watch_commits(self) {
        let output = self.postgres.output_file();
        // What an earlier daemon's server wrote is counted already, or nobody's.
        let mut read_to = length(&output).await;
        let mut caught = Caught::default();
        let mut tick = interval(EVERY);
        loop {
            tick.tick().await;
            if !matches!(*self.seen.borrow(), PostgresStatus::Primary(_)) {
                read_to = length(&output).await;
                caught = Caught::default();
                self.findings.set_commits(CommitFindings {
                    is_known: false,
                    overrides: Vec::new(),
                    ..self.findings.commits()
                });
                continue;
            }
            let path = output.clone();
            let from = read_to;
            let counted = tokio::task::spawn_blocking(move || count(&path, from)).await;
            let mut found = self.findings.commits();
            if let Ok(Ok((cancelled, to))) = counted {
                if cancelled > 0 {
                    tracing::warn!(
                        cancelled,
                        "waits for a standby's confirmation were cancelled: these commits may be lost by a failover"
                    );
                }
                found.cancelled += cancelled;
                read_to = to;
            }
            match self.postgres.commit_overrides().await {
                Ok(found_now) => {
                    let overrides = caught.with(found_now, now());
                    if overrides != found.overrides && !overrides.is_empty() {
                        tracing::warn!(?overrides, "commits that wait for nobody's confirmation");
                    }
                    found.overrides = overrides;
                    found.is_known = true;
                }
                Err(error) => tracing::debug!(%error, "overrides could not be looked for"),
            }
            self.findings.set_commits(found);
        }
    }
}

/// Sessions seen lowering it, and when last.
#[derive(Default)]
struct Caught(BTreeMap<String, Moment>);

impl Caught {
    /// Everything to tell of, sorted, with the sessions of the last while.
    fn with(&mut self, found: CommitOverrides, now: Moment) -> Vec<String> {
        self.0.retain(|_, seen| now.since(*seen) < REMEMBERED);
        for line in found.momentary {
            if self.0.len() < MOST || self.0.contains_key(&line) {
                self.0.insert(line, now);
            }
        }
        let mut all = found.lasting;
        all.extend(self.0.keys().cloned());
        all.sort();
        all
    }
}

/// Asked of a thread that may stand still with its disk.
async fn length(path: &Path) -> u64 {
    let path = path.to_owned();
    let asked = tokio::task::spawn_blocking(move || path.metadata());
    asked
        .await
        .ok()
        .and_then(Result::ok)
        .map_or(0, |meta| meta.len())
}

/// How many waits were cancelled in what was written since `from`, and where that ends: behind the
/// last whole line.
fn count(path: &Path, from: u64) -> std::io::Result<(u64, u64)> {
    let mut file = std::fs::File::open(path)?;
    // The file begins anew now and then.
    let from = if from > file.metadata()?.len() {
        0
    } else {
        from
    };
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(PIECE).read_to_end(&mut text)?;
    let whole = match text.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => last + 1,
        // One endless line is passed over.
        None if text.len() as u64 == PIECE => text.len(),
        None => 0,
    };
    let found = text[..whole]
        .split(|byte| *byte == b'\n')
        .filter(|line| line.windows(CANCELLED.len()).any(|part| part == CANCELLED))
        .count();
    Ok((found as u64, from + whole as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_was_caught_is_told_of_for_a_while_and_what_lasts_as_long_as_it_lasts() {
        let at = |seconds: u64| Moment(Duration::from_secs(1000 + seconds));
        let found = |lasting: &[&str], momentary: &[&str]| CommitOverrides {
            lasting: lasting.iter().map(|it| (*it).to_owned()).collect(),
            momentary: momentary.iter().map(|it| (*it).to_owned()).collect(),
        };
        let mut caught = Caught::default();
        let both = caught.with(found(&["role b: x"], &["a session: x"]), at(0));
        assert_eq!(both, ["a session: x", "role b: x"]);
        assert_eq!(caught.with(found(&[], &[]), at(599)), ["a session: x"]);
        assert!(caught.with(found(&[], &[]), at(600)).is_empty());
        let many: Vec<String> = (0..MOST + 5).map(|it| format!("{it:03}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(caught.with(found(&[], &many), at(700)).len(), MOST);
    }

    #[test]
    fn cancelled_waits_are_counted_once_line_by_line_also_when_the_file_begins_anew() {
        let path = std::env::temp_dir().join(format!("commit-watch-{}", std::process::id()));
        let line = "WARNING:  canceling wait for synchronous replication due to user request\n";
        std::fs::write(
            &path,
            format!("{line}LOG:  other\n{line}WARNING:  canceling"),
        )
        .expect("w");
        let (found, to) = count(&path, 0).expect("read");
        assert_eq!(found, 2);
        assert_eq!(
            count(&path, to).expect("read"),
            (0, to),
            "half a line is no line"
        );
        std::fs::write(&path, line).expect("w");
        assert_eq!(count(&path, to).expect("read").0, 1);
        std::fs::remove_file(&path).expect("removed");
    }
}
