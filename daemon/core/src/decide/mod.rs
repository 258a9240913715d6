//! What to do next: two pure questions, asked separately.
//!
//! [`decide_cluster`]: "what should the cluster look like?", asked by the Raft leader.
//! [`decide_member`]: "what must my PostgreSQL do next to match?", asked by every member.

pub mod backups;
pub mod bypass;
pub mod candidate;
pub mod cluster;
pub mod confirming;
pub mod explain;
pub mod failover;
pub mod fencing;
pub mod losses;
pub mod maintenance;
pub mod member;
pub mod membership;
pub mod missing;
pub mod quarantine;
pub mod reason;
pub mod rejoin;
pub mod requests;
pub mod rolling;
pub mod room;
pub mod rule_setter;
pub mod schedules;
pub mod seal;
pub mod snapshots;
pub mod standby_watch;
pub mod sync_standbys;
pub mod upkeep;
pub mod wanted_rule;

pub use cluster::{RULES, Rule, RuleVerdict, Verdict, VoterChange, decide_cluster};
pub use confirming::{Confirmer, Confirming, confirming};
pub use explain::explain;
pub use fencing::wants_renewal;
pub use losses::{Blocked, Survivable, blocked};
pub use member::{Action, MemberVerdict, decide_member};
pub use reason::Reason;
