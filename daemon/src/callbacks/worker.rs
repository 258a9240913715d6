//! Runs the programs of one kind, one at a time, each in a process group of its own that is killed as a
//! whole when the time is up.
//!
//! At most one waits: a newer one takes the place of an older one, because what it would have said is no
//! longer so.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::{Call, Kind, Last, Place, Program, Told, lock};

/// So much of what a program says is logged; the rest is read and dropped. Unit: bytes.
const SAID_LIMIT: usize = 2048;
/// What a program that has ended said is waited for so long: something it left behind may hold the pipe.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// When the daemon ends, a program that runs may go on for so long.
const GRACE: Duration = Duration::from_secs(3);
/// Nobody who waits for a program waits longer than its limit and this, even if it cannot be started or
/// killed because of its disk.
const MARGIN: Duration = Duration::from_secs(1);

/// One to be run.
#[derive(Debug)]
struct Queued {
    call: Call,
    /// Somebody waits for its end; gone when nobody does any more.
    awaited: Option<oneshot::Sender<()>>,
}

/// The queue of one kind, and its results.
#[derive(Debug)]
pub(super) struct Slot {
    queued: Mutex<Option<Queued>>,
    bell: Notify,
    told: Mutex<Told>,
    time_limit: Duration,
    has_ended: watch::Sender<bool>,
}

/// The thread of one kind.
pub(super) struct Worker {
    pub(super) place: Place,
    pub(super) program: Program,
    pub(super) slot: Arc<Slot>,
}

/// How one ended.
enum Ending {
    Done,
    Failed(String),
    TimedOut,
    /// Whoever waited for it does not any more, or the daemon ends.
    Abandoned,
}

impl Slot {
    pub(super) fn new(kind: Kind, time_limit: Duration) -> Slot {
        Slot {
            queued: Mutex::default(),
            bell: Notify::new(),
            told: Mutex::new(Told {
                kind,
                done: 0,
                failed: 0,
                timed_out: 0,
                replaced: 0,
                is_running: false,
                last: None,
            }),
            time_limit,
            has_ended: watch::Sender::new(false),
        }
    }

    pub(super) fn queue(&self, call: Call) {
        self.put(Queued {
            call,
            awaited: None,
        });
    }

    /// Returns at its end; dropped before, the program is killed.
    pub(super) async fn run(&self, call: Call) {
        let (awaited, end) = oneshot::channel();
        self.put(Queued {
            call,
            awaited: Some(awaited),
        });
        if timeout(self.time_limit + MARGIN, end).await.is_err() {
            tracing::warn!(
                callback = call.kind.word(),
                "its program can be neither started nor killed; it is not waited for"
            );
        }
    }

    pub(super) fn told(&self) -> Told {
        lock(&self.told).clone()
    }

    pub(super) async fn ended(&self) {
        let mut ended = self.has_ended.subscribe();
        let over = ended.wait_for(|over| *over);
        // A program on a disk that stands still must not hold up the end of the daemon.
        let _ = timeout(GRACE + MARGIN, over).await;
    }

    fn put(&self, next: Queued) {
        let old = lock(&self.queued).replace(next);
        if let Some(old) = old {
            lock(&self.told).replaced += 1;
            tracing::info!(
                callback = old.call.kind.word(),
                role = old.call.role.word(),
                "not run: a newer one takes its place"
            );
        }
        self.bell.notify_one();
    }
}

impl Worker {
    /// Until the daemon ends.
    pub(super) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                () = self.slot.bell.notified() => {}
            }
            let next = lock(&self.slot.queued).take();
            if let Some(next) = next {
                self.one(next, &mut shutdown).await;
            }
        }
        self.slot.has_ended.send_replace(true);
    }

    async fn one(&self, mut next: Queued, shutdown: &mut watch::Receiver<bool>) {
        lock(&self.slot.told).is_running = true;
        let begin = Instant::now();
        let mut said = Vec::new();
        let ending = {
            let gone = async {
                let no_longer_awaited = async {
                    match &mut next.awaited {
                        Some(awaited) => awaited.closed().await,
                        None => std::future::pending().await,
                    }
                };
                let over = async {
                    let _ = shutdown.wait_for(|stop| *stop).await;
                    tokio::time::sleep(GRACE).await;
                };
                tokio::select! { () = no_longer_awaited => {}, () = over => {} }
            };
            tokio::select! {
                biased;
                () = gone => Ending::Abandoned,
                ending = self.program(next.call, &mut said) => ending,
            }
        };
        self.keep(next.call, &ending, begin.elapsed(), &said);
        if let Some(awaited) = next.awaited {
            // Nobody may wait any more.
            let _ = awaited.send(());
        }
    }

    fn keep(&self, call: Call, ending: &Ending, took: Duration, said: &[u8]) {
        let said = String::from_utf8_lossy(said);
        let (callback, role) = (call.kind.word(), call.role.word());
        let (said, limit) = (said.trim(), self.program.time_limit);
        let text = match ending {
            Ending::Done => format!("{role}: done in {took:.1?}"),
            Ending::Failed(why) => format!("{role}: failed after {took:.1?}: {why}"),
            Ending::TimedOut => format!("{role}: killed after its time limit of {limit:?}"),
            Ending::Abandoned => format!("{role}: killed: nobody waits for it any more"),
        };
        let is_done = matches!(ending, Ending::Done);
        if is_done {
            tracing::info!(callback, said, "{text}");
        } else {
            tracing::warn!(callback, said, "{text}");
        }
        let mut told = lock(&self.slot.told);
        match ending {
            Ending::Done => told.done += 1,
            Ending::Failed(_) | Ending::Abandoned => told.failed += 1,
            Ending::TimedOut => told.timed_out += 1,
        }
        told.is_running = false;
        told.last = Some(Last {
            is_done,
            text,
            at: (self.place.clock)(),
            took,
        });
    }

    /// Dropped at any await, the group is killed.
    async fn program(&self, call: Call, said: &mut Vec<u8>) -> Ending {
        let mut child = match self.command(call).spawn() {
            Ok(child) => child,
            Err(error) => return Ending::Failed(format!("it cannot be started: {error}")),
        };
        let group = Group(child.id());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let words = Mutex::new(said);
        let reading = async { tokio::join!(read(out, &words), read(err, &words)) };
        tokio::pin!(reading);
        let mut has_read = false;
        let ended = async {
            loop {
                tokio::select! {
                    status = child.wait() => return status,
                    _ = &mut reading, if !has_read => has_read = true,
                }
            }
        };
        let Ok(status) = timeout(self.program.time_limit, ended).await else {
            group.kill(&mut child).await;
            return Ending::TimedOut;
        };
        // Whatever it left running on purpose is its own affair.
        group.leave();
        if !has_read {
            let _ = timeout(LAST_WORDS, &mut reading).await;
        }
        match status {
            Ok(status) if status.success() => Ending::Done,
            Ok(status) => Ending::Failed(status.to_string()),
            Err(error) => Ending::Failed(error.to_string()),
        }
    }

    fn command(&self, call: Call) -> Command {
        let (program, arguments) = match self.program.command.split_first() {
            Some((program, arguments)) => (program.as_str(), arguments),
            None => ("", &[][..]),
        };
        let (cluster, me) = (self.place.cluster.as_str(), self.place.me.to_string());
        let mut command = Command::new(program);
        // Made from nothing: no secret of the daemon's environment reaches a program.
        command
            .args(arguments)
            .args([call.kind.word(), call.role.word(), cluster])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8")
            .env("CLUSTERD_CLUSTER", cluster)
            .env("CLUSTERD_MEMBER", me)
            .env("CLUSTERD_ACTION", call.kind.word())
            .env("CLUSTERD_ROLE", call.role.word())
            .env("CLUSTERD_EPOCH", call.epoch.0.to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(timeline) = call.timeline {
            command.env("CLUSTERD_TIMELINE", timeline.0.to_string());
        }
        command
    }
}

/// The process group of a program that has not been waited for: until then its number is nobody else's.
struct Group(Option<u32>);

impl Group {
    fn signal(&self) {
        let pid = self.0.and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // Gone already is as good.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    async fn kill(mut self, child: &mut Child) {
        self.signal();
        self.0 = None;
        let _ = timeout(MARGIN, child.wait()).await;
    }

    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal();
    }
}

/// Keeps the beginning, and reads on so that the program is never held up.
async fn read(from: Option<impl AsyncRead + Unpin>, words: &Mutex<&mut Vec<u8>>) {
    let Some(mut from) = from else { return };
    let mut piece = [0; 512];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let mut words = lock(words);
        let room = SAID_LIMIT - words.len();
        words.extend_from_slice(&piece[..length.min(room)]);
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
