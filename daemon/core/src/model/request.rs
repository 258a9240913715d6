//! What an operator asked for, and how far it has got.

use serde::{Deserialize, Serialize};

use super::ids::{MemberName, RequestId};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum RequestKind {
    /// A planned hand-over, to the named or the best standby.
    Switchover {
        /// The new primary; `None` lets the leader choose.
        to: Option<MemberName>,
    },
    /// Promote this member although the cluster would not by itself; loss is accepted and recorded.
    Failover {
        /// The new primary.
        to: MemberName,
    },
    /// Restart PostgreSQL on a member.
    Restart {
        /// Where.
        member: MemberName,
    },
    /// Restart every member that waits for a restart, one after the other.
    RestartPending,
    /// Write PostgreSQL's configuration again and reload it on a member.
    Reload {
        /// Where.
        member: MemberName,
    },
    /// Clone a standby anew.
    Reinit {
        /// Where.
        member: MemberName,
    },
}

impl RequestKind {
    /// The verbs of requests that take the primary's epoch away.
    pub const MOVING_VERBS: [&'static str; 3] = ["switchover", "failover", "restart"];

    /// The verb, for people.
    pub fn verb(&self) -> &'static str {
        match self {
            RequestKind::Switchover { .. } => "switchover",
            RequestKind::Failover { .. } => "failover",
            RequestKind::Restart { .. } => "restart",
            RequestKind::RestartPending => "restart --pending",
            RequestKind::Reload { .. } => "reload",
            RequestKind::Reinit { .. } => "reinit",
        }
    }

    /// Whether it changes who is primary; only one such request is open at a time.
    pub fn moves_primary(&self) -> bool {
        matches!(
            self,
            RequestKind::Switchover { .. } | RequestKind::Failover { .. }
        )
    }
}

/// How far a request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Step {
    /// Recorded; nothing done yet.
    Accepted,
    /// Switchover: target chosen; primary and target checkpoint.
    Prepare {
        /// The chosen new primary.
        to: MemberName,
    },
    /// Switchover: the primary fences writers and waits for the target.
    Drain {
        /// The chosen new primary.
        to: MemberName,
    },
    /// Restart of all that wait for one: this member's turn, by a request of its own.
    Rolling {
        /// Who.
        member: MemberName,
        /// How many were asked for before, and this one.
        number: u32,
    },
    /// The epoch was revoked for it; the next Grant finishes it.
    Moving {
        /// The chosen new primary.
        to: MemberName,
    },
    /// Ended.
    Ended(RequestOutcome),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum RequestOutcome {
    /// As asked.
    Done {
        /// What happened.
        text: String,
    },
    /// Not done; nothing changed, or the old state was restored.
    Failed {
        /// Why.
        why: String,
    },
}

/// One request of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the client.
    pub id: RequestId,
    /// What.
    pub kind: RequestKind,
    /// Who asked, and why, as they said.
    pub by: String,
    /// When it was recorded, Unix milliseconds, as the proposing member's clock had it. Display only.
    pub at_unix_ms: u64,
    /// Log index of its record.
    pub index: u64,
    /// How far it is.
    pub step: Step,
    /// How long a restart may take before it counts as failed; none: as long as it takes. Unit:
    /// milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
}

impl Request {
    /// Whether it still waits for something.
    pub fn is_open(&self) -> bool {
        !matches!(self.step, Step::Ended(_))
    }

    /// The chosen new primary, once there is one.
    pub fn target(&self) -> Option<&MemberName> {
        match &self.step {
            Step::Prepare { to } | Step::Drain { to } | Step::Moving { to } => Some(to),
            Step::Accepted | Step::Rolling { .. } | Step::Ended(_) => None,
        }
    }
}
