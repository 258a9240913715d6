//! Whether this member may call an election: only while a quorum of the voters answers it.
//!
//! The library has no pre-vote: a member that is cut off would call one election after the other, each
//! under a higher term, and depose a healthy leader when it is back. So a member that hears no leader
//! asks the voters first, before its own election timeout is over, and calls nobody as long as fewer
//! than a quorum answer. The question is a vote request of term 0: everybody refuses it, and it changes
//! nothing there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::network::{Links, Peer};
use super::store::Shared;
use super::types::PeerNode;

/// What a follower remembers between turns.
#[derive(Default)]
pub(super) struct Reach {
    round: Option<Round>,
    next_round: Option<Instant>,
    is_cut_off: bool,
}

/// One question to all voters.
struct Round {
    begun: Instant,
    task: JoinHandle<bool>,
}

impl Reach {
    /// One turn of a member that does not lead and may vote; `silent_for` since it last heard a leader.
    pub async fn turn(&mut self, shared: &Shared, silent_for: Duration, now: Instant) {
        let times = shared.times;
        if silent_for < times.election_max {
            self.settle(shared);
            return;
        }
        match self.round.take() {
            Some(round) if round.task.is_finished() => {
                // A round that was given up has reached nobody.
                let reached = round.task.await.unwrap_or(false);
                self.allow(shared, reached);
                self.next_round = Some(now + times.election_min);
            }
            Some(round) => {
                // Not known is no: an election may come at any moment now.
                if now.saturating_duration_since(round.begun) >= times.election_min / 2 {
                    self.allow(shared, false);
                }
                self.round = Some(round);
            }
            None if self.next_round.is_none_or(|next| now >= next) => {
                self.round = Some(begin(shared, now));
            }
            None => {}
        }
    }

    /// A leader is heard, or this member leads: whatever was asked does not matter.
    pub fn settle(&mut self, shared: &Shared) {
        if let Some(round) = self.round.take() {
            round.task.abort();
        }
        self.next_round = None;
        self.allow(shared, true);
    }

    fn allow(&mut self, shared: &Shared, reached: bool) {
        if self.is_cut_off != reached {
            return;
        }
        self.is_cut_off = !reached;
        if reached {
            tracing::info!("voters answer again: elections may be called");
        } else {
            tracing::warn!(
                reason = "no-quorum",
                "fewer voters answer than a quorum: no election is called"
            );
        }
        shared.raft.runtime_config().elect(reached);
    }
}

fn begin(shared: &Shared, now: Instant) -> Round {
    let metrics = shared.raft.metrics().borrow().clone();
    let membership = metrics.membership_config.membership();
    let configurations = membership.get_joint_config().clone();
    let voters: BTreeMap<u64, PeerNode> = configurations
        .iter()
        .flatten()
        .filter_map(|voter| Some((*voter, membership.get_node(voter)?.clone())))
        .collect();
    let (links, limit) = (Arc::clone(&shared.links), shared.times.election_max);
    Round {
        begun: now,
        task: tokio::spawn(ask(links, voters, configurations, limit)),
    }
}

/// Asks all voters at once; ends as soon as a quorum of every configuration has answered.
async fn ask(
    links: Arc<Links>,
    voters: BTreeMap<u64, PeerNode>,
    configurations: Vec<BTreeSet<u64>>,
    limit: Duration,
) -> bool {
    let own = links.identity.node_id;
    let mut answered = BTreeSet::from([own]);
    let mut asked = JoinSet::new();
    for (voter, node) in voters.into_iter().filter(|(voter, _)| *voter != own) {
        let peer = Peer::new(Arc::clone(&links), voter, &node);
        asked.spawn(async move { peer.answers(limit).await.then_some(voter) });
    }
    while !is_quorum(&answered, &configurations) {
        match asked.join_next().await {
            Some(Ok(Some(voter))) => {
                answered.insert(voter);
            }
            Some(_) => {}
            None => return false,
        }
    }
    true
}

fn is_quorum(answered: &BTreeSet<u64>, configurations: &[BTreeSet<u64>]) -> bool {
    configurations
        .iter()
        .all(|voters| voters.intersection(answered).count() * 2 > voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_one_of_every_configuration() {
        let of = |nodes: &[u64]| nodes.iter().copied().collect::<BTreeSet<u64>>();
        assert!(is_quorum(&of(&[1, 2]), &[of(&[1, 2, 3])]));
        assert!(!is_quorum(&of(&[1]), &[of(&[1, 2, 3])]));
        assert!(!is_quorum(&of(&[1, 2]), &[of(&[1, 2, 3, 4])]));
        assert!(!is_quorum(&of(&[1, 2]), &[of(&[1, 2, 3]), of(&[3, 4, 5])]));
        assert!(is_quorum(
            &of(&[1, 3, 4]),
            &[of(&[1, 2, 3]), of(&[3, 4, 5])]
        ));
    }
}
