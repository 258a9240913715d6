//! The cluster's repository as a user sees it: is everything in it, and what does a copy restored from
//! it hold.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::member::give_to_postgres;
use crate::wait::wait_until;
use crate::{Cluster, PATIENCE};

/// A copy that runs for itself where the clients live.
#[derive(Debug)]
pub struct Restored<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
}

impl Cluster {
    /// Restores a copy and starts it; `name` is its folder's.
    ///
    /// # Errors
    /// The restore failed, with what it said and what is in the archive.
    pub fn restore(&self, name: &str, target: &[&str]) -> Result<Restored<'_>> {
        let home = self.folder.join("restored");
        if !home.exists() {
            std::fs::create_dir(&home)?;
            give_to_postgres(&home)?;
        }
        let folder = home.join(name);
        let mut command = self.clients.command_as_postgres(&self.backup_program());
        command.arg("restore").arg("--repository");
        command.arg(self.repository()).arg("--into").arg(&folder);
        command.arg("--start").arg("--bin-dir");
        command.arg(&self.members[0].bin).args(target);
        Host::run(command).with_context(|| format!("in the archive: {:?}", self.archived()))?;
        Ok(Restored {
            cluster: self,
            folder,
        })
    }

    /// Everything written so far is in the repository: PostgreSQL hands over the oldest first.
    ///
    /// # Errors
    /// It does not get there.
    pub fn wait_archived(&self) -> Result<()> {
        let one = |sql: &str| {
            let primary = self.wait_primary(PATIENCE)?;
            let answer = self.sql(primary, sql)?;
            answer.into_iter().next().context("one row")
        };
        let segment = one("SELECT pg_walfile_name(pg_switch_wal())")?;
        wait_until("the segment in the repository", PATIENCE, || {
            let newest = one("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")
                .map_err(|error| error.to_string())?;
            match newest >= segment {
                true => Ok(()),
                false => Err(format!("{newest}, not {segment}")),
            }
        })
    }

    /// Names of everything in the archive, for a message.
    pub fn archived(&self) -> Vec<String> {
        let mut listing = std::process::Command::new("find");
        listing.arg(self.repository());
        listing.args(["-path", "*/wal/*", "-type", "d", "-printf", "%f\\n"]);
        let found = Host::run(listing).unwrap_or_default();
        let names = found.lines().filter(|name| name.len() > 8);
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    }
}

impl Restored<'_> {
    /// The lines of what the copy answers.
    ///
    /// # Errors
    /// It refused.
    pub fn sql(&self, sql: &str) -> Result<Vec<String>> {
        let mut command = self.command("psql");
        command.args(["-X", "-A", "-t", "-c", sql]);
        command.arg(format!("host={} dbname=postgres", self.folder.display()));
        Ok(Host::run(command)?.lines().map(str::to_owned).collect())
    }

    /// Stops it and removes it.
    ///
    /// # Errors
    /// It does not stop.
    pub fn remove(self) -> Result<()> {
        let mut stop = self.command("pg_ctl");
        stop.arg("-D").arg(&self.folder);
        stop.args(["-m", "immediate", "stop"]);
        Host::run(stop)?;
        std::fs::remove_dir_all(&self.folder).context("remove the copy")
    }

    fn command(&self, program: &str) -> std::process::Command {
        let program = self.cluster.members[0].bin.join(program);
        self.cluster.clients.command_as_postgres(&program)
    }
}
