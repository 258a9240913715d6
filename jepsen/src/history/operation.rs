//! Events in pairs: what was begun, with what became of it.

use std::collections::HashMap;

use super::{Edn, Event, Kind, Process};

/// An operation from its beginning to what became of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which client.
    pub process: i64,
    /// What kind of operation.
    pub f: String,
    /// Its arguments; if it is `ok`, with what was read.
    pub value: Edn,
    /// Never `Invoke`; `Info` also for one without a second event.
    pub kind: Kind,
    /// Begun, nanoseconds on the harness's clock.
    pub invoked: u64,
    /// Over. One that nobody knows the end of has none.
    pub completed: Option<u64>,
    /// Other facts of its last event.
    pub more: Vec<(String, Edn)>,
}

impl Operation {
    /// What it has under a name.
    pub fn get(&self, name: &str) -> Option<&Edn> {
        let found = self.more.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    /// For evidence: who, what, when in seconds.
    pub fn told(&self) -> String {
        let seconds =
            |time: u64| format!("{:.6}", std::time::Duration::from_nanos(time).as_secs_f64());
        let end = self.completed.map_or("?".to_owned(), seconds);
        let node = self
            .get("node")
            .map_or(String::new(), |it| format!(" on {it}"));
        format!(
            "process {} :{} :{} {} [{} s, {end} s]{node}",
            self.process,
            self.kind.word(),
            self.f,
            self.value,
            seconds(self.invoked)
        )
    }
}

/// All operations of clients, in order of their beginning.
pub fn operations(events: &[Event]) -> Vec<Operation> {
    let mut all: Vec<Operation> = Vec::new();
    let mut under_way: HashMap<i64, usize> = HashMap::new();
    for event in events {
        let Process::Client(process) = event.process else {
            continue;
        };
        if event.kind == Kind::Invoke {
            under_way.insert(process, all.len());
            all.push(Operation {
                process,
                f: event.f.clone(),
                value: event.value.clone(),
                kind: Kind::Info,
                invoked: event.time,
                completed: None,
                more: event.more.clone(),
            });
        } else if let Some(place) = under_way.remove(&process) {
            let operation = &mut all[place];
            operation.kind = event.kind;
            operation.more.clone_from(&event.more);
            if event.kind == Kind::Ok {
                operation.value = event.value.clone();
            }
            if event.kind != Kind::Info {
                operation.completed = Some(event.time);
            }
        }
    }
    all
}
