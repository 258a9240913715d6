//! The heartbeat of this folder: one task that, every few milliseconds, lets the granter's time
//! pass, notices a new vote, makes a leader ready, silences one without a quorum, and allows
//! elections some time after a start.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::model::NodeId;
use cluster_core::model::lease::LeaderVote;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::answers::Role;
use super::boottime;
use super::reach::Reach;
use super::silence::Turn;
use super::store::Shared;

/// How often the pulse of a leader turns.
pub const TICK: Duration = Duration::from_millis(50);
/// How often that of another member turns: no time counts there, and a new vote wakes it.
const IDLE_TICK: Duration = Duration::from_millis(500);

/// The task's own memory.
pub(super) struct Pulse {
    shared: Arc<Shared>,
    /// Boot id and random number of this process, written into the entries that make it ready.
    start: String,
    /// Elections are off until then; the library forgets its timers over a restart.
    elect_from: Option<Instant>,
    becoming_ready: Option<(LeaderVote, JoinHandle<()>)>,
    reach: Reach,
    started: Instant,
}

impl Pulse {
    pub fn new(shared: Arc<Shared>, start: String, elect_from: Option<Instant>) -> Pulse {
        Pulse {
            shared,
            start,
            elect_from,
            becoming_ready: None,
            reach: Reach::default(),
            started: Instant::now(),
        }
    }

    pub async fn run(mut self) {
        let mut pace = TICK;
        let mut places = self.shared.raft.server_metrics();
        let mut is_running = true;
        while is_running {
            // A change of place in Raft or a committed entry of ours need not wait for the tick.
            tokio::select! {
                () = tokio::time::sleep(pace) => {}
                () = self.shared.wake.notified() => {}
                changed = places.changed() => is_running = changed.is_ok(),
            }
            pace = self.turn().await;
        }
        self.fail_if_stopped();
    }

    fn fail_if_stopped(&self) {
        let metrics = self.shared.raft.metrics();
        let stopped = metrics
            .borrow()
            .running_state
            .as_ref()
            .err()
            .map(ToString::to_string);
        if let Some(why) = stopped {
            self.shared
                .failure
                .fail(&format!("Raft has stopped: {why}"));
        }
    }

    /// One turn; when the next is due.
    async fn turn(&mut self) -> Duration {
        self.fail_if_stopped();
        let now = Instant::now();
        self.allow_elections(now);
        let (mut role, leading) = self.shared.observe(now);
        role.is_ready = {
            let mut inner = self.shared.machine.lock();
            inner.granter.pass(boottime(), TICK);
            match leading {
                Some(vote) => {
                    let lease = inner.state.longest_lease();
                    inner.granter.lead(vote, lease);
                    inner.granter.is_ready(vote)
                }
                None => {
                    inner.granter.follow();
                    false
                }
            }
        };
        if let Some(vote) = leading
            && !role.is_ready
        {
            self.become_ready(vote);
        }
        self.mind_silence(leading.is_some(), role.quorum_ack_age, now)
            .await;
        role.is_silent = self.shared.silence.is_silent();
        self.shared.role.send_if_modified(|known| {
            let age = role.quorum_ack_age;
            let before = std::mem::replace(known, role);
            before
                != Role {
                    quorum_ack_age: before.quorum_ack_age,
                    ..known.clone()
                }
                || before.quorum_ack_age.is_some() != age.is_some()
        });
        if leading.is_some() {
            self.reach.settle(&self.shared, now);
        }
        if leading.is_some() || self.elect_from.is_some() {
            return TICK;
        }
        self.mind_reach(now).await
    }

    /// A member that hears no leader may call an election only while others answer it.
    async fn mind_reach(&mut self, now: Instant) -> Duration {
        let heard = self.shared.heard_leader.borrow().unwrap_or(self.started);
        let turn = self.reach.turn(&self.shared, heard, IDLE_TICK, now);
        let silent_for = turn.await;
        let until_silent = self.shared.times.election_max.saturating_sub(silent_for);
        until_silent.clamp(TICK, IDLE_TICK)
    }

    /// From here on it is a matter of whom it reaches.
    fn allow_elections(&mut self, now: Instant) {
        let Some(from) = self.elect_from else { return };
        let has_heard = self.shared.heard_leader.borrow().is_some();
        if has_heard || now >= from {
            self.elect_from = None;
        }
    }

    /// Commits an entry of this process under `vote`; one attempt at a time.
    fn become_ready(&mut self, vote: LeaderVote) {
        if let Some((under, attempt)) = &self.becoming_ready
            && *under == vote
            && !attempt.is_finished()
        {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let command = Command::Noop {
            by: NodeId(vote.node),
            start: self.start.clone(),
        };
        let attempt = tokio::spawn(async move {
            let limit = shared.times.election();
            match shared.write(command, limit).await {
                Ok((log_id, _)) => {
                    // The entry's own leader id is the proof under which vote it was written.
                    let leader = log_id.leader_id;
                    let written_under = LeaderVote {
                        term: leader.term,
                        node: leader.node_id,
                    };
                    let mut inner = shared.machine.lock();
                    let lease = inner.state.longest_lease();
                    inner.granter.ready(written_under, lease);
                    shared.wake.notify_one();
                }
                Err(error) => {
                    tracing::debug!(%error, term = vote.term, "not ready yet");
                    tokio::time::sleep(shared.times.heartbeat).await;
                }
            }
        });
        if let Some((_, abandoned)) = self.becoming_ready.replace((vote, attempt)) {
            abandoned.abort();
        }
    }

    async fn mind_silence(&self, is_leading: bool, age: Option<Duration>, now: Instant) {
        let turn = if is_leading {
            let vote = self.shared.raft.metrics().borrow().vote;
            self.shared.silence.lead(vote, age, now)
        } else {
            self.shared.silence.follow()
        };
        match turn {
            Turn::Keep => {}
            Turn::GoSilent => {
                tracing::warn!(
                    reason = "no-quorum",
                    age_ms = age.map_or(0, |age| age.as_millis()),
                    "leader goes silent so that others can elect"
                );
                self.shared.raft.runtime_config().heartbeat(false);
            }
            Turn::OpenWindow => {
                // An error means that Raft has stopped, which others report.
                let _ = self.shared.raft.trigger().heartbeat().await;
            }
            Turn::Speak => {
                tracing::info!("heartbeats again");
                self.shared.raft.runtime_config().heartbeat(true);
            }
        }
    }
}
