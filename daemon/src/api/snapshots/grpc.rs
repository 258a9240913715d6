//! gRPC for snapshots.

use std::pin::Pin;
use std::sync::Arc;

use cluster_core::model::{Snapshot, SnapshotId};
use cluster_proto::v1;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{NoFile, Refused, Shelf, Wish, begin, here, read};
use crate::api::admin::{authorize, not_proposed};
use crate::api::asks::Asks;
use crate::board::{Board, LeaseView};
use crate::secret::AdminToken;

/// The service.
pub struct SnapshotService {
    /// The board, and the way to propose.
    pub asks: Asks,
    /// This host's clock.
    pub lease: Arc<dyn LeaseView>,
    /// The files here.
    pub shelf: Shelf,
    /// The shared token; none refuses every change.
    pub token: Option<AdminToken>,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<v1::SnapshotChunk, Status>> + Send>>;

fn id_of(text: &str) -> Result<SnapshotId, Status> {
    text.parse()
        .map_err(|error: cluster_core::model::ids::BadName| {
            Status::invalid_argument(error.to_string())
        })
}

/// A snapshot as the wire has it.
fn message(board: &Board, id: &SnapshotId, snapshot: &Snapshot) -> v1::Snapshot {
    let (status, why) = snapshot.status();
    let members = snapshot.asked.iter().map(|name| {
        let (status, why) = snapshot.status_of(name);
        v1::SnapshotMember {
            name: name.to_string(),
            status: status.word().to_owned(),
            why: why.unwrap_or_default().to_owned(),
        }
    });
    let taker = board.state.members.get(&snapshot.taker);
    let taker = taker.map(|it| it.addresses.clone()).unwrap_or_default();
    v1::Snapshot {
        id: id.to_string(),
        status: status.word().to_owned(),
        why: why.unwrap_or_default().to_owned(),
        by: snapshot.by.clone(),
        at_unix_ms: snapshot.at_unix_ms,
        taker: snapshot.taker.to_string(),
        taker_peer: taker.peer,
        taker_http: taker.http,
        epoch: snapshot.epoch.0,
        recipients: snapshot.recipients.clone(),
        members: members.collect(),
        file: snapshot.file().map(|file| v1::SnapshotFile {
            bytes: file.bytes,
            sha256: file.sha256.clone(),
            timeline: file.timeline.0,
            start: file.start.to_string(),
            end: file.end.to_string(),
            major: file.major,
        }),
    }
}

#[tonic::async_trait]
impl v1::snapshots_server::Snapshots for SnapshotService {
    async fn create(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::Snapshot>, Status> {
        authorize(self.token.as_ref(), &request)?;
        let asked = request.into_inner();
        let wish = Wish {
            member: Some(asked.member),
            recipients: asked.recipients,
            plain: asked.plain,
            by: asked.by,
        };
        match begin(&self.asks, &self.shelf, self.lease.now(), wish).await {
            Ok((id, snapshot)) => Ok(Response::new(message(&self.asks.board(), &id, &snapshot))),
            Err(Refused::Wish(problems)) => Err(Status::invalid_argument(problems.join("; "))),
            Err(Refused::Now(why)) => Err(Status::failed_precondition(why)),
            Err(Refused::Propose(error)) => Err(not_proposed(error)),
        }
    }

    async fn get(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::Snapshot>, Status> {
        let id = id_of(&request.into_inner().id)?;
        let board = self.asks.board();
        match board.state.snapshots.get(&id) {
            Some(snapshot) => Ok(Response::new(message(&board, &id, snapshot))),
            None => Err(Status::not_found(format!("there is no snapshot {id}"))),
        }
    }

    async fn list(
        &self,
        _request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsReply>, Status> {
        let board = self.asks.board();
        let mut all: Vec<_> = board.state.snapshots.iter().collect();
        all.sort_by_key(|(_, it)| std::cmp::Reverse(it.index));
        let origin = board.state.origin.as_ref();
        Ok(Response::new(v1::ListSnapshotsReply {
            snapshots: all
                .into_iter()
                .map(|(id, it)| message(&board, id, it))
                .collect(),
            origin: origin.map(|it| v1::SnapshotOrigin {
                snapshot: it.snapshot.to_string(),
                cluster_id: it.cluster.to_string(),
                generation: it.generation.0,
                epoch: it.epoch.0,
                timeline: it.timeline.0,
                end: it.end.to_string(),
            }),
        }))
    }

    type DownloadStream = Chunks;

    async fn download(
        &self,
        request: Request<v1::DownloadSnapshotRequest>,
    ) -> Result<Response<Chunks>, Status> {
        authorize(self.token.as_ref(), &request)?;
        let id = id_of(&request.into_inner().id)?;
        let bytes = match here(&self.asks.board(), &id) {
            Ok(bytes) => bytes,
            Err(NoFile::None(why)) => return Err(Status::not_found(why)),
            Err(NoFile::Elsewhere(name, _)) => {
                return Err(Status::failed_precondition(format!(
                    "the file of snapshot {id} is on {name}"
                )));
            }
        };
        let failed = |error: std::io::Error| Status::data_loss(format!("snapshot {id}: {error}"));
        let content = read(&self.shelf, &id, bytes).await.map_err(failed)?;
        let chunks = content.map(|chunk| match chunk {
            Ok(data) => Ok(v1::SnapshotChunk {
                data: data.to_vec(),
            }),
            Err(error) => Err(Status::data_loss(error.to_string())),
        });
        Ok(Response::new(Box::pin(chunks)))
    }
}
