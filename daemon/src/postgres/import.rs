//! What a take-over brought along: parameters, lines of hba and ident of the old server.
//!
//! The surprise: the file lies *in* the data directory. Clones and rewinds carry it to the other
//! members, so that whoever is promoted later has the same parameters and lets the same clients in.
//! Until the first start under clusterd it waits in the state directory, because nothing in the old
//! directory changes while the old server runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Error, Postgres, durable_file};

/// The file's name, in both places.
const FILE: &str = "clusterd-imported.json";

/// Parameters and access rules of a server that was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Imported {
    /// Parameters, under the ones of config file and settings.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`, below those of the config file.
    pub hba: Vec<String>,
    /// Lines of `pg_ident.conf`.
    pub ident: Vec<String>,
}

impl Postgres {
    /// Keeps an import for the next start.
    ///
    /// # Errors
    /// It could not be written.
    pub fn keep_import(&self, imported: &Imported) -> Result<(), Error> {
        let path = self.state_path(FILE);
        let json = serde_json::to_vec_pretty(imported).map_err(|error| Error::File {
            verb: "write",
            path: path.clone(),
            source: error.into(),
        })?;
        durable_file::write(&path, &json, 0o600, self.owner())
    }

    /// Forgets an import that was kept and not used yet.
    ///
    /// # Errors
    /// It could not be removed.
    pub fn drop_kept_import(&self) -> Result<(), Error> {
        durable_file::remove(&self.state_path(FILE))
    }

    /// Puts a kept import into the data directory; the caller is about to start the server.
    pub(super) fn place_import(&self) -> Result<(), Error> {
        let kept = self.state_path(FILE);
        if let Some(text) = durable_file::read(&kept)? {
            durable_file::write(&self.data_path(FILE), text.as_bytes(), 0o600, self.owner())?;
            durable_file::remove(&kept)?;
        }
        Ok(())
    }

    /// What was imported, if this database was taken over. A file that cannot be read is told and
    /// counts as none: it must not keep a server from starting.
    pub(super) fn imported(&self) -> Imported {
        let path = self.data_path(FILE);
        let text = match durable_file::read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return Imported::default(),
            Err(error) => {
                tracing::warn!(%error, "the imported parameters cannot be read");
                return Imported::default();
            }
        };
        serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the imported parameters are damaged");
            Imported::default()
        })
    }
}
