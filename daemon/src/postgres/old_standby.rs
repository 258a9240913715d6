//! What a take-over must know of an old server that is a standby: where its WAL is, whom it follows.
//! Changes nothing.
//!
//! The surprise: `streaming` alone proves little, because it is true for moments on a standby whose WAL
//! has left its primary's. Proof is replay that moves on while it streams.

use std::path::Path;

use cluster_core::model::{Lsn, TimelineId};

use super::Error;
use super::data_dir::STANDBY_SIGNAL;
use super::old_facts::LIMIT;
use super::sql::Session;

/// Where an old standby is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldStandby {
    /// The newest timeline its WAL is known to be on.
    pub timeline: TimelineId,
    /// `pg_last_wal_replay_lsn()`.
    pub replayed: Lsn,
    /// It receives WAL now.
    pub is_streaming: bool,
    /// Whom it follows, `host:port`, while it is connected.
    pub upstream: Option<String>,
    /// `standby.signal` is in its directory.
    pub has_signal: bool,
}

const STANDBY: &str = "SELECT coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), \
    false) AS streaming, \
  (SELECT sender_host || ':' || sender_port FROM pg_stat_wal_receiver) AS upstream, \
  greatest((SELECT received_tli FROM pg_stat_wal_receiver), \
    (SELECT timeline_id FROM pg_control_checkpoint()), \
    (SELECT min_recovery_end_timeline FROM pg_control_recovery()))::int8 AS timeline, \
  pg_last_wal_replay_lsn()::text AS replayed";

/// Reads it from a server in recovery.
pub(super) async fn read(session: &Session, data_dir: &Path) -> Result<OldStandby, Error> {
    let row = session.query_one(LIMIT, STANDBY, &[]).await?;
    let timeline = u32::try_from(row.get::<_, i64>("timeline")).unwrap_or(0);
    let replayed: Option<String> = row.get("replayed");
    Ok(OldStandby {
        timeline: TimelineId(timeline),
        replayed: replayed
            .and_then(|text| text.parse().ok())
            .unwrap_or(Lsn::ZERO),
        is_streaming: row.get("streaming"),
        upstream: row.get("upstream"),
        has_signal: data_dir.join(STANDBY_SIGNAL).is_file(),
    })
}
