//! `list` and `topology`: members in the columns that Patroni's users know, and the epoch.

use serde_json::{Map, Value};

use crate::output::{Align, Paint, Report, table};
use crate::view::{MemberView, StatusView};

/// A column: its title for people, its name elsewhere, how it stands.
struct Column {
    title: &'static str,
    name: &'static str,
    align: Align,
    cell: fn(&MemberView, &StatusView) -> Value,
}

const COLUMNS: [Column; 13] = [
    Column {
        title: "Member",
        name: "Member",
        align: Align::Left,
        cell: |m, _| text(&m.name),
    },
    Column {
        title: "Host",
        name: "Host",
        align: Align::Left,
        cell: |m, s| text(&host(m, s)),
    },
    Column {
        title: "Role",
        name: "Role",
        align: Align::Left,
        cell: |m, _| text(&m.role),
    },
    Column {
        title: "State",
        name: "State",
        align: Align::Left,
        cell: |m, _| text(&m.state),
    },
    Column {
        title: "TL",
        name: "TL",
        align: Align::Right,
        cell: |m, _| number(m.timeline),
    },
    Column {
        title: "Receive LSN",
        name: "Receive LSN",
        align: Align::Right,
        cell: |m, _| position(m, m.receive_lsn.as_deref()),
    },
    Column {
        title: "Lag",
        name: "Receive Lag",
        align: Align::Right,
        cell: |m, _| megabytes(m, m.receive_lag_bytes),
    },
    Column {
        title: "Replay LSN",
        name: "Replay LSN",
        align: Align::Right,
        cell: |m, _| position(m, m.replay_lsn.as_deref()),
    },
    Column {
        title: "Lag",
        name: "Replay Lag",
        align: Align::Right,
        cell: |m, _| megabytes(m, m.replay_lag_bytes),
    },
    Column {
        title: "Epoch",
        name: "Epoch",
        align: Align::Right,
        cell: |m, _| number(m.epoch),
    },
    Column {
        title: "Pending restart",
        name: "Pending restart",
        align: Align::Left,
        cell: |m, _| text(if m.pending_restart { "*" } else { "" }),
    },
    Column {
        title: "Scheduled restart",
        name: "Scheduled restart",
        align: Align::Left,
        cell: |m, s| text(&scheduled_restart(m, s)),
    },
    Column {
        title: "Tags",
        name: "Tags",
        align: Align::Left,
        cell: |m, _| text(&m.tags_text()),
    },
];

/// The columns after these are shown only when a member has something there.
const ALWAYS: usize = 10;

/// `list`.
pub fn list(status: &StatusView, paint: Paint) -> Report {
    let members: Vec<(String, &MemberView)> = status
        .members
        .iter()
        .map(|member| (member.name.clone(), member))
        .collect();
    report(status, &members, paint)
}

/// `topology`: the primary, below it who streams from it, then the witnesses.
pub fn topology(status: &StatusView, paint: Paint) -> Report {
    let has_primary = status.members.iter().any(MemberView::is_primary);
    let mut members: Vec<(String, &MemberView)> = Vec::new();
    for member in status.members.iter().filter(|member| member.is_primary()) {
        members.push((member.name.clone(), member));
    }
    let rest = status.members.iter().filter(|member| !member.is_primary());
    for member in rest.clone().filter(|member| !member.is_witness()) {
        let branch = if has_primary { "+ " } else { "" };
        members.push((format!("{branch}{}", member.name), member));
    }
    for member in rest.filter(|member| member.is_witness()) {
        members.push((member.name.clone(), member));
    }
    report(status, &members, paint)
}

fn report(status: &StatusView, members: &[(String, &MemberView)], paint: Paint) -> Report {
    let cells = |column: &Column| -> Vec<Value> {
        members
            .iter()
            .map(|(_, member)| (column.cell)(member, status))
            .collect()
    };
    let shown: Vec<(&Column, Vec<Value>)> = COLUMNS
        .iter()
        .enumerate()
        .map(|(place, column)| (place, column, cells(column)))
        .filter(|(place, _, cells)| {
            *place < ALWAYS || cells.iter().any(|cell| !plain(cell).is_empty())
        })
        .map(|(_, column, cells)| (column, cells))
        .collect();
    let mut human_rows = Vec::new();
    let mut rows = vec![
        std::iter::once("Cluster")
            .chain(shown.iter().map(|(c, _)| c.name))
            .map(str::to_owned)
            .collect(),
    ];
    let mut data = Vec::new();
    for (row, (label, _)) in members.iter().enumerate() {
        let texts: Vec<String> = shown.iter().map(|(_, cells)| plain(&cells[row])).collect();
        rows.push([vec![status.cluster.clone()], texts.clone()].concat());
        let mut human = texts;
        human[0].clone_from(label);
        human_rows.push(human);
        let mut object = Map::new();
        object.insert("Cluster".to_owned(), text(&status.cluster));
        for (column, cells) in &shown {
            if !plain(&cells[row]).is_empty() {
                object.insert(column.name.to_owned(), cells[row].clone());
            }
        }
        data.push(Value::Object(object));
    }
    let columns: Vec<(&str, Align)> = shown.iter().map(|(c, _)| (c.title, c.align)).collect();
    let human = table(&title(status), &columns, &human_rows, paint) + &footer(status, paint);
    Report {
        human,
        data: Value::Array(data),
        rows,
    }
}

/// `Cluster: main (7012345678901234567)`.
fn title(status: &StatusView) -> String {
    if status.cluster.is_empty() {
        return "Cluster: not formed yet".to_owned();
    }
    let identifier = match (status.system_identifier, &status.initializer) {
        (Some(identifier), _) => identifier.to_string(),
        (None, Some(_)) => "initializing".to_owned(),
        (None, None) => "uninitialized".to_owned(),
    };
    format!("Cluster: {} ({identifier})", status.cluster)
}

fn footer(status: &StatusView, paint: Paint) -> String {
    let mut lines = String::new();
    if let Some(pause) = &status.pause {
        let text = format!(
            " Maintenance mode: on (since {}, by {})",
            pause.at, pause.by
        );
        lines.push_str(&format!("{}\n", paint.warn(&text)));
    }
    for it in &status.maintenance {
        let text = format!(
            " Maintenance of {}: until {}, by {}",
            it.member, it.until, it.by
        );
        lines.push_str(&format!("{}\n", paint.warn(&text)));
    }
    let switchover = status.schedules.iter().find(|it| it.member.is_none());
    if let Some(schedule) = switchover {
        lines.push_str(&format!(" Switchover scheduled at: {}\n", schedule.due));
        for (word, name) in [("from", &schedule.from), ("to", &schedule.to)] {
            if let Some(name) = name {
                lines.push_str(&format!("{word:>24}: {name}\n"));
            }
        }
    }
    for request in status.requests.iter().filter(|request| request.is_open) {
        let to = request.member.as_deref().unwrap_or("the best standby");
        lines.push_str(&format!(
            " Under way: {} to {to}, {}\n",
            request.verb, request.step
        ));
    }
    lines
}

/// When, and as Patroni shows it what its version must be below.
fn scheduled_restart(member: &MemberView, status: &StatusView) -> String {
    let mut all = status.schedules.iter();
    let of = all.find(|schedule| schedule.member.as_ref() == Some(&member.name));
    match of {
        Some(schedule) => match &schedule.older_than {
            Some(version) => format!("{} if version < {version}", schedule.due),
            None => schedule.due.clone(),
        },
        None => String::new(),
    }
}

/// The host clients connect to; with the port when any differs from 5432 or a host occurs twice.
fn host(member: &MemberView, status: &StatusView) -> String {
    let split = |address: &str| -> (String, String) {
        match address.rsplit_once(':') {
            Some((host, port)) => (host.to_owned(), port.to_owned()),
            None => (address.to_owned(), String::new()),
        }
    };
    if member.postgres.is_empty() {
        return split(&member.peer).0;
    }
    let all: Vec<(String, String)> = status
        .members
        .iter()
        .filter(|m| !m.postgres.is_empty())
        .map(|m| split(&m.postgres))
        .collect();
    let repeats = all
        .iter()
        .enumerate()
        .any(|(i, (host, _))| all[..i].iter().any(|(h, _)| h == host));
    if repeats || all.iter().any(|(_, port)| port != "5432") {
        member.postgres.clone()
    } else {
        split(&member.postgres).0
    }
}

fn text(text: &str) -> Value {
    Value::from(text)
}

fn number(number: Option<impl Into<Value>>) -> Value {
    number.map_or(Value::from(""), Into::into)
}

/// A standby without a known position says so; primary and witness stay empty.
fn position(member: &MemberView, lsn: Option<&str>) -> Value {
    if member.is_primary() || member.is_witness() {
        return Value::from("");
    }
    Value::from(lsn.unwrap_or("unknown"))
}

/// Whole megabytes, rounded, as Patroni's users know them.
fn megabytes(member: &MemberView, bytes: Option<u64>) -> Value {
    if member.is_primary() || member.is_witness() {
        return Value::from("");
    }
    number(bytes.map(|bytes| (bytes + (1 << 19)) >> 20))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
