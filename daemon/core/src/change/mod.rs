//! How the truth moves: every change there is, and what refuses it.

pub mod apply;
mod backup;
mod bypass;
pub mod command;
pub mod invariants;
mod maintenance;
mod missing;
mod rules;
mod schedule;
mod settings;
mod snapshot;

pub use apply::{Applied, apply};
pub use command::{Command, Rejected, Stamp};
