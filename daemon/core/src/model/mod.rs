//! What is true ([`state`]) and what was seen ([`view`]).

pub mod confirmation;
pub mod epoch;
pub mod ids;
pub mod lease;
pub mod ledger;
pub mod lsn;
pub mod member;
pub mod parameters;
pub mod postgres;
pub mod request;
pub mod rule;
pub mod settings;
pub mod settings_change;
mod settings_check;
mod settings_differences;
pub mod settings_text;
pub mod snapshot;
pub mod state;
pub mod timeline;
pub mod units;
pub mod view;

pub use epoch::{Epoch, Generation};
pub use ids::{ClusterId, ClusterName, Incarnation, MemberName, NodeId, RequestId, RuleId};
pub use ledger::{Ledger, LedgerEntry, Position};
pub use lsn::Lsn;
pub use member::{Addresses, Member, MemberKind, MemberReport, Tags};
pub use postgres::PostgresStatus;
pub use request::{Request, RequestKind, RequestOutcome};
pub use rule::Rule;
pub use settings::Settings;
pub use settings_change::SettingsChange;
pub use settings_text::Assignment;
pub use snapshot::{Snapshot, SnapshotId};
pub use state::{ClusterState, Phase, Reign};
pub use timeline::TimelineId;
