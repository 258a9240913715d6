//! PostgreSQL's archiver hands a file's name over a socket; it is told "ok" once the file is in the
//! repository. Files that wait behind it are sent along, so that a backlog is not sent one by one.
//!
//! Nothing is archived without an epoch: what a server writes that was never granted one must not
//! reach the repository [hazards C11].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster_backup::command::word;
use cluster_backup::names::WalName;
use cluster_backup::wal;
use cluster_core::model::Epoch;
use futures_util::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::board::Board;
use crate::reconcile::durable::DurableRecord;
use crate::telemetry;

use super::require_own;
use super::shelf::Shelf;
use super::teller::Teller;

/// So many files are sent with the one that is asked for.
const AHEAD: usize = 8;
/// So many at once.
const AT_ONCE: usize = 4;
/// A name is short, and the program that sends it is ours.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// The socket's folder is looked for this often.
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// `archive_command` for this socket.
pub fn command(program: &Path, socket: &Path) -> String {
    let word = |path: &Path| word(&path.display().to_string());
    format!("{} push --socket {} %f", word(program), word(socket))
}

/// The task's parts.
pub struct Archiver {
    /// Where to.
    pub shelf: Arc<Shelf>,
    /// Who is told how it goes.
    pub teller: Arc<Teller>,
    /// Where it listens.
    pub socket: PathBuf,
    /// `pg_wal`.
    pub directory: PathBuf,
    /// The durable record: under which epoch the server was promoted.
    pub durable: DurableRecord,
    /// The truth: which database this is.
    pub board: watch::Receiver<Arc<Board>>,
}

impl Archiver {
    /// Runs until `shutdown`; PostgreSQL asks again afterwards.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let listener = tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => return,
            listener = self.listen() => listener,
        };
        let sent = Arc::new(Mutex::new(BTreeSet::new()));
        let archiver = Arc::new(self);
        let mut failure = String::new();
        loop {
            let stream = tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue,
                },
            };
            // PostgreSQL has one archiver: one after the other is no loss.
            match archiver.answer(stream, &sent).await {
                Ok(()) => failure.clear(),
                Err(why) => {
                    archiver.teller.failed(&why);
                    if failure != why {
                        tracing::warn!(why, "a file of WAL could not be archived");
                    }
                    failure = why;
                }
            }
        }
    }

    /// The folder may be made later than this task.
    async fn listen(&self) -> UnixListener {
        let mut failure = String::new();
        loop {
            // What an earlier daemon left; nobody listens there.
            let _ = std::fs::remove_file(&self.socket);
            let why = match UnixListener::bind(&self.socket) {
                Ok(listener) => return listener,
                Err(error) => error.to_string(),
            };
            if failure != why {
                tracing::warn!(socket = %self.socket.display(), why, "nothing can be archived yet");
            }
            failure = why;
            tokio::time::sleep(BIND_AGAIN).await;
        }
    }

    async fn answer(
        &self,
        stream: UnixStream,
        sent: &Mutex<BTreeSet<WalName>>,
    ) -> Result<(), String> {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        let mut reader = BufReader::new(reader);
        let asked = tokio::time::timeout(ASK_LIMIT, reader.read_line(&mut line)).await;
        if !matches!(asked, Ok(Ok(_))) {
            return Err("nothing was asked for".to_owned());
        }
        let done = self.push(line.trim(), sent).await;
        let text = match &done {
            Ok(()) => "ok\n".to_owned(),
            Err(why) => format!("error {}\n", why.replace('\n', " ")),
        };
        // One that does not wait for its answer asks again.
        let _ = writer.write_all(text.as_bytes()).await;
        done
    }

    async fn push(&self, line: &str, sent: &Mutex<BTreeSet<WalName>>) -> Result<(), String> {
        let name = line.strip_prefix("push ").unwrap_or_default();
        let name = WalName::parse(name).map_err(|error| error.to_string())?;
        let known = || sent.lock().unwrap_or_else(PoisonError::into_inner);
        if known().remove(&name) {
            self.teller.archived(&name);
            return Ok(());
        }
        let epoch = self.durable.get().promoted;
        if epoch == Epoch::NONE {
            return Err("this server was not granted an epoch".to_owned());
        }
        let state = Arc::clone(&self.board.borrow().state);
        let database = state.system_identifier;
        let database = database.ok_or("which database this is is not known yet")?;
        require_own(&state, self.shelf.place())?;
        let repository = self.shelf.repository().await?;
        let mut names = vec![name.clone()];
        names.extend(self.waiting(&name, &known()));
        let results = futures_util::stream::iter(names)
            .map(|name| {
                let (repository, directory) = (&repository, &self.directory);
                async move {
                    let path = directory.join(name.as_str());
                    let pushed = wal::push(repository, database, epoch, &name, &path).await;
                    (name, pushed)
                }
            })
            .buffer_unordered(AT_ONCE);
        let results: Vec<_> = results.collect().await;
        let mut own = Ok(());
        for (sent, pushed) in results {
            match pushed {
                Ok(put) => {
                    tracing::debug!(name = sent.as_str(), ?put, "archived");
                    if sent != name {
                        known().insert(sent);
                    }
                }
                Err(error) if sent == name => own = Err(telemetry::chain(&error)),
                // Asked for by its name later.
                Err(_) => {}
            }
        }
        if own.is_ok() {
            self.teller.archived(&name);
        }
        own
    }

    /// What waits to be archived after `name`, oldest first.
    fn waiting(&self, name: &WalName, sent: &BTreeSet<WalName>) -> Vec<WalName> {
        let entries = std::fs::read_dir(self.directory.join("archive_status"));
        let mut names: Vec<WalName> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|file| WalName::parse(file.strip_suffix(".ready")?).ok())
            .filter(|other| other > name && other.is_segment() && !sent.contains(other))
            .collect();
        names.sort();
        names.truncate(AHEAD);
        names
    }
}
