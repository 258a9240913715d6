//! The façade against real servers, under the real guard, for each major version.
//!
//! Which servers: `MATRIARCH_PG_BINS` (a list of `bin` folders separated by colons), else every
//! `/usr/lib/postgresql/*/bin` and what `cargo xtask` has put under `target/postgres`. None found is
//! a failure. Started as root, servers run as user `postgres`.

mod basebackup;
mod config_files;
mod confirmations;
mod held_replay;
mod interrupted;
mod place;
mod promotion;
mod replication;
mod rewind;
mod server;
mod slots;
mod status;
mod stopping;
mod timelines;
