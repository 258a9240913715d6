//! Every developer command. `cargo xtask demo` and `cargo xtask test` are the two a stranger needs.
//!
//! Not for anything a user of the cluster runs: that is `clusterctl`. Commands print what they run,
//! so that each step can be repeated by hand.

mod dist;
mod previous;
mod root;
mod run;
mod setup;
mod suites;
mod tally;
mod targets;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Every developer command of Matriarch.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on a fresh Debian or Ubuntu: PostgreSQL, HAProxy, PgBouncer, nftables, containers.
    Setup,
    /// Three members with real PostgreSQL on loopback addresses, until Ctrl-C.
    Demo {
        /// Kill the primary once, print the outage an external writer measured, and end.
        #[arg(long)]
        kill_primary: bool,
        /// With a repository of backups; prints how to take one and how to go back in time.
        #[arg(long)]
        backup: bool,
        /// Times of the lease.
        #[arg(long, default_value = "lan")]
        preset: String,
    },
    /// Everything CI runs, in order; the last line is `N passed, N failed`.
    Test {
        /// Only suites whose name contains this.
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// What can be told without a cluster: format, lints, levels 1 to 4, documentation, tidy.
    Check,
    /// Format, and apply what clippy can repair.
    Fix,
    /// The simulation in release, on all cores: many schedules, or one that tells everything.
    #[command(visible_alias = "sim")]
    Simulate(Simulate),
    /// Measure with a release build.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// A release as one file under `target/dist`: programs, units, configuration, documentation, checksums.
    Dist {
        /// Also with changes that are not committed; the file says so.
        #[arg(long)]
        allow_changes: bool,
    },
    /// Random points in time across failovers, each restored and compared with what clients were told.
    Restores {
        /// For example `--points 100 --failovers 10 --seed 7`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Random changes of settings, good and bad, with failovers in between.
    Storm {
        /// For example `--changes 500 --failovers 10 --seed 7`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Chaos: writers and random faults; arguments go to `cluster-jepsen`.
    Chaos {
        /// For example `--seed 7 --seconds 120`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Args)]
struct Simulate {
    /// Repeat exactly this schedule.
    seed: Option<u64>,
    /// How many schedules to try.
    #[arg(long, conflicts_with = "seed", default_value_t = 10_000)]
    schedules: u64,
    /// The number of the first one.
    #[arg(long, conflicts_with = "seed", default_value_t = 1)]
    first: u64,
    /// Who confirms commits, and whether clocks jump: async, sync, strict, sync-jumps, strict-jumps, jumps
    /// (both), mixed (all but async). A schedule has the kind of its number.
    #[arg(long, default_value = "mixed")]
    mode: String,
    /// On how many cores; without it on all.
    #[arg(long, conflicts_with = "seed")]
    threads: Option<u64>,
}

#[derive(Subcommand)]
enum Bench {
    /// The table of write outages; arguments go to the benchmark (`--help` lists them).
    Failover {
        /// For example `--preset fast --rounds 20 --event host-lost`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// pgbench against plain PostgreSQL, in pairs; arguments go to the benchmark.
    Throughput {
        /// For example `--mode sync --pairs 15 --seconds 30`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Setup => setup::install_missing(),
        Command::Demo {
            kill_primary,
            backup,
            preset,
        } => suites::demo(kill_primary, backup, &preset),
        Command::Test { only } => return suites::test(only.as_deref()),
        Command::Check => return suites::check(),
        Command::Fix => suites::fix(),
        Command::Simulate(wanted) => suites::simulate(&wanted),
        Command::Bench {
            what: Bench::Failover { arguments },
        } => suites::release_tool("bench-failover", &arguments),
        Command::Bench {
            what: Bench::Throughput { arguments },
        } => suites::release_tool("bench-throughput", &arguments),
        Command::Dist { allow_changes } => dist::make(allow_changes),
        Command::Restores { arguments } => suites::release_tool("restores", &arguments),
        Command::Storm { arguments } => suites::release_tool("storm", &arguments),
        Command::Chaos { arguments } => suites::release_tool("cluster-jepsen", &arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
