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
    let same = |range: &Range| {
        range.timeline == backup.timeline.0
            && range.start.parse() == Ok(backup.start)
            && range.end.parse() == Ok(backup.end)
    };
    if !document.wal_ranges.iter().any(same) {
        let ranges = document.wal_ranges.iter();
        let said: Vec<String> = ranges
            .map(|it| words(TimelineId(it.timeline), &it.start, &it.end))
            .collect();
        let (start, end): (Lsn, Lsn) = (backup.start, backup.end);
        listed.problems.push(format!(
            "the manifest says {}, PostgreSQL's backup_manifest {}",
            words(backup.timeline, &start.to_string(), &end.to_string()),
            said.join(" and ")
        ));
    }
    for file in document.files {
        // One whose name is no UTF-8 has another field; pg_verifybackup looks at those.
        if let Some(path) = file.path {
            listed.files.insert(path, file.size);
        }
    }
    listed
}

fn words(timeline: TimelineId, start: &str, end: &str) -> String {
    format!("WAL of timeline {timeline} from {start} to {end}")
}
