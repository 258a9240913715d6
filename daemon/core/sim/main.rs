//! The simulation of whole clusters on the core's own functions: random schedules with faults
//! (properties in `checks/`), named situations (`cases/`), and the lease searched exhaustively.
//!
//! `SIM_SEED=n` runs one schedule and tells everything; `SIM_SEEDS=n` says how many are run.

#![allow(
    clippy::disallowed_methods,
    reason = "the drivers read seeds from the environment and time themselves; the core does not"
)]

mod actions;
mod checks;
mod coverage;
mod faults;
mod leader;
mod lease_model;
mod lease_search;
mod lease_truth;
mod member;
mod network;
mod postgres;
mod raft;
mod random;
mod schedules;
mod sync;
mod transcripts;
mod world;
