//! The guard's binary: arguments, start, serve, end.
//!
//! Exit codes: 0 ended by SIGTERM with nobody left, 1 could not start, 2 bad arguments.

use std::error::Error as _;
use std::process::ExitCode;

use clusterd_guard::{arguments, log_line, startup, sys};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(startup::WAIT_TO_BE_KILLED) {
        loop {
            std::thread::park();
        }
    }
    if let Err(error) = sys::close_inherited() {
        log_line!("could not close inherited descriptors: {error}");
    }
    let arguments = match arguments::read() {
        Ok(arguments) => arguments,
        Err(problems) => {
            for problem in problems {
                eprintln!("clusterd-guard: {problem}");
            }
            return ExitCode::from(2);
        }
    };
    let (mut guard, server) = match startup::start(arguments) {
        Ok(parts) => parts,
        Err(error) => {
            let cause = error
                .source()
                .map(|it| format!(": {it}"))
                .unwrap_or_default();
            log_line!("could not start: {error}{cause}");
            return ExitCode::FAILURE;
        }
    };
    startup::notify_ready();
    log_line!("serving");
    guard.run(server);
    guard.close();
    ExitCode::SUCCESS
}
