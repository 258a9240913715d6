//! Commands about what is done for backups on a schedule: one of a kind at a time, each moment of a schedule once; a
//! backup is void when another epoch began meanwhile.

use crate::model::backup_run::{
    ATTEMPTS, BackupOutcome, BackupRun, BackupStage, RUNS_KEPT, RunKind,
};
use crate::model::{ClusterState, MemberKind, MemberName, Verification, units};

use super::apply::{Applied, At, note};
use super::command::Rejected;

/// One begins. Two leaders that both think it due can propose it: the second is refused.
pub(super) fn begin(
    state: &mut ClusterState,
    at: At,
    (what, due_unix_ms): (RunKind, u64),
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
    if what.schedule(&state.settings).is_off() {
        return Err(Rejected::WrongMoment(format!(
            "there is no {} any more",
            what.key()
        )));
    }
    if state.followable().is_none() {
        return Err(Rejected::WrongMoment(
            "there is no primary: whose data a backup would hold is not settled".to_owned(),
        ));
    }
    let attempt = attempt(state.runs(what).next_back(), what, due_unix_ms)?;
    let epoch = state.epoch();
    state.backup_runs.push(BackupRun {
        index: at.index,
        what,
        due_unix_ms,
        attempt,
        began_unix_ms: at.unix_ms,
        taker: taker.clone(),
        daemon_start: daemon_start.to_owned(),
        epoch,
        stage: BackupStage::Running,
    });
    forget(state, what);
    let text = format!("by schedule, attempt {attempt} of {ATTEMPTS}");
    note(state, at, what.word(), Some(taker), text);
    Ok(Applied::Changed)
}

/// Which attempt at this moment of the schedule the next one would be.
fn attempt(newest: Option<&BackupRun>, what: RunKind, due_unix_ms: u64) -> Result<u32, Rejected> {
    let Some(newest) = newest else {
        return Ok(1);
    };
    if newest.is_open() {
        return Err(Rejected::Refused(format!(
            "{} is at a {} already: one at a time",
            newest.taker,
            what.word()
        )));
    }
    if newest.due_unix_ms < due_unix_ms {
        return Ok(1);
    }
    let is_same = newest.due_unix_ms == due_unix_ms;
    match is_same && newest.failed_at().is_some() && newest.attempt < ATTEMPTS {
        true => Ok(newest.attempt + 1),
        false => Err(Rejected::Refused(format!(
            "this moment of the {} was taken care of",
            what.key()
        ))),
    }
}

/// The oldest of this kind go, but for the newest that went well.
fn forget(state: &mut ClusterState, what: RunKind) {
    while state.runs(what).count() > RUNS_KEPT {
        let good = state.newest_success(what).map(|run| run.index);
        let mut runs = state.backup_runs.iter();
        let may = |run: &BackupRun| run.what == what && Some(run.index) != good && !run.is_open();
        match runs.position(may) {
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
        return Err(Rejected::Refused(format!("nothing began with entry {run}")));
    };
    if found.taker != *member {
        return Err(Rejected::Refused(format!(
            "the {} of entry {run} is {}'s, not {member}'s",
            found.what.word(),
            found.taker
        )));
    }
    if let Some((_, known)) = found.ended() {
        return match known == outcome {
            true => Ok(Applied::Unchanged),
            false => Err(Rejected::Refused(format!(
                "the {} of entry {run} is over already",
                found.what.word()
            ))),
        };
    }
    if !outcome.is_of(found.what) {
        return Err(Rejected::Refused(format!(
            "that is not how a {} ends",
            found.what.word()
        )));
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
        BackupOutcome::Stored { .. }
        | BackupOutcome::Failed { .. }
        | BackupOutcome::Verified(_)
        | BackupOutcome::Pruned { .. } => outcome.clone(),
    };
    let (how, text) = match (&outcome, outcome.failure()) {
        (_, Some(why)) => ("failed", why),
        (BackupOutcome::Stored { id, bytes }, None) => {
            ("completed", format!("{id}, {bytes} bytes"))
        }
        (BackupOutcome::Pruned { what }, None) => ("completed", what.clone()),
        (BackupOutcome::Verified(seen), None) => ("completed", verified(seen)),
        (BackupOutcome::Failed { why }, None) => ("failed", why.clone()),
    };
    let what = format!("{}-{how}", found.what.word());
    let taker = found.taker.clone();
    found.stage = BackupStage::Ended {
        at_unix_ms: at.unix_ms,
        outcome,
    };
    note(state, at, &what, Some(&taker), text);
    Ok(Applied::Changed)
}

fn verified(seen: &Verification) -> String {
    let rto = seen.rto_ms.map_or_else(String::new, |ms| {
        let length = std::time::Duration::from_millis(ms);
        format!(", first answer after {}", units::show_duration(length))
    });
    format!(
        "{} {}, level {}, {} bytes{rto}",
        seen.verdict.word(),
        seen.backup.as_deref().unwrap_or_default(),
        seen.level.word(),
        seen.bytes
    )
}
