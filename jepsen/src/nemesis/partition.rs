//! Cuts of the network between members; clients reach everybody.

use anyhow::Result;
use cluster_tests::member::GRPC_PORT;
use cluster_tests::{Cluster, Cut};

use super::Fault;

/// Cuts.
pub fn begin(fault: Fault, cluster: &Cluster, target: usize) -> Result<()> {
    let peers = cluster.peers_of(target);
    let cut = match fault {
        Fault::Mute => Cut::To(peers),
        Fault::Deafen => Cut::From(peers),
        Fault::CutPeerPort => Cut::Port(GRPC_PORT),
        _ => Cut::Peers(peers),
    };
    cluster.members[target].cut(&cut)
}
