//! One large object, written by a thread that may block and sent in parts. Nothing of it is visible before
//! the last part; what fails is given up at the store.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use object_store::MultipartUpload;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::repository::{Put, failed};
use crate::{Error, Repository};

/// The size of a part of most objects. Judgement: several of them fit into memory, and a slow line sends one
/// well within the time that a store may be silent.
const PART: usize = 8 << 20;

/// The stores take 10,000 parts of one object at most (S3's manual, "multipart upload limits"); room is
/// left for what compression and encryption add.
const PARTS: u64 = 9_000;

/// So many parts are under way at once.
const AT_ONCE: usize = 3;

enum Step {
    Part(Vec<u8>),
    /// The rest; without it the writer has failed.
    Last(Vec<u8>),
}

/// Where the thread writes to.
pub(crate) struct Parts {
    to: mpsc::Sender<Step>,
    buffer: Vec<u8>,
    part: usize,
    pace: Pace,
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.part - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == self.part {
            let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(self.part));
            self.send(Step::Part(full))?;
        }
        self.pace.wait_after(taken);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Parts {
    fn send(&self, step: Step) -> io::Result<()> {
        let sent = self.to.blocking_send(step);
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload was given up"))
    }

    /// Everything was written.
    pub fn finish(mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.buffer);
        self.send(Step::Last(rest))
    }
}

/// Not faster than so many bytes a second.
struct Pace {
    rate: Option<u64>,
    began: Instant,
    passed: u64,
}

impl Pace {
    fn wait_after(&mut self, bytes: usize) {
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else {
            return;
        };
        self.passed += bytes as u64;
        let millis = self.passed.saturating_mul(1000) / rate;
        let due = self.began + Duration::from_millis(millis);
        // On a thread that may block.
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Stores what `write` writes and finishes. `expected` is about how much that is.
///
/// # Errors
/// What `write` failed with, or the store.
pub(crate) async fn upload<T: Send + 'static>(
    repository: &Repository,
    name: &str,
    expected: u64,
    write: impl FnOnce(Parts) -> Result<T, Error> + Send + 'static,
) -> Result<(Put, T), Error> {
    let (to, steps) = mpsc::channel(1);
    let part = usize::try_from(expected / PARTS)
        .unwrap_or(usize::MAX)
        .max(PART);
    let rate = repository.max_rate();
    let writing = tokio::task::spawn_blocking(move || {
        write(Parts {
            to,
            buffer: Vec::new(),
            part,
            pace: Pace {
                rate,
                began: Instant::now(),
                passed: 0,
            },
        })
    });
    // The store's own words come first: the writer then only knows that nobody listens.
    let stored = store(repository, name, steps).await?;
    let written = writing.await.map_err(|_| Error::GivenUp("an upload"))??;
    match stored {
        Some(put) => Ok((put, written)),
        None => Err(Error::GivenUp("an upload")),
    }
}

/// None when the writer has failed.
async fn store(
    repository: &Repository,
    name: &str,
    mut steps: mpsc::Receiver<Step>,
) -> Result<Option<Put>, Error> {
    let first = match steps.recv().await {
        None => return Ok(None),
        Some(Step::Last(all)) => {
            let put = repository.put_new(name, Bytes::from(all)).await?;
            return Ok(Some(put));
        }
        Some(Step::Part(first)) => first,
    };
    repository.require_writable()?;
    let begun = repository
        .store()
        .put_multipart_opts(&repository.path(name), Default::default())
        .await;
    let mut upload = begun.map_err(failed("store", name))?;
    let sent = match send(&mut upload, first, steps).await {
        Ok(true) => upload.complete().await.map(|_| Some(Put::Stored)),
        Ok(false) => Ok(None),
        Err(error) => Err(error),
    };
    if !matches!(sent, Ok(Some(_))) {
        // Needs a permission of its own: without it a rule of the bucket clears what is left.
        let _ = upload.abort().await;
    }
    sent.map_err(failed("store", name))
}

/// Whether everything was sent.
async fn send(
    upload: &mut Box<dyn MultipartUpload>,
    first: Vec<u8>,
    mut steps: mpsc::Receiver<Step>,
) -> object_store::Result<bool> {
    let mut under_way = JoinSet::new();
    let mut next = Some(Step::Part(first));
    let mut is_whole = false;
    while let Some(step) = next {
        let bytes = match step {
            Step::Part(bytes) => bytes,
            Step::Last(bytes) => {
                is_whole = true;
                bytes
            }
        };
        if !bytes.is_empty() {
            under_way.spawn(upload.put_part(Bytes::from(bytes).into()));
        }
        while under_way.len() >= AT_ONCE {
            joined(&mut under_way).await?;
        }
        next = match is_whole {
            true => None,
            false => steps.recv().await,
        };
    }
    while !under_way.is_empty() {
        joined(&mut under_way).await?;
    }
    Ok(is_whole)
}

async fn joined(under_way: &mut JoinSet<object_store::Result<()>>) -> object_store::Result<()> {
    match under_way.join_next().await {
        Some(Ok(sent)) => sent,
        Some(Err(source)) => Err(object_store::Error::JoinError { source }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    /// A repository in a directory, at a rate if there is one.
    fn repository(place: &tempfile::TempDir, max_rate: Option<u64>) -> Repository {
        let options = Options {
            max_rate,
            ..Options::default()
        };
        let place = place.path().display().to_string();
        Repository::open_with(&place, options).expect("opens")
    }

    #[tokio::test]
    async fn an_upload_keeps_to_its_rate() {
        let place = tempfile::tempdir().expect("a directory");
        let repository = repository(&place, Some(1 << 20));
        let began = Instant::now();
        let stored = upload(&repository, "x", 0, |mut parts| {
            for _ in 0..16 {
                parts.write_all(&[1; 16 << 10]).expect("written");
            }
            parts.finish().expect("finished");
            Ok(())
        });
        assert_eq!(stored.await.expect("stored").0, Put::Stored);
        assert!(began.elapsed() >= Duration::from_millis(250));
    }

    #[tokio::test]
    async fn a_writer_that_fails_leaves_nothing() {
        let place = tempfile::tempdir().expect("a directory");
        let repository = repository(&place, None);
        for bytes in [10, 2 * PART + 10] {
            let failed = upload(&repository, "x", 0, move |mut parts| {
                parts.write_all(&vec![1; bytes]).expect("written");
                Err::<(), Error>(Error::Refused("broken".to_owned()))
            });
            let error = failed.await.expect_err("it failed").to_string();
            assert_eq!(error, "broken");
            assert_eq!(repository.get("x").await.expect("asked"), None);
            let left = std::fs::read_dir(place.path()).expect("listed").count();
            assert_eq!(left, 0, "parts were left");
        }
    }

    #[tokio::test]
    async fn parts_come_together_in_their_order() {
        let place = tempfile::tempdir().expect("a directory");
        let repository = repository(&place, None);
        let stored = upload(&repository, "x", 0, |mut parts| {
            for number in 0..3_u8 {
                parts.write_all(&vec![number; PART - 1]).expect("written");
            }
            parts.finish().expect("finished");
            Ok(())
        });
        assert_eq!(stored.await.expect("stored").0, Put::Stored);
        let content = repository.get("x").await.expect("read").expect("one");
        assert_eq!(content.len(), 3 * (PART - 1));
        assert!(
            content
                .chunks(PART - 1)
                .zip(0..)
                .all(|(chunk, number)| chunk.iter().all(|byte| *byte == number))
        );
    }
}
