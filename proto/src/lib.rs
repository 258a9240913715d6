//! The wire of Matriarch: generated code and nothing else.
//!
//! The meaning of each field is documented in the `.proto` files. These types are seen only in
//! `wire.rs`, `api/`, `peers.rs` and `raft/network.rs` of the daemon, and are never stored.

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("clusterd.v1");
}

/// The compiled descriptions of every file, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/clusterd.v1.bin"));
