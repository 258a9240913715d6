//! The messages between the daemon and the guard: one JSON object a line over a Unix socket.
//!
//! A request carries an id of the client's choice and its answer carries the same. Requests are
//! read strictly (an unknown field is refused: a guard must never half-understand an order);
//! answers are read leniently, so that a newer guard can say more to an older daemon. All times are
//! nanoseconds of `CLOCK_BOOTTIME` of the current boot.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of this protocol; `Hello` with another one is refused.
pub const VERSION: u32 = 1;

/// Longest line either side accepts, the newline included.
pub const LINE_LIMIT: usize = 64 * 1024;

/// One line from a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLine {
    /// Chosen by the client, repeated in the answer.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you, and what were you granted?
    Hello {
        /// The client's `VERSION`.
        version: u32,
    },
    /// Send me events from now on.
    Subscribe,
    /// Start a postmaster in a new process set.
    StartPostmaster(StartPostmaster),
    /// Set or extend the deadline of a process set.
    Arm(Arm),
    /// Ask the postmaster to stop.
    Stop {
        /// The set meant; another one is refused.
        set_id: u64,
        /// How.
        mode: StopMode,
    },
    /// Ask the postmaster to read its configuration again.
    Reload {
        /// The set meant.
        set_id: u64,
    },
    /// Ask the postmaster to look for the `promote` file, which the caller has written.
    Promote {
        /// The set meant.
        set_id: u64,
        /// The epoch promoted under; it must be the armed one.
        epoch: u64,
    },
    /// Kill every process of this PostgreSQL; answered when verified.
    Kill {
        /// Why, for the log and the report.
        reason: String,
    },
    /// Kill PostgreSQL processes of our data directory that are not ours; answered when verified.
    KillForeign,
    /// Run a program beside the postmaster.
    RunTool(RunTool),
    /// Ask a tool to end, or kill it with everything it started.
    StopTool {
        /// The tool's id.
        id: u64,
        /// How.
        how: ToolStop,
    },
    /// Forget an ended tool.
    AcknowledgeTool {
        /// The tool's id.
        id: u64,
    },
    /// Look at everything now.
    Status,
}

/// Order to start a postmaster. Refused unless the process set is verified empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartPostmaster {
    /// Absolute path of `postgres`.
    pub program: PathBuf,
    /// Arguments without the program's own name.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The data directory; must be the guard's own.
    pub data_dir: PathBuf,
    /// Device of the data directory as the caller saw it.
    pub data_dir_dev: u64,
    /// Inode of the data directory as the caller saw it.
    pub data_dir_ino: u64,
    /// File that stdout and stderr are appended to, opened as the configured user.
    pub output: PathBuf,
}

/// Sets or extends a deadline. The first one of a set binds the set to its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// The set meant.
    pub set_id: u64,
    /// Epoch the lease belongs to.
    pub epoch: u64,
    /// End of the lease.
    pub valid_until_ns: u64,
    /// When the guard kills; at or before `valid_until_ns`.
    pub kill_at_ns: u64,
}

/// How a postmaster is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// SIGINT: sessions end, then a shutdown checkpoint.
    Fast,
    /// SIGQUIT: at once, recovery at the next start. Burns the set's epoch.
    Immediate,
}

/// How a tool is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStop {
    /// SIGTERM to the tool.
    Terminate,
    /// SIGKILL to the tool and everything it started.
    Kill,
}

/// Order to run a tool: stdin is `/dev/null`, the user is the configured one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunTool {
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments without the program's own name.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// File that stdout and stderr are appended to, opened as the configured user.
    pub output: PathBuf,
}

/// One line from the guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardLine {
    /// The answer to one request.
    Answer {
        /// The request's id; none if the line could not be read so far.
        id: Option<u64>,
        /// What became of it.
        outcome: Outcome,
    },
    /// Something happened (only to clients that subscribed).
    Event(Event),
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done(Answer),
    /// It was not done, and nothing changed.
    Refused(Refusal),
}

/// A refusal: a code for the program, a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which rule refused.
    pub code: RefusalCode,
    /// The sentence.
    pub message: String,
}

/// Which rule refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The line was no request.
    Malformed,
    /// The client speaks another version.
    WrongVersion,
    /// Processes of this PostgreSQL are still there, or it could not be verified.
    SetNotEmpty,
    /// A kill is under way.
    Killing,
    /// The guard is ending.
    Ending,
    /// Path, device or inode is not that of the data directory.
    WrongDataDirectory,
    /// Every start is a standby start: `standby.signal` is missing.
    NoStandbySignal,
    /// Another guard holds the data directory.
    DataDirectoryLocked,
    /// The order names a set that is not the current one.
    NoSuchSet,
    /// The set's postmaster is gone.
    NoPostmaster,
    /// The epoch was killed or is older than one that was.
    EpochBurnt,
    /// The set is bound to another epoch.
    WrongEpoch,
    /// The deadline makes no sense: past, too far away or later than the lease.
    BadDeadline,
    /// A promotion needs an armed deadline.
    NotArmed,
    /// The system refused to start the program.
    SpawnFailed,
    /// A signal could not be sent.
    SignalFailed,
    /// No tool has this id.
    NoSuchTool,
    /// The tool still runs.
    ToolRuns,
    /// Too many tools run already.
    TooManyTools,
}

/// What a request brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Hello`.
    Hello(Box<Hello>),
    /// To `Subscribe`.
    Subscribed,
    /// To `StartPostmaster`: the process exists; that its program could be executed is not yet known.
    Started {
        /// The new set.
        set_id: u64,
        /// The postmaster.
        postmaster: ProcessId,
    },
    /// To `Arm`: the deadline now in force, which may be a later one than asked for.
    Armed(Arm),
    /// To `Stop`, `Reload`, `Promote`, `StopTool`: the signal was sent.
    Signalled {
        /// To whom.
        pid: i32,
    },
    /// To `Kill` and `KillForeign`.
    Killed(KillReport),
    /// To `RunTool`.
    ToolStarted {
        /// The guard's id for it.
        id: u64,
        /// Its process.
        pid: i32,
    },
    /// To `AcknowledgeTool`.
    Acknowledged,
    /// To `Status`.
    Status(Box<Status>),
}

/// Something the guard wanted: whether it got it, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granted {
    /// It has it.
    Yes,
    /// Nobody asked for it.
    NotWanted,
    /// It was refused; the reason.
    No(String),
}

/// Who the guard is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The guard's `VERSION`.
    pub version: u32,
    /// The guard's process.
    pub pid: i32,
    /// This boot.
    pub boot_id: String,
    /// SCHED_FIFO.
    pub real_time_priority: Granted,
    /// All memory locked.
    pub memory_lock: Granted,
    /// `oom_score_adj` of -1000.
    pub oom_protection: Granted,
    /// Timer slack of 1 ns.
    pub timer_slack: Granted,
    /// A control group with `cgroup.kill`.
    pub cgroup: Granted,
    /// The control group that holds the postmaster, for writing `cgroup.kill` if the guard is gone.
    pub cgroup_path: Option<PathBuf>,
    /// The watchdog device; `Yes` before the first lease means "it exists", it is opened by `Arm`.
    pub watchdog: Granted,
    /// From the order to kill until verified, measured with one child at the guard's start.
    pub kill_latency_us: Option<u64>,
    /// Everything as it is now.
    pub status: Status,
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process number.
    pub pid: i32,
    /// Start time in clock ticks since boot, as in `/proc/PID/stat`.
    pub start_time: u64,
}

/// Everything as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// When this was looked at.
    pub now_ns: u64,
    /// The current set, from its start until it is verified empty.
    pub set: Option<SetStatus>,
    /// Processes still in the set.
    pub processes: u32,
    /// True only when positively verified: none in the set, none found in the data directory.
    pub empty: bool,
    /// Why `empty` could not be verified, if looking failed.
    pub not_verified: Option<String>,
    /// Highest epoch that can never be armed again.
    pub burnt_epoch: Option<u64>,
    /// The reason of a kill under way.
    pub killing: Option<String>,
    /// How the last postmaster ended.
    pub last_exit: Option<PostmasterExit>,
    /// The last kill that was verified.
    pub last_kill: Option<KillReport>,
    /// Running tools and the newest ended ones that nobody acknowledged.
    pub tools: Vec<ToolStatus>,
    /// PostgreSQL processes of our data directory (device and inode) that are not ours.
    pub foreign: Vec<i32>,
}

/// The current process set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetStatus {
    /// Fresh for each start; grows.
    pub set_id: u64,
    /// None once it has ended.
    pub postmaster: Option<ProcessId>,
    /// When it was started.
    pub started_ns: u64,
    /// Epoch, lease and deadline; none for a standby.
    pub armed: Option<Arm>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself; 127 also when the program could not be executed (the output file says why).
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// How a postmaster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostmasterExit {
    /// Its set.
    pub set_id: u64,
    /// Its process number.
    pub pid: i32,
    /// How.
    pub exit: Exit,
    /// When it was reaped.
    pub at_ns: u64,
}

/// One kill, from the order until nobody was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillReport {
    /// The set killed; none for left-over or foreign processes.
    pub set_id: Option<u64>,
    /// Why.
    pub reason: String,
    /// When it began.
    pub begin_ns: u64,
    /// When the verification was complete.
    pub end_ns: u64,
    /// How many processes were seen alive.
    pub killed: u32,
    /// Always true in a report: a kill that is not verified goes on.
    pub verified: bool,
}

/// One tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolStatus {
    /// The guard's id for it.
    pub id: u64,
    /// Its process number.
    pub pid: i32,
    /// What it runs.
    pub program: PathBuf,
    /// When it was started.
    pub started_ns: u64,
    /// How and when it ended.
    pub ended: Option<ToolEnd>,
}

/// How a tool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolEnd {
    /// How.
    pub exit: Exit,
    /// When it was reaped.
    pub at_ns: u64,
}

/// What is told to subscribers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The postmaster ended; its children may still be there.
    PostmasterExited(PostmasterExit),
    /// A kill began.
    KillBegan {
        /// The set.
        set_id: Option<u64>,
        /// Why.
        reason: String,
    },
    /// A kill is verified.
    Killed(KillReport),
    /// Verified: nobody of this PostgreSQL is left.
    SetEmpty {
        /// The set that ended.
        set_id: u64,
    },
    /// A tool ended.
    ToolExited(ToolStatus),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        let line = RequestLine {
            id: 7,
            request: Request::Arm(Arm {
                set_id: 1,
                epoch: 2,
                valid_until_ns: 30,
                kill_at_ns: 20,
            }),
        };
        let text = serde_json::to_string(&line).expect("a request can be written");
        assert_eq!(
            text,
            r#"{"id":7,"request":{"arm":{"set_id":1,"epoch":2,"valid_until_ns":30,"kill_at_ns":20}}}"#
        );
        assert_eq!(
            serde_json::from_str::<RequestLine>(&text).expect("it can be read"),
            line
        );
        let plain = r#"{"id":1,"request":"status"}"#;
        let read: RequestLine = serde_json::from_str(plain).expect("a unit request can be read");
        assert_eq!(read.request, Request::Status);
    }

    #[test]
    fn an_unknown_field_is_refused_at_every_level() {
        for text in [
            r#"{"id":1,"request":"status","more":1}"#,
            r#"{"id":1,"request":{"hello":{"version":1,"more":1}}}"#,
            r#"{"id":1,"request":{"arm":{"set_id":1,"epoch":2,"valid_until_ns":3,"kill_at_ns":2,"x":0}}}"#,
            r#"{"id":1,"request":"no_such_request"}"#,
        ] {
            assert!(serde_json::from_str::<RequestLine>(text).is_err(), "{text}");
        }
    }
}
