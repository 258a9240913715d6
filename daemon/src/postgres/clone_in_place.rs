//! A copy in the place of the old one, which is removed first. Whether that may be is decided elsewhere.
//!
//! The surprise: the marker is set before anything is removed, so whatever interrupts this leaves a
//! directory that is never started, and a clone into it that then fits.

use std::path::Path;

use tokio::sync::watch;

use super::basebackup::{CopyOf, free_bytes};
use super::data_dir::{Marker, bytes_under};
use super::options::{Progress, Upstream};
use super::swap::{Place, empty_directory};
use super::{Error, Postgres};

impl Postgres {
    /// Fails unless a copy of this size fits once the old one is removed.
    ///
    /// # Errors
    /// [`Error::NoRoom`], with what would be free then.
    pub fn require_room_in_place(&self, needs_bytes: u64) -> Result<(), Error> {
        let places = self.clone_places()?;
        let own: u64 = places.all().map(bytes_of).sum();
        let has_bytes = free_bytes(&self.options().data_dir).saturating_add(own);
        if needs_bytes > has_bytes {
            return Err(Error::NoRoom {
                needs_bytes,
                has_bytes,
            });
        }
        Ok(())
    }

    /// Removes what is here, and what earlier clones have replaced, then clones as ever. The source has
    /// answered as the right database before.
    ///
    /// # Errors
    /// As for a clone; what was here is gone then.
    pub async fn clone_in_place(
        &self,
        upstream: &Upstream,
        wanted: Option<CopyOf>,
        progress: watch::Sender<Progress>,
    ) -> Result<(), Error> {
        let _turn = self.inner.change.lock().await;
        self.prepare_clone(upstream, wanted).await?;
        let places = self.clone_places()?;
        self.set_marker(Marker::Swap, "")?;
        for place in places.all() {
            for old in place.olds() {
                super::swap::remove_tree(&old)?;
            }
            empty_directory(&place.current)?;
        }
        self.copy_and_swap(upstream, wanted, &places, progress)
            .await
    }
}

/// Bytes that are free once a place is emptied.
fn bytes_of(place: &Place) -> u64 {
    let beside = place.olds().into_iter();
    let beside = beside.filter(|old| !old.starts_with(&place.current));
    let beside: u64 = beside.map(|old| bytes_under(&old)).sum();
    bytes_under(Path::new(&place.current)) + beside
}
