//! The kernel's or the hardware's watchdog: resets the host if even the guard cannot run.
//!
//! Opened by the first lease, fed by each deadline that moves forward and by nothing else, closed
//! in order (magic close `V`) only when the process set is verified empty [hazards C7]. So the
//! reset comes one device timeout after the last renewal at the latest: the timeout must be below
//! the lease's length.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::libc;

use crate::log_line;
use crate::protocol::Granted;
use crate::sys;

/// The device, open only while there is a lease.
#[derive(Debug)]
pub struct Watchdog {
    path: Option<PathBuf>,
    timeout_seconds: i32,
    device: Option<File>,
    problem: Option<String>,
}

impl Watchdog {
    /// Opens nothing yet.
    pub fn new(path: Option<PathBuf>, timeout_seconds: i32) -> Self {
        let problem = path
            .as_ref()
            .filter(|path| !path.exists())
            .map(|path| format!("{} does not exist", path.display()));
        Self {
            path,
            timeout_seconds,
            device: None,
            problem,
        }
    }

    /// What clients are told.
    pub fn granted(&self) -> Granted {
        match (&self.path, &self.problem) {
            (None, _) => Granted::NotWanted,
            (Some(_), None) => Granted::Yes,
            (Some(_), Some(problem)) => Granted::No(problem.clone()),
        }
    }

    /// The lease was extended.
    pub fn feed(&mut self) {
        let Some(path) = &self.path else { return };
        if self.device.is_none() {
            let opened = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path);
            match opened {
                Ok(device) => self.device = Some(self.prepared(device)),
                Err(error) => return self.note(format!("could not open it: {error}")),
            }
        }
        if let Some(device) = &mut self.device {
            match device.write_all(b"\0") {
                Ok(()) => self.problem = None,
                Err(error) => self.note(format!("could not feed it: {error}")),
            }
        }
    }

    /// Nobody is left who could accept a write.
    pub fn disarm(&mut self) {
        if let Some(mut device) = self.device.take()
            && let Err(error) = device.write_all(b"V")
        {
            self.note(format!("could not close it in order: {error}"));
        }
    }

    fn prepared(&self, device: File) -> File {
        if self.timeout_seconds > 0
            && !sys::set_watchdog_timeout(device.as_fd(), self.timeout_seconds)
        {
            log_line!("watchdog: the device kept its own timeout");
        }
        device
    }

    /// Logged when it changes: feeding happens many times a second.
    fn note(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            log_line!("watchdog: {problem}");
            self.problem = Some(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_opened_by_the_first_feed_and_closed_in_order() {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let path = directory.path().join("watchdog");
        std::fs::write(&path, "").expect("a fake device");
        let mut watchdog = Watchdog::new(Some(path.clone()), 0);
        let fed = || std::fs::read(&path).expect("the fake device");
        watchdog.disarm();
        assert_eq!(fed(), b"");
        watchdog.feed();
        watchdog.feed();
        assert_eq!(fed(), b"\0\0");
        watchdog.disarm();
        assert_eq!(fed(), b"\0\0V");
        assert_eq!(watchdog.granted(), Granted::Yes);
    }

    #[test]
    fn a_device_that_is_not_there_is_said() {
        let mut watchdog = Watchdog::new(Some("/no/such/device".into()), 0);
        assert!(matches!(watchdog.granted(), Granted::No(_)));
        watchdog.feed();
        assert!(matches!(watchdog.granted(), Granted::No(_)));
    }
}
