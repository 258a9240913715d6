//! The proof that both ends know the cluster's secret, and the memory of how far each peer's store
//! had come.
//!
//! It keeps strangers and other clusters out [F17]; it is no replacement for TLS, because the body
//! of a message is not covered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::mark::StoreMark;

pub use crate::secret::{Call, ClusterSecret, PROOF_KEY, SECRET_LEAST};

/// The furthest this process has seen the store of each peer.
#[derive(Debug, Default)]
pub struct SeenMarks {
    by_node: Mutex<BTreeMap<u64, StoreMark>>,
}

impl SeenMarks {
    /// The furthest the store of `node` was seen.
    pub fn of(&self, node: u64) -> StoreMark {
        let seen = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&node).copied().unwrap_or_default()
    }

    /// `node` showed `mark`.
    pub fn note(&self, node: u64, mark: StoreMark) {
        let mut seen = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.entry(node).or_default();
        if mark.is_later_than(*known) {
            *known = mark;
        }
    }
}
