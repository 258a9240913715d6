//! Two loops, each: observe → decide → act, one thing a turn.
//!
//! ```text
//!   member loop (everyone)                      cluster loop (the leader)
//!   guard, PostgreSQL, lease, applied truth     members' reports, granter, applied truth
//!        │ MemberView                                 │ ClusterView
//!        ▼                                            ▼
//!   decide_member ─ Action ─► act                decide_cluster ─ Verdict ─► propose
//!        │                                            │
//!        └─ report ─► leader ◄─ merged view ──────────┘
//! ```
//!
//! Beside the member loop of a primary its rule keeper brings the newest rule into force.
//!
//! The cluster loop only proposes, the member loop only acts. A turn is quick: what takes long runs
//! as one task of `act`, and the loop goes on looking, reporting and, if it must, fencing.

pub mod act;
pub mod backend;
pub mod cluster_loop;
mod commit_watch;
pub mod durable;
pub mod foresight;
mod handing_over;
pub mod high_water;
pub mod member_loop;
mod memory;
mod neighbours;
pub mod observe;
pub mod parameters;
pub mod probes;
mod promoting;
mod rejoining;
pub mod reports;
pub mod rule_keeper;
mod running;
mod sealing;
mod telling;
