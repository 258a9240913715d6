//! Cuts of the network between members; clients reach everybody, except where all is cut.

use anyhow::Result;
use cluster_tests::member::{GRPC_PORT, POSTGRES_PORT};
use cluster_tests::{Cluster, Cut};

use super::Fault;

/// Cuts.
pub fn begin(fault: Fault, cluster: &Cluster, target: usize) -> Result<()> {
    let peers = cluster.peers_of(target);
    let cut = match fault {
        Fault::Mute => Cut::To(peers),
        Fault::Deafen => Cut::From(peers),
        Fault::CutPeerPort => Cut::Port(GRPC_PORT),
        Fault::CutReplication => Cut::PeersPort(peers, POSTGRES_PORT),
        Fault::CutAll => Cut::All,
        _ => Cut::Peers(peers),
    };
    cluster.members[target].cut(&cut)
}
