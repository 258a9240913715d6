//! A blocking client with a limit on every wait: for the lease thread, for starting a guard and for
//! tests. No runtime, one request at a time.
//!
//! After a time limit passed the connection is unusable (an answer may still be under way) and
//! every further call fails; the caller connects again.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::clock;
use crate::protocol::{
    Answer, Arm, Event, GuardLine, Hello, KillReport, LINE_LIMIT, Outcome, Refusal, Request,
    RequestLine, Status, VERSION,
};

/// Largest line accepted from a guard: answers list processes and tools.
const ANSWER_LIMIT: usize = 16 * LINE_LIMIT;

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens, or the socket may not be used.
    #[error("could not connect to the guard")]
    Connect(#[source] io::Error),
    /// The connection broke; what became of the request is not known.
    #[error("could not talk to the guard")]
    Talk(#[source] io::Error),
    /// No answer in time; what became of the request is not known.
    #[error("the guard did not answer within {limit:?}")]
    TimedOut {
        /// The limit given.
        limit: Duration,
    },
    /// An earlier call failed: connect again.
    #[error("the connection to the guard is broken")]
    Broken,
    /// The guard did nothing, for this reason.
    #[error("the guard refused")]
    Refused(#[source] Refusal),
    /// The answer is not one to this question.
    #[error("the guard answered something else: {0}")]
    Unexpected(String),
}

/// One connection.
#[derive(Debug)]
pub struct GuardConnection {
    stream: UnixStream,
    limit: Duration,
    next_id: u64,
    input: Vec<u8>,
    events: Vec<Event>,
    is_broken: bool,
}

impl GuardConnection {
    /// Connects; `limit` bounds each later call.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, Error> {
        let stream = UnixStream::connect(path).map_err(Error::Connect)?;
        Ok(Self {
            stream,
            limit,
            next_id: 1,
            input: Vec::new(),
            events: Vec::new(),
            is_broken: false,
        })
    }

    /// Who the guard is; also checks the version.
    ///
    /// # Errors
    /// See `Error`.
    pub fn hello(&mut self) -> Result<Hello, Error> {
        match self.call(Request::Hello { version: VERSION })? {
            Answer::Hello(hello) => Ok(*hello),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets or extends the deadline; answers the one in force.
    ///
    /// # Errors
    /// See `Error`.
    pub fn arm(&mut self, arm: Arm) -> Result<Arm, Error> {
        match self.call(Request::Arm(arm))? {
            Answer::Armed(armed) => Ok(armed),
            other => Err(unexpected(&other)),
        }
    }

    /// Everything as it is now.
    ///
    /// # Errors
    /// See `Error`.
    pub fn status(&mut self) -> Result<Status, Error> {
        match self.call(Request::Status)? {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Kills everything and waits for the verification.
    ///
    /// # Errors
    /// See `Error`; after `TimedOut` the kill goes on.
    pub fn kill(&mut self, reason: &str) -> Result<KillReport, Error> {
        match self.call(Request::Kill {
            reason: reason.to_owned(),
        })? {
            Answer::Killed(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    /// Any request.
    ///
    /// # Errors
    /// See `Error`.
    pub fn call(&mut self, request: Request) -> Result<Answer, Error> {
        if self.is_broken {
            return Err(Error::Broken);
        }
        let id = self.next_id;
        self.next_id += 1;
        let end = clock::boottime() + self.limit;
        let outcome = self.exchange(&RequestLine { id, request }, end);
        self.is_broken = outcome.is_err();
        match outcome? {
            Outcome::Done(answer) => Ok(answer),
            Outcome::Refused(refusal) => Err(Error::Refused(refusal)),
        }
    }

    /// Events that came with answers since the last time (after `Request::Subscribe`).
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// See `Error`.
    pub fn next_event(&mut self, limit: Duration) -> Result<Event, Error> {
        if !self.events.is_empty() {
            return Ok(self.events.remove(0));
        }
        match self.read_line(clock::boottime() + limit)? {
            GuardLine::Event(event) => Ok(event),
            GuardLine::Answer { .. } => Err(Error::Unexpected("an answer".to_owned())),
        }
    }

    fn exchange(&mut self, line: &RequestLine, end: Duration) -> Result<Outcome, Error> {
        let mut text = serde_json::to_vec(line).map_err(|error| Error::Talk(error.into()))?;
        text.push(b'\n');
        self.stream
            .set_write_timeout(Some(self.left(end)?))
            .map_err(Error::Talk)?;
        self.stream
            .write_all(&text)
            .map_err(|error| self.failure(error))?;
        loop {
            match self.read_line(end)? {
                GuardLine::Answer { id, outcome } if id == Some(line.id) || id.is_none() => {
                    return Ok(outcome);
                }
                GuardLine::Answer { id, .. } => {
                    return Err(Error::Unexpected(format!("to request {id:?}")));
                }
                GuardLine::Event(event) => self.events.push(event),
            }
        }
    }

    fn read_line(&mut self, end: Duration) -> Result<GuardLine, Error> {
        loop {
            if let Some(length) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=length).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| Error::Unexpected(error.to_string()));
            }
            if self.input.len() > ANSWER_LIMIT {
                return Err(Error::Unexpected("a line without end".to_owned()));
            }
            self.stream
                .set_read_timeout(Some(self.left(end)?))
                .map_err(Error::Talk)?;
            let mut buffer = [0; 8 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Error::Talk(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(error)),
            }
        }
    }

    fn left(&self, end: Duration) -> Result<Duration, Error> {
        match end.checked_sub(clock::boottime()) {
            Some(left) if !left.is_zero() => Ok(left),
            Some(_) | None => Err(Error::TimedOut { limit: self.limit }),
        }
    }

    fn failure(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Error::TimedOut { limit: self.limit }
            }
            _ => Error::Talk(error),
        }
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::Unexpected(format!("{answer:?}"))
}
