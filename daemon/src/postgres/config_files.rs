//! The files PostgreSQL is started with. They lie outside PGDATA and belong to the daemon.
//!
//! What never changes while a server runs goes on the command line, which ALTER SYSTEM cannot
//! override; the rest is a generated `postgresql.conf`. The surprise: `postgresql.auto.conf` stays
//! in PGDATA and is read after our file, so managed keys are scrubbed from it before every start.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cluster_core::model::parameters;

use super::conninfo::{self, quote_setting};
use super::control_data::{ControlData, recovery_default};
use super::held_replay::APPLY_DELAY;
use super::options::ConfigInputs;
use super::{Error, Postgres, durable_file, version};

/// The passfile's name in the state directory.
pub const PASSFILE: &str = "passfile";
const CONFIG: &str = "postgresql.conf";
pub(super) const HBA: &str = "pg_hba.conf";
const IDENT: &str = "pg_ident.conf";
const INPUTS: &str = "config-inputs.json";
/// Included by the postgresql.conf that our initdb leaves in PGDATA.
pub(super) const FOREIGN_START: &str = "clusterd-foreign-start.conf";
/// Our defaults where PostgreSQL's would make a cluster slow to notice or slow to follow; users may
/// set these. Source: hazards section 8; X22 for the status interval.
const DEFAULTS: &[(&str, &str)] = &[
    ("max_replication_slots", "16"),
    ("max_slot_wal_keep_size", "4GB"),
    ("max_wal_senders", "16"),
    ("password_encryption", "scram-sha-256"),
    ("wal_keep_size", "256MB"),
    ("wal_level", "replica"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_receiver_timeout", "5s"),
    ("wal_retrieve_retry_interval", "200ms"),
    ("wal_sender_timeout", "5s"),
];

/// Parameters that must not go below what a cluster needs.
const FLOORS: &[(&str, u32)] = &[("max_wal_senders", 8), ("max_replication_slots", 8)];

impl Postgres {
    /// A path in our own directory.
    pub(super) fn state_path(&self, name: &str) -> std::path::PathBuf {
        self.options().state_dir.join(name)
    }

    /// Writes every configuration file from `inputs` and remembers them. Does not reload.
    ///
    /// Not durable, because every start writes them anew; what must survive a power cut is the
    /// promise outside PGDATA, and no hand-over waits for a disk here.
    pub fn write_config(&self, inputs: &ConfigInputs) -> Result<(), Error> {
        let problems = self.refuse_managed(inputs);
        if !problems.is_empty() {
            return Err(Error::Parameters { problems });
        }
        let owner = self.owner();
        let options = self.options();
        durable_file::make_directory(&options.state_dir, owner)?;
        durable_file::make_directory(&options.socket_dir, owner)?;
        let passfile = conninfo::passfile(options);
        durable_file::replace(
            &self.state_path(PASSFILE),
            passfile.as_bytes(),
            0o600,
            owner,
        )?;
        durable_file::replace(
            &self.state_path(IDENT),
            self.ident().as_bytes(),
            0o600,
            owner,
        )?;
        durable_file::replace(
            &self.state_path(HBA),
            self.hba(inputs).as_bytes(),
            0o600,
            owner,
        )?;
        let config = self.config_text(inputs);
        durable_file::replace(&self.state_path(CONFIG), config.as_bytes(), 0o600, owner)?;
        let json = serde_json::to_vec_pretty(inputs).map_err(|error| Error::File {
            verb: "write",
            path: self.state_path(INPUTS),
            source: error.into(),
        })?;
        durable_file::replace(&self.state_path(INPUTS), &json, 0o600, owner)?;
        self.remember_inputs(inputs.clone());
        Ok(())
    }

    /// The inputs of the files as an earlier daemon wrote them.
    pub(super) fn read_inputs(&self) -> Option<ConfigInputs> {
        let text = durable_file::read(&self.state_path(INPUTS))
            .ok()
            .flatten()?;
        serde_json::from_str(&text).ok()
    }

    /// The postmaster's arguments.
    pub(super) fn server_arguments(&self, control: &ControlData) -> Vec<String> {
        let options = self.options();
        let mut args = vec!["-D".to_owned(), options.data_dir.display().to_string()];
        for (name, value) in self.fixed_parameters(control) {
            args.push("-c".to_owned());
            args.push(format!("{name}={value}"));
        }
        args
    }

    /// Parameters that never change while a server runs.
    fn fixed_parameters(&self, control: &ControlData) -> Vec<(String, String)> {
        let options = self.options();
        let path = |name: &str| self.state_path(name).display().to_string();
        let mut fixed: Vec<(String, String)> = [
            ("config_file", path(CONFIG)),
            ("hba_file", path(HBA)),
            ("ident_file", path(IDENT)),
            ("listen_addresses", options.listen_addresses.join(",")),
            ("port", options.port.to_string()),
            (
                "unix_socket_directories",
                options.socket_dir.display().to_string(),
            ),
            ("cluster_name", options.member.to_string()),
            ("logging_collector", "off".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("restart_after_crash", "off".to_owned()),
            ("hot_standby", "on".to_owned()),
            ("wal_log_hints", "on".to_owned()),
            ("data_sync_retry", "off".to_owned()),
            ("fsync", "on".to_owned()),
            ("full_page_writes", "on".to_owned()),
            ("archive_mode", "on".to_owned()),
            ("update_process_title", "on".to_owned()),
            ("recovery_target_timeline", "latest".to_owned()),
            ("recovery_target", String::new()),
            ("recovery_target_lsn", String::new()),
            ("recovery_target_name", String::new()),
            ("recovery_target_time", String::new()),
            ("recovery_target_xid", String::new()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if self.major().has_allow_alter_system() {
            fixed.push(("allow_alter_system".to_owned(), "off".to_owned()));
        }
        // Recovery refuses values below the primary's (hazards X23): run with the larger one; the
        // lower value takes effect through `lower_parameters`.
        let wanted = self.user_parameters(&self.inputs());
        for (name, recorded) in &control.recovery_parameters {
            let asked = match wanted.get(*name) {
                Some(value) => value.parse::<u32>().ok(),
                // What was raised once and is not set any more is lowered to its default.
                None => Some(recovery_default(name)),
            };
            if asked.is_some_and(|asked| asked < *recorded) {
                fixed.push(((*name).to_owned(), recorded.to_string()));
            }
        }
        fixed
    }

    /// What a start by somebody else needs so that it ends as a read-only server rather than in an
    /// error (hazards C8): the values that recovery insists on, beside PGDATA's own postgresql.conf.
    pub(super) fn write_foreign_start(&self, control: &ControlData) -> Result<(), Error> {
        let mut text = String::from(
            "# Written by clusterd at every start. clusterd itself does not use this file: it is for\n\
             # a start by hand, which yields a read-only server.\n",
        );
        let wanted = self.user_parameters(&self.inputs());
        for (name, recorded) in &control.recovery_parameters {
            let asked = wanted
                .get(*name)
                .and_then(|value| value.parse().ok())
                .unwrap_or(0);
            let _ = writeln!(text, "{name} = {}", asked.max(*recorded));
        }
        let path = self.data_path(FOREIGN_START);
        if durable_file::read(&path)?.as_deref() == Some(&text) {
            return Ok(());
        }
        durable_file::write(&path, text.as_bytes(), 0o600, self.owner())
    }

    /// Defaults, imported ones, the cluster's, those of the member's config file and those set for it at
    /// run time, the later over the earlier.
    pub(super) fn wanted_parameters(&self, inputs: &ConfigInputs) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = DEFAULTS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        if self.major().has_client_connection_check() {
            all.insert(
                "client_connection_check_interval".to_owned(),
                "1s".to_owned(),
            );
        }
        if self.options().archive_command.is_some() {
            // What was written since the last segment is not in the archive.
            all.insert("archive_timeout".to_owned(), "60s".to_owned());
        }
        // After a crash the server makes every file durable before it reads WAL: with one call for the
        // volume, or file by file, which takes seconds where there are thousands.
        let release = rustix::system::uname();
        if self.major().has_recovery_init_sync_method()
            && version::syncfs_reports_errors(&release.release().to_string_lossy())
        {
            all.insert("recovery_init_sync_method".to_owned(), "syncfs".to_owned());
        }
        let imported = self.imported().parameters;
        let own = &self.options().parameters;
        let cluster = &inputs.parameters;
        let set = &inputs.member_parameters;
        for (name, value) in imported.iter().chain(cluster).chain(own).chain(set) {
            let name = name.to_ascii_lowercase();
            // Ours stay ours, even if a later release manages more than the one that imported.
            if parameters::managed(&name).is_none() {
                all.insert(name, value.clone());
            }
        }
        for (name, floor) in FLOORS {
            if let Some(value) = all.get_mut(*name)
                && value.parse::<u32>().is_ok_and(|asked| asked < *floor)
            {
                *value = floor.to_string();
            }
        }
        all
    }

    fn config_text(&self, inputs: &ConfigInputs) -> String {
        let mut text = String::from(
            "# Written by clusterd from its applied state; edits are lost.\n\
             # Parameters of users are set with clusterctl or in the member's config file.\n",
        );
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name} = {}", quote_setting(value));
        };
        for (name, value) in self.user_parameters(inputs) {
            line(&name, &value);
        }
        if inputs.replays_at_once {
            line(APPLY_DELAY, "0");
        }
        let conninfo = inputs
            .upstream
            .as_ref()
            .map(|up| conninfo::streaming(self.options(), up));
        let slot = inputs.upstream.as_ref().and_then(|up| up.slot.clone());
        line("primary_conninfo", &conninfo.unwrap_or_default());
        line("primary_slot_name", &slot.unwrap_or_default());
        line(
            "restore_command",
            inputs.restore_command.as_deref().unwrap_or_default(),
        );
        // archive_mode cannot change without a restart, so an idle archiver is a command that fails
        // nothing and stores nothing: an empty one keeps segments, which only an archive may free.
        line(
            "archive_command",
            inputs
                .archive_command
                .as_deref()
                .or(self.options().archive_command.as_deref())
                .unwrap_or("/bin/true"),
        );
        line("synchronous_standby_names", &inputs.sync_names);
        // Read back from the server: which rule this process was given, whatever became of the daemon.
        line("clusterd.rule", &inputs.rule.to_string());
        line("lc_messages", "C");
        text
    }

    /// Removes managed keys from `postgresql.auto.conf`; returns what was there.
    pub(super) fn scrub_auto_conf(&self) -> Result<Vec<String>, Error> {
        self.scrub_lines(is_managed_line)
    }

    /// Removes one key from `postgresql.auto.conf`; whether it was there.
    pub(super) fn scrub_from_auto_conf(&self, name: &str) -> Result<bool, Error> {
        let removed = self.scrub_lines(|line| key_of(line).as_deref() == Some(name))?;
        Ok(!removed.is_empty())
    }

    fn scrub_lines(&self, is_foreign: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let path = self.data_path("postgresql.auto.conf");
        let Some(text) = durable_file::read(&path)? else {
            return Ok(Vec::new());
        };
        let (kept, removed): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| !is_foreign(line));
        if !removed.is_empty() {
            let mut content = kept.join("\n");
            content.push('\n');
            durable_file::write(&path, content.as_bytes(), 0o600, self.owner())?;
        }
        // Values may hold secrets (a conninfo with a password): only names are told.
        Ok(removed.iter().filter_map(|line| key_of(line)).collect())
    }

    /// Problems of parameters that are ours or are no parameters at all.
    pub(super) fn refuse_managed(&self, inputs: &ConfigInputs) -> Vec<String> {
        let own = self.options().parameters.iter();
        own.chain(&inputs.parameters)
            .chain(&inputs.member_parameters)
            .filter_map(|(name, value)| {
                let text = parameters::problem(name, value)?;
                Some(format!("{name}: {text}"))
            })
            .collect()
    }
}

fn key_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let key: String = line
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "_.".contains(*c))
        .collect();
    (!key.is_empty()).then(|| key.to_ascii_lowercase())
}

fn is_managed_line(line: &str) -> bool {
    key_of(line)
        .is_some_and(|key| parameters::managed(&key).is_some() || key.starts_with("include"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_lines_are_found_whatever_their_form() {
        for line in [
            "fsync=off",
            "  Primary_Conninfo = 'x'",
            "include 'more.conf'",
            "port 1",
        ] {
            assert!(is_managed_line(line), "{line}");
        }
        for line in ["work_mem = '1MB'", "# fsync = off", "", "my.fsync = 1"] {
            assert!(!is_managed_line(line), "{line}");
        }
    }
}
