//! Raft's messages to the other voters, over gRPC.
//!
//! `new_client` is awaited inside the Raft core for every confirmation round, so it only copies a
//! channel that connects by itself. No call is repeated below openraft.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster_core::model::lease::LeaseTimes;
use cluster_proto::v1;
use cluster_proto::v1::raft_client::RaftClient;
use openraft::error::{
    Infallible, InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Timeout,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::codec;
use super::failure::Failure;
use super::handshake::{Call, ClusterSecret, PROOF_KEY, SeenMarks};
use super::log_store::LogStore;
use super::mark::StoreMark;
use super::silence::Silence;
use super::stream::{AppendStream, AppendStreams, Opening};
use super::types::{Identity, LogId, PeerNode, TypeConfig, Vote};

/// Lets a test lose messages between two nodes. Production has none.
pub trait LinkFaults: Send + Sync + 'static {
    /// Whether a message from node `from` reaches node `to`.
    fn delivers(&self, from: u64, to: u64) -> bool;
}

/// Everything a message to a peer needs; shared by all clients of this process.
pub struct Links {
    /// Who we are.
    pub identity: Identity,
    /// The cluster's secret.
    pub secret: ClusterSecret,
    /// TLS towards peers, when configured.
    pub tls: Option<ClientTlsConfig>,
    /// The lease preset's times.
    pub times: LeaseTimes,
    /// Our own store, for its mark.
    pub store: LogStore,
    /// How far peers' stores were seen.
    pub seen: Arc<SeenMarks>,
    /// Whether we may send.
    pub silence: Arc<Silence>,
    /// Told when a peer proves that our store was rolled back.
    pub failure: Failure,
    /// Lost messages, in tests.
    pub faults: Option<Arc<dyn LinkFaults>>,
    /// One channel an address.
    pub channels: Arc<Channels>,
    /// One stream of appends a node and address.
    pub streams: AppendStreams,
}

/// Channels that connect when first used, one an address.
#[derive(Debug, Default)]
pub struct Channels {
    by_address: Mutex<BTreeMap<String, Channel>>,
}

impl Channels {
    /// The channel to `address`; makes no connection.
    ///
    /// # Errors
    /// The address is no `host:port`, or the certificates do not fit.
    pub fn to(
        &self,
        address: &str,
        tls: Option<&ClientTlsConfig>,
        times: &LeaseTimes,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        // A connection to a host that vanished must be given up in about one election, or the link
        // stays dead for many seconds after the host is back. Whoever waits for nothing need not know.
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .tcp_nodelay(true)
            .connect_timeout(times.election_max)
            .http2_keep_alive_interval(times.election_max)
            .keep_alive_timeout(times.election_max)
            .keep_alive_while_idle(false);
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls.clone())?;
        }
        let channel = endpoint.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

impl From<StoreMark> for v1::StoreMark {
    fn from(mark: StoreMark) -> v1::StoreMark {
        v1::StoreMark {
            boot: mark.boot,
            nonce: mark.nonce,
            sequence: mark.sequence,
        }
    }
}

impl From<v1::StoreMark> for StoreMark {
    fn from(mark: v1::StoreMark) -> StoreMark {
        StoreMark {
            boot: mark.boot,
            nonce: mark.nonce,
            sequence: mark.sequence,
        }
    }
}

impl Links {
    /// A peer says how far it has seen our store; fails this member for ever if that cannot be.
    ///
    /// # Errors
    /// The sentence with which it failed.
    pub fn check_own_mark(&self, peer: u64, seen: StoreMark) -> Result<(), String> {
        if !seen.contradicts(self.store.opened_at(), self.store.mark()) {
            return Ok(());
        }
        let why = format!(
            "the Raft store of this member was rolled back: node {peer} has seen {seen:?}, the \
             store shows {:?}; it must not vote again under id {}. Move the raft directory aside, \
             start clusterd again, and run `clusterctl members replace` for this member",
            self.store.mark(),
            self.identity.node_id
        );
        self.failure.fail(&why);
        Err(why)
    }

    /// What shows `target` that we know the secret.
    fn proof(&self, target: u64, method: Method) -> String {
        self.secret.proof(&Call {
            cluster_id: &self.identity.cluster_id,
            generation: self.identity.generation,
            from: &self.identity.node_id.to_string(),
            to: &target.to_string(),
            method: method.name(),
        })
    }

    fn delivers(&self, from: u64, to: u64) -> bool {
        self.faults
            .as_ref()
            .is_none_or(|faults| faults.delivers(from, to))
    }
}

/// The factory openraft asks for clients.
pub struct Network {
    /// Shared by all clients.
    pub links: Arc<Links>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Peer {
        Peer::new(Arc::clone(&self.links), target, node)
    }
}

/// The client of one peer.
#[derive(Clone)]
pub struct Peer {
    links: Arc<Links>,
    target: u64,
    channel: Result<Channel, String>,
    stream: Result<AppendStream, String>,
    late: Arc<Mutex<Option<Sent>>>,
}

/// Entries sent under a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    vote: Vote,
    before: Option<LogId>,
    last: LogId,
}

impl Sent {
    /// `None` for a heartbeat.
    fn of(message: &AppendEntriesRequest<TypeConfig>) -> Option<Sent> {
        let last = message.entries.last()?.log_id;
        Some(Sent {
            vote: message.vote,
            before: message.prev_log_id,
            last,
        })
    }
}

/// Which call of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Entries or a heartbeat.
    AppendEntries,
    /// The same, over the call that carries many.
    AppendStream,
    /// A request for a vote.
    Vote,
    /// A piece of a snapshot.
    InstallSnapshot,
}

impl Method {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Method::AppendEntries => "AppendEntries",
            Method::AppendStream => "AppendStream",
            Method::Vote => "Vote",
            Method::InstallSnapshot => "InstallSnapshot",
        }
    }

    fn kind(self) -> RPCTypes {
        match self {
            Method::AppendEntries | Method::AppendStream => RPCTypes::AppendEntries,
            Method::Vote => RPCTypes::Vote,
            Method::InstallSnapshot => RPCTypes::InstallSnapshot,
        }
    }
}

/// Why a call failed, in the library's words.
pub type CallError<E> = RPCError<u64, PeerNode, RaftError<u64, E>>;

impl Peer {
    /// A client of `target`; connects when first used.
    pub fn new(links: Arc<Links>, target: u64, node: &PeerNode) -> Peer {
        let channel = links
            .channels
            .to(&node.address, links.tls.as_ref(), &links.times)
            .map_err(|error| format!("cannot reach {node}: {error}"));
        let stream = channel.clone().map(|channel| {
            let proof = links.proof(target, Method::AppendStream);
            links
                .streams
                .to(target, &node.address, || Opening { channel, proof })
        });
        Peer {
            links,
            target,
            channel,
            stream,
            late: Arc::default(),
        }
    }

    /// Sends entries or a heartbeat, and hears the answer even when the library no longer waits.
    ///
    /// The library gives every append one heartbeat interval. On a busy host answers come later
    /// than that; they still prove that this leader is heard, and that the entries arrived. Without
    /// this a leader would go silent, or send the same entries for ever, because of load alone.
    pub fn append(
        &self,
        message: AppendEntriesRequest<TypeConfig>,
    ) -> oneshot::Receiver<Result<AppendEntriesResponse<u64>, CallError<Infallible>>> {
        let (sender, receiver) = oneshot::channel();
        let peer = self.clone();
        let sent_at = Instant::now();
        tokio::spawn(async move {
            let limit = peer.links.times.election_min;
            let answer = peer.call(Method::AppendEntries, &message, limit).await;
            if let Ok(answer) = &answer {
                peer.heard(&message, answer, sent_at);
            }
            // Nobody waits any more: what it proves is noted.
            drop(sender.send(answer));
        });
        receiver
    }

    fn heard(
        &self,
        message: &AppendEntriesRequest<TypeConfig>,
        answer: &AppendEntriesResponse<u64>,
        sent_at: Instant,
    ) {
        if matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            return;
        }
        self.links
            .silence
            .acknowledged(message.vote, self.target, sent_at);
        if answer.is_success()
            && let Some(sent) = Sent::of(message)
        {
            *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        }
    }

    /// Whether exactly these entries, under this vote, are known to be on the target's disk.
    fn is_known_there(&self, message: &AppendEntriesRequest<TypeConfig>) -> bool {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.is_some() && *late == Sent::of(message)
    }

    async fn call<Q, A, E>(
        &self,
        method: Method,
        message: &Q,
        limit: Duration,
    ) -> Result<A, CallError<E>>
    where
        Q: Serialize,
        A: Serialize + DeserializeOwned,
        E: std::error::Error,
    {
        let own = self.links.identity.node_id;
        if !self.links.delivers(own, self.target) {
            tokio::time::sleep(limit).await;
            return Err(self.timed_out(method, limit));
        }
        let payload = codec::to_json(message).map_err(|error| unreachable(&error))?;
        let reply = match tokio::time::timeout(limit, self.send(method, payload)).await {
            Err(_elapsed) => return Err(self.timed_out(method, limit)),
            Ok(Err(error)) => return Err(unreachable(&error)),
            Ok(Ok(reply)) => reply,
        };
        if !self.links.delivers(self.target, own) {
            tokio::time::sleep(limit).await;
            return Err(self.timed_out(method, limit));
        }
        if let Some(seen) = reply.seen {
            self.links
                .check_own_mark(self.target, seen.into())
                .map_err(|why| unreachable(&io::Error::other(why)))?;
        }
        if let Some(mark) = reply.mark {
            self.links.seen.note(self.target, mark.into());
        }
        codec::from_json(&reply.payload)
            .map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// Whether the peer answers at all. Everybody refuses a vote of term 0 to a store that ends nowhere,
    /// and nothing changes there by it.
    pub async fn answers(&self, limit: Duration) -> bool {
        let own = self.links.identity.node_id;
        let nothing = VoteRequest::new(Vote::new(0, own), None);
        let answer: Result<VoteResponse<u64>, CallError<openraft::error::Infallible>> =
            self.call(Method::Vote, &nothing, limit).await;
        answer.is_ok()
    }

    fn timed_out<E: std::error::Error>(&self, method: Method, limit: Duration) -> CallError<E> {
        RPCError::Timeout(Timeout {
            action: method.kind(),
            id: self.links.identity.node_id,
            target: self.target,
            timeout: limit,
        })
    }

    async fn send(&self, method: Method, payload: Vec<u8>) -> io::Result<v1::RaftReply> {
        let channel = self.channel.clone().map_err(io::Error::other)?;
        let stream = self.stream.clone().map_err(io::Error::other)?;
        let message = self.message(payload);
        if method == Method::AppendEntries && stream.is_understood() {
            return stream.send(message).await;
        }
        let mut client = RaftClient::new(channel);
        let mut request = tonic::Request::new(message);
        let proof = self.links.proof(self.target, method);
        let proof = proof.parse().map_err(io::Error::other)?;
        request.metadata_mut().insert(PROOF_KEY, proof);
        let reply = match method {
            Method::AppendEntries | Method::AppendStream => client.append_entries(request).await,
            Method::Vote => client.vote(request).await,
            Method::InstallSnapshot => client.install_snapshot(request).await,
        };
        reply
            .map(tonic::Response::into_inner)
            .map_err(io::Error::other)
    }

    fn message(&self, payload: Vec<u8>) -> v1::RaftRequest {
        let own = &self.links.identity;
        v1::RaftRequest {
            cluster_id: own.cluster_id.clone(),
            generation: own.generation,
            from: own.node_id,
            to: self.target,
            mark: Some(self.links.store.mark().into()),
            seen: Some(self.links.seen.of(self.target).into()),
            payload,
        }
    }
}

/// `Unreachable` makes openraft wait for [`Peer::backoff`]; a `NetworkError` it would repeat at once.
fn unreachable<E: std::error::Error>(error: &(impl std::error::Error + 'static)) -> CallError<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        message: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, PeerNode, RaftError<u64>>> {
        if !self.links.silence.may_send(Instant::now()) {
            return Err(unreachable(&io::Error::other(
                "silent: a quorum has not answered lately",
            )));
        }
        if self.is_known_there(&message) {
            return Ok(AppendEntriesResponse::Success);
        }
        let limit = option.hard_ttl();
        match tokio::time::timeout(limit, self.append(message)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(self.timed_out(Method::AppendEntries, limit)),
        }
    }

    async fn install_snapshot(
        &mut self,
        message: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<u64>,
        RPCError<u64, PeerNode, RaftError<u64, InstallSnapshotError>>,
    > {
        if !self.links.silence.may_send(Instant::now()) {
            return Err(unreachable(&io::Error::other(
                "silent: a quorum has not answered lately",
            )));
        }
        let answer: Result<InstallSnapshotResponse<u64>, InstallSnapshotError> = self
            .call(Method::InstallSnapshot, &message, option.hard_ttl())
            .await?;
        answer.map_err(|error| {
            RPCError::RemoteError(RemoteError::new(self.target, RaftError::APIError(error)))
        })
    }

    async fn vote(
        &mut self,
        message: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, PeerNode, RaftError<u64>>> {
        self.call(Method::Vote, &message, option.hard_ttl()).await
    }

    fn backoff(&self) -> Backoff {
        // The library's 500 ms is longer than a whole election of the `fast` preset.
        Backoff::new(std::iter::repeat(self.links.times.heartbeat))
    }
}
