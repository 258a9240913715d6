//! What a member keeps durably outside PGDATA: incarnation, promise, used epoch, marker.
//!
//! One small JSON file, replaced atomically and synced with its directory before anybody is told
//! [F13 H9]. A damaged file is an error with a way out, never a default.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cluster_core::model::view::Durable;

/// Its name in the state directory; the guard looks at it, too.
pub const FILE: &str = "member.json";

/// Why the record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system said no.
    #[error("could not {verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// Not what this daemon wrote.
    #[error(
        "{path} is damaged ({why}); its promises are lost, so this member must come back empty: \
         move {path} and the Raft directory aside and run `clusterctl members replace`"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The record and its copy in memory. Clones are the same.
#[derive(Clone)]
pub struct DurableRecord {
    path: PathBuf,
    kept: Arc<Mutex<Durable>>,
}

impl DurableRecord {
    /// Reads the record of this member; a missing file is a member that has promised nothing.
    ///
    /// # Errors
    /// It cannot be read or is damaged.
    pub fn open(state_dir: &Path) -> Result<DurableRecord, Error> {
        let path = state_dir.join(FILE);
        let kept = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| Error::Damaged {
                path: path.clone(),
                why: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Durable::default(),
            Err(source) => {
                return Err(Error::File {
                    verb: "read",
                    path,
                    source,
                });
            }
        };
        Ok(DurableRecord {
            path,
            kept: Arc::new(Mutex::new(kept)),
        })
    }

    /// As it is on disk.
    pub fn get(&self) -> Durable {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes the record; on disk when this returns. Promise and used epoch never go back.
    ///
    /// # Errors
    /// The record on disk is the old one or the new one, the one in memory the old.
    pub async fn change(
        &self,
        change: impl FnOnce(&mut Durable) + Send + 'static,
    ) -> Result<Durable, Error> {
        let record = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut kept = record.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let mut new = kept.clone();
            change(&mut new);
            new.min_epoch = new.min_epoch.max(kept.min_epoch);
            new.used = new.used.max(kept.used);
            if new != *kept {
                write(&record.path, &new)?;
                *kept = new.clone();
            }
            Ok(new)
        });
        written.await.unwrap_or_else(|error| {
            let source = io::Error::other(error.to_string());
            Err(Error::File {
                verb: "write",
                path: self.path.clone(),
                source,
            })
        })
    }
}

fn write(path: &Path, record: &Durable) -> Result<(), Error> {
    let fail = |verb, source| Error::File {
        verb,
        path: path.to_owned(),
        source,
    };
    let text = serde_json::to_string_pretty(record)
        .map_err(|error| fail("encode", io::Error::other(error)))?;
    let new = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(|source| fail("create", source))?;
    file.write_all(text.as_bytes())
        .map_err(|source| fail("write", source))?;
    file.sync_all().map_err(|source| fail("sync", source))?;
    fs::rename(&new, path).map_err(|source| fail("replace", source))?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| fail("sync the directory of", source))
}

#[cfg(test)]
mod tests {
    use cluster_core::model::{Epoch, Incarnation};

    use super::*;

    #[tokio::test]
    async fn a_promise_survives_and_never_goes_back() {
        let place = tempfile::tempdir().expect("a directory");
        let record = DurableRecord::open(place.path()).expect("empty");
        let incarnation = Some(Incarnation(7));
        record
            .change(move |durable| {
                durable.min_epoch = Epoch(4);
                durable.incarnation = incarnation;
            })
            .await
            .expect("written");
        let again = DurableRecord::open(place.path()).expect("readable");
        assert_eq!(again.get().min_epoch, Epoch(4));
        assert_eq!(again.get().incarnation, incarnation);
        let after = again
            .change(|durable| durable.min_epoch = Epoch(2))
            .await
            .expect("written");
        assert_eq!(after.min_epoch, Epoch(4));
    }

    #[test]
    fn a_damaged_record_is_refused_with_its_name_and_the_way_out() {
        let place = tempfile::tempdir().expect("a directory");
        fs::write(place.path().join("member.json"), "{\"min_epoch\":").expect("written");
        let error = DurableRecord::open(place.path())
            .err()
            .expect("refused")
            .to_string();
        assert!(
            error.contains("member.json") && error.contains("members replace"),
            "{error}"
        );
    }
}
