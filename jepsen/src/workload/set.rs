//! Set: each row is inserted once and must be there at the end. Writers follow the primary, one
//! more is bound to each member and never gives a statement up, so that a second primary is seen.

use std::time::Duration;

use anyhow::Result;
use cluster_tests::writer::Row;
use cluster_tests::{Cluster, History, Writers};

use crate::history::{Edn, Event, Kind, Process};

/// The writers.
pub struct Set {
    following: Writers,
    bound: Vec<Writers>,
}

impl Set {
    /// Starts them, so many following the primary.
    pub fn start(cluster: &Cluster, writers: u32) -> Result<Self> {
        let following = cluster.start_writers(writers)?;
        let places = 0..cluster.members.len();
        let bound = places
            .map(|member| cluster.faithful_writers(member, 1))
            .collect();
        Ok(Self { following, bound })
    }

    /// Rows acknowledged to the following writers.
    pub fn count(&self) -> usize {
        self.following.count()
    }

    /// The newest row acknowledged to a following writer later than `since`.
    pub fn newest_after(&self, since: Duration) -> Option<Row> {
        self.following.newest_after(since)
    }

    /// Ends them.
    pub fn stop(self) -> History {
        let mut history = self.following.stop();
        for bound in self.bound {
            history.merge(bound.stop());
        }
        history
    }
}

/// What writers recorded, as events. A row that was refused was never there, and is left out.
pub fn events(history: &History) -> Vec<Event> {
    // A number of row and writer as one; a writer's process is retired with each row of unknown end.
    const ROWS: i64 = 1_000_000_000;
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let unknown: Vec<(&(u32, i64), &Duration)> = history.unknown.iter().collect();
    let process = |writer: u32, number: i64| {
        let before = unknown.iter();
        let retired = before.filter(|((of, row), _)| *of == writer && *row < number);
        i64::from(writer) + 10_000 * i64::try_from(retired.count()).unwrap_or(0)
    };
    let value = |writer: u32, number: i64| Edn::Integer(i64::from(writer) * ROWS + number);
    let event = |time, kind, process, value, more| Event {
        time: nanoseconds(time),
        kind,
        process: Process::Client(process),
        f: "add".to_owned(),
        value,
        more,
    };
    let mut all = Vec::new();
    for row in &history.rows {
        let (process, value) = (
            process(row.writer, row.number),
            value(row.writer, row.number),
        );
        let facts = vec![
            ("node".to_owned(), Edn::Text(row.server.clone())),
            ("tli".to_owned(), Edn::Integer(i64::from(row.timeline))),
        ];
        all.push(event(
            row.invoked,
            Kind::Invoke,
            process,
            value.clone(),
            Vec::new(),
        ));
        all.push(event(row.acknowledged, Kind::Ok, process, value, facts));
    }
    for ((writer, number), invoked) in &history.unknown {
        let value = value(*writer, *number);
        let process = process(*writer, *number);
        all.push(event(*invoked, Kind::Invoke, process, value, Vec::new()));
    }
    all.sort_by_key(|event| (event.time, event.kind != Kind::Invoke));
    all
}
