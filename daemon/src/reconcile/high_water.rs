//! How far this standby is known to have come, kept outside PGDATA: a directory that was put back to
//! an older state under it (a snapshot, a copy) is noticed by what it lacks, and is another life [A14].
//!
//! Written every other second and only forwards, so it lags; what it misses is as if it were not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster_core::model::{Incarnation, Lsn, PostgresStatus};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::interval;

use super::durable::DurableRecord;

/// Its name in the state directory.
const FILE: &str = "high-water.json";
/// How often it is moved along. A write of a few bytes; an idle cluster moves by one commit a second.
const EVERY: Duration = Duration::from_secs(2);

/// One life of the data directory and how far that has replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    incarnation: Incarnation,
    replayed: Lsn,
}

/// The mark. Clones are the same.
#[derive(Clone)]
pub struct HighWater {
    path: PathBuf,
    kept: Arc<Mutex<Option<Mark>>>,
}

impl HighWater {
    /// Reads what an earlier daemon kept; one that cannot be read is as if there were none.
    pub fn open(state_dir: &Path) -> HighWater {
        let path = state_dir.join(FILE);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let kept = serde_json::from_str(&text).ok();
        if kept.is_none() && !text.is_empty() {
            tracing::warn!(path = %path.display(), "is damaged and not used");
        }
        HighWater {
            path,
            kept: Arc::new(Mutex::new(kept)),
        }
    }

    /// How far this life of the data directory is known to have replayed.
    pub fn of(&self, incarnation: Option<Incarnation>) -> Option<Lsn> {
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.filter(|mark| Some(mark.incarnation) == incarnation)
            .map(|mark| mark.replayed)
    }

    /// Moves the mark along while this member is a standby; ends with the runtime.
    pub async fn keep(self, durable: DurableRecord, mut seen: watch::Receiver<PostgresStatus>) {
        let mut tick = interval(EVERY);
        loop {
            tick.tick().await;
            let replayed = match &*seen.borrow_and_update() {
                PostgresStatus::Standby(standby) => standby.replayed,
                _ => continue,
            };
            let Some(incarnation) = durable.get().incarnation else {
                continue;
            };
            if self
                .of(Some(incarnation))
                .is_none_or(|kept| kept < replayed)
            {
                self.write(Mark {
                    incarnation,
                    replayed,
                })
                .await;
            }
        }
    }

    async fn write(&self, mark: Mark) {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || replace(&path, &mark)).await;
        match written {
            Ok(Ok(())) => {
                *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
            }
            Ok(Err(error)) => tracing::debug!(%error, "the high-water mark was not written"),
            Err(error) => tracing::debug!(%error, "the high-water mark was not written"),
        }
    }
}

/// The old mark or the new one; the older one only proves less.
fn replace(path: &Path, mark: &Mark) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(mark)?)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mark_is_of_one_life_of_the_directory_and_outlives_the_daemon() {
        let place = std::env::temp_dir().join(format!("high-water-{}", std::process::id()));
        fs::create_dir_all(&place).expect("a directory");
        let mark = Mark {
            incarnation: Incarnation(7),
            replayed: Lsn(0x500),
        };
        HighWater::open(&place).write(mark).await;
        let again = HighWater::open(&place);
        assert_eq!(again.of(Some(Incarnation(7))), Some(Lsn(0x500)));
        assert_eq!(again.of(Some(Incarnation(8))), None);
        assert_eq!(again.of(None), None);
        fs::write(place.join(FILE), "{").expect("a write");
        assert_eq!(HighWater::open(&place).of(Some(Incarnation(7))), None);
        fs::remove_dir_all(&place).expect("removed");
    }
}
