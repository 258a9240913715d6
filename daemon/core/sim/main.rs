//! The simulation of whole clusters on the core's own functions: random schedules with faults
//! (properties in `checks/`), named situations (`cases/`), and the lease searched exhaustively.
//!
//! `cargo xtask simulate` runs as many schedules as one wants, or one and tells everything.

#![allow(
    clippy::disallowed_methods,
    reason = "the drivers read seeds from the environment and time themselves; the core does not"
)]

mod actions;
mod campaign;
mod changes;
mod checks;
mod clocks;
mod coverage;
mod faults;
mod kinds;
mod leader;
mod lease_model;
mod lease_search;
mod lease_truth;
mod member;
mod mistakes;
mod mutants;
mod network;
mod one_loss;
mod postgres;
mod raft;
mod random;
mod schedules;
mod sync;
mod transcripts;
mod world;
