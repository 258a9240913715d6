//! How the repository fails.

use std::path::PathBuf;

/// Every failure names what was tried and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a place that can be a repository.
    #[error("`{place}` cannot be a repository: {why}")]
    BadPlace {
        /// As it was given.
        place: String,
        /// What is wrong with it, and what would do.
        why: String,
    },
    /// The file of an object store's options and credentials.
    #[error("{}: {}", path.display(), problems.join("; "))]
    BadCredentials {
        /// Which file.
        path: PathBuf,
        /// All that is wrong with it.
        problems: Vec<String>,
    },
    /// A store that cannot be told to leave what is there.
    #[error(
        "`{0}` can only be read: there is no way to store there without overwriting (a directory, s3://, \
         gs:// or az:// can be written to)"
    )]
    ReadOnly(String),
    /// A file of private keys.
    #[error("the identity {}: {why}", path.display())]
    BadIdentity {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The private half of a data key, as it is stored.
    #[error("the key `{name}` cannot be used: {why}")]
    BadKey {
        /// Which object.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// None of the private keys at hand opens it.
    #[error(
        "the data key {data} of database {database} cannot be opened: {}, and {}",
        match readers.is_empty() {
            true => "who could open it is not known".to_owned(),
            false => format!("the private key of {} would do", readers.join(" or ")),
        },
        match given.is_empty() {
            true => "none was given (--identity FILE)".to_owned(),
            false => format!("what was given is that of {}", given.join(", ")),
        }
    )]
    Locked {
        /// Of which database.
        database: u64,
        /// Its public half.
        data: String,
        /// Public keys that it is stored for.
        readers: Vec<String>,
        /// Public keys of what was given.
        given: Vec<String>,
    },
    /// The object store refused or did not answer.
    #[error("could not {verb} `{name}` in the repository")]
    Store {
        /// What was tried.
        verb: &'static str,
        /// Which object.
        name: String,
        /// How it failed.
        #[source]
        source: object_store::Error,
    },
    /// A local file.
    #[error("could not {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
    /// PostgreSQL hands over and asks for files of a few forms only.
    #[error("`{0}` is no name of a WAL segment, a timeline history file or a backup history file")]
    BadName(String),
    /// Two servers have archived different contents under one name: they are never merged.
    #[error(
        "{name} is in the repository with different contents ({}): two servers have written it",
        objects.join(", ")
    )]
    TwoContents {
        /// The WAL file.
        name: String,
        /// The objects.
        objects: Vec<String>,
    },
    /// What came out is not what was put in.
    #[error("{name} is damaged: its content has the hash {found}, {wanted} was stored")]
    Damaged {
        /// Which object.
        name: String,
        /// By the name or the manifest.
        wanted: String,
        /// By what was read.
        found: String,
    },
    /// A manifest nobody of this version wrote.
    #[error("the manifest `{name}` cannot be read: {why}")]
    BadManifest {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A pin, a lease, a report: nothing that this version wrote.
    #[error("`{name}` cannot be read: {why}")]
    BadDocument {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A file that is no whole snapshot.
    #[error("{} is damaged: {why}", path.display())]
    BadSnapshot {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
    /// A restore that cannot begin; nothing was touched.
    #[error("{0}")]
    Refused(String),
    /// A thread was given up.
    #[error("{0} was given up")]
    GivenUp(&'static str),
}
