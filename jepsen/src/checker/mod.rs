//! Judges histories, one property a file. All but the comparison of members are pure functions from
//! operations to a [`Verdict`].

mod append;
mod bank;
mod ddl;
mod monotonic;
mod no_lost_write;
mod one_primary;
#[cfg(test)]
mod recorded;
mod register;
mod same_everywhere;
mod sequential;
mod set_full;
mod verdict;

use anyhow::Result;
use clap::ValueEnum;
use cluster_tests::{Cluster, History};

use crate::history::{Event, operations};
use crate::nemesis::{Blow, Fault};
use crate::report::Report;
use crate::workload::{ACCOUNTS, BALANCE, Isolation};

use one_primary::ClientCut;
use set_full::Vanishing;

pub use monotonic::Staleness;
pub use verdict::{Finding, Verdict};

/// A durability mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A failover may lose the newest rows.
    Async,
    /// Nothing acknowledged is lost.
    Sync,
    /// The same, and writes wait rather than go on alone.
    Strict,
}

impl Mode {
    /// As settings have it.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Async => "async",
            Mode::Sync => "sync",
            Mode::Strict => "strict",
        }
    }
}

/// What the set's writers recorded and what members have, by what a mode promises.
///
/// # Errors
/// A member could not be read.
pub fn judge_members(
    mode: Mode,
    cluster: &Cluster,
    primary: usize,
    history: &History,
    report: &mut Report,
) -> Result<()> {
    let (verdict, overlap) = one_primary::check(history, &cuts(cluster, report.blows()));
    report.add(verdict);
    report.overlap = overlap;
    let found = cluster.compare(primary, history)?;
    let missing = found.missing.iter().map(|(_, rows)| rows.len());
    report.missing = missing.max().unwrap_or_default();
    report.add(no_lost_write::check(mode, history, &found));
    report.add(same_everywhere::check(&found));
    Ok(())
}

/// When clients did not reach a server.
fn cuts(cluster: &Cluster, blows: &[Blow]) -> Vec<ClientCut> {
    let is_cut = |blow: &&Blow| blow.fault == Fault::CutAll;
    let found = blows.iter().filter(is_cut).filter_map(|blow| {
        let member = cluster.members.iter().find(|it| it.name == blow.member)?;
        Some(ClientCut {
            server: member.host.address.clone(),
            from: blow.at,
            to: blow.at + blow.lasted,
        })
    });
    found.collect()
}

/// A recorded history, by the name of its workload; none if no checker is made for it.
pub fn judge_history(name: &str, events: &[Event], staleness: &Staleness) -> Option<Verdict> {
    let operations = operations(events);
    let level = Isolation::ALL
        .into_iter()
        .find(|level| name == format!("append-{}", level.word()));
    match (level, name) {
        (Some(level), _) => Some(append::check(&operations, level)),
        (_, "register") => Some(register::check(&operations, register::STEPS)),
        (_, "bank") => Some(bank::check(&operations, ACCOUNTS * BALANCE)),
        (_, "monotonic") => Some(monotonic::check(&operations, staleness)),
        (_, "set-full") => Some(set_full::check(&operations, name, Vanishing::Never)),
        (_, "cancel") => Some(set_full::check(&operations, name, Vanishing::OfUnknown)),
        (_, "sequential") => Some(sequential::check(&operations)),
        (_, "ddl") => Some(ddl::check(&operations)),
        _ => None,
    }
}

/// What `async` does not promise: a failover may lose the newest of what was acknowledged. The total of a
/// bank stays in every mode, and no session goes back.
pub fn is_forgiven(mode: Mode, name: &str, reigns: usize) -> bool {
    let lossy = ["register", "set-full", "cancel", "sequential", "ddl"];
    let is_about_loss = name.starts_with("append") || lossy.contains(&name);
    mode == Mode::Async && reigns > 1 && is_about_loss
}

#[cfg(test)]
mod tests {
    use crate::history::{Edn, Event, Kind, Operation, Process, operations};

    /// A history by hand: events `process type f value`, with ` / ` between them, a millisecond apart.
    pub fn history(text: &str) -> Vec<Operation> {
        let kind = |word: &str| {
            let all = [Kind::Invoke, Kind::Ok, Kind::Fail, Kind::Info];
            all.into_iter().find(|kind| kind.word() == word)
        };
        let lines = text.split(" / ").map(str::trim).filter(|it| !it.is_empty());
        let event = |(place, line): (usize, &str)| {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            Event {
                time: place as u64 * 1_000_000,
                kind: kind(words[1]).expect("a type"),
                process: Process::Client(words[0].parse().expect("a process")),
                f: words[2].to_owned(),
                value: Edn::parse(words[3]).expect("a value"),
                more: Vec::new(),
            }
        };
        operations(&lines.enumerate().map(event).collect::<Vec<_>>())
    }
}
