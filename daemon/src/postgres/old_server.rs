//! A PostgreSQL that runs in our place and that nobody of ours started: found, looked at, asked to
//! stop. What is read from it is in `old_facts`.
//!
//! The surprise: nothing here goes through the guard. A guard calls such a server foreign and kills
//! it, so a take-over must be over with it before a guard exists.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};
use tokio_postgres::Config;

use super::sql::Session;
use super::{Error, durable_file};

/// How often a wait looks again: it is part of the gap that clients see.
const STEP: Duration = Duration::from_millis(2);

/// One attempt to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A live postmaster of somebody else's in our data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldServer {
    /// Its process id.
    pub pid: i32,
    /// Its port.
    pub port: u16,
    /// Where its Unix socket lies; none when it has none.
    pub socket_dir: Option<PathBuf>,
    /// The command line it was started with.
    pub command_line: Vec<String>,
    /// The systemd unit it runs in, if any.
    pub unit: Option<String>,
    data_dir: PathBuf,
    start_time: u64,
}

impl OldServer {
    /// Looks for a live postmaster in a data directory; reads small files only.
    ///
    /// A `postmaster.pid` whose process is gone, or works in another directory, is a left-over. One
    /// whose process may not be looked at counts as alive.
    ///
    /// # Errors
    /// `postmaster.pid` is there and cannot be read.
    pub fn find(data_dir: &Path) -> Result<Option<OldServer>, Error> {
        let path = data_dir.join("postmaster.pid");
        let text = match durable_file::read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            // Below a file, or not a directory at all: no server runs there.
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number).copied().unwrap_or_default();
        // Negative: a single-user run, which is no postmaster.
        let Some(pid) = line(0).parse::<i32>().ok().filter(|pid| *pid > 1) else {
            return Ok(None);
        };
        let Some(start_time) = start_time(pid) else {
            return Ok(None);
        };
        if !works_in(pid, data_dir) {
            return Ok(None);
        }
        Ok(Some(OldServer {
            pid,
            port: line(3).parse().unwrap_or(5432),
            socket_dir: socket_dir(data_dir, line(4)),
            command_line: started_with(data_dir),
            unit: unit_of(pid),
            data_dir: data_dir.to_owned(),
            start_time,
        }))
    }

    /// Whether `other` is the same process, looked at another time.
    pub fn is_same_process(&self, other: &OldServer) -> bool {
        (self.pid, self.start_time) == (other.pid, other.start_time)
    }

    /// Whether the very process still exists.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A session as superuser over its own socket, without any limit of the server's.
    pub(super) async fn connect(&self, superuser: &str) -> Result<Session, Error> {
        self.connect_to(superuser, "postgres").await
    }

    /// The same in another database.
    pub(super) async fn connect_to(
        &self,
        superuser: &str,
        database: &str,
    ) -> Result<Session, Error> {
        let mut config = Config::new();
        match &self.socket_dir {
            Some(directory) => config.host_path(directory),
            None => config.host("localhost"),
        };
        config
            .port(self.port)
            .user(superuser)
            .dbname(database)
            .application_name("clusterd")
            .connect_timeout(CONNECT_LIMIT)
            .options(
                "-c synchronous_commit=local -c search_path=pg_catalog -c statement_timeout=0 \
                 -c default_transaction_read_only=off",
            );
        Session::open(&config, CONNECT_LIMIT).await
    }

    /// One checkpoint, so that the one of the stop has little to do; how long it took.
    ///
    /// # Errors
    /// No session, or not within `limit`.
    pub async fn checkpoint(&self, superuser: &str, limit: Duration) -> Result<Duration, Error> {
        let session = self.connect(superuser).await?;
        let begin = Instant::now();
        session.batch(limit, "CHECKPOINT").await?;
        Ok(begin.elapsed())
    }

    /// A fast stop; returns when no process works in the directory any more.
    ///
    /// # Errors
    /// The signal was refused, or processes are left after `limit`: the stop then goes on by itself.
    pub async fn stop(&self, limit: Duration) -> Result<(), Error> {
        if self.is_alive() {
            kill(Pid::from_raw(self.pid), Signal::SIGINT).map_err(|error| Error::File {
                verb: "send SIGINT to the process of",
                path: self.data_dir.join("postmaster.pid"),
                source: error.into(),
            })?;
        }
        let begin = Instant::now();
        while self.is_alive() {
            if begin.elapsed() > limit {
                return Err(Error::TimedOut {
                    what: "the stop of the old server",
                    limit,
                });
            }
            sleep(STEP).await;
        }
        // The postmaster ends last, except when it was killed.
        while let Some(pid) = any_process_in(&self.data_dir) {
            if begin.elapsed() > limit {
                let why = format!("process {pid} still works in {}", self.data_dir.display());
                return Err(Error::Unusable { why });
            }
            sleep(STEP).await;
        }
        Ok(())
    }
}

/// Field 22 of `/proc/PID/stat`: with it a process id names one process for ever. None: no such
/// process, or it is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also blanks and brackets: the fields begin after the last one.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Whether a process works in a directory; one that may not be looked at counts as if it did.
fn works_in(pid: i32, directory: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino()));
    match (
        place(Path::new(&format!("/proc/{pid}/cwd"))),
        place(directory),
    ) {
        (Ok(its), Ok(ours)) => its == ours,
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => false,
        (Err(_), _) | (_, Err(_)) => true,
    }
}

fn any_process_in(directory: &Path) -> Option<i32> {
    let ours = directory.metadata().ok()?;
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            fs::metadata(format!("/proc/{pid}/cwd"))
                .is_ok_and(|its| (its.dev(), its.ino()) == (ours.dev(), ours.ino()))
        })
}

/// The directory of its first socket, as line five of `postmaster.pid` has it: a relative one (Patroni's own
/// samples have `..`) counts from the data directory, where a postmaster works; `@` is no directory.
fn socket_dir(data_dir: &Path, written: &str) -> Option<PathBuf> {
    match written {
        "" => None,
        name if name.starts_with('@') => Some(PathBuf::from(name)),
        path => Some(data_dir.join(path)),
    }
}

/// `postmaster.opts`: the program and its arguments, each but the first in double quotes.
fn started_with(data_dir: &Path) -> Vec<String> {
    let text = durable_file::read(&data_dir.join("postmaster.opts"))
        .ok()
        .flatten()
        .unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let mut words = line.split(" \"");
    let program = words.next().unwrap_or_default().to_owned();
    std::iter::once(program)
        .chain(words.map(|word| word.strip_suffix('"').unwrap_or(word).to_owned()))
        .collect()
}

/// The unit whose own control group it is in.
fn unit_of(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines()
        .filter_map(|line| line.rsplit('/').next())
        .find(|leaf| leaf.ends_with(".service"))
        .map(|unit| unit.replace("\\x2d", "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_of_a_process_elsewhere_is_a_left_over() {
        let place = tempfile::tempdir().expect("a directory");
        assert_eq!(OldServer::find(place.path()).expect("looked"), None);
        let file = place.path().join("postmaster.pid");
        let own = std::process::id();
        fs::write(&file, format!("{own}\n/somewhere\n1\n5433\n/tmp\n")).expect("written");
        assert_eq!(
            OldServer::find(place.path()).expect("looked"),
            None,
            "this test does not work in that directory"
        );
        fs::write(&file, "999999999\n/x\n").expect("written");
        assert_eq!(OldServer::find(place.path()).expect("looked"), None);
        fs::write(&file, "-5\n/x\n").expect("written");
        assert_eq!(OldServer::find(place.path()).expect("looked"), None);
    }

    #[test]
    fn a_process_that_works_there_is_found_with_port_and_socket() {
        let place = tempfile::tempdir().expect("a directory");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .current_dir(place.path())
            .spawn()
            .expect("a process");
        let text = format!("{}\n/x\n1\n5433\n/run/x\nlocalhost\n", child.id());
        fs::write(place.path().join("postmaster.pid"), text).expect("written");
        fs::write(
            place.path().join("postmaster.opts"),
            "/usr/bin/postgres \"-D\" \"/a b\" \"-c\" \"port=5433\"\n",
        )
        .expect("written");
        let found = OldServer::find(place.path()).expect("looked");
        child.kill().expect("ours");
        child.wait().expect("ours");
        let found = found.expect("it is there");
        assert_eq!(
            (found.port, found.socket_dir.clone()),
            (5433, Some("/run/x".into()))
        );
        assert_eq!(
            found.command_line,
            ["/usr/bin/postgres", "-D", "/a b", "-c", "port=5433"]
        );
        assert!(!found.is_alive());
    }

    #[test]
    fn a_relative_socket_directory_counts_from_the_data_directory() {
        let data = Path::new("/data/pg");
        assert_eq!(socket_dir(data, ".."), Some("/data/pg/..".into()));
        assert_eq!(socket_dir(data, "/run/x"), Some("/run/x".into()));
        assert_eq!(socket_dir(data, "@x"), Some("@x".into()));
        assert_eq!(socket_dir(data, ""), None);
    }
}
