//! How long the one restart will keep clients out, estimated before anything is done, and said what
//! the estimate is made of. Not for deciding anything; the take-over measures the real gap itself.

use std::time::Duration;

use crate::postgres::OldPace;

/// Ending every session and process of a server that has nothing to write.
///
/// Source: measured with PostgreSQL 15 on a busy machine of two cores: 60 to 120 ms.
const STOP: Duration = Duration::from_millis(100);
/// From the end of the old server to the open gate: start in recovery, vote, promotion, roles.
///
/// Source: measured on a machine of two cores, more and less busy: 0.3 to 3.1 s. It does not grow with
/// the database.
const START: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(4000));
/// The checkpoint at the stop writes what changed since the one just before it; that takes the
/// group's answer and a look at everything. Judgement.
const BETWEEN: Duration = Duration::from_millis(500);
/// Slow disks write at least this much a second. Unit: bytes; judgement, below any disk of today.
const SLOW_DISK: u64 = 20 << 20;
/// More WAL than this since the last checkpoint makes the checkpoint before the stop a long one.
const MUCH: u64 = 256 << 20;

/// The gap, from the least to the most that is likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// The checkpoint at the stop.
    pub last_checkpoint: Duration,
    /// All of it, at least.
    pub least: Duration,
    /// All of it, at most, unless the machine is overloaded.
    pub most: Duration,
}

/// The estimate from what the server did so far.
pub fn estimate(pace: &OldPace) -> Estimate {
    let bytes = pace
        .wal_bytes_per_second
        .saturating_mul(milliseconds(BETWEEN))
        / 1000;
    let write = Duration::from_millis(bytes.saturating_mul(1000) / SLOW_DISK);
    let last_checkpoint = pace.mean_sync + write;
    Estimate {
        last_checkpoint,
        least: STOP + START.0,
        most: STOP + last_checkpoint + START.1,
    }
}

/// The estimate in words.
pub fn words(pace: &OldPace, since_checkpoint_bytes: u64) -> Vec<String> {
    let Estimate {
        last_checkpoint,
        least,
        most,
    } = estimate(pace);
    let mut lines = vec![
        format!(
            "about {:.1} to {:.1} s without writes; measured and shown when it is done",
            least.as_secs_f64(),
            most.as_secs_f64()
        ),
        format!(
            "made of: the end of {} sessions and the stop, {} ms; its last checkpoint, up to {} ms \
             (it syncs files for {} ms on average, and WAL is written at {} kB/s now); start, vote \
             and promotion, {:.1} to {:.1} s as measured with other servers, whatever the size",
            pace.sessions,
            milliseconds(STOP),
            milliseconds(last_checkpoint),
            milliseconds(pace.mean_sync),
            pace.wal_bytes_per_second >> 10,
            START.0.as_secs_f64(),
            START.1.as_secs_f64(),
        ),
        "the take-over itself makes two CHECKPOINTs right before the stop, while clients go on"
            .to_owned(),
    ];
    if since_checkpoint_bytes > MUCH {
        lines.push(format!(
            "{} MB of WAL were written since the last checkpoint: a CHECKPOINT by hand at a quiet \
             time shortly before spares clients a slow moment then",
            since_checkpoint_bytes >> 20
        ));
    }
    lines
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(wal_bytes_per_second: u64, mean_sync_ms: u64) -> OldPace {
        OldPace {
            sessions: 3,
            mean_sync: Duration::from_millis(mean_sync_ms),
            wal_bytes_per_second,
        }
    }

    #[test]
    fn a_busy_server_with_slow_syncs_has_a_longer_gap() {
        let (idle, busy) = (estimate(&pace(0, 0)), estimate(&pace(40 << 20, 700)));
        assert_eq!(idle.last_checkpoint, Duration::ZERO);
        assert_eq!(busy.last_checkpoint, Duration::from_millis(1700));
        assert!(busy.most > idle.most && busy.least == idle.least);
    }

    #[test]
    fn a_checkpoint_by_hand_is_advised_after_much_wal_only() {
        let advised = |bytes| {
            let lines = words(&pace(0, 10), bytes);
            lines.iter().any(|line| line.contains("by hand"))
        };
        assert!(advised(300 << 20) && !advised(10 << 20));
    }
}
