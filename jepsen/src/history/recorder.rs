//! Records events in the order they happen, and gives out numbers of processes.

use std::sync::{Mutex, MutexGuard};

use cluster_tests::writer::clock;

use super::{Edn, Event, Kind, Process};

/// The history of one workload while it grows.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    events: Vec<Event>,
    processes: i64,
}

/// An operation that was begun and has to be ended.
#[derive(Debug)]
pub struct Ticket {
    process: i64,
    f: &'static str,
    value: Edn,
}

impl Recorder {
    /// The number of a new client. One whose operation ended as `info` needs another number.
    pub fn process(&self) -> i64 {
        let mut recorded = self.lock();
        recorded.processes += 1;
        recorded.processes - 1
    }

    /// Before the first byte is sent.
    pub fn invoke(&self, process: i64, f: &'static str, value: Edn) -> Ticket {
        self.push(process, Kind::Invoke, f, value.clone(), Vec::new());
        Ticket { process, f, value }
    }

    /// After the last byte is read. `answer` is none where nothing was read.
    pub fn complete(
        &self,
        ticket: Ticket,
        kind: Kind,
        answer: Option<Edn>,
        more: Vec<(String, Edn)>,
    ) {
        let value = answer.unwrap_or(ticket.value);
        self.push(ticket.process, kind, ticket.f, value, more);
    }

    /// Number of operations that took effect.
    pub fn count_ok(&self) -> usize {
        let recorded = self.lock();
        let is_ok = |event: &&Event| event.kind == Kind::Ok;
        recorded.events.iter().filter(is_ok).count()
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    fn push(&self, process: i64, kind: Kind, f: &str, value: Edn, more: Vec<(String, Edn)>) {
        // The clock is read under the lock: order in the file is order in time.
        let mut recorded = self.lock();
        let time = u64::try_from(clock().as_nanos()).unwrap_or(u64::MAX);
        recorded.events.push(Event {
            time,
            kind,
            process: Process::Client(process),
            f: f.to_owned(),
            value,
            more,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().expect("nobody panics while it records")
    }
}
