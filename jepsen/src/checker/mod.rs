//! Judges a history, one property a file.

mod no_lost_write;
mod one_primary;
mod same_everywhere;

use anyhow::Result;
use clap::ValueEnum;
use cluster_tests::{Cluster, History};

use crate::report::Report;

/// A durability mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A failover may lose the newest rows.
    Async,
    /// Nothing acknowledged is lost.
    Sync,
    /// The same, and writes wait rather than go on alone.
    Strict,
}

impl Mode {
    /// As settings have it.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Async => "async",
            Mode::Sync => "sync",
            Mode::Strict => "strict",
        }
    }
}

/// All properties, by what a mode promises.
pub fn judge(
    mode: Mode,
    cluster: &Cluster,
    primary: usize,
    history: &History,
    report: &mut Report,
) -> Result<()> {
    one_primary::check(history, report);
    let found = cluster.compare(primary, history)?;
    no_lost_write::check(mode, history, &found, report);
    same_everywhere::check(&found, report);
    Ok(())
}
