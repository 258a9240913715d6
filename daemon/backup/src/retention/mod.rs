//! What may go, what stays, and why. Pure: the clock and the repository are arguments.
//!
//! What is promised: any moment of the window that could be restored before can be restored afterwards,
//! on every timeline that was in use during the window, and every backup that stays has the WAL it needs.
//! When that cannot be told, nothing goes.

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::model::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::archive::{self, Archive};
use crate::holds::{Lease, Pin};
use crate::lineage::{self, Segment, SegmentSize, Stretch};
use crate::manifest::Manifest;
use crate::names::{self, WalName};

/// Parts of a backup without a manifest are of one that was given up when nothing was added for so long.
/// Unit: milliseconds.
pub const GIVEN_UP_AFTER_MS: i64 = 24 * 3600 * 1000;

/// What must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Any moment this far back can be restored. Unit: milliseconds.
    pub window_ms: i64,
    /// So many backups of the main line stay, however old. At least one does.
    pub at_least: usize,
}

/// What is in a folder of a backup that has no manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The folder's name.
    pub id: String,
    /// Its objects.
    pub objects: Vec<String>,
    /// When the newest was stored. Unix time in milliseconds.
    pub newest_unix_ms: i64,
}

/// Everything of one database.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    /// The complete backups.
    pub backups: Vec<Manifest>,
    /// What is left of others.
    pub parts: Vec<Parts>,
    /// Archived WAL.
    pub archive: Archive,
    /// How large segments are; none without segments.
    pub size: Option<SegmentSize>,
    /// Pins.
    pub pins: Vec<Pin>,
    /// Leases, expired ones too.
    pub leases: Vec<Lease>,
    /// Data keys of backups that were pruned before, when that was interrupted.
    pub orphans: Vec<String>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The backups that stay, each with every reason.
    pub keep: BTreeMap<String, Vec<String>>,
    /// Those that go.
    pub backups: Vec<String>,
    /// Given-up ones whose parts go.
    pub parts: Vec<String>,
    /// The files of WAL that go.
    pub wal: Vec<WalName>,
    /// The data keys that go: of those backups, and of others that went before.
    pub keys: Vec<String>,
    /// How many files of WAL stay.
    pub wal_kept: usize,
}

impl Plan {
    /// Nothing goes.
    pub fn is_empty(&self) -> bool {
        self.backups.is_empty()
            && self.parts.is_empty()
            && self.wal.is_empty()
            && self.keys.is_empty()
    }
}

/// Why nothing may go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is pruned: {0}")]
pub struct Refused(pub String);

/// Decides.
///
/// # Errors
/// [`Refused`]: what belongs to what cannot be told.
pub fn plan(stock: &Stock, policy: Policy, now_unix_ms: i64) -> Result<Plan, Refused> {
    let mut plan = Plan {
        parts: given_up(stock, now_unix_ms),
        wal_kept: stock.archive.objects.len(),
        ..Plan::default()
    };
    // Without a backup nobody can tell what a piece of WAL is for.
    if stock.backups.is_empty() {
        return Ok(plan);
    }
    let size = require_known(stock)?;
    let since = now_unix_ms.saturating_sub(policy.window_ms);
    let lines = Lines::of(stock, since);
    let keep = reasons(stock, policy, since, now_unix_ms, &lines)?;
    for backup in &stock.backups {
        match keep.get(&backup.id) {
            Some(why) => {
                let why = why.iter().map(|why| why.text.clone()).collect();
                plan.keep.insert(backup.id.clone(), why);
            }
            None => plan.backups.push(backup.id.clone()),
        }
    }
    plan.keys = keys(stock, &plan);
    let Some(size) = size else {
        return Ok(plan);
    };
    let mut needed = Vec::new();
    for backup in &stock.backups {
        let Some(why) = keep.get(&backup.id) else {
            continue;
        };
        let is_base = why.iter().any(|why| why.is_base);
        needed.extend(lines.needed_by(stock, backup, size, is_base));
    }
    let stays = |name: &WalName| match size.segment(name) {
        Some(segment) => needed.iter().any(|range| range.holds(segment)),
        // Histories are small, and tell what comes from what.
        None => true,
    };
    let names = stock.archive.objects.keys();
    plan.wal = names.filter(|name| !stays(name)).cloned().collect();
    plan.wal_kept -= plan.wal.len();
    Ok(plan)
}

/// Why one backup stays, and whether recovery may go on from it to any later moment.
struct Why {
    text: String,
    is_base: bool,
}

/// WAL of one timeline, both ends inclusive.
struct Range {
    timeline: TimelineId,
    from: u64,
    to: u64,
}

impl Range {
    fn holds(&self, segment: Segment) -> bool {
        self.timeline == segment.timeline && (self.from..=self.to).contains(&segment.number)
    }
}

/// The timelines.
struct Lines {
    /// The newest one.
    main: TimelineId,
    /// Those that may have been in use during the window, the main one too.
    in_use: BTreeSet<TimelineId>,
}

impl Lines {
    fn of(stock: &Stock, since: i64) -> Lines {
        let histories = stock.archive.histories.iter();
        let real = histories
            .filter(|(_, lines)| lineage::is_real(lines))
            .map(|(timeline, _)| *timeline);
        let archived = stock.archive.objects.keys().filter(|it| it.is_segment());
        let mut all: BTreeSet<TimelineId> = archived.filter_map(archive::timeline_of).collect();
        all.extend(real);
        all.extend(stock.backups.iter().map(|backup| backup.timeline));
        let main = stock.archive.main_line(&stock.backups);
        // Numbers only rise: when a backup of a higher one was taken, the lower one had ended.
        let had_ended = |timeline: TimelineId| {
            let mut backups = stock.backups.iter();
            backups.any(|it| it.timeline > timeline && it.began_unix_ms <= since)
        };
        all.retain(|timeline| !had_ended(*timeline));
        all.insert(main);
        Lines { main, in_use: all }
    }

    /// What a backup needs: as a base everything from its start on along every timeline it can get to; for
    /// itself up to where it is consistent, and the segment after it, so that recovery sees the end.
    fn needed_by(
        &self,
        stock: &Stock,
        backup: &Manifest,
        size: SegmentSize,
        is_base: bool,
    ) -> Vec<Range> {
        let last = match is_base {
            true => u64::MAX,
            false => size.number(backup.end) + 1,
        };
        let from = size.number(backup.start);
        let mut lines = self.in_use.clone();
        lines.extend([backup.timeline, self.main]);
        let lines = lines.into_iter().filter(|to| reaches(stock, backup, *to));
        let range = |stretch: Stretch| Range {
            timeline: stretch.timeline,
            from,
            to: stretch.until.map_or(last, |end| size.number(end).min(last)),
        };
        lines
            .flat_map(|to| lineage::path(&stock.archive.histories, to))
            .map(range)
            .collect()
    }
}

fn reaches(stock: &Stock, backup: &Manifest, timeline: TimelineId) -> bool {
    lineage::reaches(
        &stock.archive.histories,
        backup.timeline,
        backup.end,
        timeline,
    )
}

/// Every backup that stays.
fn reasons<'a>(
    stock: &'a Stock,
    policy: Policy,
    since: i64,
    now: i64,
    lines: &Lines,
) -> Result<BTreeMap<&'a String, Vec<Why>>, Refused> {
    let mut keep: BTreeMap<&String, Vec<Why>> = BTreeMap::new();
    let mut add = |id: &'a String, text: String, is_base| {
        keep.entry(id).or_default().push(Why { text, is_base });
    };
    let mut backups: Vec<&Manifest> = stock.backups.iter().collect();
    backups.sort_by_key(|backup| (backup.ended_unix_ms, &backup.id));
    for backup in &backups {
        if backup.ended_unix_ms > since {
            add(&backup.id, "within the window".to_owned(), true);
        }
    }
    for timeline in &lines.in_use {
        let mut before = backups.iter().rev();
        let base = before.find(|it| it.ended_unix_ms <= since && reaches(stock, it, *timeline));
        if let Some(base) = base {
            let why = format!("the base of the window's beginning on timeline {timeline}");
            add(&base.id, why, true);
        }
    }
    let of_main: Vec<&&Manifest> = backups
        .iter()
        .rev()
        .filter(|it| reaches(stock, it, lines.main))
        .take(policy.at_least.max(1))
        .collect();
    if of_main.is_empty() {
        return Err(Refused(format!(
            "no backup leads to timeline {}, the newest: take one first",
            lines.main
        )));
    }
    for (place, backup) in of_main.iter().enumerate() {
        let why = format!(
            "number {} of the newest {}",
            place + 1,
            policy.at_least.max(1)
        );
        add(&backup.id, why, true);
    }
    for backup in &backups {
        for lease in &stock.leases {
            if lease.backup == backup.id && lease.expires_unix_ms > now {
                add(&backup.id, format!("{} by {}", lease.what, lease.by), true);
            }
        }
        for pin in &stock.pins {
            if pin.backup == backup.id {
                let why = format!("pinned by {}: {}", pin.by, pin.why);
                add(&backup.id, why, false);
            }
        }
    }
    Ok(keep)
}

/// The data keys of what goes. Each backup has one of its own; one that anything else carries stays all the same. Those of
/// WAL stay: whoever archives may go on with one although all that it wrote is gone.
fn keys(stock: &Stock, plan: &Plan) -> Vec<String> {
    let backups = stock.backups.iter();
    let (goes, stays): (Vec<&Manifest>, Vec<&Manifest>) =
        backups.partition(|it| plan.backups.contains(&it.id));
    let parts = |goes: bool| {
        let parts = stock.parts.iter();
        let parts = parts.filter(move |it| plan.parts.contains(&it.id) == goes);
        parts.flat_map(|it| &it.objects)
    };
    let wal = stock.archive.objects.values().flatten();
    let of_names = |name: &String| names::data_key(name).map(str::to_owned);
    let mut found: BTreeSet<String> = goes.iter().filter_map(|it| it.key.clone()).collect();
    found.extend(parts(true).filter_map(of_names));
    found.extend(stock.orphans.iter().cloned());
    for key in stays.iter().filter_map(|it| it.key.as_ref()) {
        found.remove(key);
    }
    for key in parts(false).chain(wal).filter_map(of_names) {
        found.remove(&key);
    }
    found.into_iter().collect()
}

/// Parts of backups that nobody is taking any more.
fn given_up(stock: &Stock, now: i64) -> Vec<String> {
    let is_old = |parts: &&Parts| now.saturating_sub(parts.newest_unix_ms) > GIVEN_UP_AFTER_MS;
    let old = stock.parts.iter().filter(is_old);
    old.map(|parts| parts.id.clone()).collect()
}

/// The lineage is known, and so is the size of segments.
fn require_known(stock: &Stock) -> Result<Option<SegmentSize>, Refused> {
    if !stock.archive.problems.is_empty() {
        return Err(Refused(stock.archive.problems.join("; ")));
    }
    if let Some(timeline) = stock.archive.without_history().first() {
        return Err(Refused(format!(
            "timeline {timeline} has segments, and {} is not there: what comes from what is not known",
            timeline.history_file()
        )));
    }
    let has_segments = stock.archive.objects.keys().any(WalName::is_segment);
    if has_segments && stock.size.is_none() {
        return Err(Refused(
            "how large segments are could not be read".to_owned(),
        ));
    }
    let odd = stock.backups.iter().find(|it| it.start == Lsn::ZERO);
    match odd {
        Some(backup) => Err(Refused(format!("backup {} has no start", backup.id))),
        None => Ok(stock.size),
    }
}

#[cfg(test)]
mod tests;
