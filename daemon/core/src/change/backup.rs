//! Commands about backups on a schedule: one at a time, each moment of the schedule once, void when another epoch
//! began meanwhile.

use crate::model::backup_run::{ATTEMPTS, BackupOutcome, BackupRun, BackupStage, RUNS_KEPT};
use crate::model::{ClusterState, MemberKind, MemberName};

use super::apply::{Applied, At, note};
use super::command::Rejected;

/// One begins. Two leaders that both think it due can propose it: the second is refused.
pub(super) fn begin(
    state: &mut ClusterState,
    at: At,
    due_unix_ms: u64,
    taker: &MemberName,
    daemon_start: &str,
) -> Result<Applied, Rejected> {
    let member = state
        .members
        .get(taker)
        .ok_or_else(|| Rejected::UnknownMember(taker.clone()))?;
    if member.kind == MemberKind::Witness {
        return Err(Rejected::Refused(format!(
            "{taker} is a witness: it has no PostgreSQL"
        )));
    }
    if state.settings.backup_schedule.is_off() {
        return Err(Rejected::WrongMoment(
            "there is no backup_schedule any more".to_owned(),
        ));
    }
    if state.followable().is_none() {
        return Err(Rejected::WrongMoment(
            "there is no primary: whose data a backup would hold is not settled".to_owned(),
        ));
    }
    let attempt = attempt(state.backup_runs.last(), due_unix_ms)?;
    let epoch = state.epoch();
    state.backup_runs.push(BackupRun {
        index: at.index,
        due_unix_ms,
        attempt,
        began_unix_ms: at.unix_ms,
        taker: taker.clone(),
        daemon_start: daemon_start.to_owned(),
        epoch,
        stage: BackupStage::Running,
    });
    forget(state);
    let text = format!("by schedule, attempt {attempt} of {ATTEMPTS}");
    note(state, at, "backup", Some(taker), text);
    Ok(Applied::Changed)
}

/// Which attempt at this moment of the schedule the next one would be.
fn attempt(newest: Option<&BackupRun>, due_unix_ms: u64) -> Result<u32, Rejected> {
    let Some(newest) = newest else {
        return Ok(1);
    };
    if newest.is_open() {
        return Err(Rejected::Refused(format!(
            "{} takes a backup already: one at a time",
            newest.taker
        )));
    }
    if newest.due_unix_ms < due_unix_ms {
        return Ok(1);
    }
    let is_same = newest.due_unix_ms == due_unix_ms;
    match is_same && newest.failed_at().is_some() && newest.attempt < ATTEMPTS {
        true => Ok(newest.attempt + 1),
        false => Err(Rejected::Refused(
            "this moment of the backup_schedule was taken care of".to_owned(),
        )),
    }
}

/// The oldest go, but for the newest that is stored.
fn forget(state: &mut ClusterState) {
    while state.backup_runs.len() > RUNS_KEPT {
        let stored = state.stored_backup().map(|run| run.index);
        let mut runs = state.backup_runs.iter();
        match runs.position(|run| Some(run.index) != stored && !run.is_open()) {
            Some(oldest) => drop(state.backup_runs.remove(oldest)),
            None => break,
        }
    }
}

/// It is over. Told twice, it changes nothing.
pub(super) fn end(
    state: &mut ClusterState,
    at: At,
    run: u64,
    member: &MemberName,
    outcome: &BackupOutcome,
) -> Result<Applied, Rejected> {
    let epoch = state.epoch();
    let found = state.backup_runs.iter_mut().find(|it| it.index == run);
    let Some(found) = found else {
        return Err(Rejected::Refused(format!(
            "no backup began with entry {run}"
        )));
    };
    if found.taker != *member {
        return Err(Rejected::Refused(format!(
            "{} takes the backup of entry {run}, not {member}",
            found.taker
        )));
    }
    if let Some((_, known)) = found.ended() {
        return match known == outcome {
            true => Ok(Applied::Unchanged),
            false => Err(Rejected::Refused(format!(
                "the backup of entry {run} is over already"
            ))),
        };
    }
    let outcome = match outcome {
        BackupOutcome::Stored { id, .. } if found.epoch != epoch => {
            // Made across a change of the primary it may be of two histories [hazards K10].
            BackupOutcome::Failed {
                why: format!(
                    "epoch {epoch} began while it was taken under epoch {}: {id} is in the repository and does \
                     not count",
                    found.epoch
                ),
            }
        }
        BackupOutcome::Stored { .. } | BackupOutcome::Failed { .. } => outcome.clone(),
    };
    let (what, text) = match &outcome {
        BackupOutcome::Stored { id, bytes } => ("backup-completed", format!("{id}, {bytes} bytes")),
        BackupOutcome::Failed { why } => ("backup-failed", why.clone()),
    };
    let taker = found.taker.clone();
    found.stage = BackupStage::Ended {
        at_unix_ms: at.unix_ms,
        outcome,
    };
    note(state, at, what, Some(&taker), text);
    Ok(Applied::Changed)
}
