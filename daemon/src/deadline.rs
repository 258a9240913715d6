//! The lease thread's own connection to the guard: arm, stop, ask what is armed. Blocking, bounded,
//! and reconnecting by itself; it shares nothing with the runtime.

use std::path::PathBuf;
use std::time::Duration;

use cluster_core::model::Epoch;
use cluster_core::model::lease::Moment;
use clusterd_guard::clock::nanoseconds;
use clusterd_guard::protocol::{Arm, RefusalCode, Request, Status, StopMode};

use crate::guard_client::{ConnectionError, GuardConnection};
use crate::lease::DeadlineGuard;

/// The lease thread waits no longer than this for the guard, so that renewals go on.
const LIMIT: Duration = Duration::from_millis(100);

/// A connection that is made when needed.
pub struct GuardDeadline {
    socket: PathBuf,
    connection: Option<GuardConnection>,
    /// The set that took the last deadline.
    set_id: Option<u64>,
}

impl GuardDeadline {
    /// Names the socket; connects at the first use.
    pub fn new(socket: PathBuf) -> GuardDeadline {
        GuardDeadline {
            socket,
            connection: None,
            set_id: None,
        }
    }

    fn ask<T>(
        &mut self,
        call: impl FnOnce(&mut GuardConnection) -> Result<T, ConnectionError>,
    ) -> Result<T, ConnectionError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => GuardConnection::connect(&self.socket, LIMIT)?,
        };
        let answer = call(&mut connection);
        // Only a connection that is in step is kept.
        if matches!(answer, Ok(_) | Err(ConnectionError::Refused(_))) {
            self.connection = Some(connection);
        }
        answer
    }

    fn status(&mut self) -> Result<Status, ConnectionError> {
        self.ask(GuardConnection::status)
    }

    fn running_set(&mut self) -> Result<Option<u64>, String> {
        let status = self.status().map_err(|error| error.to_string())?;
        Ok(status
            .set
            .filter(|set| set.postmaster.is_some())
            .map(|set| set.set_id))
    }
}

impl DeadlineGuard for GuardDeadline {
    fn arm(&mut self, epoch: Epoch, valid_until: Moment, kill_at: Moment) -> Result<(), String> {
        let mut is_second = false;
        loop {
            let set_id = match self.set_id {
                Some(set_id) => set_id,
                None => match self.running_set()? {
                    Some(set_id) => *self.set_id.insert(set_id),
                    // Nothing runs, so there is nothing to kill.
                    None => return Ok(()),
                },
            };
            let arm = Arm {
                set_id,
                epoch: epoch.0,
                valid_until_ns: nanoseconds(valid_until.0),
                kill_at_ns: nanoseconds(kill_at.0),
            };
            match self.ask(|connection| connection.arm(arm)) {
                Ok(_) => return Ok(()),
                Err(ConnectionError::Refused(refusal))
                    if !is_second
                        && matches!(
                            refusal.code,
                            RefusalCode::NoSuchSet | RefusalCode::NoPostmaster
                        ) =>
                {
                    self.set_id = None;
                    is_second = true;
                }
                Err(error) => {
                    self.set_id = None;
                    return Err(chain(&error));
                }
            }
        }
    }

    fn stop_now(&mut self) -> Result<(), String> {
        let Some(set_id) = self.running_set()? else {
            return Ok(());
        };
        let stop = Request::Stop {
            set_id,
            mode: StopMode::Immediate,
        };
        self.ask(|connection| connection.call(stop))
            .map(|_| ())
            .map_err(|error| chain(&error))
    }

    fn armed(&mut self) -> Option<(Epoch, Moment)> {
        let armed = self.status().ok()?.set?.armed?;
        let until = Moment(Duration::from_nanos(armed.valid_until_ns));
        Some((Epoch(armed.epoch), until))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
