//! Snapshots at the edges: what gRPC and HTTP share. Nothing is decided here.

pub mod grpc;
pub mod http;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use cluster_backup::Recipient;
use cluster_core::change::Command;
use cluster_core::change::command::SnapshotWish;
use cluster_core::decide::snapshots::taker;
use cluster_core::model::lease::Moment;
use cluster_core::model::{MemberName, Snapshot, SnapshotId};
use futures_util::Stream;
use tokio::io::AsyncReadExt;

use super::asks::Asks;
use crate::board::{Board, ProposeError};

/// Read and sent at once: what one download holds in memory, twice. Unit: bytes.
const CHUNK: usize = 256 * 1024;

/// Files of snapshots on this member.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Where they lie.
    pub folder: PathBuf,
    /// Whom a snapshot is encrypted for when its asker names nobody.
    pub recipients: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Whose PostgreSQL is copied.
    pub member: Option<String>,
    /// Public keys.
    pub recipients: Vec<String>,
    /// Not encrypted.
    pub plain: bool,
    /// Who asks, and why.
    pub by: String,
}

/// Why one was not begun.
#[derive(Debug)]
pub enum Refused {
    /// All that is wrong with the wish.
    Wish(Vec<String>),
    /// It cannot be done now.
    Now(String),
    /// The truth, or nobody to ask.
    Propose(ProposeError),
}

/// Appoints who takes one and records it.
///
/// # Errors
/// [`Refused`].
pub async fn begin(
    asks: &Asks,
    shelf: &Shelf,
    now: Moment,
    wish: Wish,
) -> Result<(SnapshotId, Snapshot), Refused> {
    let recipients = recipients(shelf, &wish).map_err(Refused::Wish)?;
    let wanted: Option<MemberName> = match wish.member.as_deref() {
        None | Some("") => None,
        Some(name) => Some(
            name.parse()
                .map_err(|error: cluster_core::model::ids::BadName| {
                    Refused::Wish(vec![format!("member: {error}")])
                })?,
        ),
    };
    let board = asks.board();
    let taker = board.look(now, |view| taker(view, wanted.as_ref()));
    let taker = taker.map_err(Refused::Now)?;
    let id = SnapshotId::from_random(rand::random());
    let command = Command::BeginSnapshot {
        id: id.clone(),
        wish: SnapshotWish {
            taker,
            recipients,
            by: wish.by,
        },
    };
    asks.propose(command).await.map_err(Refused::Propose)?;
    // Applied at the leader; here some moments later.
    let mut board = asks.receiver();
    let known = board.wait_for(|board| board.state.snapshots.contains_key(&id));
    let known = tokio::time::timeout(super::asks::PROPOSE_LIMIT, known).await;
    let board = match known {
        Ok(Ok(board)) => Arc::clone(&board),
        Ok(Err(_)) | Err(_) => return Err(Refused::Propose(ProposeError::Unknown)),
    };
    match board.state.snapshots.get(&id) {
        Some(snapshot) => Ok((id, snapshot.clone())),
        None => Err(Refused::Propose(ProposeError::Unknown)),
    }
}

fn recipients(shelf: &Shelf, wish: &Wish) -> Result<Vec<String>, Vec<String>> {
    if wish.plain {
        return match wish.recipients.is_empty() {
            true => Ok(Vec::new()),
            false => Err(vec![
                "recipients and plain: it is either encrypted or not".to_owned(),
            ]),
        };
    }
    let chosen = match wish.recipients.as_slice() {
        [] => shelf.recipients.clone(),
        named => named.to_vec(),
    };
    if chosen.is_empty() {
        return Err(vec![
            "a snapshot holds the whole database: name a public key to encrypt it for (--recipient age1…, or \
             recipients in [backup]), or say --plain"
                .to_owned(),
        ]);
    }
    let problems: Vec<String> = chosen
        .iter()
        .filter_map(|text| text.parse::<Recipient>().err())
        .collect();
    match problems.is_empty() {
        true => Ok(chosen),
        false => Err(problems),
    }
}

/// The file of a snapshot cannot be handed out by this member.
#[derive(Debug, PartialEq, Eq)]
pub enum NoFile {
    /// There is none, or not yet; why.
    None(String),
    /// Another member has it: its name and its HTTP address.
    Elsewhere(MemberName, String),
}

/// Whether the file is here, and how large it is.
///
/// # Errors
/// [`NoFile`].
pub fn here(board: &Board, id: &SnapshotId) -> Result<u64, NoFile> {
    let Some(snapshot) = board.state.snapshots.get(id) else {
        return Err(NoFile::None(format!("there is no snapshot {id}")));
    };
    let Some(file) = snapshot.file() else {
        let (status, why) = snapshot.status();
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let text = format!("snapshot {id} is {}{why}", status.word());
        return Err(NoFile::None(text));
    };
    if snapshot.taker == board.me {
        return Ok(file.bytes);
    }
    let member = board.state.members.get(&snapshot.taker);
    let address = member
        .map(|it| it.addresses.http.clone())
        .unwrap_or_default();
    Err(NoFile::Elsewhere(snapshot.taker.clone(), address))
}

/// The bytes of a file, some at a time: the next are read when the ones before have been taken.
///
/// # Errors
/// It cannot be opened, or has another size than the catalogue says.
pub async fn read(
    shelf: &Shelf,
    id: &SnapshotId,
    bytes: u64,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let file = tokio::fs::File::open(shelf.folder.join(format!("{id}.tar"))).await?;
    let found = file.metadata().await?.len();
    if found != bytes {
        let why = format!("the file has {found} bytes, not {bytes}");
        return Err(io::Error::other(why));
    }
    Ok(futures_util::stream::try_unfold(
        file,
        |mut file| async move {
            let mut buffer = vec![0; CHUNK];
            let read = file.read(&mut buffer).await?;
            buffer.truncate(read);
            Ok((read > 0).then(|| (Bytes::from(buffer), file)))
        },
    ))
}
