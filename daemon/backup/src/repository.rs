//! One object store as a repository: objects are written once, read whole or as a stream, and listed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::keys::{self, Identities, Recipient};
use crate::{Error, names, stores};

/// Large objects are read in ranges of this: each is asked for again for itself when a connection breaks,
/// however long the whole takes.
const RANGE: u64 = 8 << 20;
const RANGE_STEP: usize = 8 << 20;

/// So many of them at once.
const RANGES_AT_ONCE: usize = 2;

/// How a put ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is stored.
    Stored,
    /// An object of this name is there; it was left as it is.
    WasThere,
}

/// What a repository is opened with besides its place.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// File of the object store's options and credentials.
    pub credentials: Option<PathBuf>,
    /// For writing: public keys that everything is encrypted for; none: nothing is encrypted.
    pub recipients: Vec<Recipient>,
    /// For reading: file of private keys.
    pub identity: Option<PathBuf>,
    /// Base backups are not sent faster. Unit: bytes a second.
    pub max_rate: Option<u64>,
}

/// A place for backups and WAL. Copies share what they know of keys.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    base: Path,
    place: String,
    is_read_only: bool,
    max_rate: Option<u64>,
    vault: Arc<Vault>,
}

/// Keys, and those of them that were needed already.
struct Vault {
    recipients: Vec<Recipient>,
    identities: Identities,
    /// The data key of the WAL that is archived now, and of which database.
    of_wal: tokio::sync::Mutex<Option<(u64, Recipient)>>,
    opened: std::sync::Mutex<BTreeMap<String, age::x25519::Identity>>,
}

/// The place only: the store's own text may hold credentials.
impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// A directory by its absolute path, or a URL that the object store library knows.
    ///
    /// # Errors
    /// A path that is not absolute or cannot be made, an unknown URL.
    pub fn open(place: &str) -> Result<Repository, Error> {
        Repository::open_with(place, Options::default())
    }

    /// The same, with credentials and keys.
    ///
    /// # Errors
    /// The place; a file of credentials or private keys.
    pub fn open_with(place: &str, options: Options) -> Result<Repository, Error> {
        let identities = keys::read_from(options.identity.as_ref())?;
        let opened = stores::open(place, options.credentials.as_deref())?;
        Ok(Repository {
            store: opened.store,
            base: opened.base,
            place: place.to_owned(),
            is_read_only: opened.is_read_only,
            max_rate: options.max_rate,
            vault: Arc::new(Vault {
                recipients: options.recipients,
                identities,
                of_wal: tokio::sync::Mutex::default(),
                opened: std::sync::Mutex::default(),
            }),
        })
    }

    /// As it was given.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn store(&self) -> &dyn ObjectStore {
        self.store.as_ref()
    }

    pub(crate) fn max_rate(&self) -> Option<u64> {
        self.max_rate
    }

    pub(crate) fn identities(&self) -> &Identities {
        &self.vault.identities
    }

    pub(crate) fn require_writable(&self) -> Result<(), Error> {
        match self.is_read_only {
            true => Err(stores::read_only(&self.place)),
            false => Ok(()),
        }
    }

    /// A data key of its own for a backup; none where nothing is encrypted.
    pub(crate) async fn new_data_key(&self, database: u64) -> Result<Option<Recipient>, Error> {
        match self.vault.recipients.as_slice() {
            [] => Ok(None),
            readers => keys::make(self, database, readers).await.map(Some),
        }
    }

    /// The data key of the WAL that is archived in this program's life; made when it is first needed. The
    /// private half is stored before anything that needs it.
    pub(crate) async fn data_key_of_wal(&self, database: u64) -> Result<Option<Recipient>, Error> {
        let mut known = self.vault.of_wal.lock().await;
        match &*known {
            Some((of, key)) if *of == database => Ok(Some(key.clone())),
            Some(_) | None => {
                let key = self.new_data_key(database).await?;
                *known = key.clone().map(|key| (database, key));
                Ok(key)
            }
        }
    }

    /// What opens an object; none when it is not encrypted.
    pub(crate) async fn key_of(&self, name: &str) -> Result<Option<age::x25519::Identity>, Error> {
        let (Some(data), Some(database)) = (names::data_key(name), names::database_of(name)) else {
            return Ok(None);
        };
        self.open_key(database, data).await.map(Some)
    }

    /// The private half of a data key.
    pub(crate) async fn open_key(
        &self,
        database: u64,
        data: &str,
    ) -> Result<age::x25519::Identity, Error> {
        let opened = || {
            self.vault
                .opened
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(key) = opened().get(data).cloned() {
            return Ok(key);
        }
        let key = keys::open(self, database, data).await?;
        opened().insert(data.to_owned(), key.clone());
        Ok(key)
    }

    pub(crate) fn path(&self, name: &str) -> Path {
        let parts = name.split('/').filter(|part| !part.is_empty());
        parts.fold(self.base.clone(), |path, part| path.join(part))
    }

    /// Stores an object that is not there yet, in one go.
    ///
    /// # Errors
    /// The store.
    pub async fn put_new(&self, name: &str, content: Bytes) -> Result<Put, Error> {
        self.require_writable()?;
        let payload = PutPayload::from_bytes(content);
        let path = self.path(name);
        match self
            .store
            .put_opts(&path, payload, PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(Put::Stored),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::WasThere),
            // An S3 store that was told so by its options.
            Err(object_store::Error::NotImplemented { .. }) => Err(stores::read_only(&self.place)),
            Err(source) => Err(failed("store", name)(source)),
        }
    }

    /// The whole of an object; none when there is none.
    ///
    /// # Errors
    /// The store.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let read = failed("read", name);
        match self.store.get(&self.path(name)).await {
            Ok(found) => found.bytes().await.map(Some).map_err(read),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(read(source)),
        }
    }

    /// The names of all objects in a folder and below it, sorted.
    ///
    /// # Errors
    /// The store.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let prefix = self.path(folder);
        let strip = self.base.parts().count();
        let found: Vec<_> = self
            .store
            .list(Some(&prefix))
            .try_collect()
            .await
            .map_err(failed("list", folder))?;
        let name = |path: &Path| {
            let parts: Vec<String> = path
                .parts()
                .skip(strip)
                .map(|part| part.as_ref().to_owned())
                .collect();
            parts.join("/")
        };
        let mut names: Vec<String> = found.iter().map(|meta| name(&meta.location)).collect();
        names.sort();
        Ok(names)
    }

    /// The names of the folders directly in a folder, sorted.
    ///
    /// # Errors
    /// The store.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        let prefix = self.path(folder);
        let found = self
            .store
            .list_with_delimiter(Some(&prefix))
            .await
            .map_err(failed("list", folder))?;
        let last = |path: &Path| path.parts().next_back().map(|it| it.as_ref().to_owned());
        let mut names: Vec<String> = found.common_prefixes.iter().filter_map(last).collect();
        names.sort();
        Ok(names)
    }

    /// Removes an object; one that is not there is a success.
    ///
    /// # Errors
    /// The store.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        self.require_writable()?;
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed("delete", name)(source)),
        }
    }

    /// When an object was stored; none when there is none. Unix time in milliseconds.
    ///
    /// # Errors
    /// The store.
    pub async fn stored_unix_ms(&self, name: &str) -> Result<Option<i64>, Error> {
        match self.store.head(&self.path(name)).await {
            Ok(found) => Ok(Some(found.last_modified.timestamp_millis())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed("look at", name)(source)),
        }
    }

    /// A large object as a stream.
    ///
    /// # Errors
    /// The store; it is not there.
    pub(crate) async fn reader(
        &self,
        name: &str,
    ) -> Result<impl tokio::io::AsyncRead + Send + Unpin + 'static, Error> {
        let path = self.path(name);
        let found = self.store.get(&path).await.map_err(failed("read", name))?;
        let size = found.meta.size;
        let is_local = matches!(found.payload, GetResultPayload::File(..));
        // A plain web server may know no ranges.
        let stream = match is_local || self.is_read_only || size <= RANGE {
            true => found.into_stream().left_stream(),
            false => {
                let store = Arc::clone(&self.store);
                let ranges = (0..size).step_by(RANGE_STEP).map(move |from| {
                    let (store, path) = (Arc::clone(&store), path.clone());
                    let range = from..size.min(from + RANGE);
                    async move { store.get_range(&path, range).await }
                });
                let ranges = futures_util::stream::iter(ranges).buffered(RANGES_AT_ONCE);
                ranges.right_stream()
            }
        };
        let stream = stream.map_err(std::io::Error::from);
        Ok(tokio_util::io::StreamReader::new(Box::pin(stream)))
    }
}

pub(crate) fn failed(
    verb: &'static str,
    name: &str,
) -> impl Fn(object_store::Error) -> Error + use<> {
    let name = name.to_owned();
    move |source| Error::Store {
        verb,
        name: name.clone(),
        source,
    }
}
