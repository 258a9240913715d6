//! Pruning a real repository, alone and beside a restore.

use std::path::Path;

use cluster_core::model::{Epoch, Lsn};

use super::*;
use crate::retention;
use crate::wal;

const DATABASE: u64 = 7;
const MIB: u64 = 1 << 20;
const HOUR: i64 = 3_600_000;

/// Two backups, WAL in segments of 1 MiB from 1 to 9, and what a backup that was given up has left.
async fn filled(place: &Path) -> Repository {
    let at = place.join("repository").display().to_string();
    fill(place, Repository::open(&at).expect("opens")).await
}

async fn fill(place: &Path, repository: Repository) -> Repository {
    for (number, age) in [(2, 5), (6, 1)] {
        let folder = place.join(format!("copied-{number}"));
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(folder.join("base.tar"), "a copy").expect("written");
        let facts = Manifest {
            format: 0,
            id: format!("b{number}"),
            database: DATABASE,
            major: 15,
            member: "m1".parse().expect("a name"),
            epoch: Epoch(1),
            timeline: TimelineId(1),
            start: Lsn(number * MIB + 40),
            end: Lsn(number * MIB + 400),
            began_unix_ms: now() - age * HOUR,
            ended_unix_ms: now() - age * HOUR,
            key: None,
            files: Vec::new(),
        };
        let stored = manifest::store(&repository, facts, &folder, &["base.tar".to_owned()]).await;
        stored.expect("stored");
    }
    for number in 1..10_u64 {
        let mut content = vec![0; 1 << 20];
        content[2] = 2;
        content[8..16].copy_from_slice(&(number * MIB).to_le_bytes());
        content[24..32].copy_from_slice(&DATABASE.to_le_bytes());
        content[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        let path = place.join("segment");
        std::fs::write(&path, content).expect("written");
        let name = WalName::parse(&format!("0000000100000000{number:08X}")).expect("a name");
        let pushed = wal::push(&repository, DATABASE, Epoch(1), &name, &path).await;
        pushed.expect("pushed");
    }
    repository
}

fn now() -> i64 {
    holds::now_unix_ms()
}

const POLICY: Policy = Policy {
    window_ms: 0,
    at_least: 1,
};

fn lease(backup: &str) -> Lease {
    Lease {
        id: "restore-1".to_owned(),
        backup: backup.to_owned(),
        what: "restore".to_owned(),
        by: "me".to_owned(),
        expires_unix_ms: now() + HOUR,
    }
}

#[tokio::test]
async fn what_goes_is_recorded_and_deleted_and_the_rest_is_whole() {
    let place = tempfile::tempdir().expect("a directory");
    let repository = filled(place.path()).await;
    let stock = stock(&repository, DATABASE).await.expect("read");
    let plan = retention::plan(&stock, POLICY, now()).expect("a plan");
    assert_eq!((plan.backups.len(), plan.wal.len()), (1, 5));
    let record = record(&stock, &plan, POLICY, "me".to_owned(), now());
    let deleted = perform(&repository, DATABASE, &stock, &plan, record).await;
    // A manifest, its file, five segments.
    assert_eq!(deleted.expect("deleted"), 7);
    let left = manifest::list(&repository).await.expect("listed");
    let left: Vec<&str> = left.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(left, ["b6"]);
    let wal = repository
        .list(&names::wal(DATABASE))
        .await
        .expect("listed");
    assert_eq!(wal.len(), 4);
    let kept = repository.list("7/pruned").await.expect("listed");
    assert_eq!(kept.len(), 1);
    let text = repository
        .get(&kept[0])
        .await
        .expect("read")
        .expect("there");
    let kept: Record = serde_json::from_slice(&text).expect("a record");
    assert_eq!((kept.backups[0].id.as_str(), kept.wal.len()), ("b2", 5));
    // The empty folders that are left in a directory are nothing to prune.
    let stock = super::stock(&repository, DATABASE).await.expect("read");
    let again = retention::plan(&stock, POLICY, now()).expect("a plan");
    assert!(again.is_empty(), "{again:?}");
}

#[tokio::test]
async fn a_restore_that_begins_meanwhile_stops_it_and_keeps_its_backup() {
    let place = tempfile::tempdir().expect("a directory");
    let repository = filled(place.path()).await;
    let stock = stock(&repository, DATABASE).await.expect("read");
    let plan = retention::plan(&stock, POLICY, now()).expect("a plan");
    assert_eq!(plan.backups, ["b2"]);
    holds::take(&repository, &stock.backups[0], &lease("b2"))
        .await
        .expect("taken");
    let before = manifest::list(&repository).await.expect("listed");
    let record = record(&stock, &plan, POLICY, "me".to_owned(), now());
    let refused = perform(&repository, DATABASE, &stock, &plan, record).await;
    let why = refused.expect_err("refused").to_string();
    assert!(why.contains("has begun meanwhile"), "{why}");
    assert_eq!(manifest::list(&repository).await.expect("listed"), before);
    let wal = repository
        .list(&names::wal(DATABASE))
        .await
        .expect("listed");
    assert_eq!(wal.len(), 9);
}

#[tokio::test]
async fn a_lease_on_what_was_just_pruned_is_refused_and_pins_are_set_once() {
    let place = tempfile::tempdir().expect("a directory");
    let repository = filled(place.path()).await;
    let backups = manifest::list(&repository).await.expect("listed");
    let name = names::of_backup(DATABASE, "b2", names::MANIFEST);
    repository.delete(&name).await.expect("deleted");
    let refused = holds::take(&repository, &backups[0], &lease("b2")).await;
    assert!(refused.expect_err("refused").to_string().contains("pruned"));
    let leases = holds::leases(&repository, DATABASE).await.expect("listed");
    assert!(leases.is_empty());
    let pin = holds::Pin {
        backup: "b6".to_owned(),
        why: "a test".to_owned(),
        by: "me".to_owned(),
        at_unix_ms: 0,
    };
    holds::pin(&repository, DATABASE, &pin).await.expect("set");
    let again = holds::pin(&repository, DATABASE, &pin).await;
    assert!(again.expect_err("refused").to_string().contains("a test"));
    assert_eq!(
        holds::pins(&repository, DATABASE).await.expect("listed"),
        [pin]
    );
    holds::unpin(&repository, DATABASE, "b6")
        .await
        .expect("gone");
    assert!(holds::unpin(&repository, DATABASE, "b6").await.is_err());
}

/// The same, encrypted; its identity is in the place.
async fn filled_encrypted(place: &Path) -> Repository {
    let at = place.join("repository").display().to_string();
    let identity = place.join("backup.key");
    let recipient = crate::keys::generate(&identity).expect("made");
    let options = crate::Options {
        recipients: vec![recipient],
        identity: Some(identity),
        ..crate::Options::default()
    };
    fill(place, Repository::open_with(&at, options).expect("opens")).await
}

async fn wrapped(repository: &Repository, key: &str) -> usize {
    let list = repository.list(&names::wrapped_keys(DATABASE, key)).await;
    list.expect("listed").len()
}

/// Plans, and does it; records are named by their moment.
async fn prune(repository: &Repository, at: i64) -> usize {
    let stock = stock(repository, DATABASE).await.expect("read");
    let plan = retention::plan(&stock, POLICY, now()).expect("a plan");
    let record = record(&stock, &plan, POLICY, "me".to_owned(), at);
    let deleted = perform(repository, DATABASE, &stock, &plan, record).await;
    deleted.expect("deleted")
}

#[tokio::test]
async fn the_key_of_a_backup_goes_with_it_and_everything_else_can_still_be_read() {
    let place = tempfile::tempdir().expect("a directory");
    let repository = filled_encrypted(place.path()).await;
    let backups = manifest::list(&repository).await.expect("listed");
    let key = |at: usize| backups[at].key.clone().expect("encrypted");
    let (goes, stays) = (key(0), key(1));
    assert_eq!(wrapped(&repository, &goes).await, 1);
    // A manifest, its file, five segments, its key.
    assert_eq!(prune(&repository, now()).await, 8);
    assert_eq!(wrapped(&repository, &goes).await, 0);
    assert_eq!(wrapped(&repository, &stays).await, 1);
    let checked = crate::keys::check(&repository).await.expect("checked");
    let opened = checked.iter().filter(|it| it.opened.is_ok());
    // Of the backup that stays, and of WAL.
    assert_eq!(opened.count(), 2);
    let stock = stock(&repository, DATABASE).await.expect("read");
    assert!(stock.orphans.is_empty());
    let again = retention::plan(&stock, POLICY, now()).expect("a plan");
    assert!(again.is_empty(), "{again:?}");
}

#[tokio::test]
async fn a_key_that_an_interrupted_pruning_left_goes_with_the_next_one_and_no_other() {
    let place = tempfile::tempdir().expect("a directory");
    let repository = filled_encrypted(place.path()).await;
    let backups = manifest::list(&repository).await.expect("listed");
    let key = backups[0].key.clone().expect("encrypted");
    let name = names::wrapped_keys(DATABASE, &key);
    let name = repository.list(&name).await.expect("listed").remove(0);
    let text = repository.get(&name).await.expect("read").expect("there");
    prune(&repository, now()).await;
    repository.put_new(&name, text.clone()).await.expect("put");
    // Of a backup whose first object is not there yet.
    let begun = name.replace(&key, "age1begun");
    repository.put_new(&begun, text).await.expect("put");
    let stock = stock(&repository, DATABASE).await.expect("read");
    assert_eq!(stock.orphans, std::slice::from_ref(&key));
    assert_eq!(prune(&repository, now() + HOUR).await, 1);
    assert_eq!(wrapped(&repository, &key).await, 0);
    assert_eq!(wrapped(&repository, "age1begun").await, 1);
}
