//! A pretended host: one network namespace and one control group. Killing it kills every process on
//! it at once; freezing it stops them all, as a hypervisor would.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::orphans;
use crate::wait::wait_until;

/// A place to run programs in.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, for messages.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its network namespace; none on loopback addresses.
    pub namespace: Option<String>,
    /// Its control group.
    pub group: PathBuf,
}

impl Host {
    /// A command that will run on this host, as root.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 0 >\"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&self.group);
        if let Some(namespace) = &self.namespace {
            command
                .arg("nsenter")
                .arg(format!("--net=/run/netns/{namespace}"))
                .arg("--");
        }
        command.arg(program);
        command
    }

    /// A command that will run on this host, as user postgres.
    pub fn command_as_postgres(&self, program: &Path) -> Command {
        let mut command = self.command(Path::new("setpriv"));
        command
            .args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--init-groups",
            ])
            .arg(program);
        command
    }

    /// Runs to its end; fails with what it said when it fails.
    ///
    /// # Errors
    /// It ended badly.
    pub fn run(mut command: Command) -> Result<String> {
        let answer = orphans::output(command.stdin(Stdio::null())).context("start a program")?;
        let said = String::from_utf8_lossy(&answer.stdout).into_owned();
        if !answer.status.success() {
            let talk = String::from_utf8_lossy(&answer.stderr);
            // Without its environment, which may hold a token; without the way into the host.
            let words: Vec<_> = command
                .get_args()
                .map(|word| word.to_string_lossy())
                .collect();
            let from = words
                .iter()
                .position(|word| word == "--")
                .map_or(0, |place| place + 1);
            bail!(
                "`{}` ended with {}: {said}{talk}",
                words[from..].join(" "),
                answer.status
            );
        }
        Ok(said)
    }

    /// SIGKILL to every process of the host, in one step.
    ///
    /// # Errors
    /// Processes are left after ten seconds.
    pub fn kill_all(&self) -> Result<()> {
        self.write("cgroup.kill", "1")?;
        wait_until(
            &format!("{}: no process left", self.name),
            Duration::from_secs(10),
            || match self.has_processes() {
                true => Err(format!("{:?}", self.processes())),
                false => Ok(()),
            },
        )
    }

    /// Stops every process of the host; returns once all are stopped.
    ///
    /// # Errors
    /// Not all stopped within ten seconds.
    pub fn freeze(&self) -> Result<()> {
        self.write("cgroup.freeze", "1")?;
        wait_until(
            &format!("{}: frozen", self.name),
            Duration::from_secs(10),
            || {
                let events =
                    fs::read_to_string(self.group.join("cgroup.events")).unwrap_or_default();
                if events.contains("frozen 1") {
                    Ok(())
                } else {
                    Err(events)
                }
            },
        )
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// The control group is gone.
    pub fn thaw(&self) -> Result<()> {
        self.write("cgroup.freeze", "0")
    }

    /// All processes on this host: pid and name.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        collect(&self.group, &mut found);
        found
    }

    fn has_processes(&self) -> bool {
        fs::read_to_string(self.group.join("cgroup.events"))
            .is_ok_and(|events| events.contains("populated 1"))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.group.join(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

fn collect(group: &Path, found: &mut Vec<(i32, String)>) {
    let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse::<i32>().ok()) {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        found.push((pid, name.trim().to_owned()));
    }
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

/// A file to which a program's output is added.
///
/// # Errors
/// The folder is not there.
pub fn log_file(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}
