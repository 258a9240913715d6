//! Stops following: nobody is asked for WAL any more, and the process that received it is gone.
//!
//! The surprise: clearing `primary_conninfo` ends no receiver. The startup process does that when it
//! wants more WAL, and one that is held back (a pause, an apply delay, a conflict with a query) does
//! not want any: its receiver goes on confirming for as long as it is held (hazards B1, B2).

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::options::ConfigInputs;
use super::supervisor::ServerProcess;
use super::{Error, Postgres, processes, sql};

/// How often a wait looks again.
const STEP: Duration = Duration::from_millis(4);

/// A startup process in an apply delay sleeps for all of it: it is told again this often.
const TELL_AGAIN: Duration = Duration::from_millis(50);

/// What a startup process does at one moment.
struct Startup {
    /// It sits in the wait that means "nothing more, I look again soon".
    retries: bool,
    /// It waits for the time of the next commit to come.
    is_delayed: bool,
    /// It is held back: it does not ask for WAL until it goes on.
    is_held: bool,
}

impl Postgres {
    /// Stops following: clears conninfo and restore_command, and waits until no walreceiver process
    /// exists and the startup process has gone round its loop under the new configuration.
    ///
    /// Afterwards `observe` says when the end of WAL is proven (hazards B1 to B5).
    pub async fn detach(&self, limit: Duration) -> Result<(), Error> {
        let _turn = self.inner.change.lock().await;
        let inputs = ConfigInputs {
            upstream: None,
            restore_command: None,
            ..self.inputs()
        };
        self.apply_config_in_turn(&inputs).await?;
        let ServerProcess::Running { pid, .. } = self.process().await? else {
            return Ok(()); // a stopped server is detached by its files
        };
        self.wait_until_all_are_told(limit).await?;
        let begin = Instant::now();
        let mut told_at = begin;
        let before = processes::startup_turns(pid);
        loop {
            // Once the startup process is in its retry wait after the reload, the next thing it
            // does is to read the new configuration; it cannot ask for a receiver before that.
            // Where it waits for something else (apply delay, conflict), two sleeps prove the same.
            let turned = match (before, processes::startup_turns(pid)) {
                (Some((was, before)), Some((is, now))) => was != is || now >= before + 2,
                _ => false,
            };
            let startup = self.startup().await.ok();
            let asks_nobody = turned || startup.as_ref().is_some_and(|it| it.retries);
            match processes::receiver(pid) {
                None if asks_nobody => return Ok(()),
                Some(receiver) if turned && startup.as_ref().is_some_and(|it| it.is_held) => {
                    end_receiver(receiver);
                }
                None | Some(_) => {}
            }
            if startup.is_some_and(|it| it.is_delayed) && !turned && told_at.elapsed() >= TELL_AGAIN
            {
                self.supervisor().reload().await?;
                told_at = Instant::now();
            }
            if begin.elapsed() > limit {
                return Err(Error::TimedOut {
                    what: "waiting for the walreceiver to end",
                    limit,
                });
            }
            sleep(STEP).await;
        }
    }

    /// A session of ours shows a new configuration before the startup process was even signalled: the
    /// postmaster goes through its children one by one, and may have to wait for a processor in
    /// between. It does one thing after the other, so when it answers a new session it has told
    /// everybody. What it answers does not matter, so it is asked what needs no session.
    async fn wait_until_all_are_told(&self, limit: Duration) -> Result<(), Error> {
        let begin = Instant::now();
        let options = self.options();
        let socket = options
            .socket_dir
            .join(format!(".s.PGSQL.{}", options.port));
        loop {
            let answered = timeout(limit, answers(&socket)).await;
            match answered {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(source)) if begin.elapsed() > limit => {
                    return Err(Error::File {
                        verb: "connect to",
                        path: socket,
                        source,
                    });
                }
                Err(_) => {
                    return Err(Error::TimedOut {
                        what: "an answer of the postmaster",
                        limit,
                    });
                }
                Ok(Err(_)) => sleep(STEP).await,
            }
        }
    }

    async fn startup(&self) -> Result<Startup, Error> {
        let session = self.session().await?;
        let row = session
            .query_one(self.limits().observe, sql::STARTUP_WAIT, &[])
            .await?;
        let wait: Option<String> = row.get("startup_wait");
        let paused: bool = row.get("paused");
        Ok(Startup {
            retries: wait
                .as_deref()
                .is_some_and(|event| self.major().retry_wait_events().contains(&event)),
            is_delayed: wait.as_deref() == Some(APPLY_DELAY),
            is_held: paused || wait.as_deref().is_some_and(is_held_by),
        })
    }
}

/// The wait event of an apply delay. Source: 13 to 18, documented under Timeout.
const APPLY_DELAY: &str = "RecoveryApplyDelay";

/// Whether a wait event of the startup process means that it has WAL and does not replay it.
pub(super) fn is_held_by(wait_event: &str) -> bool {
    wait_event == APPLY_DELAY
        || wait_event == "RecoveryPause"
        || wait_event.starts_with("RecoveryConflict")
}

/// Asks whether the server speaks TLS: the first thing that a newly forked session reads, before it
/// costs anything. Source: the protocol's SSLRequest, unchanged since version 3.
async fn answers(socket: &Path) -> std::io::Result<()> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await.map(drop)
}

/// Nothing starts another one: the startup process knows the new configuration already. It flushes
/// what it has written before it ends.
fn end_receiver(receiver: i32) {
    tracing::info!(
        receiver,
        "replay is held back: its WAL receiver is ended by us"
    );
    // One that has ended by itself meanwhile is as good.
    let _ = kill(Pid::from_raw(receiver), Signal::SIGTERM);
}
