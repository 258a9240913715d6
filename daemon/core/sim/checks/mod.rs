//! The properties, one file each; all of hazards section 7 that the core can be held to here.

pub mod acknowledged;
pub mod liveness;
pub mod one_primary;
pub mod requests;
pub mod seals;
pub mod starts;
pub mod take_over;

use std::collections::{BTreeMap, BTreeSet};

use cluster_core::model::{Epoch, Incarnation, Lsn, RequestId, RuleId, TimelineId};

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
    /// Epochs that were granted by force, or where nobody was promised anything.
    pub accepted_loss: BTreeSet<Epoch>,
    /// In `strict`: the fewest that had to confirm when a rule was made.
    pub least: BTreeMap<RuleId, u32>,
    pub faults: u32,
    /// How often the acknowledged end of an epoch grew.
    pub acknowledgements: u64,
    pub jumps: u32,
}

impl Watch {
    pub fn new(_count: usize) -> Watch {
        Watch::default()
    }
}
