//! gRPC between members: checks who calls, then hands over to the backend.

use std::sync::Arc;

use cluster_core::model::MemberName;
use cluster_proto::v1;
use tonic::{Request, Response, Status};

use super::asks::Asks;
use crate::board::ProposeError;
use crate::exchange::PeerBackend;
use crate::secret::{Call, ClusterSecret, PROOF_KEY};
use crate::wire;

/// The peer service.
pub struct PeerService {
    asks: Asks,
    secret: ClusterSecret,
    backend: Arc<dyn PeerBackend>,
}

impl PeerService {
    /// Over this backend; only callers that know `secret` get through.
    pub fn new(asks: Asks, secret: ClusterSecret, backend: Arc<dyn PeerBackend>) -> PeerService {
        PeerService {
            asks,
            secret,
            backend,
        }
    }

    /// Who calls: proven to know the secret, of this cluster's life, and meaning this member.
    fn caller<T>(
        &self,
        request: &Request<T>,
        header: Option<&v1::PeerHeader>,
        method: &str,
    ) -> Result<MemberName, Status> {
        let header = header.ok_or_else(|| Status::invalid_argument("the header is missing"))?;
        let proof = request
            .metadata()
            .get(PROOF_KEY)
            .and_then(|value| value.to_str().ok());
        let call = Call {
            cluster_id: &header.cluster_id,
            generation: header.generation,
            from: &header.from,
            to: &header.to,
            method,
        };
        if !proof.is_some_and(|proof| self.secret.is_proven(&call, proof)) {
            return Err(Status::unauthenticated(
                "the caller does not know this cluster's secret (compare the secret files)",
            ));
        }
        let board = self.asks.board();
        let Some(own) = &board.state.identity else {
            return Err(Status::failed_precondition(
                "this member's group has not formed yet",
            ));
        };
        if own.id.0 != header.cluster_id || own.generation.0 != header.generation {
            return Err(Status::failed_precondition(format!(
                "this member belongs to cluster {} generation {}, the caller to {} generation {}",
                own.id, own.generation, header.cluster_id, header.generation
            )));
        }
        if board.me.as_str() != header.to {
            return Err(Status::failed_precondition(format!(
                "this is member {}, the caller meant {}",
                board.me, header.to
            )));
        }
        let from = wire::member_name("from", &header.from).map_err(invalid)?;
        if !board.state.members.contains_key(&from) {
            return Err(Status::failed_precondition(format!(
                "there is no member `{from}` here"
            )));
        }
        Ok(from)
    }
}

fn invalid(error: wire::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl v1::peer_server::Peer for PeerService {
    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportReply>, Status> {
        let from = self.caller(&request, request.get_ref().header.as_ref(), "Peer/Report")?;
        let report = wire::decode_report(request.get_ref().report.as_ref()).map_err(invalid)?;
        if report.member != from {
            return Err(Status::invalid_argument(format!(
                "{from} sent a report of {}",
                report.member
            )));
        }
        let answer = match self.backend.report(report).await {
            Ok(view) => v1::report_reply::Answer::View(wire::encode_view(&view)),
            Err(not) => v1::report_reply::Answer::NotLeader(wire::encode_not_leader(&not)),
        };
        Ok(Response::new(v1::ReportReply {
            answer: Some(answer),
        }))
    }

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::ProposeReply>, Status> {
        let from = self.caller(&request, request.get_ref().header.as_ref(), "Peer/Propose")?;
        let v1::ProposeRequest {
            version, command, ..
        } = request.into_inner();
        let command = wire::decode_command(version, &command).map_err(invalid)?;
        let answer = match self.backend.propose(from, command).await {
            Ok(()) => v1::propose_reply::Answer::Applied(v1::Done {}),
            Err(ProposeError::Rejected(why)) => {
                v1::propose_reply::Answer::Rejected(why.to_string())
            }
            Err(ProposeError::NoLeader(why)) => {
                v1::propose_reply::Answer::NotLeader(v1::NotLeader {
                    leader: String::new(),
                    why,
                })
            }
            Err(ProposeError::Unknown) => v1::propose_reply::Answer::Unknown(v1::Done {}),
        };
        Ok(Response::new(v1::ProposeReply {
            answer: Some(answer),
        }))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewReply>, Status> {
        let from = self.caller(&request, request.get_ref().header.as_ref(), "Peer/Renew")?;
        let renewal = wire::decode_renewal(from, request.get_ref());
        let attempt = renewal.attempt.clone();
        let answer = self.backend.renew(renewal).await;
        Ok(Response::new(wire::encode_renewal(attempt, &answer)))
    }

    async fn try_parameters(
        &self,
        request: Request<v1::TryParametersRequest>,
    ) -> Result<Response<v1::TryParametersReply>, Status> {
        let header = request.get_ref().header.as_ref();
        self.caller(&request, header, "Peer/TryParameters")?;
        let v1::TryParametersRequest {
            version, settings, ..
        } = request.into_inner();
        let settings = wire::decode_tried(version, &settings).map_err(invalid)?;
        let problems = self.backend.try_parameters(settings).await;
        Ok(Response::new(v1::TryParametersReply { problems }))
    }
}
