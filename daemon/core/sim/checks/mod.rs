//! The properties, one file each; all of hazards section 7 that the core can be held to here.

pub mod acknowledged;
pub mod liveness;
pub mod one_primary;
pub mod requests;
pub mod seals;
pub mod starts;
pub mod take_over;

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::model::{Epoch, Incarnation, Lsn, RequestId, TimelineId};

/// What the checks remember of a run.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// The highest target each incarnation reported a seal for, and where it stood.
    pub sealed: BTreeMap<(usize, Incarnation), Epoch>,
    /// Epochs in which PostgreSQL left recovery.
    pub promoted: BTreeSet<Epoch>,
    pub released: BTreeSet<Epoch>,
    /// Requests that were accepted.
    pub accepted: BTreeSet<RequestId>,
    /// Primaries that were activated, oldest first.
    pub primaries: Vec<(Epoch, usize)>,
    /// What each epoch acknowledged: the end on its timeline.
    pub told: BTreeMap<Epoch, (TimelineId, Lsn)>,
    /// The newest epoch that was granted by force.
    pub accepted_loss: Option<Epoch>,
    pub faults: u32,
}

impl Watch {
    pub fn new(_count: usize) -> Watch {
        Watch::default()
    }
}
