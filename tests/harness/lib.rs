//! The vocabulary of whole-cluster tests: [`Cluster`], [`Member`], [`Writers`].
//!
//! Members are the built programs, run as real processes on pretended hosts (a network namespace and
//! a control group each); nothing of the daemon is linked in. Needs root. Everything a test made is
//! gone after it, also when it was killed.

pub mod benchmarks;
pub mod booted;
pub mod browser;
pub mod cluster;
pub mod compare;
pub mod config;
pub mod cost;
pub mod disk;
pub mod host;
pub mod http;
pub mod logs;
pub mod member;
pub mod network;
pub mod orphans;
pub mod patroni;
pub mod points;
pub mod programs;
pub mod proxy;
pub mod reaper;
pub mod restored;
pub mod rule;
pub mod sql;
pub mod storm;
pub mod wait;
pub mod writer;

pub use cluster::{Cluster, PATIENCE, Wanted};
pub use member::Member;
pub use network::Cut;
pub use rule::RuleSeen;
pub use wait::{stays, wait_until};
pub use writer::{History, Writers};
