//! What the guard's tests share: a guard of their own, PostgreSQL data directories, conditions with
//! a limit. Every process started here is ended by its pid when the test ends.
#![allow(dead_code, missing_docs)]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use clusterd_guard::clock;
use clusterd_guard::connection::GuardConnection;
use clusterd_guard::privileges::Account;
use clusterd_guard::processes::{self, Identity};
use clusterd_guard::protocol::{
    Answer, Arm, ProcessId, Request, RunTool, StartPostmaster, StopMode,
};

pub const LIMIT: Duration = Duration::from_secs(30);

/// initdb once and keep it for later runs; a copy for each test.
static TEMPLATE: Mutex<()> = Mutex::new(());

pub fn bin(name: &str) -> PathBuf {
    let path = Path::new("/usr/lib/postgresql/15/bin").join(name);
    assert!(
        path.exists(),
        "{} is missing: install PostgreSQL 15",
        path.display()
    );
    path
}

pub fn account() -> Account {
    Account::of_name("postgres").expect("the tests run as root and need the user postgres")
}

pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let end = clock::boottime() + LIMIT;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) => {
                assert!(
                    clock::boottime() < end,
                    "not in {LIMIT:?}: {what}; last seen: {last}"
                );
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "--",
        ])
        .arg(program)
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program exists");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

/// A scratch directory of the user postgres.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("guard-test-")
            .tempdir_in("/tmp");
        let path = directory.expect("a scratch directory").keep();
        let account = account();
        chown(
            &path,
            Some(account.uid.as_raw()),
            Some(account.gid.as_raw()),
        )
        .expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A data directory that starts as a primary once `standby.signal` is gone.
    pub fn data(&self, name: &str) -> PathBuf {
        let _one_at_a_time = TEMPLATE.lock();
        let template = Path::new("/tmp/clusterd-guard-test-template");
        if !template.exists() {
            let scratch = Scratch::new();
            let path = scratch.path("template");
            run(as_postgres(&bin("initdb"))
                .args(["-N", "-A", "trust", "-U", "postgres", "-D"])
                .arg(&path));
            // Whole or not at all; another test process may have been faster.
            let _ = fs::rename(path, template);
        }
        let path = self.path(name);
        run(Command::new("cp").arg("-a").arg(template).arg(&path));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A guard, killed at the end of the test with everything it had.
pub struct TestGuard {
    pub process: Child,
    pub socket: PathBuf,
    pub data: PathBuf,
    pub log: PathBuf,
    pub cgroup: &'static str,
}

impl TestGuard {
    pub fn start(scratch: &Scratch, data: &Path, cgroup: &'static str) -> Self {
        Self::start_with(scratch, data, cgroup, &[])
    }

    pub fn start_with(scratch: &Scratch, data: &Path, cgroup: &'static str, more: &[&str]) -> Self {
        let socket = scratch.path("guard.sock");
        let log = scratch.path("guard.log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let process = Command::new(env!("CARGO_BIN_EXE_clusterd-guard"))
            .arg("--socket")
            .arg(&socket)
            .arg("--data-dir")
            .arg(data)
            .args(["--user", "postgres", "--cgroup", cgroup])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the guard starts");
        let guard = Self {
            process,
            socket,
            data: data.to_owned(),
            log,
            cgroup,
        };
        let pid = guard.pid();
        wait_until("the guard answers", || {
            let mut connection = GuardConnection::connect(&guard.socket, Duration::from_secs(1))
                .map_err(|error| format!("{error:?}; log: {}", guard.log_text()))?;
            let hello = connection.hello().map_err(|error| format!("{error:?}"))?;
            if hello.pid == pid {
                Ok(())
            } else {
                Err(format!("guard {}", hello.pid))
            }
        });
        guard
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a pid fits")
    }

    pub fn connect(&self) -> GuardConnection {
        GuardConnection::connect(&self.socket, LIMIT).expect("the guard listens")
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        self.process.kill().expect("our child");
        self.process.wait().expect("our child");
    }
}

impl Drop for TestGuard {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            if let Ok(mut connection) =
                GuardConnection::connect(&self.socket, Duration::from_secs(10))
            {
                let _ = connection.kill("the test ends");
            }
            send(self.pid(), "TERM");
            let end = clock::boottime() + Duration::from_secs(5);
            while matches!(self.process.try_wait(), Ok(None)) && clock::boottime() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        if std::thread::panicking() {
            eprintln!("guard log:\n{}", self.log_text());
        }
    }
}

pub fn send(pid: i32, signal: &str) {
    let _ = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .status();
}

pub fn start_order(data: &Path, socket_dir: &Path) -> StartPostmaster {
    let facts = fs::metadata(data).expect("the data directory");
    StartPostmaster {
        program: bin("postgres"),
        args: vec![
            "-D".into(),
            data.display().to_string(),
            "-c".into(),
            "listen_addresses=".into(),
            "-c".into(),
            format!("unix_socket_directories={}", socket_dir.display()),
            "-c".into(),
            "restart_after_crash=off".into(),
            "-c".into(),
            "hot_standby=on".into(),
            "-c".into(),
            "fsync=off".into(),
        ],
        env: vec![
            ("LC_ALL".into(), "C".into()),
            ("PATH".into(), "/usr/bin:/bin".into()),
        ],
        data_dir: data.to_owned(),
        data_dir_dev: facts.dev(),
        data_dir_ino: facts.ino(),
        output: socket_dir.join("postgres.log"),
    }
}

pub fn put_standby_signal(data: &Path) {
    fs::write(data.join("standby.signal"), "").expect("standby.signal");
}

/// A started PostgreSQL that takes connections.
pub struct Started {
    pub set_id: u64,
    pub postmaster: ProcessId,
}

pub fn start_standby(connection: &mut GuardConnection, data: &Path, scratch: &Scratch) -> Started {
    put_standby_signal(data);
    let order = start_order(data, &scratch.0);
    match connection.call(Request::StartPostmaster(order)) {
        Ok(Answer::Started { set_id, postmaster }) => {
            wait_until("PostgreSQL takes connections", || {
                try_sql(&scratch.0, "select 1").map_err(|error| {
                    let log = fs::read_to_string(scratch.path("postgres.log"));
                    format!("{error}; log: {}", log.unwrap_or_default())
                })
            });
            Started { set_id, postmaster }
        }
        other => panic!("start: {other:?}"),
    }
}

/// Started, armed for `epoch` with a lease of `lease`, promoted.
pub fn start_primary(
    connection: &mut GuardConnection,
    data: &Path,
    scratch: &Scratch,
    epoch: u64,
    lease: Duration,
) -> Started {
    let started = start_standby(connection, data, scratch);
    connection
        .arm(arm(started.set_id, epoch, lease))
        .expect("armed");
    let account = account();
    let file = data.join("promote");
    fs::write(&file, "").expect("the promote file");
    chown(
        &file,
        Some(account.uid.as_raw()),
        Some(account.gid.as_raw()),
    )
    .expect("chown");
    let promote = Request::Promote {
        set_id: started.set_id,
        epoch,
    };
    connection.call(promote).expect("promoted");
    wait_until("it is a primary", || {
        match try_sql(&scratch.0, "select pg_is_in_recovery()")?.trim() {
            "f" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    started
}

pub fn arm(set_id: u64, epoch: u64, lease: Duration) -> Arm {
    let kill_at_ns = clock::nanoseconds(clock::boottime() + lease);
    Arm {
        set_id,
        epoch,
        valid_until_ns: kill_at_ns + 100_000_000,
        kill_at_ns,
    }
}

pub fn psql(socket_dir: &Path) -> Command {
    let mut command = Command::new(bin("psql"));
    command
        .args([
            "-X",
            "-q",
            "-At",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
        ])
        .arg("-h")
        .arg(socket_dir)
        .stdin(Stdio::null());
    command
}

pub fn try_sql(socket_dir: &Path, text: &str) -> Result<String, String> {
    let output = psql(socket_dir)
        .arg("-c")
        .arg(text)
        .output()
        .map_err(|it| it.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// PostgreSQL processes that work in this directory now.
pub fn processes_in(data: &Path) -> Vec<i32> {
    let identity = Identity::of(data).expect("the data directory");
    processes::scan(&[identity], processes::Depth::InDirectories)
        .expect("/proc")
        .iter()
        .map(|process| process.pid)
        .collect()
}

/// A backend that computes and commits in a loop and never looks at its postmaster [X11].
pub fn start_orphan_maker(socket_dir: &Path) -> (Child, i32) {
    try_sql(
        socket_dir,
        "create table t(i bigint); create procedure p() language plpgsql as $$ begin \
         for i in 1..100000000 loop insert into t values (i); commit; end loop; end $$",
    )
    .expect("the table and the procedure");
    start_session(
        socket_dir,
        "call p()",
        "select pid from pg_stat_activity where query = 'call p()' and exists(select from t)",
    )
}

/// A session that runs `sql`; its backend is the one that `found_by` finds once it is at work.
pub fn start_session(socket_dir: &Path, sql: &str, found_by: &str) -> (Child, i32) {
    let child = psql(socket_dir)
        .args(["-c", sql])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("psql starts");
    let backend = wait_until("the backend is at work", || {
        let found = try_sql(socket_dir, found_by)?;
        found
            .trim()
            .parse::<i32>()
            .map_err(|_| format!("no such backend: {found:?}"))
    });
    (child, backend)
}

pub fn stop_postgres(connection: &mut GuardConnection, set_id: u64) {
    connection
        .call(Request::Stop {
            set_id,
            mode: StopMode::Fast,
        })
        .expect("stop");
    wait_until("the set is empty", || {
        let status = connection.status().map_err(|error| format!("{error:?}"))?;
        if status.empty {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    });
}

pub fn tool(program: &Path, args: &[&str], output: &Path) -> RunTool {
    RunTool {
        program: program.to_owned(),
        args: args.iter().map(|it| (*it).to_owned()).collect(),
        env: vec![
            ("PATH".into(), "/usr/bin:/bin".into()),
            ("LC_ALL".into(), "C".into()),
        ],
        output: output.to_owned(),
    }
}

pub fn is_alive(pid: i32) -> bool {
    processes::read(pid).is_some()
}
