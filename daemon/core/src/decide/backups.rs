//! Rule: a backup that the schedule asks for is taken, by one member that the leader names. One that was missed
//! (nobody led, nobody could) is made up for once, as soon as somebody can.

use std::time::Duration;

use crate::change::Command;
use crate::model::MemberName;
use crate::model::backup_run::{ATTEMPTS, BackupOutcome, BackupRun};
use crate::model::view::ClusterView;

use super::cluster::{Verdict, propose};
use super::reason::Reason;
use super::snapshots::{SILENCE_LIMIT, copying_costs};

/// After a failure it is tried again no earlier. Judgement: long enough for a restart or a failover to be over.
pub const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Begins the backup that is due, and gives one up whose taker is gone.
pub fn scheduled(view: &ClusterView) -> Verdict {
    if let Some(run) = view.state.open_backup() {
        return watch(view, run);
    }
    let is_open = view.state.followable().is_some_and(|it| it.is_activated);
    // A new leader has heard itself and not yet the others: it would name itself.
    let has_heard = view.leading_for >= view.fresh_within();
    if view.state.pause.is_some() || !is_open || !has_heard {
        return Verdict::Pass;
    }
    let Some(due_unix_ms) = due(view) else {
        return Verdict::Pass;
    };
    match taker(view) {
        Ok((taker, daemon_start)) => {
            let begin = Command::BeginBackup {
                due_unix_ms,
                taker: taker.clone(),
                daemon_start,
            };
            propose(begin, Reason::BackupDue(taker))
        }
        Err(why) => Verdict::Wait(Reason::BackupWaits(why)),
    }
}

fn watch(view: &ClusterView, run: &BackupRun) -> Verdict {
    let seen = view.reports.get(&run.taker);
    let silent = seen.map_or(view.leading_for, |seen| seen.age);
    if silent < SILENCE_LIMIT {
        return Verdict::Pass;
    }
    let why = format!(
        "{} was not heard for {} s while it took it",
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

/// The moment of the schedule that is to be taken care of now. Without any backup yet it is the newest past one,
/// so a schedule's first backup is taken at once.
fn due(view: &ClusterView) -> Option<u64> {
    let now = view.wall_unix_ms?;
    let latest = view.state.settings.backup_schedule.latest(now)?;
    let Some(newest) = view.state.backup_runs.last() else {
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

/// A standby that streams, rather not the one that leads; else the primary. It must have a repository.
fn taker(view: &ClusterView) -> Result<(MemberName, String), String> {
    let all = view.state.databases();
    let can = all.filter_map(|(name, member)| {
        let cost = copying_costs(view, name)?;
        let report = view.fresh(name)?;
        let leads = member.node == view.me;
        report
            .health
            .has_repository
            .then_some((cost, leads, name, &report.daemon_start))
    });
    let best = can.min();
    best.map(|(_, _, name, start)| (name.clone(), start.clone()))
        .ok_or_else(|| {
            "no member that is heard has both a [backup] repository and a PostgreSQL that can be copied now"
                .to_owned()
        })
}
