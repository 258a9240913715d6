//! A host with a booted systemd: the programs and the units of `config/`, installed at the places a
//! package would use, started by a real service manager.
//!
//! The container shares the network and lies in the control group of its pretended host, so whatever
//! breaks a host breaks it too. The surprise: its `/usr` is the machine's own, with our programs laid
//! over it; only `/etc` and `/var` are made for it. So it has exactly the libraries the programs were
//! built against, needs no download, and is there in a moment.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::write_private;
use crate::config::TOKEN;
use crate::host::Host;
use crate::programs;

/// The daemon's durable state, as its unit makes it.
pub const STATE_DIR: &str = "/var/lib/clusterd";
/// The data directory.
pub const DATA_DIR: &str = "/var/lib/postgresql/main";

const OURS: [&str; 3] = ["clusterd", "clusterd-guard", "clusterctl"];
/// Installed and enabled, as README.md says; the guard's is left alone by a member without guard.env.
const UNITS: [&str; 2] = ["clusterd-guard.service", "clusterd.service"];
/// Nobody logs in, and nothing here has a console or a device of its own.
const MASKED: [&str; 6] = [
    "console-getty.service",
    "dbus.service",
    "dbus.socket",
    "getty.target",
    "systemd-logind.service",
    "systemd-repart.service",
];

/// A root that systemd boots.
#[derive(Clone, Debug)]
pub struct Booted {
    root: PathBuf,
    host: Host,
    machine: String,
}

impl Booted {
    /// Makes the root of container `machine` below `folder` and installs everything in it; boots nothing.
    ///
    /// # Errors
    /// systemd is not installed here, or something could not be written.
    pub fn install(
        folder: &Path,
        host: &Host,
        machine: &str,
        toml: &str,
        is_witness: bool,
    ) -> Result<Self> {
        for program in ["/usr/bin/systemd-nspawn", "/usr/lib/systemd/systemd"] {
            ensure!(
                Path::new(program).exists(),
                "{program} is not installed (cargo xtask setup installs systemd-container)"
            );
        }
        let booted = Self {
            root: folder.join("root"),
            host: host.clone(),
            machine: machine.to_owned(),
        };
        booted.make_tree()?;
        booted.make_etc()?;
        booted.install_units()?;
        write_private(&booted.root.join("etc/clusterd/clusterd.toml"), toml)?;
        write_private(&booted.root.join("etc/clusterd/admin-token"), TOKEN)?;
        if !is_witness {
            let text = format!("CLUSTERD_DATA_DIR={DATA_DIR}\nCLUSTERD_OS_USER=postgres\n");
            booted.write("etc/clusterd/guard.env", &text)?;
        }
        Ok(booted)
    }

    fn make_tree(&self) -> Result<()> {
        let folders = [
            "dev",
            "etc/clusterd",
            "etc/systemd/system/multi-user.target.wants",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
            "usr",
            "var/lib",
            "var/log/journal",
        ];
        for folder in folders {
            let path = self.root.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            match fs::read_link(Path::new("/").join(name)) {
                Ok(target) => symlink(target, self.root.join(name)).context("link into /usr")?,
                Err(_) if Path::new("/").join(name).exists() => {
                    bail!("/{name} is a folder of its own here: only a merged /usr can be booted")
                }
                Err(_) => {}
            }
        }
        let mut own = Command::new("install");
        own.args(["-d", "-o", "postgres", "-g", "postgres", "-m", "0755"]);
        own.arg(self.root.join("var/lib/postgresql"));
        Host::run(own)?;
        for name in OURS {
            let place = self.layer().join("bin").join(name);
            fs::create_dir_all(place.parent().context("it has a folder")?)?;
            fs::write(&place, "").with_context(|| format!("make {}", place.display()))?;
        }
        Ok(())
    }

    /// What a service needs of `/etc`, and nothing else, so that nothing else of this machine starts.
    fn make_etc(&self) -> Result<()> {
        for name in ["passwd", "group", "os-release", "ld.so.cache"] {
            let (from, to) = (
                Path::new("/etc").join(name),
                self.root.join("etc").join(name),
            );
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").context("read a new id")?;
        // With an id of its own this is no first boot, on which systemd enables what it finds in /usr.
        self.write("etc/machine-id", &id.replace('-', ""))?;
        self.write("etc/hostname", &format!("{}\n", self.host.name))?;
        self.write("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
        self.write(
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n",
        )
    }

    fn install_units(&self) -> Result<()> {
        let system = self.root.join("etc/systemd/system");
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
        for unit in UNITS {
            fs::copy(samples.join(unit), system.join(unit))
                .with_context(|| format!("install {unit}"))?;
            symlink(
                Path::new("..").join(unit),
                system.join("multi-user.target.wants").join(unit),
            )
            .with_context(|| format!("enable {unit}"))?;
        }
        for unit in MASKED {
            symlink("/dev/null", system.join(unit)).with_context(|| format!("mask {unit}"))?;
        }
        let default = "/usr/lib/systemd/system/multi-user.target";
        symlink(default, system.join("default.target")).context("choose what is booted")
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.root.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn layer(&self) -> PathBuf {
        self.root.with_file_name("usr-layer")
    }

    /// The command that boots it and lasts as long as it runs.
    ///
    /// # Errors
    /// Our programs are not built.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = self.host.command(Path::new("systemd-nspawn"));
        // The machine's own service manager, if it has one, is not to know; and cgroup v2 alone, also
        // on a machine that has both.
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.args(["--quiet", "--boot", "--register=no", "--keep-unit"]);
        command.args(["--settings=no", "--console=passive", "--link-journal=no"]);
        command.args(["--resolv-conf=off", "--timezone=off"]);
        // The one thing a host gives its services that a container does not: locked memory.
        command.arg("--capability=CAP_IPC_LOCK");
        command.arg(format!("--directory={}", self.root.display()));
        command.arg(format!("--machine={}", self.machine));
        command.arg(format!("--overlay-ro=/usr:{}:/usr", self.layer().display()));
        for name in OURS {
            let program = programs::ours(name)?;
            let program = program.canonicalize().context("follow a link")?;
            command.arg(format!("--bind-ro={}:/usr/bin/{name}", program.display()));
        }
        Ok(command)
    }

    /// Whether the service manager has started all it will start.
    ///
    /// # Errors
    /// What it says instead.
    pub(crate) fn is_up(&self) -> Result<(), String> {
        match self.run(&["systemctl", "is-system-running"]) {
            Ok(_) => Ok(()),
            Err(error) => match format!("{error:#}") {
                // A unit of the machine that fails in a container is none of ours.
                said if said.contains("degraded") => Ok(()),
                said => Err(said),
            },
        }
    }

    /// Pid of its first process, as this machine counts.
    fn first_process(&self) -> Result<i32> {
        let is_first = |pid: i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("NSpid:"));
            line.is_some_and(|line| {
                let numbers: Vec<&str> = line.split_whitespace().collect();
                numbers.len() > 2 && numbers.last() == Some(&"1")
            })
        };
        let all = self.host.processes();
        let found = all
            .iter()
            .find(|(pid, name)| name == "systemd" && is_first(*pid));
        found
            .map(|(pid, _)| *pid)
            .with_context(|| format!("no systemd runs on {}: {all:?}", self.host.name))
    }

    /// Runs a program inside; what it printed.
    ///
    /// # Errors
    /// It ended badly.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first_process()?.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        command.args(["--root", "--wdns=/", "--"]).args(words);
        Host::run(command)
    }

    /// One property of a unit.
    ///
    /// # Errors
    /// systemd does not know it.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let said = self.run(&["systemctl", "show", "--value", "--property", name, unit])?;
        Ok(said.trim().to_owned())
    }

    /// What both units wrote to the journal, also after the end.
    ///
    /// # Errors
    /// It could not be read.
    pub fn journal(&self) -> Result<String> {
        let mut read = Command::new("journalctl");
        read.arg("--directory")
            .arg(self.root.join("var/log/journal"));
        read.args(["--no-pager", "--quiet", "--output=cat"]);
        read.args(["--unit=clusterd.service", "--unit=clusterd-guard.service"]);
        Host::run(read)
    }
}
