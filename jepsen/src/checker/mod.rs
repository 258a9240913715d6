//! Judges a history, one property a file.

mod no_lost_write;
mod one_primary;
mod same_everywhere;

use anyhow::Result;
use cluster_tests::{Cluster, History};

use crate::report::Report;

/// All properties.
pub fn judge(
    cluster: &Cluster,
    primary: usize,
    history: &History,
    report: &mut Report,
) -> Result<()> {
    one_primary::check(history, report);
    no_lost_write::check(cluster, primary, history, report)?;
    same_everywhere::check(cluster, primary, report)
}
