//! The Raft store against the library's own suite, SIGKILL, power cuts, damage, roll-back and a
//! full disk.
//!
//! Needs root for the power cuts and the full disk (a loop device and a small file system); without
//! it those tests fail and say so. The child processes are this test binary again, running
//! `torture_worker`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cluster_core::change::Stamp;
use cluster_core::change::command::{COMMAND_VERSION, Command as Change};
use cluster_core::model::NodeId;
use clusterd::raft::failure::Failure;
use clusterd::raft::log_store::LogStore;
use clusterd::raft::machine::Machine;
use clusterd::raft::store_open::StoreError;
use clusterd::raft::types::{Entry, LogId, StorageError, TypeConfig, Vote};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};
use tempfile::TempDir;

const SIGKILL_ROUNDS: u32 = 200;
const POWER_CUTS: u32 = 50;
const MAKING_ROUNDS: u32 = 60;
const FOLDER: &str = "RAFT_TORTURE_FOLDER";

fn failure() -> Failure {
    Failure::new(Arc::new(|_| {}))
}

fn open(folder: &Path) -> Result<LogStore, StoreError> {
    LogStore::open(folder, "c", failure())
}

/// Opens a store whose process ended a moment ago: the kernel may still be giving back the lock.
fn reopen(folder: &Path) -> LogStore {
    let mut last = None;
    for _ in 0..200 {
        match open(folder) {
            Err(StoreError::InUse { path }) => last = Some(path),
            Err(error) => {
                let kept = tempfile::Builder::new().prefix("refused-store-").tempdir();
                let kept = kept.unwrap().keep();
                copy(folder, &kept);
                panic!("{error}; a copy is kept in {}", kept.display());
            }
            Ok(store) => return store,
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{last:?} stays locked");
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn entry(term: u64, index: u64, text: &str) -> Entry {
    let command = Change::Noop {
        by: NodeId(term),
        start: text.to_owned(),
    };
    let stamp = Stamp {
        version: COMMAND_VERSION,
        at_unix_ms: index,
        command,
    };
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(stamp),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn entries(store: &mut LogStore) -> Vec<Entry> {
    store.try_get_log_entries(0..u64::MAX).await.unwrap()
}

/// A store with entries 0 to `last`, a vote in term 3, closed again.
fn filled(folder: &Path, last: u64) {
    runtime().block_on(async {
        let mut store = open(folder).unwrap();
        store.save_vote(&Vote::new(3, 1)).await.unwrap();
        for index in 0..=last {
            store
                .blocking_append([entry(3, index, &"x".repeat(200))])
                .await
                .unwrap();
        }
        store.close().await;
    });
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).unwrap();
        let machine = Machine::open(folder.path(), "c", failure()).unwrap();
        Ok((folder, store, machine))
    }
}

#[test]
fn the_library_s_own_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

#[test]
fn what_was_answered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 20);
    runtime().block_on(async {
        let mut store = open(folder.path()).unwrap();
        store.truncate(log_id(3, 15)).await.unwrap();
        store.blocking_append([entry(4, 15, "new")]).await.unwrap();
        store.purge(log_id(3, 4)).await.unwrap();
        store.close().await;
        let mut store = open(folder.path()).unwrap();
        assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
        let kept = entries(&mut store).await;
        assert_eq!(kept.first().map(|e| e.log_id), Some(log_id(3, 5)));
        assert_eq!(kept.last().map(|e| e.log_id), Some(log_id(4, 15)));
        assert_eq!(
            store.get_log_state().await.unwrap().last_purged_log_id,
            Some(log_id(3, 4))
        );
        store.close().await;
    });
}

#[test]
fn a_store_is_opened_by_one_process_only() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path()).unwrap();
    let refused = open(folder.path())
        .err()
        .expect("the second opening is refused");
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

fn refusal(folder: &Path) -> String {
    match open(folder) {
        Ok(_) => panic!("the store was accepted"),
        Err(error) => error.to_string(),
    }
}

fn assert_way_out(text: &str, folder: &Path) {
    assert!(
        text.contains(folder.to_str().unwrap()),
        "names the place: {text}"
    );
    assert!(
        text.contains("clusterctl members replace c"),
        "names the way out: {text}"
    );
}

#[test]
fn a_log_put_back_from_a_copy_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (live, saved) = (folder.path().join("raft"), folder.path().join("saved"));
    filled(&live, 5);
    copy(&live.join("log"), &saved);
    runtime().block_on(async {
        let mut store = open(&live).unwrap();
        store.save_vote(&Vote::new(9, 2)).await.unwrap();
        store.close().await;
    });
    fs::remove_dir_all(live.join("log")).unwrap();
    copy(&saved, &live.join("log"));
    let text = refusal(&live);
    assert!(text.contains("rolled back"), "{text}");
    assert_way_out(&text, &live);
}

#[test]
fn a_log_that_is_gone_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 5);
    fs::remove_dir_all(folder.path().join("log")).unwrap();
    assert_way_out(&refusal(folder.path()), folder.path());
}

#[test]
fn a_mark_that_is_gone_or_spoilt_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 5);
    fs::write(folder.path().join("mark"), vec![7u8; 1024]).unwrap();
    assert_way_out(&refusal(folder.path()), folder.path());
    fs::remove_file(folder.path().join("mark")).unwrap();
    assert_way_out(&refusal(folder.path()), folder.path());
}

/// Every place of the log file in turn: the store either refuses, or it still has everything.
#[test]
fn a_flipped_byte_is_never_taken_for_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    let clean = folder.path().join("clean");
    filled(&clean, 30);
    let length = fs::metadata(clean.join("log/db")).unwrap().len();
    let written = written_until(&clean.join("log/db"));
    let mut refused = 0;
    for step in 0..48 {
        let at = written * step / 48;
        assert!(at < length);
        let damaged = folder.path().join(format!("at-{at}"));
        copy(&clean, &damaged);
        let path = damaged.join("log/db");
        let mut bytes = fs::read(&path).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        refused += u32::from(!is_whole_or_refused(&damaged, 30, &format!("byte {at}")));
        fs::remove_dir_all(&damaged).unwrap();
    }
    assert!(
        refused > 10,
        "only {refused} of 48 flips were noticed: is anything damaged at all?"
    );
}

#[test]
fn a_cut_file_is_never_taken_for_the_truth() {
    let folder = tempfile::tempdir().unwrap();
    let clean = folder.path().join("clean");
    filled(&clean, 30);
    let written = written_until(&clean.join("log/db"));
    let mut refused = 0;
    for step in 0..16 {
        let cut = folder.path().join(format!("cut-{step}"));
        copy(&clean, &cut);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(cut.join("log/db"))
            .unwrap();
        file.set_len(written * step / 16).unwrap();
        drop(file);
        refused += u32::from(!is_whole_or_refused(&cut, 30, &format!("cut {step}")));
        fs::remove_dir_all(&cut).unwrap();
    }
    assert!(refused >= 10, "only {refused} of 16 cuts were noticed");
}

/// Where the last byte that is not zero stands.
fn written_until(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
}

/// `true` when everything up to `last` is there; `false` when the store was refused with a way out.
fn is_whole_or_refused(folder: &Path, last: u64, what: &str) -> bool {
    match open(folder) {
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(folder.to_str().unwrap()), "{what}: {text}");
            false
        }
        Ok(mut store) => runtime().block_on(async {
            assert_eq!(
                store.read_vote().await.unwrap(),
                Some(Vote::new(3, 1)),
                "{what}"
            );
            let kept = entries(&mut store).await;
            assert_eq!(kept.len() as u64, last + 1, "{what}");
            for (index, kept) in (0..).zip(&kept) {
                assert_eq!(*kept, entry(3, index, &"x".repeat(200)), "{what}");
            }
            store.close().await;
            true
        }),
    }
}

/// Killed while it wrote one, sled would call the whole store corrupt at the next start.
#[test]
fn an_unfinished_snapshot_of_the_engine_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 30);
    let draft = folder.path().join("log/snap.7FFFFFFFFFFFFFFF.generating");
    for half in [&b""[..], b"half a snapsh", &[7; 400]] {
        fs::write(&draft, half).unwrap();
        assert!(is_whole_or_refused(folder.path(), 30, "half a snapshot"));
        assert!(!draft.exists());
    }
}

#[test]
fn a_spoilt_snapshot_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("snapshot"), b"half a snapsh").unwrap();
    let refused = Machine::open(folder.path(), "c", failure())
        .err()
        .expect("refused");
    assert_way_out(&refused.to_string(), folder.path());
}

// ---------------------------------------------------------------------------------------------
// A process that appends until it is killed.

/// Not a test: the child process of the torture tests.
#[test]
#[ignore = "the child process of the torture tests"]
fn torture_worker() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by a torture test"));
    runtime().block_on(async {
        let mut store = reopen(&folder);
        let mut out = std::io::stdout().lock();
        let mut say = |line: String| {
            writeln!(out, "T {line}").unwrap();
            out.flush().unwrap();
        };
        let state = store.get_log_state().await.unwrap();
        let mut term = store
            .read_vote()
            .await
            .unwrap()
            .map_or(0, |vote| vote.leader_id().term);
        let mut next = state.last_log_id.map_or(0, |last| last.index + 1);
        let mut purged = state
            .last_purged_log_id
            .map_or(0, |purged| purged.index + 1);
        loop {
            let dice: u32 = rand::random();
            if term == 0 || dice.is_multiple_of(11) {
                term += 1;
                say(format!("voting {term}"));
                store.save_vote(&Vote::new(term, 1)).await.unwrap();
                say(format!("voted {term}"));
            } else if dice.is_multiple_of(17) && next > purged + 8 {
                let from = next - u64::from(dice / 17 % 4) - 1;
                let at = entries(&mut store)
                    .await
                    .iter()
                    .find(|e| e.log_id.index == from)
                    .unwrap()
                    .log_id;
                say(format!("cutting {from}"));
                store.truncate(at).await.unwrap();
                next = from;
            } else if dice.is_multiple_of(23) && next > purged + 40 {
                let upto = next - 20;
                let at = entries(&mut store)
                    .await
                    .iter()
                    .find(|e| e.log_id.index == upto)
                    .unwrap()
                    .log_id;
                say(format!("purging {upto}"));
                store.purge(at).await.unwrap();
                purged = upto + 1;
            } else {
                let count = u64::from(dice % 4) + 1;
                let text = "y".repeat((dice % 900) as usize);
                let batch: Vec<Entry> = (next..next + count)
                    .map(|index| entry(term, index, &text))
                    .collect();
                store.blocking_append(batch).await.unwrap();
                for index in next..next + count {
                    say(format!("has {index} {term}"));
                }
                next += count;
            }
        }
    });
}

/// What the worker was told is durable.
#[derive(Debug, Default)]
struct Told {
    heard: u64,
    voted: u64,
    voting: u64,
    terms: BTreeMap<u64, u64>,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let Some(line) = line.split("T ").nth(1) else {
            return;
        };
        self.heard += 1;
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "voting" => self.voting = number(1),
            "voted" => self.voted = number(1),
            "cutting" => drop(self.terms.split_off(&number(1))),
            "purging" => self.terms = self.terms.split_off(&(number(1) + 1)),
            "has" => drop(self.terms.insert(number(1), number(2))),
            other => panic!("{other}"),
        }
    }

    /// Opens `folder` and compares.
    fn check(&mut self, folder: &Path, round: &str) {
        let mut store = reopen(folder);
        runtime().block_on(async {
            let vote = store
                .read_vote()
                .await
                .unwrap()
                .map_or(0, |vote| vote.leader_id().term);
            assert!(
                vote >= self.voted && vote <= self.voting.max(self.voted),
                "{round}: {vote}, {self:?}"
            );
            let kept: BTreeMap<u64, u64> = entries(&mut store)
                .await
                .iter()
                .map(|entry| (entry.log_id.index, entry.log_id.leader_id.term))
                .collect();
            for (index, term) in &self.terms {
                assert_eq!(
                    kept.get(index),
                    Some(term),
                    "{round}: entry {index} is lost"
                );
            }
            self.terms = kept;
            self.voted = vote;
            store.close().await;
        });
    }
}

struct Worker {
    child: Child,
    told: Arc<Mutex<Told>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Worker {
    fn start(folder: &Path, told: Told) -> Worker {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "torture_worker",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let told = Arc::new(Mutex::new(told));
        let heard = Arc::clone(&told);
        let reader = thread::spawn(move || {
            // A killed writer may leave half a line, which said nothing yet.
            let mut lines = BufReader::new(out);
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap() > 0 {
                if line.ends_with('\n') {
                    heard.lock().unwrap().hear(&line);
                }
                line.clear();
            }
        });
        Worker {
            child,
            told,
            reader: Some(reader),
        }
    }

    /// Until the worker has told something new.
    fn wait_for_a_word(&self) {
        let before = self.told.lock().unwrap().heard;
        for _ in 0..10_000 {
            if self.told.lock().unwrap().heard > before {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("the worker says nothing");
    }

    fn kill(mut self) -> Told {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn killed_at_any_moment_it_has_everything_it_answered() {
    let mut folder = tempfile::tempdir().unwrap();
    let mut told = Told::default();
    let mut votes = 0;
    for round in 0..SIGKILL_ROUNDS {
        if round % 25 == 0 {
            // A fresh store now and then: opening a grown one is most of a round.
            votes += told.voted;
            told = Told::default();
            folder = tempfile::tempdir().unwrap();
        }
        let worker = Worker::start(folder.path(), told);
        // Every fifth is killed while it opens the store, the others while they write.
        if round % 5 > 0 {
            worker.wait_for_a_word();
        }
        // How long the victim runs is the random variable of this test, not a synchronisation.
        thread::sleep(Duration::from_millis(u64::from(rand::random::<u8>() / 4)));
        told = worker.kill();
        told.check(folder.path(), &format!("round {round}"));
    }
    // Few on a busy disk, where one answer takes as long as a victim lives.
    assert!(
        votes > u64::from(SIGKILL_ROUNDS) / 10,
        "the workers did almost nothing: {votes}"
    );
    let size: u64 = fs::read_dir(folder.path().join("log"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(
        size < 64 * 1024 * 1024,
        "the store has grown to {size} bytes"
    );
}

/// Killed while it is made, and while it is made again over what that left.
#[test]
fn killed_while_it_is_made_it_can_be_opened() {
    let mut unfinished = 0;
    for round in 0..MAKING_ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let worker = Worker::start(folder.path(), Told::default());
            // When it is killed is the random variable; every other time it is the moment at which
            // sled's first file appears, of which sled refuses a half.
            let first = ["log.new/conf", "log/conf"].map(|it| folder.path().join(it));
            while !first.iter().any(|it| it.exists()) {
                std::hint::spin_loop();
            }
            if round % 2 == 0 {
                thread::sleep(Duration::from_micros(rand::random_range(0..20_000)));
            }
            drop(worker.kill());
            let is_whole = folder.path().join("log/db").exists();
            unfinished += u32::from(!is_whole);
        }
        match open(folder.path()) {
            Err(StoreError::InUse { .. }) => drop(reopen(folder.path())),
            other => drop(other.unwrap_or_else(|error| panic!("round {round}: {error}"))),
        }
    }
    assert!(
        unfinished > 2,
        "only {unfinished} of {MAKING_ROUNDS} were killed before the store was there"
    );
}

/// What a kill in the middle of making it can leave.
#[test]
fn what_an_unfinished_making_left_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft");
    fs::create_dir_all(path.join("log.new/blobs")).unwrap();
    fs::write(path.join("log.new/conf"), b"segment_size: 5242").unwrap();
    fs::write(path.join("log.new/db"), b"half").unwrap();
    fs::write(path.join("mark.new"), vec![7u8; 2000]).unwrap();
    filled(&path, 3);
    assert!(!path.join("log.new").exists() && !path.join("mark.new").exists());
    assert!(is_whole_or_refused(&path, 3, "made again"));
}

// ---------------------------------------------------------------------------------------------
// A disk that can be copied while a process writes to it.

fn need_root(what: &str) {
    assert!(
        Uid::effective().is_root(),
        "{what} needs root: it mounts a file system of its own. Run the tests as root, or leave \
         this one out by name"
    );
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {text}");
}

struct Mounted(PathBuf);

impl Mounted {
    fn image(image: &Path, at: &Path) -> Mounted {
        fs::create_dir_all(at).unwrap();
        run(
            "mount",
            &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()],
        );
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-l", self.0.to_str().unwrap()])
            .status();
    }
}

fn make_image(path: &Path, bytes: u64) {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
    run("mkfs.ext4", &["-q", "-F", path.to_str().unwrap()]);
}

/// Everything a stopped child wrote has been read: its pipe is empty.
fn wait_until_read(worker: &Worker) {
    // What the reader took is in `told` once nothing more arrives.
    let mut before = u64::MAX;
    for _ in 0..400 {
        thread::sleep(Duration::from_millis(1));
        let now = worker.told.lock().unwrap().heard;
        if now == before {
            return;
        }
        before = now;
    }
    panic!("a stopped process keeps writing");
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_answered() {
    need_root("the power-cut test");
    let folder = tempfile::tempdir().unwrap();
    let (disk, copied) = (folder.path().join("disk"), folder.path().join("copy"));
    let mut cuts = 0;
    while cuts < POWER_CUTS {
        make_image(&disk, 64 * 1024 * 1024);
        let mounted = Mounted::image(&disk, &folder.path().join("live"));
        let store = mounted.0.join("raft");
        let worker = Worker::start(&store, Told::default());
        for _ in 0..10 {
            worker.wait_for_a_word();
            thread::sleep(Duration::from_millis(
                15 + u64::from(rand::random::<u8>() / 2),
            ));
            let pid = Pid::from_raw(i32::try_from(worker.child.id()).unwrap());
            kill(pid, Signal::SIGSTOP).unwrap();
            wait_until_read(&worker);
            let mut told = {
                let told = worker.told.lock().unwrap();
                Told {
                    terms: told.terms.clone(),
                    ..*told
                }
            };
            run(
                "cp",
                &[
                    "--sparse=always",
                    disk.to_str().unwrap(),
                    copied.to_str().unwrap(),
                ],
            );
            kill(pid, Signal::SIGCONT).unwrap();
            let after = Mounted::image(&copied, &folder.path().join("after"));
            told.check(&after.0.join("raft"), &format!("cut {cuts}"));
            cuts += 1;
        }
        worker.kill();
    }
}

#[test]
fn a_full_disk_stops_the_member_and_loses_nothing_that_was_answered() {
    need_root("the full-disk test");
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    make_image(&disk, 24 * 1024 * 1024);
    let mounted = Mounted::image(&disk, &folder.path().join("live"));
    let store_folder = mounted.0.join("raft");
    let failures = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&failures);
    let failure = Failure::new(Arc::new(move |why| {
        told.lock().unwrap().push(why.to_owned())
    }));
    let mut store = LogStore::open(&store_folder, "c", failure).unwrap();
    let ballast = mounted.0.join("ballast");
    let acknowledged = runtime().block_on(async {
        store.save_vote(&Vote::new(1, 1)).await.unwrap();
        fill(&ballast);
        let mut next = 0;
        while store
            .blocking_append([entry(1, next, &"z".repeat(20_000))])
            .await
            .is_ok()
        {
            next += 1;
            assert!(next < 5_000, "the disk never fills up");
        }
        assert!(
            store.save_vote(&Vote::new(2, 1)).await.is_err(),
            "failed for ever"
        );
        store.close().await;
        next
    });
    let why = failures.lock().unwrap().clone();
    assert_eq!(why.len(), 1, "told exactly once: {why:?}");
    assert!(why[0].contains("the disk is full"), "{why:?}");
    assert!(acknowledged > 0, "there was room for a little");
    drop(store);
    let refused = open(&store_folder)
        .err()
        .expect("no room to start")
        .to_string();
    assert!(refused.contains("the disk is full"), "{refused}");
    fs::remove_file(&ballast).unwrap();
    let mut store = reopen(&store_folder);
    runtime().block_on(async {
        assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(1, 1)));
        let kept = entries(&mut store).await.len() as u64;
        assert!(
            kept >= acknowledged,
            "{acknowledged} were answered, {kept} are there"
        );
        store.close().await;
    });
}

/// Writes until there is no room, then gives back a little.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[1u8; 65_536]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(6 * 1024 * 1024))
        .unwrap();
    file.sync_all().unwrap();
}
