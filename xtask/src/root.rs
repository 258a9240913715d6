//! Being root, or able to become it: network namespaces and a second user are needed, nothing else.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Names the folder that clusters of tests keep their data in.
const SCRATCH: &str = "MATRIARCH_SCRATCH";

/// What is said, and all that is said, when neither root nor password-less sudo is there.
pub const SENTENCE: &str = "this needs root or password-less sudo, because members run in network \
namespaces and PostgreSQL as user postgres: run it as root";

/// Whether this process is root.
pub fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|answer| String::from_utf8_lossy(&answer.stdout).trim() == "0")
}

/// Refuses with the sentence unless a command can be run as root.
pub fn require() -> Result<()> {
    let sudo_works = || {
        Command::new("sudo")
            .args(["-n", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if is_root() || sudo_works() {
        return Ok(());
    }
    bail!("{SENTENCE}")
}

/// A command that runs as root: itself when we are, else through sudo.
pub fn command(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", "--preserve-env", program]);
    command
}

/// So much room in memory is enough for the clusters of one suite. Unit: bytes.
const ROOM: u64 = 4 << 30;

/// Makes cargo run what it built as root, although the building itself is done as the caller.
///
/// Data directories go into memory where there is room: what the clusters do is looked at, not how fast
/// this disk is. The Raft store's tests keep theirs on the disk.
pub fn run_tests_as_root(cargo: &mut Command) {
    if std::env::var_os(SCRATCH).is_none()
        && let Some(memory) = room_in_memory()
    {
        cargo.env(SCRATCH, memory);
    }
    if !is_root() {
        let triple = target_triple().to_uppercase().replace('-', "_");
        cargo.env(
            format!("CARGO_TARGET_{triple}_RUNNER"),
            "sudo -n --preserve-env",
        );
    }
}

fn room_in_memory() -> Option<&'static str> {
    let place = "/dev/shm";
    let listed = Command::new("stat")
        .args(["--file-system", "--format=%T %a %S", place])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut words = text.split_whitespace();
    let kind = words.next()?;
    let (free, block): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (kind == "tmpfs" && free.saturating_mul(block) >= ROOM).then_some(place)
}

fn target_triple() -> String {
    let told = Command::new("rustc").arg("-vV").output();
    told.ok()
        .and_then(|output| {
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        })
        .unwrap_or_else(|| "x86_64-unknown-linux-gnu".to_owned())
}
