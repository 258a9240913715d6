//! Whom a promotion waits for: what the history last said of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Epoch, MemberName};

/// Members that may have an acknowledged write, and are not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingTold {
    /// The epoch that has ended.
    pub epoch: Epoch,
    /// Who, all that were told of since then.
    pub members: BTreeSet<MemberName>,
}
