//! The daemon's side of the guard: start it, talk to it, and act when it is gone.
//!
//! Three ways in, for three callers. `GuardConnection` (re-exported) blocks with a limit and is for
//! the lease thread, which must not depend on the runtime. `Guard` is for the runtime: a cloneable
//! handle to one task that owns the socket and connects again by itself. `kill_cgroup` is for the
//! case that the guard is gone while PostgreSQL's processes may not be.
//!
//! The surprise: after `TimedOut` or `Disconnected` it is not known whether the guard acted. Ask for
//! the status; every order is either idempotent or names the process set it is for.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clusterd_guard::clock;
use clusterd_guard::protocol::{
    Answer, Arm, Event, Exit, GuardLine, Hello, KillReport, LINE_LIMIT, Outcome, ProcessId,
    Refusal, Request, RequestLine, RunTool, StartPostmaster, Status, StopMode, ToolStop, VERSION,
};
use clusterd_guard::sys;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

pub use clusterd_guard::connection::{Error as ConnectionError, GuardConnection};

/// Pause before connecting again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// How often the handle looks at the guard's status when nothing happens.
const STATUS_EVERY: Duration = Duration::from_millis(250);

/// Orders waiting for the task; a full queue makes callers wait.
const QUEUE: usize = 64;

/// Events a slow listener may be behind; it then learns that it lost some.
const EVENTS: usize = 256;

/// Why an order brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guard did nothing, for this reason.
    #[error("the guard refused")]
    Refused(#[source] Refusal),
    /// No answer in time; it is not known whether the guard acted.
    #[error("the guard did not answer within {limit:?}")]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The connection broke before the answer; it is not known whether the guard acted.
    #[error("the connection to the guard broke")]
    Disconnected,
    /// The answer is not one to this question.
    #[error("the guard answered something else: {0}")]
    Unexpected(String),
    /// The guard's program or its log could not be used.
    #[error("could not {operation} {path}")]
    Start {
        /// Verb.
        operation: &'static str,
        /// Object.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The guard ended instead of serving; its log says why.
    #[error("the guard ended with {status} (see {log})")]
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// Its log file.
        log: PathBuf,
    },
    /// The tool's guard was replaced by another one, which killed what it found.
    #[error("the guard was replaced while the tool ran")]
    GuardReplaced,
}

/// What is known of the guard; kept over a lost connection, so that the control group's path is
/// still there when the guard is not.
#[derive(Debug, Clone, Default)]
pub struct GuardState {
    /// Whether `status` is being kept up to date.
    pub is_connected: bool,
    /// Who the guard is, or was.
    pub hello: Option<Hello>,
    /// What it said last.
    pub status: Option<Status>,
}

struct Call {
    request: Request,
    answer: oneshot::Sender<Result<Answer, Error>>,
}

/// A handle to the guard for the runtime; clones share one connection.
#[derive(Debug, Clone)]
pub struct Guard {
    calls: mpsc::Sender<Call>,
    state: watch::Receiver<GuardState>,
    events: broadcast::Sender<Event>,
    limit: Duration,
}

impl Guard {
    /// Starts the task that owns the connection. It ends when the last clone is dropped.
    ///
    /// `limit` bounds each order, connecting included.
    pub fn connect(socket: PathBuf, limit: Duration) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE);
        let (publish, state) = watch::channel(GuardState::default());
        let (events, _) = broadcast::channel(EVENTS);
        let link = Link {
            socket,
            queue,
            publish,
            events: events.clone(),
        };
        tokio::spawn(link.run());
        Self {
            calls,
            state,
            events,
            limit,
        }
    }

    /// The same connection with another limit, for orders that take longer.
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self {
            limit,
            ..self.clone()
        }
    }

    /// The latest known state; changes at every event and several times a second.
    pub fn state(&self) -> watch::Receiver<GuardState> {
        self.state.clone()
    }

    /// Events from now on. A lost connection may lose some: the state tells what is true.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Who the guard is.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn hello(&self) -> Result<Hello, Error> {
        match self.call(Request::Hello { version: VERSION }).await? {
            Answer::Hello(hello) => Ok(*hello),
            other => Err(unexpected(&other)),
        }
    }

    /// Everything as it is now.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn status(&self) -> Result<Status, Error> {
        match self.call(Request::Status).await? {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a postmaster as a standby; answers its set.
    ///
    /// # Errors
    /// See `Error`; the guard refuses unless the process set is verified empty.
    pub async fn start_postmaster(
        &self,
        order: StartPostmaster,
    ) -> Result<(u64, ProcessId), Error> {
        match self.call(Request::StartPostmaster(order)).await? {
            Answer::Started { set_id, postmaster } => Ok((set_id, postmaster)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets or extends the deadline; answers the one in force.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn arm(&self, arm: Arm) -> Result<Arm, Error> {
        match self.call(Request::Arm(arm)).await? {
            Answer::Armed(armed) => Ok(armed),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the postmaster to stop; answered when the signal is sent.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn stop(&self, set_id: u64, mode: StopMode) -> Result<(), Error> {
        self.signal(Request::Stop { set_id, mode }).await
    }

    /// Asks the postmaster to read its configuration again.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn reload(&self, set_id: u64) -> Result<(), Error> {
        self.signal(Request::Reload { set_id }).await
    }

    /// Asks the postmaster to look for the `promote` file; needs a deadline in force for `epoch`.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn promote(&self, set_id: u64, epoch: u64) -> Result<(), Error> {
        self.signal(Request::Promote { set_id, epoch }).await
    }

    /// Kills every process of this PostgreSQL and waits for the verification.
    ///
    /// # Errors
    /// See `Error`; after `TimedOut` the kill goes on.
    pub async fn kill(&self, reason: &str) -> Result<KillReport, Error> {
        self.killed(Request::Kill {
            reason: reason.to_owned(),
        })
        .await
    }

    /// Kills PostgreSQL processes of our data directory that are not ours.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn kill_foreign(&self) -> Result<KillReport, Error> {
        self.killed(Request::KillForeign).await
    }

    /// Starts a tool; answers the guard's id for it.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn run_tool(&self, order: RunTool) -> Result<u64, Error> {
        match self.call(Request::RunTool(order)).await? {
            Answer::ToolStarted { id, .. } => Ok(id),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a tool and waits until it ends, however long that is (bound it outside, and stop the
    /// tool if the wait is given up: dropping the future does not).
    ///
    /// # Errors
    /// See `Error`.
    pub async fn run_tool_to_end(&self, order: RunTool) -> Result<Exit, Error> {
        let guard_pid = self.hello().await?.pid;
        let id = self.run_tool(order).await?;
        self.tool_end(id, guard_pid).await
    }

    /// Waits until the tool ends and acknowledges it. `guard_pid` is that of the guard that
    /// started it.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn tool_end(&self, id: u64, guard_pid: i32) -> Result<Exit, Error> {
        let mut state = self.state();
        loop {
            let ended = {
                let state = state.borrow_and_update();
                if state
                    .hello
                    .as_ref()
                    .is_some_and(|hello| hello.pid != guard_pid)
                {
                    return Err(Error::GuardReplaced);
                }
                let mut tools = state.status.iter().flat_map(|status| &status.tools);
                tools.find(|tool| tool.id == id).and_then(|tool| tool.ended)
            };
            if let Some(end) = ended {
                self.call(Request::AcknowledgeTool { id }).await?;
                return Ok(end.exit);
            }
            state.changed().await.map_err(|_| Error::Disconnected)?;
        }
    }

    /// Asks a tool to end, or kills it with everything it started.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn stop_tool(&self, id: u64, how: ToolStop) -> Result<(), Error> {
        self.signal(Request::StopTool { id, how }).await
    }

    /// Forgets an ended tool.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn acknowledge_tool(&self, id: u64) -> Result<(), Error> {
        self.call(Request::AcknowledgeTool { id }).await.map(drop)
    }

    async fn signal(&self, request: Request) -> Result<(), Error> {
        match self.call(request).await? {
            Answer::Signalled { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn killed(&self, request: Request) -> Result<KillReport, Error> {
        match self.call(request).await? {
            Answer::Killed(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    /// Any order.
    ///
    /// # Errors
    /// See `Error`.
    pub async fn call(&self, request: Request) -> Result<Answer, Error> {
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let call = Call { request, answer };
            self.calls
                .send(call)
                .await
                .map_err(|_| Error::Disconnected)?;
            answered.await.map_err(|_| Error::Disconnected)?
        };
        match tokio::time::timeout(self.limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { limit: self.limit }),
        }
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::Unexpected(format!("{answer:?}"))
}

/// The task behind a `Guard`.
struct Link {
    socket: PathBuf,
    queue: mpsc::Receiver<Call>,
    publish: watch::Sender<GuardState>,
    events: broadcast::Sender<Event>,
}

/// One connection's unanswered requests.
#[derive(Default)]
struct Pending {
    next_id: u64,
    callers: HashMap<u64, oneshot::Sender<Result<Answer, Error>>>,
}

impl Link {
    async fn run(mut self) {
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket).await
                && self.serve(stream).await == Served::NobodyLeft
            {
                return;
            }
            self.publish.send_modify(|state| state.is_connected = false);
            if self.queue.is_closed() && self.queue.is_empty() {
                return;
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Until the connection breaks; whoever waits then gets `Disconnected` by the dropped sender.
    async fn serve(&mut self, stream: UnixStream) -> Served {
        let (read, mut write) = stream.into_split();
        // A reader of its own: reading a line must not be cancelled half-way by an order.
        let (lines, mut received) = mpsc::channel(QUEUE);
        let reader = tokio::spawn(read_lines(read, lines));
        let mut pending = Pending::default();
        let mut tick = tokio::time::interval(STATUS_EVERY);
        let mut is_alive = pending
            .send(&mut write, Request::Hello { version: VERSION }, None)
            .await
            && pending.send(&mut write, Request::Subscribe, None).await;
        let mut served = Served::Broken;
        while is_alive {
            tokio::select! {
                line = received.recv() => match line {
                    Some(GuardLine::Answer { id, outcome }) => self.note_answer(&mut pending, id, outcome),
                    Some(GuardLine::Event(event)) => {
                        // Nobody listening is no error.
                        let _ = self.events.send(event);
                        is_alive = pending.send(&mut write, Request::Status, None).await;
                    }
                    None => is_alive = false,
                },
                call = self.queue.recv() => match call {
                    // The caller gave up: an order must not be carried out behind its back.
                    Some(call) if call.answer.is_closed() => {}
                    Some(call) => {
                        is_alive = pending.send(&mut write, call.request, Some(call.answer)).await;
                    }
                    None => {
                        served = Served::NobodyLeft;
                        is_alive = false;
                    }
                },
                _ = tick.tick() => is_alive = pending.send(&mut write, Request::Status, None).await,
            }
        }
        reader.abort();
        served
    }

    fn note_answer(&self, pending: &mut Pending, id: Option<u64>, outcome: Outcome) {
        match &outcome {
            Outcome::Done(Answer::Hello(hello)) => self.publish.send_modify(|state| {
                state.is_connected = true;
                state.status = Some(hello.status.clone());
                state.hello = Some((**hello).clone());
            }),
            Outcome::Done(Answer::Status(status)) => self.publish.send_modify(|state| {
                state.status = Some((**status).clone());
            }),
            Outcome::Done(_) => {}
            Outcome::Refused(refusal) => {
                tracing::debug!(code = ?refusal.code, reason = %refusal, "the guard refused");
            }
        }
        let caller = id.and_then(|id| pending.callers.remove(&id));
        if let Some(caller) = caller {
            // A caller that gave up does not mind.
            let _ = caller.send(match outcome {
                Outcome::Done(answer) => Ok(answer),
                Outcome::Refused(refusal) => Err(Error::Refused(refusal)),
            });
        }
    }
}

#[derive(PartialEq, Eq)]
enum Served {
    /// The connection broke.
    Broken,
    /// Every handle was dropped.
    NobodyLeft,
}

impl Pending {
    /// False: the connection is broken.
    async fn send(
        &mut self,
        write: &mut OwnedWriteHalf,
        request: Request,
        caller: Option<oneshot::Sender<Result<Answer, Error>>>,
    ) -> bool {
        self.next_id += 1;
        let id = self.next_id;
        let mut text = match serde_json::to_vec(&RequestLine { id, request }) {
            Ok(text) if text.len() < LINE_LIMIT => text,
            Ok(text) => {
                let message = format!("an order of {} bytes is too long", text.len());
                return refuse_here(caller, message);
            }
            Err(error) => return refuse_here(caller, error.to_string()),
        };
        text.push(b'\n');
        if let Some(caller) = caller {
            self.callers.insert(id, caller);
        }
        write.write_all(&text).await.is_ok()
    }
}

fn refuse_here(caller: Option<oneshot::Sender<Result<Answer, Error>>>, message: String) -> bool {
    if let Some(caller) = caller {
        let _ = caller.send(Err(Error::Unexpected(message)));
    }
    true
}

async fn read_lines(read: OwnedReadHalf, lines: mpsc::Sender<GuardLine>) {
    let mut read = BufReader::new(read).lines();
    while let Ok(Some(text)) = read.next_line().await {
        match serde_json::from_str(&text) {
            Ok(line) => {
                if lines.send(line).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "could not read a line of the guard");
                return;
            }
        }
    }
}

/// How a guard is started.
#[derive(Debug, Clone)]
pub struct GuardOptions {
    /// The guard's program; none: `clusterd-guard` beside this program.
    pub program: Option<PathBuf>,
    /// Its socket; the directory must exist.
    pub socket: PathBuf,
    /// The data directory it guards; need not exist yet.
    pub data_dir: PathBuf,
    /// This member's durable record: see the guard's `stranger`.
    pub member_record: PathBuf,
    /// User PostgreSQL runs as; needed when the guard is to be root.
    pub user: Option<String>,
    /// `auto`, `none` or the path of a parent group.
    pub cgroup: String,
    /// SCHED_FIFO priority, 0 for none.
    pub realtime_priority: u8,
    /// Watchdog device and its timeout in seconds (0: the device's own).
    pub watchdog: Option<(PathBuf, u32)>,
    /// Log file, appended to.
    pub log: PathBuf,
    /// How long to wait until it serves; it first kills what an earlier guard left.
    pub limit: Duration,
}

/// Uses the guard that serves the socket, or starts one in a session of its own (as root, if this
/// process kept root as its saved user) and waits until it serves.
///
/// # Errors
/// It could not be started, ended, or did not serve in time.
pub async fn spawn_guard(options: &GuardOptions) -> Result<Hello, Error> {
    if let Some(hello) = ask(&options.socket).await {
        return Ok(hello);
    }
    let mut child = start(options)?;
    let end = clock::boottime() + options.limit;
    loop {
        if let Some(hello) = ask(&options.socket).await {
            return Ok(hello);
        }
        if let Ok(Some(status)) = child.try_wait() {
            // Another one may have been faster and hold the lock.
            return ask(&options.socket).await.ok_or_else(|| Error::Ended {
                status,
                log: options.log.clone(),
            });
        }
        if clock::boottime() > end {
            return Err(Error::TimedOut {
                limit: options.limit,
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn start(options: &GuardOptions) -> Result<tokio::process::Child, Error> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => beside_this_program()?,
    };
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&options.log)
        .map_err(|source| Error::Start {
            operation: "open",
            path: options.log.clone(),
            source,
        })?;
    let mut command = tokio::process::Command::new(&program);
    command
        .arg("--socket")
        .arg(&options.socket)
        .arg("--data-dir")
        .arg(&options.data_dir)
        .arg("--member-record")
        .arg(&options.member_record)
        .arg("--cgroup")
        .arg(&options.cgroup)
        .arg("--realtime-priority")
        .arg(options.realtime_priority.to_string())
        // Nothing of the daemon's environment, least of all its systemd socket, is the guard's.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    if let Some(user) = &options.user {
        command.arg("--user").arg(user);
    }
    if let Some((device, seconds)) = &options.watchdog {
        command
            .arg("--watchdog")
            .arg(device)
            .arg("--watchdog-timeout")
            .arg(seconds.to_string());
    }
    sys::own_session_as_root(command.as_std_mut());
    // Dropping the child later does not end it; the runtime reaps it should it end first.
    command.spawn().map_err(|source| Error::Start {
        operation: "start",
        path: program,
        source,
    })
}

fn beside_this_program() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(|source| Error::Start {
        operation: "find",
        path: "the running program".into(),
        source,
    })?;
    Ok(own.with_file_name("clusterd-guard"))
}

/// One hello with a short limit; none if nobody serves.
async fn ask(socket: &Path) -> Option<Hello> {
    let socket = socket.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        GuardConnection::connect(&socket, Duration::from_secs(1))
            .ok()?
            .hello()
            .ok()
    });
    asked.await.ok().flatten()
}

/// Kills everything in a control group the guard left behind, and says whether the kernel confirmed
/// within `limit` that nobody is in it. Blocks.
///
/// # Errors
/// The group could not be killed; one that does not exist has nobody in it.
pub fn kill_cgroup(group: &Path, limit: Duration) -> io::Result<bool> {
    let end = clock::boottime() + limit;
    loop {
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(group.join("cgroup.kill"))
            .and_then(|mut file| io::Write::write_all(&mut file, b"1"));
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !group.exists() => {
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        let events = std::fs::read_to_string(group.join("cgroup.events"))?;
        if events.lines().any(|line| line == "populated 0") {
            return Ok(true);
        }
        if clock::boottime() >= end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
