//! `settings`: what the whole cluster shares, how it is changed, and who changed it.

use std::fmt::Write as _;

use cluster_proto::v1;

use super::Context;
use super::members::as_status;
use crate::args::{SetSettings, SettingsCommand};
use crate::ask::by;
use crate::confirm;
use crate::exit::{Kind, Stop};
use crate::output::{Align, Paint, Report, table};
use crate::time::{bytes, length};
use crate::view::SettingsView;

/// The word of history for these changes.
const WHAT: &str = "settings";

/// Runs one of them.
///
/// # Errors
/// It was not done; why, and the exit code.
pub async fn run(context: &Context, command: &SettingsCommand) -> Result<(), Stop> {
    match command {
        SettingsCommand::Show => context.write(&show(context).await?),
        SettingsCommand::Set(args) => set(context, args).await,
        SettingsCommand::History => context.write(&history(context).await?),
    }
}

async fn show(context: &Context) -> Result<Report, Stop> {
    let answer = context
        .client
        .read(|mut admin| async move { admin.get_settings(v1::GetSettingsRequest {}).await })
        .await?;
    Ok(render(&SettingsView::from(&answer), context.paint))
}

/// The table.
pub fn render(settings: &SettingsView, paint: Paint) -> Report {
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    let mut cells = vec![
        row("mode", settings.mode.clone()),
        row("k", settings.k.to_string()),
        row("k_min", settings.k_min.to_string()),
        row("preset", settings.preset.clone()),
    ];
    for (member, zone) in &settings.zones {
        cells.push(row(&format!("zones.{member}"), zone.clone()));
    }
    let lag = bytes(settings.maximum_lag_on_failover_bytes);
    cells.push(row("maximum_lag_on_failover", lag));
    cells.push(row("seal_patience", length(settings.seal_patience_ms)));
    cells.push(row("probe_limit", length(settings.probe_limit_ms)));
    cells.push(row(
        "keep_standby_sessions",
        settings.keep_standby_sessions.to_string(),
    ));
    for (name, value) in &settings.parameters {
        cells.push(row(&format!("parameters.{name}"), value.clone()));
    }
    let columns = [("Key", Align::Left), ("Value", Align::Left)];
    let mut human = table("", &columns, &cells, paint);
    for member in &settings.members {
        let own = member.set_text();
        let text = match member.priority {
            0 => "never confirms commits".to_owned(),
            priority => format!("confirms commits with priority {priority}"),
        };
        let _ = writeln!(human, "{:<12} {text}{own}", member.member);
    }
    let mut rows = vec![vec!["key".to_owned(), "value".to_owned()]];
    rows.extend(cells);
    for member in &settings.members {
        let key = format!("members.{}.sync_priority", member.member);
        rows.push(vec![key, member.priority.to_string()]);
    }
    Report {
        human,
        data: serde_json::to_value(settings).unwrap_or_default(),
        rows,
    }
}

async fn history(context: &Context) -> Result<Report, Stop> {
    let limit = 0;
    let mut answer = context
        .client
        .read(|mut admin| async move { admin.get_history(v1::GetHistoryRequest { limit }).await })
        .await?;
    answer.entries.retain(|entry| entry.what == WHAT);
    Ok(super::history::render(&answer, context.paint))
}

/// `KEY=VALUE`, each taken apart.
///
/// # Errors
/// One is not of that form.
pub fn assignments(args: &SetSettings) -> Result<Vec<v1::Assignment>, Stop> {
    let mut found = Vec::new();
    let mut wrong = Vec::new();
    for text in &args.assignments {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => found.push(v1::Assignment {
                key: key.to_owned(),
                value: value.to_owned(),
                member: args.member.clone().unwrap_or_default(),
            }),
            Some(_) | None => wrong.push(format!("`{text}` is not KEY=VALUE")),
        }
    }
    if wrong.is_empty() {
        Ok(found)
    } else {
        Err(Stop::new(Kind::Usage, wrong.join("; ")))
    }
}

async fn set(context: &Context, args: &SetSettings) -> Result<(), Stop> {
    let message = v1::ChangeSettingsRequest {
        assignments: assignments(args)?,
        by: by(args.change.reason.as_deref()),
        dry_run: args.change.dry_run,
    };
    // Asked first: only then is it known whether commits will be confirmed by fewer.
    if !args.change.dry_run && !context.global.yes {
        let rehearsal = v1::ChangeSettingsRequest {
            dry_run: true,
            ..message.clone()
        };
        let would = send(context, &rehearsal).await?;
        if !would.lowers.is_empty() {
            confirm::possible(false, "settings set, when fewer confirm commits by it,")?;
            confirm::ask(&would.lowers.join("\n"))?;
        }
    }
    let done = send(context, &message).await?;
    context.write(&changed(&done, args.change.dry_run))
}

async fn send(
    context: &Context,
    message: &v1::ChangeSettingsRequest,
) -> Result<v1::ChangeSettingsReply, Stop> {
    let request = || context.client.authorised(message.clone());
    request()?;
    context
        .client
        .change(None, |mut admin| {
            let request = request();
            async move { admin.change_settings(request.map_err(as_status)?).await }
        })
        .await
}

/// What was changed, or would be.
pub fn changed(done: &v1::ChangeSettingsReply, is_dry_run: bool) -> Report {
    let head = match (done.changes.is_empty(), is_dry_run) {
        (true, _) => "It is so already.",
        (false, true) => "Would change:",
        (false, false) => "Changed:",
    };
    let mut human = format!("{head}\n");
    for change in &done.changes {
        let _ = writeln!(human, "  {change}");
    }
    let lowers = done.lowers.iter().map(|text| format!("LOWERS {text}"));
    for note in lowers.chain(done.notes.iter().cloned()) {
        let _ = writeln!(human, "  - {note}");
    }
    if is_dry_run {
        human.push_str("Nothing was changed.\n");
    }
    let mut rows = vec![vec!["change".to_owned()]];
    rows.extend(done.changes.iter().map(|change| vec![change.clone()]));
    let data = serde_json::json!({
        "dry_run": is_dry_run,
        "changes": done.changes,
        "lowers": done.lowers,
        "notes": done.notes,
    });
    Report { human, data, rows }
}
