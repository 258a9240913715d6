//! What is done while things break. The set's writers always write: they are how two primaries and
//! outages are seen. The others run beside them as chosen.

mod append;
mod bank;
mod crew;
mod ddl;
mod monotonic;
mod register;
mod sequential;
mod set;
mod set_full;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use cluster_tests::writer::Row;
use cluster_tests::{Cluster, History};

pub use append::Isolation;
pub use bank::{ACCOUNTS, BALANCE};

use crate::history::Event;
use append::Append;
use bank::Bank;
use crew::Crew;
use ddl::Ddl;
use monotonic::{Follow, Raise};
use register::Register;
use sequential::Chains;
use set::Set;
use set_full::SetFull;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Only numbered rows.
    Set,
    /// Lists that grow, in transactions, at three isolation levels.
    Append,
    /// Reads, writes and compare-and-set of single values.
    Register,
    /// Transfers; the total stays.
    Bank,
    /// A number that only grows, read on every member.
    Monotonic,
    /// Sets read all the time: there at once, and never gone.
    SetFull,
    /// Writes that follow each other: whoever sees one sees those before it.
    Sequential,
    /// Sets whose clients cancel their statements.
    Cancel,
    /// Tables made, changed and dropped.
    Ddl,
    /// All of them.
    All,
}

/// Clients at work.
pub struct Workloads {
    set: Set,
    crews: Vec<Crew>,
}

/// What they recorded.
pub struct Recorded {
    /// Of the set's writers.
    pub set: History,
    /// Of each workload, by name.
    pub histories: Vec<(String, Vec<Event>)>,
}

impl Workloads {
    /// Makes tables and starts clients.
    ///
    /// # Errors
    /// There is no primary to make tables on.
    pub fn start(cluster: &Cluster, choice: Choice, seed: u64) -> Result<Self> {
        let is_chosen = |it: Choice| choice == it || choice == Choice::All;
        let mut all: Vec<Crew> = Vec::new();
        if is_chosen(Choice::Append) {
            for isolation in Isolation::ALL {
                let name = format!("append-{}", isolation.word());
                let work = Arc::new(Append::new(isolation));
                all.push(Crew::start(cluster, &name, work, 3, seed)?);
            }
        }
        if is_chosen(Choice::Register) {
            let work = Arc::new(Register::default());
            all.push(Crew::start(cluster, "register", work, 4, seed)?);
        }
        if is_chosen(Choice::Bank) {
            let mut crew = Crew::start(cluster, "bank", Arc::new(Bank), 3, seed)?;
            crew.add_on_each(cluster, Arc::new(bank::Totals), seed);
            all.push(crew);
        }
        if is_chosen(Choice::Monotonic) {
            let mut crew = Crew::start(cluster, "monotonic", Arc::new(Raise::default()), 1, seed)?;
            crew.add_on_each(cluster, Arc::new(Follow), seed);
            all.push(crew);
        }
        if is_chosen(Choice::SetFull) {
            let work = Arc::new(SetFull::new());
            all.push(Crew::start(cluster, "set-full", work, 3, seed)?);
        }
        if is_chosen(Choice::Sequential) {
            let work = Arc::new(Chains::default());
            let look = Arc::new(work.look());
            let mut crew = Crew::start(cluster, "sequential", work, 2, seed)?;
            crew.add_on_each(cluster, look, seed);
            all.push(crew);
        }
        if is_chosen(Choice::Cancel) {
            let work = Arc::new(SetFull::cancelled());
            all.push(Crew::start(cluster, "cancel", work, 3, seed)?);
        }
        if is_chosen(Choice::Ddl) {
            all.push(Crew::start(
                cluster,
                "ddl",
                Arc::new(Ddl::default()),
                2,
                seed,
            )?);
        }
        let set = Set::start(cluster, if all.is_empty() { 8 } else { 3 })?;
        Ok(Self { set, crews: all })
    }

    /// Least number of operations that took effect, over all workloads but the set.
    pub fn least_ok(&self) -> Option<usize> {
        self.crews.iter().map(Crew::count_ok).min()
    }

    /// Rows acknowledged to the following writers of the set.
    pub fn count(&self) -> usize {
        self.set.count()
    }

    /// The newest row acknowledged to a following writer of the set later than `since`.
    pub fn newest_after(&self, since: Duration) -> Option<Row> {
        self.set.newest_after(since)
    }

    /// Ends all clients; then, if the cluster is well, reads everything on every member.
    ///
    /// # Errors
    /// Members did not become level, so that final reads would mean nothing.
    pub fn stop(self, cluster: &Cluster, primary: Option<usize>) -> Result<Recorded> {
        self.crews.iter().for_each(Crew::end);
        let set = self.set.stop();
        if let Some(primary) = primary {
            cluster.wait_level(primary, cluster_tests::PATIENCE)?;
            for crew in &self.crews {
                crew.read_all(cluster)?;
            }
        }
        let recorded = self.crews.into_iter().map(Crew::into_history);
        let mut histories = vec![("set".to_owned(), set::events(&set))];
        histories.extend(recorded);
        Ok(Recorded { set, histories })
    }
}
