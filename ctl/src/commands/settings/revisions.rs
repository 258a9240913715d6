//! Earlier settings: who changed what, how two of them differ, and the way back.

use std::collections::BTreeMap;

use cluster_proto::v1;
use serde::Serialize;

use super::Context;
use crate::args::{Diff, Rollback};
use crate::ask::by;
use crate::exit::{Kind, Stop};
use crate::output::{Align, Paint, Report, table};
use crate::time::moment;

#[derive(Clone, Debug, Serialize)]
struct RevisionView {
    revision: u64,
    at: Option<String>,
    by: String,
    changes: Vec<String>,
}

/// Who changed what, when and why, oldest first.
pub fn history(reply: &v1::SettingsReply, paint: Paint) -> Report {
    let all: Vec<RevisionView> = reply
        .revisions
        .iter()
        .map(|it| RevisionView {
            revision: it.revision,
            at: (it.at_unix_ms > 0).then(|| moment(it.at_unix_ms)),
            by: it.by.clone(),
            changes: it.changes.clone(),
        })
        .collect();
    let columns = [
        ("Revision", Align::Right),
        ("Time", Align::Left),
        ("By", Align::Left),
        ("Changes", Align::Left),
    ];
    let cells: Vec<Vec<String>> = all
        .iter()
        .map(|it| {
            vec![
                it.revision.to_string(),
                it.at.clone().unwrap_or_default(),
                it.by.clone(),
                it.changes.join(", "),
            ]
        })
        .collect();
    let human = if all.is_empty() {
        "They are as the cluster was formed with.\n".to_owned()
    } else {
        table("", &columns, &cells, paint)
    };
    let mut rows = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells);
    Report {
        human,
        data: serde_json::to_value(&all).unwrap_or_default(),
        rows,
    }
}

/// What differs between two revisions; without a second one, between the first and what is in force.
///
/// # Errors
/// One of them is not kept.
pub fn diff(reply: &v1::SettingsReply, args: &Diff) -> Result<Report, Stop> {
    let rows_of = |revision: u64| -> Result<BTreeMap<&str, &str>, Stop> {
        let mut kept = reply.revisions.iter();
        match kept.find(|it| it.revision == revision) {
            Some(found) => Ok(map(&found.rows)),
            None => Err(Stop::new(Kind::Usage, not_kept(reply, revision))),
        }
    };
    let from = rows_of(args.from)?;
    let to = match args.to {
        Some(to) => rows_of(to)?,
        None => map(&reply.rows),
    };
    let mut keys: Vec<&str> = from.keys().chain(to.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let mut human = String::new();
    let mut rows = vec![vec!["key".to_owned(), "from".to_owned(), "to".to_owned()]];
    for key in keys {
        let (before, after) = (from.get(key), to.get(key));
        if before == after {
            continue;
        }
        if let Some(before) = before {
            human += &format!("- {key} = {before}\n");
        }
        if let Some(after) = after {
            human += &format!("+ {key} = {after}\n");
        }
        let text = |value: Option<&&str>| value.map_or_else(String::new, |it| (*it).to_owned());
        rows.push(vec![key.to_owned(), text(before), text(after)]);
    }
    if human.is_empty() {
        human = "They are the same.\n".to_owned();
    }
    let data = rows[1..]
        .iter()
        .map(|row| serde_json::json!({"key": row[0], "from": row[1], "to": row[2]}))
        .collect();
    Ok(Report { human, data, rows })
}

fn map(rows: &[v1::SettingsRow]) -> BTreeMap<&str, &str> {
    let rows = rows.iter();
    rows.map(|row| (row.key.as_str(), row.value.as_str()))
        .collect()
}

fn not_kept(reply: &v1::SettingsReply, revision: u64) -> String {
    let kept: Vec<String> = reply
        .revisions
        .iter()
        .map(|it| it.revision.to_string())
        .collect();
    if kept.is_empty() {
        format!("revision {revision} is not kept: nothing was changed at run time so far")
    } else {
        format!("revision {revision} is not kept ({})", kept.join(", "))
    }
}

/// Back to an earlier revision; it becomes the newest.
///
/// # Errors
/// Not confirmed, refused, unreachable, or unknown.
pub async fn rollback(context: &Context, args: &Rollback) -> Result<(), Stop> {
    let message = v1::ChangeSettingsRequest {
        by: by(args.change.reason.as_deref()),
        dry_run: args.change.dry_run,
        restore_revision: Some(args.revision),
        ..v1::ChangeSettingsRequest::default()
    };
    super::change(context, message, "settings rollback").await
}
