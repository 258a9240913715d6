//! Whether a rewound directory has become consistent.
//!
//! pg_rewind leaves a copy that is not consistent before it has replayed up to where its source was.
//! The surprise: PostgreSQL's control file does not say it for long. When a base backup once began
//! at the checkpoint from which a rewound server replays, the end of *that* backup in WAL takes the
//! label's place in the control file, and what must still be replayed is told from nothing on disk.
//! So a note of our own lies outside PGDATA from the rewind until the server first lets in a session,
//! which it does only when it is consistent.

use std::fs;
use std::io;
use std::sync::atomic::Ordering;

use cluster_core::model::Epoch;

use super::control_data::ControlData;
use super::{Error, Postgres, durable_file};

/// The note's name in the state directory.
const NOTE: &str = "rewound";

/// What says of a directory that it was rewound, and how far recovery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewound {
    /// Never started since.
    Unread,
    /// Started, by us, and never answered since.
    Unanswered,
    /// Started; the control file says whether it became consistent. Of a rewind that was not ours.
    Read,
}

impl Rewound {
    /// Whether it is not consistent yet.
    pub fn is_unfinished(self, control: &ControlData) -> bool {
        match self {
            Rewound::Unread | Rewound::Unanswered => true,
            Rewound::Read => control.backup_end_required,
        }
    }
}

impl Postgres {
    /// What pg_rewind's label says, if the directory has one. The newest label counts: a copy brings
    /// its source's old one along.
    pub(super) fn rewound(&self) -> Option<Rewound> {
        let newest = [
            ("backup_label", Rewound::Unread),
            ("backup_label.old", Rewound::Read),
        ];
        let found = newest.into_iter().find_map(|(name, label)| {
            let text = fs::read_to_string(self.data_path(name)).ok()?;
            Some((text, label))
        });
        let (text, label) = found?;
        if !text.contains("BACKUP METHOD: pg_rewind") {
            return None;
        }
        if label == Rewound::Read && self.has_rewind_note() {
            return Some(Rewound::Unanswered);
        }
        Some(label)
    }

    /// When the directory was rewound and is not consistent yet: for which primary.
    pub(super) async fn rewound_for(&self) -> Option<Epoch> {
        let is_unfinished = match self.on_disk(Postgres::rewound).await.ok()?? {
            Rewound::Read => self.control_data().await.ok()?.backup_end_required,
            Rewound::Unread | Rewound::Unanswered => true,
        };
        let upstream = self.inputs().upstream;
        is_unfinished.then(|| upstream.map_or(Epoch::NONE, |upstream| upstream.epoch))
    }

    /// After a rewind, before the directory may be started.
    pub(super) fn note_rewind(&self, source: &str) -> Result<(), Error> {
        let path = self.state_path(NOTE);
        durable_file::write(&path, source.as_bytes(), 0o600, self.owner())?;
        self.inner.is_rewound.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether a rewound server has not let in a session yet.
    pub(super) fn has_rewind_note(&self) -> bool {
        self.inner.is_rewound.load(Ordering::Acquire)
    }

    /// The server has let in a session.
    pub(super) fn forget_rewind(&self) -> Result<(), Error> {
        durable_file::remove(&self.state_path(NOTE))?;
        self.inner.is_rewound.store(false, Ordering::Release);
        Ok(())
    }

    /// What an earlier daemon noted.
    pub(super) fn read_rewind_note(&self) {
        // Anything but a clear "not there" counts as there.
        let is_gone = matches!(
            self.state_path(NOTE).symlink_metadata(),
            Err(error) if error.kind() == io::ErrorKind::NotFound
        );
        self.inner.is_rewound.store(!is_gone, Ordering::Release);
    }
}
