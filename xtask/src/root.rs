//! Being root, or able to become it: network namespaces and a second user are needed, nothing else.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

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

/// Makes cargo run what it built as root, although the building itself is done as the caller.
pub fn run_tests_as_root(cargo: &mut Command) {
    if !is_root() {
        let triple = target_triple().to_uppercase().replace('-', "_");
        cargo.env(
            format!("CARGO_TARGET_{triple}_RUNNER"),
            "sudo -n --preserve-env",
        );
    }
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
