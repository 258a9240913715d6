//! One long call to each peer that carries every append and its answer.
//!
//! A call of its own for each of twenty heartbeats a second costs a leader five times as many writes
//! and wake-ups as the messages need. Nothing is repeated here either: a message whose stream ends
//! has failed, and the next one opens another stream. A peer of an earlier version does not know
//! streams; it is sent single calls, and asked again after a while.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster_proto::v1;
use cluster_proto::v1::raft_client::RaftClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::boottime;
use super::handshake::PROOF_KEY;

/// Messages under way to one peer. Judgement: a leader has two at once; entries to a peer that reads
/// slowly must fail here, not pile up.
const DEPTH: usize = 64;
/// A peer that did not know streams is asked again after this long: it may have been upgraded.
const ASK_AGAIN: Duration = Duration::from_secs(30);

type Answer = io::Result<v1::RaftReply>;

/// What it takes to open a stream.
pub struct Opening {
    /// The way to the peer.
    pub channel: Channel,
    /// That we know the secret.
    pub proof: String,
}

/// The streams of this process: one a node and address, opened when first used.
#[derive(Debug, Default)]
pub struct AppendStreams {
    known: Mutex<BTreeMap<(u64, String), AppendStream>>,
}

impl AppendStreams {
    /// The stream to `target` at `address`.
    pub fn to(
        &self,
        target: u64,
        address: &str,
        opening: impl FnOnce() -> Opening,
    ) -> AppendStream {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .entry((target, address.to_owned()))
            .or_insert_with(|| AppendStream::start(opening()))
            .clone()
    }
}

/// A message that waits to be sent, and who waits for its answer.
struct Parcel {
    request: v1::RaftRequest,
    answer: oneshot::Sender<Answer>,
}

/// The handle of one stream. Clones are the same.
#[derive(Clone, Debug)]
pub struct AppendStream {
    parcels: mpsc::Sender<Parcel>,
    /// Until when, in milliseconds since boot, the peer is not asked again.
    not_before: Arc<AtomicU64>,
}

impl AppendStream {
    fn start(opening: Opening) -> AppendStream {
        let (parcels, inbox) = mpsc::channel(DEPTH);
        let not_before = Arc::new(AtomicU64::new(0));
        let carrier = Carrier {
            opening,
            not_before: Arc::clone(&not_before),
            waiting: BTreeMap::new(),
            next: 1,
        };
        tokio::spawn(carrier.run(inbox));
        AppendStream {
            parcels,
            not_before,
        }
    }

    /// Whether the peer may be asked for a stream.
    pub fn is_understood(&self) -> bool {
        milliseconds(boottime().0) >= self.not_before.load(Ordering::Relaxed)
    }

    /// Sends one message and waits for its answer; the caller sets the time limit.
    ///
    /// # Errors
    /// The stream ended before the answer, could not be opened, or is full.
    pub async fn send(&self, request: v1::RaftRequest) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.parcels
            .try_send(Parcel { request, answer })
            .map_err(|_full| io::Error::other("too many messages wait for this peer"))?;
        answered
            .await
            .unwrap_or_else(|_dropped| Err(io::Error::other("the stream to this peer ended")))
    }
}

/// The task behind a handle.
struct Carrier {
    opening: Opening,
    not_before: Arc<AtomicU64>,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    next: u64,
}

impl Carrier {
    async fn run(mut self, mut inbox: mpsc::Receiver<Parcel>) {
        while let Some(first) = inbox.recv().await {
            let (sender, messages) = mpsc::channel(DEPTH);
            self.put(first, &sender);
            let why = match self.open(messages).await {
                Ok(answers) => self.carry(&mut inbox, &sender, answers).await,
                Err(status) => status,
            };
            if why.code() == Code::Unimplemented {
                let until = milliseconds(boottime().0 + ASK_AGAIN);
                self.not_before.store(until, Ordering::Relaxed);
            }
            for answer in std::mem::take(&mut self.waiting).into_values() {
                // Nobody waits any more: nothing to tell.
                let _ = answer.send(Err(io::Error::other(why.clone())));
            }
        }
    }

    async fn open(
        &self,
        messages: mpsc::Receiver<v1::AppendStreamRequest>,
    ) -> Result<Streaming<v1::AppendStreamReply>, tonic::Status> {
        let mut request = tonic::Request::new(ReceiverStream::new(messages));
        let proof = self.opening.proof.parse();
        let proof = proof.map_err(|_| tonic::Status::internal("the proof is no metadata"))?;
        request.metadata_mut().insert(PROOF_KEY, proof);
        let mut client = RaftClient::new(self.opening.channel.clone());
        Ok(client.append_stream(request).await?.into_inner())
    }

    /// Until the stream ends; why it did.
    async fn carry(
        &mut self,
        inbox: &mut mpsc::Receiver<Parcel>,
        sender: &mpsc::Sender<v1::AppendStreamRequest>,
        mut answers: Streaming<v1::AppendStreamReply>,
    ) -> tonic::Status {
        loop {
            tokio::select! {
                parcel = inbox.recv() => match parcel {
                    Some(parcel) => self.put(parcel, sender),
                    None => return tonic::Status::cancelled("nobody sends any more"),
                },
                answer = answers.message() => match answer {
                    Ok(Some(v1::AppendStreamReply { number, reply: Some(reply) })) => {
                        if let Some(waits) = self.waiting.remove(&number) {
                            // Given up meanwhile: nothing to tell.
                            let _ = waits.send(Ok(reply));
                        }
                    }
                    Ok(Some(_)) => return tonic::Status::internal("an answer without content"),
                    Ok(None) => return tonic::Status::cancelled("the peer ended the stream"),
                    Err(status) => return status,
                },
            }
        }
    }

    /// What does not fit is dropped, and whoever waits for it is told by that; what nobody waits for
    /// any more is not sent.
    fn put(&mut self, parcel: Parcel, sender: &mpsc::Sender<v1::AppendStreamRequest>) {
        self.waiting.retain(|_, answer| !answer.is_closed());
        if parcel.answer.is_closed() {
            return;
        }
        let number = self.next;
        self.next += 1;
        let message = v1::AppendStreamRequest {
            number,
            request: Some(parcel.request),
        };
        if sender.try_send(message).is_ok() {
            self.waiting.insert(number, parcel.answer);
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::{Endpoint, Server};

    use super::*;

    async fn stream_to_a_server_that_knows_no_raft() -> AppendStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (_, health) = tonic_health::server::health_reporter();
        let server = Server::builder().add_service(health);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let opening = Opening {
            channel: endpoint.connect_lazy(),
            proof: "00".to_owned(),
        };
        AppendStreams::default().to(1, &address.to_string(), || opening)
    }

    #[tokio::test]
    async fn a_peer_of_an_earlier_version_is_not_asked_again_at_once() {
        let stream = stream_to_a_server_that_knows_no_raft().await;
        assert!(stream.is_understood());
        let answer = stream.send(v1::RaftRequest::default()).await;
        assert!(answer.is_err(), "{answer:?}");
        assert!(!stream.is_understood());
    }

    #[tokio::test]
    async fn messages_that_nobody_waits_for_are_not_sent() {
        let stream = stream_to_a_server_that_knows_no_raft().await;
        let (answer, answered) = oneshot::channel();
        drop(answered);
        let mut carrier = Carrier {
            opening: Opening {
                channel: Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
                proof: "00".to_owned(),
            },
            not_before: Arc::clone(&stream.not_before),
            waiting: BTreeMap::new(),
            next: 1,
        };
        let (sender, mut messages) = mpsc::channel(DEPTH);
        let request = v1::RaftRequest::default();
        carrier.put(Parcel { request, answer }, &sender);
        assert!(carrier.waiting.is_empty());
        assert!(messages.try_recv().is_err(), "it was sent");
    }
}
