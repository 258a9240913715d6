//! `snapshot`: the whole cluster as one file.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Duration;

use cluster_proto::v1;
use cluster_proto::v1::snapshots_client::SnapshotsClient;

use super::Context;
use crate::args::{CreateSnapshot, RestoreSnapshot, SnapshotCommand};
use crate::ask::by;
use crate::exit::{Kind, Stop};
use crate::output::{Align, Paint, Report, table};
use crate::time::moment;

/// Between two pieces of a file.
const CHUNK_LIMIT: Duration = Duration::from_secs(60);

/// Runs one of them.
///
/// # Errors
/// Refused, failed, or nobody answered.
pub async fn run(context: &Context, command: &SnapshotCommand) -> Result<(), Stop> {
    match command {
        SnapshotCommand::Create(args) => create(context, args).await,
        SnapshotCommand::Status(args) => {
            context
                .show(args.watch, async |it| {
                    Ok(status(&get(it, &args.uuid).await?, it.paint))
                })
                .await
        }
        SnapshotCommand::List => {
            let reply = context
                .client
                .read_on(|channel| async move {
                    let mut client = SnapshotsClient::new(channel);
                    client.list(v1::ListSnapshotsRequest {}).await
                })
                .await?;
            context.write(&list(&reply, context.paint))
        }
        SnapshotCommand::Download { uuid } => download(context, uuid).await,
        SnapshotCommand::Restore(args) => Err(restore(args)),
    }
}

/// `snapshot restore` needs no cluster: the program for that takes this one's place. Returns only if it
/// cannot be started.
pub fn restore(args: &RestoreSnapshot) -> Stop {
    let beside = std::env::current_exe().map(|own| own.with_file_name("clusterd-backup"));
    let program = beside
        .ok()
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("clusterd-backup"));
    let mut command = std::process::Command::new(&program);
    command.args(["snapshot", "restore"]).arg(&args.file);
    command.arg("--into").arg(&args.into);
    command.arg("--bin-dir").arg(&args.bin_dir);
    if let Some(identity) = &args.identity {
        command.arg("--identity").arg(identity);
    }
    let error = command.exec();
    let text = format!("{} could not be started: {error}", program.display());
    Stop::new(Kind::Usage, text)
}

async fn create(context: &Context, args: &CreateSnapshot) -> Result<(), Stop> {
    let message = v1::CreateSnapshotRequest {
        by: by(args.reason.as_deref()),
        member: args.member.clone().unwrap_or_default(),
        recipients: args.recipients.clone(),
        plain: args.plain,
    };
    let snapshot = context
        .client
        .change_on(None, message, |channel, request| async move {
            SnapshotsClient::new(channel).create(request).await
        })
        .await?;
    let (uuid, status) = (snapshot.id.clone(), snapshot.status.clone());
    context.write(&Report {
        human: format!("uuid = {uuid}\nstatus = {status}\n"),
        data: document(&snapshot),
        rows: vec![
            vec!["uuid".to_owned(), "status".to_owned()],
            vec![uuid, status],
        ],
    })
}

async fn get(context: &Context, uuid: &str) -> Result<v1::Snapshot, Stop> {
    let message = v1::GetSnapshotRequest {
        id: uuid.to_owned(),
    };
    let message = &message;
    context
        .client
        .read_on(|channel| async move { SnapshotsClient::new(channel).get(message.clone()).await })
        .await
}

/// `snapshot status`.
pub fn status(snapshot: &v1::Snapshot, paint: Paint) -> Report {
    let columns = [
        ("Member", Align::Left),
        ("Status", Align::Left),
        ("Reason", Align::Left),
    ];
    let cells: Vec<Vec<String>> = snapshot
        .members
        .iter()
        .map(|it| vec![it.name.clone(), it.status.clone(), it.why.clone()])
        .collect();
    let mut rows = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells.clone());
    let mut human = format!("uuid = {}\nstatus = {}\n", snapshot.id, snapshot.status);
    if !snapshot.why.is_empty() {
        human.push_str(&format!("reason = {}\n", snapshot.why));
    }
    if let Some(file) = &snapshot.file {
        human.push_str(&format!(
            "{} bytes on {}, PostgreSQL {}, consistent at {} on timeline {}\nSHA-256 {}\n",
            file.bytes, snapshot.taker, file.major, file.end, file.timeline, file.sha256
        ));
    }
    human.push_str(&table("", &columns, &cells, paint));
    Report {
        human,
        data: document(snapshot),
        rows,
    }
}

/// `snapshot list`.
pub fn list(reply: &v1::ListSnapshotsReply, paint: Paint) -> Report {
    let columns = [
        ("Snapshot", Align::Left),
        ("Status", Align::Left),
        ("Member", Align::Left),
        ("Begun", Align::Left),
        ("Epoch", Align::Right),
        ("Consistent at", Align::Left),
        ("Bytes", Align::Right),
        ("Encrypted", Align::Left),
        ("Reason", Align::Left),
    ];
    let cells: Vec<Vec<String>> = reply
        .snapshots
        .iter()
        .map(|it| {
            let file = it.file.clone().unwrap_or_default();
            let bytes = it.file.as_ref().map(|file| file.bytes.to_string());
            let encrypted = if it.recipients.is_empty() {
                "no"
            } else {
                "yes"
            };
            vec![
                it.id.clone(),
                it.status.clone(),
                it.taker.clone(),
                moment(it.at_unix_ms),
                it.epoch.to_string(),
                file.end,
                bytes.unwrap_or_default(),
                encrypted.to_owned(),
                it.why.clone(),
            ]
        })
        .collect();
    let mut rows = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells.clone());
    let mut human = table("Snapshots", &columns, &cells, paint);
    let origin = reply.origin.as_ref();
    if let Some(origin) = origin {
        human.push_str(&format!(
            "This cluster was restored from snapshot {} of cluster {} (epoch {}, consistent at {} on timeline {}).\n",
            origin.snapshot, origin.cluster_id, origin.epoch, origin.end, origin.timeline
        ));
    }
    let snapshots: Vec<serde_json::Value> = reply.snapshots.iter().map(document).collect();
    let origin = origin.map(|it| {
        serde_json::json!({
            "snapshot": it.snapshot,
            "cluster_id": it.cluster_id,
            "generation": it.generation,
            "epoch": it.epoch,
            "timeline": it.timeline,
            "end": it.end,
        })
    });
    Report {
        human,
        data: serde_json::json!({ "snapshots": snapshots, "origin": origin }),
        rows,
    }
}

fn document(snapshot: &v1::Snapshot) -> serde_json::Value {
    let members = snapshot
        .members
        .iter()
        .map(|it| serde_json::json!({ "name": it.name, "status": it.status, "reason": it.why }));
    let members: Vec<serde_json::Value> = members.collect();
    let file = snapshot.file.as_ref().map(|file| {
        serde_json::json!({
            "bytes": file.bytes,
            "sha256": file.sha256,
            "timeline": file.timeline,
            "start": file.start,
            "end": file.end,
            "major": file.major,
        })
    });
    serde_json::json!({
        "uuid": snapshot.id,
        "status": snapshot.status,
        "reason": snapshot.why,
        "by": snapshot.by,
        "at_unix_ms": snapshot.at_unix_ms,
        "member": snapshot.taker,
        "epoch": snapshot.epoch,
        "recipients": snapshot.recipients,
        "members": members,
        "file": file,
    })
}

async fn download(context: &Context, uuid: &str) -> Result<(), Stop> {
    if std::io::stdout().is_terminal() {
        let text = format!(
            "the file goes to stdout: `clusterctl snapshot download {uuid} > snapshot-{uuid}.tar`"
        );
        return Err(Stop::new(Kind::Usage, text));
    }
    let snapshot = get(context, uuid).await?;
    let Some(file) = &snapshot.file else {
        let why = match snapshot.why.as_str() {
            "" => String::new(),
            why => format!(": {why}"),
        };
        let text = format!(
            "snapshot {uuid} is {}{why}; there is no file",
            snapshot.status
        );
        return Err(Stop::new(Kind::Refused, text));
    };
    let message = v1::DownloadSnapshotRequest {
        id: uuid.to_owned(),
    };
    let request = context.client.authorised(message)?;
    let channel = context.client.channel(&snapshot.taker_peer).await?;
    let answer = SnapshotsClient::new(channel).download(request).await;
    let mut chunks = answer
        .map_err(|status| Stop::from_status(&status))?
        .into_inner();
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut out = std::io::stdout().lock();
    let mut bytes = 0_u64;
    let broken = |bytes: u64, why: &str| {
        let text = format!(
            "after {bytes} of {} bytes: {why}; what was written is no snapshot",
            file.bytes
        );
        Stop::new(Kind::Failed, text)
    };
    loop {
        let next = tokio::time::timeout(CHUNK_LIMIT, chunks.message()).await;
        let next = next.map_err(|_| broken(bytes, "nothing more came"))?;
        let Some(chunk) = next.map_err(|status| broken(bytes, status.message()))? else {
            break;
        };
        digest.update(&chunk.data);
        bytes += chunk.data.len() as u64;
        out.write_all(&chunk.data)
            .map_err(|error| broken(bytes, &error.to_string()))?;
    }
    out.flush()
        .map_err(|error| broken(bytes, &error.to_string()))?;
    let found = digest.finish();
    let found: String = found
        .as_ref()
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    if bytes != file.bytes || found != file.sha256 {
        let why = format!("its SHA-256 is {found}, not {}", file.sha256);
        return Err(broken(bytes, &why));
    }
    eprintln!("Downloaded {bytes} bytes successfully");
    Ok(())
}
