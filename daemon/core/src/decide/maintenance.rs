//! Rule: maintenance that has come to its end is over, so that nobody has to think of it.

use crate::change::Command;
use crate::model::view::ClusterView;

use super::cluster::{Verdict, propose};
use super::reason::Reason;

/// The first whose time is up.
pub fn over(view: &ClusterView) -> Verdict {
    let Some(now) = view.wall_unix_ms else {
        return Verdict::Pass;
    };
    let mut all = view.state.maintenance.iter();
    match all.find(|(_, it)| it.until_unix_ms <= now) {
        Some((member, _)) => propose(
            Command::EndMaintenance {
                member: member.clone(),
                by: "its time is up".to_owned(),
            },
            Reason::MaintenanceOver(member.clone()),
        ),
        None => Verdict::Pass,
    }
}
