//! The leader's ordered rule list: the first rule that does not pass decides.

use crate::change::Command;
use crate::model::NodeId;
use crate::model::ids::MemberName;
use crate::model::view::ClusterView;

use super::reason::Reason;
use super::{
    backups, bypass, confirming, failover, maintenance, membership, missing, requests, rolling,
    schedules, snapshots, sync_standbys, upkeep,
};

/// What one rule says about the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// No opinion; ask the next rule.
    Pass,
    /// Change nothing now; later rules are not asked.
    Wait(Reason),
    /// Propose exactly this change.
    Propose(Box<Command>, Reason),
    /// Change Raft's voters.
    Voters(VoterChange, Reason),
    /// Ask this member to campaign.
    Elect(MemberName, Reason),
}

/// A change of the Raft group itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoterChange {
    /// A new node catches up without a vote.
    AddLearner {
        /// Its id.
        node: NodeId,
        /// Its gRPC address.
        peer: String,
    },
    /// The caught-up node takes the old one's vote.
    Swap {
        /// Loses its vote.
        old: NodeId,
        /// Gets it.
        new: NodeId,
    },
}

/// A named rule.
pub struct Rule {
    /// Shown to people and in logs.
    pub name: &'static str,
    /// The question.
    pub judge: fn(&ClusterView) -> Verdict,
}

/// Order is meaning.
pub const RULES: &[Rule] = &[
    Rule {
        name: "describe",
        judge: upkeep::describe,
    },
    Rule {
        name: "settle-lease",
        judge: upkeep::settle_lease,
    },
    Rule {
        name: "initialize",
        judge: upkeep::initialize,
    },
    Rule {
        name: "moving-request",
        judge: requests::move_primary,
    },
    Rule {
        name: "primary-lost",
        judge: failover::primary_lost,
    },
    Rule {
        name: "tells-missing",
        judge: missing::tell,
    },
    Rule {
        name: "succession",
        judge: failover::succession,
    },
    Rule {
        name: "activation",
        judge: failover::activation,
    },
    Rule {
        name: "sync-standbys",
        judge: sync_standbys::sync_standbys,
    },
    Rule {
        name: "commits-bypassed",
        judge: bypass::tell,
    },
    Rule {
        name: "maintenance",
        judge: maintenance::over,
    },
    Rule {
        name: "schedules",
        judge: schedules::due,
    },
    Rule {
        name: "member-requests",
        judge: requests::members,
    },
    Rule {
        name: "restart-pending",
        judge: rolling::restart_pending,
    },
    Rule {
        name: "take-back-parameters",
        judge: rolling::take_back,
    },
    Rule {
        name: "membership",
        judge: membership::replace,
    },
    Rule {
        name: "placement",
        judge: membership::placement,
    },
    Rule {
        name: "snapshots",
        judge: snapshots::taker_lost,
    },
    Rule {
        name: "writes-wait",
        judge: confirming::writes_wait,
    },
    Rule {
        name: "scheduled-backups",
        judge: backups::scheduled,
    },
];

/// The verdict of the first rule that had an opinion.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleVerdict {
    /// Which rule.
    pub rule: &'static str,
    /// What it said.
    pub verdict: Verdict,
}

impl RuleVerdict {
    /// Why.
    pub fn reason(&self) -> Reason {
        match &self.verdict {
            Verdict::Pass => Reason::AllWell,
            Verdict::Wait(reason)
            | Verdict::Propose(_, reason)
            | Verdict::Voters(_, reason)
            | Verdict::Elect(_, reason) => reason.clone(),
        }
    }
}

/// What the leader does next. Call it only on a leader that is ready and confirmed.
pub fn decide_cluster(view: &ClusterView) -> RuleVerdict {
    for rule in RULES {
        let verdict = (rule.judge)(view);
        if verdict != Verdict::Pass {
            return RuleVerdict {
                rule: rule.name,
                verdict,
            };
        }
    }
    RuleVerdict {
        rule: "steady",
        verdict: Verdict::Pass,
    }
}

/// Shorthand of the rules.
pub(super) fn propose(command: Command, reason: Reason) -> Verdict {
    Verdict::Propose(Box::new(command), reason)
}
