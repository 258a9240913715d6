//! `cargo xtask restores`: random points in time across failovers, each restored and compared with what
//! clients were told.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use cluster_tests::points::{self, Campaign};

/// Random points in time across failovers.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask restores")]
struct Arguments {
    /// How many copies are restored.
    #[arg(long, default_value_t = 100)]
    points: usize,
    /// How often the primary's host is lost.
    #[arg(long, default_value_t = 10)]
    failovers: u32,
    /// A base backup after so many failovers, besides the first one.
    #[arg(long, default_value_t = 3)]
    backup_every: u32,
    /// Which points.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let campaign = Campaign {
        failovers: arguments.failovers,
        points: arguments.points,
        backup_every: arguments.backup_every.max(1),
        seed: arguments.seed,
    };
    let outcome = points::run("restores", &campaign, &|line| println!("{line}"))?;
    println!(
        "rows acknowledged: {}, timelines: {}, base backups: {}, points noted: {}",
        outcome.rows, outcome.timelines, outcome.backups, outcome.noted
    );
    for finding in &outcome.findings {
        println!("WRONG: {finding}");
    }
    if let (Some(longest), middle) = (outcome.times.last(), outcome.times.len() / 2) {
        println!(
            "copies restored: {}, wrong: {}; one took {:.2} s (p50), {:.2} s (longest)",
            outcome.restored,
            outcome.findings.len(),
            outcome.times[middle].as_secs_f64(),
            longest.as_secs_f64()
        );
    }
    // Fewer than were asked for show less than was asked for.
    let is_good = outcome.findings.is_empty() && outcome.restored >= arguments.points;
    println!(
        "{}; repeat: cargo xtask restores --points {} --failovers {} --backup-every {} --seed {}",
        if is_good { "good" } else { "NOT GOOD" },
        arguments.points,
        arguments.failovers,
        arguments.backup_every,
        arguments.seed
    );
    Ok(match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
