//! Raft: the replicated truth on disk and on the wire. Nothing outside this folder knows which
//! library does it.
//!
//! [`ClusterStore`] is what the rest of us see. `group` forms the group or waits to be let in,
//! [`Inbox`] takes other members' messages, `log_store` and `machine` keep what must survive.
//!
//! The surprise: the library's leader never steps down by itself, forgets its vote lease over a
//! restart and resumes leadership of the same term, so no right of ours rests on its role.

pub mod answers;
pub mod codec;
mod durable;
pub mod failure;
mod forming;
pub mod group;
pub mod handshake;
pub mod inbox;
pub mod log_store;
pub mod machine;
pub mod mark;
pub mod network;
mod pulse;
mod reach;
pub mod records;
mod round;
pub mod silence;
pub mod start;
pub mod store;
pub mod store_open;
pub mod stream;
pub mod types;

use std::time::Duration;

use cluster_core::model::lease::Moment;

pub use answers::{MembershipError, ProposeError, RenewAnswer, RenewRefused, Role, Written};
pub use failure::{Failure, OnFailure};
pub use group::{DataDir, GroupError, GroupStatus, Joiner, ListedMember};
pub use handshake::ClusterSecret;
pub use inbox::Inbox;
pub use machine::AppliedState;
pub use network::LinkFaults;
pub use start::{RaftOptions, StartError, start};
pub use store::ClusterStore;
pub use store_open::StoreError;
pub use types::{Identity, PeerNode};

/// Now, on this host's `CLOCK_BOOTTIME`.
fn boottime() -> Moment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Moment(Duration::new(
        seconds,
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    ))
}

/// The kernel's name for this boot; empty when it does not tell.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
