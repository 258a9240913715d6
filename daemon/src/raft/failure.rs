//! The end of a store: after one failed write nothing may be written or answered again, because
//! nobody knows what is on disk [F6]. The process must stop.

use std::sync::{Arc, Mutex, PoisonError};

/// Told once, with a sentence for the operator; must end the process.
pub type OnFailure = Arc<dyn Fn(&str) + Send + Sync>;

/// Whether, and why, this member must take no further part in Raft.
#[derive(Clone)]
pub struct Failure {
    why: Arc<Mutex<Option<String>>>,
    on_failure: OnFailure,
}

impl Failure {
    /// Nothing has failed yet.
    pub fn new(on_failure: OnFailure) -> Failure {
        Failure {
            why: Arc::default(),
            on_failure,
        }
    }

    /// Marks the end, once; later calls change nothing.
    pub fn fail(&self, why: &str) {
        {
            let mut slot = self.why.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_some() {
                return;
            }
            *slot = Some(why.to_owned());
        }
        tracing::error!(reason = why, "this member takes no further part in Raft");
        (self.on_failure)(why);
    }

    /// Why, if it has failed.
    pub fn why(&self) -> Option<String> {
        self.why
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failure")
            .field("why", &self.why())
            .finish_non_exhaustive()
    }
}
