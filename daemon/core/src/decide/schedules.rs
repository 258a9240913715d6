//! Rule: what is scheduled and due becomes a request, or is dropped with a reason. The wall clock says when to
//! ask that question; the answer goes by the same facts as a request by hand.

use std::time::Duration;

use crate::change::Command;
use crate::model::member::SERVER_VERSION;
use crate::model::schedule::{Conditions, Role, Work, version_number, version_text};
use crate::model::view::ClusterView;
use crate::model::{MemberName, MemberReport, PostgresStatus, Schedule};

use super::cluster::{Verdict, propose};
use super::reason::Reason;

/// How long after its time something is still begun: a change of the leader takes seconds, and whoever chose a
/// quiet hour does not want it in another one. Judgement; Patroni's is 1.5 times `loop_wait`, 15 s by default.
pub const LATEST: Duration = Duration::from_secs(30);

/// The first that is due and can be begun, or has to be dropped.
pub fn due(view: &ClusterView) -> Verdict {
    let Some(now) = view.wall_unix_ms else {
        return Verdict::Pass;
    };
    for schedule in &view.state.schedules {
        let Some(late_ms) = now.checked_sub(schedule.due.unix_ms) else {
            continue;
        };
        let late = Duration::from_millis(late_ms);
        let verdict = match ready(view, &schedule.work) {
            Ok(()) if late <= LATEST => begin(schedule),
            Err(NotNow::Never(why)) if late <= LATEST => drop(schedule, why),
            Err(NotNow::Yet(_)) if late <= LATEST => Verdict::Pass,
            Ok(()) => drop(schedule, too_late(late, "")),
            Err(NotNow::Yet(why) | NotNow::Never(why)) => drop(schedule, too_late(late, &why)),
        };
        if verdict != Verdict::Pass {
            return verdict;
        }
    }
    Verdict::Pass
}

fn begin(schedule: &Schedule) -> Verdict {
    propose(
        Command::BeginScheduled {
            id: schedule.id.clone(),
        },
        Reason::ScheduleDue(format!("{} at {}", schedule.work, schedule.due.text)),
    )
}

fn drop(schedule: &Schedule, why: String) -> Verdict {
    let text = format!("{} at {}: {why}", schedule.work, schedule.due.text);
    propose(
        Command::DropScheduled {
            id: schedule.id.clone(),
            why,
        },
        Reason::ScheduleDropped(text),
    )
}

fn too_late(late: Duration, why: &str) -> String {
    let mut text = format!(
        "too late by {} s ({} s are allowed)",
        late.as_millis().div_ceil(1000),
        LATEST.as_secs()
    );
    if !why.is_empty() {
        text = format!("{text}; {why}");
    }
    text
}

enum NotNow {
    /// In a moment, perhaps.
    Yet(String),
    /// What it was bound to is not so.
    Never(String),
}

fn ready(view: &ClusterView, work: &Work) -> Result<(), NotNow> {
    if view.state.pause.is_some() {
        return Err(NotNow::Yet("the cluster is paused".to_owned()));
    }
    match work {
        Work::Switchover { .. } => Ok(()),
        Work::Restart { member, conditions } => restart(view, member, conditions),
    }
}

fn restart(view: &ClusterView, member: &MemberName, conditions: &Conditions) -> Result<(), NotNow> {
    let Some(report) = view.fresh(member) else {
        return Err(NotNow::Yet(format!("{member} is not heard")));
    };
    let unmet = unmet(report, conditions);
    if unmet.is_empty() {
        return Ok(());
    }
    let text = format!("{member} {}", unmet.join(", and "));
    Err(NotNow::Never(text))
}

/// Every condition that does not hold, as what is so instead.
pub fn unmet(report: &MemberReport, conditions: &Conditions) -> Vec<String> {
    let mut unmet = Vec::new();
    let postgres = &report.postgres;
    if let Some(of) = conditions.of_unix_ms
        && started(postgres) != Some(of)
    {
        unmet.push(match started(postgres) {
            Some(_) => "was started anew since this was scheduled".to_owned(),
            None => format!("is {}", postgres.word()),
        });
    }
    if let Some(role) = conditions.role {
        let is = match postgres {
            PostgresStatus::Primary(_)
            | PostgresStatus::Unresponsive {
                was_primary: true, ..
            } => Some(Role::Primary),
            PostgresStatus::Standby(_) | PostgresStatus::Unresponsive { .. } => Some(Role::Replica),
            _ => None,
        };
        if is != Some(role) {
            let is = is.map_or(postgres.word(), Role::word);
            unmet.push(format!("is {is}, not {}", role.word()));
        }
    }
    if let Some(wanted) = conditions.older_than {
        match running_version(report) {
            Some(version) if version < wanted => {}
            Some(version) => unmet.push(format!(
                "runs {}, which is not below {}",
                version_text(version),
                version_text(wanted)
            )),
            None => unmet.push("does not tell its version".to_owned()),
        }
    }
    if conditions.pending && report.pending_restart().is_empty() {
        unmet.push("waits for no restart".to_owned());
    }
    unmet
}

/// The version of the server that runs: where a newer one is installed, not that one's.
fn running_version(report: &MemberReport) -> Option<u32> {
    let mut pending = report.pending_restart().iter();
    let Some(newer) = pending.find(|it| it.name == SERVER_VERSION) else {
        return report.server_version;
    };
    // A distribution's words may follow: `15.18 (Debian 15.18-0+deb12u1)`.
    let number = newer.from.split_whitespace().next()?;
    version_number(number).ok()
}

/// When the server that runs was started, Unix milliseconds.
pub fn started(postgres: &PostgresStatus) -> Option<u64> {
    match postgres {
        PostgresStatus::Primary(primary) => Some(primary.started_unix_ms),
        PostgresStatus::Standby(standby) => Some(standby.started_unix_ms),
        PostgresStatus::Unknown { .. }
        | PostgresStatus::Empty
        | PostgresStatus::Unusable { .. }
        | PostgresStatus::Stopped(_)
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => None,
    }
}
