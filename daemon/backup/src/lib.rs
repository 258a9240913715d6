//! The repository: base backups and archived WAL in an object store, and restore from it.
//!
//! Knows object stores, not Raft and not a running PostgreSQL. Objects are written once and never
//! changed; a backup exists when its manifest does, which is written last. Readers trust what a manifest
//! lists, and every object carries the hash of its content.

pub mod archive;
pub mod audit;
pub mod command;
mod error;
pub mod holds;
pub mod lineage;
pub mod manifest;
pub mod names;
pub mod prune;
pub mod repository;
pub mod restore;
pub mod retention;
mod streams;
pub mod verify;
pub mod wal;

pub use error::Error;
pub use manifest::{Manifest, StoredFile};
pub use repository::{Put, Repository};
