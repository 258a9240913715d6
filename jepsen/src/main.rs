//! Chaos: writers, random faults, and a judgement of what was acknowledged. A run is repeated by its
//! seed: the same faults on the same roles in the same order, as far as real processes allow.
//!
//! Phases: calm, faults under load, heal, recovery within a limit, final reads on every member.

mod checker;
mod client;
mod history;
mod nemesis;
mod page;
mod report;
mod results;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, Wanted, wait_until};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::checker::{Mode, Staleness};
use crate::nemesis::{Blow, Fault, Menu, Round};
use crate::page::Page;
use crate::report::{Least, Report};
use crate::workload::{Choice, Workloads};

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
    /// Instead: how many faults; then enough rows and changes of the primary are demanded, too.
    #[arg(long, conflicts_with = "seconds")]
    rounds: Option<u32>,
    /// `fast`, `lan` or `wan`.
    #[arg(long, default_value = "lan")]
    preset: String,
    /// Durability mode of the cluster.
    #[arg(long, value_enum, default_value = "sync")]
    mode: Mode,
    /// Confirmations a commit needs.
    #[arg(long, default_value_t = 1)]
    k: u32,
    /// In mode `strict`: never fewer.
    #[arg(long, default_value_t = 1)]
    k_min: u32,
    /// Judge by what this mode promises instead of the cluster's own: shows that losses are found.
    #[arg(long, value_enum)]
    judge_as: Option<Mode>,
    /// Members with PostgreSQL.
    #[arg(long, default_value_t = 3)]
    members: u8,
    /// Witnesses.
    #[arg(long, default_value_t = 0)]
    witnesses: u8,
    /// What clients do; the set's writers always write, alone they are more.
    #[arg(long, value_enum, default_value = "set")]
    workload: Choice,
    /// How long, while nothing is broken, an acknowledged write may be missing on a standby.
    #[arg(long, default_value_t = 5000)]
    stale_bound_ms: u64,
    /// Where histories and verdicts go; by default below cargo's target folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Runs nothing: judges the histories of this folder again.
    #[arg(long)]
    check: Option<PathBuf>,
    /// What to choose faults from.
    #[arg(long, value_enum, default_value = "all")]
    menu: Menu,
    /// Only these faults.
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
}

impl Arguments {
    fn stale_bound(&self) -> Duration {
        Duration::from_millis(self.stale_bound_ms)
    }

    fn least(&self) -> Least {
        let least = match self.rounds {
            Some(rounds) => Least::of_rounds(rounds as usize),
            None => Least::default(),
        };
        match self.workload {
            Choice::Set => least,
            _ => least.with_others(),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.check {
        return results::check_again(folder, arguments.stale_bound());
    }
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
    let Arguments {
        seed,
        seconds,
        preset,
        mode,
        k,
        k_min,
        members,
        witnesses,
        ..
    } = arguments;
    let length = match arguments.rounds {
        Some(rounds) => format!("--rounds {rounds}"),
        None => format!("--seconds {seconds}"),
    };
    let mut text = format!(
        "cargo xtask chaos --seed {seed} {length} --preset {preset} --mode {} --k {k} --k-min {k_min} \
         --members {members} --witnesses {witnesses}",
        mode.word()
    );
    if arguments.workload != Choice::Set {
        text.push_str(&format!(" --workload {}", word(&arguments.workload)));
    }
    text.push_str(&format!(" --menu {}", word(&arguments.menu)));
    for fault in &arguments.fault {
        text.push_str(&format!(" --fault {}", word(fault)));
    }
    if let Some(mode) = arguments.judge_as {
        text.push_str(&format!(" --judge-as {}", mode.word()));
    }
    text
}

/// As it is written on the command line.
fn word(value: &impl ValueEnum) -> String {
    let possible = value.to_possible_value();
    possible.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn wanted(arguments: &Arguments) -> Wanted {
    let wanted = Wanted::new("chaos")
        .preset(&arguments.preset)
        .members(arguments.members, arguments.witnesses)
        .mode(arguments.mode.word());
    match arguments.mode {
        Mode::Async => wanted,
        Mode::Sync => wanted.setting(&format!("k = {}", arguments.k)),
        Mode::Strict => wanted
            .setting(&format!("k = {}", arguments.k))
            .setting(&format!("k_min = {}", arguments.k_min)),
    }
}

/// Faults, one after the other; with them what must not have been seen.
fn break_things(
    arguments: &Arguments,
    cluster: &mut Cluster,
    workload: &Workloads,
) -> Result<(Vec<Blow>, Vec<String>)> {
    let mut chance = StdRng::seed_from_u64(arguments.seed);
    let menu = match arguments.fault.is_empty() {
        true => arguments.menu.faults(),
        false => arguments.fault.clone(),
    };
    let round = Round {
        menu: &menu,
        mode: arguments.mode,
        k: arguments.k,
        workload,
    };
    let (began, mut blows, mut seen) = (clock(), Vec::new(), Vec::new());
    let is_over = |blows: usize| match arguments.rounds {
        Some(rounds) => blows >= rounds as usize,
        None => clock() - began >= Duration::from_secs(arguments.seconds),
    };
    while !is_over(blows.len()) {
        let (blow, odd) = nemesis::strike(cluster, &round, &mut chance)?;
        let (at, number) = ((blow.at - began).as_secs_f64(), blows.len() + 1);
        eprintln!("{at:7.2} s  {number}: {blow}; {} rows", workload.count());
        for text in &odd {
            eprintln!("           {text}");
        }
        seen.extend(odd);
        blows.push(blow);
    }
    Ok((blows, seen))
}

fn run(arguments: &Arguments) -> Result<Report> {
    let mut cluster = wanted(arguments).start().context("start the cluster")?;
    let versions = results::versions(&cluster)?;
    let workload = Workloads::start(&cluster, arguments.workload, arguments.seed)?;
    wait_until("calm work", Duration::from_secs(60), || {
        match (workload.count(), workload.least_ok()) {
            (rows, least) if rows > 500 && least.is_none_or(|it| it > 20) => Ok(()),
            (rows, least) => Err(format!("{rows} rows, {least:?} operations")),
        }
    })?;
    let calm = clock();
    let (blows, seen) = break_things(arguments, &mut cluster, &workload)?;
    nemesis::heal_all(&mut cluster)?;
    let healed = clock();
    let primary = cluster.wait_healthy(Duration::from_secs(90));
    let recovery = clock() - healed;
    let least_ok = workload.least_ok();
    let recorded = workload.stop(&cluster, primary.as_ref().ok().copied())?;
    let nemesis: Vec<_> = blows.iter().flat_map(|blow| blow.events()).collect();
    let folder = results::folder(arguments)?;
    folder.write_histories(&recorded.histories, &nemesis)?;
    let (set, least) = (&recorded.set, arguments.least());
    let mut report = Report::new(repeat(arguments), blows, set, recovery, least);
    report.operations = least_ok;
    seen.into_iter().for_each(|text| report.violation(text));
    let judged_as = arguments.judge_as.unwrap_or(arguments.mode);
    match primary {
        Err(error) => {
            report.violation(format!("not healthy again after all was healed: {error:#}"))
        }
        Ok(primary) => checker::judge_members(judged_as, &cluster, primary, set, &mut report)?,
    }
    let staleness = Staleness::outside(arguments.stale_bound(), calm, healed + recovery);
    for (name, events) in &recorded.histories {
        let verdict = checker::judge_history(name, events, &staleness);
        let is_forgiven = checker::is_forgiven(judged_as, name, set.timelines().len());
        match verdict {
            Some(verdict) if is_forgiven => report.add(verdict.forgiven()),
            Some(verdict) => report.add(verdict),
            None => {}
        }
    }
    for line in cluster.unexpected_errors() {
        report.note(format!("ERROR line: {line}"));
    }
    let page = Page::new(&cluster, &report, set, &versions, arguments.seed);
    results::write(&folder, &page)?;
    if report.is_good() {
        cluster.expect_error("");
        cluster.finish()?;
    }
    Ok(report)
}
