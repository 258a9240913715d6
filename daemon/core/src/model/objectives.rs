//! What was promised, and what was measured: how long without an answer (RTO), how many commits lost (RPO), how old
//! the newest backup and the newest proof. Pure: the clock and the archive are arguments.

use super::backup_run::{BackupOutcome, RunKind};
use super::state::ClusterState;

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objective {
    /// Its name.
    pub name: &'static str,
    /// At most this; none: nothing is promised. Unit: milliseconds.
    pub limit_ms: Option<u64>,
    /// What was measured; none: nothing was yet. Unit: milliseconds.
    pub measured_ms: Option<u64>,
    /// When that was measured; of an age: from when it counts. Unix milliseconds.
    pub at_unix_ms: Option<u64>,
    /// Since when it is breached; none: it is not, or it never was kept. Unix milliseconds.
    pub since_unix_ms: Option<u64>,
    /// What was measured, in words; or why nothing was.
    pub of: String,
    /// Whether it is kept.
    pub verdict: Kept,
}

/// Whether a promise is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is.
    Ok,
    /// It is not.
    Breached,
    /// Nobody knows: nothing was measured yet. For an age it is a breach.
    NotMeasured,
    /// Nothing is promised.
    NotSet,
}

impl Kept {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Kept::Ok => "ok",
            Kept::Breached => "breached",
            Kept::NotMeasured => "not measured",
            Kept::NotSet => "not set",
        }
    }
}

/// What a verdict rests on.
#[derive(Clone, Copy)]
enum Measured {
    /// Something took so long, and was over at that moment.
    Took { ms: u64, at_unix_ms: u64 },
    /// What counts from that moment is older from one moment to the next.
    Since(u64),
}

/// All of them. `recoverable_unix_ms`: everything committed before it is in the repository.
pub fn objectives(
    state: &ClusterState,
    recoverable_unix_ms: Option<u64>,
    now_unix_ms: u64,
) -> Vec<Objective> {
    let promised = &state.settings.recovery;
    let failover = last_failover(state);
    let restore = last_restore(state);
    let backup = state.stored_backup();
    let proof = state.newest_success(RunKind::Verify);
    let proven = proof.and_then(|run| run.ended()).map(|(at, _)| at);
    vec![
        judge(
            "rto-failover",
            promised.rto_ms,
            failover.as_ref().map(|it| it.0),
            failover.map_or_else(|| "no primary was lost".to_owned(), |it| it.1),
            Kept::NotMeasured,
            now_unix_ms,
        ),
        judge(
            "rto-restore",
            promised.rto_ms,
            restore.as_ref().map(|it| it.0),
            restore.map_or_else(
                || "no verification of level start has come to an answer".to_owned(),
                |it| it.1,
            ),
            Kept::NotMeasured,
            now_unix_ms,
        ),
        judge(
            "rpo-archive",
            promised.rpo_ms,
            recoverable_unix_ms.map(Measured::Since),
            match recoverable_unix_ms {
                Some(_) => "the newest commit that is sure to be in the repository".to_owned(),
                None => "how far the archive is is not known".to_owned(),
            },
            Kept::NotMeasured,
            now_unix_ms,
        ),
        judge(
            "backup-age",
            promised.backup_age_ms,
            backup.map(|run| Measured::Since(run.began_unix_ms)),
            match backup.and_then(|run| run.ended()) {
                Some((_, BackupOutcome::Stored { id, .. })) => id.clone(),
                Some(_) | None => "no scheduled backup is stored".to_owned(),
            },
            Kept::Breached,
            now_unix_ms,
        ),
        judge(
            "verification-age",
            promised.verification_age_ms,
            proven.map(Measured::Since),
            match proof {
                Some(run) => format!("by {}", run.taker),
                None => "no scheduled verification was successful".to_owned(),
            },
            Kept::Breached,
            now_unix_ms,
        ),
    ]
}

fn judge(
    name: &'static str,
    limit_ms: Option<u64>,
    measured: Option<Measured>,
    of: String,
    missing: Kept,
    now_unix_ms: u64,
) -> Objective {
    let (measured_ms, at_unix_ms) = match measured {
        None => (None, None),
        Some(Measured::Took { ms, at_unix_ms }) => (Some(ms), Some(at_unix_ms)),
        Some(Measured::Since(from)) => (Some(now_unix_ms.saturating_sub(from)), Some(from)),
    };
    let verdict = match (limit_ms, measured_ms) {
        (None, _) => Kept::NotSet,
        (Some(_), None) => missing,
        (Some(limit), Some(measured)) if measured > limit => Kept::Breached,
        (Some(_), Some(_)) => Kept::Ok,
    };
    let since_unix_ms = match (verdict, measured) {
        (Kept::Breached, Some(Measured::Took { at_unix_ms, .. })) => Some(at_unix_ms),
        (Kept::Breached, Some(Measured::Since(from))) => {
            Some(from.saturating_add(limit_ms.unwrap_or(0)))
        }
        (Kept::Breached | Kept::Ok | Kept::NotMeasured | Kept::NotSet, _) => None,
    };
    Objective {
        name,
        limit_ms,
        measured_ms,
        at_unix_ms,
        since_unix_ms,
        of,
        verdict,
    }
}

/// How long the newest failover took, from the revocation of the lost primary's epoch until the next one was open, by
/// the clocks of those who led; when it was over; in words.
fn last_failover(state: &ClusterState) -> Option<(Measured, String)> {
    let mut over: Option<&super::state::HistoryEntry> = None;
    for entry in state.history.iter().rev() {
        match entry.what.as_str() {
            "activated" => over = Some(entry),
            // Planned: the old primary took part.
            "released" => over = None,
            "revoked" => {
                if let Some(over) = over {
                    let took = over.at_unix_ms.saturating_sub(entry.at_unix_ms);
                    let to = over.member.as_ref().map(ToString::to_string);
                    let to = to.unwrap_or_default();
                    let words = format!(
                        "the failover to {to}, epoch {}, from Revoke to open",
                        over.epoch
                    );
                    let measured = Measured::Took {
                        ms: took,
                        at_unix_ms: over.at_unix_ms,
                    };
                    return Some((measured, words));
                }
            }
            _ => {}
        }
    }
    None
}

/// How long the newest restore took that came to an answer.
fn last_restore(state: &ClusterState) -> Option<(Measured, String)> {
    state
        .backup_runs
        .iter()
        .rev()
        .find_map(|run| match run.ended() {
            Some((at, BackupOutcome::Verified(found))) => {
                let backup = found.backup.as_deref().unwrap_or("(none)");
                let words = format!("{backup} restored by {} until its first answer", run.taker);
                let measured = Measured::Took {
                    ms: found.rto_ms?,
                    at_unix_ms: at,
                };
                Some((measured, words))
            }
            Some(_) | None => None,
        })
}
