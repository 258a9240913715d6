//! Clients of the cluster: a session on one server, and what its answers mean.

mod outcome;
mod session;

pub use outcome::{Observed, Outcome, Stage, outcome};
pub use session::{Places, Session, array};
