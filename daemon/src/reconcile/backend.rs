//! The ways into the loops from outside: proposals forwarded to the leader, reports and renewals
//! of other members answered by it, and the renewals this member sends itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cluster_core::change::{Command, Rejected};
use cluster_core::model::settings::Role;
use cluster_core::model::state::Identity;
use cluster_core::model::view::Seen;
use cluster_core::model::{MemberName, MemberReport, NodeId, Settings};
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use crate::board::{Propose, ProposeError, Tried, TrySettings, VerdictLine};
use crate::exchange::{AgedVerdict, MergedView, NotLeader, PeerBackend, RenewAnswer, RenewRequest};
use crate::lease::{LeaseKeeper, RenewOrder, RenewOutcome, now};
use crate::peers::{Peers, Target};
use crate::postgres::{ConfigInputs, Postgres};
use crate::raft::{ClusterStore, ProposeError as RaftProposeError, RenewRefused};

use super::member_loop::Looked;
use super::parameters;
use super::reports::Reports;

/// A member's PostgreSQL reads a file of parameters twice.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// How long a proposal waits for somebody who leads. Source: above the longest election timeout of all
/// presets (1.6 s in `wan`); whoever waits for an answer has more patience than that.
const LEADER_LIMIT: Duration = Duration::from_secs(2);
/// One forwarded proposal.
const FORWARD_LIMIT: Duration = Duration::from_secs(3);

/// What the leader's loop last said, for the merged view.
#[derive(Clone, Debug, Default)]
pub struct LeaderWords {
    /// Verdict lines.
    pub verdicts: Vec<VerdictLine>,
    /// A member that had better lead.
    pub asked_to_lead: Option<MemberName>,
    /// How long the last failover took.
    pub last_failover: Option<Duration>,
    /// Failovers by reason.
    pub failovers: BTreeMap<String, u64>,
}

/// Shared by everything that speaks to or for the leader.
pub struct Backend {
    /// Own name.
    pub me: MemberName,
    /// This process.
    pub daemon_start: String,
    /// Raft.
    pub store: ClusterStore,
    /// Other members.
    pub peers: Peers,
    /// What members told.
    pub reports: Arc<Reports>,
    /// What this process says when it leads.
    pub words: Mutex<LeaderWords>,
    /// Renewals this process refused, for the metrics.
    pub refused: std::sync::atomic::AtomicU64,
    /// This member's PostgreSQL, and the runtime of whatever touches it; none on a witness.
    pub postgres: Option<(Postgres, Handle)>,
}

/// Where a leader is.
struct LeaderAt {
    identity: Identity,
    name: MemberName,
    address: String,
}

impl Backend {
    /// Whether this process says it leads and is ready; advisory.
    pub fn leads(&self) -> bool {
        let role = self.store.role();
        let role = role.borrow();
        role.is_leader && role.is_ready
    }

    /// The leader as known here, when it is another member.
    fn leader(&self) -> Option<LeaderAt> {
        let applied = self.store.state();
        let identity = applied.state.identity.clone()?;
        let role = self.store.role();
        let (leader, told) = {
            let role = role.borrow();
            (role.leader?, role.leader_address.clone())
        };
        let (name, member) = applied.state.member_of(leader)?;
        let address = told.unwrap_or_else(|| member.addresses.peer.clone());
        Some(LeaderAt {
            identity,
            name: name.clone(),
            address,
        })
    }

    fn name_of(&self, node: Option<NodeId>) -> Option<MemberName> {
        self.store
            .state()
            .state
            .member_of(node?)
            .map(|(name, _)| name.clone())
    }

    /// The merged view, when this process leads.
    pub fn merged_view(&self) -> Option<MergedView> {
        let role = self.store.role();
        let term = {
            let role = role.borrow();
            (role.is_leader && role.is_ready).then_some(role.term)?
        };
        let words = self
            .words
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let at = now();
        Some(MergedView {
            leader: self.me.clone(),
            term,
            reports: self.reports.seen(),
            verdicts: words
                .verdicts
                .iter()
                .map(|line| AgedVerdict::of(line, at))
                .collect(),
            last_failover: words.last_failover,
            failovers: words.failovers,
            applied_index: self.store.state().index,
            asked_to_lead: words.asked_to_lead,
        })
    }

    /// Tells the leader how this member is; itself, when it leads.
    pub async fn tell(&self, report: MemberReport, limit: Duration) -> Option<MergedView> {
        self.reports.take(report.clone());
        if let Some(view) = self.merged_view() {
            return Some(view);
        }
        let leader = self.leader().filter(|leader| leader.name != self.me)?;
        let target = Target {
            identity: &leader.identity,
            name: &leader.name,
            address: &leader.address,
        };
        match self.peers.report(target, &report, limit).await {
            Ok(view) => Some(view),
            Err(error) => {
                tracing::debug!(%error, "the report did not reach the leader");
                None
            }
        }
    }

    async fn propose_here(&self, command: Command) -> Result<(), RaftProposeError> {
        self.store.propose(command).await.map(|_| ())
    }

    /// Sends one renewal to whoever leads; the sending time was read before this.
    async fn renew_once(&self, order: RenewOrder, limit: Duration) -> RenewOutcome {
        if self.store.role().borrow().is_leader {
            return match self
                .store
                .renew(&self.me, order.epoch, order.incarnation)
                .await
            {
                Ok(answer) => RenewOutcome::Confirmed {
                    lease: answer.lease,
                    newest_rule: answer.newest_rule,
                },
                Err(RenewRefused::NotGranted { why }) => {
                    tracing::warn!(epoch = %order.epoch, why, "own renewal refused");
                    RenewOutcome::Refused
                }
                Err(_) => RenewOutcome::Failed,
            };
        }
        let Some(leader) = self.leader().filter(|leader| leader.name != self.me) else {
            return RenewOutcome::Failed;
        };
        let request = RenewRequest {
            member: self.me.clone(),
            epoch: order.epoch,
            incarnation: order.incarnation,
            attempt: format!("{}/{}", self.daemon_start, order.attempt),
        };
        let target = Target {
            identity: &leader.identity,
            name: &leader.name,
            address: &leader.address,
        };
        match self.peers.renew(target, &request, limit).await {
            Ok(RenewAnswer::Confirmed { lease, newest_rule }) => {
                RenewOutcome::Confirmed { lease, newest_rule }
            }
            Ok(RenewAnswer::Refused { code, .. }) if is_final(&code) => {
                tracing::warn!(epoch = %order.epoch, code, "renewal refused");
                RenewOutcome::Refused
            }
            Ok(RenewAnswer::Refused { .. }) => RenewOutcome::Failed,
            Err(error) => {
                tracing::debug!(%error, "a renewal brought no answer");
                RenewOutcome::Failed
            }
        }
    }

    /// Sends the lease thread's renewals, each in a task of its own, until the thread ends.
    pub async fn send_renewals(
        self: Arc<Self>,
        lease: LeaseKeeper,
        mut orders: mpsc::Receiver<RenewOrder>,
        limit: watch::Receiver<Duration>,
    ) {
        while let Some(order) = orders.recv().await {
            let (backend, lease, limit) = (Arc::clone(&self), lease.clone(), *limit.borrow());
            tokio::spawn(async move {
                let outcome = backend.renew_once(order, limit).await;
                lease.answer(order.attempt, outcome);
            });
        }
    }
}

/// Refusals of a ready, confirmed leader: this member holds nothing.
fn is_final(code: &str) -> bool {
    matches!(
        code,
        "revoked" | "wrong-epoch" | "wrong-holder" | "wrong-incarnation"
    )
}

fn forwarded(error: RaftProposeError) -> ProposeError {
    match error {
        RaftProposeError::Rejected(rejected) => ProposeError::Rejected(rejected),
        RaftProposeError::NotLeader { .. } => {
            ProposeError::NoLeader("this member does not lead".to_owned())
        }
        RaftProposeError::TimedOutUnknown => ProposeError::Unknown,
        RaftProposeError::Stopped(why) => ProposeError::NoLeader(why),
    }
}

#[async_trait]
impl Propose for Backend {
    async fn propose(&self, command: Command) -> Result<(), ProposeError> {
        let deadline = Instant::now() + LEADER_LIMIT;
        let mut role = self.store.role();
        let leader = loop {
            role.borrow_and_update();
            match self.propose_here(command.clone()).await {
                Err(RaftProposeError::NotLeader { .. }) => {}
                other => return other.map_err(forwarded),
            }
            if let Some(leader) = self.leader().filter(|leader| leader.name != self.me) {
                break leader;
            }
            // Nothing was proposed yet: an election is over in moments, and nobody need ask again.
            if !matches!(timeout_at(deadline, role.changed()).await, Ok(Ok(()))) {
                return Err(ProposeError::NoLeader(
                    "no member is known to lead".to_owned(),
                ));
            }
        };
        let target = Target {
            identity: &leader.identity,
            name: &leader.name,
            address: &leader.address,
        };
        self.peers.propose(target, &command, FORWARD_LIMIT).await
    }
}

/// What a member may have proposed for it: about itself, or an operator's wish. Nothing else is
/// taken from the wire, whoever knows the secret.
fn may_forward(from: &MemberName, command: &Command) -> bool {
    match command {
        Command::Release { member, .. }
        | Command::Promoted { member, .. }
        | Command::DescribeSnapshot { member, .. }
        | Command::CompleteSnapshot { member, .. }
        | Command::EndBackup { member, .. }
        | Command::Restored { member, .. } => member == from,
        Command::Ask { .. }
        | Command::End { .. }
        | Command::Schedule(_)
        | Command::BeginMaintenance(_)
        | Command::EndMaintenance { .. }
        | Command::Unschedule { .. }
        | Command::Pause { .. }
        | Command::Resume { .. }
        | Command::ReplaceMember { .. }
        | Command::ChangeSettings { .. }
        | Command::BeginSnapshot { .. }
        | Command::FailSnapshot { .. }
        | Command::LoseSnapshot { .. }
        | Command::SetPreset { .. } => true,
        Command::Form { .. }
        | Command::Noop { .. }
        | Command::Describe { .. }
        | Command::Initialize { .. }
        | Command::Initialized { .. }
        | Command::Grant(_)
        | Command::FastForward(_)
        | Command::SetDurability(_)
        | Command::Revoke { .. }
        | Command::Propose { .. }
        | Command::Activate { .. }
        | Command::Withdraw { .. }
        | Command::SettleLease
        | Command::BeginBackup { .. }
        | Command::TellBypass(_)
        | Command::TellMissing(..)
        | Command::Step { .. }
        | Command::BeginScheduled { .. }
        | Command::DropScheduled { .. }
        | Command::Replaced { .. } => false,
    }
}

impl Backend {
    /// Whom to ask, besides this member.
    fn other_databases(&self) -> Option<(Identity, Vec<(MemberName, String)>)> {
        let applied = self.store.state();
        let identity = applied.state.identity.clone()?;
        let others = applied.state.databases();
        let others = others.filter(|(name, _)| **name != self.me);
        let others = others.map(|(name, member)| (name.clone(), member.addresses.peer.clone()));
        Some((identity, others.collect()))
    }

    async fn try_at(
        &self,
        identity: &Identity,
        (name, address): &(MemberName, String),
        settings: &Settings,
    ) -> Result<Vec<String>, String> {
        let target = Target {
            identity,
            name,
            address,
        };
        let answer = self.peers.try_parameters(target, settings, TRY_LIMIT).await;
        answer.map_err(|error| error.to_string())
    }
}

#[async_trait]
impl TrySettings for Backend {
    async fn try_settings(&self, settings: &Settings) -> Tried {
        let mut tried = Tried::default();
        let Some((identity, others)) = self.other_databases() else {
            return tried;
        };
        let asked = others
            .iter()
            .map(|other| self.try_at(&identity, other, settings));
        let own = PeerBackend::try_parameters(self, settings.clone());
        let (own, answers) = tokio::join!(own, join_all(asked));
        let all = answers.into_iter().zip(&others);
        let all = all.map(|(answer, (name, _))| (name, answer));
        for (name, answer) in std::iter::once((&self.me, Ok(own))).chain(all) {
            match answer {
                Ok(problems) => {
                    for problem in problems {
                        tried.problems.push(format!("{name}: {problem}"));
                    }
                }
                Err(why) => tried.not_tried.push(format!("not tried on {name}: {why}")),
            }
        }
        tried
    }
}

#[async_trait]
impl PeerBackend for Backend {
    async fn try_parameters(&self, settings: Settings) -> Vec<String> {
        let Some((postgres, beside)) = self.postgres.clone() else {
            return Vec::new();
        };
        let me = self.me.clone();
        let asking = beside.spawn(async move {
            let mut problems = Vec::new();
            for role in [Role::Primary, Role::Standby] {
                let mut inputs = ConfigInputs::default();
                parameters::of(&me, &settings, role).put(&mut inputs);
                let found = postgres.validate_parameters(&inputs).await;
                for problem in found.unwrap_or_else(|error| vec![error.to_string()]) {
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
            }
            problems
        });
        asking
            .await
            .unwrap_or_else(|error| vec![format!("the try was given up: {error}")])
    }

    async fn report(&self, report: MemberReport) -> Result<MergedView, NotLeader> {
        self.reports.take(report);
        self.merged_view().ok_or_else(|| NotLeader {
            leader: self.name_of(self.store.role().borrow().leader),
            why: "this member does not lead".to_owned(),
        })
    }

    async fn propose(&self, from: MemberName, command: Command) -> Result<(), ProposeError> {
        if !may_forward(&from, &command) {
            return Err(ProposeError::Rejected(Rejected::Refused(format!(
                "{from} may not propose that"
            ))));
        }
        self.propose_here(command).await.map_err(forwarded)
    }

    async fn renew(&self, request: RenewRequest) -> RenewAnswer {
        let answer = self
            .store
            .renew(&request.member, request.epoch, request.incarnation)
            .await;
        let refused = match answer {
            Ok(answer) => {
                return RenewAnswer::Confirmed {
                    lease: answer.lease,
                    newest_rule: answer.newest_rule,
                };
            }
            Err(refused) => refused,
        };
        self.refused
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let newest = self.store.state().state.epoch();
        let (code, leader) = match refused {
            RenewRefused::NotLeader { leader, .. } => ("not-leader", self.name_of(leader)),
            RenewRefused::NotReady => ("not-ready", None),
            RenewRefused::NoQuorum => ("no-quorum", None),
            RenewRefused::NotGranted { .. } => ("revoked", Some(self.me.clone())),
            RenewRefused::Stopped(_) => ("not-leader", None),
        };
        RenewAnswer::Refused {
            code: code.to_owned(),
            newer_epoch: (newest > request.epoch).then_some(newest),
            leader,
        }
    }
}

/// Sends this member's reports: at once when they bring news, else five times a second; takes the
/// merged view home.
pub struct Reporter {
    /// The way to the leader.
    pub backend: Arc<Backend>,
    /// The member loop's reports.
    pub own: watch::Receiver<Option<MemberReport>>,
    /// When that loop turned last, and how old that may be: a loop that stands still has no news.
    pub looked: watch::Receiver<Looked>,
    /// See `looked`.
    pub stands_still_after: Duration,
    /// Where the merged reports go.
    pub merged: watch::Sender<Arc<BTreeMap<MemberName, Seen>>>,
    /// Where the leader's other words go.
    pub view: watch::Sender<Option<Arc<MergedView>>>,
    /// Becomes true, once, when this member has applied what the leader had.
    pub is_current: watch::Sender<bool>,
    /// Time limit of one report.
    pub limit: Duration,
}

/// A report at least this often; with the calm loop's next look, a little under its pace.
const REPORT_EVERY: Duration = Duration::from_millis(190);

impl Reporter {
    /// Runs until `shutdown`.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut sent: Option<MemberReport> = None;
        let mut due = tokio::time::Instant::now();
        // The index that must be applied here before this member's truth is current.
        let mut needed: Option<u64> = None;
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                changed = self.own.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(due) => {}
            }
            let Some(report) = self.own.borrow_and_update().clone() else {
                continue;
            };
            let is_news = sent
                .as_ref()
                .is_none_or(|before| super::reports::is_urgent(before, &report));
            if !is_news && tokio::time::Instant::now() < due {
                continue;
            }
            due = tokio::time::Instant::now() + REPORT_EVERY;
            if self.stands_still() {
                continue;
            }
            let told = self.backend.tell(report.clone(), self.limit).await;
            let Some(view) = told else {
                // Try soon again: a new leader may be there.
                sent = None;
                due = tokio::time::Instant::now() + REPORT_EVERY / 2;
                continue;
            };
            sent = Some(report);
            let needed = *needed.get_or_insert(view.applied_index);
            if !*self.is_current.borrow() && self.backend.store.state().index >= needed {
                self.is_current.send_replace(true);
            }
            if view.asked_to_lead.as_ref() == Some(&self.backend.me) {
                let store = self.backend.store.clone();
                tokio::spawn(async move {
                    if store.elect().await {
                        tracing::info!(reason = "leader-on-primary", "calls an election");
                    }
                });
            }
            self.merged.send_replace(Arc::new(view.reports.clone()));
            self.view.send_replace(Some(Arc::new(view)));
        }
    }

    /// Old words would be taken for new ones.
    fn stands_still(&self) -> bool {
        let looked_at = self.looked.borrow().looked_at;
        looked_at.is_some_and(|at| now().since(at) > self.stands_still_after)
    }
}
