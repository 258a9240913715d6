//! Commands about the maintenance of a member.

use crate::model::{ClusterState, Maintenance, MemberName};

use super::apply::{self, Applied, At, note};
use super::command::{MaintenanceWish, Rejected};

/// It begins, or gets another end.
pub(super) fn begin(
    state: &mut ClusterState,
    at: At,
    wish: &MaintenanceWish,
) -> Result<Applied, Rejected> {
    let MaintenanceWish {
        member,
        until_unix_ms,
        until,
        force,
        by,
    } = wish;
    apply::with_a_server(state, member)?;
    if state.granted().is_some_and(|reign| reign.holder == *member) {
        return Err(Rejected::Refused(format!(
            "{member} is the primary: hand over first (`clusterctl switchover --from {member}`)"
        )));
    }
    if let Some(known) = state.maintenance.get_mut(member) {
        if known.until_unix_ms == *until_unix_ms && known.by == *by {
            return Ok(Applied::Unchanged);
        }
        known.until_unix_ms = *until_unix_ms;
        known.by.clone_from(by);
    } else {
        if let Some(why) = missed(state, member).filter(|_| !force) {
            return Err(Rejected::Refused(format!("{why}; --force does it anyway")));
        }
        state.maintenance.insert(
            member.clone(),
            Maintenance {
                by: by.clone(),
                since_unix_ms: at.unix_ms,
                until_unix_ms: *until_unix_ms,
            },
        );
    }
    let text = format!("until {until}, by {by}");
    note(state, at, "maintenance", Some(member), text);
    Ok(Applied::Changed)
}

/// What the cluster could not do without this member, as its tags and settings say.
fn missed(state: &ClusterState, member: &MemberName) -> Option<String> {
    let holder = state.granted().map(|reign| &reign.holder);
    let others = || {
        let all = state.databases().map(|(name, _)| name);
        all.filter(move |name| *name != member && Some(*name) != holder)
    };
    let mut missed = Vec::new();
    let confirm = others().filter(|it| state.sync_priority(it) > 0).count() as u64;
    let k = u64::from(state.settings.wanted_k());
    if state.sync_priority(member) > 0 && confirm < k {
        missed.push(format!(
            "without {member} {confirm} standbys could confirm commits, of {k} that are wanted"
        ));
    }
    let promotable = |name: &MemberName| state.tags_of(name).priority() > 0;
    if promotable(member) && !others().any(promotable) {
        missed.push(format!(
            "without {member} nobody could take over when the primary is lost"
        ));
    }
    (!missed.is_empty()).then(|| missed.join("; "))
}

/// It ends.
pub(super) fn end(
    state: &mut ClusterState,
    at: At,
    member: &MemberName,
    by: &str,
) -> Result<Applied, Rejected> {
    if !state.members.contains_key(member) {
        return Err(Rejected::UnknownMember(member.clone()));
    }
    if state.maintenance.remove(member).is_none() {
        return Err(Rejected::Refused(format!("{member} is not in maintenance")));
    }
    note(state, at, "maintenance-ended", Some(member), by.to_owned());
    Ok(Applied::Changed)
}
