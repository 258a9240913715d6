//! Level archive: the WAL from the backup to the target, without a hole, read to the last byte.

use cluster_core::model::Lsn;
use futures_util::StreamExt;
use std::io::Read;
use tokio::time::Instant;

use super::report::{Findings, Level, Measured};
use crate::archive::{Archive, SegmentHeader, chain};
use crate::audit::{self, Question};
use crate::lineage::SegmentSize;
use crate::manifest::Manifest;
use crate::names::WalName;
use crate::{Error, Repository, names, streams};

/// So many segments are read at once.
const AT_ONCE: usize = 4;

/// Follows the archive and reads what recovery will read.
pub async fn look(
    repository: &Repository,
    backup: &Manifest,
    until: Option<Lsn>,
    measured: &mut Measured,
) -> Findings {
    let began = Instant::now();
    let mut findings = Findings::new(Level::Archive);
    if let Err(error) = follow(repository, backup, until, measured, &mut findings).await {
        findings.problems.push(chain(&error));
    }
    findings.end(began.elapsed())
}

async fn follow(
    repository: &Repository,
    backup: &Manifest,
    until: Option<Lsn>,
    measured: &mut Measured,
    findings: &mut Findings,
) -> Result<(), Error> {
    let archive = Archive::read(repository, backup.database).await?;
    let size = match archive.segment_size(repository).await {
        Ok(size) => size,
        Err(error) => {
            findings.problems.push(chain(&error));
            None
        }
    };
    // Without a segment any size gives the same answer.
    let fallback = || SegmentSize::new(16 << 20);
    let Some(size) = size.or_else(fallback) else {
        return Ok(());
    };
    let question = Question {
        backup,
        until,
        archived: None,
        size,
    };
    let found = audit::follow(&archive, question);
    findings.problems.extend(found.problems);
    measured.segment_bytes = Some(size.bytes());
    measured.timeline = Some(found.timeline);
    measured.first = Some(found.first);
    measured.last = Some(found.last);
    let contents = found.segments.iter().flat_map(|name| {
        let objects = archive.objects.get(name).map_or(&[][..], Vec::as_slice);
        objects.iter().map(move |object| (name, object))
    });
    let contents: Vec<_> = contents.collect();
    let objects = contents.len();
    let mut read = futures_util::stream::iter(contents)
        .map(|(name, object)| read(repository, backup.database, size, name, object))
        .buffered(AT_ONCE);
    let mut bytes = 0;
    while let Some(read) = read.next().await {
        match read {
            Ok(Ok(read)) => bytes += read,
            Ok(Err(why)) => findings.problems.push(why),
            Err(error) => findings.problems.push(chain(&error)),
        }
    }
    measured.bytes += bytes;
    findings.checked.push(format!(
        "{} segments of {} bytes in {objects} objects ({bytes} bytes), from {} to {} along timeline {}, \
         and {} timeline histories",
        found.segments.len(),
        size.bytes(),
        backup.start,
        found.last,
        found.timeline,
        archive.histories.len()
    ));
    Ok(())
}

/// How much one object holds, or what is wrong with its content although it is what was stored.
async fn read(
    repository: &Repository,
    database: u64,
    size: SegmentSize,
    name: &WalName,
    object: &str,
) -> Result<Result<u64, String>, Error> {
    let wanted = names::hash_of(object).unwrap_or_default().to_owned();
    let failed = streams::broken("read", object);
    let read = streams::read_object(repository, object, Some(&wanted), move |content| {
        let mut head = Vec::new();
        let limit = SegmentHeader::BYTES as u64;
        let begun = content.take(limit).read_to_end(&mut head);
        let begun = begun.map_err(&failed)? as u64;
        let rest = std::io::copy(content, &mut std::io::sink()).map_err(&failed)?;
        Ok((SegmentHeader::parse(&head), begun + rest))
    });
    let (header, bytes) = read.await?;
    let begin = size.segment(name).map(|it| size.begin(it.number).0);
    let why = match header {
        None => Some("does not begin as WAL does".to_owned()),
        Some(header) if header.database != database => {
            Some(format!("is WAL of another database ({})", header.database))
        }
        Some(header) if Some(header.begin) != begin => Some(format!(
            "holds WAL of another place ({})",
            Lsn(header.begin)
        )),
        Some(_) if bytes != size.bytes() => Some(format!(
            "holds {bytes} bytes, a segment has {}",
            size.bytes()
        )),
        Some(_) => None,
    };
    Ok(match why {
        Some(why) => Err(format!("{object} {why}")),
        None => Ok(bytes),
    })
}
