//! Rule: what a schedule asks for (a backup, a verification, a pruning) is done, by one member that the leader names.
//! One that was missed (nobody led, nobody could) is made up for once, as soon as somebody can.

use std::time::Duration;

use crate::change::Command;
use crate::model::MemberName;
use crate::model::backup_run::{ATTEMPTS, BackupOutcome, BackupRun, RunKind};
use crate::model::view::ClusterView;

use super::cluster::{Verdict, propose};
use super::reason::Reason;
use super::snapshots::{SILENCE_LIMIT, copying_costs};

/// After a failure it is tried again no earlier. Judgement: long enough for a restart or a failover to be over.
pub const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Begins what is due, and gives up what is at somebody's who is gone. One of a kind at a time; one that waits does not
/// hold up the others.
pub fn scheduled(view: &ClusterView) -> Verdict {
    let mut waits = Verdict::Pass;
    for kind in RunKind::ALL {
        match of_kind(view, kind) {
            Verdict::Pass => {}
            Verdict::Wait(why) => {
                if waits == Verdict::Pass {
                    waits = Verdict::Wait(why);
                }
            }
            found @ (Verdict::Propose(..) | Verdict::Voters(..) | Verdict::Elect(..)) => {
                return found;
            }
        }
    }
    waits
}

fn of_kind(view: &ClusterView, kind: RunKind) -> Verdict {
    if let Some(run) = view.state.open_run(kind) {
        return watch(view, run);
    }
    let is_open = view.state.followable().is_some_and(|it| it.is_activated);
    // A new leader has heard itself and not yet the others: it would name itself.
    let has_heard = view.leading_for >= view.fresh_within();
    if view.state.pause.is_some() || !is_open || !has_heard {
        return Verdict::Pass;
    }
    let Some(due_unix_ms) = due(view, kind) else {
        return Verdict::Pass;
    };
    match taker(view, kind) {
        Ok((taker, daemon_start)) => {
            let begin = Command::BeginBackup {
                what: kind,
                due_unix_ms,
                taker: taker.clone(),
                daemon_start,
            };
            propose(begin, Reason::BackupDue(taker))
        }
        Err(why) => Verdict::Wait(Reason::BackupWaits(format!("{}: {why}", kind.key()))),
    }
}

fn watch(view: &ClusterView, run: &BackupRun) -> Verdict {
    let seen = view.reports.get(&run.taker);
    let silent = seen.map_or(view.leading_for, |seen| seen.age);
    if silent < SILENCE_LIMIT {
        return Verdict::Pass;
    }
    let why = format!(
        "{} was not heard for {} s while it was at it",
        run.taker,
        SILENCE_LIMIT.as_secs()
    );
    let void = Command::EndBackup {
        run: run.index,
        member: run.taker.clone(),
        outcome: BackupOutcome::Failed { why },
    };
    propose(void, Reason::BackupVoid(run.taker.clone()))
}

/// The moment of the schedule that is to be taken care of now. Without any run yet it is the newest past one, so the
/// first is done at once; but nothing is proven or deleted before the first backup that a schedule asks for.
fn due(view: &ClusterView, kind: RunKind) -> Option<u64> {
    let now = view.wall_unix_ms?;
    let settings = &view.state.settings;
    let latest = kind.schedule(settings).latest(now)?;
    let is_first_missing = kind != RunKind::Backup
        && !settings.backup_schedule.is_off()
        && view.state.stored_backup().is_none();
    if is_first_missing {
        return None;
    }
    let Some(newest) = view.state.runs(kind).next_back() else {
        return Some(latest);
    };
    if newest.due_unix_ms < latest {
        return Some(latest);
    }
    let failed_at = newest.failed_at()?;
    let retry_ms = u64::try_from(RETRY_AFTER.as_millis()).unwrap_or(u64::MAX);
    let may = newest.attempt < ATTEMPTS && now >= failed_at.saturating_add(retry_ms);
    may.then_some(newest.due_unix_ms)
}

/// Who looks at the archive: who would verify. The same for every member that has heard the same.
pub fn auditor(view: &ClusterView) -> Option<MemberName> {
    taker(view, RunKind::Verify).ok().map(|(name, _)| name)
}

/// A standby that streams, rather not the one that leads; else the primary. It must have a repository, and for all
/// but a backup be able to read it.
fn taker(view: &ClusterView, kind: RunKind) -> Result<(MemberName, String), String> {
    let all = view.state.databases();
    let can = all.filter_map(|(name, member)| {
        let cost = copying_costs(view, name)?;
        let report = view.fresh(name)?;
        let leads = member.node == view.me;
        let health = &report.health;
        let can = health.has_repository && (kind == RunKind::Backup || health.reads_repository);
        can.then_some((cost, leads, name, &report.daemon_start))
    });
    let best = can.min();
    best.map(|(_, _, name, start)| (name.clone(), start.clone()))
        .ok_or_else(|| {
            let what = match kind {
                RunKind::Backup => "a [backup] repository",
                RunKind::Verify | RunKind::Prune => {
                    "a [backup] repository that it can read ([backup] identity)"
                }
            };
            format!(
                "no member that is heard has both {what} and a PostgreSQL that can be copied now"
            )
        })
}
