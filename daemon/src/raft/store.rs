//! `ClusterStore`: propose, read, watch, renew. All the rest of us may see of Raft.
//!
//! The surprise: being "leader" by the library's metrics permits nothing. Every answer that matters
//! goes through a round of messages begun after it was asked for, and through [`Granter::is_ready`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_core::change::command::COMMAND_VERSION;
use cluster_core::change::{Applied, Command, Rejected, Stamp};
use cluster_core::model::lease::{Granter, LeaderVote, LeaseTimes};
use cluster_core::model::{ClusterState, Epoch, Incarnation, MemberName, NodeId};
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, ServerState};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::answers::{MembershipError, ProposeError, RenewAnswer, RenewRefused, Role, Written};
use super::boottime;
use super::failure::Failure;
use super::forming::Caller;
use super::group::Door;
use super::inbox::Inbox;
use super::log_store::LogStore;
use super::machine::{AppliedState, Machine};
use super::network::Links;
use super::pulse::TICK;
use super::silence::Silence;
use super::types::{Identity, LogId, PeerNode, Raft, Vote};

/// Least time between two calls for an election by [`ClusterStore::elect`]. Source: DESIGN
/// section 4, "Leadership prefers".
pub const ELECT_EVERY: Duration = Duration::from_secs(30);

/// The handle; clones are the same store.
#[derive(Clone)]
pub struct ClusterStore {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub raft: Raft,
    pub machine: Machine,
    pub log: LogStore,
    pub inbox: Inbox,
    pub identity: Identity,
    pub times: LeaseTimes,
    pub silence: Arc<Silence>,
    pub links: Arc<Links>,
    pub role: watch::Sender<Role>,
    pub heard_leader: Arc<watch::Sender<Option<Instant>>>,
    pub failure: Failure,
    pub pulse: std::sync::Mutex<Option<JoinHandle<()>>>,
    /// Lets the pulse turn at once.
    pub wake: Notify,
    pub last_elect: std::sync::Mutex<Option<Instant>>,
    pub door: Door,
    pub caller: Caller,
}

impl ClusterStore {
    /// Who this member is.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// The newest applied state.
    pub fn state(&self) -> Arc<AppliedState> {
        self.shared.machine.watch().borrow().clone()
    }

    /// Follows the applied state.
    pub fn watch(&self) -> watch::Receiver<Arc<AppliedState>> {
        self.shared.machine.watch()
    }

    /// Follows this process's place in Raft.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.shared.role.subscribe()
    }

    /// Why this member takes no further part, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.why()
    }

    /// The library's own numbers, for metrics and tests.
    pub fn metrics(&self) -> openraft::RaftMetrics<u64, PeerNode> {
        self.shared.raft.metrics().borrow().clone()
    }

    /// How many log entries are kept.
    pub fn kept_entries(&self) -> usize {
        self.shared.log.kept_entries()
    }

    /// Writes a change; returns when it is committed and applied here.
    ///
    /// # Errors
    /// [`ProposeError`]; only `TimedOutUnknown` and `Stopped` leave open whether it happens.
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.write(command).await.map(|written| written.applied)
    }

    /// As [`ClusterStore::propose`], and tells the log index.
    ///
    /// # Errors
    /// As there.
    pub async fn write(&self, command: Command) -> Result<Written, ProposeError> {
        if self.shared.silence.is_silent() {
            return Err(ProposeError::NotLeader {
                leader: None,
                address: None,
            });
        }
        let limit = self.shared.times.election() * 4;
        let (log_id, answer) = self.shared.write(command, limit).await?;
        match answer {
            Some(Ok(applied)) => Ok(Written {
                applied,
                index: log_id.index,
            }),
            Some(Err(rejected)) => Err(rejected.into()),
            None => Err(ProposeError::Stopped(
                "an entry without an answer".to_owned(),
            )),
        }
    }

    /// Confirms a renewal of `epoch` by `member`, or says why not.
    ///
    /// The round of messages begins after this is called, and the answer is made in one critical
    /// section with the applying of entries.
    ///
    /// # Errors
    /// [`RenewRefused`].
    pub async fn renew(
        &self,
        member: &MemberName,
        epoch: Epoch,
        incarnation: Incarnation,
    ) -> Result<RenewAnswer, RenewRefused> {
        let asked = Asked {
            member,
            epoch,
            incarnation,
        };
        let vote = self.confirm_leadership().await?;
        let mut inner = self.shared.machine.lock();
        let inner = &mut *inner;
        inner.granter.pass(boottime(), TICK);
        if !inner.granter.is_ready(vote) {
            return Err(RenewRefused::NotReady);
        }
        asked.check(&inner.state)?;
        let lease = inner.state.settings.times().lease;
        inner.granter.confirm(lease);
        // Of this epoch, and live: one that was withdrawn is nothing to wait for.
        let of_epoch = inner.state.live_rules.iter().rev();
        let newest = of_epoch.into_iter().find(|rule| rule.epoch == epoch);
        Ok(RenewAnswer {
            lease,
            newest_rule: newest.map_or(inner.state.last_rule, |rule| rule.id),
        })
    }

    /// A round of messages begun now: a quorum still knows this process as its leader, under the
    /// returned vote, it is ready under it, and everything committed before is applied here.
    ///
    /// # Errors
    /// [`RenewRefused`], never `NotGranted`.
    pub async fn confirm_leadership(&self) -> Result<LeaderVote, RenewRefused> {
        self.shared.confirm().await
    }

    /// Reads the lease's leader side, with time brought up to now and the state it belongs to.
    ///
    /// What it says counts only when [`Granter::is_ready`] holds for the vote that
    /// [`ClusterStore::confirm_leadership`] returned a moment ago.
    pub fn granter<T>(&self, read: impl FnOnce(&Granter, &ClusterState) -> T) -> T {
        let mut inner = self.shared.machine.lock();
        inner.granter.pass(boottime(), TICK);
        read(&inner.granter, &inner.state)
    }

    /// Calls for an election that this member wants to win. The caller makes sure that the
    /// primary's lease has more than 2·E left. Not more often than every 30 s.
    ///
    /// Returns whether it was done.
    pub async fn elect(&self) -> bool {
        {
            let mut last = self
                .shared
                .last_elect
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let now = Instant::now();
            if last.is_some_and(|last| now.saturating_duration_since(last) < ELECT_EVERY) {
                return false;
            }
            *last = Some(now);
        }
        let role = self.shared.role.borrow().clone();
        if role.is_leader || !role.is_voter || role.leader.is_none() {
            return false;
        }
        self.shared.raft.trigger().elect().await.is_ok()
    }

    /// Puts voter `new` (already telling its address) in the place of voter `old`: learner,
    /// catch-up, swap. Repeating it is safe.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn replace_voter(
        &self,
        old: NodeId,
        new: NodeId,
        node: PeerNode,
        limit: Duration,
    ) -> Result<(), MembershipError> {
        let mut voters = self.voters();
        if voters.contains(&new.0) && !voters.contains(&old.0) {
            return Ok(());
        }
        self.within(limit, self.shared.raft.add_learner(new.0, node, true))
            .await?;
        voters.remove(&old.0);
        voters.insert(new.0);
        self.within(limit, self.shared.raft.change_membership(voters, false))
            .await
    }

    /// Makes `new` a voter besides the others.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_voter(
        &self,
        new: NodeId,
        node: PeerNode,
        limit: Duration,
    ) -> Result<(), MembershipError> {
        self.within(limit, self.shared.raft.add_learner(new.0, node, true))
            .await?;
        let added = ChangeMembers::AddVoterIds(BTreeSet::from([new.0]));
        self.within(limit, self.shared.raft.change_membership(added, false))
            .await
    }

    /// Takes the vote from `old`.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove_voter(&self, old: NodeId, limit: Duration) -> Result<(), MembershipError> {
        let removed = ChangeMembers::RemoveVoters(BTreeSet::from([old.0]));
        self.within(limit, self.shared.raft.change_membership(removed, false))
            .await
    }

    /// The voters of the newest configuration this member knows.
    pub fn voters(&self) -> BTreeSet<u64> {
        self.shared
            .raft
            .metrics()
            .borrow()
            .membership_config
            .membership()
            .voter_ids()
            .collect()
    }

    /// The nodes of the newest configuration this member knows.
    pub fn nodes(&self) -> BTreeMap<u64, PeerNode> {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(id, node)| (*id, node.clone())).collect()
    }

    /// Ends Raft in this process and closes its files.
    pub async fn shutdown(&self) {
        self.shared.inbox.detach();
        let pulse = self
            .shared
            .pulse
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(pulse) = pulse {
            pulse.abort();
        }
        if let Err(error) = self.shared.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not end cleanly");
        }
        self.shared.log.close().await;
    }

    async fn within<T>(
        &self,
        limit: Duration,
        change: impl Future<Output = Result<T, RaftError<u64, ClientWriteError<u64, PeerNode>>>>,
    ) -> Result<(), MembershipError> {
        match tokio::time::timeout(limit, change).await {
            Err(_elapsed) => Err(MembershipError::TimedOutUnknown),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(MembershipError::NotLeader)
            }
            Ok(Err(error)) => Err(MembershipError::Refused(error.to_string())),
        }
    }
}

impl Shared {
    /// Writes `command` with the wall clock, for display only.
    pub async fn write(
        &self,
        command: Command,
        limit: Duration,
    ) -> Result<(LogId, Option<Result<Applied, Rejected>>), ProposeError> {
        let at_unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        let stamp = Stamp {
            version: COMMAND_VERSION,
            at_unix_ms,
            command,
        };
        match tokio::time::timeout(limit, self.raft.client_write(stamp)).await {
            Err(_elapsed) => Err(ProposeError::TimedOutUnknown),
            Ok(Ok(response)) => {
                // The others learn that it is committed now, not with the next heartbeat: a member
                // waits for that at every step of a hand-over. An error means that Raft has stopped.
                let _ = self.raft.trigger().heartbeat().await;
                Ok((response.log_id, response.data.outcome))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader {
                    leader: to.leader_id.map(NodeId),
                    address: to.leader_node.map(|node| node.address),
                })
            }
            Ok(Err(error)) => Err(ProposeError::Stopped(error.to_string())),
        }
    }

    /// Who leads, as far as this member knows, when that is somebody else.
    pub fn leader(&self) -> (Option<NodeId>, Option<String>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics
            .current_leader
            .filter(|leader| *leader != self.identity.node_id);
        let membership = metrics.membership_config.membership();
        let node = leader.and_then(|leader| membership.get_node(&leader));
        (leader.map(NodeId), node.map(|node| node.address.clone()))
    }

    /// The role as the library's metrics show it.
    pub fn observe(&self, now: Instant) -> (Role, Option<LeaderVote>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let own = self.identity.node_id;
        let vote = leader_vote(&metrics.vote);
        let is_leader = metrics.state == ServerState::Leader
            && metrics.running_state.is_ok()
            && vote.is_some_and(|vote| vote.node == own);
        let leader = metrics.current_leader;
        let age = is_leader
            .then(|| {
                self.silence
                    .quorum_age(metrics.vote, own, membership.get_joint_config(), now)
            })
            .flatten();
        let role = Role {
            vote: Some(LeaderVote {
                term: metrics.vote.leader_id().term,
                node: metrics.vote.leader_id().node_id,
            }),
            is_leader,
            is_ready: false,
            is_voter: membership.voter_ids().any(|voter| voter == own),
            leader: leader.map(NodeId),
            leader_address: leader
                .and_then(|leader| membership.get_node(&leader))
                .map(|node| node.address.clone()),
            term: metrics.current_term,
            quorum_ack_age: age,
            is_silent: self.silence.is_silent(),
        };
        (role, vote.filter(|_| is_leader))
    }
}

/// A committed vote, as the granter keys on it.
pub(super) fn leader_vote(vote: &Vote) -> Option<LeaderVote> {
    vote.is_committed().then(|| LeaderVote {
        term: vote.leader_id().term,
        node: vote.leader_id().node_id,
    })
}

struct Asked<'a> {
    member: &'a MemberName,
    epoch: Epoch,
    incarnation: Incarnation,
}

impl Asked<'_> {
    fn check(&self, state: &ClusterState) -> Result<(), RenewRefused> {
        let refuse = |why: String| Err(RenewRefused::NotGranted { why });
        let Some(reign) = state.granted() else {
            return refuse(format!(
                "no renewal of epoch {} is confirmed any more",
                state.epoch()
            ));
        };
        if reign.epoch != self.epoch {
            return refuse(format!("the epoch is {}, not {}", reign.epoch, self.epoch));
        }
        if reign.holder != *self.member {
            return refuse(format!("epoch {} belongs to {}", reign.epoch, reign.holder));
        }
        if reign.incarnation != self.incarnation {
            return refuse(format!(
                "epoch {} was granted to incarnation {}, not {}",
                reign.epoch, reign.incarnation, self.incarnation
            ));
        }
        Ok(())
    }
}
