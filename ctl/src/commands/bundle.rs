//! `bundle`: one file with what every reachable member knows of the cluster and of itself, for whoever
//! helps. A member that does not answer is named in it. Secrets stay where they are: members take theirs
//! out, and the token used here is taken out once more.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_proto::v1;
use serde::Serialize;

use super::Context;
use crate::args::Bundle;
use crate::client::Admin;
use crate::exit::{Kind, Stop};
use crate::output::Report;
use crate::time::{moment, now_unix_ms};
use crate::view::{HistoryView, SettingsView, StatusView};

/// How long one member may take for one answer.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// So many places are asked at most.
const MOST_PLACES: usize = 100;

/// Everything found, as it goes into the file.
#[derive(Debug, Default)]
struct Collection {
    /// Path inside the file, and text.
    files: Vec<(String, String)>,
    /// Members that answered.
    members: BTreeSet<String>,
    /// What could not be collected, and why.
    problems: Vec<String>,
    cluster: String,
}

/// Collects and writes.
///
/// # Errors
/// No member answered, or the file cannot be written.
pub async fn run(context: &Context, args: &Bundle) -> Result<(), Stop> {
    if let Some(path) = &args.file {
        check_name(path)?;
    }
    let found = collect(context).await?;
    let path = args.file.clone().unwrap_or_else(|| default_name(&found));
    check_name(&path)?;
    let secret = context.client.token();
    write(&path, &found, secret).map_err(|error| {
        let text = format!("could not write {}: {error}", path.display());
        Stop::new(Kind::Usage, text)
    })?;
    for problem in &found.problems {
        eprintln!("clusterctl: {problem}");
    }
    let members: Vec<&str> = found.members.iter().map(String::as_str).collect();
    let mut report = Report::single("file", &path.display().to_string());
    report.data = serde_json::json!({
        "file": path.display().to_string(),
        "members": members,
        "problems": found.problems,
    });
    context.write(&report)
}

fn check_name(path: &Path) -> Result<(), Stop> {
    let is_known = path.to_string_lossy().ends_with(".tar.zst");
    let text = match (is_known, path.exists()) {
        (true, false) => return Ok(()),
        (false, _) => format!(
            "{}: a name that ends in .tar.zst is expected",
            path.display()
        ),
        (true, true) => format!("{} exists already", path.display()),
    };
    Err(Stop::new(Kind::Usage, text))
}

fn default_name(found: &Collection) -> PathBuf {
    let digits = |c: char| c.is_ascii_digit();
    let when: String = moment(now_unix_ms())
        .chars()
        .filter(|c| digits(*c))
        .collect();
    let cluster = match found.cluster.as_str() {
        "" => "cluster",
        name => name,
    };
    PathBuf::from(format!("{cluster}-{when}.tar.zst"))
}

/// Asks every place that was given, and every member they name.
async fn collect(context: &Context) -> Result<Collection, Stop> {
    let mut found = Collection::default();
    let mut places: Vec<String> = context.client.endpoints().to_vec();
    let (mut named, mut unreached) = (BTreeSet::new(), Vec::new());
    let mut next = 0;
    while let Some(place) = places.get(next).filter(|_| next < MOST_PLACES).cloned() {
        next += 1;
        let answer = match context.client.connect(&place).await {
            Ok(mut admin) => ask(admin.get_status(v1::GetStatusRequest {}))
                .await
                .map(|status| (admin, status)),
            Err(stop) if stop.kind == Kind::Usage => return Err(stop),
            Err(stop) => Err(stop.text),
        };
        let (admin, status) = match answer {
            Ok(answer) => answer,
            Err(why) => {
                unreached.push(format!("{place}: {why}"));
                continue;
            }
        };
        for member in &status.members {
            named.insert(member.name.clone());
            let peer = member.addresses.as_ref().map(|it| it.peer.clone());
            places.extend(peer.filter(|it| !it.is_empty() && !places.contains(it)));
        }
        if found.members.insert(status.answered_by.clone()) {
            found.cluster.clone_from(&status.cluster);
            of_member(context, admin, &status, &mut found).await;
        }
    }
    if found.members.is_empty() {
        let text = format!("no member answered ({})", unreached.join("; "));
        return Err(Stop::new(Kind::Unreachable, text));
    }
    let silent = named.difference(&found.members);
    let mut problems: Vec<String> = silent.map(|it| format!("{it} did not answer")).collect();
    problems.extend(unreached);
    problems.append(&mut found.problems);
    found.problems = problems;
    let about = about(&found);
    found.files.insert(0, ("README.txt".to_owned(), about));
    Ok(found)
}

/// One call, with a limit; the answer or a sentence.
async fn ask<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(ASK_LIMIT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Stop::from_status(&status).text),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Everything one member can tell.
async fn of_member(
    context: &Context,
    mut admin: Admin,
    status: &v1::Status,
    found: &mut Collection,
) {
    let me = &status.answered_by;
    let (texts, mut problems) = told(&mut admin, status).await;
    // The member takes its secrets out of what it has told openly, too: an operator may have typed one.
    let request = v1::LocalCollectRequest {
        also: texts.clone(),
    };
    let collected = match context.client.authorised(request) {
        Ok(request) => ask(admin.local_collect(request)).await,
        Err(stop) => Err(stop.text),
    };
    let files = match collected {
        Ok(collected) => {
            problems.extend(collected.problems);
            collected.files
        }
        Err(why) => {
            problems.push(format!("config, log and control data are missing: {why}"));
            texts
        }
    };
    for file in files {
        // A name is one of this folder, whatever a member says.
        let name = file.name.replace(['/', '\\'], "_");
        found
            .files
            .push((format!("members/{me}/{name}"), file.text));
    }
    let problems = problems.into_iter();
    found
        .problems
        .extend(problems.map(|problem| format!("{me}: {problem}")));
}

/// What a member tells everybody, and what it did not.
async fn told(admin: &mut Admin, status: &v1::Status) -> (Vec<v1::CollectedFile>, Vec<String>) {
    let history = ask(admin.get_history(v1::GetHistoryRequest { limit: 0 })).await;
    let history = history.map(|it| it.entries.iter().map(HistoryView::from).collect::<Vec<_>>());
    let settings = ask(admin.get_settings(v1::GetSettingsRequest {})).await;
    let settings = settings.map(|it| SettingsView::from(&it));
    let all = [
        ("status.json", json(Ok(StatusView::from(status)))),
        ("history.json", json(history)),
        ("settings.json", json(settings)),
        ("explain.txt", Ok(decisions(admin, status).await)),
    ];
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for (name, text) in all {
        match text {
            Ok(text) => files.push(v1::CollectedFile {
                name: name.to_owned(),
                text,
            }),
            Err(why) => problems.push(format!("{name}: {why}")),
        }
    }
    (files, problems)
}

fn json(data: Result<impl Serialize, String>) -> Result<String, String> {
    serde_json::to_string_pretty(&data?).map_err(|error| error.to_string())
}

/// What would happen without the primary, and why each member is what it is.
async fn decisions(admin: &mut Admin, status: &v1::Status) -> String {
    let mut text = String::new();
    let members = status.members.iter().map(|it| it.name.clone());
    for member in std::iter::once(String::new()).chain(members) {
        let heading = match member.as_str() {
            "" => "If the primary died now",
            name => name,
        };
        let _ = writeln!(text, "{heading}:");
        match ask(admin.explain(v1::ExplainRequest { member })).await {
            Ok(answer) => {
                for line in answer.lines {
                    let _ = writeln!(text, "  {} ({})", line.text, line.code);
                }
            }
            Err(why) => {
                let _ = writeln!(text, "  could not be asked: {why}");
            }
        }
    }
    text
}

/// What is in the file, for whoever opens it.
fn about(found: &Collection) -> String {
    let mut text = format!(
        "Cluster {}, collected {} by clusterctl {}.\n\nAnswered: {}\n",
        found.cluster,
        moment(now_unix_ms()),
        env!("CARGO_PKG_VERSION"),
        found.members.iter().cloned().collect::<Vec<_>>().join(", ")
    );
    match found.problems.as_slice() {
        [] => text.push_str("Nothing is missing.\n"),
        problems => {
            text.push_str("\nMissing:\n");
            for problem in problems {
                let _ = writeln!(text, "  {problem}");
            }
        }
    }
    text.push_str(
        "\nEach member's folder holds what that member knew: status, history, settings, what it\n\
         would decide, its config, the end of its log and its control data. Secrets are replaced\n\
         by ***. PostgreSQL's own log is not here: it may hold rows.\n",
    );
    text
}

/// Readable by its owner alone; never over something else.
fn write(path: &Path, found: &Collection, secret: Option<&str>) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let file: File = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut archive = tar::Builder::new(zstd::Encoder::new(file, 0)?);
    let seconds = now_unix_ms() / 1000;
    let root = path.file_name().map(|it| it.to_string_lossy().into_owned());
    let root = root.unwrap_or_default().replace(".tar.zst", "");
    for (name, text) in &found.files {
        let text = match secret.filter(|secret| secret.len() >= 4) {
            Some(secret) => text.replace(secret, "***"),
            None => text.clone(),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        archive.append_data(&mut header, format!("{root}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}
