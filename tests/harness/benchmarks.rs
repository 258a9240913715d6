//! `docs/benchmarks.md`: what the figures were measured on, and sections that replace each other.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::orphans;
use crate::programs;

/// Cores, kernel, load, PostgreSQL: whatever figures depend on. `runs` says what shared the machine.
pub fn machine(runs: &str, major: Option<u32>) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, name)| name)
        })
        .unwrap_or("unknown processor")
        .trim()
        .to_owned();
    let server = programs::postgres_bin(major)
        .ok()
        .and_then(|bin| {
            let mut ask = Command::new(bin.join("postgres"));
            orphans::output(ask.arg("--version")).ok()
        })
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let date = date.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: String = kernel
        .trim()
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    format!(
        "{cores} cores ({model}), Linux {kernel}, {runs} on it, load average at the end {}, {server}, {}",
        load().join(" "),
        date.unwrap_or_default()
    )
}

/// The three load averages.
pub fn load() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).map(str::to_owned).collect()
}

/// Puts a section into the page, in place of the one with the same heading (`## …` and a newline).
///
/// # Errors
/// The page could not be written.
pub fn write_section(heading: &str, section: &str) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let old = std::fs::read_to_string(&file).unwrap_or_else(|_| "# Benchmarks\n".to_owned());
    let mut sections: Vec<String> = Vec::new();
    for (number, part) in old.split("\n## ").enumerate() {
        sections.push(if number == 0 {
            part.to_owned()
        } else {
            format!("## {part}")
        });
    }
    sections.retain(|section| !format!("{section}\n").starts_with(heading));
    sections.push(section.trim_end().to_owned());
    let sections: Vec<&str> = sections.iter().map(|section| section.trim_end()).collect();
    std::fs::write(&file, format!("{}\n", sections.join("\n\n")))
        .context("write docs/benchmarks.md")
}
