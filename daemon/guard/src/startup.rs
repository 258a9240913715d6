//! How a guard comes up: alone, protected, with a control group if there is one, and with whatever
//! an earlier guard left already dead.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{FlockOperation, flock};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};
use rustix::thread::set_current_timer_slack;

use crate::arguments::{Arguments, CgroupChoice};
use crate::cgroup::Groups;
use crate::clock;
use crate::guard::{Guard, Privileges};
use crate::log_line;
use crate::orders::lock_path;
use crate::processes::Identity;
use crate::protocol::Granted;
use crate::server::Server;
use crate::stranger;
use crate::sys::{self, ChildPlan};

/// The hidden argument that makes this program a child to be killed for the measurement.
pub const WAIT_TO_BE_KILLED: &str = "--wait-to-be-killed";

/// How long what an earlier guard left may take to die before clients are served regardless.
const LEFT_OVER_LIMIT: Duration = Duration::from_secs(10);

/// Why a guard did not come up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another guard has the socket or the data directory.
    #[error("{0}")]
    NotAlone(String),
    /// A control group was asked for by path and could not be used.
    #[error("could not use the control group")]
    Cgroup(#[source] crate::cgroup::Error),
    /// The system refused something a guard cannot do without.
    #[error("could not {operation}")]
    System {
        /// What.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn system(operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { operation, source }
}

/// The locks that make a guard the only one: beside its socket and on the data directory itself.
#[derive(Debug)]
pub struct Locks {
    file: File,
    directory: Option<(Identity, File)>,
}

impl Locks {
    fn take(arguments: &Arguments) -> Result<Self, Error> {
        let path = lock_path(&arguments.socket);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(system("open the lock file"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let message = format!("another guard serves {}", arguments.socket.display());
            return Err(Error::NotAlone(message));
        }
        let mut locks = Self {
            file,
            directory: None,
        };
        if let Ok(identity) = Identity::of(&arguments.data_dir) {
            locks
                .lock_directory(&arguments.data_dir, identity)
                .map_err(Error::NotAlone)?;
        }
        Ok(locks)
    }

    /// Locks the directory the path leads to now; the one before is let go.
    ///
    /// # Errors
    /// A sentence: another guard holds it.
    pub fn lock_directory(&mut self, path: &Path, identity: Identity) -> Result<(), String> {
        if self
            .directory
            .as_ref()
            .is_some_and(|(held, _)| *held == identity)
        {
            return Ok(());
        }
        let directory = File::open(path)
            .map_err(|error| format!("could not open {}: {error}", path.display()))?;
        flock(&directory, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| format!("another guard holds the data directory {}", path.display()))?;
        self.directory = Some((identity, directory));
        Ok(())
    }

    /// What the guard before this one wrote down: where its control groups were.
    fn earlier_cgroup(&mut self) -> Option<PathBuf> {
        let mut text = String::new();
        self.file.read_to_string(&mut text).ok()?;
        Some(text.lines().next()?.strip_prefix("cgroup ")?.into())
    }

    fn write_down(&mut self, cgroup: Option<&Path>) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        let cgroup = cgroup
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        write!(self.file, "cgroup {cgroup}\npid {}\n", std::process::id())
    }
}

/// Everything from the checked arguments to a guard that is ready to serve.
///
/// # Errors
/// Another guard is there, or the system refused something necessary.
pub fn start(arguments: Arguments) -> Result<(Guard, Server), Error> {
    let mut locks = Locks::take(&arguments)?;
    if let Some(record) = &arguments.member_record {
        // A service manager starts the daemon after this; the daemon is what ends the waiting.
        stranger::wait_until_gone(record, &arguments.data_dir, notify_ready);
    }
    set_child_subreaper(Pid::from_raw(1))
        .map_err(|error| system("become the parent of orphans")(error.into()))?;
    let signals = take_signals().map_err(system("take over the signals"))?;
    let name = group_name(&arguments.data_dir);
    let (groups, cgroup) = open_groups(&arguments, &name)?;
    kill_earlier_groups(&mut locks, groups.as_ref(), &name);
    locks
        .write_down(groups.as_ref().map(Groups::root))
        .map_err(system("write the lock file"))?;
    let mut privileges = protect(&arguments, cgroup)?;
    privileges.kill_latency = measure_kill(groups.as_ref());
    log_line!("{privileges:?}");
    let socket = arguments.socket.clone();
    let account = arguments.account.clone();
    let mut guard = Guard::new(arguments, privileges, groups, locks, signals)
        .map_err(system("make a timer"))?;
    guard.kill_left_over(LEFT_OVER_LIMIT);
    let server = Server::listen(&socket, &account).map_err(system("listen on the socket"))?;
    Ok((guard, server))
}

/// SIGHUP and SIGINT are taken and ignored, SIGTERM and SIGCHLD wake the loop. They are blocked and
/// not set to "ignore", because a child would inherit that.
fn take_signals() -> io::Result<SignalFd> {
    let mut wanted = SigSet::empty();
    for signal in [
        NixSignal::SIGCHLD,
        NixSignal::SIGTERM,
        NixSignal::SIGHUP,
        NixSignal::SIGINT,
    ] {
        wanted.add(signal);
    }
    wanted.thread_block()?;
    Ok(SignalFd::with_flags(
        &wanted,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// The same for every guard of this directory, and no other: the path alone would be the same in
/// two containers that share a control group tree.
fn group_name(data_dir: &Path) -> String {
    let parent = data_dir
        .parent()
        .and_then(|parent| Identity::of(parent).ok());
    let (dev, ino) = parent.map_or((0, 0), |identity| (identity.dev, identity.ino));
    let name = format!("{dev}:{ino}:{}", data_dir.display());
    // FNV-1a: short, and the same in every release, which the standard hasher does not promise.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("clusterd-{hash:016x}")
}

fn open_groups(arguments: &Arguments, name: &str) -> Result<(Option<Groups>, Granted), Error> {
    let is_root = nix::unistd::Uid::effective().is_root();
    let owner = is_root.then_some(&arguments.account);
    let (parent, is_needed) = match &arguments.cgroup {
        CgroupChoice::None => return Ok((None, Granted::NotWanted)),
        CgroupChoice::Auto => (None, false),
        CgroupChoice::Below(path) => (Some(path.as_path()), true),
    };
    match Groups::open(parent, name, owner) {
        Ok(groups) => Ok((Some(groups), Granted::Yes)),
        Err(error) if is_needed => Err(Error::Cgroup(error)),
        Err(error) => {
            let source = std::error::Error::source(&error);
            let cause = source.map(|it| format!(": {it}")).unwrap_or_default();
            Ok((None, Granted::No(format!("{error}{cause}"))))
        }
    }
}

/// The earlier guard may have lived in another part of the tree: both places are killed.
fn kill_earlier_groups(locks: &mut Locks, groups: Option<&Groups>, name: &str) {
    let earlier = locks.earlier_cgroup().filter(|path| path.ends_with(name));
    let own = groups.map(|groups| groups.root().to_owned());
    for root in earlier.into_iter().chain(own) {
        let end_ns = clock::boottime_ns() + clock::nanoseconds(LEFT_OVER_LIMIT);
        match Groups::kill_left_over(&root) {
            Ok(0) => continue,
            Ok(count) => log_line!("killed {count} left-over processes in {}", root.display()),
            Err(error) => log_line!("could not kill in {}: {error}", root.display()),
        }
        while !Groups::is_empty(&root).unwrap_or(false) && clock::boottime_ns() < end_ns {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Asks for everything that keeps the guard running when the rest of the machine does not.
fn protect(arguments: &Arguments, cgroup: Granted) -> Result<Privileges, Error> {
    let granted = |result: io::Result<()>| match result {
        Ok(()) => Granted::Yes,
        Err(error) => Granted::No(error.to_string()),
    };
    let priority = arguments.realtime_priority;
    Ok(Privileges {
        boot_id: clock::boot_id().map_err(system("read the boot id"))?,
        real_time_priority: match priority {
            0 => Granted::NotWanted,
            priority => granted(sys::set_real_time_priority(priority)),
        },
        memory_lock: granted(
            mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).map_err(Into::into),
        ),
        oom_protection: granted(std::fs::write("/proc/self/oom_score_adj", "-1000")),
        timer_slack: granted(set_current_timer_slack(NonZeroU64::new(1)).map_err(Into::into)),
        cgroup,
        kill_latency: None,
    })
}

/// Kills one child the way a postmaster would be, and looks until it is verified.
fn measure_kill(groups: Option<&Groups>) -> Option<Duration> {
    let plan = ChildPlan::new(
        Path::new("/proc/self/exe"),
        &[WAIT_TO_BE_KILLED.to_owned()],
        &[],
        Path::new("/dev/null"),
        None,
        Signal::KILL,
    )
    .ok()?;
    let group = groups.map(|groups| &groups.postgres);
    let number = sys::start_child(&plan, group.map(|group| group.procs_file())).ok()?;
    let pid = Pid::from_raw(number)?;
    let begin_limit = clock::boottime() + Duration::from_secs(1);
    let has_begun = || match group {
        Some(group) => group.processes().is_ok_and(|list| list.contains(&number)),
        None => crate::processes::read(number).is_some(),
    };
    while !has_begun() && clock::boottime() < begin_limit {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begin = clock::boottime();
    let killed = group.map(|group| group.kill());
    if !matches!(killed, Some(Ok(()))) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = waitpid(Some(pid), WaitOptions::empty());
    while group.is_some_and(|group| !group.is_empty().unwrap_or(true)) {
        std::thread::sleep(Duration::from_micros(100));
    }
    Some(clock::boottime() - begin)
}

/// Tells systemd, if it started us, that clients are served now.
pub fn notify_ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = name.to_string_lossy().into_owned();
    let address = match name.strip_prefix('@') {
        Some(hidden) => SocketAddr::from_abstract_name(hidden),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = UnixDatagram::unbound()
        .and_then(|socket| address.and_then(|address| socket.send_to_addr(b"READY=1", &address)));
    if let Err(error) = sent {
        log_line!("could not notify {name}: {error}");
    }
}
