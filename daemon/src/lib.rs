//! clusterd as a library: the parts, built once by [`runtime`].
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`config`] | this member's file, checked | core::model |
//! | [`postgres`] | everything that can be done to the server | core::model, guard |
//! | [`guard_client`], [`deadline`] | the way to the guard | guard protocol |
//! | [`lease`] | the lease thread | core::model, the guard |
//! | [`raft`] | the replicated truth | core, proto |
//! | [`peers`], [`exchange`], [`wire`], [`secret`], [`tls`] | other members | core, proto |
//! | [`reconcile`] | the two loops | core, raft, postgres, peers |
//! | [`api`], [`metrics`], [`board`], [`local`], [`late`] | the edges | core, proto, a status watch |
//! | [`backup`] | base backups and archived WAL of this member | cluster-backup, postgres, board |
//! | [`callbacks`] | programs of the operator that are told what happened | core::model |
//! | [`snapshot`] | snapshots of the whole cluster | cluster-backup, postgres, board |
//! | [`takeover`] | a PostgreSQL that runs already becomes the cluster's | config, postgres, raft, core |
//! | [`startup`], [`runtime`] | build all of it | all |

pub mod api;
pub mod backup;
pub mod board;
pub mod callbacks;
pub mod config;
pub mod deadline;
pub mod exchange;
pub mod guard_client;
pub mod late;
pub mod lease;
pub mod local;
pub mod metrics;
pub mod peers;
pub mod poolers;
pub mod postgres;
pub mod raft;
pub mod reconcile;
pub mod runtime;
pub mod secret;
pub mod snapshot;
pub mod startup;
pub mod takeover;
pub mod telemetry;
pub mod tls;
pub mod webhooks;
pub mod wire;
