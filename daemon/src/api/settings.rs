//! Settings over gRPC and HTTP: from text to one command, what it would change, and what is worth
//! knowing about it. Nothing is decided here; the truth checks again when it applies.

use cluster_core::change::{Command, Rejected};
use cluster_core::decide;
use cluster_core::model::lease::Moment;
use cluster_core::model::settings::Mode;
use cluster_core::model::settings_change::Assignment;
use cluster_core::model::{Settings, SettingsChange};
use serde_json::{Map, Value, json};

use super::asks::Asks;
use crate::board::{Board, ProposeError};

/// A change that the truth, as known here, would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Only the keys that change.
    pub change: SettingsChange,
    /// The settings with it.
    pub next: Settings,
    /// What differs, as `key old -> new`.
    pub changes: Vec<String>,
    /// In words, each way in which commits are confirmed by fewer than before.
    pub lowers: Vec<String>,
    /// Worth knowing.
    pub notes: Vec<String>,
}

/// What these assignments would change.
///
/// # Errors
/// Everything that will not do, whether a word, a number or the whole.
pub fn plan(asks: &Asks, now: Moment, assignments: &[Assignment]) -> Result<Planned, Vec<String>> {
    let (change, mut problems) = SettingsChange::read(assignments);
    let rehearsed = asks.rehearse(Command::ChangeSettings {
        change: Box::new(change.clone()),
        by: String::new(),
    });
    match rehearsed {
        Ok(_) => {}
        Err(Rejected::BadSettings(more)) => problems.extend(more),
        Err(other) => problems.push(other.to_string()),
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let board = asks.board();
    let before = &board.state.settings;
    let next = change.applied_to(before);
    Ok(Planned {
        changes: before.differences(&next),
        lowers: before.lowers(&next),
        notes: notes(&board, now, &next),
        change,
        next,
    })
}

/// Carries a plan out.
///
/// # Errors
/// Refused, no leader, or unknown.
pub async fn carry_out(asks: &Asks, planned: &Planned, by: &str) -> Result<(), ProposeError> {
    let command = Command::ChangeSettings {
        change: Box::new(planned.change.clone()),
        by: by.to_owned(),
    };
    asks.propose(command).await
}

fn notes(board: &Board, now: Moment, next: &Settings) -> Vec<String> {
    let before = &board.state.settings;
    let mut notes = Vec::new();
    if board.state.identity.is_none() {
        notes.push("the group has not formed yet".to_owned());
    }
    if next.preset != before.preset {
        let text = "lease and renewals change at once; Raft's own timers with the next restart of each \
                    clusterd";
        notes.push(text.to_owned());
    }
    let is_about_commits =
        next.durability() != before.durability() || next.members != before.members;
    if !is_about_commits {
        return notes;
    }
    let able = able(board, now, next);
    let wanted = u64::from(next.wanted_k());
    if able < wanted {
        let waits = match next.mode {
            Mode::Strict if able < u64::from(next.k_min) => "writes wait until there are more",
            Mode::Strict | Mode::Sync | Mode::Async => "it begins with those there are",
        };
        notes.push(format!(
            "{wanted} should confirm and {able} could now: {waits}"
        ));
    }
    notes
        .push("the rules follow one by one: `clusterctl status` shows how far they are".to_owned());
    notes
}

/// How many standbys are heard and may confirm under `next`.
fn able(board: &Board, now: Moment, next: &Settings) -> u64 {
    let holder = board.state.granted().map(|reign| &reign.holder);
    let may = |name: &cluster_core::model::MemberName| {
        let member = board.state.members.get(name);
        member.is_some_and(|member| match next.members.get(name) {
            Some(own) => own.over(&member.tags).sync_priority() > 0,
            None => member.tags.sync_priority() > 0,
        })
    };
    let heard = board.look(now, |view| {
        let standbys = decide::confirming(view).standbys.into_iter();
        let heard = standbys.filter(|it| view.fresh(&it.member).is_some());
        heard.map(|it| it.member).collect::<Vec<_>>()
    });
    heard
        .iter()
        .filter(|name| Some(*name) != holder && may(name))
        .count() as u64
}

/// The whole document, defaults included.
pub fn document(settings: &Settings) -> Value {
    let mut body = serde_json::to_value(settings).unwrap_or_default();
    for (key, value) in [
        ("k", json!(settings.k)),
        ("k_min", json!(settings.k_min)),
        ("zones", json!(settings.zones)),
        ("members", json!(settings.members)),
    ] {
        body[key] = value;
    }
    body
}

/// The assignments of a partial document: a value that is null takes the key away.
///
/// # Errors
/// Everything that is not where the document has it.
pub fn assignments(body: &Map<String, Value>) -> Result<Vec<Assignment>, Vec<String>> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let mut take = |key: String, member: Option<&String>, value: &Value| match text(value) {
        Some(value) => found.push(Assignment {
            key,
            value,
            member: member.cloned(),
        }),
        None => problems.push(format!("{key}: not a single value")),
    };
    let mut misplaced = Vec::new();
    for (key, value) in body {
        match (key.as_str(), value) {
            ("zones", Value::Object(zones)) => {
                for (name, zone) in zones {
                    take(format!("zones.{name}"), None, zone);
                }
            }
            ("members", Value::Object(members)) => {
                for (name, own) in members {
                    let Value::Object(own) = own else {
                        misplaced.push(format!("members.{name}: an object is expected"));
                        continue;
                    };
                    for (key, value) in own {
                        take(key.clone(), Some(name), value);
                    }
                }
            }
            ("zones" | "members", _) => misplaced.push(format!("{key}: an object is expected")),
            _ => take(key.clone(), None, value),
        }
    }
    problems.extend(misplaced);
    if problems.is_empty() {
        Ok(found)
    } else {
        Err(problems)
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}
