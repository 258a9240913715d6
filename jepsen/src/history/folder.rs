//! A run's folder: one history a workload, what the nemesis did, both together, and the verdicts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Edn, Event};

/// Where a run is written.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes the histories of clients (`history-NAME.edn`, for elle-cli), `nemesis.edn`, and `full.edn` in
    /// which events have their workload's name and processes of different workloads different numbers.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_histories(
        &self,
        histories: &[(String, Vec<Event>)],
        nemesis: &[Event],
    ) -> Result<()> {
        let mut all: Vec<Event> = nemesis.to_vec();
        let mut first = 0;
        for (name, events) in histories {
            self.write(&format!("history-{name}.edn"), &lines(events))?;
            let mut next = first;
            for event in events {
                let mut event = event.clone();
                if let super::Process::Client(number) = &mut event.process {
                    *number += first;
                    next = next.max(*number + 1);
                }
                event.more.push(("workload".to_owned(), Edn::keyword(name)));
                all.push(event);
            }
            first = next;
        }
        all.sort_by_key(|event| event.time);
        self.write("nemesis.edn", &lines(nemesis))?;
        self.write("full.edn", &lines(&all))
    }

    /// Writes a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

fn lines(events: &[Event]) -> String {
    let lines = events.iter().enumerate();
    lines
        .map(|(index, event)| event.line(index) + "\n")
        .collect()
}
