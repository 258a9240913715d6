//! The JSON bodies of the HTTP API, with Patroni's names and forms, plus `epoch`. Pure but for the
//! wall clock, which is for display.

use std::time::Duration;

use cluster_core::decide;
use cluster_core::model::lease::Moment;
use cluster_core::model::ledger::LedgerEntry;
use cluster_core::model::member::PendingRestart;
use cluster_core::model::postgres::{Primary, Standby};
use cluster_core::model::schedule::{Slot, Work, version_text};
use cluster_core::model::{Lsn, PostgresStatus, Schedule};
use serde_json::{Map, Value, json};

use super::health::{Health, effective_tags};
use super::topology::{self, Facts, Role};
use crate::board::{Board, LeaseView};

/// The version of clusterd.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `/patroni` and the body of the health paths.
pub fn status(board: &Board, lease: &dyn LeaseView, wall: Duration) -> Value {
    let health = Health::of(board, lease);
    let own = &board.own;
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    let word = topology::postgres_word(own);
    let is_answering = health.is_running;
    put(
        "state",
        json!(if word == "running" && !is_answering {
            "unknown"
        } else {
            word
        }),
    );
    put("role", json!(role_word(&own.postgres)));
    put("epoch", json!(board.state.epoch().0));
    if is_answering {
        match &own.postgres {
            PostgresStatus::Primary(primary) => put_primary(&mut put, primary),
            PostgresStatus::Standby(standby) => put_standby(&mut put, standby, &health),
            _ => {}
        }
        if let Some(version) = own.server_version {
            put("server_version", json!(version));
        }
    }
    if board.state.pause.is_some() {
        put("pause", json!(true));
    }
    if !own.pending_restart().is_empty() {
        put("pending_restart", json!(true));
        put("pending_restart_reason", reasons(own.pending_restart()));
    }
    if let Some(schedule) = board.state.scheduled(&Slot::Restart(board.me.clone())) {
        put("scheduled_restart", scheduled_restart(schedule));
    }
    if board.state.granted().is_none() {
        put("cluster_unlocked", json!(true));
    }
    let seen = wall.saturating_sub(lease.now().since(board.merged_at));
    put("dcs_last_seen", json!(seen.as_secs()));
    if !health.tags.is_empty() {
        put("tags", json!(health.tags));
    }
    if let Some(identifier) = own.system_identifier.or(board.state.system_identifier) {
        put("database_system_identifier", json!(identifier.to_string()));
    }
    put(
        "patroni",
        json!({ "version": VERSION, "scope": scope(board), "name": board.me.as_str() }),
    );
    Value::Object(body)
}

/// As Patroni shows them: by name, the old and the new value.
fn reasons(pending: &[PendingRestart]) -> Value {
    let each = pending.iter().map(|it| {
        let values = json!({ "old_value": it.from, "new_value": it.to });
        (it.name.clone(), values)
    });
    Value::Object(each.collect())
}

fn put_primary(put: &mut impl FnMut(&str, Value) -> Option<Value>, primary: &Primary) {
    put(
        "postmaster_start_time",
        json!(timestamp(primary.started_unix_ms)),
    );
    put("timeline", json!(primary.timeline.0));
    put("xlog", json!({ "location": primary.flushed.0 }));
    let senders: Vec<Value> = primary
        .senders
        .iter()
        .map(|sender| {
            json!({
                "usename": sender.user,
                "application_name": sender.application_name,
                "client_addr": sender.client,
                "state": sender.state,
                "sync_state": sender.sync_state,
                "sync_priority": sender.sync_priority,
            })
        })
        .collect();
    if !senders.is_empty() {
        put("replication", Value::Array(senders));
    }
}

fn put_standby(
    put: &mut impl FnMut(&str, Value) -> Option<Value>,
    standby: &Standby,
    health: &Health,
) {
    put(
        "postmaster_start_time",
        json!(timestamp(standby.started_unix_ms)),
    );
    put("timeline", json!(standby.timeline.0));
    put(
        "xlog",
        json!({
            "received_location": standby.end_of_wal().0,
            "replayed_location": standby.replayed.0,
            "replayed_timestamp": standby.replayed_at_unix_ms.map(timestamp),
            "paused": standby.replay_paused,
        }),
    );
    if let Some(state) = health.replication_state {
        put("replication_state", json!(state));
    }
    if health.is_sync {
        put("sync_standby", json!(true));
    }
    if health.is_quorum {
        put("quorum_standby", json!(true));
    }
}

/// Patroni's role of a PostgreSQL: what it is, not what it may be.
pub fn role_word(postgres: &PostgresStatus) -> &'static str {
    match postgres {
        PostgresStatus::Primary(_)
        | PostgresStatus::Unresponsive {
            was_primary: true, ..
        } => "primary",
        PostgresStatus::Stopped(stopped) if !stopped.was_in_recovery => "demoted",
        PostgresStatus::Empty => "uninitialized",
        _ => "replica",
    }
}

fn scope(board: &Board) -> &str {
    board
        .state
        .identity
        .as_ref()
        .map_or("", |identity| identity.name.as_str())
}

/// `/cluster`. Witnesses have no PostgreSQL, so they stand beside `members`.
pub fn cluster(board: &Board, lease: &dyn LeaseView, is_https: bool) -> Value {
    let all = topology::members(board, lease.now());
    let (witnesses, members): (Vec<_>, Vec<_>) =
        all.iter().partition(|facts| facts.role == Role::Witness);
    let mut body = json!({
        "members": members.into_iter().map(|m| member(board, m, is_https)).collect::<Vec<_>>(),
        "scope": scope(board),
        "epoch": board.state.epoch().0,
        "durability": durability(board, lease.now()),
    });
    if !witnesses.is_empty() {
        let names: Vec<_> = witnesses
            .into_iter()
            .map(|facts| json!({ "name": facts.name.as_str(), "state": facts.state }))
            .collect();
        body["witnesses"] = Value::Array(names);
    }
    if board.state.pause.is_some() {
        body["pause"] = json!(true);
    }
    if let Some(schedule) = board.state.scheduled(&Slot::Switchover) {
        body["scheduled_switchover"] = scheduled_switchover(schedule);
    }
    body
}

/// `{at, from?, to?}`, as Patroni shows it.
fn scheduled_switchover(schedule: &Schedule) -> Value {
    let mut body = json!({ "at": schedule.due.text });
    if let Work::Switchover { from, to } = &schedule.work {
        for (key, name) in [("from", from), ("to", to)] {
            if let Some(name) = name {
                body[key] = json!(name.as_str());
            }
        }
    }
    body
}

/// `{schedule, role?, postgres_version?, timeout?, restart_pending?}`, as Patroni shows it.
fn scheduled_restart(schedule: &Schedule) -> Value {
    let mut body = json!({ "schedule": schedule.due.text });
    if let Work::Restart { conditions, .. } = &schedule.work {
        if let Some(role) = conditions.role {
            body["role"] = json!(role.word());
        }
        if let Some(version) = conditions.older_than {
            body["postgres_version"] = json!(version_text(version));
        }
        if let Some(limit_ms) = conditions.limit_ms {
            body["timeout"] = json!(limit_ms / 1000);
        }
        if conditions.pending {
            body["restart_pending"] = json!(true);
        }
    }
    body
}

/// Who confirms commits, and what may be lost now; ours, beside what Patroni has.
fn durability(board: &Board, now: Moment) -> Value {
    let mode = board.state.settings.mode;
    let found = board.look(now, decide::confirming);
    json!({
        "mode": mode.word(),
        "k": found.in_force.as_ref().map(|rule| rule.k),
        "rule": found.in_force.as_ref().map(|rule| rule.id.0),
        "live_rules": board.state.live_rules.iter().map(|rule| rule.id.0).collect::<Vec<_>>(),
        "confirming": found.names().map(ToString::to_string).collect::<Vec<_>>(),
        "writes_wait": found.writes_wait,
        "survivable_standbys": found.survivable.standbys,
        "survivable_with_primary": found.survivable.with_primary,
    })
}

fn member(board: &Board, facts: &Facts<'_>, is_https: bool) -> Value {
    let role = match facts.role {
        Role::Primary => "leader",
        Role::SyncStandby => "sync_standby",
        Role::QuorumStandby => "quorum_standby",
        Role::Standby | Role::Witness => "replica",
    };
    let scheme = if is_https { "https" } else { "http" };
    let addresses = &facts.member.addresses;
    let mut body = json!({ "name": facts.name.as_str(), "role": role, "state": facts.state });
    if !addresses.http.is_empty() {
        body["api_url"] = json!(format!("{scheme}://{}/patroni", addresses.http));
    }
    if let Some((host, port)) = topology::host_and_port(&addresses.postgres) {
        body["host"] = json!(host);
        body["port"] = json!(port);
    }
    if let Some(timeline) = facts.timeline {
        body["timeline"] = json!(timeline.0);
    }
    let announced = facts
        .report
        .map_or(&facts.member.tags, |report| &report.tags);
    let tags = effective_tags(&board.state.tags_in_force(facts.name, announced));
    if !tags.is_empty() {
        body["tags"] = json!(tags);
    }
    if !facts.pending().is_empty() {
        body["pending_restart"] = json!(true);
        body["pending_restart_reason"] = reasons(facts.pending());
    }
    if let Some(schedule) = board.state.scheduled(&Slot::Restart(facts.name.clone())) {
        body["scheduled_restart"] = scheduled_restart(schedule);
    }
    if facts.role != Role::Primary {
        let lsn = |at: Option<Lsn>| at.map_or(json!("unknown"), |at| json!(at.to_string()));
        let lag = |lag: Option<u64>| lag.map_or(json!("unknown"), |lag| json!(lag));
        let newest = facts.receive.max(facts.replay);
        body["lsn"] = lsn(newest);
        body["lag"] = lag(facts.receive_lag().min(facts.replay_lag()));
        body["receive_lsn"] = lsn(facts.receive);
        body["receive_lag"] = lag(facts.receive_lag());
        body["replay_lsn"] = lsn(facts.replay);
        body["replay_lag"] = lag(facts.replay_lag());
    }
    body
}

/// `/history`: where each timeline on the way to the newest one was left, why, when, and for whom.
pub fn history(board: &Board) -> Value {
    let ledger = &board.state.ledger;
    let Some(newest) = ledger
        .entries
        .iter()
        .rev()
        .find(|entry| entry.fork.is_some())
    else {
        return json!([]);
    };
    let mut lines: Vec<Value> = ledger
        .line(newest.timeline)
        .into_iter()
        .filter_map(|(timeline, _)| ledger.entry(timeline))
        .map(|entry| history_line(board, entry))
        .collect();
    lines.reverse();
    Value::Array(lines)
}

fn history_line(board: &Board, entry: &LedgerEntry) -> Value {
    let noted = |what: &str| {
        board
            .state
            .history
            .iter()
            .find(|note| note.epoch == entry.epoch && note.what == what)
    };
    let reason = noted("granted").map_or("", |note| note.reason.as_str());
    let at = noted("promoted").or_else(|| noted("granted"));
    json!([
        entry.parent.0,
        entry.fork().0,
        reason,
        at.map_or_else(String::new, |note| timestamp_iso(note.at_unix_ms)),
        entry.member.as_str(),
    ])
}

/// `2026-07-24 10:00:00.123000+00:00`, as Patroni prints times.
pub fn timestamp(unix_ms: u64) -> String {
    timestamp_iso(unix_ms).replacen('T', " ", 1)
}

/// `2026-07-24T10:00:00.123000+00:00`.
pub fn timestamp_iso(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (year, month, day) = civil(seconds / 86_400);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}+00:00",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        unix_ms % 1000 * 1000
    )
}

/// Year, month and day of a day count since 1970. Source: Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (
        year + era * 400 + u64::from(month <= 2),
        month,
        day - (153 * shifted + 2) / 5 + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_patroni_prints_them() {
        assert_eq!(
            timestamp(951_827_696_789),
            "2000-02-29 12:34:56.789000+00:00"
        );
        assert_eq!(
            timestamp_iso(1_795_304_110_000),
            "2026-11-21T23:35:10.000000+00:00"
        );
    }
}
