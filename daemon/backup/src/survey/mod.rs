//! What can be restored now: from which moment on the archive leads to its end without a hole. Reads names, manifests and
//! timeline histories, no backup and no content of a segment, so that it can be asked all the time.
//!
//! Segments are sent several at a time, so the newest few may be there in any order: a hole is only what should
//! have been there before.

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::model::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::audit::{self, Question};
use crate::lineage::{self, SegmentSize};
use crate::manifest::{self, Manifest};
use crate::names::{self, WalName};
use crate::{Error, Repository, holds};

/// So many segments are sent at once, with the one that the server asks for: what lies further back is there.
const IN_FLIGHT: u64 = 9;
/// So many names of missing segments are told.
const NAMED: usize = 10;
/// So many segments that a listing did not show are asked for by name, as recovery would. One that a listing forgot is
/// rare; of a long hole the beginning is enough.
const ASKED_AGAIN: usize = 100;
/// Backups that are pruned while one looks take their WAL along; then it is looked again.
const TRIES: usize = 3;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// How many backups there are.
    pub backups: usize,
    /// How many segments were looked for and are there.
    pub segments: usize,
    /// Every moment from here on can be restored; none without a backup after the last hole.
    pub first: Option<First>,
    /// Recovery from there gets to here.
    pub last: Option<Lsn>,
    /// How many segments are missing.
    pub missing: usize,
    /// The names of the first of them.
    pub names: Vec<String>,
    /// What else is wrong.
    pub problems: Vec<String>,
}

/// The first moment that can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// From this backup.
    pub backup: String,
    /// When it was complete. Unix time in milliseconds.
    pub at_unix_ms: i64,
    /// Where it is consistent.
    pub lsn: Lsn,
}

impl Survey {
    /// Whether nothing is missing and nothing else is wrong.
    pub fn is_good(&self) -> bool {
        self.missing == 0 && self.problems.is_empty()
    }
}

/// The backups of one database, and its WAL.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Complete backups.
    pub backups: Vec<Manifest>,
    /// Those that people keep: what they need is theirs, later WAL may be gone.
    pub pinned: BTreeSet<String>,
    /// The archive.
    pub archive: Archive,
    /// How large segments are; none without segments.
    pub size: Option<SegmentSize>,
}

/// Looks. `archived`: the newest file of which the server was told that it is there.
///
/// # Errors
/// The store; a manifest or a pin that cannot be read; backups that come and go all the time.
pub async fn look(
    repository: &Repository,
    database: u64,
    archived: Option<&WalName>,
) -> Result<Survey, Error> {
    for _ in 0..TRIES {
        // Backups before WAL: pruning deletes in this order.
        let backups = backups(repository, database).await?;
        let pins = holds::pins(repository, database).await?;
        let archive = Archive::read(repository, database).await?;
        let mut held = Held {
            backups,
            pinned: pins.into_iter().map(|pin| pin.backup).collect(),
            size: archive.segment_size(repository).await?,
            archive,
        };
        let (mut found, missing) = judge(&held, archived);
        let was_there = ask_again(repository, database, &missing, &mut held.archive).await?;
        if was_there {
            (found, _) = judge(&held, archived);
        }
        let is_settled = found.missing == 0
            || ids(&self::backups(repository, database).await?) == ids(&held.backups);
        if is_settled {
            return Ok(found);
        }
    }
    Err(Error::Refused(
        "backups were pruned each time while it was looked".to_owned(),
    ))
}

fn ids(backups: &[Manifest]) -> BTreeSet<&str> {
    backups.iter().map(|backup| backup.id.as_str()).collect()
}

async fn backups(repository: &Repository, database: u64) -> Result<Vec<Manifest>, Error> {
    let mut found = Vec::new();
    for id in repository.folders(&names::backups(database)).await? {
        found.extend(manifest::read(repository, database, &id).await?);
    }
    Ok(found)
}

/// Whether one of them is there all the same.
async fn ask_again(
    repository: &Repository,
    database: u64,
    missing: &[WalName],
    archive: &mut Archive,
) -> Result<bool, Error> {
    let mut was_there = false;
    for name in missing.iter().take(ASKED_AGAIN) {
        let objects = repository.list(&name.folder(database)).await?;
        if !objects.is_empty() {
            archive.objects.insert(name.clone(), objects);
            was_there = true;
        }
    }
    Ok(was_there)
}

/// Judges, and tells every segment that is missing.
pub fn judge(held: &Held, archived: Option<&WalName>) -> (Survey, Vec<WalName>) {
    let mut found = Survey {
        backups: held.backups.len(),
        ..Survey::default()
    };
    let mut all_missing = BTreeSet::new();
    // Without a segment any size gives the same answer.
    let Some(size) = held.size.or_else(|| SegmentSize::new(16 << 20)) else {
        return (found, Vec::new());
    };
    let archived = archived.filter(|name| name.is_segment());
    let archived = archived.and_then(|name| size.segment(name));
    let main = held.archive.main_line(&held.backups);
    if let Some(told) = archived.filter(|told| told.timeline > main) {
        found.problems.push(format!(
            "the server archives on timeline {}, and nothing of it is in the archive",
            told.timeline
        ));
    }
    // What was told of a branch that was left says nothing about the main line.
    let path = lineage::path(&held.archive.histories, main);
    let archived = archived.filter(|told| {
        told.timeline > main
            || lineage::timeline_of(&path, size, told.number) == Some(told.timeline)
    });
    let settled = settled(held, size).max(archived.map(|told| told.number));
    let lines = lines(held);
    if !held.backups.is_empty() && !lines.contains_key(&main) {
        found
            .problems
            .push(format!("no backup leads to timeline {main}, the newest"));
    }
    for (timeline, bases) in lines {
        let to = archived
            .map(|told| told.number)
            .filter(|_| timeline == main);
        let trace = |backup: &Manifest| {
            let question = Question {
                backup,
                until: None,
                archived: to,
                size,
            };
            audit::trace(&held.archive, question)
        };
        let Some(oldest) = bases.first() else {
            continue;
        };
        let answer = trace(oldest);
        found.segments += answer.segments.len();
        for problem in answer.problems {
            if !found.problems.contains(&problem) {
                found.problems.push(problem);
            }
        }
        let number = |name: &WalName| size.segment(name).map(|it| it.number);
        let missing = answer.missing.into_iter();
        let missing = missing.filter(|it| number(it) <= settled);
        let missing: Vec<WalName> = missing.collect();
        if timeline == main {
            let hole = missing.last().and_then(number);
            let after = bases.iter();
            let first = after
                .filter(|it| hole.is_none_or(|hole| size.number(it.end) > hole))
                .min_by_key(|it| it.ended_unix_ms);
            // A backup brings its own WAL up to where it is consistent: one of a standby may begin long before.
            found.last = first.map(|it| {
                let mut from = (*it).clone();
                from.start = from.end;
                trace(&from).last
            });
            found.first = first.map(|it| First {
                backup: it.id.clone(),
                at_unix_ms: it.ended_unix_ms,
                lsn: it.end,
            });
        }
        all_missing.extend(missing);
    }
    let all_missing: Vec<WalName> = all_missing.into_iter().collect();
    found.missing = all_missing.len();
    let named = all_missing.iter().take(NAMED);
    found.names = named.map(|name| name.as_str().to_owned()).collect();
    (found, all_missing)
}

/// Up to this number everything must be there, by what is there.
fn settled(held: &Held, size: SegmentSize) -> Option<u64> {
    let names = held.archive.objects.keys().filter(|it| it.is_segment());
    let newest = names.filter_map(|it| size.segment(it)).map(|it| it.number);
    newest.max()?.checked_sub(IN_FLIGHT)
}

/// By the timeline that recovery gets to: the backups from which it may go on to any later moment, oldest start first.
fn lines(held: &Held) -> BTreeMap<TimelineId, Vec<&Manifest>> {
    let newest = held.backups.iter().max_by_key(|it| it.ended_unix_ms);
    let mut found: BTreeMap<TimelineId, Vec<&Manifest>> = BTreeMap::new();
    for backup in &held.backups {
        let is_newest = newest.is_some_and(|it| it.id == backup.id);
        if held.pinned.contains(&backup.id) && !is_newest {
            continue;
        }
        let histories = &held.archive.histories;
        let line = lineage::newest(histories, backup.timeline, backup.end);
        found.entry(line).or_default().push(backup);
    }
    for bases in found.values_mut() {
        bases.sort_by_key(|backup| backup.start);
    }
    found
}

#[cfg(test)]
mod tests;
