//! Encrypted repositories: what goes in comes out with the right key, and with nothing else.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cluster_core::model::{Epoch, Lsn, TimelineId};

use super::*;
use crate::names::WalName;
use crate::restore::{self, Target, Wanted};
use crate::{Manifest, Options, manifest, wal};

struct Room {
    place: tempfile::TempDir,
    identity: PathBuf,
    recipient: Recipient,
    name: WalName,
}

impl Room {
    fn new() -> Room {
        let place = tempfile::tempdir().expect("a directory");
        let identity = place.path().join("identity");
        let recipient = generate(&identity).expect("made");
        let name = WalName::parse("000000020000000000000003").expect("a name");
        Room {
            place,
            identity,
            recipient,
            name,
        }
    }

    fn open(&self, recipients: &[Recipient], identity: Option<&Path>) -> Repository {
        let options = Options {
            recipients: recipients.to_vec(),
            identity: identity.map(Path::to_owned),
            ..Options::default()
        };
        let place = self.place.path().join("repository").display().to_string();
        Repository::open_with(&place, options).expect("opens")
    }

    /// As a host of the database opens it, new each time.
    fn writer(&self) -> Repository {
        self.open(std::slice::from_ref(&self.recipient), None)
    }

    fn reader(&self) -> Repository {
        self.open(&[], Some(&self.identity))
    }

    async fn push(&self, repository: &Repository, epoch: u64, content: &[u8]) -> Put {
        let path = self.place.path().join("segment");
        std::fs::write(&path, content).expect("written");
        let pushed = wal::push(repository, 7, Epoch(epoch), &self.name, &path).await;
        pushed.expect("pushed")
    }

    async fn fetch(&self, repository: &Repository) -> Result<Option<Vec<u8>>, Error> {
        let to = self.place.path().join("back");
        let _ = std::fs::remove_file(&to);
        let found = wal::fetch(repository, 7, &self.name, &to).await?;
        Ok(found.then(|| std::fs::read(&to).expect("it is there")))
    }

    /// A backup of one small directory and one file too large for a single part.
    async fn backup(&self, repository: &Repository) -> Manifest {
        let folder = self.place.path().join("copy");
        std::fs::create_dir_all(&folder).expect("made");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        let large = noise(9 << 20);
        for (name, content) in [("PG_VERSION", &b"15\n"[..]), ("large", &large)] {
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            let added = archive.append_data(&mut header, name, content);
            added.expect("added");
        }
        let base = archive.into_inner().expect("whole");
        std::fs::write(folder.join("base.tar"), base).expect("written");
        let facts = Manifest {
            format: 0,
            id: "one".to_owned(),
            database: 7,
            major: 15,
            member: "m1".parse().expect("a name"),
            epoch: Epoch(1),
            timeline: TimelineId(2),
            start: Lsn(900),
            end: Lsn(1000),
            began_unix_ms: 1_700_000_000_000,
            ended_unix_ms: 1_700_000_005_000,
            key: None,
            files: Vec::new(),
        };
        let stored = manifest::store(repository, facts, &folder, &["base.tar".to_owned()]).await;
        stored.expect("stored")
    }

    async fn restore(&self, repository: &Repository, into: &str) -> Result<PathBuf, Error> {
        let into = self.place.path().join(into);
        let asked = Wanted {
            target: Target::Latest,
            backup: None,
            into: &into,
            waldump: None,
        };
        let plan = restore::plan(repository, asked).await?;
        restore::perform(repository, &plan, "fetch").await?;
        Ok(into)
    }

    fn objects(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("listed").flatten() {
                match entry.path().is_dir() {
                    true => walk(&entry.path(), found),
                    false => found.push(entry.path()),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.place.path().join("repository"), &mut found);
        found.sort();
        found
    }
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(length + 4);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn wal_comes_back_with_the_key_and_one_run_has_one_data_key() {
    let room = Room::new();
    let writer = room.writer();
    assert_eq!(room.push(&writer, 3, b"some WAL").await, Put::Stored);
    assert_eq!(room.push(&writer, 3, b"some WAL").await, Put::WasThere);
    assert_eq!(room.push(&writer, 4, b"some WAL").await, Put::Stored);
    let keys = writer.list(&names::keys(7)).await.expect("listed");
    assert_eq!(keys.len(), 1, "{keys:?}");
    let back = room.fetch(&room.reader()).await.expect("read");
    assert_eq!(back.as_deref(), Some(&b"some WAL"[..]));
    // The next run has a key of its own; the same content under both is one content.
    assert_eq!(room.push(&room.writer(), 4, b"some WAL").await, Put::Stored);
    assert_eq!(writer.list(&names::keys(7)).await.expect("listed").len(), 2);
    let back = room.fetch(&room.reader()).await.expect("read");
    assert_eq!(back.as_deref(), Some(&b"some WAL"[..]));
    for object in room.objects() {
        let content = std::fs::read(&object).expect("read");
        assert!(
            content.starts_with(b"age-encryption.org/v1\n"),
            "{object:?}"
        );
    }
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_told_whose_would_do() {
    let room = Room::new();
    room.push(&room.writer(), 3, b"some WAL").await;
    let other = room.place.path().join("other");
    let wrong = generate(&other).expect("made");
    let error = room
        .fetch(&room.open(&[], Some(&other)))
        .await
        .expect_err("refused");
    let error = error.to_string();
    assert!(
        error.contains(room.recipient.as_str()) && error.contains(wrong.as_str()),
        "{error}"
    );
    let error = room
        .fetch(&room.writer())
        .await
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains(room.recipient.as_str()) && error.contains("--identity"),
        "{error}"
    );
    assert!(!room.place.path().join("back").exists());
}

#[tokio::test]
async fn an_encrypted_backup_is_restored_and_a_wrong_key_is_refused_before_anything_is_touched() {
    let room = Room::new();
    let stored = room.backup(&room.writer()).await;
    room.push(&room.writer(), 1, b"some WAL").await;
    let keys = room
        .reader()
        .folders(&names::keys(7))
        .await
        .expect("listed");
    assert_eq!(keys.len(), 2, "the backup has a key of its own: {keys:?}");
    assert!(keys.contains(&stored.key.clone().expect("encrypted")));
    assert!(stored.object("base.tar").ends_with(".zst.age"));
    let error = room
        .restore(&room.writer(), "refused")
        .await
        .expect_err("refused");
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(!room.place.path().join("refused").exists());
    let into = room
        .restore(&room.reader(), "restored")
        .await
        .expect("restored");
    assert_eq!(
        std::fs::read(into.join("large")).expect("read"),
        noise(9 << 20)
    );
}

#[tokio::test]
async fn damage_and_truncation_of_what_is_encrypted_are_found() {
    let room = Room::new();
    room.push(&room.writer(), 3, &noise(200_000)).await;
    let of_wal = |it: &&PathBuf| it.display().to_string().contains("/wal/");
    let objects = room.objects();
    let object = objects.iter().find(of_wal).expect("one");
    let whole = std::fs::read(object).expect("read");
    let mut flipped = whole.clone();
    flipped[100_000] ^= 1;
    let mut header = whole.clone();
    header[60] ^= 1;
    let chunk = 200 + 65_536 + 16;
    for content in [
        flipped,
        header,
        whole[..whole.len() - 1].to_vec(),
        whole[..chunk.min(whole.len())].to_vec(),
        whole[..150].to_vec(),
        Vec::new(),
        [&whole[..], b"x"].concat(),
    ] {
        std::fs::write(object, &content).expect("written");
        let error = room.fetch(&room.reader()).await.expect_err("found");
        println!(
            "{error}: {:?}",
            std::error::Error::source(&error).map(ToString::to_string)
        );
        assert!(!room.place.path().join("back").exists());
    }
    std::fs::write(object, &whole).expect("written");
    // A damaged data key.
    let of_key = |it: &&PathBuf| it.display().to_string().contains("/keys/");
    let key = objects.iter().find(of_key).expect("one");
    let mut content = std::fs::read(key).expect("read");
    let last = content.len() - 1;
    content[last] ^= 1;
    std::fs::write(key, &content).expect("written");
    let error = room.fetch(&room.reader()).await.expect_err("found");
    assert!(matches!(error, Error::BadKey { .. }), "{error}");
}

#[tokio::test]
async fn a_new_reader_is_added_without_writing_anything_again() {
    let room = Room::new();
    room.backup(&room.writer()).await;
    room.push(&room.writer(), 3, b"some WAL").await;
    let of_content = |it: &PathBuf| !it.display().to_string().contains("/keys/");
    let before: Vec<_> = room.objects().into_iter().filter(of_content).collect();
    let other = room.place.path().join("other");
    let second = generate(&other).expect("made");
    let with_other = || room.open(&[], Some(&other));
    let closed = check(&with_other()).await.expect("checked");
    assert!(closed.len() == 2 && closed.iter().all(|key| key.opened.is_err()));
    let refused = add(&with_other(), &second).await.expect("asked");
    assert!(
        refused
            .iter()
            .all(|(key, put)| key.opened.is_err() && *put == Put::WasThere)
    );
    for expected in [Put::Stored, Put::WasThere] {
        let added = add(&room.reader(), &second).await.expect("added");
        assert!(added.len() == 2, "{added:?}");
        assert!(
            added
                .iter()
                .all(|(key, put)| key.opened.is_ok() && *put == expected)
        );
    }
    let open = check(&with_other()).await.expect("checked");
    assert!(open.iter().all(|key| key.opened.is_ok()));
    assert!(room.fetch(&with_other()).await.expect("read").is_some());
    let after: Vec<_> = room.objects().into_iter().filter(of_content).collect();
    assert_eq!(before, after);
}

#[tokio::test]
async fn what_was_plain_stays_plain_and_is_read_beside_what_is_encrypted() {
    let room = Room::new();
    let plain = room.open(&[], None);
    let stored = room.backup(&plain).await;
    room.push(&plain, 3, b"some WAL").await;
    let names: Vec<String> = room
        .objects()
        .iter()
        .map(|it| it.display().to_string())
        .collect();
    assert!(names.iter().all(|name| !name.contains("age")), "{names:?}");
    assert_eq!(stored.object("base.tar"), "7/backup/one/base.tar.zst");
    let text = plain
        .get("7/backup/one/manifest.json")
        .await
        .expect("read")
        .expect("one");
    assert!(!String::from_utf8_lossy(&text).contains("\"key\""));
    // Encryption was switched on later: a reader without a key still has what is plain.
    room.push(&room.writer(), 4, b"some WAL").await;
    assert!(room.fetch(&plain).await.expect("read").is_some());
    assert!(room.fetch(&room.reader()).await.expect("read").is_some());
    assert!(room.restore(&plain, "restored").await.is_ok());
}

#[test]
fn only_keys_are_keys_and_private_ones_are_never_shown() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("key");
    let public = generate(&path).expect("made");
    assert!(generate(&path).is_err(), "nothing is overwritten");
    let text = std::fs::read_to_string(&path).expect("read");
    let private = text.lines().last().expect("a line");
    assert!(public.as_str().parse::<Recipient>().is_ok());
    let why = private.parse::<Recipient>().expect_err("refused");
    assert!(!why.contains(private), "{why}");
    for bad in [
        "",
        "age1",
        "age1qqqq",
        "ssh-ed25519 AAAA",
        &public.as_str().to_uppercase(),
    ] {
        assert!(bad.parse::<Recipient>().is_err(), "{bad}");
    }
    let read = Identities::read(&path).expect("reads");
    assert!(!format!("{read:?}").contains(private));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
    let error = Identities::read(&path).expect_err("refused").to_string();
    assert!(
        error.contains("chmod 0600") && !error.contains(private),
        "{error}"
    );
    let broken = place.path().join("broken");
    std::fs::write(&broken, "# nothing\nAGE-SECRET-KEY-1HUSH\n").expect("written");
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o600)).expect("set");
    let error = Identities::read(&broken).expect_err("refused").to_string();
    assert!(
        error.contains("line 2") && !error.contains("HUSH"),
        "{error}"
    );
}
