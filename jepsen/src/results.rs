//! What a run leaves: its folder with histories, seed, versions and verdicts; and judging one again.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster_tests::Cluster;
use cluster_tests::programs::{ours, target_folder};
use serde_json::{Value, json};

use crate::checker::{Staleness, Verdict, judge_history};
use crate::history::{Event, Folder};
use crate::page::Page;
use crate::{Arguments, word};

/// Makes the run's folder.
///
/// # Errors
/// It cannot be made.
pub fn folder(arguments: &Arguments) -> Result<Folder> {
    let name = format!(
        "{}-{}-{}",
        arguments.mode.word(),
        word(&arguments.workload),
        arguments.seed
    );
    let given = arguments.folder.clone();
    Folder::make(&given.unwrap_or_else(|| target_folder().join("chaos").join(name)))
}

/// Versions of what was tested.
///
/// # Errors
/// It was not to be asked.
pub fn versions(cluster: &Cluster) -> Result<Value> {
    let program = ours("clusterd")?;
    let answer = std::process::Command::new(program)
        .arg("--version")
        .output();
    let clusterd = String::from_utf8_lossy(&answer.context("ask clusterd for its version")?.stdout)
        .trim()
        .to_owned();
    let primary = cluster.wait_primary(cluster_tests::PATIENCE)?;
    let postgres = cluster.sql(primary, "SELECT version()")?.concat();
    Ok(json!({ "clusterd": clusterd, "postgresql": postgres }))
}

/// Writes `run.json`, `report.txt` and `report.html`.
///
/// # Errors
/// They cannot be written.
pub fn write(folder: &Folder, page: &Page) -> Result<()> {
    let report = page.report;
    let verdict = |it: &Verdict| {
        json!({
            "property": it.property,
            "holds": it.is_good(),
            "looked_at": it.looked_at,
            "violations": it.violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "allowed": it.allowed.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "unknown": it.unknown,
        })
    };
    let run = json!({
        "seed": page.seed,
        "repeat": report.repeat(),
        "versions": page.versions,
        "is_good": report.is_good(),
        "verdicts": report.verdicts().iter().map(verdict).collect::<Vec<_>>(),
    });
    folder.write("run.json", &format!("{run:#}\n"))?;
    folder.write("report.txt", &format!("{report}\n"))?;
    folder.write("report.html", &page.html())?;
    eprintln!("histories and verdicts are in {}", folder.path().display());
    Ok(())
}

/// Judges the recorded histories of a folder by what `sync` promises.
pub fn check_again(folder: &Path, bound: Duration) -> ExitCode {
    match judge_folder(folder, bound) {
        Ok(verdicts) => {
            verdicts.iter().for_each(|verdict| println!("{verdict}"));
            let is_good = !verdicts.is_empty() && verdicts.iter().all(Verdict::is_good);
            ExitCode::from(u8::from(!is_good))
        }
        Err(error) => {
            eprintln!("harness failure: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn judge_folder(folder: &Path, bound: Duration) -> Result<Vec<Verdict>> {
    // Which times were calm is not in the histories of clients: staleness is not judged again.
    let staleness = Staleness {
        bound,
        calm: Vec::new(),
    };
    let mut verdicts = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let name = file.strip_prefix("history-");
        let Some(name) = name.and_then(|it| it.strip_suffix(".edn")) else {
            continue;
        };
        let text = fs::read_to_string(&path).with_context(|| format!("read {file}"))?;
        let events = Event::parse_all(&text).with_context(|| format!("read {file}"))?;
        verdicts.extend(judge_history(name, &events, &staleness));
    }
    verdicts.sort_by(|one, other| one.property.cmp(&other.property));
    Ok(verdicts)
}
