//! What is written while things break.

mod set;

pub use set::Set;
