//! The repository in a real S3 store: with users who may only do what their part is, and with a store that
//! goes away.

mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cluster_backup::names::WalName;
use cluster_backup::restore::{self, Target, Wanted};
use cluster_backup::{Error, Manifest, Options, Put, Repository, keys, manifest, wal};
use cluster_core::model::{Epoch, Lsn, TimelineId};
use tokio::time::Instant;

use server::{BUCKET, Server};

const DATABASE: u64 = 7;

/// No failure may take longer: PostgreSQL's archiver is told that nobody answers after two minutes.
const FAILURE_LIMIT: Duration = Duration::from_secs(60);

fn place() -> String {
    format!("s3://{BUCKET}/some/prefix")
}

fn open(options: Options) -> Repository {
    Repository::open_with(&place(), options).expect("opens")
}

fn with_credentials(path: &Path) -> Options {
    Options {
        credentials: Some(path.to_owned()),
        ..Options::default()
    }
}

/// The whole chain: of the error and what caused it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(length + 4);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    bytes.truncate(length);
    bytes
}

fn segment(number: u32) -> WalName {
    WalName::parse(&format!("00000001{:08X}{number:08X}", 0)).expect("a name")
}

async fn push(repository: &Repository, number: u32, file: &Path) -> Result<Put, Error> {
    wal::push(repository, DATABASE, Epoch(1), &segment(number), file).await
}

/// Stores a backup that needs more than one part.
async fn back_up(repository: &Repository, folder: &Path) -> Result<Manifest, Error> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let large = noise(9 << 20);
    for (name, content) in [("PG_VERSION", &b"15\n"[..]), ("large", &large)] {
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        archive
            .append_data(&mut header, name, content)
            .expect("added");
    }
    std::fs::write(
        folder.join("base.tar"),
        archive.into_inner().expect("whole"),
    )
    .expect("written");
    let facts = Manifest {
        format: 0,
        id: "one".to_owned(),
        database: DATABASE,
        major: 15,
        member: "m1".parse().expect("a name"),
        epoch: Epoch(1),
        timeline: TimelineId(1),
        start: Lsn(900),
        end: Lsn(1000),
        began_unix_ms: 1_700_000_000_000,
        ended_unix_ms: 1_700_000_005_000,
        key: None,
        files: Vec::new(),
    };
    manifest::store(repository, facts, folder, &["base.tar".to_owned()]).await
}

/// Users, their files of credentials, and a key.
struct Room {
    folder: tempfile::TempDir,
    _server: Server,
    identity: PathBuf,
    recipient: cluster_backup::Recipient,
}

impl Room {
    fn new() -> Room {
        let folder = tempfile::tempdir().expect("a directory");
        let server = Server::start();
        let objects = format!("arn:aws:s3:::{BUCKET}/*");
        let bucket = format!("arn:aws:s3:::{BUCKET}");
        let put = ("\"s3:PutObject\"", objects.as_str());
        let get = ("\"s3:GetObject\"", objects.as_str());
        let list = ("\"s3:ListBucket\"", bucket.as_str());
        server.user("archiver", &[put], &folder.path().join("archiver"));
        server.user("restorer", &[get, list], &folder.path().join("restorer"));
        server.enforce();
        let identity = folder.path().join("identity");
        let recipient = keys::generate(&identity).expect("made");
        Room {
            folder,
            _server: server,
            identity,
            recipient,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn archiver(&self) -> Repository {
        open(Options {
            recipients: vec![self.recipient.clone()],
            ..with_credentials(&self.path("archiver"))
        })
    }

    fn restorer(&self) -> Repository {
        open(Options {
            identity: Some(self.identity.clone()),
            ..with_credentials(&self.path("restorer"))
        })
    }

    /// The program, with the restorer's credentials; whether it succeeded, and all that it said.
    fn program(&self, arguments: &[&str], identity: Option<&Path>) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clusterd-backup"));
        command.args(arguments);
        command.env("CLUSTERD_REPOSITORY", place());
        command.env("CLUSTERD_REPOSITORY_CREDENTIALS", self.path("restorer"));
        if let Some(identity) = identity {
            command.arg("--identity").arg(identity);
        }
        let said = command.output().expect("it runs");
        let text = [said.stdout, said.stderr].concat();
        (
            said.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }
}

#[tokio::test]
async fn who_may_only_put_archives_and_backs_up_and_who_may_read_restores() {
    let room = Room::new();
    let file = room.path("segment");
    std::fs::write(&file, noise(1 << 20)).expect("written");
    let archiver = room.archiver();
    assert_eq!(push(&archiver, 1, &file).await.expect("put"), Put::Stored);
    assert_eq!(push(&archiver, 1, &file).await.expect("put"), Put::WasThere);
    let backup = back_up(&archiver, room.folder.path()).await.expect("put");
    assert_eq!(backup.files.len(), 1);

    // The archiver may do nothing else.
    let name = format!("{DATABASE}/backup/one/manifest.json");
    let read = archiver.get(&name).await.expect_err("refused");
    let list = archiver.list("").await.expect_err("refused");
    for refused in [&read, &list] {
        assert!(chain(refused).contains("403"), "{}", chain(refused));
    }
    let restorer = room.restorer();
    let put = push(&restorer, 2, &file).await.expect_err("refused");
    assert!(chain(&put).contains("403"), "{}", chain(&put));

    let back = room.path("back");
    let fetched = wal::fetch(&restorer, DATABASE, &segment(1), &back).await;
    assert!(fetched.expect("read"));
    assert!(std::fs::read(&back).expect("read") == noise(1 << 20));
    let fetched = wal::fetch(&restorer, DATABASE, &segment(3), &back).await;
    assert!(!fetched.expect("asked"), "it was never archived");
    let into = room.path("restored");
    let asked = Wanted {
        target: Target::Latest,
        backup: None,
        into: &into,
        waldump: None,
    };
    let plan = restore::plan(&restorer, asked).await;
    let performed = restore::perform(&restorer, &plan.expect("a plan"), "fetch").await;
    performed.expect("restored");
    assert!(std::fs::read(into.join("large")).expect("read") == noise(9 << 20));
    the_program_reads_it(&room);
}

fn the_program_reads_it(room: &Room) {
    let (is_good, said) = room.program(&["list"], None);
    assert!(is_good && said.starts_with("one  database 7"), "{said}");
    let (is_good, said) = room.program(&["key", "check"], Some(&room.identity));
    assert!(is_good && said.contains("2 of 2"), "{said}");
    let (is_good, said) = room.program(&["key", "check"], None);
    assert!(!is_good && said.contains(room.recipient.as_str()), "{said}");
    let back = room.path("back").display().to_string();
    let name = segment(1);
    let fetch = ["fetch", "--database", "7", name.as_str(), &back];
    let (is_good, said) = room.program(&fetch, Some(&room.identity));
    assert!(is_good && said.is_empty(), "{said}");
    let wrong = room.path("wrong");
    keys::generate(&wrong).expect("made");
    let (is_good, said) = room.program(&fetch, Some(&wrong));
    assert!(!is_good && said.contains(room.recipient.as_str()), "{said}");
}

#[tokio::test]
async fn a_store_that_goes_away_is_an_error_in_time_and_work_goes_on_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a directory");
    let mut server = Server::start();
    let credentials = folder.path().join("credentials");
    server.credentials("any", "hush", "read_timeout = \"2s\"\n", &credentials);
    let repository = open(with_credentials(&credentials));
    let file = folder.path().join("segment");
    std::fs::write(&file, noise(256 << 10)).expect("written");

    let (told, mut pushed) = tokio::sync::watch::channel(0);
    let pushing = tokio::spawn({
        let (repository, file) = (repository.clone(), file.clone());
        async move {
            for number in 0.. {
                if let Err(error) = push(&repository, number, &file).await {
                    return chain(&error);
                }
                told.send_replace(number);
            }
            String::new()
        }
    });
    let several = tokio::time::timeout(FAILURE_LIMIT, pushed.wait_for(|number| *number > 2)).await;
    assert!(several.is_ok(), "nothing is stored");
    drop(several);
    server.kill();
    let killed = Instant::now();
    let error = tokio::time::timeout(FAILURE_LIMIT, pushing).await;
    let error = error.expect("an error in time").expect("it ends");
    println!("killed: {error} ({:?})", killed.elapsed());
    assert!(error.contains("could not store") && !error.contains("hush"));

    server.start_again();
    let number = *pushed.borrow() + 1;
    let stored = push(&repository, number, &file).await;
    assert_eq!(stored.expect("stored"), Put::Stored);

    server.freeze();
    let frozen = Instant::now();
    let error = tokio::time::timeout(FAILURE_LIMIT, push(&repository, 0, &file)).await;
    let error = chain(
        &error
            .expect("an error in time")
            .expect_err("nobody answers"),
    );
    println!("frozen: {error} ({:?})", frozen.elapsed());
    assert!(error.contains("could not store"), "{error}");
}
