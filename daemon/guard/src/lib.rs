//! The guard: parent of the postmaster and dead-man's switch.
//!
//! The binary is one process with one thread and one poll loop. The library half is what the daemon
//! shares with it: the messages (`protocol`), the lease's clock (`clock`), the account PostgreSQL
//! runs as (`privileges`) and the one module with `unsafe` (`sys`). Everything else is public only
//! so that the binary and its tests can reach it.
//!
//! The surprise: nothing on the way from "deadline passed" to "killed" opens a file on a disk,
//! writes a log line or allocates more than a list of process ids.

pub mod arguments;
pub mod census;
pub mod cgroup;
pub mod clock;
pub mod connection;
pub mod guard;
pub mod kill;
pub mod log;
pub mod orders;
pub mod privileges;
pub mod process_set;
pub mod processes;
pub mod protocol;
pub mod server;
pub mod startup;
pub mod stranger;
pub mod sys;
pub mod tools;
pub mod watchdog;
