//! Processes that stand still and come back, believing no time has passed.

use anyhow::Result;
use cluster_tests::Member;

use super::Fault;

/// Stops.
pub fn begin(fault: Fault, member: &Member) -> Result<()> {
    match fault {
        Fault::FreezeHost => member.host.freeze(),
        _ => member.stop_daemon(),
    }
}

/// Lets go on.
pub fn end(fault: Fault, member: &Member) -> Result<()> {
    match fault {
        Fault::FreezeHost => member.host.thaw(),
        _ => member.continue_daemon(),
    }
}
