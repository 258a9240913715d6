//! The repository, opened when it is first needed: one that is away when the daemon starts is no reason
//! not to start.

use std::sync::{Mutex, PoisonError};

use cluster_backup::{Options, Repository};

use crate::telemetry;

/// A place, and the repository once it could be opened.
#[derive(Debug)]
pub struct Shelf {
    place: String,
    options: Options,
    opened: Mutex<Option<Repository>>,
}

impl Shelf {
    /// Opens nothing yet.
    pub fn new(place: String, options: Options) -> Shelf {
        Shelf {
            place,
            options,
            opened: Mutex::default(),
        }
    }

    /// As it was given.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The repository; tried again after a failure.
    ///
    /// # Errors
    /// In words: it cannot be opened.
    pub async fn repository(&self) -> Result<Repository, String> {
        let known = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(repository) = known().clone() {
            return Ok(repository);
        }
        let (place, options) = (self.place.clone(), self.options.clone());
        let opened = tokio::task::spawn_blocking(move || Repository::open_with(&place, options));
        let opened = opened.await;
        let opened = opened
            .map_err(|error| error.to_string())?
            .map_err(|error| telemetry::chain(&error))?;
        *known() = Some(opened.clone());
        Ok(opened)
    }
}
