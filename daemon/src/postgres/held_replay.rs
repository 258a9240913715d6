//! A standby that has WAL and does not replay it: paused, delayed, or in conflict with a query.
//!
//! What it has confirmed lies in its files, so its end of WAL is read there. The surprise: what was
//! received may go on on a later timeline than the one that replay has reached.

use cluster_core::model::timeline::parse_history;
use cluster_core::model::{Lsn, PostgresStatus, TimelineId};

use super::control_data::RECOVERY_PARAMETERS;
use super::data_dir::is_placeholder;
use super::{Error, Postgres, sql};

/// The parameter that makes a standby replay late.
pub(super) const APPLY_DELAY: &str = "recovery_min_apply_delay";

impl Postgres {
    /// The end of the last whole record that a sealed, running standby has, and its timeline.
    ///
    /// # Errors
    /// It is no standby, it may still receive, or its files cannot be read.
    pub async fn end_of_held_wal(&self) -> Result<(TimelineId, Lsn), Error> {
        let PostgresStatus::Standby(standby) = self.observe().await else {
            return Err(Error::NotRunning {
                why: "it is no standby".to_owned(),
            });
        };
        if standby.follows.is_some() || standby.receiver.is_some() {
            return Err(Error::NotSealed {
                why: "it may still receive".to_owned(),
            });
        }
        let segment = self.control_data().await?.wal_segment_bytes;
        let replayed = standby.replayed;
        let own = self
            .timeline_on_disk(replayed, segment)
            .unwrap_or(standby.timeline);
        for (timeline, fork) in self.later_timelines(own, replayed)?.into_iter().rev() {
            // A history may have come without any WAL.
            if self.has_segment(timeline, fork, segment)
                && let Some(end) = self.last_record(fork, timeline, segment).await?
            {
                return Ok((timeline, end));
            }
        }
        // Most of it need not be read: what was received is there without a gap, and in front of its
        // end there is nearly always a whole record.
        let received = standby.received.unwrap_or(Lsn::ZERO);
        let near = Lsn(received.0.saturating_sub(1) / segment * segment);
        if near > replayed
            && let Some(end) = self.last_record(near, own, segment).await?
        {
            return Ok((own, end));
        }
        // Behind a whole segment there may be no next one.
        let is_whole = replayed.0.is_multiple_of(segment);
        if is_whole && !self.has_segment(own, replayed, segment) {
            return Ok((own, replayed));
        }
        let end = self.last_record(replayed, own, segment).await?;
        Ok((own, end.unwrap_or(replayed)))
    }

    /// Timelines that recovery would go over to from `own`, and where, oldest first.
    fn later_timelines(
        &self,
        own: TimelineId,
        replayed: Lsn,
    ) -> Result<Vec<(TimelineId, Lsn)>, Error> {
        let mut later = Vec::new();
        for (timeline, text) in self.histories()? {
            if timeline <= own || is_placeholder(&text) {
                continue;
            }
            let Some(lines) = parse_history(&text) else {
                continue;
            };
            let leaves_ahead =
                |line: &&cluster_core::model::timeline::HistoryLine| line.parent == own;
            let is_ours = lines
                .iter()
                .find(leaves_ahead)
                .is_some_and(|line| line.end >= replayed);
            if let Some(last) = lines.last()
                && is_ours
            {
                later.push((timeline, last.end));
            }
        }
        Ok(later)
    }

    /// Whether a parameter is lower here than on the primary whose WAL is replayed: then recovery
    /// pauses, and going on would end the server (hazards X23).
    pub(super) async fn has_too_little(&self) -> Result<bool, Error> {
        let recorded = self.control_data().await?.recovery_parameters;
        let names: Vec<&str> = RECOVERY_PARAMETERS.iter().map(|(name, _)| *name).collect();
        let session = self.session().await?;
        let rows = session
            .query(
                self.limits().observe,
                sql::RECOVERY_PARAMETERS_IN_FORCE,
                &[&names],
            )
            .await?;
        Ok(rows.iter().any(|row| {
            let (name, value): (String, i64) = (row.get("name"), row.get("value"));
            recorded
                .get(name.as_str())
                .is_some_and(|recorded| value < i64::from(*recorded))
        }))
    }

    /// Nothing holds replay back any more: no pause, and no delay until the configuration is made anew.
    ///
    /// # Errors
    /// The server did not take it.
    pub async fn replay_everything(&self) -> Result<(), Error> {
        // Set by hand, it would win over ours.
        if self.scrub_from_auto_conf(APPLY_DELAY)? {
            tracing::warn!("{APPLY_DELAY} removed from postgresql.auto.conf");
        }
        self.edit_config(|inputs| inputs.replays_at_once = true)
            .await?;
        let session = self.session().await?;
        session
            .batch(self.limits().statement, sql::RESUME_REPLAY)
            .await
    }
}
