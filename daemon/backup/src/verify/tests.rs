//! A repository that is whole, and every kind of damage to it.

use std::path::{Path, PathBuf};

use cluster_core::model::{Epoch, Lsn, TimelineId};

use super::*;
use crate::names::WalName;
use crate::{manifest, streams, wal};

const DATABASE: u64 = 7;
const MIB: u64 = 1 << 20;

/// A repository with a backup on timeline 1 and WAL along timeline 3, in segments of 1 MiB.
struct Room {
    place: tempfile::TempDir,
    repository: Repository,
    backup: Manifest,
}

fn segment(number: u64) -> Vec<u8> {
    let mut content = vec![0; 1 << 20];
    content[2..4].copy_from_slice(&2_u16.to_le_bytes());
    content[8..16].copy_from_slice(&(number * MIB).to_le_bytes());
    content[24..32].copy_from_slice(&DATABASE.to_le_bytes());
    content[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    content
}

fn tar_of(path: &Path, files: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(std::fs::File::create(path).expect("made"));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        builder
            .append_data(&mut header, name, *content)
            .expect("added");
    }
    builder.finish().expect("finished");
}

fn postgres_manifest() -> String {
    let body = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
        { \"Path\": \"PG_VERSION\", \"Size\": 3, \"Last-Modified\": \"x\" },\n\
        { \"Path\": \"base/1/1\", \"Size\": 4, \"Last-Modified\": \"x\" }\n],\n\
        \"WAL-Ranges\": [\n\
        { \"Timeline\": 1, \"Start-LSN\": \"0/300028\", \"End-LSN\": \"0/300100\" }\n],\n";
    let hash = streams::hash(body.as_bytes());
    format!("{body}\"Manifest-Checksum\": \"{hash}\"}}\n")
}

impl Room {
    async fn new() -> Room {
        let place = tempfile::tempdir().expect("a directory");
        let at = place.path().join("repository");
        let repository = Repository::open(&at.display().to_string()).expect("opens");
        let folder = place.path().join("copied");
        std::fs::create_dir(&folder).expect("made");
        let base: &[(&str, &[u8])] = &[("PG_VERSION", b"15\n"), ("base/1/1", b"data")];
        tar_of(&folder.join("base.tar"), base);
        std::fs::write(folder.join("backup_manifest"), postgres_manifest()).expect("written");
        let facts = Manifest {
            format: 0,
            id: "20261121T100000Z-m1-0000".to_owned(),
            database: DATABASE,
            major: 15,
            member: "m1".parse().expect("a name"),
            epoch: Epoch(1),
            timeline: TimelineId(1),
            start: Lsn(3 * MIB + 0x28),
            end: Lsn(3 * MIB + 0x100),
            began_unix_ms: 1000,
            ended_unix_ms: 2000,
            key: None,
            files: Vec::new(),
        };
        let files = ["base.tar".to_owned(), "backup_manifest".to_owned()];
        let backup = manifest::store(&repository, facts, &folder, &files).await;
        let room = Room {
            backup: backup.expect("stored"),
            repository,
            place,
        };
        for (timeline, number) in [(1, 3), (1, 4), (3, 5), (3, 6)] {
            let name = format!("{timeline:08X}00000000{number:08X}");
            room.push(1, &name, &segment(number)).await;
        }
        room.push(1, "00000003.history", b"1\t0/500080\tno\n").await;
        room
    }

    async fn push(&self, epoch: u64, name: &str, content: &[u8]) {
        let path = self.place.path().join("pushed");
        std::fs::write(&path, content).expect("written");
        let name = WalName::parse(name).expect("a name");
        let put = wal::push(&self.repository, DATABASE, Epoch(epoch), &name, &path).await;
        put.expect("pushed");
    }

    /// Every problem that any level finds, in one text.
    async fn problems(&self) -> String {
        let target = Target::Latest;
        let (chosen, mut problems) = choose(&self.repository, None, None, &target)
            .await
            .expect("listed");
        if let Some(backup) = chosen {
            let seen = files::look(&self.repository, &backup).await;
            let mut measured = Measured::default();
            let found = archive::look(&self.repository, &backup, None, &mut measured).await;
            problems.extend(seen.findings.problems);
            problems.extend(found.problems);
        }
        problems.join("\n")
    }

    /// The one file below the repository whose path holds this.
    fn file(&self, part: &str) -> PathBuf {
        let mut folders = vec![self.place.path().join("repository")];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                match entry.path().is_dir() {
                    true => folders.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found.retain(|path| path.display().to_string().contains(part));
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        found.remove(0)
    }

    fn overwrite(&self, part: &str, content: &[u8]) {
        let path = self.file(part);
        std::fs::write(path, content).expect("written");
    }
}

#[tokio::test]
async fn what_is_whole_has_no_problem() {
    let room = Room::new().await;
    assert_eq!(room.problems().await, "");
    let mut measured = Measured::default();
    let found = archive::look(&room.repository, &room.backup, None, &mut measured).await;
    println!("{found:?}");
    assert_eq!(measured.first, Some(room.backup.end));
    assert_eq!(measured.last, Some(Lsn(7 * MIB)));
    assert_eq!(measured.segment_bytes, Some(MIB));
    assert_eq!(measured.bytes, 4 * MIB);
    // The next primary has handed over what was there.
    room.push(2, "000000030000000000000006", &segment(6)).await;
    assert_eq!(room.problems().await, "");
}

fn pack(content: &[u8]) -> Vec<u8> {
    streams::pack(content, None).expect("compresses")
}

fn other_tar(room: &Room) -> Vec<u8> {
    let path = room.place.path().join("other.tar");
    tar_of(&path, &[("PG_VERSION", b"15\n"), ("base/1/1", b"dat!")]);
    pack(&std::fs::read(path).expect("read"))
}

/// Each kind of object, each kind of damage, and the words that must be in the report.
#[tokio::test]
async fn damage_of_every_kind_is_named() {
    type Damage<'a> = (&'a str, Box<dyn Fn(&Room)>, &'a [&'a str]);
    let damages: Vec<Damage> = vec![
        (
            "a manifest that is cut off",
            Box::new(|room| room.overwrite("manifest.json", b"{ \"format\": 1")),
            &["manifest.json", "cannot be read"],
        ),
        (
            "a manifest with another start",
            Box::new(|room| {
                let path = room.file("manifest.json");
                let text = std::fs::read_to_string(&path).expect("read");
                let start = format!("\"start\": {}", 3 * MIB + 0x28);
                assert!(text.contains(&start));
                std::fs::write(path, text.replace(&start, "\"start\": 4194304")).expect("written");
            }),
            &["the manifest says", "backup_manifest"],
        ),
        (
            "no base.tar",
            Box::new(|room| std::fs::remove_file(room.file("base.tar")).expect("removed")),
            &["base.tar"],
        ),
        (
            "half a base.tar",
            Box::new(|room| {
                let whole = std::fs::read(room.file("base.tar")).expect("read");
                room.overwrite("base.tar", &whole[..whole.len() / 2]);
            }),
            &["base.tar"],
        ),
        (
            "another base.tar",
            Box::new(|room| room.overwrite("base.tar", &other_tar(room))),
            &["base.tar", "is damaged"],
        ),
        (
            "another backup_manifest",
            Box::new(|room| {
                let text = postgres_manifest().replace("\"Size\": 4", "\"Size\": 5");
                room.overwrite("backup_manifest", &pack(text.as_bytes()));
            }),
            &["backup_manifest", "is damaged"],
        ),
        (
            "a segment in the middle is gone",
            Box::new(|room| {
                let file = room.file("000000030000000000000005/");
                std::fs::remove_dir_all(file.parent().expect("a folder")).expect("removed");
            }),
            &["a hole", "000000030000000000000005"],
        ),
        (
            "an altered segment",
            Box::new(|room| {
                let mut content = segment(4);
                content[5000] = 1;
                room.overwrite("000000010000000000000004/", &pack(&content));
            }),
            &["000000010000000000000004", "is damaged"],
        ),
        (
            "a segment that is no zstd file",
            Box::new(|room| room.overwrite("000000010000000000000004/", b"x")),
            &["000000010000000000000004", "could not read"],
        ),
        (
            "the history is gone",
            Box::new(|room| std::fs::remove_file(room.file("3.history/")).expect("removed")),
            &["timeline 3", "00000003.history"],
        ),
        (
            "an altered history",
            Box::new(|room| room.overwrite("3.history/", &pack(b"1\t0/5000\tno\n"))),
            &["00000003.history", "is damaged"],
        ),
    ];
    for (what, damage, words) in damages {
        let room = Room::new().await;
        damage(&room);
        let found = room.problems().await;
        println!("{what}:\n{found}\n");
        for word in words {
            assert!(found.contains(word), "{what}: no `{word}` in `{found}`");
        }
    }
}

#[tokio::test]
async fn two_contents_and_wal_of_elsewhere_are_named() {
    let room = Room::new().await;
    let mut other = segment(6);
    other[9999] = 1;
    room.push(2, "000000030000000000000006", &other).await;
    // What was stored is what is there, and is wrong all the same.
    room.push(1, "000000030000000000000007", &segment(8)).await;
    let mut foreign = segment(8);
    foreign[24] = 9;
    room.push(1, "000000030000000000000008", &foreign).await;
    let found = room.problems().await;
    println!("{found}");
    for word in [
        "000000030000000000000006 has 2 different contents",
        "holds WAL of another place",
        "WAL of another database",
    ] {
        assert!(found.contains(word), "no `{word}` in `{found}`");
    }
}

#[test]
fn a_backup_manifest_that_was_changed_before_it_was_stored_is_seen() {
    let backup = Manifest {
        format: 1,
        id: String::new(),
        database: 7,
        major: 15,
        member: "m1".parse().expect("a name"),
        epoch: Epoch(1),
        timeline: TimelineId(1),
        start: Lsn(0x30_0028),
        end: Lsn(0x30_0100),
        began_unix_ms: 0,
        ended_unix_ms: 0,
        key: None,
        files: Vec::new(),
    };
    let good = postgres_manifest();
    let read = |text: &str| postgres_manifest::read(text.as_bytes(), &backup).problems;
    assert!(read(&good).is_empty());
    assert!(read(&good.replace("\"Size\": 4", "\"Size\": 5"))[0].contains("own checksum"));
    assert!(read("{}")[0].contains("cannot be read"));
}

#[tokio::test]
async fn a_result_is_kept_once_and_listed() {
    let room = Room::new().await;
    let mut report = Report {
        format: report::FORMAT,
        id: "x".to_owned(),
        database: DATABASE,
        backup: Some(room.backup.id.clone()),
        level: Level::Files,
        target: "latest".to_owned(),
        verdict: Verdict::Successful,
        by: "me".to_owned(),
        host: "here".to_owned(),
        version: "0".to_owned(),
        postgres: None,
        began_unix_ms: 5000,
        ended_unix_ms: 6000,
        measured: Measured::default(),
        problems: Vec::new(),
        levels: Vec::new(),
    };
    let name = kept::keep(&room.repository, &report).await.expect("kept");
    assert_eq!(name, "7/verification/19700101T000005Z-x.json");
    assert!(kept::keep(&room.repository, &report).await.is_err());
    report.began_unix_ms = 4000;
    kept::keep(&room.repository, &report).await.expect("kept");
    let listed = kept::list(&room.repository).await.expect("listed");
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].began_unix_ms, 4000);
}
