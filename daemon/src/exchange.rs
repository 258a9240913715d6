//! What the daemons of one cluster say to each other besides Raft: the types both ends share, and
//! the trait behind which the answering side lives. No transport here.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use cluster_core::change::Command;
use cluster_core::model::lease::Moment;
use cluster_core::model::view::Seen;
use cluster_core::model::{Epoch, Incarnation, MemberName, MemberReport, RuleId, Settings};

use crate::board::{ProposeError, VerdictLine};

/// The leader's view of all members, as it sends it back to each.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedView {
    /// Who leads.
    pub leader: MemberName,
    /// Its term.
    pub term: u64,
    /// Every member's newest report, with its age on the leader's clock when it was sent.
    pub reports: BTreeMap<MemberName, Seen>,
    /// The leader's verdicts.
    pub verdicts: Vec<AgedVerdict>,
    /// How long the last failover took, if this leader saw one.
    pub last_failover: Option<Duration>,
    /// Failovers this leader saw, by code of the reason.
    pub failovers: BTreeMap<String, u64>,
    /// The newest log index applied at the leader when it answered.
    pub applied_index: u64,
    /// A member that had better lead; it calls an election.
    pub asked_to_lead: Option<MemberName>,
}

/// A [`VerdictLine`] on its way: moments of two hosts cannot be compared, ages can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgedVerdict {
    /// The rule's name.
    pub rule: String,
    /// Stable code of the reason.
    pub code: String,
    /// The sentence for people.
    pub text: String,
    /// For how long it has been the same.
    pub age: Duration,
}

impl AgedVerdict {
    /// The line as of `now` on the sender's clock.
    pub fn of(line: &VerdictLine, now: Moment) -> AgedVerdict {
        AgedVerdict {
            rule: line.rule.clone(),
            code: line.code.clone(),
            text: line.text.clone(),
            age: now.since(line.since),
        }
    }

    /// The line as it arrived at `now` on the receiver's clock.
    pub fn arrived(self, now: Moment) -> VerdictLine {
        VerdictLine {
            rule: self.rule,
            code: self.code,
            text: self.text,
            since: now.before(self.age),
        }
    }
}

/// The member that was asked does not lead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotLeader {
    /// Who leads, if known.
    pub leader: Option<MemberName>,
    /// A sentence.
    pub why: String,
}

/// The holder asks for its lease to be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewRequest {
    /// The holder.
    pub member: MemberName,
    /// The epoch it holds.
    pub epoch: Epoch,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Boot id, daemon start and counter: no two attempts share one. Repeated in the answer.
    pub attempt: String,
}

/// What the leader says to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenewAnswer {
    /// Confirmed by a quorum after the request had arrived.
    Confirmed {
        /// D, counted by the holder from the moment before it asked.
        lease: Duration,
        /// The newest rule number given.
        newest_rule: RuleId,
    },
    /// Not confirmed.
    Refused {
        /// `not-leader`, `not-ready`, `no-quorum`, `revoked`, `wrong-epoch`, `wrong-holder`,
        /// `wrong-incarnation`.
        code: String,
        /// The newest epoch, when newer than the one asked for.
        newer_epoch: Option<Epoch>,
        /// Who leads, when known.
        leader: Option<MemberName>,
    },
}

/// The answering side of the peer service; implemented over the cluster's store.
#[async_trait]
pub trait PeerBackend: Send + Sync {
    /// Takes a member's report and answers with the merged view; only a leader can.
    async fn report(&self, report: MemberReport) -> Result<MergedView, NotLeader>;
    /// Proposes a member's command here, if this process leads; it is not forwarded a second time.
    async fn propose(&self, from: MemberName, command: Command) -> Result<(), ProposeError>;
    /// Confirms or refuses a renewal.
    async fn renew(&self, request: RenewRequest) -> RenewAnswer;
    /// What this member's PostgreSQL would not take of these settings; changes nothing.
    async fn try_parameters(&self, settings: Settings) -> Vec<String>;
}
