//! One member: its host, its folders, its daemon; and every way to break it.
//!
//! A fault that is refused is an error: a test that broke nothing would show nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::booted::Booted;
use crate::host::{Host, log_file};
use crate::network::{self, Cut};
use crate::programs;
use crate::wait::wait_until;

/// HTTP port, the same on every member.
pub const HTTP_PORT: u16 = 8008;
/// gRPC port.
pub const GRPC_PORT: u16 = 8009;
/// How long a container may take to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// PostgreSQL's port.
pub const POSTGRES_PORT: u16 = 5432;

/// A member and what it runs on.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub host: Host,
    /// Its folder: configuration, logs, `state`, `data`.
    pub folder: PathBuf,
    /// PostgreSQL's programs.
    pub bin: PathBuf,
    /// Votes, has no PostgreSQL.
    pub is_witness: bool,
    /// Its service manager; without one the daemon is started by the test itself.
    pub booted: Option<Booted>,
    /// The words its daemon is started with, before its own: a program that runs it elsewhere.
    pub through: &'static [&'static str],
    pub(crate) program: PathBuf,
    /// The daemon, or the container.
    pub(crate) daemon: Option<Child>,
}

impl Member {
    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("clusterd.toml")
    }

    /// The volume that data lies on; a clone is made beside the data directory, on the same volume.
    pub fn volume(&self) -> PathBuf {
        self.folder.join("volume")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.volume().join("data")
    }

    /// The daemon's own durable state.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What the daemon wrote to its standard output and error.
    pub fn log(&self) -> PathBuf {
        self.folder.join("clusterd.log")
    }

    /// `address:port` of its HTTP.
    pub fn http(&self) -> String {
        format!("{}:{HTTP_PORT}", self.host.address)
    }

    /// `address:port` of its gRPC.
    pub fn grpc(&self) -> String {
        format!("{}:{GRPC_PORT}", self.host.address)
    }

    /// Starts the daemon; on a host with a service manager, boots that.
    ///
    /// # Errors
    /// It runs already, or could not be started.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts the daemon with more arguments.
    ///
    /// # Errors
    /// It runs already, or could not be started.
    pub fn start_with(&mut self, arguments: &[&str]) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        if let Some(booted) = self.booted.clone() {
            return self.boot(&booted);
        }
        let output = log_file(&self.log())?;
        let mut command = match self.through {
            [] => self.host.command(&self.program),
            [first, rest @ ..] => {
                let mut command = self.host.command(Path::new(first));
                command.args(rest).arg(&self.program);
                command
            }
        };
        command.arg("--config").arg(self.config_file());
        command.args(arguments);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        self.daemon = Some(
            command
                .spawn()
                .with_context(|| format!("start {}", self.name))?,
        );
        Ok(())
    }

    /// Runs the daemon's program to its end; whether it ended well, and what it printed.
    ///
    /// # Errors
    /// It could not be started.
    pub fn run_daemon(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = self.host.command(&self.program);
        command
            .arg("--config")
            .arg(self.config_file())
            .args(arguments);
        let answer = command.stdin(Stdio::null()).output().context("start it")?;
        let said = [answer.stdout, answer.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((answer.status.success(), said))
    }

    fn boot(&mut self, booted: &Booted) -> Result<()> {
        let console = self.folder.join("console.log");
        let output = log_file(&console)?;
        let mut command = booted.command()?;
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command.spawn().context("start systemd-nspawn")?;
        self.daemon = Some(child);
        let booted = wait_until("a booted systemd", BOOT_LIMIT, || match booted.is_up() {
            Ok(()) => Ok(Ok(())),
            Err(_) if !self.is_running() => Ok(Err(anyhow::anyhow!("systemd-nspawn ended"))),
            Err(seen) => Err(seen),
        });
        booted.and_then(|booted| booted).with_context(|| {
            format!(
                "systemd could not be booted in a container here: it takes root, the right to mount, and \
                 cgroup v2. Its console said: {}",
                fs::read_to_string(&console).unwrap_or_default().trim()
            )
        })
    }

    /// Shuts the host down in order, as `systemctl poweroff` does; waits for its end.
    ///
    /// # Errors
    /// It has no service manager, or did not end in time.
    pub fn power_off(&mut self, limit: Duration) -> Result<()> {
        let booted = self.booted.as_ref().context("no service manager")?;
        booted.run(&["systemctl", "--no-block", "poweroff"])?;
        self.wait_for_end(limit).map(drop)
    }

    /// Copies what a service manager keeps of the daemon's log to where the daemon's log is otherwise.
    pub(crate) fn collect_log(&self) {
        if let Some(booted) = &self.booted {
            // What cannot be read leaves the log empty, and its reason in it.
            let text = booted
                .journal()
                .unwrap_or_else(|error| format!("{error:#}"));
            let _ = fs::write(self.log(), text);
        }
    }

    /// Whether the daemon, or the container, lives.
    pub fn is_running(&mut self) -> bool {
        match &mut self.daemon {
            Some(child) => child.try_wait().is_ok_and(|ended| ended.is_none()),
            None => false,
        }
    }

    /// Pid of the daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn daemon_pid(&self) -> Result<i32> {
        if self.booted.is_some() {
            return self.pid_of("clusterd");
        }
        let child = self
            .daemon
            .as_ref()
            .with_context(|| format!("{} has no daemon", self.name))?;
        i32::try_from(child.id()).context("pid")
    }

    /// Pid of the guard.
    ///
    /// # Errors
    /// There is none.
    pub fn guard_pid(&self) -> Result<i32> {
        self.pid_of("clusterd-guard")
    }

    fn pid_of(&self, wanted: &str) -> Result<i32> {
        let all = self.host.processes();
        let found = all.iter().find(|(_, name)| name == wanted);
        found
            .map(|(pid, _)| *pid)
            .with_context(|| format!("{} has no {wanted}: {all:?}", self.name))
    }

    /// Pid of the postmaster, if one lives.
    ///
    /// # Errors
    /// There is none.
    pub fn postmaster_pid(&self) -> Result<i32> {
        let file = self.data_dir().join("postmaster.pid");
        let text = fs::read_to_string(&file).context("read postmaster.pid")?;
        let pid: i32 = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .parse()
            .context("a pid")?;
        if !self.host.processes().iter().any(|(other, _)| *other == pid) {
            bail!("postmaster {pid} of {} is gone", self.name);
        }
        Ok(pid)
    }

    /// Every process of PostgreSQL with its title, as it was when it was looked at.
    pub fn postgres_processes(&self) -> Vec<(i32, String)> {
        let all = self.host.processes().into_iter();
        let servers = all.filter(|(_, name)| name == "postgres");
        let titled = servers.map(|(pid, _)| {
            let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let title = String::from_utf8_lossy(&title).replace('\0', " ");
            (pid, title.trim().to_owned())
        });
        titled.collect()
    }

    /// Pid of the one process of PostgreSQL whose title has this word: `walreceiver`, `startup`,
    /// `checkpointer`.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn postgres_process(&self, word: &str) -> Result<i32> {
        let all = self.postgres_processes();
        // `postgres: m2: startup recovering …`; a session that logs in ends in "startup".
        let is_it = |title: &str| title.split_whitespace().nth(2) == Some(word);
        let found: Vec<i32> = all
            .iter()
            .filter(|(_, title)| is_it(title))
            .map(|(pid, _)| *pid)
            .collect();
        match found[..] {
            [pid] => Ok(pid),
            _ => bail!("no single {word} on {}: {all:?}", self.name),
        }
    }

    /// SIGSTOP to every process of PostgreSQL; daemon and guard go on.
    ///
    /// # Errors
    /// There is none, or one goes on.
    pub fn stop_postgres(&self) -> Result<()> {
        let what = format!("{}: every process of PostgreSQL stands still", self.name);
        wait_until(&what, Duration::from_secs(5), || {
            let all = self.postgres_processes();
            let running: Vec<_> = all.iter().filter(|(pid, _)| !is_stopped(*pid)).collect();
            if running.is_empty() && !all.is_empty() {
                return Ok(());
            }
            for (pid, _) in &running {
                // One that has just ended needs no stop.
                let _ = signal(*pid, Signal::SIGSTOP);
            }
            Err(format!("{running:?} of {all:?}"))
        })
    }

    /// SIGCONT to every process of PostgreSQL.
    pub fn continue_postgres(&self) {
        for (pid, _) in self.postgres_processes() {
            // One that was killed meanwhile needs none.
            let _ = signal(pid, Signal::SIGCONT);
        }
    }

    /// SIGKILL to the daemon alone; PostgreSQL and guard stay.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_daemon(&mut self) -> Result<()> {
        signal(self.daemon_pid()?, Signal::SIGKILL)?;
        self.reap_daemon()
    }

    /// SIGTERM to the daemon, as a package upgrade does; waits for its end.
    ///
    /// # Errors
    /// It does not run, or does not end in ten seconds.
    pub fn terminate_daemon(&mut self) -> Result<()> {
        signal(self.daemon_pid()?, Signal::SIGTERM)?;
        let name = self.name.clone();
        wait_until(
            &format!("{name}: daemon ended"),
            Duration::from_secs(10),
            || {
                if self.is_running() {
                    Err("it runs".to_owned())
                } else {
                    Ok(())
                }
            },
        )?;
        self.reap_daemon()
    }

    /// Installs the programs that were built with this test, and restarts the daemon; the guard goes on.
    ///
    /// # Errors
    /// It does not run, or does not end in ten seconds.
    pub fn upgrade(&mut self) -> Result<()> {
        self.program = programs::ours("clusterd")?;
        self.terminate_daemon()?;
        self.start()
    }

    /// Waits for a daemon that ends by itself; its exit code.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<i32> {
        let name = self.name.clone();
        let child = self.daemon.as_mut().context("no daemon")?;
        let status = wait_until(&format!("{name}: daemon ends"), limit, || {
            match child.try_wait() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err("it runs".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })?;
        self.daemon = None;
        Ok(status.code().unwrap_or(-1))
    }

    /// SIGKILL to the guard.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_guard(&self) -> Result<()> {
        signal(self.guard_pid()?, Signal::SIGKILL)
    }

    /// Plays the service manager: waits until the daemon ended by itself, and starts it again. A daemon
    /// that finds its guard gone kills PostgreSQL and ends, because only a new start makes a new guard.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn restart_when_it_ends(&mut self, limit: Duration) -> Result<()> {
        self.wait_for_end(limit)?;
        self.start()
    }

    /// SIGKILL to the postmaster.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_postmaster(&self) -> Result<()> {
        signal(self.postmaster_pid()?, Signal::SIGKILL)
    }

    /// SIGSTOP to the daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop_daemon(&self) -> Result<()> {
        signal(self.daemon_pid()?, Signal::SIGSTOP)
    }

    /// SIGCONT to the daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn continue_daemon(&self) -> Result<()> {
        signal(self.daemon_pid()?, Signal::SIGCONT)
    }

    /// The host loses its power: every process is gone at once.
    ///
    /// # Errors
    /// Something survived.
    pub fn kill_host(&mut self) -> Result<()> {
        self.host.kill_all()?;
        self.reap_daemon()
    }

    fn reap_daemon(&mut self) -> Result<()> {
        if let Some(mut child) = self.daemon.take() {
            child.wait().context("wait for the daemon")?;
        }
        Ok(())
    }

    /// Cuts a part of its network.
    ///
    /// # Errors
    /// It is on a loopback address, where nothing can be cut.
    pub fn cut(&self, what: &Cut) -> Result<()> {
        network::cut(self.namespace()?, what)
    }

    /// Takes all cuts away.
    ///
    /// # Errors
    /// It is on a loopback address.
    pub fn heal(&self) -> Result<()> {
        network::heal(self.namespace()?)
    }

    fn namespace(&self) -> Result<&str> {
        self.host
            .namespace
            .as_deref()
            .context("a loopback cluster has no network to cut")
    }

    /// Empties the disk, as when the host was replaced by a new one. The daemon must be gone.
    ///
    /// # Errors
    /// The folders could not be emptied.
    pub fn wipe_disk(&mut self) -> Result<()> {
        self.host.kill_all()?;
        self.reap_daemon()?;
        for folder in [self.state_dir(), self.volume()] {
            let mut empty = std::process::Command::new("find");
            empty.arg(folder).args(["-mindepth", "1", "-delete"]);
            Host::run(empty)?;
        }
        Ok(())
    }

    /// Makes the folders, owned by user postgres.
    ///
    /// # Errors
    /// There is no user postgres.
    pub(crate) fn make_folders(&self) -> Result<()> {
        let mut install = std::process::Command::new("install");
        install.args(["-d", "-o", "postgres", "-g", "postgres", "-m", "0700"]);
        install.arg(self.state_dir()).arg(self.volume());
        Host::run(install).map(drop)
    }
}

/// Makes user postgres the owner of a directory.
///
/// # Errors
/// It is not there, or there is no such user.
pub fn give_to_postgres(path: &Path) -> Result<()> {
    let mut own = std::process::Command::new("chown");
    own.arg("postgres:postgres").arg(path);
    Host::run(own).map(drop)
}

/// Whether a process stands still; one that is gone does.
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_none_or(|state| state.starts_with(['T', 'Z', 'X']))
}

/// Sends a signal.
///
/// # Errors
/// The process is gone.
pub fn signal(pid: i32, what: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), what).with_context(|| format!("{what} to {pid}"))
}

/// A fingerprint of everything below a folder: names, sizes, contents. One that is not there has a
/// fingerprint of its own.
///
/// # Errors
/// A file could not be read.
pub fn fingerprint(folder: &Path) -> Result<String> {
    let mut find = std::process::Command::new("sh");
    find.args([
        "-c",
        "[ -e \"$0\" ] || { echo not there; exit; }; cd \"$0\" || exit 1; \
         find . -type f -print0 | sort -z | xargs -0r sha256sum; find . | sort",
    ]);
    find.arg(folder);
    Host::run(find)
}
