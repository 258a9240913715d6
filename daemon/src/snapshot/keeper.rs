//! The loop: looks, and does the step that `steps.rs` names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::model::snapshot::MemberPart;
use cluster_core::model::{MemberKind, PostgresStatus, SnapshotId};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::board::Board;
use crate::telemetry;

use super::Place;
use super::steps::{self, Seen, Step};
use super::taker::Taker;

/// A step that could not be done is tried again after this; the folder is looked at as often.
const LOOK: Duration = Duration::from_secs(1);

/// The loop's parts.
pub(super) struct Keeper {
    place: Arc<Place>,
    handle: Handle,
    running: Option<(SnapshotId, JoinHandle<()>)>,
    said: String,
}

impl Keeper {
    pub fn new(place: Place, handle: Handle) -> Keeper {
        Keeper {
            place: Arc::new(place),
            handle,
            running: None,
            said: String::new(),
        }
    }

    /// Runs until `shutdown`. What is being taken then is told as failed by the next daemon.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut board = self.place.board.clone();
        let mut current = self.place.is_current.clone();
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            is = current.wait_for(|is| *is) => if is.is_err() { return },
        }
        loop {
            if self
                .running
                .as_ref()
                .is_some_and(|(_, task)| task.is_finished())
            {
                self.running = None;
            }
            let seen = Arc::clone(&board.borrow_and_update());
            let pause = match self.turn(&seen).await {
                Ok(true) => None,
                Ok(false) => Some(LOOK),
                Err(why) => {
                    if self.said != why {
                        tracing::warn!(why, "a step of a snapshot could not be done yet");
                        self.said = why;
                    }
                    Some(LOOK)
                }
            };
            let Some(pause) = pause else { continue };
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
                changed = board.changed(), if self.said.is_empty() => if changed.is_err() { return },
            }
        }
    }

    /// Whether something was done.
    async fn turn(&mut self, board: &Board) -> Result<bool, String> {
        let state = &board.state;
        if state.snapshots.is_empty() && !self.place.folder.exists() {
            return Ok(false);
        }
        let files = self.files()?;
        let seen = Seen {
            me: &self.place.me,
            state,
            running: self.running.as_ref().map(|(id, _)| id),
            files: &files,
        };
        let Some(step) = steps::next(&seen) else {
            self.said.clear();
            return Ok(false);
        };
        tracing::debug!(?step, "snapshot");
        match step {
            Step::Describe(id) => {
                let describe = Command::DescribeSnapshot {
                    id: id.clone(),
                    member: self.place.me.clone(),
                    part: Box::new(self.part(board)?),
                };
                self.propose(describe, &id).await?;
            }
            Step::Take(id) => self.take(id)?,
            Step::Fail(id, why) => {
                tracing::warn!(%id, why, "a snapshot is given up");
                let fail = Command::FailSnapshot {
                    id: id.clone(),
                    why,
                };
                self.propose(fail, &id).await?;
            }
            Step::Lose(id, why) => {
                tracing::warn!(%id, why, "a snapshot is lost");
                let lose = Command::LoseSnapshot {
                    id: id.clone(),
                    why,
                };
                self.propose(lose, &id).await?;
            }
            Step::Remove(name) => {
                let path = self.place.folder.join(&name);
                let removed = match path.is_dir() {
                    true => std::fs::remove_dir_all(&path),
                    false => std::fs::remove_file(&path),
                };
                removed.map_err(|error| format!("remove {}: {error}", path.display()))?;
                tracing::info!(name, "a file of a snapshot that is not kept is removed");
            }
        }
        self.said.clear();
        Ok(true)
    }

    /// Applied at the leader when this returns, and here some moments later: until then the same step would
    /// be named again.
    async fn propose(&self, command: Command, id: &SnapshotId) -> Result<(), String> {
        let of = |board: &Board| board.state.snapshots.get(id).cloned();
        let mut board = self.place.board.clone();
        let before = of(&board.borrow());
        let done = self.place.propose.propose(command).await;
        done.map_err(|error| telemetry::chain(&error))?;
        let seen = board.wait_for(|board| of(board) != before);
        // A change that changed nothing is never seen.
        let _ = tokio::time::timeout(LOOK, seen).await;
        Ok(())
    }

    fn files(&self) -> Result<BTreeMap<String, u64>, String> {
        let folder = &self.place.folder;
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(failed(error)),
        };
        let mut files = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let facts = entry.metadata().map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let size = if facts.is_file() { facts.len() } else { 0 };
            files.insert(name, size);
        }
        Ok(files)
    }

    fn take(&mut self, id: SnapshotId) -> Result<(), String> {
        let folder = &self.place.folder;
        let marked = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(folder.join(steps::begun(&id)), ""));
        // It is told, not tried again for ever: a folder that cannot be written is a person's to cure.
        let refused = marked
            .err()
            .map(|error| format!("{} cannot be written: {error}", folder.display()));
        let taker = Taker {
            place: Arc::clone(&self.place),
            id: id.clone(),
        };
        let task = self.handle.spawn(taker.run(refused));
        self.running = Some((id, task));
        Ok(())
    }

    /// How this member is.
    fn part(&self, board: &Board) -> Result<MemberPart, String> {
        let own = &board.own;
        let known = board.state.members.get(&self.place.me);
        let known = known.ok_or("this member is not known to the cluster yet")?;
        let (postgres, timeline, lsn) = match &own.postgres {
            PostgresStatus::Primary(it) => ("primary", Some(it.timeline), Some(it.flushed)),
            PostgresStatus::Standby(it) => ("standby", Some(it.timeline), Some(it.end_of_wal())),
            PostgresStatus::Stopped(it) => ("stopped", Some(it.checkpoint_timeline), None),
            PostgresStatus::Empty => ("empty", None, None),
            PostgresStatus::Starting { .. } => ("starting", None, None),
            PostgresStatus::Stopping => ("stopping", None, None),
            PostgresStatus::Unresponsive { .. } => ("unresponsive", None, None),
            PostgresStatus::Unusable { .. } => ("unusable", None, None),
            PostgresStatus::Unknown { .. } => ("unknown", None, None),
        };
        let word = match known.kind {
            MemberKind::Witness => "none",
            MemberKind::Database => postgres,
        };
        Ok(MemberPart {
            node: known.node,
            kind: known.kind,
            incarnation: own.incarnation,
            postgres: word.to_owned(),
            timeline,
            lsn,
            version: own.version.clone(),
            server_version: own.server_version,
            addresses: own.addresses.clone(),
            repository: self.place.repository.clone(),
        })
    }
}
