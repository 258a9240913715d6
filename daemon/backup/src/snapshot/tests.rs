//! A snapshot that is not byte for byte what was written is found, and nothing is touched then.

use std::path::{Path, PathBuf};

use cluster_core::model::snapshot::SnapshotId;
use cluster_core::model::state::Identity;
use cluster_core::model::{ClusterId, ClusterState, Generation, Lsn, TimelineId};

use super::{Facts, Restore, check, pack, restore};
use crate::{Recipient, keys};

struct Room {
    place: tempfile::TempDir,
    file: PathBuf,
}

fn facts(recipients: Vec<Recipient>) -> Facts {
    let identity = Identity {
        id: ClusterId("old".to_owned()),
        name: "main".parse().expect("a name"),
        generation: Generation(1),
    };
    Facts {
        id: SnapshotId::from_random(1),
        state: ClusterState {
            identity: Some(identity),
            system_identifier: Some(7),
            ..ClusterState::default()
        },
        taker: "b".parse().expect("a name"),
        major: 15,
        timeline: TimelineId(1),
        end: Lsn(200),
        began_unix_ms: 1,
        ended_unix_ms: 2,
        recipients,
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let header = super::stream::header(name, content.len() as u64);
        builder
            .append(&header.expect("a header"), *content)
            .expect("appended");
    }
    builder.into_inner().expect("finished")
}

impl Room {
    fn new(recipients: Vec<Recipient>) -> Room {
        let place = tempfile::tempdir().expect("a directory");
        let spool = place.path().join("spool");
        std::fs::create_dir(&spool).expect("made");
        let base = tar_of(&[("PG_VERSION", b"15\n"), ("big", &[b'x'; 100_000])]);
        std::fs::write(spool.join("base.tar"), base).expect("written");
        let wal = tar_of(&[("000000010000000000000001", &[b'w'; 5000])]);
        std::fs::write(spool.join("pg_wal.tar"), wal).expect("written");
        std::fs::write(spool.join("backup_manifest"), "{}").expect("written");
        let file = place.path().join("it.tar");
        let files = ["base.tar", "pg_wal.tar", "backup_manifest"].map(str::to_owned);
        let packed = pack(&facts(recipients), &spool, &files, &file).expect("packed");
        assert_eq!(std::fs::read_dir(&spool).expect("listed").count(), 0);
        let whole = std::fs::read(&file).expect("read");
        assert_eq!(packed.bytes, whole.len() as u64);
        assert_eq!(packed.sha256, crate::streams::hash(&whole));
        Room { place, file }
    }

    /// Programs that only tell their version.
    fn programs(&self, major: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let place = self.place.path().join(format!("bin{major}"));
        std::fs::create_dir_all(&place).expect("made");
        let path = place.join("postgres");
        let text = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {major}.4'\n");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        place
    }

    fn restore(&self, major: u32, identity: Option<&PathBuf>) -> Result<PathBuf, String> {
        let (into, bin_dir) = (self.place.path().join("data"), self.programs(major));
        let wanted = Restore {
            file: &self.file,
            into: &into,
            bin_dir: &bin_dir,
            identity,
        };
        let done = restore(&wanted, |_| ());
        done.map(|_| into).map_err(|error| error.to_string())
    }
}

fn content(path: &Path, name: &str) -> Vec<u8> {
    std::fs::read(path.join(name)).unwrap_or_default()
}

#[test]
fn what_was_packed_comes_back_with_a_note_of_where_it_came_from() {
    let room = Room::new(Vec::new());
    let found = check(&room.file).expect("it is whole");
    assert_eq!(found.origin.cluster, ClusterId("old".to_owned()));
    let names: Vec<&str> = found.pieces.iter().map(|it| it.name.as_str()).collect();
    let wanted = [
        "cluster-state.json",
        "settings.json",
        "base.tar",
        "pg_wal.tar",
        "backup_manifest",
    ];
    assert_eq!(names, wanted);
    let into = room.restore(15, None).expect("restored");
    assert_eq!(content(&into, "big"), vec![b'x'; 100_000]);
    assert_eq!(
        content(&into, "pg_wal/000000010000000000000001"),
        vec![b'w'; 5000]
    );
    assert!(into.join("standby.signal").exists());
    let note = String::from_utf8(content(&into, "clusterd-restored.json")).expect("text");
    assert!(note.contains("\"cluster\": \"old\""), "{note}");
    let again = room.restore(15, None).expect_err("not empty any more");
    assert!(again.contains("not empty"), "{again}");
    assert_eq!(content(&into, "big").len(), 100_000, "it was touched");
}

/// The tool tar reads it, too.
#[test]
fn a_plain_snapshot_is_a_tar_for_everybody() {
    let room = Room::new(Vec::new());
    let listed = std::process::Command::new("tar")
        .arg("-tf")
        .arg(&room.file)
        .output();
    let listed = listed.expect("tar runs");
    assert!(listed.status.success(), "{listed:?}");
    let names = String::from_utf8(listed.stdout).expect("text");
    assert_eq!(
        names,
        "snapshot.json\ncluster-state.json.zst\nsettings.json.zst\nbase.tar.zst\npg_wal.tar.zst\n\
         backup_manifest.zst\nSHA256SUM\n"
    );
}

#[test]
fn every_flipped_byte_and_every_cut_is_found_before_anything_is_touched() {
    let room = Room::new(Vec::new());
    let whole = std::fs::read(&room.file).expect("read");
    let size = whole.len();
    // Every byte of the headers and the footer, and a sample of the rest.
    let places = (0..size).filter(|place| *place < 600 || *place > size - 2100 || place % 97 == 0);
    for place in places {
        let mut other = whole.clone();
        other[place] ^= 0x20;
        std::fs::write(&room.file, &other).expect("written");
        let why = room.restore(15, None).expect_err("one byte is wrong");
        assert!(why.contains("it.tar is damaged"), "{place}: {why}");
    }
    for length in [0, 1, 511, 2047, 2048, size / 2, size - 512, size - 1] {
        std::fs::write(&room.file, &whole[..length]).expect("written");
        let why = room.restore(15, None).expect_err("cut short");
        assert!(why.contains("it.tar is damaged"), "{length}: {why}");
    }
    assert!(!room.place.path().join("data").exists());
    std::fs::write(&room.file, &whole).expect("written");
    room.restore(15, None).expect("the same file, whole again");
}

#[test]
fn the_entry_that_was_changed_is_named() {
    let room = Room::new(Vec::new());
    let mut whole = std::fs::read(&room.file).expect("read");
    let name = b"pg_wal.tar.zst\0";
    // The document names it first, with a quote behind.
    let header = whole
        .windows(name.len())
        .position(|it| it == name)
        .expect("a header");
    whole[header + 512 + 20] ^= 1;
    std::fs::write(&room.file, &whole).expect("written");
    let why = check(&room.file).expect_err("changed").to_string();
    assert!(
        why.ends_with("changed or cut short: pg_wal.tar.zst"),
        "{why}"
    );
}

#[test]
fn another_major_is_refused_with_everything_else_that_is_wrong() {
    let room = Room::new(Vec::new());
    std::fs::create_dir(room.place.path().join("data")).expect("made");
    std::fs::write(room.place.path().join("data/mine"), "mine").expect("written");
    let why = room.restore(16, None).expect_err("refused");
    assert!(
        why.contains("PostgreSQL 15") && why.contains("not empty"),
        "{why}"
    );
    assert_eq!(content(&room.place.path().join("data"), "mine"), b"mine");
}

#[test]
fn an_encrypted_one_is_opened_by_its_reader_and_by_nobody_else() {
    let place = tempfile::tempdir().expect("a directory");
    let (own, other) = (place.path().join("own"), place.path().join("other"));
    let reader = keys::generate(&own).expect("made");
    keys::generate(&other).expect("made");
    let second = keys::generate(&place.path().join("second")).expect("made");
    let room = Room::new(vec![second, reader.clone()]);
    let whole = std::fs::read(&room.file).expect("read");
    assert!(
        !whole.windows(16).any(|it| it == [b'x'; 16]),
        "it can be read"
    );
    for identity in [None, Some(&other)] {
        let why = room.restore(15, identity).expect_err("refused");
        assert!(
            why.contains("encrypted") && why.contains(reader.as_str()),
            "{why}"
        );
    }
    assert!(!room.place.path().join("data").exists());
    let into = room.restore(15, Some(&own)).expect("restored");
    assert_eq!(content(&into, "big"), vec![b'x'; 100_000]);
}

/// pg_verifybackup's word counts, and what was written is removed again.
#[test]
fn a_copy_that_postgresql_refuses_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let room = Room::new(Vec::new());
    let path = room.programs(15).join("pg_verifybackup");
    std::fs::write(&path, "#!/bin/sh\necho 'no good' >&2\nexit 1\n").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    let why = room.restore(15, None).expect_err("refused");
    assert!(why.contains("no good"), "{why}");
    assert!(!room.place.path().join("data").exists());
}

#[test]
fn a_tablespace_is_refused_when_it_is_taken() {
    let place = tempfile::tempdir().expect("a directory");
    let files = ["base.tar", "16384.tar"].map(str::to_owned);
    let into = place.path().join("it.tar");
    let refused = pack(&facts(Vec::new()), place.path(), &files, &into);
    assert!(
        refused
            .expect_err("refused")
            .to_string()
            .contains("tablespace")
    );
    assert!(!into.exists());
}
