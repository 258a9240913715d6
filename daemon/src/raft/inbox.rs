//! Raft's messages from the other voters, checked before they reach the library.
//!
//! A member answers only to its own id as read from its store, in its own cluster and generation,
//! to a caller that proves the secret. openraft counts even a conflict as an acknowledgement, so a
//! wiped store must not answer at all; it has no id, and nothing is attached here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use super::codec::{self, CodecError};
use super::group::{Door, GroupStatus};
use super::handshake::{Call, ClusterSecret};
use super::mark::StoreMark;
use super::network::{Links, Method};
use super::types::{Raft, TypeConfig};

/// Of so many refused nodes one line is written each. Judgement: more than any group has.
const REFUSED_MOST: usize = 64;

/// Why a message was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The proof does not fit: another secret, or a stranger.
    #[error("the caller does not know this cluster's secret")]
    NotProven,
    /// Meant for somebody else.
    #[error("{0}")]
    NotForUs(String),
    /// This member takes no part in Raft now.
    #[error("{0}")]
    NotNow(String),
    /// The message cannot be understood.
    #[error("the message cannot be understood: {0}")]
    NotUnderstood(String),
    /// This member must never take part again.
    #[error("{0}")]
    Failed(String),
}

/// One message as it came in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Which call.
    pub method: Method,
    /// The cluster it is for.
    pub cluster_id: String,
    /// Its life.
    pub generation: u64,
    /// Node that sent it.
    pub from: u64,
    /// Node it is meant for.
    pub to: u64,
    /// The sender's store.
    pub mark: StoreMark,
    /// How far the sender has seen ours.
    pub seen: StoreMark,
    /// The message.
    pub payload: Vec<u8>,
    /// The caller's proof.
    pub proof: String,
}

/// What goes back.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Who answers.
    pub from: u64,
    /// Our store.
    pub mark: StoreMark,
    /// How far we have seen the sender's.
    pub seen: StoreMark,
    /// The answer.
    pub payload: Vec<u8>,
}

/// The receiving side of Raft's transport; exists before there is a Raft. Clones are the same.
#[derive(Clone)]
pub struct Inbox {
    secret: ClusterSecret,
    attached: Arc<RwLock<Option<Attached>>>,
    door: Arc<RwLock<Option<Door>>>,
    status: Arc<watch::Sender<GroupStatus>>,
    refused: Arc<Mutex<BTreeMap<u64, String>>>,
}

/// A running Raft.
#[derive(Clone)]
pub struct Attached {
    /// The library.
    pub raft: Raft,
    /// Our side of the links.
    pub links: Arc<Links>,
    /// Votes are refused before this moment: the library forgets its vote lease over a restart.
    pub refuse_votes_until: Instant,
    /// When a leader was last heard.
    pub heard_leader: Arc<watch::Sender<Option<Instant>>>,
}

impl Inbox {
    /// An inbox nobody reads yet.
    pub fn new(secret: ClusterSecret) -> Inbox {
        Inbox {
            secret,
            attached: Arc::default(),
            door: Arc::default(),
            status: Arc::new(watch::channel(GroupStatus::default()).0),
            refused: Arc::default(),
        }
    }

    /// Follows this member's way into the group.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.status.subscribe()
    }

    pub(super) fn status_sender(&self) -> Arc<watch::Sender<GroupStatus>> {
        Arc::clone(&self.status)
    }

    pub(super) fn open_door(&self, door: Door) {
        *self.door.write().unwrap_or_else(PoisonError::into_inner) = Some(door);
    }

    /// The member's door, once its store is open.
    pub fn door(&self) -> Option<Door> {
        self.door
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on messages reach `attached`.
    pub fn attach(&self, attached: Attached) {
        *self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(attached);
    }

    /// From now on nothing is answered.
    pub fn detach(&self) {
        *self
            .attached
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
        *self.door.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The cluster's secret.
    pub fn secret(&self) -> &ClusterSecret {
        &self.secret
    }

    /// Answers one message.
    ///
    /// # Errors
    /// [`Refusal`]; the library has not seen the message.
    pub async fn answer(&self, incoming: Incoming) -> Result<Outgoing, Refusal> {
        let call = Call {
            cluster_id: &incoming.cluster_id,
            generation: incoming.generation,
            from: &incoming.from.to_string(),
            to: &incoming.to.to_string(),
            method: incoming.method.name(),
        };
        if !self.secret.is_proven(&call, &incoming.proof) {
            return Err(Refusal::NotProven);
        }
        let attached = self
            .attached
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| Refusal::NotNow("this member belongs to no cluster yet".to_owned()))?;
        if let Err(refusal) = attached.check(&incoming) {
            self.say_once(incoming.from, &refusal);
            return Err(refusal);
        }
        let payload = attached.pass_on(&incoming).await?;
        let links = &attached.links;
        if let Some(why) = links.failure.why() {
            return Err(Refusal::Failed(why));
        }
        Ok(Outgoing {
            from: links.identity.node_id,
            mark: links.store.mark(),
            seen: links.seen.of(incoming.from),
            payload,
        })
    }
}

impl Inbox {
    /// A voter that means somebody else calls many times a second, and is worth one line.
    fn say_once(&self, from: u64, refusal: &Refusal) {
        let Refusal::NotForUs(why) = refusal else {
            return;
        };
        let mut said = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(&from) != Some(why) && said.len() < REFUSED_MOST {
            said.insert(from, why.clone());
            tracing::warn!(from, reason = "raft-refused", "refused node {from}: {why}");
        }
    }
}

impl Attached {
    fn check(&self, incoming: &Incoming) -> Result<(), Refusal> {
        let own = &self.links.identity;
        if let Some(why) = self.links.failure.why() {
            return Err(Refusal::Failed(why));
        }
        if incoming.cluster_id != own.cluster_id || incoming.generation != own.generation {
            return Err(Refusal::NotForUs(format!(
                "this is generation {} of cluster {}, not generation {} of {}",
                own.generation, own.cluster_id, incoming.generation, incoming.cluster_id
            )));
        }
        if incoming.to != own.node_id {
            return Err(Refusal::NotForUs(format!(
                "this is node {}, not node {}",
                own.node_id, incoming.to
            )));
        }
        self.links
            .check_own_mark(incoming.from, incoming.seen)
            .map_err(Refusal::Failed)?;
        self.links.seen.note(incoming.from, incoming.mark);
        if incoming.method == Method::Vote {
            self.check_vote(incoming.from)?;
        }
        Ok(())
    }

    fn check_vote(&self, from: u64) -> Result<(), Refusal> {
        if Instant::now() < self.refuse_votes_until {
            return Err(Refusal::NotNow(
                "started a moment ago; votes later".to_owned(),
            ));
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let is_known = membership.voter_ids().any(|voter| voter == from);
        // Without a membership we are new, and cannot know who the voters are.
        if !is_known && membership.voter_ids().next().is_some() {
            return Err(Refusal::NotForUs(format!(
                "node {from} is no voter of this cluster"
            )));
        }
        Ok(())
    }

    async fn pass_on(&self, incoming: &Incoming) -> Result<Vec<u8>, Refusal> {
        let stopped = |error: &dyn std::fmt::Display| Refusal::NotNow(error.to_string());
        match incoming.method {
            Method::AppendEntries | Method::AppendStream => {
                let message: AppendEntriesRequest<TypeConfig> = self.understand(incoming)?;
                let vote = message.vote;
                let answer = self
                    .raft
                    .append_entries(message)
                    .await
                    .map_err(|error| stopped(&error))?;
                if !matches!(answer, openraft::raft::AppendEntriesResponse::HigherVote(_))
                    && vote.is_committed()
                {
                    self.heard_leader.send_replace(Some(Instant::now()));
                }
                written(&answer)
            }
            Method::Vote => {
                let message: VoteRequest<u64> = self.understand(incoming)?;
                written(
                    &self
                        .raft
                        .vote(message)
                        .await
                        .map_err(|error| stopped(&error))?,
                )
            }
            Method::InstallSnapshot => {
                let message: InstallSnapshotRequest<TypeConfig> = self.understand(incoming)?;
                match self.raft.install_snapshot(message).await {
                    Ok(answer) => written(&Ok::<_, ()>(answer)),
                    Err(openraft::error::RaftError::APIError(error)) => {
                        written(&Err::<(), _>(error))
                    }
                    Err(openraft::error::RaftError::Fatal(error)) => Err(stopped(&error)),
                }
            }
        }
    }

    /// A proven peer that sends what we do not know runs a later version: stop, never skip [F10].
    fn understand<T: Serialize + DeserializeOwned>(
        &self,
        incoming: &Incoming,
    ) -> Result<T, Refusal> {
        codec::from_json(&incoming.payload).map_err(|error: CodecError| {
            let why = format!(
                "node {} sent a Raft message this clusterd does not understand: {error}; start \
                 the version the leader runs",
                incoming.from
            );
            self.links.failure.fail(&why);
            Refusal::NotUnderstood(why)
        })
    }
}

fn written<T: Serialize>(answer: &T) -> Result<Vec<u8>, Refusal> {
    codec::to_json(answer).map_err(|error| Refusal::NotUnderstood(error.to_string()))
}
