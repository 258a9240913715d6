//! The repository: base backups and archived WAL in an object store, and restore from it.
//!
//! Knows object stores, not Raft and not a running PostgreSQL. Objects are written once and never
//! changed; a backup exists when its manifest does, which is written last. Readers trust what a manifest
//! lists, and every object carries the hash of its content.

pub mod archive;
pub mod audit;
pub mod command;
mod credentials;
mod error;
pub mod holds;
pub mod keys;
pub mod lineage;
mod locate;
pub mod manifest;
pub mod names;
mod plan;
pub mod prune;
pub mod repository;
pub mod restore;
pub mod retention;
mod seal;
mod secret_file;
pub mod snapshot;
mod stores;
mod streams;
pub mod survey;
mod upload;
pub mod verify;
pub mod wal;

pub use error::Error;
pub use keys::Recipient;
pub use manifest::{Manifest, StoredFile};
pub use repository::{Options, Put, Repository};
pub use stores::problems;
