//! What the guard refuses, whom it serves, and what its children inherit.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clusterd_guard::clock;
use clusterd_guard::connection::{Error, GuardConnection};
use clusterd_guard::protocol::{
    Answer, Exit, Granted, GuardLine, LINE_LIMIT, Outcome, RefusalCode, Request, ToolStop,
};
use support::*;

fn refused(result: Result<impl std::fmt::Debug, Error>) -> RefusalCode {
    match result {
        Err(Error::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_start_is_refused_unless_it_is_a_standby_of_this_directory_in_an_empty_set() {
    for cgroup in ["auto", "none"] {
        let scratch = Scratch::new();
        let data = scratch.data("data");
        let other = scratch.data("other");
        let guard = TestGuard::start(&scratch, &data, cgroup);
        let mut connection = guard.connect();
        let order = start_order(&data, &scratch.0);
        let mut start = |order| refused(connection.call(Request::StartPostmaster(order)));
        assert_eq!(start(order.clone()), RefusalCode::NoStandbySignal);
        put_standby_signal(&data);
        put_standby_signal(&other);
        let mut wrong = order.clone();
        wrong.data_dir_ino += 1;
        assert_eq!(start(wrong), RefusalCode::WrongDataDirectory);
        let mut wrong = order.clone();
        wrong.data_dir_dev += 1;
        assert_eq!(start(wrong), RefusalCode::WrongDataDirectory);
        assert_eq!(
            start(start_order(&other, &scratch.0)),
            RefusalCode::WrongDataDirectory
        );
        assert_eq!(
            processes_in(&data),
            Vec::<i32>::new(),
            "nothing was started"
        );
        let started = start_standby(&mut connection, &data, &scratch);
        let again = refused(connection.call(Request::StartPostmaster(order.clone())));
        assert_eq!(again, RefusalCode::SetNotEmpty);
        stop_postgres(&mut connection, started.set_id);
        start_standby(&mut connection, &data, &scratch);
    }
}

#[test]
fn a_program_that_cannot_be_executed_is_an_exit_and_a_line_in_the_output() {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let guard = TestGuard::start(&scratch, &data, "auto");
    let mut connection = guard.connect();
    put_standby_signal(&data);
    let mut order = start_order(&data, &scratch.0);
    order.program = "/no/such/postgres".into();
    connection
        .call(Request::StartPostmaster(order))
        .expect("forked");
    let status = wait_until("it ended", || {
        let status = connection.status().map_err(|error| format!("{error:?}"))?;
        if status.empty {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    });
    assert_eq!(status.last_exit.expect("an exit").exit, Exit::Code(127));
    let text = fs::read_to_string(scratch.path("postgres.log")).expect("the output");
    assert!(
        text.contains("could not execute the program: No such file"),
        "{text}"
    );
}

/// A foreign PostgreSQL: started by nobody we know, in `data`.
fn start_foreign(data: &Path, socket_dir: &Path, name: &str) -> i32 {
    let log = socket_dir.join(format!("{name}.log"));
    run(Command::new("setpriv")
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "--",
        ])
        .arg(bin("pg_ctl"))
        .args(["start", "-w", "-D"])
        .arg(data)
        .arg("-l")
        .arg(log)
        .arg("-o")
        .arg(format!(
            "-c listen_addresses= -c unix_socket_directories={}",
            socket_dir.display()
        ))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null()));
    let text = fs::read_to_string(data.join("postmaster.pid")).expect("postmaster.pid");
    text.lines()
        .next()
        .and_then(|line| line.parse().ok())
        .expect("a pid")
}

fn foreign_processes_of_our_directory_are_seen_and_only_they_are_touched(cgroup: &'static str) {
    let scratch = Scratch::new();
    let elsewhere = Scratch::new();
    let data = scratch.data("data");
    let other_data = elsewhere.data("data");
    let other = start_foreign(&other_data, &elsewhere.0, "other");
    let guard = TestGuard::start(&scratch, &data, cgroup);
    let mut connection = guard.connect();
    assert!(
        connection.status().expect("status").empty,
        "another directory is nothing to us"
    );
    let foreign = start_foreign(&data, &scratch.0, "foreign");
    let status = connection.status().expect("status");
    assert!(
        status.foreign.contains(&foreign) && !status.foreign.contains(&other),
        "{status:?}"
    );
    assert!(!status.empty && status.processes == 0, "{status:?}");
    put_standby_signal(&data);
    let order = start_order(&data, &scratch.0);
    let refusal = refused(connection.call(Request::StartPostmaster(order)));
    assert_eq!(refusal, RefusalCode::SetNotEmpty);
    match connection.call(Request::KillForeign) {
        Ok(Answer::Killed(report)) => assert!(report.verified && report.killed >= 3, "{report:?}"),
        other => panic!("{other:?}"),
    }
    assert!(!is_alive(foreign));
    assert!(connection.status().expect("status").empty);
    // Our own one is not foreign, and killing foreign ones does not touch it or its deadline.
    let started = start_standby(&mut connection, &data, &scratch);
    let armed = connection
        .arm(arm(started.set_id, 1, Duration::from_secs(8)))
        .expect("armed");
    match connection.call(Request::KillForeign) {
        Ok(Answer::Killed(report)) => assert_eq!(report.killed, 0),
        other => panic!("{other:?}"),
    }
    assert!(is_alive(started.postmaster.pid));
    let status = connection.status().expect("status");
    assert!(
        status.foreign.is_empty() && !status.empty && status.processes >= 3,
        "{status:?}"
    );
    // Nobody talks to the guard meanwhile: its own timer must still wake it.
    wait_until("PostgreSQL is gone", || match processes_in(&data) {
        list if list.is_empty() => Ok(()),
        list => Err(format!("{list:?}")),
    });
    let report = wait_until("the deadline still fires", || {
        let status = connection.status().map_err(|error| format!("{error:?}"))?;
        status
            .last_kill
            .clone()
            .filter(|_| status.empty)
            .ok_or_else(|| format!("{status:?}"))
    });
    assert!(
        report.reason == "deadline" && report.begin_ns >= armed.kill_at_ns,
        "{report:?}"
    );
    assert!(
        is_alive(other),
        "a PostgreSQL of another directory survives everything"
    );
    assert!(try_sql(&elsewhere.0, "select 1").is_ok());
    send(other, "QUIT");
    wait_until("the other one ends", || {
        if is_alive(other) {
            Err("alive".to_owned())
        } else {
            Ok(())
        }
    });
}

#[test]
fn foreign_processes_are_seen_and_only_they_are_touched_with_a_cgroup() {
    foreign_processes_of_our_directory_are_seen_and_only_they_are_touched("auto");
}

#[test]
fn foreign_processes_are_seen_and_only_they_are_touched_without_a_cgroup() {
    foreign_processes_of_our_directory_are_seen_and_only_they_are_touched("none");
}

fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    descriptors_if_alive(pid).expect("the process lives")
}

/// None: it ended meanwhile.
fn descriptors_if_alive(pid: i32) -> Option<BTreeMap<i32, String>> {
    let list = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let named = list.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((number, target.display().to_string()))
    });
    Some(named.collect())
}

#[test]
fn children_inherit_nothing_but_null_and_the_output_file() {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    // A descriptor that the guard's starter leaks on purpose.
    let leaked = scratch.path("leaked");
    fs::write(&leaked, "").expect("a file");
    let guard = TestGuard::start(&scratch, &data, "auto");
    let mut connection = guard.connect();
    let output = scratch.path("tool.log");
    let order = tool(Path::new("/bin/sleep"), &["60"], &output);
    let (id, pid) = match connection.call(Request::RunTool(order)) {
        Ok(Answer::ToolStarted { id, pid }) => (id, pid),
        other => panic!("{other:?}"),
    };
    wait_until("the tool runs its program", || {
        match fs::read_link(format!("/proc/{pid}/exe")).map_err(|it| it.to_string())? {
            path if path.ends_with("sleep") || path.ends_with("coreutils") => Ok(()),
            path => Err(path.display().to_string()),
        }
    });
    let expected = BTreeMap::from([
        (0, "/dev/null".to_owned()),
        (1, output.display().to_string()),
        (2, output.display().to_string()),
    ]);
    assert_eq!(descriptors(pid), expected);
    let facts = fs::metadata(&output).expect("the output");
    assert_eq!(
        facts.uid(),
        account().uid.as_raw(),
        "the output belongs to the user"
    );
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    for name in ["SigBlk:\t", "SigIgn:\t"] {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the line");
        let signals = u64::from_str_radix(line, 16).expect("a mask");
        // From 32 up they are the C library's own.
        assert_eq!(signals & 0x7fff_ffff, 0, "{name}{line}");
    }
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))
            .expect("it")
            .trim(),
        "0"
    );
    connection
        .call(Request::StopTool {
            id,
            how: ToolStop::Kill,
        })
        .expect("killed");
    let started = start_standby(&mut connection, &data, &scratch);
    let guards = descriptors(guard.pid());
    assert!(
        guards.values().any(|it| it.starts_with("socket:")),
        "{guards:?}"
    );
    assert!(!descriptors(started.postmaster.pid).is_empty());
    // PostgreSQL has children that live for a moment only.
    for (pid, held) in processes_in(&data)
        .into_iter()
        .filter_map(|pid| Some((pid, descriptors_if_alive(pid)?)))
    {
        for (number, name) in held {
            assert!(
                !guards
                    .values()
                    .any(|it| *it == name && name.starts_with("socket:"))
            );
            assert!(!name.contains("guard."), "{pid} holds {name}");
            assert!(!name.contains("cgroup"), "{pid} holds {name}");
            assert!(
                !name.starts_with("pipe:") || number > 2,
                "{pid} writes into {name}"
            );
        }
    }
    let scheduling = fs::read_to_string(format!("/proc/{}/stat", started.postmaster.pid));
    let scheduling = scheduling.expect("stat");
    let fields: Vec<&str> = scheduling
        .rsplit_once(')')
        .expect("a stat line")
        .1
        .split_whitespace()
        .collect();
    assert_eq!(fields[38], "0", "policy SCHED_OTHER: {scheduling}");
}

/// A guard whose test failed is not left behind.
struct EndOnPanic(i32);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            send(self.0, "TERM");
        }
    }
}

#[test]
fn the_guard_closes_what_its_starter_leaked() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    let leaked = scratch.path("leaked");
    let log = fs::File::create(scratch.path("guard.log")).expect("a log");
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("exec 7>{} ; exec \"$@\"", leaked.display()))
        .arg("sh")
        .arg(env!("CARGO_BIN_EXE_clusterd-guard"))
        .args(["--user", "postgres", "--data-dir"])
        .arg(&data)
        .arg("--socket")
        .arg(scratch.path("guard.sock"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("sh");
    let pid = i32::try_from(child.id()).expect("a pid");
    let _end = EndOnPanic(pid);
    wait_until("it serves", || {
        let socket = scratch.path("guard.sock");
        GuardConnection::connect(&socket, LIMIT)
            .map(drop)
            .map_err(|error| format!("{error:?}"))
    });
    assert!(leaked.exists());
    assert!(!descriptors(pid).values().any(|it| it.contains("leaked")));
    for signal in ["HUP", "INT"] {
        send(pid, signal);
    }
    let hello = GuardConnection::connect(&scratch.path("guard.sock"), LIMIT)
        .and_then(|mut connection| connection.hello())
        .expect("SIGHUP and SIGINT change nothing");
    assert_eq!(hello.pid, pid);
    assert_eq!(hello.real_time_priority, Granted::Yes);
    assert_eq!(hello.memory_lock, Granted::Yes);
    assert!(hello.kill_latency_us.is_some());
    assert_eq!(hello.boot_id, clock::boot_id().expect("a boot id"));
    send(pid, "TERM");
    assert_eq!(child.wait().expect("our child").code(), Some(0));
    assert!(!scratch.path("guard.sock").exists());
    if let Some(path) = hello.cgroup_path {
        assert!(!path.exists(), "its control group is removed");
    }
}

#[test]
fn sigterm_stops_postgres_before_the_guard_ends() {
    for cgroup in ["auto", "none"] {
        let scratch = Scratch::new();
        let data = scratch.data("data");
        let mut guard = TestGuard::start(&scratch, &data, cgroup);
        let mut connection = guard.connect();
        start_primary(&mut connection, &data, &scratch, 1, LIMIT);
        let (mut client, backend) = start_orphan_maker(&scratch.0);
        send(backend, "STOP");
        let order = tool(Path::new("/bin/sleep"), &["60"], &scratch.path("tool.log"));
        let pid = match connection.call(Request::RunTool(order)) {
            Ok(Answer::ToolStarted { pid, .. }) => pid,
            other => panic!("{other:?}"),
        };
        send(guard.pid(), "TERM");
        let status = guard.process.wait().expect("our child");
        assert_eq!(
            (status.code(), status.signal()),
            (Some(0), None),
            "{}",
            guard.log_text()
        );
        assert_eq!(processes_in(&data), Vec::<i32>::new());
        assert!(!is_alive(pid) && !is_alive(backend));
        client.wait().expect("psql ends");
    }
}

#[test]
fn tools_run_as_the_user_and_are_reported() {
    for cgroup in ["auto", "none"] {
        let scratch = Scratch::new();
        let data = scratch.path("data");
        let guard = TestGuard::start(&scratch, &data, cgroup);
        let mut connection = guard.connect();
        let text = data.display().to_string();
        let order = tool(
            &bin("initdb"),
            &["-N", "-D", &text],
            &scratch.path("initdb.log"),
        );
        let run = |connection: &mut GuardConnection, order| match connection
            .call(Request::RunTool(order))
        {
            Ok(Answer::ToolStarted { id, pid }) => (id, pid),
            other => panic!("{other:?}"),
        };
        let end_of = |connection: &mut GuardConnection, id| {
            wait_until("the tool ends", || {
                let status = connection.status().map_err(|error| format!("{error:?}"))?;
                let tool = status.tools.iter().find(|tool| tool.id == id).cloned();
                tool.as_ref()
                    .and_then(|it| it.ended)
                    .ok_or_else(|| format!("{tool:?}"))
            })
        };
        let (id, _) = run(&mut connection, order);
        let refusal = refused(connection.call(Request::AcknowledgeTool { id }));
        assert_eq!(refusal, RefusalCode::ToolRuns);
        assert_eq!(end_of(&mut connection, id).exit, Exit::Code(0));
        assert_eq!(
            fs::metadata(&data).expect("made").uid(),
            account().uid.as_raw()
        );
        connection
            .call(Request::AcknowledgeTool { id })
            .expect("acknowledged");
        assert!(connection.status().expect("status").tools.is_empty());
        // A tool that is killed takes its children with it.
        let script = "sleep 61 & echo $! > \"$0\"; wait";
        let file = scratch.path(&format!("child-{cgroup}"));
        let name = file.display().to_string();
        let output = scratch.path("tool.log");
        let (id, pid) = run(
            &mut connection,
            tool(Path::new("/bin/sh"), &["-c", script, &name], &output),
        );
        let child: i32 = wait_until("the tool has a child", || {
            let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
            text.trim().parse().map_err(|_| text)
        });
        assert!(is_alive(child));
        connection
            .call(Request::StopTool {
                id,
                how: ToolStop::Kill,
            })
            .expect("killed");
        assert_eq!(end_of(&mut connection, id).exit, Exit::Signal(9));
        wait_until("its child is gone", || {
            if is_alive(child) {
                Err(format!("{pid} left {child}"))
            } else {
                Ok(())
            }
        });
        let (id, _) = run(
            &mut connection,
            tool(Path::new("/bin/sleep"), &["62"], &output),
        );
        connection
            .call(Request::StopTool {
                id,
                how: ToolStop::Terminate,
            })
            .expect("told");
        assert_eq!(end_of(&mut connection, id).exit, Exit::Signal(15));
        let unknown = refused(connection.call(Request::StopTool {
            id: 1,
            how: ToolStop::Kill,
        }));
        assert_eq!(unknown, RefusalCode::NoSuchTool);
    }
}

#[test]
fn a_line_that_is_no_request_is_answered_and_the_connection_kept() {
    let scratch = Scratch::new();
    let guard = TestGuard::start(&scratch, &scratch.path("data"), "none");
    let mut stream = UnixStream::connect(&guard.socket).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut answers = BufReader::new(stream.try_clone().expect("a clone"));
    let mut ask = |text: &[u8]| {
        stream.write_all(text).expect("written");
        let mut line = String::new();
        answers.read_line(&mut line).expect("an answer");
        match serde_json::from_str(&line).expect("a line of the guard") {
            GuardLine::Answer {
                id,
                outcome: Outcome::Refused(refusal),
            } => (id, refusal.code),
            GuardLine::Answer { id, .. } => (id, RefusalCode::Killing),
            other @ GuardLine::Event(_) => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(b"no request\n"), (None, RefusalCode::Malformed));
    let unknown = b"{\"id\":1,\"request\":\"status\",\"extra\":1}\n";
    assert_eq!(ask(unknown), (None, RefusalCode::Malformed));
    let mut long = vec![b'x'; 3 * LINE_LIMIT];
    long.push(b'\n');
    assert_eq!(ask(&long), (None, RefusalCode::Malformed));
    let version = b"{\"id\":5,\"request\":{\"hello\":{\"version\":99}}}\n";
    assert_eq!(ask(version), (Some(5), RefusalCode::WrongVersion));
    // Any code but a refusal: it was carried out.
    assert_eq!(
        ask(b"{\"id\":6,\"request\":\"status\"}\n"),
        (Some(6), RefusalCode::Killing)
    );
}

#[test]
fn only_root_and_the_user_may_use_the_socket() {
    let scratch = Scratch::new();
    let guard = TestGuard::start(&scratch, &scratch.path("data"), "none");
    let facts = fs::metadata(&guard.socket).expect("the socket");
    assert_eq!(facts.mode() & 0o777, 0o600);
    assert_eq!(facts.uid(), account().uid.as_raw());
    // With the file's own protection out of the way the guard still looks at who connects.
    run(Command::new("chmod").arg("666").arg(&guard.socket));
    let asked_as = |user: &str| {
        let output = Command::new("setpriv")
            .args([&format!("--reuid={user}"), "--clear-groups", "--"])
            .arg(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "asking_process", "--nocapture"])
            .env("GUARD_TEST_SOCKET", &guard.socket)
            .current_dir("/")
            .output()
            .expect("setpriv");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (allowed, other) = (asked_as("postgres"), asked_as("nobody"));
    assert!(allowed.contains("it answered"), "{allowed}");
    assert!(
        other.contains("it refused") && !other.contains("it answered"),
        "{other}"
    );
}

/// Not a test: a process of `only_root_and_the_user_may_use_the_socket`.
#[test]
#[ignore = "run by another test as a process of its own"]
fn asking_process() {
    let Ok(socket) = std::env::var("GUARD_TEST_SOCKET") else {
        return;
    };
    let mut connection = GuardConnection::connect(Path::new(&socket), LIMIT).expect("connected");
    match connection.status() {
        Ok(_) => println!("it answered"),
        Err(Error::Talk(_)) => println!("it refused"),
        Err(error) => println!("{error:?}"),
    }
}

#[test]
fn there_is_one_guard_for_a_socket_and_one_for_a_directory() {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let guard = TestGuard::start(&scratch, &data, "auto");
    let mut connection = guard.connect();
    let started = start_standby(&mut connection, &data, &scratch);
    let second = |socket: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_clusterd-guard"))
            .args(["--user", "postgres", "--data-dir"])
            .arg(&data)
            .arg("--socket")
            .arg(socket)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = second(&guard.socket);
    assert!(text.contains("another guard serves"), "{text}");
    let text = second(&scratch.path("second.sock"));
    assert!(
        text.contains("another guard holds the data directory"),
        "{text}"
    );
    assert!(
        is_alive(started.postmaster.pid),
        "the second guard killed nothing"
    );
}

#[test]
fn bad_arguments_are_reported_at_once() {
    let output = Command::new(env!("CARGO_BIN_EXE_clusterd-guard"))
        .args([
            "--socket",
            "relative",
            "--user",
            "root",
            "--realtime-priority",
            "200",
        ])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    for name in ["--socket", "--data-dir", "--user", "--realtime-priority"] {
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[test]
fn the_watchdog_is_fed_by_the_lease_and_closed_when_the_set_is_empty() {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let device = scratch.path("watchdog");
    fs::write(&device, "").expect("a fake device");
    let path = device.display().to_string();
    let guard = TestGuard::start_with(&scratch, &data, "auto", &["--watchdog", &path]);
    let mut connection = guard.connect();
    assert_eq!(connection.hello().expect("hello").watchdog, Granted::Yes);
    let started = start_standby(&mut connection, &data, &scratch);
    let fed = || fs::read(&device).expect("the fake device");
    assert_eq!(fed(), b"", "a standby has no lease");
    connection
        .arm(arm(started.set_id, 1, Duration::from_secs(20)))
        .expect("armed");
    assert_eq!(fed(), b"\0");
    connection
        .arm(arm(started.set_id, 1, Duration::from_secs(10)))
        .expect("answered");
    assert_eq!(fed(), b"\0", "a deadline that does not move does not feed");
    connection
        .arm(arm(started.set_id, 1, Duration::from_secs(21)))
        .expect("armed");
    assert_eq!(fed(), b"\0\0");
    connection.kill("the test").expect("killed");
    assert_eq!(fed(), b"\0\0V");
}

#[test]
fn the_user_can_kill_the_control_group_when_the_guard_is_gone() {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let mut guard = TestGuard::start(&scratch, &data, "auto");
    let mut connection = guard.connect();
    let path = connection
        .hello()
        .expect("hello")
        .cgroup_path
        .expect("a control group");
    let started = start_standby(&mut connection, &data, &scratch);
    send(started.postmaster.pid, "STOP");
    guard.kill();
    assert!(is_alive(started.postmaster.pid));
    run(Command::new("setpriv")
        .args(["--reuid=postgres", "--clear-groups", "--", "/bin/sh", "-c"])
        .arg(format!("echo 1 > {}/cgroup.kill", path.display())));
    wait_until("everybody is gone", || match processes_in(&data) {
        list if list.is_empty() => Ok(()),
        list => Err(format!("{list:?}")),
    });
    drop(guard);
    // A new guard comes up, so that it removes the group when it ends.
    assert!(
        TestGuard::start(&scratch, &data, "auto")
            .connect()
            .status()
            .expect("status")
            .empty
    );
}
