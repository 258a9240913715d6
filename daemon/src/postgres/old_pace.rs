//! How busy an old server is, for the estimate of the gap. Changes nothing, and takes a second.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Error;
use super::old_facts::LIMIT;
use super::sql::Session;
use super::version::Major;

/// What a stop of the server has to deal with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OldPace {
    /// Sessions of clients.
    pub sessions: u32,
    /// How long its checkpoints synced files, on average since its statistics began.
    pub mean_sync: Duration,
    /// WAL written now. Unit: bytes a second.
    pub wal_bytes_per_second: u64,
}

/// Between the two looks at the end of WAL.
const SECOND: Duration = Duration::from_secs(1);

const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity \
  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

const POSITION: &str = "SELECT (pg_current_wal_insert_lsn() - '0/0')::int8";

const OF_CHECKPOINTER: &str = "SELECT (sync_time / greatest(num_timed + num_requested, 1))::float8 \
  FROM pg_stat_checkpointer";

const OF_WRITER: &str = "SELECT (checkpoint_sync_time / \
  greatest(checkpoints_timed + checkpoints_req, 1))::float8 FROM pg_stat_bgwriter";

/// Reads it from a primary of this major.
pub(super) async fn read(session: &Session, major: Major) -> Result<OldPace, Error> {
    let sync = match major.has_checkpointer_statistics() {
        true => OF_CHECKPOINTER,
        false => OF_WRITER,
    };
    let mean_ms: f64 = session.query_one(LIMIT, sync, &[]).await?.get(0);
    let sessions: i64 = session.query_one(LIMIT, SESSIONS, &[]).await?.get(0);
    let began = Instant::now();
    let before: i64 = session.query_one(LIMIT, POSITION, &[]).await?.get(0);
    sleep(SECOND).await;
    let after: i64 = session.query_one(LIMIT, POSITION, &[]).await?.get(0);
    let bytes = u64::try_from(after - before).unwrap_or(0);
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(OldPace {
        sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
        mean_sync: Duration::try_from_secs_f64(mean_ms / 1000.0).unwrap_or_default(),
        wal_bytes_per_second: bytes.saturating_mul(1000) / millis.max(1),
    })
}
