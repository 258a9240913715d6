//! `cargo xtask storm`: random changes of settings, good and bad, with failovers in between.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use cluster_tests::storm::{self, Storm};

/// A storm of settings.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask storm")]
struct Arguments {
    /// How many changes are asked for.
    #[arg(long, default_value_t = 500)]
    changes: u32,
    /// How often the primary's host is lost.
    #[arg(long, default_value_t = 10)]
    failovers: u32,
    /// `restart --pending` after so many changes.
    #[arg(long, default_value_t = 50)]
    roll_every: u32,
    /// Which changes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let storm = Storm {
        changes: arguments.changes,
        failovers: arguments.failovers,
        roll_every: arguments.roll_every,
        seed: arguments.seed,
    };
    let outcome = storm::run("storm", &storm, &|line| println!("{line}"));
    match &outcome {
        Ok(seen) => println!(
            "taken: {}, refused: {}, unknown at once: {}, rolls: {}, taken back: {}, rows acknowledged: {}, missing: 0",
            seen.taken, seen.refused, seen.unknown, seen.rolls, seen.taken_back, seen.rows
        ),
        Err(error) => println!("BROKEN: {error:#}"),
    }
    println!(
        "{}; repeat: cargo xtask storm --changes {} --failovers {} --roll-every {} --seed {}",
        if outcome.is_ok() { "good" } else { "NOT GOOD" },
        arguments.changes,
        arguments.failovers,
        arguments.roll_every,
        arguments.seed
    );
    Ok(match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}
