//! HTTP: `scheduled_at` and `schedule` of Patroni's endpoints, and their `DELETE`. Codes and sentences are
//! Patroni's; when several things are wrong all of them are told, with the code of the first.

use std::time::Duration;

use axum::http::StatusCode;
use cluster_core::change::Command;
use cluster_core::decide::schedules;
use cluster_core::model::schedule::{Conditions, Due, Role, Slot, Work, version_number};
use cluster_core::model::{MemberKind, MemberName};
use serde_json::{Map, Value};

use super::{BadTime, bound, command, due, wall};
use crate::api::asks::{Asks, PROPOSE_LIMIT, new_request_id};
use crate::api::writes::{Answer, Endpoint, is_true, refused, unknown};
use crate::board::{Board, ProposeError};

/// Who asks.
const BY: &str = "HTTP API";

/// Everything that is wrong with a body.
#[derive(Debug, Default)]
pub(in crate::api) struct Problems(Vec<Answer>);

impl Problems {
    pub(in crate::api) fn add(&mut self, code: StatusCode, text: impl Into<String>) {
        self.0.push((code, text.into()));
    }

    /// Nothing, or the first code with every sentence.
    pub(in crate::api) fn check(self) -> Result<(), Answer> {
        let Some((code, _)) = self.0.first() else {
            return Ok(());
        };
        let texts: Vec<&str> = self.0.iter().map(|(_, text)| text.as_str()).collect();
        Err((*code, texts.join("\n")))
    }
}

/// The time in a body; what is wrong with it goes to `problems`.
fn time(value: &Value, action: &str, problems: &mut Problems) -> Option<Due> {
    let read = match value.as_str() {
        Some(text) => due(text, wall()),
        None => Err(BadTime::Unreadable),
    };
    match read {
        Ok(due) => Some(due),
        Err(why) => {
            let code = match why {
                BadTime::NoZone => StatusCode::BAD_REQUEST,
                BadTime::Unreadable | BadTime::Past => StatusCode::UNPROCESSABLE_ENTITY,
            };
            problems.add(code, why.sentence(action));
            None
        }
    }
}

/// `POST /switchover` with `scheduled_at`. As in Patroni it takes the place of an earlier one.
pub(in crate::api) async fn switchover(
    asks: &Asks,
    at: &Value,
    leader: &str,
    candidate: Option<&str>,
) -> Result<Answer, Answer> {
    let board = asks.board();
    let mut problems = Problems::default();
    if board.state.pause.is_some() {
        let text = "Can't schedule switchover in the paused state";
        problems.add(StatusCode::BAD_REQUEST, text);
    }
    let due = time(at, "switchover", &mut problems);
    if candidate == Some(leader) {
        let text = "Switchover target and source are the same";
        problems.add(StatusCode::BAD_REQUEST, text);
    }
    let from = database(&board, leader);
    if from.is_none() {
        let text = "leader name does not match";
        problems.add(StatusCode::PRECONDITION_FAILED, text);
    }
    let to = candidate.and_then(|name| database(&board, name));
    if candidate.is_some() && to.is_none() {
        let text = "candidate does not exists";
        problems.add(StatusCode::PRECONDITION_FAILED, text);
    }
    problems.check()?;
    let Some(due) = due else {
        return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, "no time"));
    };
    let work = Work::Switchover { from, to };
    let command = command(new_request_id(), work, due, true, BY);
    match asks.propose(command).await {
        Ok(()) => Ok(refused(StatusCode::ACCEPTED, "Switchover scheduled")),
        Err(ProposeError::Rejected(why)) => Err((StatusCode::PRECONDITION_FAILED, why.to_string())),
        Err(error) => Err(not_proposed("Switchover", &error)),
    }
}

/// A member with a PostgreSQL.
fn database(board: &Board, name: &str) -> Option<MemberName> {
    let name: MemberName = name.parse().ok()?;
    let member = board.state.members.get(&name)?;
    (member.kind == MemberKind::Database).then_some(name)
}

/// `POST /restart` with `schedule`.
pub(in crate::api) async fn restart(
    asks: &Asks,
    at: &Value,
    conditions: Conditions,
    mut problems: Problems,
) -> Result<Answer, Answer> {
    let board = asks.board();
    if board.state.pause.is_some() {
        let text = "Can't schedule restart in the paused state";
        return Err(refused(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    let due = time(at, "restart", &mut problems);
    problems.check()?;
    let Some(due) = due else {
        return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, "no time"));
    };
    let member = board.me.clone();
    let work = bound(&board, Work::Restart { member, conditions });
    let command = command(new_request_id(), work, due, false, BY);
    match asks.propose(command).await {
        Ok(()) => Ok(refused(StatusCode::ACCEPTED, "Restart scheduled")),
        // Everything else that refuses it was looked at.
        Err(ProposeError::Rejected(_)) if asks.board().state.pause.is_none() => Err(refused(
            StatusCode::CONFLICT,
            "Another restart is already scheduled",
        )),
        Err(ProposeError::Rejected(why)) => {
            Err((StatusCode::INTERNAL_SERVER_ERROR, why.to_string()))
        }
        Err(error) => Err(not_proposed("Restart", &error)),
    }
}

/// The conditions of a restart, now or later, and how long it may take.
pub(in crate::api) fn conditions(
    body: &Map<String, Value>,
    problems: &mut Problems,
) -> (Conditions, Option<Duration>) {
    let mut conditions = Conditions::default();
    let mut limit = None;
    let mut bad = |text: String| problems.add(StatusCode::BAD_REQUEST, text);
    for (key, value) in body {
        match key.as_str() {
            "schedule" => {}
            "role" => {
                conditions.role = value.as_str().and_then(Role::of);
                if conditions.role.is_none() {
                    bad(
                        "PostgreSQL role should be either primary, standby_leader, or replica"
                            .to_owned(),
                    );
                }
            }
            "postgres_version" => {
                let text = value.as_str().map_or(value.to_string(), str::to_owned);
                match version_number(&text) {
                    Ok(version) => conditions.older_than = Some(version),
                    Err(why) => bad(why),
                }
            }
            "timeout" => {
                let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
                let seconds = number.filter(|seconds| (1..=u64::from(u32::MAX)).contains(seconds));
                match seconds {
                    Some(seconds) => limit = Some(Duration::from_secs(seconds)),
                    None => bad("Timeout should be a positive number of seconds".to_owned()),
                }
            }
            "restart_pending" => conditions.pending = is_true(body, key),
            key => bad(format!("Unknown filter for the scheduled restart: {key}")),
        }
    }
    conditions.limit_ms = limit.map(crate::wire::millis);
    (conditions, limit)
}

/// Whether a restart of this member may begin now.
pub(in crate::api) fn are_met(board: &Board, conditions: &Conditions) -> bool {
    schedules::unmet(&board.own, conditions).is_empty()
}

/// `DELETE /switchover` and `DELETE /restart`.
pub(in crate::api) async fn take_back(endpoint: Endpoint, asks: &Asks) -> Answer {
    let (slot, noun, none) = match endpoint {
        Endpoint::Switchover => (Slot::Switchover, "switchover", "no switchover is scheduled"),
        Endpoint::Restart => {
            let me = asks.board().me.clone();
            (Slot::Restart(me), "restart", "no restarts are scheduled")
        }
        Endpoint::Failover | Endpoint::Reload | Endpoint::Reinitialize => {
            return refused(StatusCode::NOT_IMPLEMENTED, "Unsupported method");
        }
    };
    let by = BY.to_owned();
    match asks.propose(Command::Unschedule { slot, by }).await {
        Ok(()) => (StatusCode::OK, format!("scheduled {noun} deleted")),
        Err(ProposeError::Rejected(_)) => refused(StatusCode::NOT_FOUND, none),
        Err(error) => not_proposed(noun, &error),
    }
}

fn not_proposed(noun: &str, error: &ProposeError) -> Answer {
    match error {
        ProposeError::Unknown => unknown(noun, PROPOSE_LIMIT),
        error => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
