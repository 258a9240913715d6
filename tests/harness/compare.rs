//! The end of a run: every acknowledged row on every member, the same rows and the same WAL
//! everywhere. Lag and `streaming` prove nothing: members may stream from each other and differ
//! [X16], so contents are compared.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, PATIENCE};
use crate::member::Member;
use crate::wait::wait_until;
use crate::writer::{History, Row};

/// Every row, its mark included.
const ROWS: &str = "SELECT writer || ' ' || number || ' ' || mark FROM written";

/// What was compared and what was found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Rows on the primary.
    pub rows: usize,
    /// Members that lack acknowledged rows, with the rows.
    pub missing: Vec<(String, Vec<Row>)>,
    /// Rows that one has and another has not, or has with another mark: the member and how many.
    pub differing: Vec<(String, usize)>,
    /// What differs in WAL or in the history of timelines.
    pub wal: Vec<String>,
    /// Segments of WAL compared byte by byte, over all standbys.
    pub segments: usize,
}

impl Comparison {
    /// Nothing is missing and nothing differs.
    pub fn is_equal(&self) -> bool {
        self.missing.is_empty() && self.differing.is_empty() && self.wal.is_empty()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows on the primary", self.rows)?;
        for (member, rows) in &self.missing {
            let first = &rows[..rows.len().min(3)];
            write!(f, "; {member} lacks {}, as {first:?}", rows.len())?;
        }
        for (member, rows) in &self.differing {
            write!(f, "; {member} differs in {rows} rows")?;
        }
        for what in &self.wal {
            write!(f, "; WAL: {what}")?;
        }
        write!(f, "; {} segments of WAL compared", self.segments)
    }
}

impl Cluster {
    /// How many members have PostgreSQL.
    pub fn database_count(&self) -> usize {
        self.members.iter().filter(|m| !m.is_witness).count()
    }

    /// Waits until every standby has replayed what the primary has now.
    ///
    /// # Errors
    /// Not within the limit.
    pub fn wait_level(&self, primary: usize, limit: Duration) -> Result<()> {
        let end = self.sql(primary, "SELECT pg_current_wal_flush_lsn()::text")?;
        let end = end.concat();
        let ask = format!("SELECT (pg_last_wal_replay_lsn() >= '{end}')::text");
        for standby in self.standbys_of(primary) {
            let name = &self.members[standby].name;
            wait_until(&format!("{name} has replayed {end}"), limit, || match self
                .sql(standby, &ask)
            {
                Ok(found) if found == ["true"] => Ok(()),
                seen => Err(format!("{seen:?}")),
            })?;
        }
        Ok(())
    }

    /// Compares all members with the primary, and the primary with what was acknowledged. Writers
    /// must have ended; the cluster must be healthy.
    ///
    /// # Errors
    /// Something could not be read: that is no finding, and no proof either.
    pub fn compare(&self, primary: usize, history: &History) -> Result<Comparison> {
        let ended = self
            .sql(primary, "SELECT pg_walfile_name(pg_switch_wal())")
            .context("end the segment")?
            .concat();
        self.wait_level(primary, PATIENCE)?;
        let wanted = self.rows_of(primary)?;
        let mut found = Comparison {
            rows: wanted.len(),
            ..Comparison::default()
        };
        let mut note_missing = |member: &Member, missing: Vec<Row>| {
            if !missing.is_empty() {
                found.missing.push((member.name.clone(), missing));
            }
        };
        note_missing(&self.members[primary], self.missing(primary, history)?);
        for standby in self.standbys_of(primary) {
            note_missing(&self.members[standby], self.missing(standby, history)?);
        }
        for standby in self.standbys_of(primary) {
            let differ = self.rows_of(standby)?.symmetric_difference(&wanted).count();
            if differ > 0 {
                let name = self.members[standby].name.clone();
                found.differing.push((name, differ));
            }
            self.compare_wal(primary, standby, &ended, &mut found)?;
        }
        Ok(found)
    }

    /// Fails unless every member has every acknowledged row and all are equal.
    ///
    /// # Errors
    /// They are not; or something could not be read.
    pub fn require_complete(&self, history: &History) -> Result<Comparison> {
        let primary = self.wait_healthy(PATIENCE)?;
        let found = self.compare(primary, history)?;
        ensure!(
            found.is_equal(),
            "of {} acknowledged rows: {found}",
            history.rows.len()
        );
        eprintln!("{} rows acknowledged; {found}", history.rows.len());
        Ok(found)
    }

    fn standbys_of(&self, primary: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len())
            .filter(move |place| *place != primary && !self.members[*place].is_witness)
    }

    fn rows_of(&self, member: usize) -> Result<BTreeSet<String>> {
        let rows = self.sql(member, ROWS);
        let rows = rows.with_context(|| format!("read {}", self.members[member].name))?;
        Ok(rows.into_iter().collect())
    }

    /// Segments of the newest timeline up to the one that has just ended, which both still have, and
    /// the history of that timeline.
    fn compare_wal(
        &self,
        primary: usize,
        standby: usize,
        ended: &str,
        found: &mut Comparison,
    ) -> Result<()> {
        let (ours, theirs) = (&self.members[primary], &self.members[standby]);
        let timeline = ended.get(..8).context("the name of a segment")?;
        let place = |member: &Member| member.data_dir().join("pg_wal");
        let mut compared = 0;
        for entry in fs::read_dir(place(ours)).context("list the primary's WAL")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let is_segment = name.len() == ended.len() && name.as_str() <= ended;
            let is_history = name == format!("{timeline}.history");
            if !(is_history || is_segment && name.starts_with(timeline)) {
                continue;
            }
            let read = |member: &Member| fs::read(place(member).join(&name)).ok();
            // Either may recycle an old one, even while it is read: then it is looked at again.
            let pair = || (read(ours), read(theirs));
            match Some(pair())
                .filter(|(our, their)| our == their)
                .unwrap_or_else(pair)
            {
                (Some(our), Some(their)) if our == their => compared += usize::from(is_segment),
                (Some(_), Some(_)) => found.wal.push(format!("{name} differs on {}", theirs.name)),
                (_, None) if is_history || name == ended => {
                    found.wal.push(format!("{name} is not on {}", theirs.name));
                }
                _ => {}
            }
        }
        ensure!(
            compared > 0 || !found.wal.is_empty(),
            "no segment up to {ended} was there to compare"
        );
        found.segments += compared;
        Ok(())
    }
}
