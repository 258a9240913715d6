//! Before the runtime: directories, the guard, the lease thread, and then the user is dropped.
//!
//! Started as root, this is the only part that needs it: the guard stays root (priority, control
//! groups), the lease thread gets its priority, everything else runs as PostgreSQL's user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use cluster_core::model::lease::LeaseTimes;
use clusterd_guard::privileges::{self, Account};
use clusterd_guard::protocol::{Granted, Hello};
use rustix::mm::MlockAllFlags;
use tokio::sync::mpsc;

use crate::config::{Config, GuardStarter};
use crate::deadline::GuardDeadline;
use crate::guard_client::{GuardOptions, spawn_guard};
use crate::lease::{DeadlineGuard, LeaseKeeper, RenewOrder};
use crate::reconcile::durable::FILE as DURABLE_RECORD;
use crate::takeover::{self, Mode};

/// A new guard first kills what an old one left, which may take its time.
const GUARD_LIMIT: Duration = Duration::from_secs(30);

/// What was prepared.
pub struct Prepared {
    /// The lease.
    pub lease: LeaseKeeper,
    /// Its renewals.
    pub orders: mpsc::Receiver<RenewOrder>,
    /// Who the guard is; none on a witness, and none yet where a server is to be taken over.
    pub guard: Option<Hello>,
    /// What the host did not grant, as sentences.
    pub not_granted: Vec<String>,
}

/// A witness has nothing to kill.
struct NoGuard;

impl DeadlineGuard for NoGuard {
    fn arm(
        &mut self,
        _: cluster_core::model::Epoch,
        _: cluster_core::model::lease::Moment,
        _: cluster_core::model::lease::Moment,
    ) -> Result<(), String> {
        Ok(())
    }

    fn stop_now(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn armed(
        &mut self,
    ) -> Option<(
        cluster_core::model::Epoch,
        cluster_core::model::lease::Moment,
    )> {
        None
    }
}

/// Whether both listeners could be opened, before anything is made or started.
///
/// # Errors
/// Every address that cannot be listened on, with its key.
fn check_ports(config: &Config) -> anyhow::Result<()> {
    let listeners = [
        ("listen.http", config.listen.http),
        ("listen.grpc", config.listen.grpc),
    ];
    let problems: Vec<String> = listeners
        .into_iter()
        .filter_map(|(key, address)| {
            let error = std::net::TcpListener::bind(address).err()?;
            let (address, source) = (address.to_string(), error);
            Some(
                crate::api::Error::Listen {
                    key,
                    address,
                    source,
                }
                .to_string(),
            )
        })
        .collect();
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

/// Makes the directories, starts guard and lease thread, drops the user.
///
/// # Errors
/// A sentence for the operator; nothing was started that would be left.
pub fn prepare(config: &Config, mode: Mode) -> anyhow::Result<Prepared> {
    check_ports(config)?;
    if mode == Mode::Ordinary {
        // Before the guard: a new one kills whatever runs in its directory.
        takeover::refuse_stranger(config)?;
    }
    let account = match &config.postgres {
        Some(postgres) => Some(Account::of_name(&postgres.os_user)?),
        None => None,
    };
    let is_root = nix::unistd::Uid::effective().is_root();
    make_directory(
        &config.state_dir,
        0o700,
        account.as_ref().filter(|_| is_root),
    )?;
    if let Some(account) = account.as_ref().filter(|_| is_root) {
        // A service manager makes it before us, and as root's.
        give(&config.state_dir, account)?;
    }
    if let Some(postgres) = &config.postgres {
        let owner = account.as_ref().filter(|_| is_root);
        if let Some(parent) = postgres.data_dir.parent()
            && !parent.exists()
        {
            make_directory(parent, 0o700, owner)?;
        }
        make_directory(&postgres.socket_dir, 0o755, owner)?;
    }
    let guard = match (&config.postgres, mode) {
        (Some(_), Mode::Ordinary) => Some(reach_guard_alone(config)?),
        (Some(_), Mode::TakeOver) | (None, _) => None,
    };
    // Before any thread is made: each inherits it from the one that makes it. The guard has its own.
    let priority = raise_priority();
    let times = config.settings.times();
    let deadline: Box<dyn DeadlineGuard> = match &config.postgres {
        Some(_) => Box::new(GuardDeadline::new(config.guard.socket.clone())),
        None => Box::new(NoGuard),
    };
    let (lease, orders) = LeaseKeeper::start(deadline, times).context("start the lease thread")?;
    let mut not_granted = guard.as_ref().map(missing).unwrap_or_default();
    not_granted.extend(guard.as_ref().and_then(|hello| slow_kill(hello, &times)));
    if let Some(why) = lease.priority_refused() {
        not_granted.push(format!("lease thread: real-time priority: {why}"));
    }
    if let Err(why) = priority {
        not_granted.push(format!("daemon: higher priority: {why}"));
    }
    if let Err(why) = lock_memory() {
        not_granted.push(format!("daemon: locked memory: {why}"));
    }
    if let Some(account) = &account
        && is_root
    {
        privileges::drop_to(account)?;
    }
    Ok(Prepared {
        lease,
        orders,
        guard,
        not_granted,
    })
}

/// In a small runtime for this one call: the real one must not have threads yet when the user is
/// dropped and the guard is started as root.
fn reach_guard_alone(config: &Config) -> anyhow::Result<Hello> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(reach_guard(config))
}

/// Starts the guard or waits for it. Also after the user was dropped: root is kept for this.
///
/// # Errors
/// It does not serve.
pub async fn reach_guard(config: &Config) -> anyhow::Result<Hello> {
    let postgres = config.postgres.as_ref().context("a witness has no guard")?;
    let options = GuardOptions {
        program: config.guard.binary.clone(),
        socket: config.guard.socket.clone(),
        data_dir: postgres.data_dir.clone(),
        member_record: config.state_dir.join(DURABLE_RECORD),
        user: can_be_root().then(|| postgres.os_user.clone()),
        cgroup: config.guard.cgroup.to_string(),
        realtime_priority: config.guard.realtime_priority,
        watchdog: config.guard.watchdog.clone().map(|device| {
            let seconds = config.guard.watchdog_timeout.as_secs();
            (device, u32::try_from(seconds).unwrap_or(u32::MAX))
        }),
        log: config.state_dir.join("guard.log"),
        limit: GUARD_LIMIT,
    };
    match config.guard.started_by {
        GuardStarter::Daemon => spawn_guard(&options).await.context("start clusterd-guard"),
        GuardStarter::Service => wait_for_guard(&options).await,
    }
}

/// Root now, or kept as the saved user.
fn can_be_root() -> bool {
    nix::unistd::getresuid().is_ok_and(|ids| ids.effective.is_root() || ids.saved.is_root())
}

/// The service manager starts the guard; this daemon waits for it.
async fn wait_for_guard(options: &GuardOptions) -> anyhow::Result<Hello> {
    let guard = crate::guard_client::Guard::connect(options.socket.clone(), GUARD_LIMIT);
    guard.hello().await.with_context(|| {
        format!(
            "no guard answers at {} (is clusterd-guard.service running?)",
            options.socket.display()
        )
    })
}

/// Every wish the host did not grant to the guard.
pub fn missing(hello: &Hello) -> Vec<String> {
    [
        ("real-time priority", &hello.real_time_priority),
        ("locked memory", &hello.memory_lock),
        ("protection from the OOM killer", &hello.oom_protection),
        ("timer slack", &hello.timer_slack),
        ("control group", &hello.cgroup),
        ("watchdog", &hello.watchdog),
    ]
    .into_iter()
    .filter_map(|(what, granted)| match granted {
        Granted::No(why) => Some(format!("guard: {what}: {why}")),
        Granted::Yes | Granted::NotWanted => None,
    })
    .collect()
}

/// Niceness of the daemon. Judgement: renewals must not wait behind a busy database or a backup; far
/// from real time, because this process has a runtime and a storage engine in it.
const NICE: i32 = -10;

/// Lets this process run before ordinary ones, also where the kernel groups processes by session.
fn raise_priority() -> std::io::Result<()> {
    rustix::process::setpriority_process(None, NICE)?;
    // A terminal's other programs are not ours to prefer; and not every kernel has the file.
    // In a process namespace the session may have begun outside: its number is 0 here then.
    if nix::unistd::getsid(None)? == nix::unistd::getpid() {
        let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
    }
    Ok(())
}

/// Keeps what is in memory there, so that no renewal waits for a swapped-out page [E7]. Pages are
/// locked when they are first used: all at once would cost 25 MiB of stacks nobody uses.
fn lock_memory() -> std::io::Result<()> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
    // A limit would be an allocation that fails later, when the user is dropped.
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        let (soft, _hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
        if soft != RLIM_INFINITY {
            return Err(std::io::Error::other(format!(
                "limited to {soft} bytes (LimitMEMLOCK=infinity lifts that)"
            )));
        }
    }
    rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    Ok(())
}

/// The kill of one child at the guard's start, measured, must leave room within K_hard: a whole
/// PostgreSQL takes several times as long.
fn slow_kill(hello: &Hello, times: &LeaseTimes) -> Option<String> {
    let took = Duration::from_micros(hello.kill_latency_us?);
    (took * 4 > times.stop_hard).then(|| {
        format!(
            "guard: killing one process took {took:?} at its start; {:?} for all of PostgreSQL \
             is tight on this host (a slower preset gives it more)",
            times.stop_hard
        )
    })
}

fn make_directory(path: &Path, mode: u32, owner: Option<&Account>) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    owner.map_or(Ok(()), |account| give(path, account))
}

fn give(path: &Path, account: &Account) -> anyhow::Result<()> {
    chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
        .with_context(|| format!("give {} to {}", path.display(), account.name))
}
