//! `[backup]`.

use std::path::Path;

use cluster_backup::{Options, Recipient};

use super::super::BackupConfig;
use super::super::file::BackupTable;
use super::Check;

impl Check<'_> {
    pub(super) fn backup(&mut self, table: &BackupTable) -> BackupConfig {
        let place = &table.repository;
        if !place.contains("://") {
            self.absolute("backup.repository", Path::new(place));
        }
        if let Some(path) = table
            .credentials
            .as_ref()
            .filter(|path| !path.is_absolute())
        {
            let text = format!("`{}` is relative (an absolute path)", path.display());
            self.problem("backup.credentials", text);
        } else if place.starts_with('/') || place.contains("://") {
            let found = cluster_backup::problems(place, table.credentials.as_deref());
            let found = found.into_iter().map(|problem| format!("backup.{problem}"));
            self.problems.extend(found);
        }
        let mut recipients = Vec::new();
        for text in &table.recipients {
            match text.parse::<Recipient>() {
                Ok(recipient) => recipients.push(recipient),
                Err(why) => self.problem("backup.recipients", why),
            }
        }
        let max_rate = table.max_rate.as_deref();
        let max_rate = max_rate.map(|text| self.bytes("backup.max_rate", text));
        if let Some(binary) = &table.binary {
            self.readable("backup.binary", binary);
        }
        let beside = || {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name("clusterd-backup")
        };
        for (key, file) in [
            ("backup.read_credentials", &table.read_credentials),
            ("backup.prune_credentials", &table.prune_credentials),
            ("backup.identity", &table.identity),
        ] {
            if let Some(file) = file {
                self.private(key, file);
            }
        }
        let audit_interval = self.duration("backup.audit_interval", &table.audit_interval);
        BackupConfig {
            audit_interval,
            read_credentials: table.read_credentials.clone(),
            prune_credentials: table.prune_credentials.clone(),
            identity: table.identity.clone(),
            repository: place.clone(),
            options: Options {
                credentials: table.credentials.clone(),
                recipients,
                identity: None,
                max_rate: max_rate.filter(|rate| *rate > 0),
            },
            binary: table.binary.clone().unwrap_or_else(beside),
        }
    }
}
