//! The daemon's client of the guard, with a real guard: started by a process that gave up root, used
//! by the runtime and by a plain thread, and gone.
//!
//! The guard's binary is looked for beside this test (`cargo build -p clusterd-guard`).
#![allow(missing_docs)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clusterd::guard_client::{
    Error, Guard, GuardConnection, GuardOptions, kill_cgroup, spawn_guard,
};
use clusterd_guard::clock;
use clusterd_guard::privileges::{Account, drop_to};
use clusterd_guard::processes;
use clusterd_guard::protocol::{
    Arm, Event, Exit, Granted, RefusalCode, RunTool, StartPostmaster, ToolStop,
};

const LIMIT: Duration = Duration::from_secs(20);

fn guard_program() -> PathBuf {
    let own = std::env::current_exe().expect("this test");
    let directory = own.parent().and_then(Path::parent).expect("target/debug");
    let program = directory.join("clusterd-guard");
    assert!(
        program.exists(),
        "{} is missing: cargo build -p clusterd-guard",
        program.display()
    );
    program
}

fn account() -> Account {
    Account::of_name("postgres").expect("the tests run as root and need the user postgres")
}

/// A scratch directory of the user, and the options of a guard in it.
fn scratch() -> (tempfile::TempDir, GuardOptions) {
    let directory = tempfile::tempdir().expect("a scratch directory");
    let account = account();
    chown(
        directory.path(),
        Some(account.uid.as_raw()),
        Some(account.gid.as_raw()),
    )
    .expect("chown");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let options = options_in(directory.path());
    (directory, options)
}

fn options_in(directory: &Path) -> GuardOptions {
    GuardOptions {
        program: Some(guard_program()),
        socket: directory.join("guard.sock"),
        data_dir: directory.join("data"),
        member_record: directory.join("member.json"),
        user: Some("postgres".to_owned()),
        cgroup: "auto".to_owned(),
        realtime_priority: 10,
        watchdog: None,
        log: directory.join("guard.log"),
        limit: LIMIT,
    }
}

/// Something that stands in for PostgreSQL where only the process matters.
fn fake_postgres(options: &GuardOptions, script: &str) -> StartPostmaster {
    let data = &options.data_dir;
    fs::create_dir_all(data).expect("a data directory");
    fs::write(data.join("standby.signal"), "").expect("standby.signal");
    let facts = fs::metadata(data).expect("the data directory");
    StartPostmaster {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        data_dir: data.clone(),
        data_dir_dev: facts.dev(),
        data_dir_ino: facts.ino(),
        output: data.with_file_name("output.log"),
    }
}

fn signal(pid: i32, name: &str) {
    Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string())
        .status()
        .expect("kill runs");
}

async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = clock::boottime() + LIMIT;
    while !condition() {
        assert!(clock::boottime() < end, "not in {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handle_starts_arms_and_kills_and_sees_events() {
    let (_directory, options) = scratch();
    let hello = spawn_guard(&options).await.expect("a guard");
    assert_eq!(
        spawn_guard(&options).await.expect("the same").pid,
        hello.pid
    );
    let guard = Guard::connect(options.socket.clone(), LIMIT);
    let mut events = guard.events();
    let order = fake_postgres(&options, "sleep 100 & sleep 100");
    let (set_id, postmaster) = guard
        .start_postmaster(order.clone())
        .await
        .expect("started");
    match guard.start_postmaster(order).await {
        Err(Error::Refused(refusal)) => assert_eq!(refusal.code, RefusalCode::SetNotEmpty),
        other => panic!("{other:?}"),
    }
    // The lease thread's way in, beside the runtime's.
    let socket = options.socket.clone();
    let armed = std::thread::spawn(move || {
        let mut connection = GuardConnection::connect(&socket, LIMIT).expect("connected");
        let kill_at_ns = clock::boottime_ns() + 1_500_000_000;
        connection
            .arm(Arm {
                set_id,
                epoch: 5,
                valid_until_ns: kill_at_ns,
                kill_at_ns,
            })
            .expect("armed")
    })
    .join()
    .expect("the thread ends");
    let mut state = guard.state();
    state
        .wait_for(|state| {
            let set = state.status.as_ref().and_then(|status| status.set.as_ref());
            set.is_some_and(|set| set.armed == Some(armed))
        })
        .await
        .expect("the state shows the lease");
    let report = loop {
        match tokio::time::timeout(LIMIT, events.recv())
            .await
            .expect("an event")
            .expect("one")
        {
            Event::Killed(report) => break report,
            Event::PostmasterExited(exit) => assert_eq!(exit.pid, postmaster.pid),
            _ => {}
        }
    };
    assert!(
        report.reason == "deadline" && report.begin_ns >= armed.kill_at_ns,
        "{report:?}"
    );
    state
        .wait_for(|state| state.status.as_ref().is_some_and(|status| status.empty))
        .await
        .expect("the state shows that nobody is left");
    let again = guard.kill("nothing to do").await.expect("killed");
    assert_eq!(again.killed, 0);
    end(hello.pid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_waited_for_and_a_lost_guard_is_noticed() {
    let (_directory, options) = scratch();
    let hello = spawn_guard(&options).await.expect("a guard");
    let guard = Guard::connect(options.socket.clone(), Duration::from_secs(2));
    let tool = |script: &str| RunTool {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        output: options.log.with_file_name("tool.log"),
    };
    assert_eq!(
        guard.run_tool_to_end(tool("exit 3")).await.expect("it ran"),
        Exit::Code(3)
    );
    assert!(
        guard.status().await.expect("status").tools.is_empty(),
        "it was acknowledged"
    );
    let id = guard.run_tool(tool("sleep 100")).await.expect("started");
    guard.stop_tool(id, ToolStop::Kill).await.expect("killed");
    assert_eq!(
        guard.tool_end(id, hello.pid).await.expect("it ended"),
        Exit::Signal(9)
    );
    let id = guard.run_tool(tool("sleep 100")).await.expect("started");
    signal(hello.pid, "KILL");
    let mut state = guard.state();
    state
        .wait_for(|state| !state.is_connected)
        .await
        .expect("it notices");
    assert!(
        state.borrow().hello.is_some(),
        "the control group's path is kept"
    );
    assert!(matches!(
        guard.status().await,
        Err(Error::TimedOut { .. } | Error::Disconnected)
    ));
    let new = spawn_guard(&options).await.expect("a new guard");
    assert_ne!(new.pid, hello.pid);
    match guard.tool_end(id, hello.pid).await {
        Err(Error::GuardReplaced) => {}
        other => panic!("{other:?}"),
    }
    assert!(guard.status().await.expect("it connects again").empty);
    end(new.pid).await;
}

/// Not a test: the daemon of the next one, which gives up root.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test as a process of its own"]
async fn unprivileged_daemon() {
    let Ok(directory) = std::env::var("GUARD_CLIENT_TEST") else {
        return;
    };
    drop_to(&account()).expect("it becomes the user");
    assert!(
        fs::write("/root/not-allowed", "").is_err(),
        "it is the user now"
    );
    let options = options_in(Path::new(&directory));
    let hello = spawn_guard(&options).await.expect("a guard");
    let guard = Guard::connect(options.socket.clone(), LIMIT);
    // It ignores the signal its dead guard's kernel sends, as a stuck server does.
    let ready = Path::new(&directory).join("ready");
    let script = format!(
        "trap '' QUIT; : > '{}'; sleep 100 & sleep 100; sleep 100",
        ready.display()
    );
    let order = fake_postgres(&options, &script);
    let (_, postmaster) = guard.start_postmaster(order).await.expect("started");
    // Before that its shell has not read its first word, and dies like any other.
    let begin = tokio::time::Instant::now();
    while !ready.exists() {
        assert!(begin.elapsed() < LIMIT, "it never ignores the signal");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let text = format!("{} {}", hello.pid, postmaster.pid);
    fs::write(Path::new(&directory).join("pids"), text).expect("written");
    let mut state = guard.state();
    state
        .wait_for(|state| state.is_connected)
        .await
        .expect("connected");
    state
        .wait_for(|state| !state.is_connected)
        .await
        .expect("the guard is gone");
    let path = state
        .borrow()
        .hello
        .as_ref()
        .and_then(|hello| hello.cgroup_path.clone());
    let path = path.expect("a control group");
    assert!(
        processes::read(postmaster.pid).is_some(),
        "the guard's death was not enough"
    );
    assert!(kill_cgroup(&path, LIMIT).expect("the user may kill the group"));
    assert!(processes::read(postmaster.pid).is_none());
    fs::write(Path::new(&directory).join("killed"), "").expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_root_starts_a_guard_with_root_and_kills_when_it_is_gone() {
    let (directory, options) = scratch();
    let mut daemon = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "unprivileged_daemon", "--nocapture"])
        .env("GUARD_CLIENT_TEST", directory.path())
        .current_dir("/")
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let file = directory.path().join("pids");
    let pids = || -> Option<(i32, i32)> {
        let text = fs::read_to_string(&file).ok()?;
        let (guard, postmaster) = text.split_once(' ')?;
        Some((guard.parse().ok()?, postmaster.parse().ok()?))
    };
    wait_until("the daemon has started everything", || pids().is_some()).await;
    let (guard, postmaster) = pids().expect("two pids");
    assert_eq!(
        fs::metadata(format!("/proc/{guard}")).expect("alive").uid(),
        0,
        "root again"
    );
    let user = account().uid.as_raw();
    assert_eq!(
        fs::metadata(format!("/proc/{postmaster}"))
            .expect("alive")
            .uid(),
        user
    );
    let hello = GuardConnection::connect(&options.socket, LIMIT)
        .and_then(|mut connection| connection.hello())
        .expect("hello");
    assert_eq!(
        (hello.cgroup, hello.real_time_priority),
        (Granted::Yes, Granted::Yes)
    );
    signal(guard, "KILL");
    let status = daemon.wait().await.expect("our child");
    assert!(status.success(), "{status}");
    assert!(directory.path().join("killed").exists());
    // A new guard comes up, so that the control group is removed when it ends.
    let new = spawn_guard(&options).await.expect("a new guard");
    assert!(new.status.empty);
    end(new.pid).await;
}

async fn end(pid: i32) {
    signal(pid, "TERM");
    wait_until("the guard ends", || processes::read(pid).is_none()).await;
}
