//! What would take effect with the next start of the server.

use cluster_core::model::member::{Pending, PendingRestart, SERVER_VERSION};

use super::{Error, Postgres, lock, sql, version};

impl Postgres {
    /// Parameters that wait for a start, and a minor version that is installed and does not run.
    pub async fn pending_restart(&self) -> Result<Pending, Error> {
        let session = self.session().await?;
        let limit = self.limits().statement;
        let rows = session.query(limit, sql::PENDING_RESTART, &[]).await?;
        let wanted = self.user_parameters(&self.inputs());
        let mut what: Vec<PendingRestart> = rows
            .iter()
            .map(|row| {
                let name: String = row.get("name");
                let default: Option<String> = row.get("default");
                let to = wanted.get(&name).cloned().or(default).unwrap_or_default();
                PendingRestart {
                    from: row.get("value"),
                    to,
                    name,
                }
            })
            .collect();
        self.note_in_force(|name| what.iter().any(|it| it.name == name))?;
        let row = session.query_one(limit, sql::SERVER_START, &[]).await?;
        let runs: String = row.get("version");
        if let Some(installed) = self.installed_version().await
            && installed != runs
        {
            what.push(PendingRestart {
                name: SERVER_VERSION.to_owned(),
                from: runs,
                to: installed,
            });
        }
        let started: i64 = row.get("started");
        Ok(Pending {
            of_unix_ms: u64::try_from(started).unwrap_or_default(),
            what,
        })
    }

    /// As the installed program says it, in the words of `server_version`. None when it says nothing, as
    /// in the middle of an installation.
    async fn installed_version(&self) -> Option<String> {
        let program = self.program("postgres");
        let changed = tokio::task::spawn_blocking(move || program.metadata()?.modified());
        let changed = changed.await.ok()?.ok()?;
        if let Some((then, version)) = &*lock(&self.inner.installed)
            && *then == changed
        {
            return Some(version.clone());
        }
        let said = self.read_tool("postgres", &["-V".to_owned()]).await.ok()?;
        let version = version::of_program(&said.stdout)?;
        *lock(&self.inner.installed) = Some((changed, version.clone()));
        Some(version)
    }
}
