//! One round of messages to the voters, begun when it is asked for: does a quorum still know this
//! process as its leader?
//!
//! The library has such a round, but gives every voter one heartbeat interval, which a busy host
//! misses now and then; a renewal can wait longer than that. Otherwise it is the same: an empty
//! append under the leader's vote, and every answer that is not a higher vote counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster_core::model::lease::LeaderVote;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};

use super::answers::RenewRefused;
use super::network::Peer;
use super::store::{Shared, leader_vote};
use super::types::{PeerNode, Vote};

/// What the library's core knew when the round began.
struct Ground {
    vote: Vote,
    committed: u64,
    configurations: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, PeerNode>,
}

impl Ground {
    fn is_quorum(&self, heard: &BTreeSet<u64>) -> bool {
        self.configurations
            .iter()
            .all(|voters| voters.intersection(heard).count() * 2 > voters.len())
    }
}

impl Shared {
    /// The round. `Ok` means: begun after the call, a quorum answered under the returned vote, it is
    /// still the vote, this leader is ready under it, and what was committed before is applied here.
    ///
    /// # Errors
    /// Never `NotGranted`.
    pub async fn confirm(&self) -> Result<LeaderVote, RenewRefused> {
        if let Some(why) = self.failure.why() {
            return Err(RenewRefused::Stopped(why));
        }
        let ground = self.ground().await?;
        let vote = self.own(&ground.vote)?;
        if !self.machine.lock().granter.is_ready(vote) {
            return Err(RenewRefused::NotReady);
        }
        if self.silence.is_silent() || !self.is_heard(&ground).await {
            return Err(RenewRefused::NoQuorum);
        }
        // Ready: everything of earlier votes is applied. What this vote committed is at hand.
        let mut applied = self.machine.watch();
        let limit = self.times.election_min;
        tokio::time::timeout(
            limit,
            applied.wait_for(|applied| applied.index >= ground.committed),
        )
        .await
        .map_err(|_elapsed| RenewRefused::NotReady)?
        .map_err(|closed| RenewRefused::Stopped(closed.to_string()))?;
        let now = self.ground().await?.vote;
        if self.own(&now)? == vote {
            Ok(vote)
        } else {
            Err(RenewRefused::NotReady)
        }
    }

    async fn ground(&self) -> Result<Ground, RenewRefused> {
        let read = self.raft.with_raft_state(|state| {
            let membership = state.membership_state.effective().membership();
            Ground {
                vote: *state.vote_ref(),
                committed: state.committed.map_or(0, |log_id| log_id.index),
                configurations: membership.get_joint_config().clone(),
                nodes: membership
                    .nodes()
                    .map(|(id, node)| (*id, node.clone()))
                    .collect(),
            }
        });
        read.await
            .map_err(|fatal| RenewRefused::Stopped(fatal.to_string()))
    }

    /// The vote, when this process leads under it.
    fn own(&self, vote: &Vote) -> Result<LeaderVote, RenewRefused> {
        leader_vote(vote)
            .filter(|vote| vote.node == self.identity.node_id)
            .ok_or_else(|| {
                let (leader, address) = self.leader();
                RenewRefused::NotLeader { leader, address }
            })
    }

    async fn is_heard(&self, ground: &Ground) -> bool {
        let own = self.identity.node_id;
        let mut heard = BTreeSet::from([own]);
        let voters: BTreeSet<u64> = ground.configurations.iter().flatten().copied().collect();
        let mut answers: FuturesUnordered<_> = voters
            .iter()
            .filter(|voter| **voter != own)
            .filter_map(|voter| ground.nodes.get(voter).map(|node| (*voter, node)))
            .map(|(voter, node)| {
                let peer = Peer::new(Arc::clone(&self.links), voter, node);
                let message = AppendEntriesRequest {
                    vote: ground.vote,
                    prev_log_id: None,
                    entries: Vec::new(),
                    leader_commit: None,
                };
                let answer = peer.append(message);
                async move { (voter, answer.await) }
            })
            .collect();
        while !ground.is_quorum(&heard) {
            match answers.next().await {
                None => return false,
                Some((_, Ok(Ok(AppendEntriesResponse::HigherVote(_))))) => return false,
                Some((voter, Ok(Ok(_)))) => drop(heard.insert(voter)),
                Some((_, Ok(Err(_)) | Err(_))) => {}
            }
        }
        true
    }
}
