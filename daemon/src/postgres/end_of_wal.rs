//! Finds the end of WAL by reading files: of a stopped server, or of one that receives nothing.
//!
//! The surprise: `pg_waldump` says where the last good record begins and how long it is, not where
//! it ends; page headers in between are counted here.

use std::process::Stdio;
use std::time::Duration;

use cluster_core::model::{Lsn, TimelineId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::data_dir::segment_suffix;
use super::{Error, Postgres, tool};

/// Size of a WAL page, and of its short and long headers. Source: `xlog_internal.h`, 64-bit.
const PAGE: u64 = 8192;
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// Reading may have to go through everything since the last checkpoint.
const LIMIT: Duration = Duration::from_secs(300);

/// How `pg_waldump` says that nothing begins at or behind the place it was told. Source: 13 to 18.
const NO_RECORD: &str = "could not find a valid record after";

impl Postgres {
    /// The end of the last whole record of `timeline` on disk, reading from `from`, the beginning of
    /// a record (a checkpoint's REDO location does).
    pub async fn end_of_wal_on_disk(&self, from: Lsn, timeline: TimelineId) -> Result<Lsn, Error> {
        self.require_stopped().await?;
        let segment = self.control_data().await?.wal_segment_bytes;
        let last = self.last_record(from, timeline, segment).await?;
        last.ok_or_else(|| Error::EndOfWal {
            from,
            why: NO_RECORD.to_owned(),
        })
    }

    /// The end of the last whole record of `timeline` at or behind `from`, if there is one. Nobody
    /// writes WAL here meanwhile: the caller has seen to that.
    pub(super) async fn last_record(
        &self,
        from: Lsn,
        timeline: TimelineId,
        segment: u64,
    ) -> Result<Option<Lsn>, Error> {
        let why = |why: String| Error::EndOfWal { from, why };
        let first = segment_file(timeline, from, segment);
        let mut command = tool::command(&self.program("pg_waldump"), self.owner());
        command
            .arg("--path")
            .arg(self.data_path("pg_wal"))
            .args([
                "--timeline",
                &timeline.to_string(),
                "--start",
                &from.to_string(),
            ])
            // Named, or it takes the size of a segment from any file, also from an empty one; with
            // the first alone it would stop at its end.
            .args([
                &first,
                self.last_segment(timeline).as_ref().unwrap_or(&first),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| Error::RunTool {
            tool: "pg_waldump".to_owned(),
            source,
        })?;
        let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(why("no output".to_owned()));
        };
        let read = async {
            let mut lines = BufReader::new(stdout).lines();
            let mut last = None;
            while let Ok(Some(line)) = lines.next_line().await {
                last = record(&line).or(last);
            }
            let mut said = String::new();
            // Its last words are an error in every case: WAL does not say where it ends.
            let _ = stderr.read_to_string(&mut said).await;
            (last, said)
        };
        let (last, said) =
            tokio::time::timeout(LIMIT, read)
                .await
                .map_err(|_| Error::ToolTimedOut {
                    tool: "pg_waldump".to_owned(),
                    limit: LIMIT,
                })?;
        match last {
            Some(found) => Ok(Some(found.end(segment))),
            None if said.contains(NO_RECORD) => Ok(None),
            None => Err(why(tool::tail(&said))),
        }
    }

    /// Whether the segment of `timeline` that holds `at` has a file.
    pub(super) fn has_segment(&self, timeline: TimelineId, at: Lsn, segment: u64) -> bool {
        let file = segment_file(timeline, at, segment);
        self.data_path("pg_wal").join(file).is_file()
    }

    /// The highest segment of a timeline that has a file, used or made in advance.
    fn last_segment(&self, timeline: TimelineId) -> Option<String> {
        let prefix = format!("{:08X}", timeline.0);
        std::fs::read_dir(self.data_path("pg_wal"))
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.len() == 24 && name.starts_with(&prefix))
            .max()
    }
}

/// The name of the file that holds `at`.
fn segment_file(timeline: TimelineId, at: Lsn, segment: u64) -> String {
    format!("{:08X}{}", timeline.0, segment_suffix(at, segment))
}

/// One line of `pg_waldump`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    start: Lsn,
    /// Total length in bytes, page headers not counted.
    length: u64,
    /// The rest of its segment is left empty.
    ends_segment: bool,
}

impl Record {
    /// Where the next one begins.
    fn end(self, segment: u64) -> Lsn {
        let end = record_end(self.start, self.length, segment);
        if self.ends_segment {
            return Lsn(end.0.next_multiple_of(segment));
        }
        end
    }
}

fn record(line: &str) -> Option<Record> {
    let (_, rest) = line.split_once("len (rec/tot):")?;
    let (lengths, rest) = rest.split_once(',')?;
    let total = lengths.split_once('/')?.1.trim().parse().ok()?;
    let (_, rest) = rest.split_once("lsn:")?;
    let start = rest.split(',').next()?.trim().parse().ok()?;
    Some(Record {
        start,
        length: total,
        ends_segment: line.starts_with("rmgr: XLOG ") && rest.contains("desc: SWITCH"),
    })
}

/// Where a record that begins at `start` ends, page headers and alignment counted.
fn record_end(start: Lsn, length: u64, segment: u64) -> Lsn {
    let mut place = start.0;
    let mut left = length;
    while left > 0 {
        if place.is_multiple_of(PAGE) {
            place += if place.is_multiple_of(segment) {
                LONG_HEADER
            } else {
                SHORT_HEADER
            };
        }
        let step = left.min(PAGE - place % PAGE);
        place += step;
        left -= step;
    }
    Lsn(place.next_multiple_of(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_pg_waldump_is_read() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: \
                    0/01529450, prev 0/01529418, desc: CHECKPOINT_SHUTDOWN redo 0/1529450; tli 1";
        let wanted = Record {
            start: Lsn(0x152_9450),
            length: 114,
            ends_segment: false,
        };
        assert_eq!(record(line), Some(wanted));
        assert_eq!(record("pg_waldump: error"), None);
    }

    /// Recovery stands at the end of the segment after it: a Grant that says less would be refused.
    #[test]
    fn behind_a_switch_the_wal_ends_with_its_segment() {
        let line = "rmgr: XLOG        len (rec/tot):     24/    24, tx:          0, lsn: \
                    0/01529450, prev 0/01529418, desc: SWITCH ";
        let found = record(line).expect("a record");
        assert!(found.ends_segment);
        assert_eq!(found.end(4 << 20), Lsn(0x180_0000));
    }

    #[test]
    fn a_segment_is_named_as_postgresql_names_it() {
        let at = Lsn(0x1_0177_E990);
        let name = segment_file(TimelineId(5), at, 4 << 20);
        assert_eq!(name, "000000050000000100000005");
        let name = segment_file(TimelineId(0x1A), at, 16 << 20);
        assert_eq!(name, "0000001A0000000100000001");
    }

    #[test]
    fn a_record_that_crosses_pages_is_longer_on_disk() {
        assert_eq!(record_end(Lsn(0x152_9450), 114, 4 << 20), Lsn(0x152_94C8));
        assert_eq!(
            record_end(Lsn(8192 * 3 - 8), 16, 4 << 20),
            Lsn(8192 * 3 + 24 + 8)
        );
        assert_eq!(
            record_end(Lsn((4 << 20) - 8), 16, 4 << 20),
            Lsn((4 << 20) + 40 + 8)
        );
    }
}
