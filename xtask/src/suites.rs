//! The suites, in order, and the commands made of them. What CI runs is this table and nothing else.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::previous::{self, Previous};
use crate::run::{cargo, run};
use crate::tally::{Outcome, Tally, count};
use crate::{Simulate, root, setup, targets};

/// One step of `test`.
struct Suite {
    name: &'static str,
    what: What,
    needs: Needs,
}

/// What a suite runs. Always the whole workspace is named, and targets of it: with single packages named,
/// cargo chooses other features of what they depend on, and compiles it all again for each.
enum What {
    /// `cargo` with these arguments.
    Cargo(&'static [&'static str]),
    /// Tests of this package: the named targets, or all; and what comes behind `--`.
    Tests {
        package: &'static str,
        targets: &'static [&'static str],
        arguments: &'static [&'static str],
    },
}

/// What a suite needs besides a compiler.
#[derive(PartialEq, Eq)]
enum Needs {
    Nothing,
    /// A server of object storage, which `setup` fetches.
    ObjectStore,
    /// Root and PostgreSQL.
    Cluster,
    /// The same, and the programs of an earlier commit.
    EarlierPrograms,
}

/// All targets of tests of a package.
const fn all_of(package: &'static str) -> What {
    What::Tests {
        package,
        targets: &[],
        arguments: &[],
    }
}

/// Targets of `cluster-tests`.
const fn tests(targets: &'static [&'static str], arguments: &'static [&'static str]) -> What {
    What::Tests {
        package: "cluster-tests",
        targets,
        arguments,
    }
}

/// Levels of tests as CONTRIBUTING.md describes them, cheapest first.
const SUITES: &[Suite] = &[
    Suite {
        name: "format",
        what: What::Cargo(&["fmt", "--all", "--check"]),
        needs: Needs::Nothing,
    },
    Suite {
        name: "lints",
        what: What::Cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
        needs: Needs::Nothing,
    },
    Suite {
        name: "unit",
        what: What::Cargo(&["test", "--workspace", "--lib", "--bins"]),
        needs: Needs::Nothing,
    },
    Suite {
        name: "simulation",
        what: all_of("cluster-core"),
        needs: Needs::Nothing,
    },
    Suite {
        name: "guard",
        what: all_of("clusterd-guard"),
        needs: Needs::Cluster,
    },
    Suite {
        name: "shell",
        what: all_of("clusterd"),
        needs: Needs::Nothing,
    },
    Suite {
        name: "object store",
        what: all_of("cluster-backup"),
        needs: Needs::ObjectStore,
    },
    Suite {
        name: "tool",
        what: all_of("clusterctl"),
        needs: Needs::Nothing,
    },
    Suite {
        name: "documentation",
        what: What::Cargo(&["test", "--workspace", "--doc"]),
        needs: Needs::Nothing,
    },
    Suite {
        name: "tidy",
        what: tests(&["tidy"], &[]),
        needs: Needs::Nothing,
    },
    // They wait more than they compute.
    Suite {
        name: "postgres",
        what: tests(&["postgres"], &["--test-threads", "4"]),
        needs: Needs::Cluster,
    },
    // One at a time: each is a whole cluster with clocks that must be kept.
    Suite {
        name: "scenarios",
        what: tests(&["scenarios"], &["--test-threads", "1"]),
        needs: Needs::Cluster,
    },
    Suite {
        name: "upgrade",
        what: tests(&["upgrade"], &[]),
        needs: Needs::EarlierPrograms,
    },
];

/// The programs that clusters are made of.
const PROGRAMS: &[&str] = &[
    "clusterd",
    "clusterd-guard",
    "clusterctl",
    "clusterd-backup",
];

/// Everything CI runs. Ends with `N passed, N failed`.
pub fn test(only: Option<&str>) -> ExitCode {
    if let Err(error) = root::require().and_then(|()| setup::install_missing()) {
        eprintln!("xtask: {error:#}");
        return ExitCode::FAILURE;
    }
    // The scenarios start the built programs, which cargo builds for no test of another package.
    let mut build = cargo(&["build", "--workspace"]);
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    if let Err(error) = run(build) {
        eprintln!("xtask: {error:#}");
        println!("0 passed, 1 failed");
        return ExitCode::FAILURE;
    }
    run_suites(
        SUITES
            .iter()
            .filter(|suite| only.is_none_or(|text| suite.name.contains(text))),
    )
}

/// Whatever needs no cluster.
pub fn check() -> ExitCode {
    run_suites(SUITES.iter().filter(|suite| suite.needs == Needs::Nothing))
}

fn run_suites<'a>(suites: impl Iterator<Item = &'a Suite>) -> ExitCode {
    let mut outcomes: Vec<(&str, Outcome)> = Vec::new();
    let mut not_run: Vec<(&str, String)> = Vec::new();
    for suite in suites {
        match prepare(suite) {
            Ok(Prepared::Nothing) => {}
            Ok(Prepared::Command(command)) => outcomes.push((suite.name, count(command))),
            Ok(Prepared::NotPossible(why)) => not_run.push((suite.name, why)),
            Err(error) => {
                eprintln!("xtask: {error:#}");
                outcomes.push((suite.name, Outcome::failed()));
            }
        }
    }
    let mut all = Tally::default();
    println!();
    for line in outcomes.iter().flat_map(|(_, outcome)| &outcome.complaints) {
        println!("{line}");
    }
    for (name, outcome) in &outcomes {
        let word = if outcome.is_good { "ok" } else { "FAILED" };
        println!(
            "{name:<14} {word:<7} {:>5} passed {:>3} failed {:>7.1} s",
            outcome.tally.passed,
            outcome.tally.failed,
            outcome.took.as_secs_f64()
        );
        all.add(outcome.tally);
    }
    for (name, why) in &not_run {
        println!("{name:<14} NOT RUN: {why}");
    }
    println!("{} passed, {} failed", all.passed, all.failed);
    if all.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A suite, ready to run or not.
enum Prepared {
    Command(Command),
    /// This checkout does not have what it takes; the sentence is shown, and nothing is counted.
    NotPossible(String),
    /// The package has no tests of that kind.
    Nothing,
}

fn prepare(suite: &Suite) -> Result<Prepared> {
    let mut command = match suite.what {
        What::Cargo(arguments) => cargo(arguments),
        What::Tests {
            package,
            targets: [],
            arguments,
        } => match targets::of(package)? {
            all if all.is_empty() => return Ok(Prepared::Nothing),
            all => test_command(&all, arguments),
        },
        What::Tests {
            targets, arguments, ..
        } => test_command(targets, arguments),
    };
    match suite.needs {
        Needs::Nothing => return Ok(Prepared::Command(command)),
        Needs::ObjectStore => {
            command.env("MATRIARCH_OBJECT_STORE", setup::object_store());
            return Ok(Prepared::Command(command));
        }
        Needs::Cluster => {}
        Needs::EarlierPrograms => match previous::build()? {
            Previous::Built(folder) => {
                command.env("MATRIARCH_EARLIER_PROGRAMS", folder);
            }
            Previous::NotThere(why) => return Ok(Prepared::NotPossible(why)),
        },
    }
    root::run_tests_as_root(&mut command);
    Ok(Prepared::Command(command))
}

fn test_command(targets: &[impl AsRef<str>], arguments: &[&str]) -> Command {
    let mut command = cargo(&["test", "--workspace"]);
    for target in targets {
        command.args(["--test", target.as_ref()]);
    }
    command.arg("--").args(arguments);
    command
}

/// Formats, and applies what clippy can repair.
pub fn fix() -> Result<()> {
    run(cargo(&["fmt", "--all"]))?;
    run(cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))
}

/// The simulation: one schedule again, or many new ones.
pub fn simulate(wanted: &Simulate) -> Result<()> {
    let mut command = cargo(&["test", "--release", "-p", "cluster-core", "--test", "sim"]);
    command.args(["--", "campaign::campaign", "--exact"]);
    command.args(["--ignored", "--nocapture"]);
    command.env("SIM_MODE", &wanted.mode);
    command.env("SIM_FIRST", wanted.first.to_string());
    command.env("SIM_SCHEDULES", wanted.schedules.to_string());
    if let Some(seed) = wanted.seed {
        command.env("SIM_SEED", seed.to_string());
    }
    if let Some(threads) = wanted.threads {
        command.env("SIM_THREADS", threads.to_string());
    }
    run(command)
}

/// The demo, of the release build.
pub fn demo(kill_primary: bool, backup: bool, preset: &str) -> Result<()> {
    let mut arguments = vec!["--preset".to_owned(), preset.to_owned()];
    if kill_primary {
        arguments.push("--kill-primary".to_owned());
    }
    if backup {
        arguments.push("--backup".to_owned());
    }
    release_tool("demo", &arguments)
}

/// Builds the programs and one tool of ours in release, and runs the tool as root.
pub fn release_tool(tool: &str, arguments: &[String]) -> Result<()> {
    setup::install_missing()?;
    let mut build = cargo(&["build", "--release", "--workspace", "--bin", tool]);
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    run(build)?;
    let folder = crate::run::target_folder().join("release");
    let mut command: Command = root::command(&folder.join(tool).to_string_lossy());
    command
        .args(arguments)
        .current_dir(crate::run::repository());
    run(command)
}
