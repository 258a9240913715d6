//! Archived WAL: single puts of whole files, under a name that says who and what.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cluster_core::model::Epoch;

use crate::names::{self, WalName};
use crate::streams;
use crate::{Error, Put, Repository};

/// Stores one file of `pg_wal`. The same content again is a success.
///
/// # Errors
/// The file, or the store. Nothing half-written is ever seen.
pub async fn push(
    repository: &Repository,
    database: u64,
    epoch: Epoch,
    name: &WalName,
    path: &Path,
) -> Result<Put, Error> {
    let key = repository.data_key_of_wal(database).await?;
    let (from, with) = (path.to_owned(), key.clone());
    let packed = tokio::task::spawn_blocking(move || {
        let content = std::fs::read(&from)?;
        let hash = streams::hash(&content);
        Ok((hash, streams::pack(&content, with.as_ref())?))
    });
    let (hash, packed) = packed
        .await
        .map_err(|_| Error::GivenUp("compressing WAL"))?
        .map_err(|source| Error::File {
            verb: "read",
            path: path.to_owned(),
            source,
        })?;
    let plain = name.object(database, epoch, &hash);
    let object = key.map_or_else(|| plain.clone(), |key| names::sealed(&plain, key.as_str()));
    repository.put_new(&object, Bytes::from(packed)).await
}

/// The object that holds a file; none when it was never archived.
///
/// # Errors
/// [`Error::TwoContents`]; the store.
pub async fn find(
    repository: &Repository,
    database: u64,
    name: &WalName,
) -> Result<Option<String>, Error> {
    let objects = repository.list(&name.folder(database)).await?;
    let hashes: BTreeSet<&str> = objects.iter().filter_map(|it| names::hash_of(it)).collect();
    if hashes.len() > 1 {
        return Err(Error::TwoContents {
            name: name.as_str().to_owned(),
            objects,
        });
    }
    // One content, stored more than once: by two primaries, or under two data keys.
    if let [_, _, ..] = objects.as_slice() {
        for object in objects.iter().rev() {
            if repository.key_of(object).await.is_ok() {
                return Ok(Some(object.clone()));
            }
        }
    }
    Ok(objects.into_iter().next_back())
}

/// Brings one file back; false when it was never archived.
///
/// # Errors
/// Two contents, damage, the store, the file. The destination is there whole or not at all.
pub async fn fetch(
    repository: &Repository,
    database: u64,
    name: &WalName,
    to: &Path,
) -> Result<bool, Error> {
    let Some(object) = find(repository, database, name).await? else {
        return Ok(false);
    };
    let hash = names::hash_of(&object).unwrap_or_default().to_owned();
    let mut temporary = to.as_os_str().to_owned();
    temporary.push(".fetching");
    let temporary = PathBuf::from(temporary);
    let (file, done) = (temporary.clone(), to.to_owned());
    let took = streams::read_object(repository, &object, Some(&hash), move |content| {
        copy(content, &file)
    });
    took.await?;
    std::fs::rename(&temporary, &done).map_err(|source| Error::File {
        verb: "put in place",
        path: done,
        source,
    })?;
    Ok(true)
}

fn copy(content: &mut dyn Read, to: &Path) -> Result<(), Error> {
    let mut attempt = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(to)?;
        std::io::copy(content, &mut file)?;
        file.flush()?;
        file.sync_all()
    };
    attempt().map_err(|source| Error::File {
        verb: "write",
        path: to.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Room {
        place: tempfile::TempDir,
        repository: Repository,
        name: WalName,
    }

    impl Room {
        fn new() -> Room {
            let place = tempfile::tempdir().expect("a directory");
            let at = place.path().join("repository");
            Room {
                repository: Repository::open(&at.display().to_string()).expect("opens"),
                name: WalName::parse("000000020000000000000003").expect("a name"),
                place,
            }
        }

        async fn push(&self, epoch: u64, content: &[u8]) -> Put {
            let path = self.place.path().join("segment");
            std::fs::write(&path, content).expect("written");
            push(&self.repository, 7, Epoch(epoch), &self.name, &path)
                .await
                .expect("pushed")
        }

        async fn fetch(&self) -> Result<Option<Vec<u8>>, Error> {
            let to = self.place.path().join("back");
            let found = fetch(&self.repository, 7, &self.name, &to).await?;
            Ok(found.then(|| std::fs::read(&to).expect("it is there")))
        }
    }

    #[tokio::test]
    async fn what_was_pushed_comes_back_and_pushing_again_is_a_success() {
        let room = Room::new();
        assert_eq!(room.fetch().await.expect("asked"), None);
        assert_eq!(room.push(3, b"some WAL").await, Put::Stored);
        assert_eq!(room.push(3, b"some WAL").await, Put::WasThere);
        // The next primary hands over what it has of the old timeline.
        assert_eq!(room.push(4, b"some WAL").await, Put::Stored);
        assert_eq!(
            room.fetch().await.expect("asked"),
            Some(b"some WAL".to_vec())
        );
    }

    #[tokio::test]
    async fn two_contents_are_kept_and_never_merged() {
        let room = Room::new();
        room.push(3, b"one").await;
        room.push(3, b"other").await;
        let error = room.fetch().await.expect_err("refused").to_string();
        assert!(error.contains("two servers"), "{error}");
        let objects = room.repository.list(&room.name.folder(7)).await;
        assert_eq!(objects.expect("listed").len(), 2);
    }

    #[tokio::test]
    async fn damage_is_found_and_nothing_is_put_in_place() {
        let room = Room::new();
        room.push(3, &[b'x'; 10_000]).await;
        let object = find(&room.repository, 7, &room.name).await.expect("listed");
        let path = room
            .place
            .path()
            .join("repository")
            .join(object.expect("one"));
        let whole = std::fs::read(&path).expect("read");
        for content in [
            streams::pack(&[b'y'; 10_000], None).expect("compresses"),
            whole[..whole.len() / 2].to_vec(),
            Vec::new(),
            b"no zstd".to_vec(),
        ] {
            std::fs::write(&path, &content).expect("written");
            let error = room.fetch().await.expect_err("found");
            println!("{error}");
            assert!(!room.place.path().join("back").exists());
        }
    }
}
