//! At the end every member has the same rows as the primary.

use std::time::Duration;

use anyhow::Result;
use cluster_tests::{Cluster, wait_until};

use crate::report::Report;

const DIGEST: &str = "SELECT count(*) || ' ' || coalesce(md5(string_agg(writer || ' ' || number, ',' \
                      ORDER BY writer, number)), '') FROM written";

/// Compares a digest of the table on every member.
pub fn check(cluster: &Cluster, primary: usize, report: &mut Report) -> Result<()> {
    let wanted = cluster.sql(primary, DIGEST)?;
    for (place, member) in cluster.members.iter().enumerate() {
        if member.is_witness {
            continue;
        }
        let same = wait_until("the same rows", Duration::from_secs(20), || {
            match cluster.sql(place, DIGEST) {
                Ok(found) if found == wanted => Ok(()),
                Ok(found) => Err(format!("{found:?}, the primary has {wanted:?}")),
                Err(error) => Err(format!("{error:#}")),
            }
        });
        if let Err(error) = same {
            report.violation(format!(
                "{} differs from the primary: {error:#}",
                member.name
            ));
        }
    }
    Ok(())
}
