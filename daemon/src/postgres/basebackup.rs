//! Copies a running server into an empty place beside the data directory, checks it, swaps it in.
//!
//! Only the swap is bracketed by a marker: before it nothing that could be started is touched, so a
//! clone that is cut off leaves everything as it was. Putting the copy in place is in `swap`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_core::model::TimelineId;
use tokio::sync::watch;

use super::data_dir::Marker;
use super::options::{Progress, Upstream};
use super::swap::{Place, Places, remove_tree};
use super::{Error, Postgres, conninfo, durable_file, tool};

/// What the C library says of a full volume; messages are asked for in English.
const NO_SPACE: &str = "No space left on device";

/// What a copy must be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOf {
    /// The database system.
    pub database: u64,
    /// The timeline the source is on.
    pub timeline: TimelineId,
}

impl Postgres {
    /// Copies `upstream` and swaps the copy in; the caller then gives it a new incarnation and
    /// starts it as a standby. Nothing of the old directory is lost before `discard_old`.
    ///
    /// Nothing is touched when the source is not database system `wanted` (hazards K2): an address
    /// may lead to somebody else's server that lets us in.
    pub async fn clone_from(
        &self,
        upstream: &Upstream,
        wanted: Option<CopyOf>,
        progress: watch::Sender<Progress>,
    ) -> Result<(), Error> {
        let _turn = self.inner.change.lock().await;
        self.prepare_clone(upstream, wanted).await?;
        let places = self.clone_places()?;
        self.copy_and_swap(upstream, wanted, &places, progress)
            .await
    }

    /// Nothing runs here that would write into the same place, and the source is the right database.
    pub(super) async fn prepare_clone(
        &self,
        upstream: &Upstream,
        wanted: Option<CopyOf>,
    ) -> Result<(), Error> {
        self.require_stopped().await?;
        // One that an earlier daemon started would write into the same place.
        self.cancel_tools().await?;
        self.write_config(&self.inputs())?; // the passfile must be there
        if let Some(wanted) = wanted {
            self.require_database(upstream, wanted.database).await?;
        }
        Ok(())
    }

    /// The directories that a clone replaces, as they are linked now.
    pub(super) fn clone_places(&self) -> Result<Places, Error> {
        let wal = self.options().wal_dir.as_deref();
        Ok(Places {
            tablespaces: self.tablespace_places()?,
            data: self.data_place()?,
            wal: wal.map(|dir| self.place(dir)).transpose()?,
        })
    }

    pub(super) async fn copy_and_swap(
        &self,
        upstream: &Upstream,
        wanted: Option<CopyOf>,
        places: &Places,
        progress: watch::Sender<Progress>,
    ) -> Result<(), Error> {
        for place in places.all() {
            remove_tree(&place.clone)?;
            durable_file::make_directory(&place.clone, self.owner())?;
        }
        let Places {
            data,
            wal,
            tablespaces,
        } = places;
        let arguments = self.basebackup_arguments(upstream, data, wal.as_ref(), tablespaces);
        self.copy(arguments, &data.clone, progress).await?;
        self.verify(&data.clone).await?;
        if let Some(wanted) = wanted {
            self.require_timeline(&data.clone, wanted.timeline).await?;
        }
        self.set_marker(Marker::Swap, "")?;
        self.swap_in(data, wal.as_ref(), tablespaces)?;
        self.put_standby_signal()?;
        self.remove_placeholders()?;
        self.clear_marker(Marker::Swap)?;
        self.clear_marker(Marker::Rewind)?;
        self.clear_marker(Marker::Initdb)
    }

    /// A source that was granted another epoch in the meantime has WAL that the caller does not know of.
    async fn require_timeline(&self, copy: &Path, wanted: TimelineId) -> Result<(), Error> {
        let found = self.control_data_in(copy).await?.checkpoint_timeline;
        if found == wanted {
            return Ok(());
        }
        Err(Error::CopyOfAnotherTimeline { found, wanted })
    }

    /// Asks the source which database system it is, the way pg_basebackup will come in.
    async fn require_database(&self, upstream: &Upstream, wanted: u64) -> Result<(), Error> {
        let login = format!(
            "{} replication=true",
            conninfo::basebackup(self.options(), upstream)
        );
        let arguments = ["-X", "-A", "-t", "-w", "-c", "IDENTIFY_SYSTEM", &login];
        let output = self
            .read_tool("psql", &arguments.map(str::to_owned))
            .await?;
        if !output.success {
            let why = tool::tail(&output.stderr);
            return Err(Error::SourceUnreachable { why });
        }
        let first = output.stdout.split('|').next().unwrap_or_default();
        match first.trim().parse() {
            Ok(found) if found == wanted => Ok(()),
            Ok(found) => Err(Error::WrongDatabase { found, wanted }),
            Err(_) => {
                let why = format!("it says no system identifier: {}", output.stdout.trim());
                Err(Error::SourceUnreachable { why })
            }
        }
    }

    /// Ends the tools that run for us; a clone or rewind under way then fails.
    pub async fn cancel_tools(&self) -> Result<(), Error> {
        Ok(self.supervisor().kill_tools().await?)
    }

    fn basebackup_arguments(
        &self,
        upstream: &Upstream,
        data: &Place,
        wal: Option<&Place>,
        tablespaces: &[Place],
    ) -> Vec<String> {
        let mut args = vec![
            format!(
                "--dbname={}",
                conninfo::basebackup(self.options(), upstream)
            ),
            format!("--pgdata={}", data.clone.display()),
            "--wal-method=stream".to_owned(),
            "--checkpoint=fast".to_owned(),
            "--no-password".to_owned(),
            "--progress".to_owned(),
            "--verbose".to_owned(),
        ];
        if let Some(wal) = wal {
            args.push(format!("--waldir={}", wal.clone.display()));
        }
        if let Some(rate) = self.options().clone_rate_kb {
            args.push(format!("--max-rate={rate}"));
        }
        let map = &self.options().tablespace_map;
        let mut mapped: Vec<(PathBuf, PathBuf)> = tablespaces
            .iter()
            .map(|place| {
                let theirs = map.iter().find(|(_, ours)| *ours == place.current);
                let theirs = theirs.map_or(&place.current, |(theirs, _)| theirs);
                (theirs.clone(), place.clone.clone())
            })
            .collect();
        for (theirs, ours) in map {
            if !mapped.iter().any(|(known, _)| known == theirs) {
                mapped.push((theirs.clone(), ours.clone()));
            }
        }
        for (theirs, ours) in mapped {
            let escape = |path: &Path| path.display().to_string().replace('=', "\\=");
            args.push(format!(
                "--tablespace-mapping={}={}",
                escape(&theirs),
                escape(&ours)
            ));
        }
        args
    }

    /// Runs pg_basebackup and tells how far it is; stops it when the volume cannot hold the copy.
    pub(super) async fn copy(
        &self,
        arguments: Vec<String>,
        place: &Path,
        progress: watch::Sender<Progress>,
    ) -> Result<(), Error> {
        let output = self.state_path("pg_basebackup.log");
        let run = self.run_tool("pg_basebackup", arguments, None);
        tokio::pin!(run);
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        let mut room_checked = false;
        loop {
            tokio::select! {
                ended = &mut run => {
                    let said = durable_file::read(&output).ok().flatten().unwrap_or_default();
                    let now = last_progress(&said).unwrap_or(*progress.borrow());
                    if ended.is_err() && said.contains(NO_SPACE) {
                        remove_tree(place)?;
                        let needs = now.total_bytes.unwrap_or(now.done_bytes);
                        let has = free_bytes(place.parent().unwrap_or(place));
                        return Err(Error::NoRoom { needs_bytes: needs, has_bytes: has });
                    }
                    ended.map_err(unreachable_source)?;
                    let done = now.total_bytes.unwrap_or(now.done_bytes).max(now.done_bytes);
                    progress.send_replace(Progress { done_bytes: done, total_bytes: now.total_bytes });
                    return Ok(());
                }
                _ = tick.tick() => {
                    let said = durable_file::read(&output).ok().flatten().unwrap_or_default();
                    let Some(now) = last_progress(&said) else { continue };
                    progress.send_replace(now);
                    let needs = now.total_bytes.unwrap_or(0).saturating_sub(now.done_bytes);
                    if !room_checked && now.total_bytes.is_some() {
                        room_checked = true;
                        let has = free_bytes(place);
                        if needs > has {
                            self.cancel_tools().await?;
                            // The tool must be gone before its files are removed.
                            let _ = (&mut run).await;
                            remove_tree(place)?;
                            return Err(Error::NoRoom { needs_bytes: needs, has_bytes: has });
                        }
                    }
                }
            }
        }
    }

    async fn verify(&self, clone: &Path) -> Result<(), Error> {
        let arguments = vec!["--exit-on-error".to_owned(), clone.display().to_string()];
        match self.run_tool("pg_verifybackup", arguments, None).await {
            Ok(_) => Ok(()),
            Err(Error::ToolFailed { said, .. }) => Err(Error::BadCopy { why: said }),
            Err(error) => Err(error),
        }
    }
}

/// A tool that could not even connect has changed nothing.
fn unreachable_source(error: Error) -> Error {
    match error {
        Error::ToolFailed { said, .. } if said.contains("connection to server") => {
            Error::SourceUnreachable { why: said }
        }
        other => other,
    }
}

/// The last `done/total kB` that pg_basebackup printed.
fn last_progress(said: &str) -> Option<Progress> {
    let line = said
        .rsplit(['\r', '\n'])
        .find(|line| line.contains(" kB ("))?;
    let (done, rest) = line.trim().split_once('/')?;
    let total = rest.split_whitespace().next()?;
    Some(Progress {
        done_bytes: done.parse::<u64>().ok()? * 1024,
        total_bytes: total.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024),
    })
}

/// What an ordinary user may still write on the volume of `path`.
pub fn free_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |volume| volume.f_bavail * volume.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_what_the_tool_prints() {
        let said = "pg_basebackup: initiating base backup\n 0/31046 kB (0%), 0/1 tablespace\n  \
                    23188/31046 kB (74%), 0/1 tablespace\n";
        let progress = last_progress(said).expect("there is a line");
        assert_eq!(progress.done_bytes, 23188 * 1024);
        assert_eq!(progress.total_bytes, Some(31046 * 1024));
        assert_eq!(last_progress("nothing"), None);
    }
}
