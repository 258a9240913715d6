//! The table, and where it is kept.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use cluster_tests::benchmarks;

use crate::Arguments;
use crate::event::Event;
use crate::measure::Measured;

/// One line of the table.
fn line(event: Event, measured: &Measured) -> String {
    let rounds = &measured.rounds;
    let direct = spread(rounds.iter().map(|round| round.direct).collect());
    let proxied = spread(rounds.iter().filter_map(|round| round.proxied).collect());
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
    let (preset, mode) = (&arguments.preset, &arguments.mode);
    let mode = match mode.as_str() {
        "async" => String::new(),
        other => format!(", mode `{other}`"),
    };
    format!(
        "## Failover, preset `{preset}`{mode}{}{}\n",
        arguments.variant(),
        match arguments.direct_only {
            true => ", direct writers only",
            false => "",
        }
    )
}

/// The whole section.
pub fn table(arguments: &Arguments, all: &[(Event, Measured)], idle: Option<&str>) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", heading(arguments));
    let others = match arguments.direct_only {
        true => ", and nobody else".to_owned(),
        false => format!(
            " and {} through HAProxy (configuration as shipped), with one more writer bound to each member that \
             never gives a statement up",
            arguments.writers
        ),
    };
    let _ = writeln!(
        text,
        "Write outage in milliseconds, p50 / p99 / max, seen by {} writers connected directly{others}. \
         `missing`: acknowledged rows that the new primary lacks, over all rounds (mode `{}`). `overlap`: longest time two primaries both acknowledged. `streaming`: \
         from the repair until all standbys stream again.\n",
        arguments.writers, arguments.mode
    );
    let machine = benchmarks::machine("all members, writers and HAProxy", arguments.major);
    let _ = writeln!(text, "Machine: {machine}.\n");
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

/// Puts the section into `docs/benchmarks.md`, in place of the one of the same preset.
pub fn write(arguments: &Arguments, table: &str) -> Result<()> {
    benchmarks::write_section(&heading(arguments), table)
}
