//! What is in the archive of one database: which objects hold which file, and the histories among them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use cluster_core::model::TimelineId;
use cluster_core::model::timeline::parse_history;

use crate::lineage::{self, Histories, SegmentSize};
use crate::manifest::Manifest;
use crate::names::{self, WalName};
use crate::{Error, Repository, streams};

/// What a long page header says, at the beginning of each segment.
/// Source: XLogLongPageHeaderData of PostgreSQL 14 to 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// System identifier of the database.
    pub database: u64,
    /// Where the segment begins.
    pub begin: u64,
    /// How large every segment is. Unit: bytes.
    pub bytes: u32,
}

impl SegmentHeader {
    /// How much of a segment it takes.
    pub const BYTES: usize = 40;

    /// None when this is no beginning of a segment.
    pub fn parse(head: &[u8]) -> Option<SegmentHeader> {
        /// XLP_LONG_HEADER.
        const IS_LONG: u16 = 2;
        let info = u16::from_le_bytes(head.get(2..4)?.try_into().ok()?);
        let eight = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let bytes = u32::from_le_bytes(head.get(32..36)?.try_into().ok()?);
        (info & IS_LONG != 0).then_some(SegmentHeader {
            database: eight(24)?,
            begin: eight(8)?,
            bytes,
        })
    }
}

/// The archive as it was listed.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// The objects of each file, sorted.
    pub objects: BTreeMap<WalName, Vec<String>>,
    /// The lines of each history that could be read.
    pub histories: Histories,
    /// What is wrong with the others.
    pub problems: Vec<String>,
}

impl Archive {
    /// Lists everything, and reads the histories.
    ///
    /// # Errors
    /// The archive cannot be listed.
    pub async fn read(repository: &Repository, database: u64) -> Result<Archive, Error> {
        let mut archive = Archive::default();
        for object in repository.list(&names::wal(database)).await? {
            let folder = object.rsplit('/').nth(1);
            let Some(name) = folder.and_then(|name| WalName::parse(name).ok()) else {
                archive
                    .problems
                    .push(format!("{object} is no object of the archive"));
                continue;
            };
            archive.objects.entry(name).or_default().push(object);
        }
        let histories = archive.objects.iter();
        let histories: Vec<_> = histories
            .filter_map(|(name, objects)| Some((history_of(name)?, objects.clone())))
            .collect();
        for (timeline, objects) in histories {
            archive.read_history(repository, timeline, &objects).await;
        }
        Ok(archive)
    }

    async fn read_history(
        &mut self,
        repository: &Repository,
        timeline: TimelineId,
        objects: &[String],
    ) {
        let mut texts = BTreeSet::new();
        for object in objects {
            match read_text(repository, object).await {
                Ok(text) => texts.insert(text),
                Err(error) => {
                    self.problems.push(chain(&error));
                    continue;
                }
            };
        }
        let lines = texts.first().and_then(|text| parse_history(text));
        match (texts.len(), lines) {
            (0, _) => {}
            (1, Some(lines)) => {
                self.histories.insert(timeline, lines);
            }
            (1, None) => self.problems.push(format!(
                "{} is no timeline history ({})",
                timeline.history_file(),
                objects.join(", ")
            )),
            _ => self.problems.push(chain(&Error::TwoContents {
                name: timeline.history_file(),
                objects: objects.to_vec(),
            })),
        }
    }

    /// The newest timeline that somebody used: the main line of everything that is here.
    pub fn main_line(&self, backups: &[Manifest]) -> TimelineId {
        let archived = self.objects.keys().filter(|name| name.is_segment());
        let real = self.histories.iter();
        let real = real.filter(|(_, lines)| lineage::is_real(lines));
        archived
            .filter_map(timeline_of)
            .chain(real.map(|(timeline, _)| *timeline))
            .chain(backups.iter().map(|backup| backup.timeline))
            .max()
            .unwrap_or(TimelineId::FIRST)
    }

    /// Timelines that have segments but no history that can be read: what they come from is not known.
    pub fn without_history(&self) -> BTreeSet<TimelineId> {
        let with_segments = self.objects.keys().filter(|name| name.is_segment());
        with_segments
            .filter_map(timeline_of)
            .filter(|timeline| {
                *timeline > TimelineId::FIRST && !self.histories.contains_key(timeline)
            })
            .collect()
    }

    /// The different contents of a file, by the hashes in its objects' names.
    pub fn contents(&self, name: &WalName) -> BTreeSet<&str> {
        let objects = self.objects.get(name).map_or(&[][..], Vec::as_slice);
        objects.iter().filter_map(|it| names::hash_of(it)).collect()
    }

    /// How large segments are, by the newest one whose beginning can be read; none without segments.
    ///
    /// # Errors
    /// There are segments, and none can be read.
    pub async fn segment_size(
        &self,
        repository: &Repository,
    ) -> Result<Option<SegmentSize>, Error> {
        /// Damage is rare: a few are enough.
        const TRIES: usize = 5;
        let segments = self.objects.iter().rev();
        let mut last = Ok(None);
        for (_, objects) in segments.filter(|(name, _)| name.is_segment()).take(TRIES) {
            for object in objects {
                match read_header(repository, object).await {
                    Ok(found) => {
                        let size = found.and_then(|it| SegmentSize::new(it.bytes.into()));
                        if size.is_some() {
                            return Ok(size);
                        }
                        last = Err(Error::Refused(format!(
                            "{object} does not begin as WAL does"
                        )));
                    }
                    Err(error) => last = Err(error),
                }
            }
        }
        last
    }
}

/// The timeline whose history this is.
fn history_of(name: &WalName) -> Option<TimelineId> {
    let digits = name.as_str().strip_suffix(".history")?;
    u32::from_str_radix(digits, 16).ok().map(TimelineId)
}

/// The timeline in the name of a file.
pub fn timeline_of(name: &WalName) -> Option<TimelineId> {
    let digits = name.as_str().get(..8)?;
    u32::from_str_radix(digits, 16).ok().map(TimelineId)
}

async fn read_text(repository: &Repository, object: &str) -> Result<String, Error> {
    let wanted = names::hash_of(object).unwrap_or_default().to_owned();
    let failed = streams::broken("read", object);
    let text = streams::read_object(repository, object, Some(&wanted), move |content| {
        let mut text = String::new();
        content.read_to_string(&mut text).map_err(failed)?;
        Ok(text)
    });
    text.await
}

async fn read_header(
    repository: &Repository,
    object: &str,
) -> Result<Option<SegmentHeader>, Error> {
    let wanted = names::hash_of(object).unwrap_or_default().to_owned();
    let failed = streams::broken("read", object);
    let head = streams::read_object(repository, object, Some(&wanted), move |content| {
        let mut head = Vec::new();
        let limit = SegmentHeader::BYTES as u64;
        content.take(limit).read_to_end(&mut head).map_err(failed)?;
        Ok(SegmentHeader::parse(&head))
    });
    head.await
}

/// An error with everything that led to it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // The object store's errors tell their causes themselves.
        if !text.contains(&inner.to_string()) {
            text = format!("{text}: {inner}");
        }
        cause = inner.source();
    }
    text
}
