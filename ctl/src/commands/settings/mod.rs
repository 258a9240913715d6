//! `settings`: what the whole cluster shares, how it is changed, and who changed it.

pub mod edit;
pub mod revisions;

use std::fmt::Write as _;

use cluster_proto::v1;

use super::Context;
use crate::args::{SetSettings, SettingsCommand};
use crate::ask::by;
use crate::confirm;
use crate::exit::{Kind, Stop};
use crate::output::{Align, Paint, Report, table};
use crate::view::SettingsView;

/// Runs one of them.
///
/// # Errors
/// It was not done; why, and the exit code.
pub async fn run(context: &Context, command: &SettingsCommand) -> Result<(), Stop> {
    match command {
        SettingsCommand::Show => {
            let reply = settings(context).await?;
            context.write(&render(&SettingsView::from(&reply), context.paint))
        }
        SettingsCommand::Set(args) => set(context, args).await,
        SettingsCommand::Edit(change) => edit::edit(context, change).await,
        SettingsCommand::Diff(args) => {
            context.write(&revisions::diff(&settings(context).await?, args)?)
        }
        SettingsCommand::History => context.write(&revisions::history(
            &settings(context).await?,
            context.paint,
        )),
        SettingsCommand::Rollback(args) => revisions::rollback(context, args).await,
    }
}

async fn settings(context: &Context) -> Result<v1::SettingsReply, Stop> {
    context
        .client
        .read(|mut admin| async move { admin.get_settings(v1::GetSettingsRequest {}).await })
        .await
}

/// The table.
pub fn render(settings: &SettingsView, paint: Paint) -> Report {
    let cells: Vec<Vec<String>> = settings
        .rows
        .iter()
        .map(|row| vec![row.key.clone(), row.value.clone()])
        .collect();
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
        expected_revision: args.expected_revision,
        ..v1::ChangeSettingsRequest::default()
    };
    change(context, message, "settings set").await
}

/// Asks first when commits would be confirmed by fewer, and tells what was changed.
async fn change(
    context: &Context,
    message: v1::ChangeSettingsRequest,
    verb: &str,
) -> Result<(), Stop> {
    if !message.dry_run && !context.global.yes {
        let rehearsal = v1::ChangeSettingsRequest {
            dry_run: true,
            ..message.clone()
        };
        let would = send(context, rehearsal).await?;
        if !would.lowers.is_empty() {
            let verb = format!("{verb}, when fewer confirm commits by it,");
            confirm::possible(false, &verb)?;
            confirm::ask(&would.lowers.join("\n"))?;
        }
    }
    let is_dry_run = message.dry_run;
    let done = send(context, message).await?;
    context.write(&changed(&done, is_dry_run))
}

async fn send(
    context: &Context,
    message: v1::ChangeSettingsRequest,
) -> Result<v1::ChangeSettingsReply, Stop> {
    context
        .client
        .change(None, message, |mut admin, request| async move {
            admin.change_settings(request).await
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
