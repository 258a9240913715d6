//! The primary is lost while its rule goes down to nobody: at any moment of that, before, between and
//! after its steps. Whatever it acknowledged alone must not be forgotten.

use std::time::Duration;

use anyhow::Result;
use cluster_tests::Cluster;

use super::{Fault, kill, partition, pause};

/// Stops every standby's PostgreSQL, waits for the moment, strikes the primary; then the standbys go
/// on, so that they could be promoted if anybody thought that they may.
pub fn begin(fault: Fault, cluster: &mut Cluster, primary: usize, moment: Duration) -> Result<()> {
    let databases = (0..cluster.members.len()).filter(|place| !cluster.members[*place].is_witness);
    let standbys: Vec<usize> = databases.filter(|place| *place != primary).collect();
    for standby in &standbys {
        if let Err(error) = cluster.members[*standby].stop_postgres() {
            // It may be starting anew, from the round before.
            eprintln!("           {}: {error:#}", cluster.members[*standby].name);
        }
    }
    std::thread::sleep(moment);
    match fault {
        Fault::DegradeThenKill => kill::begin(Fault::KillHost, &mut cluster.members[primary])?,
        Fault::DegradeThenFreeze => pause::begin(Fault::FreezeHost, &cluster.members[primary])?,
        _ => partition::begin(Fault::Isolate, cluster, primary)?,
    }
    for standby in standbys {
        cluster.members[standby].continue_postgres();
    }
    Ok(())
}
