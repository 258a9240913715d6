//! The board: what the edges (HTTP, gRPC, metrics) may see of this member. The loops write it, the
//! edges read the newest copy and never wait for PostgreSQL, the disk or Raft.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster_core::change::{Command, Rejected};
use cluster_core::model::lease::{Holder, LeaseTimes, Moment};
use cluster_core::model::view::{ClusterView, Seen};
use cluster_core::model::{
    ArchiveAudit, ClusterState, MemberName, MemberReport, NodeId, PostgresStatus, Settings,
};

use crate::callbacks::Told;

/// What this member knows of its Raft group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RaftBoard {
    /// Own id; none before the group formed or while waiting to be replaced.
    pub me: Option<NodeId>,
    /// Current term.
    pub term: u64,
    /// The leader as known here.
    pub leader: Option<NodeId>,
    /// This process leads and is ready to answer and decide.
    pub is_ready_leader: bool,
    /// Voters.
    pub voters: Vec<NodeId>,
    /// Since a quorum last acknowledged this leader, when leading.
    pub quorum_age: Option<Duration>,
    /// Elections this process has won.
    pub elections_won: u64,
    /// Renewals refused by this process.
    pub renewals_refused: u64,
}

/// One rule's last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictLine {
    /// The rule's name (`failover`, `switchover`, …) or `member`.
    pub rule: String,
    /// Stable code of the reason.
    pub code: String,
    /// The sentence for people.
    pub text: String,
    /// Since when it has been the same.
    pub since: Moment,
}

/// Everything the edges may see. Cheap to clone (`Arc` inside where it is large).
#[derive(Clone, Debug)]
pub struct Board {
    /// Own name.
    pub me: MemberName,
    /// The applied truth.
    pub state: Arc<ClusterState>,
    /// Its log index.
    pub applied_index: u64,
    /// Times in force.
    pub times: LeaseTimes,
    /// Raft.
    pub raft: RaftBoard,
    /// Own report, as last sent.
    pub own: MemberReport,
    /// When the member's loop last turned; `/liveness` asks.
    pub refreshed_at: Moment,
    /// When PostgreSQL last answered an observation.
    pub postgres_answered_at: Option<Moment>,
    /// Every member's newest report as merged by the leader (ages as of `merged_at`).
    pub reports: Arc<BTreeMap<MemberName, Seen>>,
    /// When `reports` was taken over.
    pub merged_at: Moment,
    /// The leader's verdicts (merged view), and this member's own as the last line.
    pub verdicts: Vec<VerdictLine>,
    /// What the host did not grant: real-time priority, locked memory, cgroup …
    pub not_granted: Vec<String>,
    /// How the last failover went, on the member that leads: its duration from Revoke to Activate.
    pub last_failover: Option<Duration>,
    /// Failovers seen by this process, by reason code.
    pub failovers: BTreeMap<String, u64>,
    /// How this member's own callbacks have gone.
    pub callbacks: Vec<Told>,
}

/// The lease as the edges read it: never older than the last move of the deadline, whatever the
/// loops do. Filled by the lease thread.
pub trait LeaseView: Send + Sync {
    /// The lease held now.
    fn holder(&self) -> Holder;
    /// This host's clock.
    fn now(&self) -> Moment;
    /// From the start of this process to its first confirmed renewal.
    fn first_renewal(&self) -> Option<Duration>;
}

impl Board {
    /// Asks one of the core's questions about the cluster as this board shows it at `now`.
    pub fn look<T>(&self, now: Moment, ask: impl FnOnce(&ClusterView) -> T) -> T {
        let since_merged = now.since(self.merged_at);
        let told = self.reports.iter().map(|(name, seen)| {
            let seen = Seen {
                report: seen.report.clone(),
                age: seen.age + since_merged,
            };
            (name.clone(), seen)
        });
        let own = Seen {
            report: self.own.clone(),
            age: Duration::ZERO,
        };
        let reports = told.chain([(self.me.clone(), own)]).collect();
        let nothing_asked = BTreeMap::new();
        let leader = self.raft.leader.unwrap_or(NodeId(0));
        let voters = &self.raft.voters;
        ask(&ClusterView::settled(
            leader,
            &self.state,
            &reports,
            voters,
            &nothing_asked,
        ))
    }

    /// What is known of the archive, and who looked last: the newest that any member tells.
    pub fn audit(&self) -> Option<(&MemberName, ArchiveAudit)> {
        let told = self.reports.iter().filter(|(name, _)| **name != self.me);
        let told = told.map(|(name, seen)| (name, &seen.report));
        let all = told.chain([(&self.me, &self.own)]);
        ArchiveAudit::newest(all.filter_map(|(name, it)| Some((name, it.health.audit.as_ref()?))))
    }

    /// The newest file of which the primary's server was told that it is archived.
    pub fn newest_archived(&self) -> Option<&str> {
        let holder = &self.state.granted()?.holder;
        let report = match *holder == self.me {
            true => &self.own,
            false => &self.reports.get(holder)?.report,
        };
        report.health.archive.as_ref()?.newest.as_deref()
    }

    /// Whether this member serves as primary at `now`: lease, activation, a recent answer of
    /// PostgreSQL and an open gate, all four [G7].
    pub fn serves_as_primary(&self, lease: &dyn LeaseView) -> bool {
        let now = lease.now();
        let Some(reign) = self.state.granted() else {
            return false;
        };
        reign.holder == self.me
            && reign.is_activated
            && lease.holder().may_serve(reign.epoch, now, &self.times)
            && self.is_open_primary()
            && self
                .postgres_answered_at
                .is_some_and(|at| now.since(at) < Duration::from_secs(1))
    }

    /// Whether clients are let in: a balancer that is told of a primary sends them at once.
    fn is_open_primary(&self) -> bool {
        let postgres = &self.own.postgres;
        matches!(postgres, PostgresStatus::Primary(primary) if primary.is_open)
    }
}

/// Why a proposal did not come through.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The truth refused it; nothing changed.
    #[error("{0}")]
    Rejected(Rejected),
    /// No leader is known or it could not be reached; nothing was proposed.
    #[error("no leader can be reached: {0}")]
    NoLeader(String),
    /// It was proposed; whether it was committed is unknown.
    #[error("timed out; whether it was done is unknown")]
    Unknown,
}

/// What the members' PostgreSQL say to settings that somebody asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// What would not be taken, a sentence each.
    pub problems: Vec<String>,
    /// Who could not be asked, and why.
    pub not_tried: Vec<String>,
}

/// Asks every member's PostgreSQL before anything is proposed.
#[async_trait]
pub trait TrySettings: Send + Sync {
    /// Takes a moment; changes nothing.
    async fn try_settings(&self, settings: &Settings) -> Tried;
}

/// Proposes a command, forwarding it to the leader when this member does not lead.
#[async_trait]
pub trait Propose: Send + Sync {
    /// Returns once the command is applied at the leader.
    async fn propose(&self, command: Command) -> Result<(), ProposeError>;
}

/// Whether a member could be promoted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub member: MemberName,
    /// Why not; empty when it could.
    pub reasons: Vec<String>,
}

/// What the cluster would decide if something happened; the decision's own code, asked ahead.
pub trait Foresight: Send + Sync {
    /// "If the primary died now …": codes and sentences.
    fn explain(&self, board: &Board) -> Vec<(String, String)>;
    /// Every member that is not the primary, best candidate first.
    fn candidates(&self, board: &Board) -> Vec<Candidate>;
}
