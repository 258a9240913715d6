//! `cargo xtask bench throughput`: what the manager costs in transactions. pgbench against our cluster
//! and against plain PostgreSQL with a hand-made standby set of the same kind, in turns, so that
//! whatever else the machine does hits both.
//!
//! Judged is the ratio within a pair of runs, never a figure alone. Figures of a development build
//! mean nothing.

mod pairs;
mod plain;
mod report;
mod statistics;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use cluster_tests::Wanted;

/// Which durability is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Nobody is waited for, on either side.
    Async,
    /// Every commit is confirmed by `--k` of two standbys, on both sides.
    Sync,
}

impl Mode {
    /// As settings have it.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Async => "async",
            Mode::Sync => "sync",
        }
    }
}

/// Compares pgbench on our cluster with plain PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench throughput")]
pub struct Arguments {
    /// Only these modes.
    #[arg(long, value_enum)]
    mode: Vec<Mode>,
    /// Pairs of runs in each mode.
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Length of a run.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Slices of the two runs of a pair that take turns, so that what else the machine does hits both.
    #[arg(long, default_value_t = 15)]
    slices: u64,
    /// Length of the run before the first pair, on each side, which counts for nothing.
    #[arg(long, default_value_t = 10)]
    warm: u64,
    /// pgbench's clients.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// pgbench's threads.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// pgbench's scale.
    #[arg(long, default_value_t = 20)]
    scale: u32,
    /// Only one side is up at a time: each is started before its run, and warmed. Slower, without
    /// slices, and the other side costs nothing meanwhile.
    #[arg(long)]
    alone: bool,
    /// Standbys that confirm, of two.
    #[arg(long, default_value_t = 1)]
    k: u32,
    /// `fast`, `lan` or `wan`.
    #[arg(long, default_value = "lan")]
    preset: String,
    /// PostgreSQL major; none is the distribution's.
    #[arg(long)]
    major: Option<u32>,
    /// Print the report only; leave docs/benchmarks.md alone.
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    /// The hosts of one side, with nothing on them yet.
    fn wanted(&self, name: &str) -> Wanted {
        let mut wanted = Wanted::new(name).preset(&self.preset);
        wanted.major = self.major;
        wanted
    }

    /// How many slices a run has.
    fn slices(&self) -> u64 {
        match self.alone {
            true => 1,
            false => self.slices,
        }
    }

    /// Length of a slice, seconds.
    fn slice(&self) -> u64 {
        self.seconds / self.slices()
    }

    /// How many confirm in a mode.
    fn confirmations(&self, mode: Mode) -> u32 {
        match mode {
            Mode::Async => 0,
            Mode::Sync => self.k,
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.pairs > 0 && arguments.seconds > 0,
        "at least one pair of a second"
    );
    ensure!(
        arguments.slices > 0 && arguments.seconds.is_multiple_of(arguments.slices),
        "--seconds {} cannot be cut into {} slices of whole seconds",
        arguments.seconds,
        arguments.slices
    );
    ensure!((1..=2).contains(&arguments.k), "there are two standbys");
    let modes = match arguments.mode.is_empty() {
        true => Mode::value_variants().to_vec(),
        false => arguments.mode.clone(),
    };
    let mut campaigns = Vec::new();
    for mode in modes {
        campaigns.push(pairs::run(mode, &arguments)?);
    }
    let text = report::text(&arguments, &campaigns);
    println!("{text}");
    if !arguments.dry_run {
        report::write(&arguments, &text)?;
    }
    Ok(())
}
