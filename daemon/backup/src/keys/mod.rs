//! Keys. Content is encrypted to a data key that is made for it: one a backup, one for the WAL that a daemon
//! archives in its life. The private half of a data key is in the repository, encrypted to each of the
//! configured recipients in an object of its own, and nowhere else: who writes cannot read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use age::x25519;
use bytes::Bytes;

use crate::{Error, Put, Repository, names, secret_file};

/// A public key: `age1…`.
#[derive(Clone)]
pub struct Recipient {
    text: String,
    key: x25519::Recipient,
}

impl Recipient {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn key(&self) -> &x25519::Recipient {
        &self.key
    }

    fn of(identity: &x25519::Identity) -> Recipient {
        let key = identity.to_public();
        Recipient {
            text: key.to_string(),
            key,
        }
    }
}

impl FromStr for Recipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Recipient, String> {
        if text
            .get(..15)
            .is_some_and(|start| start.eq_ignore_ascii_case("AGE-SECRET-KEY-"))
        {
            // Not shown again.
            return Err("a private key, which must not be here (its public key: age1…)".to_owned());
        }
        match text.parse::<x25519::Recipient>() {
            // Names of objects are made of it: only the one spelling.
            Ok(key) if key.to_string() == text => Ok(Recipient {
                text: text.to_owned(),
                key,
            }),
            Ok(_) | Err(_) => Err(format!(
                "`{text}` is no public key of age (age1 and 58 more characters, of `clusterd-backup key generate`)"
            )),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Private keys of a reader. `Debug` shows the public ones.
#[derive(Clone, Default)]
pub(crate) struct Identities(Vec<(Recipient, x25519::Identity)>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.public()).finish()
    }
}

impl Identities {
    /// Reads a file as age-keygen writes it: a key a line, `#` begins a comment.
    ///
    /// # Errors
    /// The file, or what is in it; nothing of it is shown.
    pub fn read(path: &Path) -> Result<Identities, Error> {
        let bad = |why: String| Error::BadIdentity {
            path: path.to_owned(),
            why,
        };
        let text = secret_file::read(path).map_err(bad)?;
        let found = parse(&text).map_err(bad)?;
        match found.0.is_empty() {
            true => Err(bad("it holds no private key (AGE-SECRET-KEY-1…)".to_owned())),
            false => Ok(found),
        }
    }

    /// The private halves.
    pub fn keys(&self) -> impl Iterator<Item = &x25519::Identity> {
        self.0.iter().map(|(_, key)| key)
    }

    /// The public halves.
    pub fn public(&self) -> impl Iterator<Item = &Recipient> {
        self.0.iter().map(|(public, _)| public)
    }
}

fn parse(text: &str) -> Result<Identities, String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let identity: x25519::Identity = line.parse().map_err(|why| {
            format!(
                "line {}: {why} (AGE-SECRET-KEY-1…; a file with a passphrase is opened with `age --decrypt` first)",
                number + 1
            )
        })?;
        found.push((Recipient::of(&identity), identity));
    }
    Ok(Identities(found))
}

/// Makes a pair of keys for a person: a new file that only its owner can read. Answers the public half.
///
/// # Errors
/// The file, or it is there.
pub fn generate(path: &Path) -> Result<Recipient, Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    let identity = x25519::Identity::generate();
    let text = document(&identity);
    let attempt = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    attempt().map_err(|source| Error::File {
        verb: "make",
        path: path.to_owned(),
        source,
    })?;
    Ok(Recipient::of(&identity))
}

/// As age-keygen writes it.
fn document(identity: &x25519::Identity) -> Vec<u8> {
    let public = identity.to_public();
    let private = identity.to_string();
    format!("# public key: {public}\n{}\n", private.expose_secret()).into_bytes()
}

/// Makes a data key and stores its private half for everybody who may read; it is forgotten here.
///
/// # Errors
/// The store.
pub(crate) async fn make(
    repository: &Repository,
    database: u64,
    readers: &[Recipient],
) -> Result<Recipient, Error> {
    let identity = x25519::Identity::generate();
    let data = Recipient::of(&identity);
    for reader in readers {
        wrap(repository, database, &identity, reader).await?;
    }
    Ok(data)
}

/// Stores the private half of a data key for one reader; the same again is a success.
pub(crate) async fn wrap(
    repository: &Repository,
    database: u64,
    data: &x25519::Identity,
    reader: &Recipient,
) -> Result<Put, Error> {
    let name = names::wrapped_key(database, Recipient::of(data).as_str(), reader.as_str());
    let wrapped = age::encrypt(reader.key(), &document(data)).map_err(|error| Error::BadKey {
        name: name.clone(),
        why: error.to_string(),
    })?;
    repository.put_new(&name, Bytes::from(wrapped)).await
}

/// The private half of a data key.
///
/// # Errors
/// [`Error::Locked`] with who could open it; the store; a damaged key.
pub(crate) async fn open(
    repository: &Repository,
    database: u64,
    data: &str,
) -> Result<x25519::Identity, Error> {
    for (public, identity) in &repository.identities().0 {
        let name = names::wrapped_key(database, data, public.as_str());
        let Some(wrapped) = repository.get(&name).await? else {
            continue;
        };
        let bad = |why: String| Error::BadKey {
            name: name.clone(),
            why,
        };
        let text = age::decrypt(identity, &wrapped).map_err(|error| bad(error.to_string()))?;
        let text = String::from_utf8(text).map_err(|_| bad("it is no text".to_owned()))?;
        let found = parse(&text).map_err(bad)?;
        return match found.0.into_iter().next() {
            Some((public, identity)) if public.as_str() == data => Ok(identity),
            Some(_) | None => Err(bad("it is another key than its name says".to_owned())),
        };
    }
    // For the answer only.
    let readers = match repository.list(&names::wrapped_keys(database, data)).await {
        Ok(objects) => objects
            .iter()
            .filter_map(|it| names::reader_of(it))
            .map(str::to_owned)
            .collect(),
        Err(_) => Vec::new(),
    };
    Err(Error::Locked {
        database,
        data: data.to_owned(),
        readers,
        given: repository
            .identities()
            .public()
            .map(ToString::to_string)
            .collect(),
    })
}

/// A data key of a repository, as a check saw it.
#[derive(Debug)]
pub struct Checked {
    /// Of which database.
    pub database: u64,
    /// Its public half.
    pub data: String,
    /// Whether it can be opened, and why not.
    pub opened: Result<(), Error>,
}

/// Tries every data key of every database with the identity that the repository was opened with.
///
/// # Errors
/// The store.
pub async fn check(repository: &Repository) -> Result<Vec<Checked>, Error> {
    let mut all = Vec::new();
    for (database, data) in data_keys(repository).await? {
        let opened = open(repository, database, &data).await.map(drop);
        all.push(Checked {
            database,
            data,
            opened,
        });
    }
    Ok(all)
}

/// Lets one more reader open every data key; says which keys it was stored for now, which were open to it
/// already, and which cannot be opened with the identity at hand.
///
/// # Errors
/// The store.
pub async fn add(
    repository: &Repository,
    reader: &Recipient,
) -> Result<Vec<(Checked, Put)>, Error> {
    let mut all = Vec::new();
    for (database, data) in data_keys(repository).await? {
        let (opened, put) = match open(repository, database, &data).await {
            Ok(identity) => (Ok(()), wrap(repository, database, &identity, reader).await?),
            Err(error) => (Err(error), Put::WasThere),
        };
        let checked = Checked {
            database,
            data,
            opened,
        };
        all.push((checked, put));
    }
    Ok(all)
}

async fn data_keys(repository: &Repository) -> Result<Vec<(u64, String)>, Error> {
    let mut found = Vec::new();
    for database in repository.folders("").await? {
        let Ok(database) = database.parse() else {
            continue;
        };
        let keys = repository.folders(&names::keys(database)).await?;
        found.extend(keys.into_iter().map(|data| (database, data)));
    }
    Ok(found)
}

/// Where a private key is read from, for messages.
pub(crate) fn read_from(path: Option<&PathBuf>) -> Result<Identities, Error> {
    path.map_or_else(|| Ok(Identities::default()), |path| Identities::read(path))
}

#[cfg(test)]
mod tests;
