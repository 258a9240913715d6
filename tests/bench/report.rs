//! The table, and where it is kept.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster_tests::orphans;

use crate::Arguments;
use crate::event::Event;
use crate::measure::Measured;

/// One line of the table.
fn line(event: Event, measured: &Measured) -> String {
    let rounds = &measured.rounds;
    let direct = spread(rounds.iter().map(|round| round.direct).collect());
    let proxied = spread(rounds.iter().map(|round| round.proxied).collect());
    let rejoin = spread(rounds.iter().map(|round| round.rejoin).collect());
    let missing: usize = rounds.iter().map(|round| round.missing).sum();
    let overlap = rounds
        .iter()
        .map(|round| round.overlap)
        .max()
        .unwrap_or_default();
    let late: usize = rounds.iter().map(|round| round.late).sum();
    let overlap = match late {
        0 => "0 ms".to_owned(),
        rows => format!("**{} ms**, {rows} rows", overlap.as_millis()),
    };
    let trouble = measured.trouble.as_ref().map(|why| {
        // A table's cell is one line.
        format!(" (stopped: {})", why.replace(['|', '\n'], " "))
    });
    format!(
        "| {}{} | {} | {direct} | {proxied} | {rejoin} | {missing} | {overlap} |",
        event.title(),
        trouble.unwrap_or_default(),
        rounds.len()
    )
}

/// p50, p99 and maximum, in milliseconds.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let Some(last) = times.last() else {
        return "–".to_owned();
    };
    // Nearest rank: with few rounds p99 is the maximum, and says so by being equal to it.
    let rank = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1].as_millis();
    format!("{} / {} / {}", rank(50), rank(99), last.as_millis())
}

fn heading(arguments: &Arguments) -> String {
    let (preset, variant) = (&arguments.preset, arguments.variant());
    format!("## Failover, preset `{preset}`{variant}\n")
}

/// The whole section.
pub fn table(arguments: &Arguments, all: &[(Event, Measured)], idle: Option<&str>) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", heading(arguments));
    let _ = writeln!(
        text,
        "Write outage in milliseconds, p50 / p99 / max, seen by {} writers connected directly and {} \
         through HAProxy (configuration as shipped), with one more writer bound to each member that \
         never gives a statement up. `missing`: acknowledged rows that the new primary lacks, over all \
         rounds (mode `async`). `overlap`: longest time two primaries both acknowledged. `streaming`: from \
         the repair until all standbys stream again.\n",
        arguments.writers, arguments.writers
    );
    let _ = writeln!(text, "Machine: {}.\n", machine());
    let _ = writeln!(
        text,
        "| event | rounds | direct | through HAProxy | streaming | missing | overlap |"
    );
    let _ = writeln!(text, "|---|---|---|---|---|---|---|");
    for (event, measured) in all {
        let _ = writeln!(text, "{}", line(*event, measured));
    }
    let starts = all.iter().map(|(_, measured)| measured.bootstrap);
    let starts = spread(starts.filter(|time| !time.is_zero()).collect());
    let _ = writeln!(
        text,
        "\nThree empty hosts to a primary with two streaming standbys, milliseconds: {starts}."
    );
    let rounds = all.iter().flat_map(|(_, measured)| &measured.rounds);
    let renewals: Vec<_> = rounds.filter_map(|round| round.first_renewal).collect();
    if !renewals.is_empty() {
        let _ = writeln!(
            text,
            "\nThe primary's daemon killed and started: from its start to its first confirmed renewal, \
             milliseconds: {}.",
            spread(renewals)
        );
    }
    if let Some(idle) = idle {
        let _ = writeln!(text, "\n{idle}");
    }
    text
}

/// Cores, kernel, load, PostgreSQL: whatever the figures depend on.
fn machine() -> String {
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
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let server = cluster_tests::programs::postgres_bin(None)
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
        "{cores} cores ({model}), Linux {kernel}, all members, writers and HAProxy on it, load \
         average at the end {}, {server}, {}",
        load.join(" "),
        date.unwrap_or_default()
    )
}

/// Puts the section into `docs/benchmarks.md`, in place of the one of the same preset.
pub fn write(arguments: &Arguments, table: &str) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let old = std::fs::read_to_string(&file).unwrap_or_else(|_| {
        "# Benchmarks\n\nMade by `cargo xtask bench failover`; how the figures are measured is in \
         `tests/bench/`.\n"
            .to_owned()
    });
    let heading = heading(arguments);
    let mut sections: Vec<String> = Vec::new();
    for (number, part) in old.split("\n## ").enumerate() {
        sections.push(if number == 0 {
            part.to_owned()
        } else {
            format!("## {part}")
        });
    }
    sections.retain(|section| !format!("{section}\n").starts_with(&heading));
    sections.push(table.trim_end().to_owned());
    let sections: Vec<&str> = sections.iter().map(|section| section.trim_end()).collect();
    std::fs::write(&file, format!("{}\n", sections.join("\n\n")))
        .context("write docs/benchmarks.md")
}
