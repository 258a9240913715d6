//! Patroni's write endpoints: the same bodies, codes and sentences where Patroni has them. They
//! record a request and wait a bounded time for its end. Nothing is decided here.

use std::time::Duration;

use axum::http::StatusCode;
use cluster_core::change::Command;
use cluster_core::model::{MemberName, PostgresStatus, RequestKind};
use serde_json::{Map, Value};

use super::asks::{Asks, Ending, new_request_id};
use super::{planned, topology};
use crate::board::{Board, Foresight, ProposeError};

/// How long a switchover or failover is waited for. Source: Patroni, 2 × max(10, loop_wait).
const MOVE_LIMIT: Duration = Duration::from_secs(20);
/// How long a restart is waited for.
const RESTART_LIMIT: Duration = Duration::from_secs(60);

/// Code and text of an answer.
pub type Answer = (StatusCode, String);

/// An endpoint that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /switchover`
    Switchover,
    /// `POST /failover`
    Failover,
    /// `POST /restart`
    Restart,
    /// `POST /reload`
    Reload,
    /// `POST /reinitialize`
    Reinitialize,
}

impl Endpoint {
    /// The endpoint of the first path segment.
    pub fn of(segment: &str) -> Option<Endpoint> {
        Some(match segment {
            "switchover" => Endpoint::Switchover,
            "failover" => Endpoint::Failover,
            "restart" => Endpoint::Restart,
            "reload" => Endpoint::Reload,
            "reinitialize" => Endpoint::Reinitialize,
            _ => return None,
        })
    }

    fn needs_body(self) -> bool {
        matches!(self, Endpoint::Switchover | Endpoint::Failover)
    }
}

/// Carries out one write.
pub async fn answer(
    endpoint: Endpoint,
    body: &[u8],
    asks: &Asks,
    foresight: &dyn Foresight,
) -> Answer {
    let body = match parse(endpoint, body) {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let answered = match endpoint {
        Endpoint::Switchover => switchover(&body, asks, foresight).await,
        Endpoint::Failover => failover(&body, asks, foresight).await,
        Endpoint::Restart => restart(&body, asks).await,
        Endpoint::Reload => reload(asks).await,
        Endpoint::Reinitialize => reinitialize(asks).await,
    };
    answered.unwrap_or_else(|refused| refused)
}

fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Map<String, Value>, Answer> {
    if body.iter().all(u8::is_ascii_whitespace) && !endpoint.needs_body() {
        return Ok(Map::new());
    }
    serde_json::from_slice::<Map<String, Value>>(body).map_err(|_| {
        refused(
            StatusCode::BAD_REQUEST,
            "invalid JSON: an object is expected",
        )
    })
}

pub(super) fn refused(code: StatusCode, text: &str) -> Answer {
    (code, text.to_owned())
}

fn text<'a>(body: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    body.get(key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// A switch, as JSON or in the words that Patroni takes.
pub(super) fn is_true(body: &Map<String, Value>, key: &str) -> bool {
    match body.get(key) {
        Some(Value::Bool(value)) => *value,
        Some(Value::String(text)) => {
            matches!(
                text.to_ascii_lowercase().as_str(),
                "true" | "on" | "yes" | "1"
            )
        }
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        _ => false,
    }
}

/// When it is to be done; an empty one is none.
fn scheduled_at(body: &Map<String, Value>) -> Option<&Value> {
    let at = body.get("scheduled_at");
    at.filter(|at| !at.is_null() && at.as_str() != Some(""))
}

fn candidate_in(body: &Map<String, Value>) -> Option<&str> {
    text(body, "candidate").or_else(|| text(body, "member"))
}

async fn switchover(
    body: &Map<String, Value>,
    asks: &Asks,
    foresight: &dyn Foresight,
) -> Result<Answer, Answer> {
    let bad = |text| refused(StatusCode::BAD_REQUEST, text);
    let board = asks.board();
    let leader = text(body, "leader")
        .ok_or_else(|| bad("Switchover could be performed only from a specific leader"))?;
    let candidate = candidate_in(body);
    if let Some(at) = scheduled_at(body) {
        return planned::http::switchover(asks, at, leader, candidate).await;
    }
    if candidate.is_none() && board.state.pause.is_some() {
        return Err(bad(
            "Switchover is possible only to a specific candidate in a paused state",
        ));
    }
    if candidate == Some(leader) {
        return Err(bad("Switchover target and source are the same"));
    }
    let holder = board.state.granted().map(|reign| reign.holder.clone());
    if holder.as_ref().map(MemberName::as_str) != Some(leader) {
        return Err(refused(
            StatusCode::PRECONDITION_FAILED,
            "leader name does not match",
        ));
    }
    let to = candidate.map(|name| existing(&board, name)).transpose()?;
    check_candidates("switchover", &board, foresight, to.as_ref())?;
    let ending = ask(asks, RequestKind::Switchover { to: to.clone() }, MOVE_LIMIT).await?;
    moved("Switchover", "switched over", asks, to, ending)
}

async fn failover(
    body: &Map<String, Value>,
    asks: &Asks,
    foresight: &dyn Foresight,
) -> Result<Answer, Answer> {
    let bad = |text| refused(StatusCode::BAD_REQUEST, text);
    let board = asks.board();
    let candidate = candidate_in(body)
        .ok_or_else(|| bad("Failover could be performed only to a specific candidate"))?;
    if scheduled_at(body).is_some() {
        return Err(bad("Failover can't be scheduled"));
    }
    if text(body, "leader").is_some() {
        return switchover(body, asks, foresight).await;
    }
    let to = existing(&board, candidate)?;
    let is_heard = topology::members(&board, board.merged_at)
        .iter()
        .any(|facts| *facts.name == to && facts.is_fresh);
    if !is_heard {
        return Err(refused(
            StatusCode::PRECONDITION_FAILED,
            "failover is not possible: no good candidates have been found",
        ));
    }
    let ending = ask(asks, RequestKind::Failover { to: to.clone() }, MOVE_LIMIT).await?;
    moved("Failover", "failed over", asks, Some(to), ending)
}

fn existing(board: &Board, name: &str) -> Result<MemberName, Answer> {
    name.parse::<MemberName>()
        .ok()
        .filter(|name| board.state.members.contains_key(name))
        .ok_or_else(|| refused(StatusCode::PRECONDITION_FAILED, "candidate does not exists"))
}

fn check_candidates(
    verb: &str,
    board: &Board,
    foresight: &dyn Foresight,
    to: Option<&MemberName>,
) -> Result<(), Answer> {
    let fail = |why| {
        Err((
            StatusCode::PRECONDITION_FAILED,
            format!("{verb} is not possible: {why}"),
        ))
    };
    if board.state.databases().count() < 2 {
        return fail("cluster does not have members except leader");
    }
    let good = foresight.candidates(board).into_iter().any(|candidate| {
        candidate.reasons.is_empty() && to.is_none_or(|to| *to == candidate.member)
    });
    if good {
        Ok(())
    } else {
        fail("no good candidates have been found")
    }
}

fn moved(
    noun: &str,
    verb: &str,
    asks: &Asks,
    to: Option<MemberName>,
    ending: Ending,
) -> Result<Answer, Answer> {
    match ending {
        Ending::Done(text) => {
            let now = asks.holder();
            let sentence = match (now, to) {
                (Some(now), Some(to)) if now != to => {
                    format!("{} \"{now}\" instead of \"{to}\"", capital(verb))
                }
                (Some(now), Some(_) | None) => format!("Successfully {verb} to \"{now}\""),
                (None, _) => text,
            };
            Ok((StatusCode::OK, sentence))
        }
        Ending::Failed(why) => Err((
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{noun} failed: {why}"),
        )),
        Ending::Unknown => Err(unknown(noun, MOVE_LIMIT)),
    }
}

/// `Switched over to`, `Failed over to`.
fn capital(verb: &str) -> String {
    let (first, rest) = verb.split_at(1);
    format!("{}{rest} to", first.to_ascii_uppercase())
}

pub(super) fn unknown(noun: &str, limit: Duration) -> Answer {
    let seconds = limit.as_secs();
    let text = format!(
        "{noun} status unknown after {seconds} seconds; operation may still be in progress"
    );
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn restart(body: &Map<String, Value>, asks: &Asks) -> Result<Answer, Answer> {
    let board = asks.board();
    let mut problems = planned::http::Problems::default();
    let (conditions, limit) = planned::http::conditions(body, &mut problems);
    if let Some(at) = body.get("schedule") {
        return planned::http::restart(asks, at, conditions, problems).await;
    }
    problems.check()?;
    if !planned::http::are_met(&board, &conditions) {
        return Err(refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "restart conditions are not satisfied",
        ));
    }
    let limit = limit.unwrap_or(RESTART_LIMIT);
    if matches!(board.own.postgres, PostgresStatus::Starting { .. }) {
        return Err(refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "postgres is still starting",
        ));
    }
    match ask(
        asks,
        RequestKind::Restart {
            member: board.me.clone(),
        },
        limit,
    )
    .await?
    {
        Ending::Done(_) => Ok(refused(StatusCode::OK, "restarted successfully")),
        Ending::Failed(why) => Err((
            StatusCode::SERVICE_UNAVAILABLE,
            format!("restart failed: {why}"),
        )),
        Ending::Unknown => Err(unknown("Restart", limit)),
    }
}

async fn reload(asks: &Asks) -> Result<Answer, Answer> {
    record(
        asks,
        RequestKind::Reload {
            member: asks.board().me.clone(),
        },
    )
    .await?;
    Ok(refused(StatusCode::ACCEPTED, "reload scheduled"))
}

async fn reinitialize(asks: &Asks) -> Result<Answer, Answer> {
    let board = asks.board();
    let fail = |text| Err(refused(StatusCode::SERVICE_UNAVAILABLE, text));
    match board.state.granted() {
        None => return fail("Cluster has no leader, can not reinitialize"),
        Some(reign) if reign.holder == board.me => {
            return fail("I am the leader, can not reinitialize");
        }
        Some(_) => {}
    }
    if let Some(busy) = &board.own.busy {
        return fail(&format!("{} already in progress", busy.with));
    }
    record(
        asks,
        RequestKind::Reinit {
            member: board.me.clone(),
        },
    )
    .await?;
    Ok(refused(StatusCode::OK, "reinitialize started"))
}

async fn ask(asks: &Asks, kind: RequestKind, limit: Duration) -> Result<Ending, Answer> {
    let id = record(asks, kind).await?;
    Ok(asks.ended(&id, limit).await)
}

async fn record(asks: &Asks, kind: RequestKind) -> Result<cluster_core::model::RequestId, Answer> {
    let id = new_request_id();
    let verb = kind.verb();
    let command = Command::Ask {
        id: id.clone(),
        kind,
        by: "HTTP API".to_owned(),
    };
    match asks.propose(command).await {
        Ok(()) => Ok(id),
        Err(ProposeError::Rejected(why)) => Err((
            StatusCode::PRECONDITION_FAILED,
            format!("{verb} is not possible: {why}"),
        )),
        Err(error @ ProposeError::NoLeader(_)) => {
            Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
        }
        Err(ProposeError::Unknown) => Err(unknown(verb, super::asks::PROPOSE_LIMIT)),
    }
}
