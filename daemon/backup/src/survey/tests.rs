//! Holes, and what only looks like one.

use cluster_core::model::Epoch;
use cluster_core::model::timeline::HistoryLine;

use super::*;
use crate::lineage::Segment;
use crate::wal;

const MIB: u64 = 1 << 20;
const DATABASE: u64 = 7;

fn size() -> SegmentSize {
    SegmentSize::new(MIB).expect("a size")
}

fn name(timeline: u32, number: u64) -> WalName {
    let timeline = TimelineId(timeline);
    WalName::parse(&size().name(Segment { timeline, number })).expect("a name")
}

fn backup(timeline: u32, number: u64) -> Manifest {
    Manifest {
        format: 0,
        id: format!("b{number}"),
        database: DATABASE,
        major: 15,
        member: "m1".parse().expect("a name"),
        epoch: Epoch(1),
        timeline: TimelineId(timeline),
        start: Lsn(number * MIB + 40),
        end: Lsn(number * MIB + 400),
        began_unix_ms: 0,
        ended_unix_ms: i64::try_from(number).expect("small") * 1000,
        key: None,
        files: Vec::new(),
    }
}

/// Segments 1 to 29 of timeline 1, then 30 to 49 of timeline 3 that left it within 30; backups at 5, 20 and 35.
fn held() -> Held {
    let mut archive = Archive::default();
    let all = (1..30).map(|it| (1, it)).chain((30..50).map(|it| (3, it)));
    for (timeline, number) in all {
        let name = name(timeline, number);
        let object = format!("{}/00000001-aaaaaaaaaaaaaaaa.zst", name.folder(DATABASE));
        archive.objects.insert(name, vec![object]);
    }
    let line = HistoryLine {
        parent: TimelineId(1),
        end: Lsn(30 * MIB + 8),
    };
    archive.histories.insert(TimelineId(3), vec![line]);
    Held {
        backups: vec![backup(3, 35), backup(1, 5), backup(1, 20)],
        pinned: BTreeSet::new(),
        archive,
        size: Some(size()),
    }
}

fn first(found: &Survey) -> Option<&str> {
    found.first.as_ref().map(|it| it.backup.as_str())
}

#[test]
fn without_a_hole_every_moment_since_the_oldest_backup_can_be_restored() {
    let (found, missing) = judge(&held(), Some(&name(3, 49)));
    assert!(found.is_good() && missing.is_empty(), "{found:?}");
    assert_eq!((found.backups, found.segments), (3, 45));
    let first = found.first.expect("one");
    assert_eq!((first.backup.as_str(), first.at_unix_ms), ("b5", 5000));
    assert_eq!(first.lsn, Lsn(5 * MIB + 400));
    assert_eq!(found.last, Some(Lsn(50 * MIB)));
}

#[test]
fn a_hole_is_told_by_name_and_what_lies_behind_it_counts_from_the_next_backup() {
    let mut held = held();
    for number in [22, 23] {
        held.archive.objects.remove(&name(1, number));
    }
    let (found, missing) = judge(&held, None);
    assert_eq!(missing, [name(1, 22), name(1, 23)]);
    assert_eq!((found.missing, found.names.len()), (2, 2));
    assert_eq!(found.names[0], "000000010000000000000016");
    assert_eq!(first(&found), Some("b35"));
    assert_eq!(found.last, Some(Lsn(50 * MIB)));
    // One of a standby begins before the hole, and brings what it needs of it.
    if let Some(newest) = held.backups.first_mut() {
        newest.start = Lsn(21 * MIB);
    }
    let (found, _) = judge(&held, None);
    assert_eq!(
        (first(&found), found.last),
        (Some("b35"), Some(Lsn(50 * MIB)))
    );
    // Behind the newest backup: nothing is sure to lead to the end.
    held.archive.objects.remove(&name(3, 36));
    let (found, _) = judge(&held, None);
    assert_eq!((found.missing, found.first, found.last), (3, None, None));
}

#[test]
fn what_is_under_way_is_no_hole_and_what_the_server_was_told_of_is_one() {
    let mut held = held();
    for number in [45, 49] {
        held.archive.objects.remove(&name(3, number));
    }
    let (found, _) = judge(&held, None);
    assert!(found.is_good(), "{found:?}");
    let (found, missing) = judge(&held, Some(&name(3, 44)));
    assert!(found.is_good() && missing.is_empty(), "{found:?}");
    let (_, missing) = judge(&held, Some(&name(3, 47)));
    assert_eq!(missing, [name(3, 45)]);
    // Its end is gone, too.
    let (_, missing) = judge(&held, Some(&name(3, 50)));
    assert_eq!(missing, [name(3, 45), name(3, 49), name(3, 50)]);
    // Of a branch that was left: it says nothing about the main line.
    let (found, _) = judge(&held, Some(&name(1, 48)));
    assert!(found.is_good(), "{found:?}");
    // A segment that is archived once more by a new primary says nothing about the newest.
    let (found, _) = judge(&held, Some(&name(1, 12)));
    assert!(found.is_good(), "{found:?}");
}

#[test]
fn what_was_pruned_behind_a_pinned_backup_is_no_hole() {
    let mut held = held();
    held.pinned.insert("b5".to_owned());
    for number in 8..20 {
        held.archive.objects.remove(&name(1, number));
    }
    let (found, _) = judge(&held, None);
    assert!(found.is_good(), "{found:?}");
    assert_eq!(first(&found), Some("b20"));
    held.pinned.clear();
    assert_eq!(judge(&held, None).0.missing, 12);
}

#[test]
fn a_timeline_of_which_nothing_arrived_is_told() {
    let (found, _) = judge(&held(), Some(&name(4, 49)));
    assert!(found.problems[0].contains("timeline 4"), "{found:?}");
    let mut held = held();
    held.backups.truncate(0);
    let (found, _) = judge(&held, None);
    assert!(found.is_good() && found.first.is_none(), "{found:?}");
    held.backups = vec![backup(2, 40)];
    let (found, _) = judge(&held, None);
    assert!(
        found.problems.iter().any(|it| it.contains("leads to")),
        "{found:?}"
    );
}

async fn push(repository: &Repository, place: &std::path::Path, number: u64) {
    let mut content = vec![0; 1 << 20];
    content[2] = 2;
    content[8..16].copy_from_slice(&(number * MIB).to_le_bytes());
    content[24..32].copy_from_slice(&DATABASE.to_le_bytes());
    content[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    let path = place.join("segment");
    std::fs::write(&path, content).expect("written");
    let name = name(1, number);
    let pushed = wal::push(repository, DATABASE, Epoch(1), &name, &path).await;
    pushed.expect("pushed");
}

#[tokio::test]
async fn a_repository_with_a_lost_segment_is_told_and_a_segment_that_is_listed_later_is_there() {
    let place = tempfile::tempdir().expect("a directory");
    let at = place.path().join("repository").display().to_string();
    let repository = Repository::open(&at).expect("opens");
    let folder = place.path().join("copied");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("base.tar"), "a copy").expect("written");
    let files = ["base.tar".to_owned()];
    let stored = manifest::store(&repository, backup(1, 2), &folder, &files).await;
    stored.expect("stored");
    for number in 1..8 {
        push(&repository, place.path(), number).await;
    }
    let asked = name(1, 7);
    let found = look(&repository, DATABASE, Some(&asked)).await;
    let found = found.expect("looked");
    assert!(found.is_good(), "{found:?}");
    assert_eq!((found.segments, first(&found)), (6, Some("b2")));

    let lost = wal::find(&repository, DATABASE, &name(1, 4)).await;
    let lost = lost.expect("listed").expect("there");
    repository.delete(&lost).await.expect("deleted");
    let found = look(&repository, DATABASE, Some(&asked)).await;
    let found = found.expect("looked");
    assert_eq!(found.names, [name(1, 4).as_str()]);
    assert!(found.first.is_none() && !found.is_good());

    // What a listing did not show is asked for by its name.
    push(&repository, place.path(), 4).await;
    let mut archive = Archive::default();
    let again = ask_again(&repository, DATABASE, &[name(1, 4)], &mut archive).await;
    assert!(again.expect("asked"));
    assert!(archive.objects.contains_key(&name(1, 4)));
}
