//! `backup`: base backups in the repository.

use std::time::Duration;

use cluster_proto::v1;

use super::Context;
use crate::args::{BackupCommand, CreateBackup};
use crate::ask::by;
use crate::exit::{Kind, Stop};
use crate::output::{Align, Report, table};
use crate::time::{length, moment};
use crate::view::{MemberView, StatusView};

/// A copy of a whole database takes as long as it takes.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Runs one of them.
///
/// # Errors
/// No member can, it failed, or nobody answered.
pub async fn run(context: &Context, command: &BackupCommand) -> Result<(), Stop> {
    match command {
        BackupCommand::Create(args) => create(context, args).await,
        BackupCommand::List => list(context).await,
    }
}

async fn create(context: &Context, args: &CreateBackup) -> Result<(), Stop> {
    let status = context.status().await?;
    let member = choose(&status, args.member.as_deref())?;
    let message = v1::CreateBackupRequest {
        by: by(args.reason.as_deref()),
    };
    eprintln!("{} copies its PostgreSQL …", member.name);
    let mut admin = context.client.connect(&member.peer).await?;
    let request = context.client.authorised(message)?;
    let answer = tokio::time::timeout(LIMIT, admin.create_backup(request)).await;
    let backup = match answer {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(Stop::from_status(&status)),
        Err(_) => return Err(Stop::new(Kind::TimedOut, "no answer within a day")),
    };
    let mut report = Report::single(
        "text",
        &format!(
            "Backup {} is stored: {} bytes, consistent at {}, taken in {}",
            backup.id,
            backup.bytes,
            backup.end,
            length(u64::try_from(backup.ended_unix_ms - backup.began_unix_ms).unwrap_or(0))
        ),
    );
    report.data = document(&backup);
    context.write(&report)
}

/// A standby that streams, if there is one: a copy costs the server that makes it.
fn choose<'a>(status: &'a StatusView, wanted: Option<&str>) -> Result<&'a MemberView, Stop> {
    if let Some(name) = wanted {
        let found = status.members.iter().find(|member| member.name == name);
        return found.ok_or_else(|| Stop::new(Kind::Usage, format!("{name} is no member")));
    }
    let can = |state: &'static str| move |member: &&MemberView| member.state == state;
    let mut members = status.members.iter();
    members
        .find(can("streaming"))
        .or_else(|| status.members.iter().find(can("running")))
        .ok_or_else(|| Stop::new(Kind::Refused, "no member's PostgreSQL can be copied now"))
}

async fn list(context: &Context) -> Result<(), Stop> {
    let answer = context
        .client
        .read(|mut admin| async move { admin.list_backups(v1::ListBackupsRequest {}).await })
        .await?;
    let columns = [
        ("Backup", Align::Left),
        ("Member", Align::Left),
        ("Epoch", Align::Right),
        ("TL", Align::Right),
        ("Complete", Align::Left),
        ("Consistent at", Align::Left),
        ("Bytes", Align::Right),
        ("PostgreSQL", Align::Right),
    ];
    let cells: Vec<Vec<String>> = answer
        .backups
        .iter()
        .map(|it| {
            vec![
                it.id.clone(),
                it.member.clone(),
                it.epoch.to_string(),
                it.timeline.to_string(),
                moment(u64::try_from(it.ended_unix_ms).unwrap_or(0)),
                it.end.clone(),
                it.bytes.to_string(),
                it.major.to_string(),
            ]
        })
        .collect();
    let mut rows = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells.clone());
    let data: Vec<serde_json::Value> = answer.backups.iter().map(document).collect();
    context.write(&Report {
        human: table(
            &format!("Backups in {}", answer.repository),
            &columns,
            &cells,
            context.paint,
        ),
        data: data.into(),
        rows,
    })
}

fn document(backup: &v1::Backup) -> serde_json::Value {
    serde_json::json!({
        "id": backup.id,
        "member": backup.member,
        "epoch": backup.epoch,
        "timeline": backup.timeline,
        "end": backup.end,
        "began_unix_ms": backup.began_unix_ms,
        "ended_unix_ms": backup.ended_unix_ms,
        "bytes": backup.bytes,
        "major": backup.major,
    })
}
