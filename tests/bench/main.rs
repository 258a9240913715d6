//! `cargo xtask bench failover`: how long nobody can write, for each way to lose a primary, as a
//! client outside measures it; with it what was lost and whether two primaries acknowledged at once.
//!
//! Writes its table into `docs/benchmarks.md`. Figures of a development build mean nothing.

mod calm;
mod event;
mod idle;
mod measure;
mod report;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use cluster_tests::Wanted;

use crate::event::Event;
use crate::measure::Measured;

/// Measures the write outage.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench failover")]
pub struct Arguments {
    /// `fast`, `lan` or `wan`.
    #[arg(long, default_value = "lan")]
    preset: String,
    /// Rounds of each event.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Only these events.
    #[arg(long, value_enum)]
    event: Vec<Event>,
    /// Writers at once, direct; as many again go through HAProxy.
    #[arg(long, default_value_t = 8)]
    writers: u32,
    /// PostgreSQL major; none is the distribution's.
    #[arg(long)]
    major: Option<u32>,
    /// Seconds to watch an idle cluster for; 0 leaves that out.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Instead of breaking anything: minutes of a busy machine without a fault; prints how often the
    /// primary changed.
    #[arg(long, value_name = "MINUTES")]
    calm: Option<u64>,
    /// Print the table only; leave docs/benchmarks.md alone.
    #[arg(long)]
    dry_run: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(minutes) = arguments.calm {
        println!(
            "{}",
            calm::measure(&arguments, Duration::from_secs(60 * minutes))?
        );
        return Ok(());
    }
    let events = match arguments.event.is_empty() {
        true => Event::all().to_vec(),
        false => arguments.event.clone(),
    };
    let mut all = Vec::new();
    for event in events {
        match measure::measure(event, &arguments) {
            Ok(measured) => all.push((event, measured)),
            // One event that fails must not hide the figures of the others.
            Err(error) => {
                eprintln!("{event:?}: {error:#}");
                let trouble = Some(error.to_string());
                all.push((
                    event,
                    Measured {
                        trouble,
                        ..Measured::default()
                    },
                ));
            }
        }
    }
    let idle = match arguments.idle {
        0 => None,
        seconds => Some(watch_idle(&arguments, Duration::from_secs(seconds))?),
    };
    let table = report::table(&arguments, &all, idle.as_deref());
    println!("{table}");
    if !arguments.dry_run {
        report::write(&arguments, &table)?;
    }
    Ok(())
}

fn watch_idle(arguments: &Arguments, time: Duration) -> Result<String> {
    let mut cluster = Wanted::new("bench-idle")
        .preset(&arguments.preset)
        .start()?;
    let line = idle::measure(&cluster, time)?;
    cluster.expect_error("");
    cluster.finish()?;
    Ok(line)
}
