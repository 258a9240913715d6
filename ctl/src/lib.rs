//! clusterctl as a library, so that its tests can print from fixed data.
//!
//! One file a command in `commands/`; `client` talks to members, `view` holds what is shown (never a
//! generated type), `output` writes it. Data goes to stdout, talk to stderr.

pub mod args;
pub mod ask;
pub mod client;
pub mod commands;
pub mod confirm;
pub mod exit;
pub mod output;
pub mod places;
pub mod time;
pub mod view;
