//! The gRPC service that carries Raft messages between members. It translates and holds no rule.

use cluster_core::model::MemberName;
use cluster_proto::v1;
use cluster_proto::v1::raft_server::{Raft, RaftServer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::raft::group::{Door, Joiner, Offer};
use crate::raft::handshake::PROOF_KEY;
use crate::raft::inbox::{Inbox, Incoming, Refusal};
use crate::raft::network::Method;
use crate::raft::types::Identity;

/// Messages of one stream that are being answered. Judgement: a leader sends two at once.
const STREAM_DEPTH: usize = 64;

type Answers = mpsc::Sender<Result<v1::AppendStreamReply, Status>>;

/// The service over `inbox`; served before the group has formed.
pub fn service(inbox: Inbox) -> RaftServer<RaftService> {
    RaftServer::new(RaftService { inbox })
}

/// The service.
#[derive(Clone)]
pub struct RaftService {
    inbox: Inbox,
}

fn refused(refusal: Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::NotProven => Status::unauthenticated(text),
        Refusal::NotForUs(_) => Status::failed_precondition(text),
        Refusal::NotNow(_) | Refusal::Failed(_) => Status::aborted(text),
        Refusal::NotUnderstood(_) => Status::unimplemented(text),
    }
}

fn proof<T>(request: &Request<T>) -> Result<String, Status> {
    let proof = request
        .metadata()
        .get(PROOF_KEY)
        .and_then(|proof| proof.to_str().ok());
    proof
        .map(str::to_owned)
        .ok_or_else(|| refused(Refusal::NotProven))
}

impl RaftService {
    async fn pass(
        &self,
        method: Method,
        request: Request<v1::RaftRequest>,
    ) -> Result<Response<v1::RaftReply>, Status> {
        let proof = proof(&request)?;
        let reply = self.answer(method, request.into_inner(), proof).await?;
        Ok(Response::new(reply))
    }

    async fn answer(
        &self,
        method: Method,
        message: v1::RaftRequest,
        proof: String,
    ) -> Result<v1::RaftReply, Status> {
        let incoming = Incoming {
            method,
            cluster_id: message.cluster_id,
            generation: message.generation,
            from: message.from,
            to: message.to,
            mark: message.mark.unwrap_or_default().into(),
            seen: message.seen.unwrap_or_default().into(),
            payload: message.payload,
            proof,
        };
        let outgoing = self.inbox.answer(incoming).await.map_err(refused)?;
        Ok(v1::RaftReply {
            from: outgoing.from,
            mark: Some(outgoing.mark.into()),
            seen: Some(outgoing.seen.into()),
            payload: outgoing.payload,
        })
    }

    /// Answers the messages of a stream, several at once, until it ends or one is refused.
    async fn answer_all(
        self,
        mut messages: Streaming<v1::AppendStreamRequest>,
        proof: String,
        to: Answers,
    ) {
        while let Ok(Some(message)) = messages.message().await {
            // Waits when the caller does not read its answers.
            let Ok(place) = to.clone().reserve_owned().await else {
                return;
            };
            let (service, proof) = (self.clone(), proof.clone());
            tokio::spawn(async move {
                let request = message.request.unwrap_or_default();
                let answer = service.answer(Method::AppendStream, request, proof).await;
                place.send(answer.map(|reply| v1::AppendStreamReply {
                    number: message.number,
                    reply: Some(reply),
                }));
            });
        }
    }

    fn door(&self) -> Result<Door, Status> {
        self.inbox
            .door()
            .ok_or_else(|| Status::aborted("this member is starting"))
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append_entries(
        &self,
        request: Request<v1::RaftRequest>,
    ) -> Result<Response<v1::RaftReply>, Status> {
        self.pass(Method::AppendEntries, request).await
    }

    type AppendStreamStream = ReceiverStream<Result<v1::AppendStreamReply, Status>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let proof = proof(&request)?;
        let (sender, answers) = mpsc::channel(STREAM_DEPTH);
        let service = self.clone();
        tokio::spawn(service.answer_all(request.into_inner(), proof, sender));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn vote(
        &self,
        request: Request<v1::RaftRequest>,
    ) -> Result<Response<v1::RaftReply>, Status> {
        self.pass(Method::Vote, request).await
    }

    async fn install_snapshot(
        &self,
        request: Request<v1::RaftRequest>,
    ) -> Result<Response<v1::RaftReply>, Status> {
        self.pass(Method::InstallSnapshot, request).await
    }

    async fn probe(
        &self,
        request: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeReply>, Status> {
        let proof = proof(&request)?;
        let v1::ProbeRequest { from, to } = request.into_inner();
        let told = self.door()?.probed(&from, &to, &proof).map_err(refused)?;
        let identity = told.identity.as_ref();
        Ok(Response::new(v1::ProbeReply {
            name: told.name,
            cluster_id: identity
                .map(|known| known.cluster_id.clone())
                .unwrap_or_default(),
            generation: identity.map_or(0, |known| known.generation),
            node_id: identity.map_or(0, |known| known.node_id),
            store_is_empty: told.store_is_empty,
            data_dir: told.data_dir,
            system_identifier: told.system_identifier,
            list_hash: told.list_hash,
            boot_id: told.boot_id,
            nonce: told.nonce,
        }))
    }

    async fn adopt(
        &self,
        request: Request<v1::AdoptRequest>,
    ) -> Result<Response<v1::AdoptReply>, Status> {
        let proof = proof(&request)?;
        let message = request.into_inner();
        let offer = Offer {
            from: message.from,
            nonce: message.nonce,
            identity: Identity {
                cluster_id: message.cluster_id,
                generation: message.generation,
                node_id: message.node_id,
                founders: Vec::new(),
            },
            list_hash: Some(message.list_hash).filter(|hash| !hash.is_empty()),
        };
        self.door()?
            .offered(offer, &message.to, &proof)
            .await
            .map_err(refused)?;
        Ok(Response::new(v1::AdoptReply {}))
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinReply>, Status> {
        let proof = proof(&request)?;
        let message = request.into_inner();
        let name: MemberName = message
            .from
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let joiner = Joiner {
            name,
            address: message.address,
            kind: message.kind,
            heard: Instant::now(),
        };
        let waiting_for = self
            .door()?
            .asked_to_join(joiner, &message.to, &proof)
            .map_err(refused)?;
        Ok(Response::new(v1::JoinReply { waiting_for }))
    }
}
