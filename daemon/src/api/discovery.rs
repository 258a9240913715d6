//! gRPC discovery: where the primary and the standbys are. Open and read-only.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::v1;
use futures_util::Stream;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::asks::Asks;
use super::topology::{self, DsnRole, Facts, Role};
use crate::board::{Board, LeaseView};

/// A watcher looks again at least this often: a lease runs out and reports grow old without any
/// change of the board.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The discovery service.
pub struct DiscoveryService {
    asks: Asks,
    lease: Arc<dyn LeaseView>,
}

impl DiscoveryService {
    /// Over this board and lease.
    pub fn new(asks: Asks, lease: Arc<dyn LeaseView>) -> DiscoveryService {
        DiscoveryService { asks, lease }
    }
}

fn endpoint(facts: &Facts<'_>) -> Option<v1::Endpoint> {
    let (host, port) = topology::host_and_port(&facts.member.addresses.postgres)?;
    Some(v1::Endpoint {
        member: facts.name.to_string(),
        host: host.to_owned(),
        port: port.into(),
    })
}

/// The role on the wire.
pub fn wire_role(role: Role) -> v1::Role {
    match role {
        Role::Primary => v1::Role::Primary,
        Role::Standby => v1::Role::Standby,
        Role::SyncStandby => v1::Role::SyncStandby,
        Role::QuorumStandby => v1::Role::QuorumStandby,
        Role::Witness => v1::Role::Witness,
    }
}

fn topology_now(board: &Board, lease: &dyn LeaseView) -> v1::Topology {
    let now = lease.now();
    let all = topology::members(board, now);
    // Of itself a member knows better than any report.
    let primary = topology::open_primary(board, &all)
        .filter(|facts| *facts.name != board.me || board.serves_as_primary(lease));
    let standbys = all
        .iter()
        .filter(|facts| {
            matches!(
                facts.role,
                Role::Standby | Role::SyncStandby | Role::QuorumStandby
            )
        })
        .filter_map(|facts| {
            Some(v1::StandbyEndpoint {
                endpoint: Some(endpoint(facts)?),
                role: wire_role(facts.role).into(),
                state: facts.state.to_owned(),
                replay_lag_bytes: facts.replay_lag(),
                noloadbalance: facts.report.is_some_and(|report| {
                    let tags = board.state.tags_in_force(facts.name, &report.tags);
                    tags.noloadbalance
                }),
            })
        })
        .collect();
    v1::Topology {
        cluster: board
            .state
            .identity
            .as_ref()
            .map(|own| own.name.to_string())
            .unwrap_or_default(),
        epoch: board.state.epoch().0,
        primary: primary.and_then(endpoint),
        standbys,
        dsn: topology::dsn(board, now, DsnRole::Any).unwrap_or_default(),
    }
}

/// The topology without what changes all the time.
fn without_lag(mut topology: v1::Topology) -> v1::Topology {
    for standby in &mut topology.standbys {
        standby.replay_lag_bytes = None;
    }
    topology
}

#[tonic::async_trait]
impl v1::discovery_server::Discovery for DiscoveryService {
    async fn get(
        &self,
        _request: Request<v1::GetTopologyRequest>,
    ) -> Result<Response<v1::Topology>, Status> {
        Ok(Response::new(topology_now(
            &self.asks.board(),
            self.lease.as_ref(),
        )))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Topology, Status>> + Send>>;

    async fn watch(
        &self,
        _request: Request<v1::WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // One waiting message is enough: a slow watcher gets the newest one next.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let board = self.asks.receiver();
        let lease = Arc::clone(&self.lease);
        tokio::spawn(send_changes(board, lease, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn send_changes(
    mut board: watch::Receiver<Arc<Board>>,
    lease: Arc<dyn LeaseView>,
    sender: tokio::sync::mpsc::Sender<Result<v1::Topology, Status>>,
) {
    let mut last = None;
    loop {
        let topology = {
            let newest = Arc::clone(&board.borrow_and_update());
            topology_now(&newest, lease.as_ref())
        };
        let shape = without_lag(topology.clone());
        if last.as_ref() != Some(&shape) {
            if sender.send(Ok(topology)).await.is_err() {
                return;
            }
            last = Some(shape);
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = board.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}
