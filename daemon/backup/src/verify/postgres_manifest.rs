//! PostgreSQL's own `backup_manifest`: its checksum, the files it lists, the WAL it needs.

use std::collections::BTreeMap;

use cluster_core::model::{Lsn, TimelineId};
use serde::Deserialize;

use crate::manifest::Manifest;
use crate::streams;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    files: Vec<File>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<Range>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    path: Option<String>,
    size: u64,
}

#[derive(Deserialize)]
struct Range {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

/// What it says of the backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The size of each file. Unit: bytes.
    pub files: BTreeMap<String, u64>,
    /// Everything that is wrong with it.
    pub problems: Vec<String>,
}

/// Reads it; `backup` must say the same of the WAL.
pub fn read(text: &[u8], backup: &Manifest) -> Listed {
    let mut listed = Listed::default();
    let document: Document = match serde_json::from_slice(text) {
        Ok(document) => document,
        Err(error) => {
            listed
                .problems
                .push(format!("backup_manifest cannot be read: {error}"));
            return listed;
        }
    };
    // The checksum is of everything before the last line, which holds it.
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let until = body.iter().rposition(|byte| *byte == b'\n');
    let found = streams::hash(&text[..until.map_or(0, |at| at + 1)]);
    if found != document.checksum {
        listed.problems.push(format!(
            "backup_manifest is damaged: its own checksum is {}, its content has {found}",
            document.checksum
        ));
    }
    if let Some(why) = differs(&document.wal_ranges, backup) {
        listed.problems.push(why);
    }
    for file in document.files {
        // One whose name is no UTF-8 has another field; pg_verifybackup looks at those.
        if let Some(path) = file.path {
            listed.files.insert(path, file.size);
        }
    }
    listed
}

/// A backup that spans timelines has a range for each, the newest first: its start is the first position of
/// all, its end and its timeline are of the last one.
fn differs(ranges: &[Range], backup: &Manifest) -> Option<String> {
    let position = |text: &str| text.parse::<Lsn>().ok();
    let start = ranges.iter().filter_map(|it| position(&it.start)).min();
    let last = ranges.iter().max_by_key(|it| position(&it.end));
    let end = last.and_then(|it| position(&it.end));
    let timeline = last.map(|it| TimelineId(it.timeline));
    let is_same =
        (start, end, timeline) == (Some(backup.start), Some(backup.end), Some(backup.timeline));
    let said: Vec<String> = ranges
        .iter()
        .map(|it| words(TimelineId(it.timeline), &it.start, &it.end))
        .collect();
    let (start, end) = (backup.start.to_string(), backup.end.to_string());
    (!is_same).then(|| {
        format!(
            "the manifest says {}, PostgreSQL's backup_manifest {}",
            words(backup.timeline, &start, &end),
            said.join(" and ")
        )
    })
}

fn words(timeline: TimelineId, start: &str, end: &str) -> String {
    format!("WAL of timeline {timeline} from {start} to {end}")
}
