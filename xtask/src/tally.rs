//! Counting tests: runs one suite, shows its output as it comes, and reads libtest's closing lines.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::show;

/// Passed and failed tests of one or more suites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed; a suite that did not even build counts as one.
    pub failed: u64,
}

impl Tally {
    /// Both together.
    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Reads `test result: ok. 3 passed; 0 failed; …`.
    fn of_line(line: &str) -> Option<Tally> {
        let rest = line.trim().strip_prefix("test result: ")?;
        let number_before = |word: &str| {
            let place = rest.find(word)?;
            rest[..place]
                .trim_end()
                .rsplit(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        };
        Some(Tally {
            passed: number_before(" passed")?,
            failed: number_before(" failed")?,
        })
    }
}

/// How one suite went.
pub struct Outcome {
    /// What was counted.
    pub tally: Tally,
    /// How long it took.
    pub took: Duration,
    /// Whether the program itself ended well.
    pub is_good: bool,
    /// What the failed tests said, a line each.
    pub complaints: Vec<String>,
}

/// Picks from a test program's output what each failed test said in the end.
#[derive(Debug, Default)]
struct Complaints {
    of: Option<String>,
    lines: Vec<String>,
    /// How many lines after this one belong to it: the causes, or a panic's message.
    more: usize,
}

/// Lines kept of one complaint.
const COMPLAINT_LINES: usize = 8;

impl Complaints {
    fn hear(&mut self, line: &str) {
        let header = line.strip_prefix("---- ");
        if let Some(name) = header.and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.of = Some(name.to_owned());
            self.more = 0;
        } else if line.starts_with("Error: ")
            || line.contains("' panicked at ")
            || line.contains(") panicked at ")
        {
            let name = self.of.as_deref().unwrap_or("?");
            self.lines.push(format!("{name}: {line}"));
            self.more = COMPLAINT_LINES;
        } else if self.more > 0 && !line.trim().is_empty() {
            self.more -= 1;
            self.lines.push(format!("    {line}"));
        }
    }
}

impl Outcome {
    /// Of a suite that could not even begin.
    pub fn failed() -> Self {
        Self {
            tally: Tally {
                passed: 0,
                failed: 1,
            },
            took: Duration::ZERO,
            is_good: false,
            complaints: Vec::new(),
        }
    }
}

/// Runs a suite and counts.
pub fn count(mut command: Command) -> Outcome {
    let started = Instant::now();
    println!("xtask: {}", show(&command));
    let mut tally = Tally::default();
    let mut complaints = Complaints::default();
    // A failed scenario says what it saw; where in the harness that was is noise.
    command.env("RUST_BACKTRACE", "0");
    let is_good = match command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn() {
        Ok(mut child) => {
            if let Some(output) = child.stdout.take() {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line);
                    println!("{line}");
                    complaints.hear(&line);
                    tally.add(Tally::of_line(&line).unwrap_or_default());
                }
            }
            child.wait().is_ok_and(|status| status.success())
        }
        Err(error) => {
            eprintln!("xtask: could not start it: {error}");
            false
        }
    };
    if !is_good && tally.failed == 0 {
        tally.failed = 1;
    }
    Outcome {
        tally,
        took: started.elapsed(),
        is_good,
        complaints: complaints.lines,
    }
}

#[cfg(test)]
mod tests {
    use super::{Complaints, Tally};

    #[test]
    fn what_a_failed_test_said_is_kept_without_its_logs() {
        let mut complaints = Complaints::default();
        let said = "---- a::b stdout ----\n2026 INFO noise\nError: m1: SELECT 1\n\nCaused by:\n    refused\n\n\
                    ---- c stdout ----\n\nthread 'c' (7) panicked at x.rs:3:5:\nno\nnote: run\n";
        said.split('\n').for_each(|line| complaints.hear(line));
        assert_eq!(complaints.lines[0], "a::b: Error: m1: SELECT 1");
        assert_eq!(complaints.lines[2], "        refused");
        assert_eq!(
            complaints.lines[3],
            "c: thread 'c' (7) panicked at x.rs:3:5:"
        );
        assert_eq!(complaints.lines[4], "    no");
    }

    #[test]
    fn closing_line_is_counted() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(
            Tally::of_line(line),
            Some(Tally {
                passed: 12,
                failed: 3
            })
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Tally::of_line("12 passed, 3 failed"), None);
    }
}
