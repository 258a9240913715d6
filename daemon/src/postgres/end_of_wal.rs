//! Finds the end of WAL of a stopped server by reading its files.
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

impl Postgres {
    /// The end of the last whole record of `timeline` on disk, reading from `from`, the beginning of
    /// a record (a checkpoint's REDO location does).
    pub async fn end_of_wal_on_disk(&self, from: Lsn, timeline: TimelineId) -> Result<Lsn, Error> {
        self.require_stopped().await?;
        let segment = self.control_data().await?.wal_segment_bytes;
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
            Some((start, length)) => Ok(record_end(start, length, segment)),
            None => Err(why(tool::tail(&said))),
        }
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

/// Start and total length of the record in one line of `pg_waldump`.
fn record(line: &str) -> Option<(Lsn, u64)> {
    let (_, rest) = line.split_once("len (rec/tot):")?;
    let (lengths, rest) = rest.split_once(',')?;
    let total = lengths.split_once('/')?.1.trim().parse().ok()?;
    let (_, rest) = rest.split_once("lsn:")?;
    let start = rest.split(',').next()?.trim().parse().ok()?;
    Some((start, total))
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
        assert_eq!(record(line), Some((Lsn(0x152_9450), 114)));
        assert_eq!(record("pg_waldump: error"), None);
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
