//! The socket: who may connect, lines in, lines out. Nothing here waits, and nothing here knows
//! what a request means.
//!
//! A client that does not read is dropped when its output grows too large; a line that is too long
//! or no request is answered with an error and the connection is kept.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt::socket_peercred;

use crate::log_line;
use crate::privileges::Account;
use crate::protocol::{Event, GuardLine, LINE_LIMIT, RequestLine};

/// Names one connection; never used twice.
pub type ClientId = u64;

/// Connections beyond this are closed at once.
const MOST_CLIENTS: usize = 64;

/// A client that lets this much pile up is dropped.
const OUTPUT_LIMIT: usize = 1024 * 1024;

/// Pause after a failed accept; far below K_hard, which it may delay.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);

/// What a client sent.
#[derive(Debug)]
pub struct Received {
    /// Who.
    pub client: ClientId,
    /// A request, or what is wrong with the line.
    pub line: Result<RequestLine, String>,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    input: Vec<u8>,
    /// The rest of a line that was too long is being skipped.
    is_skipping: bool,
    output: Vec<u8>,
    is_subscribed: bool,
    is_gone: bool,
}

/// The listening socket and its clients.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
    next_id: ClientId,
    allowed: Vec<u32>,
}

impl Server {
    /// Replaces a left-over socket; the caller holds the lock that makes this safe.
    ///
    /// # Errors
    /// The socket could not be made or given to its owner.
    pub fn listen(path: &Path, owner: &Account) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
        listener.set_nonblocking(true)?;
        let allowed = vec![
            0,
            owner.uid.as_raw(),
            nix::unistd::Uid::effective().as_raw(),
        ];
        Ok(Self {
            listener,
            clients: Vec::new(),
            next_id: 1,
            allowed,
        })
    }

    /// What to wait for.
    pub fn watch<'a>(&'a self, list: &mut Vec<PollFd<'a>>) {
        list.push(PollFd::from_borrowed_fd(
            self.listener.as_fd(),
            PollFlags::IN,
        ));
        for client in &self.clients {
            let mut wanted = PollFlags::IN;
            if !client.output.is_empty() {
                wanted |= PollFlags::OUT;
            }
            list.push(PollFd::from_borrowed_fd(client.stream.as_fd(), wanted));
        }
    }

    /// Accepts, reads and writes whatever is possible now.
    pub fn turn(&mut self) -> Vec<Received> {
        self.accept();
        let mut received = Vec::new();
        for client in &mut self.clients {
            client.flush();
            client.read(&mut received);
        }
        self.clients.retain(|client| !client.is_gone);
        received
    }

    /// Queues a line for one client, if it is still there.
    pub fn send(&mut self, client: ClientId, line: &GuardLine) {
        if let Some(client) = self.clients.iter_mut().find(|it| it.id == client) {
            client.queue(line);
        }
    }

    /// Queues an event for everybody who subscribed.
    pub fn publish(&mut self, event: &Event) {
        let line = GuardLine::Event(event.clone());
        for client in self
            .clients
            .iter_mut()
            .filter(|client| client.is_subscribed)
        {
            client.queue(&line);
        }
    }

    /// From now on this client gets events.
    pub fn subscribe(&mut self, client: ClientId) {
        if let Some(client) = self.clients.iter_mut().find(|it| it.id == client) {
            client.is_subscribed = true;
        }
    }

    fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    // Out of descriptors: the listener stays ready, and a guard with real-time
                    // priority must not spin on it.
                    std::thread::sleep(ACCEPT_PAUSE);
                    return;
                }
            };
            let user = socket_peercred(&stream).map(|it| it.uid.as_raw());
            let is_allowed = user.is_ok_and(|user| self.allowed.contains(&user));
            if !is_allowed || self.clients.len() >= MOST_CLIENTS {
                log_line!("a connection of user {user:?} was closed");
                continue;
            }
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    id: self.next_id,
                    stream,
                    input: Vec::new(),
                    is_skipping: false,
                    output: Vec::new(),
                    is_subscribed: false,
                    is_gone: false,
                });
                self.next_id += 1;
            }
        }
    }
}

impl Client {
    fn queue(&mut self, line: &GuardLine) {
        match serde_json::to_vec(line) {
            Ok(text) => self.output.extend(text),
            Err(error) => return log_line!("could not write an answer: {error}"),
        }
        self.output.push(b'\n');
        self.flush();
        if self.output.len() > OUTPUT_LIMIT {
            log_line!("client {} does not read and is dropped", self.id);
            self.is_gone = true;
        }
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.is_gone = true;
                    return;
                }
            }
        }
    }

    /// At most one buffer a turn, so that one client cannot keep the guard from the others.
    fn read(&mut self, received: &mut Vec<Received>) {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.is_gone = true,
            Ok(length) => self.input.extend_from_slice(&buffer[..length]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return;
            }
            Err(_) => self.is_gone = true,
        }
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            if std::mem::take(&mut self.is_skipping) {
                continue;
            }
            let line = serde_json::from_slice(&line).map_err(|error| error.to_string());
            received.push(Received {
                client: self.id,
                line,
            });
        }
        if self.input.len() >= LINE_LIMIT {
            self.input.clear();
            if !self.is_skipping {
                self.is_skipping = true;
                let line = Err(format!("a line is longer than {LINE_LIMIT} bytes"));
                received.push(Received {
                    client: self.id,
                    line,
                });
            }
        }
    }
}
