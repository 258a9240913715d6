//! Asks other members: reports, forwarded commands, renewals. Every call has a time limit, and none
//! is repeated here: whoever asked looks again in its next turn.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cluster_core::change::{Command, Rejected};
use cluster_core::model::state::Identity;
use cluster_core::model::{MemberName, MemberReport, Settings};
use cluster_proto::v1;
use cluster_proto::v1::peer_client::PeerClient;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::board::ProposeError;
use crate::exchange::{MergedView, NotLeader, RenewAnswer, RenewRequest};
use crate::secret::{Call, ClusterSecret, PROOF_KEY};
use crate::wire;

/// A connection to a host that vanished is given up after twice this; a new one is tried for as
/// long. Short against every lease, so that a host that came back is found again at once.
const CONNECTION_LIMIT: Duration = Duration::from_millis(500);

/// Why a call to another member gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke.
    #[error("could not reach {to} at {address}: {why}")]
    Unreachable {
        /// The member.
        to: MemberName,
        /// Where it should be.
        address: String,
        /// The transport's words.
        why: String,
        /// The request never left this host.
        before_sending: bool,
    },
    /// No answer within the limit.
    #[error("{to} did not answer within {limit:?}")]
    TimedOut {
        /// The member.
        to: MemberName,
        /// How long was waited.
        limit: Duration,
    },
    /// It answered, but does not lead.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// It refused to talk to us.
    #[error("{to} refused: {why}")]
    Refused {
        /// The member.
        to: MemberName,
        /// Its sentence.
        why: String,
    },
    /// Its answer cannot be read.
    #[error("the answer of {to} cannot be read")]
    Wire {
        /// The member.
        to: MemberName,
        /// What is wrong.
        source: wire::Error,
    },
}

/// Whom a call is for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The cluster both are in.
    pub identity: &'a Identity,
    /// The member; another one at the same address does not answer.
    pub name: &'a MemberName,
    /// Its gRPC address, `host:port`.
    pub address: &'a str,
}

/// The client side of the peer service. Share it in an `Arc`.
pub struct Peers {
    me: MemberName,
    secret: ClusterSecret,
    tls: Option<ClientTlsConfig>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Peers {
    /// Calls made in the name of `me`.
    pub fn new(me: MemberName, secret: ClusterSecret, tls: Option<ClientTlsConfig>) -> Peers {
        Peers {
            me,
            secret,
            tls,
            channels: Mutex::default(),
        }
    }

    /// Tells the leader how this member is; the answer is the leader's view of all members.
    ///
    /// # Errors
    /// No usable answer within `limit`, or the member does not lead.
    pub async fn report(
        &self,
        to: Target<'_>,
        report: &MemberReport,
        limit: Duration,
    ) -> Result<MergedView, Error> {
        let body = v1::ReportRequest {
            header: Some(self.header(to)),
            report: Some(wire::encode_report(report)),
        };
        let (mut client, request) = self.prepare(to, "Peer/Report", body)?;
        let reply = bounded(to, limit, client.report(request)).await?;
        match reply.answer {
            Some(v1::report_reply::Answer::View(view)) => {
                wire::decode_view(view).map_err(|source| unreadable(to, source))
            }
            Some(v1::report_reply::Answer::NotLeader(not)) => {
                Err(Error::NotLeader(wire::decode_not_leader(not)))
            }
            None => Err(unreadable(to, wire::Error::Missing("answer"))),
        }
    }

    /// Forwards a command to the leader; returns once it is applied there.
    ///
    /// # Errors
    /// Refused, not proposed, or unknown: the last whenever the request may have arrived.
    pub async fn propose(
        &self,
        to: Target<'_>,
        command: &Command,
        limit: Duration,
    ) -> Result<(), ProposeError> {
        let (version, command) = wire::encode_command(command);
        let body = v1::ProposeRequest {
            header: Some(self.header(to)),
            version,
            command,
        };
        let (mut client, request) = self
            .prepare(to, "Peer/Propose", body)
            .map_err(|error| ProposeError::NoLeader(error.to_string()))?;
        let answer = bounded(to, limit, client.propose(request)).await;
        match answer.map(|reply| reply.answer) {
            Ok(Some(v1::propose_reply::Answer::Applied(_))) => Ok(()),
            Ok(Some(v1::propose_reply::Answer::Rejected(sentence))) => {
                Err(ProposeError::Rejected(Rejected::Refused(sentence)))
            }
            Ok(Some(v1::propose_reply::Answer::NotLeader(not))) => {
                Err(ProposeError::NoLeader(not.why))
            }
            Ok(Some(v1::propose_reply::Answer::Unknown(_)) | None) => Err(ProposeError::Unknown),
            Err(
                error @ (Error::Refused { .. }
                | Error::Unreachable {
                    before_sending: true,
                    ..
                }),
            ) => Err(ProposeError::NoLeader(error.to_string())),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Asks the leader to renew the lease. The caller reads its clock *before* this.
    ///
    /// # Errors
    /// No usable answer within `limit`.
    pub async fn renew(
        &self,
        to: Target<'_>,
        renewal: &RenewRequest,
        limit: Duration,
    ) -> Result<RenewAnswer, Error> {
        let body = v1::RenewRequest {
            header: Some(self.header(to)),
            epoch: renewal.epoch.0,
            incarnation: renewal.incarnation.0,
            attempt: renewal.attempt.clone(),
        };
        let (mut client, request) = self.prepare(to, "Peer/Renew", body)?;
        let reply = bounded(to, limit, client.renew(request)).await?;
        wire::decode_renewal_answer(&renewal.attempt, reply)
            .map_err(|source| unreadable(to, source))
    }

    /// Whether that member's PostgreSQL would take the parameters: what it would not.
    ///
    /// # Errors
    /// No usable answer within `limit`.
    pub async fn try_parameters(
        &self,
        to: Target<'_>,
        settings: &Settings,
        limit: Duration,
    ) -> Result<Vec<String>, Error> {
        let (version, settings) = wire::encode_tried(settings);
        let body = v1::TryParametersRequest {
            header: Some(self.header(to)),
            version,
            settings,
        };
        let (mut client, request) = self.prepare(to, "Peer/TryParameters", body)?;
        let reply = bounded(to, limit, client.try_parameters(request)).await?;
        Ok(reply.problems)
    }

    fn header(&self, to: Target<'_>) -> v1::PeerHeader {
        v1::PeerHeader {
            cluster_id: to.identity.id.to_string(),
            generation: to.identity.generation.0,
            from: self.me.to_string(),
            to: to.name.to_string(),
        }
    }

    fn prepare<T>(
        &self,
        to: Target<'_>,
        method: &str,
        body: T,
    ) -> Result<(PeerClient<Channel>, tonic::Request<T>), Error> {
        let proof = self.secret.proof(&Call {
            cluster_id: &to.identity.id.0,
            generation: to.identity.generation.0,
            from: self.me.as_str(),
            to: to.name.as_str(),
            method,
        });
        let mut request = tonic::Request::new(body);
        let proof = proof.parse().expect("hex digits are valid metadata");
        request.metadata_mut().insert(PROOF_KEY, proof);
        Ok((PeerClient::new(self.channel(to)?), request))
    }

    /// The channel to this address; connects when first used.
    fn channel(&self, to: Target<'_>) -> Result<Channel, Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(to.address) {
            return Ok(channel.clone());
        }
        let channel = connect_lazily(to.address, self.tls.clone()).map_err(|error| {
            let (to, address) = (to.name.clone(), to.address.to_owned());
            Error::Unreachable {
                to,
                address,
                why: chain(&error),
                before_sending: true,
            }
        })?;
        channels.insert(to.address.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn connect_lazily(
    address: &str,
    tls: Option<ClientTlsConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
        .tcp_nodelay(true)
        .connect_timeout(CONNECTION_LIMIT)
        .tcp_keepalive(Some(Duration::from_secs(5)))
        .http2_keep_alive_interval(CONNECTION_LIMIT)
        .keep_alive_timeout(CONNECTION_LIMIT)
        .keep_alive_while_idle(false);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(endpoint.connect_lazy())
}

async fn bounded<T>(
    to: Target<'_>,
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Err(_elapsed) => Err(Error::TimedOut {
            to: to.name.clone(),
            limit,
        }),
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(failed(to, &status)),
    }
}

/// A status made by the other side is a refusal; one made here means the link is down.
fn failed(to: Target<'_>, status: &tonic::Status) -> Error {
    use tonic::Code;
    let name = to.name.clone();
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::Unimplemented => Error::Refused {
            to: name,
            why: status.message().to_owned(),
        },
        _ => Error::Unreachable {
            to: name,
            address: to.address.to_owned(),
            why: chain(status),
            before_sending: never_left(status),
        },
    }
}

/// Whether the connection itself could not be made, so that nothing was sent.
fn never_left(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn unreadable(to: Target<'_>, source: wire::Error) -> Error {
    Error::Wire {
        to: to.name.clone(),
        source,
    }
}
