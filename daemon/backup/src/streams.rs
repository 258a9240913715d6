//! Hashing, compression and encryption of what goes in and comes out. All of it runs on threads that may block.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use ring::digest::{Context, SHA256};
use tokio_util::io::SyncIoBridge;

use crate::seal::{self, Seal};
use crate::{Error, Put, Recipient, Repository, upload};

/// Level of zstd: fast enough to keep up with a disk on one core.
pub(crate) const LEVEL: i32 = 3;

/// What was read of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// How much.
    pub bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub hash: String,
}

/// Counts and hashes what is read through it.
pub struct Hashing<R> {
    inner: R,
    context: Context,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub fn new(inner: R) -> Hashing<R> {
        Hashing {
            inner,
            context: Context::new(&SHA256),
            bytes: 0,
        }
    }

    pub fn end(self) -> Passed {
        Passed {
            bytes: self.bytes,
            hash: hex(self.context.finish().as_ref()),
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.context.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn hash(content: &[u8]) -> String {
    hex(ring::digest::digest(&SHA256, content).as_ref())
}

/// Compressed and, with a key, encrypted.
pub fn pack(content: &[u8], key: Option<&Recipient>) -> io::Result<Vec<u8>> {
    let mut seal = Seal::begin(Vec::new(), key)?;
    zstd::stream::copy_encode(content, &mut seal, LEVEL)?;
    seal.finish()
}

/// A stream to or from an object that broke.
pub fn broken(verb: &'static str, name: &str) -> impl Fn(io::Error) -> Error + use<> {
    let name = name.to_owned();
    move |source| Error::Store {
        verb,
        name: name.clone(),
        source: object_store::Error::Generic {
            store: "repository",
            source: source.into(),
        },
    }
}

/// Stores a file, compressed and, with a key, encrypted, as one object; says what it was before.
pub async fn store_file(
    repository: &Repository,
    name: &str,
    path: &Path,
    key: Option<Recipient>,
) -> Result<Passed, Error> {
    let expected = std::fs::metadata(path).map_or(0, |entry| entry.len());
    let (path, object) = (path.to_owned(), name.to_owned());
    let stored = upload::upload(repository, name, expected, move |parts| {
        let read = |source| Error::File {
            verb: "read",
            path: path.clone(),
            source,
        };
        let wrote = broken("store", &object);
        let mut content = Hashing::new(File::open(&path).map_err(read)?);
        let seal = Seal::begin(parts, key.as_ref()).map_err(&wrote)?;
        let mut encoder = zstd::Encoder::new(seal, LEVEL).map_err(&wrote)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = content.read(&mut buffer).map_err(read)?;
            if read == 0 {
                break;
            }
            encoder.write_all(&buffer[..read]).map_err(&wrote)?;
        }
        let seal = encoder.finish().map_err(&wrote)?;
        let parts = seal.finish().map_err(&wrote)?;
        // Until here nothing is visible under this name.
        parts.finish().map_err(&wrote)?;
        Ok(content.end())
    });
    match stored.await? {
        (Put::Stored, passed) => Ok(passed),
        (Put::WasThere, _) => Err(Error::Refused(format!(
            "`{name}` is in the repository already"
        ))),
    }
}

/// Hands the content of an object, decrypted and decompressed, to `take`, on a thread of its own; fails when it is not
/// what was stored.
pub async fn read_object<T: Send + 'static>(
    repository: &Repository,
    name: &str,
    wanted: Option<&str>,
    take: impl FnOnce(&mut dyn Read) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let key = repository.key_of(name).await?;
    let reader = SyncIoBridge::new(repository.reader(name).await?);
    let (name, wanted) = (name.to_owned(), wanted.map(str::to_owned));
    let taken = tokio::task::spawn_blocking(move || {
        let failed = broken("read", &name);
        let opened = seal::open(reader, key.as_ref()).map_err(&failed)?;
        let decoder = zstd::Decoder::new(opened).map_err(&failed)?;
        let mut content = Hashing::new(decoder);
        let taken = take(&mut content)?;
        // What `take` had no use for counts, too: padding of an archive.
        io::copy(&mut content, &mut io::sink()).map_err(&failed)?;
        let found = content.end().hash;
        match wanted {
            Some(wanted) if !crate::names::agrees(&found, &wanted) => Err(Error::Damaged {
                name,
                wanted,
                found,
            }),
            _ => Ok(taken),
        }
    });
    taken.await.map_err(|_| Error::GivenUp("a download"))?
}
