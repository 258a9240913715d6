//! `cargo xtask bench failover`: how long nobody can write, for each way to lose a primary, or a standby
//! that every commit waits for, as a client outside measures it; with it what was lost and whether two
//! primaries acknowledged at once.
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
use cluster_tests::{Cluster, PATIENCE, Wanted};

use crate::event::Event;
use crate::measure::Measured;

/// Measures the write outage.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench failover")]
pub struct Arguments {
    /// `fast`, `lan` or `wan`.
    #[arg(long, default_value = "lan")]
    preset: String,
    /// Durability mode: `async`, `sync` or `strict`.
    #[arg(long, default_value = "sync")]
    mode: String,
    /// Rounds of each event.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Only these events.
    #[arg(long, value_enum)]
    event: Vec<Event>,
    /// Writers at once, direct; as many again go through HAProxy.
    #[arg(long, default_value_t = 8)]
    writers: u32,
    /// The direct writers and nobody else: neither through HAProxy nor bound to a member.
    #[arg(long)]
    direct_only: bool,
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
    /// The guard has no control group: it kills process by process.
    #[arg(long)]
    no_cgroup: bool,
    /// The guard has no real-time priority.
    #[arg(long)]
    no_realtime: bool,
    /// Print the table only; leave docs/benchmarks.md alone.
    #[arg(long)]
    dry_run: bool,
    /// Keep what members and servers logged: to see where the time went.
    #[arg(long)]
    keep_logs: bool,
}

impl Arguments {
    /// What of the guard's privileges is taken away, as part of a heading.
    fn variant(&self) -> &'static str {
        match (self.no_cgroup, self.no_realtime) {
            (false, false) => "",
            (true, false) => ", guard without control group",
            (false, true) => ", guard without real-time priority",
            (true, true) => ", guard without control group and real-time priority",
        }
    }

    /// Waits until a blow hits a whole cluster; the primary. Outside `async` one standby at least
    /// confirms commits; where a standby is hit, both do.
    fn wait_whole(&self, event: Event, cluster: &Cluster) -> Result<usize> {
        match self.mode.as_str() {
            "async" => cluster.wait_healthy(PATIENCE),
            // One that was away is let in after half a minute at most.
            _ if event.is_of_standby() => cluster.wait_settled(2, 2, 2 * PATIENCE),
            _ => cluster.wait_confirmed(1, 1, PATIENCE),
        }
    }

    /// The cluster that is measured.
    fn wanted(&self, name: &str) -> Wanted {
        let mut guard = String::from("\n[guard]\n");
        if self.no_cgroup {
            guard.push_str("cgroup = \"none\"\n");
        }
        if self.no_realtime {
            guard.push_str("realtime_priority = 0\n");
        }
        let mut wanted = Wanted::new(name).preset(&self.preset).mode(&self.mode);
        wanted.major = self.major;
        match self.variant() {
            "" => wanted,
            _ => wanted.config(&guard),
        }
    }
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
        true => Event::all(&arguments.mode),
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
    let mut cluster = arguments.wanted("bench-idle").start()?;
    let line = idle::measure(&cluster, time)?;
    cluster.expect_error("");
    cluster.finish()?;
    Ok(line)
}
