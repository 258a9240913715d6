//! `pg_rewind`, and what must hold before it.
//!
//! The tool changes the directory in place and not in one transaction: a marker outside PGDATA
//! brackets it, and a directory with the marker is never started (hazards D4). What it says is
//! never taken as proof that nothing had to be done (D3): the caller has decided from the ledger
//! that this directory diverged. The surprise: it removes `standby.signal` (D5), so the signal is
//! written again before the marker goes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cluster_core::model::{Lsn, TimelineId};

use super::data_dir::{Marker, segment_suffix};
use super::options::Upstream;
use super::{Error, Postgres, conninfo, durable_file};

/// What a rewind did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewindOutcome {
    /// Where the divergent WAL was set aside; none when the cap did not allow it.
    pub divergent_wal: Option<PathBuf>,
    /// Bytes set aside.
    pub saved_bytes: u64,
}

impl Postgres {
    /// Rewinds this stopped directory onto the line of `source`.
    ///
    /// The caller has started it with the signal, without upstream and with a closed gate until
    /// recovery had consumed its WAL, and stopped it fast (DESIGN section 8), and has made a
    /// CHECKPOINT on the source. `fork` is where the source's line left ours; `left` are the timelines of
    /// ours, the last one first, whose WAL behind it is none of that line.
    pub async fn rewind(
        &self,
        source: &Upstream,
        left: &[TimelineId],
        fork: Lsn,
    ) -> Result<RewindOutcome, Error> {
        let _turn = self.inner.change.lock().await;
        self.require_stopped().await?;
        if let Some(marker) = self.any_marker() {
            return Err(Error::Unfinished { marker });
        }
        let control = self.control_data().await?;
        let needs_clone = |why: &str| Error::NeedsClone {
            why: why.to_owned(),
        };
        // Before anything says that only a clone can help: that would take it along.
        let outcome = self.set_divergent_wal_aside(left, fork, control.wal_segment_bytes)?;
        if !control.is_clean() {
            return Err(needs_clone(&format!(
                "it is `{}`, not cleanly stopped",
                control.state
            )));
        }
        if !control.has_checksums && !control.wal_log_hints {
            return Err(needs_clone("it has neither checksums nor wal_log_hints"));
        }
        self.write_config(&self.inputs())?; // the passfile must be there
        self.set_marker(Marker::Rewind, &source.member.to_string())?;
        let args = vec![
            format!("--target-pgdata={}", self.options().data_dir.display()),
            format!(
                "--source-server={}",
                conninfo::rewind(self.options(), source)
            ),
            "--no-ensure-shutdown".to_owned(),
            "--progress".to_owned(),
        ];
        match self.run_tool("pg_rewind", args, None).await {
            Ok(said) if said.contains("no rewind required") => {
                // Nothing was changed, and the ledger says it had to be: two histories share one
                // timeline number (hazards X15).
                self.put_standby_signal()?;
                self.clear_marker(Marker::Rewind)?;
                Err(needs_clone(
                    "pg_rewind sees no divergence where the ledger knows one",
                ))
            }
            Ok(_) => {
                self.remove_placeholders()?;
                for timeline in left {
                    self.end_wal_at(*timeline, fork, control.wal_segment_bytes)?;
                }
                self.put_standby_signal()?;
                self.control_data().await?;
                self.note_rewind(&source.member.to_string())?;
                self.clear_marker(Marker::Rewind)?;
                Ok(outcome)
            }
            Err(error) => self.after_failure(error),
        }
    }

    /// Sorts a failure: nothing was changed, or only a clone can help.
    fn after_failure(&self, error: Error) -> Result<RewindOutcome, Error> {
        let Error::ToolFailed { said, .. } = &error else {
            return Err(error); // killed or unknown: the marker stays
        };
        let whole = durable_file::read(&self.state_path("pg_rewind.log"))?.unwrap_or_default();
        if !whole.contains("connected to server") {
            self.put_standby_signal()?;
            self.clear_marker(Marker::Rewind)?;
            return Err(Error::SourceUnreachable { why: said.clone() });
        }
        Err(Error::NeedsClone { why: said.clone() })
    }

    /// Ends what is left of a timeline of ours at the fork.
    ///
    /// pg_rewind keeps the segment that holds the fork, with what diverged behind it. Recovery prefers
    /// the new timeline's copy of that segment; where there is none, it would replay what diverged over
    /// pages that were copied from the source, and take the result for consistent.
    fn end_wal_at(&self, timeline: TimelineId, fork: Lsn, segment_bytes: u64) -> Result<(), Error> {
        let wal = self.data_path("pg_wal");
        let file = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { verb, path, source }
        };
        let first = format!("{:08X}{}", timeline.0, segment_suffix(fork, segment_bytes));
        for name in self.segments_from(&first)? {
            let path = wal.join(&name);
            let begin = if name == first {
                fork.0 % segment_bytes
            } else {
                0
            };
            if begin == 0 {
                fs::remove_file(&path).map_err(file("remove", &path))?;
                continue;
            }
            // As PostgreSQL leaves the rest of a segment that it has not come to.
            let rewritten = fs::OpenOptions::new().write(true).open(&path);
            rewritten
                .and_then(|segment| {
                    let rest = vec![0; usize::try_from(segment_bytes - begin).unwrap_or(0)];
                    segment.write_all_at(&rest, begin)?;
                    segment.sync_all()
                })
                .map_err(file("write", &path))?;
        }
        durable_file::sync_directory(&wal).map_err(file("sync", &wal))
    }

    /// The segments in `pg_wal` of the timeline of `first`, from that one on, in order.
    fn segments_from(&self, first: &str) -> Result<Vec<String>, Error> {
        let wal = self.data_path("pg_wal");
        let mut names: Vec<String> = fs::read_dir(&wal)
            .map_err(|source| Error::File {
                verb: "list",
                path: wal.clone(),
                source,
            })?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.len() == 24 && name[..8] == first[..8] && name.as_str() >= first)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Copies the segments that hold WAL beyond the fork, as long as the cap allows (hazards D9).
    fn set_divergent_wal_aside(
        &self,
        left: &[TimelineId],
        fork: Lsn,
        segment_bytes: u64,
    ) -> Result<RewindOutcome, Error> {
        let wal = self.data_path("pg_wal");
        let file = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { verb, path, source }
        };
        let fork_segment = segment_suffix(fork, segment_bytes);
        let mut names = Vec::new();
        for timeline in left {
            let first = format!("{:08X}{fork_segment}", timeline.0);
            names.append(&mut self.segments_from(&first)?);
        }
        // Segments that were recycled for later use hold nothing of this timeline.
        names.retain(|name| holds_its_own_wal(&wal.join(name), name, segment_bytes));
        let root = self.state_path("divergent-wal");
        durable_file::make_directory(&root, self.owner())?;
        let needed = names.len() as u64 * segment_bytes;
        let kept = super::data_dir::bytes_under(&root);
        if kept + needed > self.options().divergent_wal_cap_bytes {
            tracing::warn!(needed, kept, "divergent WAL is not set aside: over the cap");
            return Ok(RewindOutcome {
                divergent_wal: None,
                saved_bytes: 0,
            });
        }
        let place = root.join(match left.first() {
            Some(newest) => format!("timeline-{newest}-from-{:08X}{fork_segment}", newest.0),
            None => format!("from-{fork_segment}"),
        });
        durable_file::make_directory(&place, self.owner())?;
        for name in &names {
            let target = place.join(name);
            fs::copy(wal.join(name), &target).map_err(file("copy", &target))?;
            self.owner()
                .take(&target)
                .map_err(file("hand over", &target))?;
            fs::File::open(&target)
                .and_then(|f| f.sync_all())
                .map_err(file("sync", &target))?;
        }
        durable_file::sync_directory(&place).map_err(file("sync", &place))?;
        Ok(RewindOutcome {
            divergent_wal: Some(place),
            saved_bytes: needed,
        })
    }
}

/// Whether the first page of a segment is really of that place: a recycled file holds an old one.
fn holds_its_own_wal(path: &Path, name: &str, segment_bytes: u64) -> bool {
    use std::io::Read;
    let mut header = [0_u8; 16];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
    let digits = |range: std::ops::Range<usize>| u64::from_str_radix(&name[range], 16).ok();
    let (Ok(()), Some(high), Some(low)) = (read, digits(8..16), digits(16..24)) else {
        return false;
    };
    // xlp_magic u16, xlp_info u16, xlp_tli u32, xlp_pageaddr u64 (xlog_internal.h).
    let page = u64::from_ne_bytes([
        header[8], header[9], header[10], header[11], header[12], header[13], header[14],
        header[15],
    ]);
    page == (high << 32) + low * segment_bytes
}
