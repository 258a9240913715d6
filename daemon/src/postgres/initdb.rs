//! Makes a first database directory.
//!
//! The result is complete only when `standby.signal` is in it and the marker is gone: whatever
//! interrupts this leaves a directory that is never started. The password of the superuser goes
//! through a file of mode 0600, never through arguments.

use std::time::Duration;

use super::data_dir::{DataDirKind, Marker};
use super::{Error, Postgres, durable_file};

/// initdb on a slow disk.
const LIMIT: Duration = Duration::from_secs(300);

impl Postgres {
    /// Makes a database directory in an empty place; returns its system identifier.
    pub async fn initdb(&self) -> Result<u64, Error> {
        let _turn = self.inner.change.lock().await;
        self.require_stopped().await?;
        let problems = self.refuse_managed(&Default::default());
        if !problems.is_empty() {
            return Err(Error::Parameters { problems });
        }
        if self.data_dir_kind().await? != DataDirKind::Empty && !self.has_marker(Marker::Initdb) {
            return Err(Error::NotEmpty);
        }
        self.cancel_tools().await?;
        self.set_marker(Marker::Initdb, "")?;
        self.empty_for_initdb()?;
        let password_file = self.state_path("initdb-password");
        let args = self.initdb_arguments(&password_file)?;
        let made = self.run_tool("initdb", args, Some(LIMIT)).await;
        durable_file::remove(&password_file)?;
        made?;
        self.include_foreign_start()?;
        self.record_parameters().await?;
        self.put_standby_signal()?;
        durable_file::sync_directory(&self.options().data_dir).map_err(|source| Error::File {
            verb: "make durable",
            path: self.options().data_dir.clone(),
            source,
        })?;
        let control = self.control_data().await?;
        self.clear_marker(Marker::Initdb)?;
        Ok(control.system_identifier)
    }

    /// An earlier initdb of ours may have been interrupted; nothing of anybody else is removed,
    /// because the marker was set only over an empty directory.
    fn empty_for_initdb(&self) -> Result<(), Error> {
        let options = self.options();
        for directory in [Some(&options.data_dir), options.wal_dir.as_ref()]
            .into_iter()
            .flatten()
        {
            super::swap::empty_directory(directory)?;
            durable_file::make_directory(directory, self.owner())?;
        }
        Ok(())
    }

    /// See `write_foreign_start`.
    fn include_foreign_start(&self) -> Result<(), Error> {
        let path = self.data_path("postgresql.conf");
        let mut text = durable_file::read(&path)?.unwrap_or_default();
        text += &format!(
            "include_if_exists = '{}'\n",
            super::config_files::FOREIGN_START
        );
        durable_file::write(&path, text.as_bytes(), 0o600, self.owner())
    }

    fn initdb_arguments(&self, password_file: &std::path::Path) -> Result<Vec<String>, Error> {
        let options = self.options();
        let mut args = vec![
            format!("--pgdata={}", options.data_dir.display()),
            format!("--username={}", options.superuser),
            format!("--wal-segsize={}", options.wal_segment_mb),
            format!("--locale={}", options.locale),
            format!("--encoding={}", options.encoding),
            "--data-checksums".to_owned(),
            // These lines are in PGDATA's own pg_hba.conf, which we never use; they are strict all
            // the same, for whoever starts this directory by hand.
            "--auth-local=peer".to_owned(),
            "--auth-host=scram-sha-256".to_owned(),
        ];
        if let Some(wal_dir) = &options.wal_dir {
            args.push(format!("--waldir={}", wal_dir.display()));
        }
        if let Some(password) = &options.superuser_password {
            let line = format!("{}\n", password.expose());
            durable_file::write(password_file, line.as_bytes(), 0o600, self.owner())?;
            args.push(format!("--pwfile={}", password_file.display()));
        }
        Ok(args)
    }

    /// Where a user wants less than initdb recorded (say `max_connections = 50`), recovery would
    /// refuse to start: one single-user run records the lower values. Nobody has ever used this
    /// directory, so this is part of making it.
    async fn record_parameters(&self) -> Result<(), Error> {
        let control = self.control_data().await?;
        let wanted = self.user_parameters(&self.inputs());
        let lower = control.recovery_parameters.iter().any(|(name, recorded)| {
            wanted
                .get(*name)
                .and_then(|value| value.parse::<u32>().ok())
                .is_some_and(|asked| asked < *recorded)
        });
        if lower {
            self.run_single_user(&wanted).await
        } else {
            Ok(())
        }
    }

    /// One run of `postgres --single` without input: recovers if need be, records parameters, stops.
    pub(super) async fn run_single_user(
        &self,
        parameters: &std::collections::BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let mut args = vec!["--single".to_owned()];
        args.push("-D".to_owned());
        args.push(self.options().data_dir.display().to_string());
        for (name, _) in super::control_data::RECOVERY_PARAMETERS {
            if let Some(value) = parameters.get(name) {
                args.push("-c".to_owned());
                args.push(format!("{name}={value}"));
            }
        }
        for (name, value) in [
            ("archive_mode", "off"),
            ("wal_level", "replica"),
            ("wal_log_hints", "on"),
        ] {
            args.push("-c".to_owned());
            args.push(format!("{name}={value}"));
        }
        args.push("template1".to_owned());
        self.run_tool("postgres", args, Some(LIMIT))
            .await
            .map(|_| ())
    }

    /// Records lowered values of the parameters that recovery refuses to lower (DESIGN 5.1, L1).
    ///
    /// The caller holds a valid grant, and this directory was the previous epoch's primary: on any
    /// other one this would make a second history of its timeline. The guard starts nothing without
    /// the signal, but a single-user run refuses a directory with it, so it is taken away for the
    /// run, under a marker.
    pub async fn lower_parameters(&self) -> Result<(), Error> {
        let _turn = self.inner.change.lock().await;
        self.require_stopped().await?;
        if let Some(marker) = self.any_marker() {
            return Err(Error::Unfinished { marker });
        }
        let control = self.control_data().await?;
        if control.state != "shut down" {
            let why = format!("it ended as `{}`, not cleanly as a primary", control.state);
            return Err(Error::Unusable { why });
        }
        durable_file::remove(&self.data_path(super::data_dir::STANDBY_SIGNAL))?;
        let wanted = self.user_parameters(&self.inputs());
        let ran = self.run_single_user(&wanted).await;
        self.put_standby_signal()?;
        ran
    }
}
