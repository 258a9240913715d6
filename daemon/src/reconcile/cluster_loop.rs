//! The leader's loop: reports and truth in, one proposal out. It only proposes.
//!
//! Every process runs it; it does something only while it leads, is ready, and has just confirmed
//! that with a quorum.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_core::change::Command;
use cluster_core::change::command::Founder;
use cluster_core::decide::{RuleVerdict, Verdict, VoterChange, decide_cluster};
use cluster_core::model::ids::{ClusterId, RequestId};
use cluster_core::model::lease::{LeaderVote, Moment};
use cluster_core::model::request::Step;
use cluster_core::model::state::Identity;
use cluster_core::model::view::{ClusterView, Seen};
use cluster_core::model::{
    ClusterName, ClusterState, Epoch, Generation, MemberKind, MemberName, NodeId, Phase, Settings,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::board::VerdictLine;
use crate::lease::now;
use crate::raft::{ClusterStore, ProposeError};

use super::backend::Backend;

/// A look this often when nothing happens; sooner when the primary is about to count as lost.
const CALM: Duration = Duration::from_millis(250);
/// A look this often while another member leads; becoming the leader wakes the loop.
const IDLE: Duration = Duration::from_secs(1);
/// A look this often while a hand-over or failover is under way.
const BRISK: Duration = Duration::from_millis(5);
/// After a proposal that did not come through.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// One replacement of a voter, catch-up included.
const REPLACE_LIMIT: Duration = Duration::from_secs(120);
/// Grants younger than this are counted against flapping.
const GRANTS_WITHIN: Duration = Duration::from_secs(600);

/// What the config file says the cluster is formed with.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Name.
    pub cluster: ClusterName,
    /// Settings.
    pub settings: Settings,
    /// Members, sorted by name.
    pub members: Vec<(MemberName, MemberKind, String)>,
}

/// The loop's parts.
pub struct ClusterLoop {
    /// Own Raft id.
    pub me: NodeId,
    /// The truth.
    pub store: ClusterStore,
    /// Reports, and where the leader's words go.
    pub backend: Arc<Backend>,
    /// For the first entry.
    pub founding: Founding,
}

/// What is remembered between turns of one leadership.
struct Memory {
    vote: Option<LeaderVote>,
    leading_since: Moment,
    ended: Option<(Epoch, Moment)>,
    requests: BTreeMap<RequestId, (Step, Moment)>,
    elect_asked: Option<(MemberName, Moment)>,
    grants: Vec<Moment>,
    newest_grant: Epoch,
    /// The granter's credited time when the changed lease was first seen.
    lease_changed: Option<Duration>,
    replacing: Option<JoinHandle<()>>,
    verdict: Option<VerdictLine>,
    failover_began: Option<Moment>,
}

impl Memory {
    fn new() -> Memory {
        Memory {
            vote: None,
            leading_since: now(),
            ended: None,
            requests: BTreeMap::new(),
            elect_asked: None,
            grants: Vec::new(),
            newest_grant: Epoch::NONE,
            lease_changed: None,
            replacing: None,
            verdict: None,
            failover_began: None,
        }
    }
}

impl ClusterLoop {
    /// Runs until `shutdown`.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut memory = Memory::new();
        let mut state = self.store.watch();
        let mut role = self.store.role();
        let reports = Arc::clone(&self.backend.reports);
        let mut next = Instant::now();
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                _ = state.changed() => {}
                _ = role.changed() => {}
                () = reports.news() => {}
                () = sleep_until(next) => {}
            }
            let pace = self.turn(&mut memory).await;
            next = Instant::now() + pace;
        }
    }

    async fn turn(&self, memory: &mut Memory) -> Duration {
        let leading = {
            let role = self.store.role();
            let role = role.borrow();
            role.vote.filter(|_| role.is_leader && role.is_ready)
        };
        let Some(vote) = leading else {
            self.step_back(memory);
            return IDLE;
        };
        if memory.vote != Some(vote) {
            let grants = std::mem::take(&mut memory.grants);
            *memory = Memory {
                vote: Some(vote),
                grants,
                ..Memory::new()
            };
            tracing::info!(term = vote.term, "leads");
        }
        let state = self.store.state().state.clone();
        if state.identity.is_none() {
            return self.form().await;
        }
        memory.learn(&state, self.store.granter(|granter, _| granter.stamp()));
        self.count_failovers(memory, &state);
        let verdict = self.judge(memory, &state);
        self.note(memory, &verdict);
        if !is_action(&verdict) {
            return if is_settled(&state) {
                self.until_suspect(&state)
            } else {
                BRISK
            };
        }
        // Decided on what was known; now known to be the leader still, decided again.
        if !self.confirm(vote).await {
            return AFTER_FAILURE;
        }
        let state = self.store.state().state.clone();
        memory.learn(&state, self.store.granter(|granter, _| granter.stamp()));
        let verdict = self.judge(memory, &state);
        self.carry_out(memory, verdict).await
    }

    /// When nothing happens meanwhile, the next look is due as soon as the primary's silence counts.
    fn until_suspect(&self, state: &ClusterState) -> Duration {
        let suspect_after = state.settings.times().suspect_after();
        let silent_for = self.store.granter(|granter, _| granter.base_age());
        match suspect_after.checked_sub(silent_for) {
            Some(left) => (left + Duration::from_millis(1)).clamp(BRISK, CALM),
            // It counts already, and the verdict is still to wait: that changes at a calm pace.
            None => CALM / 4,
        }
    }

    fn step_back(&self, memory: &mut Memory) {
        if memory.vote.take().is_some() {
            tracing::info!("does not lead any more");
            if let Some(task) = memory.replacing.take() {
                task.abort();
            }
            let mut words = self
                .backend
                .words
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            words.verdicts.clear();
            words.asked_to_lead = None;
        }
    }

    async fn confirm(&self, vote: LeaderVote) -> bool {
        match self.store.confirm_leadership().await {
            Ok(confirmed) => {
                confirmed == vote && self.store.granter(|granter, _| granter.is_ready(vote))
            }
            Err(error) => {
                tracing::debug!(%error, "leadership is not confirmed");
                false
            }
        }
    }

    /// The first entry of a new group.
    async fn form(&self) -> Duration {
        let identity = self.store.identity();
        let members = self
            .founding
            .members
            .iter()
            .zip(1..)
            .map(|((name, kind, peer), node)| Founder {
                name: name.clone(),
                node: NodeId(node),
                kind: *kind,
                peer: peer.clone(),
            })
            .collect();
        let form = Command::Form {
            identity: Identity {
                id: ClusterId(identity.cluster_id.clone()),
                name: self.founding.cluster.clone(),
                generation: Generation(identity.generation),
            },
            members,
            settings: Box::new(self.founding.settings.clone()),
        };
        match self.store.propose(form).await {
            Ok(_) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "the group's first entry was not written");
                AFTER_FAILURE
            }
        }
    }

    fn judge(&self, memory: &Memory, state: &Arc<ClusterState>) -> RuleVerdict {
        let reports = self.backend.reports.seen();
        self.view(memory, state, &reports, decide_cluster)
    }

    /// Builds one view and hands it to `ask`. Lease facts and state are read in one section.
    fn view<T>(
        &self,
        memory: &Memory,
        state: &Arc<ClusterState>,
        reports: &BTreeMap<MemberName, Seen>,
        ask: impl FnOnce(&ClusterView) -> T,
    ) -> T {
        let at = now();
        let voters: Vec<NodeId> = self.store.voters().into_iter().map(NodeId).collect();
        let request_ages = memory
            .requests
            .iter()
            .map(|(id, (_, since))| (id.clone(), at.since(*since)))
            .collect();
        let recent: Vec<Duration> = memory.grants.iter().map(|grant| at.since(*grant)).collect();
        let facts = self.store.granter(|granter, _| Facts {
            base_age: granter.base_age(),
            grant_age: granter.grant_age(),
            lease_waited_out: granter.lease_waited_out(),
            wait_left: granter.wait_left(),
            settled: match (state.previous_lease, memory.lease_changed) {
                (Some(before), Some(since)) => granter.has_led_for(since, before),
                _ => false,
            },
        });
        let view = ClusterView {
            me: self.me,
            state,
            times: state.settings.times(),
            reports,
            leading_for: at.since(memory.leading_since),
            base_age: facts.base_age,
            grant_age: facts.grant_age,
            lease_waited_out: facts.lease_waited_out,
            wait_left: facts.wait_left,
            ended_age: memory
                .ended
                .map_or(Duration::ZERO, |(_, since)| at.since(since)),
            voters: &voters,
            learners: &[],
            elect_asked_age: memory.elect_asked.as_ref().map(|(_, when)| at.since(*when)),
            previous_lease_settled: facts.settled,
            recent_grants: &recent,
            request_ages: &request_ages,
            wall_unix_ms: wall_unix_ms(),
        };
        ask(&view)
    }

    async fn carry_out(&self, memory: &mut Memory, verdict: RuleVerdict) -> Duration {
        match verdict.verdict {
            Verdict::Pass | Verdict::Wait(_) => BRISK,
            Verdict::Propose(command, reason) => {
                tracing::info!(rule = verdict.rule, reason = reason.code(), "{reason}");
                match self.store.propose(*command).await {
                    Ok(_) => Duration::ZERO,
                    Err(ProposeError::Rejected(why)) => {
                        tracing::warn!(rule = verdict.rule, %why, "the proposal was refused");
                        AFTER_FAILURE
                    }
                    Err(error) => {
                        tracing::warn!(rule = verdict.rule, %error, "the proposal did not come through");
                        AFTER_FAILURE
                    }
                }
            }
            Verdict::Voters(change, reason) => {
                self.change_voters(memory, &change, &reason.to_string());
                CALM
            }
            Verdict::Elect(member, reason) => {
                tracing::info!(reason = reason.code(), "{reason}");
                let mut words = self
                    .backend
                    .words
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                words.asked_to_lead = Some(member.clone());
                memory.elect_asked = Some((member, now()));
                CALM
            }
        }
    }

    /// Learner, catch-up and swap are one task; the next turns see how far the voters are.
    fn change_voters(&self, memory: &mut Memory, change: &VoterChange, why: &str) {
        if memory
            .replacing
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let new = match change {
            VoterChange::AddLearner { node, .. } | VoterChange::Swap { new: node, .. } => *node,
        };
        let state = self.store.state().state.clone();
        let joining = state
            .members
            .iter()
            .find(|(_, member)| member.joining == Some(new));
        let Some((name, member)) = joining else {
            return;
        };
        let (name, old, peer) = (name.clone(), member.node, member.addresses.peer.clone());
        tracing::info!(member = %name, "{why}");
        let store = self.store.clone();
        memory.replacing = Some(tokio::spawn(async move {
            match store
                .replace_member(&name, &peer, old, new, REPLACE_LIMIT)
                .await
            {
                Ok(()) => tracing::info!(member = %name, "votes under its new id {new}"),
                Err(error) => {
                    tracing::warn!(member = %name, %error, "could not be replaced yet");
                    // Bounded pace; the next turn asks again.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }));
    }

    /// A verdict is logged and kept when it changes.
    fn note(&self, memory: &mut Memory, verdict: &RuleVerdict) {
        let reason = verdict.reason();
        let (code, text) = (reason.code(), reason.to_string());
        let is_same = memory
            .verdict
            .as_ref()
            .is_some_and(|line| line.code == code && line.rule == verdict.rule);
        let since = match &memory.verdict {
            Some(line) if is_same => line.since,
            _ => now(),
        };
        if !is_same {
            tracing::info!(rule = verdict.rule, reason = code, "{text}");
        }
        let line = VerdictLine {
            rule: verdict.rule.to_owned(),
            code: code.to_owned(),
            text,
            since,
        };
        memory.verdict = Some(line.clone());
        let mut words = self
            .backend
            .words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        words.verdicts = vec![line];
        // Asked once; the wanted member has its own limit.
        if memory
            .elect_asked
            .as_ref()
            .is_some_and(|(_, at)| now().since(*at) > Duration::from_secs(1))
        {
            words.asked_to_lead = None;
        }
    }

    /// From Revoke or Release to Activate, as this leader saw it.
    fn count_failovers(&self, memory: &mut Memory, state: &ClusterState) {
        let is_open = state.granted().is_some_and(|reign| reign.is_activated);
        let is_first = state
            .reign
            .as_ref()
            .is_none_or(|reign| reign.epoch <= Epoch(1));
        match (memory.failover_began, is_open) {
            (None, false) if !is_first || state.reign.is_some() => {
                memory.failover_began = Some(now());
            }
            (Some(began), true) => {
                memory.failover_began = None;
                let took = now().since(began);
                let reason = state.reign.as_ref().map(|reign| reign.reason.clone());
                tracing::info!(
                    took_ms = took.as_millis(),
                    ?reason,
                    "a primary is open again"
                );
                let mut words = self
                    .backend
                    .words
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                words.last_failover = Some(took);
                *words
                    .failovers
                    .entry(reason.unwrap_or_default())
                    .or_default() += 1;
            }
            (None, _) | (Some(_), false) => {}
        }
    }
}

/// This host's wall clock. None: it stands before 1970, and nothing is done on a schedule.
fn wall_unix_ms() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

struct Facts {
    base_age: Duration,
    grant_age: Option<Duration>,
    lease_waited_out: bool,
    wait_left: Duration,
    settled: bool,
}

fn is_action(verdict: &RuleVerdict) -> bool {
    match verdict.verdict {
        Verdict::Pass | Verdict::Wait(_) => false,
        Verdict::Propose(..) | Verdict::Voters(..) | Verdict::Elect(..) => true,
    }
}

fn is_settled(state: &ClusterState) -> bool {
    state.granted().is_some_and(|reign| reign.is_activated) && state.open_requests().is_empty()
}

impl Memory {
    /// When things were first seen by this leader; `stamp` is the granter's credited time.
    fn learn(&mut self, state: &ClusterState, stamp: Duration) {
        let at = now();
        let ended = state
            .reign
            .as_ref()
            .filter(|reign| reign.phase != Phase::Granted);
        self.ended = match (ended, self.ended) {
            (Some(reign), Some((epoch, since))) if epoch == reign.epoch => Some((epoch, since)),
            (Some(reign), _) => Some((reign.epoch, at)),
            (None, _) if state.reign.is_none() && state.system_identifier.is_some() => {
                Some(self.ended.unwrap_or((Epoch::NONE, at)))
            }
            (None, _) => None,
        };
        self.requests
            .retain(|id, _| state.requests.get(id).is_some_and(|r| r.is_open()));
        for request in state.open_requests() {
            let seen = self
                .requests
                .get(&request.id)
                .is_some_and(|(step, _)| *step == request.step);
            if !seen {
                self.requests
                    .insert(request.id.clone(), (request.step.clone(), at));
            }
        }
        if state.epoch() > self.newest_grant {
            if self.newest_grant != Epoch::NONE {
                self.grants.push(at);
            }
            self.newest_grant = state.epoch();
        }
        self.grants.retain(|grant| at.since(*grant) < GRANTS_WITHIN);
        self.lease_changed = match (state.previous_lease, self.lease_changed) {
            (Some(_), None) => Some(stamp),
            (Some(_), known) => known,
            (None, _) => None,
        };
    }
}
