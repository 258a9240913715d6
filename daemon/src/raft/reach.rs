//! Whether this member may call an election: only while a quorum of the voters answers it.
//!
//! The library has no pre-vote: a member that is cut off would call one election after the other, each
//! under a higher term, and depose a healthy leader when it is back. So elections are off while a leader
//! is heard. A member that hears none asks the voters before its own election timeout is over, and calls
//! nobody as long as fewer than a quorum answer. The question is a vote request of term 0: everybody
//! refuses it, and it changes nothing there.
//!
//! A process that was stopped finds every timeout over when it goes on, and would call an election before
//! it has read what the leader sent meanwhile: it listens for one election timeout first.

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
    elections: Option<Elections>,
    last_turn: Option<Instant>,
    /// When it went on after it had been stopped.
    resumed: Option<Instant>,
}

/// Whether elections are on, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elections {
    /// Off: a leader is heard, was heard just now, or is this member.
    Needless,
    /// On: a quorum answered since the leader was heard last.
    Allowed,
    /// Off: fewer than a quorum answer.
    CutOff,
}

/// One question to all voters.
struct Round {
    begun: Instant,
    task: JoinHandle<bool>,
}

impl Reach {
    /// One turn of a member that does not lead and may vote; `heard` is when it last heard a leader,
    /// `pace` the longest time between two turns. For how long it has been without a leader.
    pub async fn turn(
        &mut self,
        shared: &Arc<Shared>,
        heard: Instant,
        pace: Duration,
        now: Instant,
    ) -> Duration {
        let times = shared.times;
        let since_turn = self
            .last_turn
            .replace(now)
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        if since_turn > pace + times.election_max {
            self.resumed = Some(now);
        }
        let silent_since = self.resumed.map_or(heard, |resumed| resumed.max(heard));
        let silent_for = now.saturating_duration_since(silent_since);
        if silent_for < times.election_max {
            self.settle(shared, now);
            return silent_for;
        }
        match self.round.take() {
            Some(round) if round.task.is_finished() => {
                // A round that was given up has reached nobody.
                let reached = round.task.await.unwrap_or(false);
                self.set(shared, Elections::answered(reached));
                self.next_round = Some(now + times.election_min);
            }
            Some(round) => {
                // Not known is no: an election may come at any moment now.
                if now.saturating_duration_since(round.begun) >= times.election_min / 2 {
                    self.set(shared, Elections::CutOff);
                }
                self.round = Some(round);
            }
            None if self.next_round.is_none_or(|next| now >= next) => {
                self.round = Some(begin(shared, now));
            }
            None => {}
        }
        silent_for
    }

    /// A leader is heard, or this member leads: whatever was asked does not matter.
    pub fn settle(&mut self, shared: &Shared, now: Instant) {
        if let Some(round) = self.round.take() {
            round.task.abort();
        }
        self.next_round = None;
        self.last_turn = Some(now);
        self.set(shared, Elections::Needless);
    }

    fn set(&mut self, shared: &Shared, wanted: Elections) {
        let before = self.elections.replace(wanted);
        if before == Some(wanted) {
            return;
        }
        if wanted == Elections::CutOff {
            tracing::warn!(
                reason = "no-quorum",
                "fewer voters answer than a quorum: no election is called"
            );
        } else if before == Some(Elections::CutOff) {
            tracing::info!("voters answer again: elections may be called");
        }
        let is_on = wanted == Elections::Allowed;
        shared.raft.runtime_config().elect(is_on);
    }
}

impl Elections {
    fn answered(reached: bool) -> Elections {
        match reached {
            true => Elections::Allowed,
            false => Elections::CutOff,
        }
    }
}

fn begin(shared: &Arc<Shared>, now: Instant) -> Round {
    let metrics = shared.raft.metrics().borrow().clone();
    let membership = metrics.membership_config.membership();
    let configurations = membership.get_joint_config().clone();
    let voters: BTreeMap<u64, PeerNode> = configurations
        .iter()
        .flatten()
        .filter_map(|voter| Some((*voter, membership.get_node(voter)?.clone())))
        .collect();
    let (shared, limit) = (Arc::clone(shared), shared.times.election_max);
    Round {
        begun: now,
        task: tokio::spawn(async move {
            let links = Arc::clone(&shared.links);
            let reached = ask(links, voters, configurations, limit).await;
            // The answer need not wait for the next turn.
            shared.wake.notify_one();
            reached
        }),
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
