//! One object store as a repository: objects are written once, read whole or as a stream, and listed.

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use url::Url;

use crate::Error;

/// How a put ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is stored.
    Stored,
    /// An object of this name is there; it was left as it is.
    WasThere,
}

/// A place for backups and WAL.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    base: Path,
    place: String,
}

impl Repository {
    /// A directory by its absolute path, or a URL that the object store library knows.
    ///
    /// # Errors
    /// A path that is not absolute or cannot be made, an unknown URL.
    pub fn open(place: &str) -> Result<Repository, Error> {
        let bad = |why: String| Error::BadPlace {
            place: place.to_owned(),
            why,
        };
        if place.starts_with('/') {
            std::fs::create_dir_all(place).map_err(|error| bad(error.to_string()))?;
            let store = LocalFileSystem::new_with_prefix(FilePath::new(place))
                .map_err(|error| bad(error.to_string()))?;
            return Ok(Repository {
                // A segment is given free by PostgreSQL as soon as it is said to be archived.
                store: Arc::new(store.with_fsync(true)),
                base: Path::default(),
                place: place.to_owned(),
            });
        }
        let url = Url::parse(place).map_err(|error| {
            bad(format!(
                "{error}; an absolute path of a directory, or a URL"
            ))
        })?;
        let (store, base) =
            object_store::parse_url(&url).map_err(|error| bad(error.to_string()))?;
        Ok(Repository {
            store: Arc::from(store),
            base,
            place: place.to_owned(),
        })
    }

    /// As it was given.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn path(&self, name: &str) -> Path {
        let parts = name.split('/').filter(|part| !part.is_empty());
        parts.fold(self.base.clone(), |path, part| path.join(part))
    }

    /// Stores an object that is not there yet, in one go.
    ///
    /// # Errors
    /// The store.
    pub async fn put_new(&self, name: &str, content: Bytes) -> Result<Put, Error> {
        let payload = PutPayload::from_bytes(content);
        let path = self.path(name);
        match self
            .store
            .put_opts(&path, payload, PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(Put::Stored),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::WasThere),
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

    /// A large object, written in parts; it is there once the writer has been shut down.
    pub(crate) fn writer(&self, name: &str) -> BufWriter {
        BufWriter::new(Arc::clone(&self.store), self.path(name))
    }

    /// A large object as a stream.
    ///
    /// # Errors
    /// The store; it is not there.
    pub(crate) async fn reader(
        &self,
        name: &str,
    ) -> Result<impl tokio::io::AsyncRead + Send + Unpin + 'static, Error> {
        let found = self
            .store
            .get(&self.path(name))
            .await
            .map_err(failed("read", name))?;
        let stream = found.into_stream().map_err(std::io::Error::from);
        Ok(tokio_util::io::StreamReader::new(Box::pin(stream)))
    }
}

fn failed(verb: &'static str, name: &str) -> impl Fn(object_store::Error) -> Error + use<> {
    let name = name.to_owned();
    move |source| Error::Store {
        verb,
        name: name.clone(),
        source,
    }
}
