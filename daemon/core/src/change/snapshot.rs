//! Commands about snapshots: one at a time, void when another epoch began, and what a cluster that was
//! restored from one takes over.

use std::collections::BTreeMap;

use crate::model::snapshot::{
    FILES_KEPT, MemberPart, Origin, SNAPSHOTS_REMEMBERED, Snapshot, SnapshotFile, SnapshotId, Stage,
};
use crate::model::{ClusterState, MemberKind, MemberName, Settings};

use super::apply::{Applied, At, changed, note};
use super::command::{Rejected, SnapshotWish};

/// One begins; who takes it is named.
pub(super) fn begin(
    state: &mut ClusterState,
    at: At,
    id: &SnapshotId,
    wish: &SnapshotWish,
) -> Result<Applied, Rejected> {
    let SnapshotWish {
        taker,
        recipients,
        by,
    } = wish;
    if let Some(known) = state.snapshots.get(id) {
        return match known.taker == *taker && known.recipients == *recipients {
            true => Ok(Applied::Unchanged),
            false => Err(Rejected::Refused(format!("snapshot {id} was another one"))),
        };
    }
    let open = state.snapshots.iter().find(|(_, it)| it.is_open());
    if let Some((open, snapshot)) = open {
        return Err(Rejected::Refused(format!(
            "snapshot {open} is being taken by {}: one at a time",
            snapshot.taker
        )));
    }
    let member = state
        .members
        .get(taker)
        .ok_or_else(|| Rejected::UnknownMember(taker.clone()))?;
    if member.kind == MemberKind::Witness {
        return Err(Rejected::Refused(format!(
            "{taker} is a witness: it has no PostgreSQL"
        )));
    }
    if state.granted().is_none_or(|reign| reign.fork.is_none()) {
        return Err(Rejected::WrongMoment(
            "there is no primary: what a snapshot would hold is not settled".to_owned(),
        ));
    }
    let snapshot = Snapshot {
        by: by.clone(),
        at_unix_ms: at.unix_ms,
        index: at.index,
        taker: taker.clone(),
        epoch: state.epoch(),
        recipients: recipients.clone(),
        asked: state.members.keys().cloned().collect(),
        parts: BTreeMap::new(),
        stage: Stage::Processing,
    };
    state.snapshots.insert(id.clone(), snapshot);
    forget(state);
    note(state, at, "snapshot", Some(taker), format!("{id}, by {by}"));
    Ok(Applied::Changed)
}

/// The oldest go; an open one stays, and there is one at most.
fn forget(state: &mut ClusterState) {
    while state.snapshots.len() > SNAPSHOTS_REMEMBERED {
        let ended = state.snapshots.iter().filter(|(_, it)| !it.is_open());
        let oldest = ended.min_by_key(|(_, it)| it.index);
        match oldest.map(|(id, _)| id.clone()) {
            Some(id) => state.snapshots.remove(&id),
            None => break,
        };
    }
}

fn open<'a>(state: &'a mut ClusterState, id: &SnapshotId) -> Result<&'a mut Snapshot, Rejected> {
    match state.snapshots.get_mut(id) {
        Some(snapshot) if snapshot.is_open() => Ok(snapshot),
        Some(snapshot) => Err(Rejected::Refused(format!(
            "snapshot {id} is {} already",
            snapshot.status().0.word()
        ))),
        None => Err(Rejected::Refused(format!("there is no snapshot {id}"))),
    }
}

/// A member adds how it is.
pub(super) fn describe(
    state: &mut ClusterState,
    id: &SnapshotId,
    member: &MemberName,
    part: &MemberPart,
) -> Result<Applied, Rejected> {
    let snapshot = open(state, id)?;
    if !snapshot.asked.contains(member) {
        return Err(Rejected::UnknownMember(member.clone()));
    }
    let before = snapshot.parts.insert(member.clone(), part.clone());
    Ok(changed(before.as_ref() != Some(part)))
}

/// Its file is there. An older file of the same member beyond those kept is given up by this, and only by
/// this: the newer one is proven.
pub(super) fn complete(
    state: &mut ClusterState,
    at: At,
    id: &SnapshotId,
    member: &MemberName,
    file: &SnapshotFile,
) -> Result<Applied, Rejected> {
    let epoch = state.epoch();
    if let Some(known) = state.snapshots.get(id)
        && known.file() == Some(file)
    {
        return Ok(Applied::Unchanged);
    }
    let snapshot = open(state, id)?;
    if snapshot.taker != *member {
        return Err(Rejected::Refused(format!(
            "{} takes snapshot {id}, not {member}",
            snapshot.taker
        )));
    }
    if snapshot.epoch != epoch {
        // A copy that was made across a failover is of two histories [hazards K10].
        return Err(Rejected::WrongEpoch {
            given: snapshot.epoch,
            due: epoch,
        });
    }
    if !snapshot.parts.contains_key(&snapshot.taker) {
        return Err(Rejected::Refused(format!(
            "{} has not added its part of snapshot {id}",
            snapshot.taker
        )));
    }
    snapshot.stage = Stage::Completed(file.clone());
    let taker = snapshot.taker.clone();
    let mut kept: Vec<&mut Snapshot> = state
        .snapshots
        .values_mut()
        .filter(|it| it.taker == taker && it.file().is_some())
        .collect();
    kept.sort_by_key(|it| std::cmp::Reverse(it.index));
    for old in kept.into_iter().skip(FILES_KEPT) {
        old.stage = Stage::Gone {
            why: format!("{taker} keeps the files of its newest {FILES_KEPT} snapshots"),
        };
    }
    let text = format!("{id}, {} bytes", file.bytes);
    note(state, at, "snapshot-completed", Some(&taker), text);
    Ok(Applied::Changed)
}

/// It is given up. Said by a member that has not seen its completion yet, it changes nothing.
pub(super) fn fail(
    state: &mut ClusterState,
    at: At,
    id: &SnapshotId,
    why: &str,
) -> Result<Applied, Rejected> {
    let snapshot = open(state, id)?;
    snapshot.stage = Stage::Failed {
        why: why.to_owned(),
    };
    let taker = snapshot.taker.clone();
    let text = format!("{id}: {why}");
    note(state, at, "snapshot-failed", Some(&taker), text);
    Ok(Applied::Changed)
}

/// Its file is gone.
pub(super) fn lose(
    state: &mut ClusterState,
    at: At,
    id: &SnapshotId,
    why: &str,
) -> Result<Applied, Rejected> {
    let found = state.snapshots.get_mut(id);
    let Some(snapshot) = found.filter(|snapshot| snapshot.file().is_some()) else {
        return Err(Rejected::Refused(format!("snapshot {id} has no file")));
    };
    snapshot.stage = Stage::Gone {
        why: why.to_owned(),
    };
    let taker = snapshot.taker.clone();
    let text = format!("{id}: {why}");
    note(state, at, "snapshot-missing", Some(&taker), text);
    Ok(Applied::Changed)
}

/// The data that `member` brings is of a snapshot: its settings come back, as far as they fit the members
/// there are now, and where it came from is kept. Before the data becomes the cluster's, and never after.
pub(super) fn restored(
    state: &mut ClusterState,
    at: At,
    member: &MemberName,
    origin: &Origin,
    settings: &Settings,
) -> Result<Applied, Rejected> {
    if state.origin.as_ref() == Some(origin) {
        return Ok(Applied::Unchanged);
    }
    if state.system_identifier.is_some() || state.origin.is_some() || state.reign.is_some() {
        return Err(Rejected::WrongMoment(
            "the cluster has data already".to_owned(),
        ));
    }
    if state.initializer.as_ref() != Some(member) {
        return Err(Rejected::WrongMoment(format!(
            "{member} was not told to bring the data"
        )));
    }
    let mut next = settings.clone();
    next.zones
        .retain(|name, _| state.members.contains_key(name));
    next.members
        .retain(|name, _| state.databases().any(|(known, _)| known == name));
    let problems = next.problems_among(&state.kinds());
    let told = match problems.as_slice() {
        [] => {
            if next.preset != state.settings.preset {
                state.previous_lease = Some(state.longest_lease());
            }
            state.settings = next;
            "its settings are in force".to_owned()
        }
        problems => format!(
            "its settings do not fit and stay as configured: {}",
            problems.join("; ")
        ),
    };
    state.origin = Some(origin.clone());
    let text = format!(
        "from snapshot {} of cluster {}; {told}",
        origin.snapshot, origin.cluster
    );
    note(state, at, "restored", Some(member), text);
    Ok(Applied::Changed)
}
