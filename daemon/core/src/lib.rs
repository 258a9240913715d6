//! Every rule of Matriarch, without I/O.
//!
//! Three folders, read in this order: [`model`] is what is true and what was seen, [`change`] is
//! how the truth moves, [`decide`] is what to do next. Nothing here reads a clock, a file, a socket,
//! randomness or the environment: the same input gives the same output, byte for byte. The crate's
//! dependency list is the proof.

pub mod change;
pub mod decide;
pub mod model;
