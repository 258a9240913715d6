//! Chaos: writers, random faults, and a judgement of what was acknowledged. A run is repeated by its
//! seed: the same faults on the same roles in the same order, as far as real processes allow.
//!
//! Phases: calm, faults under load, heal, recovery within a limit, final reads on every member.

mod checker;
mod nemesis;
mod report;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use cluster_tests::writer::clock;
use cluster_tests::{Wanted, wait_until};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::nemesis::Fault;
use crate::report::Report;

/// Chaos with writers and faults.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos")]
struct Arguments {
    /// Repeats a run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long faults go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// `fast`, `lan` or `wan`.
    #[arg(long, default_value = "lan")]
    preset: String,
    /// Members with PostgreSQL.
    #[arg(long, default_value_t = 3)]
    members: u8,
    /// Only these faults.
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(report) => {
            println!("{report}");
            if report.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        // Never a pass: see OUTCOMES.md.
        Err(error) => {
            eprintln!("harness failure: {error:#}\nrepeat: {}", repeat(&arguments));
            ExitCode::from(2)
        }
    }
}

fn repeat(arguments: &Arguments) -> String {
    format!(
        "cargo xtask chaos --seed {} --seconds {} --preset {}",
        arguments.seed, arguments.seconds, arguments.preset
    )
}

fn run(arguments: &Arguments) -> Result<Report> {
    let mut chance = StdRng::seed_from_u64(arguments.seed);
    let wanted = Wanted::new("chaos")
        .preset(&arguments.preset)
        .members(arguments.members, 0);
    let mut cluster = wanted.start().context("start the cluster")?;
    let workload = workload::Set::start(&cluster)?;
    wait_until("calm writing", Duration::from_secs(30), || {
        match workload.count() {
            rows if rows > 500 => Ok(()),
            rows => Err(format!("{rows} rows")),
        }
    })?;
    let menu = match arguments.fault.is_empty() {
        true => Fault::all().to_vec(),
        false => arguments.fault.clone(),
    };
    let (began, mut blows) = (clock(), Vec::new());
    while clock() - began < Duration::from_secs(arguments.seconds) {
        let blow = nemesis::strike(&mut cluster, &menu, &mut chance)?;
        eprintln!("{:7.2} s  {blow}", (blow.at - began).as_secs_f64());
        blows.push(blow);
    }
    nemesis::heal_all(&mut cluster)?;
    let healed = clock();
    let primary = cluster.wait_healthy(Duration::from_secs(90));
    let recovery = clock() - healed;
    let history = workload.stop();
    let mut report = Report::new(repeat(arguments), blows, &history, recovery);
    match primary {
        Err(error) => {
            report.violation(format!("not healthy again after all was healed: {error:#}"))
        }
        Ok(primary) => checker::judge(&cluster, primary, &history, &mut report)?,
    }
    for line in cluster.unexpected_errors() {
        report.note(format!("ERROR line: {line}"));
    }
    if report.is_good() {
        cluster.expect_error("");
        cluster.finish()?;
    }
    Ok(report)
}
