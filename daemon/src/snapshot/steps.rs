//! What this member does next about snapshots. Pure: the truth and the folder in, one step out.

use std::collections::BTreeMap;

use cluster_core::model::snapshot::Snapshot;
use cluster_core::model::{ClusterState, MemberName, SnapshotId};

/// What is looked at. The truth is current.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Own name.
    pub me: &'a MemberName,
    /// The truth.
    pub state: &'a ClusterState,
    /// The snapshot that this process takes now.
    pub running: Option<&'a SnapshotId>,
    /// What lies in the folder: names and sizes.
    pub files: &'a BTreeMap<String, u64>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add this member's part.
    Describe(SnapshotId),
    /// Take it.
    Take(SnapshotId),
    /// Give it up; why.
    Fail(SnapshotId, String),
    /// Its file is gone; how.
    Lose(SnapshotId, String),
    /// A file or folder that nothing needs.
    Remove(String),
}

/// A file that says that taking has begun.
pub fn begun(id: &SnapshotId) -> String {
    format!("{id}.begun")
}

/// The file of a complete snapshot.
pub fn file(id: &SnapshotId) -> String {
    format!("{id}.tar")
}

/// The folder of a copy until it is packed. Of its own: what an earlier daemon started may still write into
/// another one.
pub fn spool(id: &SnapshotId) -> String {
    format!("{id}.spool")
}

/// The next step; none: all is as it should be.
pub fn next(seen: &Seen<'_>) -> Option<Step> {
    let open = seen.state.snapshots.iter().find(|(_, it)| it.is_open());
    let open_step = open.and_then(|(id, snapshot)| open_step(seen, id, snapshot));
    open_step.or_else(|| lost(seen)).or_else(|| left_over(seen))
}

fn open_step(seen: &Seen<'_>, id: &SnapshotId, snapshot: &Snapshot) -> Option<Step> {
    if snapshot.asked.contains(seen.me) && !snapshot.parts.contains_key(seen.me) {
        return Some(Step::Describe(id.clone()));
    }
    if snapshot.taker != *seen.me || seen.running == Some(id) {
        return None;
    }
    Some(match seen.files.contains_key(&begun(id)) {
        true => {
            let why = format!("clusterd of {} ended while it took it", seen.me);
            Step::Fail(id.clone(), why)
        }
        false => Step::Take(id.clone()),
    })
}

/// A file that should be here and is not.
fn lost(seen: &Seen<'_>) -> Option<Step> {
    let own = seen.state.snapshots.iter();
    let mut own = own.filter(|(_, it)| it.taker == *seen.me);
    own.find_map(|(id, snapshot)| {
        let wanted = snapshot.file()?.bytes;
        let why = match seen.files.get(&file(id)) {
            None => format!("its file is gone from {}", seen.me),
            Some(found) if *found != wanted => {
                format!("its file on {} has {found} bytes, not {wanted}", seen.me)
            }
            Some(_) => return None,
        };
        Some(Step::Lose(id.clone(), why))
    })
}

fn left_over(seen: &Seen<'_>) -> Option<Step> {
    let is_needed = |name: &String| {
        let (id, end) = name.split_once('.').unwrap_or((name, ""));
        let Ok(id) = id.parse::<SnapshotId>() else {
            // Not of ours.
            return true;
        };
        if seen.running == Some(&id) {
            return true;
        }
        let Some(snapshot) = seen.state.snapshots.get(&id) else {
            return false;
        };
        let is_own = snapshot.taker == *seen.me;
        is_own && (snapshot.is_open() || end == "tar" && snapshot.file().is_some())
    };
    let mut files = seen.files.keys();
    let name = files.find(|name| !is_needed(name))?;
    Some(Step::Remove(name.clone()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cluster_core::model::snapshot::{MemberPart, SnapshotFile, Stage};
    use cluster_core::model::{Addresses, Epoch, Lsn, MemberKind, NodeId, TimelineId};

    use super::*;

    fn id() -> SnapshotId {
        SnapshotId::from_random(1)
    }

    fn name(text: &str) -> MemberName {
        text.parse().expect("a name")
    }

    fn state(stage: Stage, parts: &[&str]) -> ClusterState {
        let part = MemberPart {
            node: NodeId(1),
            kind: MemberKind::Database,
            incarnation: None,
            postgres: String::new(),
            timeline: None,
            lsn: None,
            version: String::new(),
            server_version: None,
            addresses: Addresses::default(),
            repository: None,
        };
        let snapshot = Snapshot {
            by: String::new(),
            at_unix_ms: 0,
            index: 1,
            taker: name("b"),
            epoch: Epoch(1),
            recipients: Vec::new(),
            asked: BTreeSet::from([name("a"), name("b")]),
            parts: parts.iter().map(|it| (name(it), part.clone())).collect(),
            stage,
        };
        ClusterState {
            snapshots: BTreeMap::from([(id(), snapshot)]),
            ..ClusterState::default()
        }
    }

    fn ask(me: &str, state: &ClusterState, files: &[(String, u64)], runs: bool) -> Option<Step> {
        next(&Seen {
            me: &name(me),
            state,
            running: runs.then(id).as_ref(),
            files: &files.iter().cloned().collect(),
        })
    }

    #[test]
    fn every_member_adds_its_part_and_only_the_taker_takes_it_once() {
        let fresh = state(Stage::Processing, &[]);
        assert_eq!(ask("a", &fresh, &[], false), Some(Step::Describe(id())));
        assert_eq!(ask("b", &fresh, &[], false), Some(Step::Describe(id())));
        assert_eq!(ask("newcomer", &fresh, &[], false), None);
        let told = state(Stage::Processing, &["a", "b"]);
        assert_eq!(ask("a", &told, &[], false), None);
        assert_eq!(ask("b", &told, &[], false), Some(Step::Take(id())));
        let files = [(begun(&id()), 0)];
        assert_eq!(ask("b", &told, &files, true), None);
        let given_up = ask("b", &told, &files, false);
        assert!(matches!(given_up, Some(Step::Fail(..))), "{given_up:?}");
    }

    #[test]
    fn a_file_that_is_gone_is_told_and_one_that_nothing_needs_is_removed() {
        let file_of = |bytes| SnapshotFile {
            bytes,
            sha256: String::new(),
            timeline: TimelineId(1),
            start: Lsn(1),
            end: Lsn(2),
            major: 15,
        };
        let whole = state(Stage::Completed(file_of(7)), &["b"]);
        let there = [(file(&id()), 7)];
        assert_eq!(ask("b", &whole, &there, false), None);
        assert_eq!(ask("a", &whole, &[], false), None, "it is not kept there");
        for files in [vec![], vec![(file(&id()), 6)]] {
            let lost = ask("b", &whole, &files, false);
            assert!(matches!(lost, Some(Step::Lose(..))), "{files:?}: {lost:?}");
        }
        let part = format!("{}.tar.part", id());
        let failed = state(Stage::Failed { why: String::new() }, &["b"]);
        for left in [file(&id()), begun(&id()), spool(&id()), part.clone()] {
            let files = [(left.clone(), 7)];
            let step = ask("b", &failed, &files, false);
            assert_eq!(step, Some(Step::Remove(left.clone())));
            assert_eq!(ask("b", &failed, &files, true), None, "it is being written");
            let nobodys = ask("b", &ClusterState::default(), &files, false);
            assert_eq!(nobodys, Some(Step::Remove(left)));
        }
        let foreign = [("lost+found".to_owned(), 0), ("notes.txt".to_owned(), 7)];
        let step = ask("b", &failed, &foreign, false);
        assert_eq!(step, None, "what is not ours is left alone");
    }
}
