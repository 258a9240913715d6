//! The dead-man's switch against real PostgreSQL: nobody is left after the deadline, whoever died.
//! Each case runs with a control group and without.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use clusterd_guard::clock;
use clusterd_guard::connection::{Error, GuardConnection};
use clusterd_guard::protocol::{Event, Exit, Granted, RefusalCode, Request, StopMode};
use support::*;

/// Generous against the 15 s an orphan commits for, tight against "not killed at all".
const KILL_BOUND: Duration = Duration::from_millis(1500);

fn refused(result: Result<impl std::fmt::Debug, Error>) -> RefusalCode {
    match result {
        Err(Error::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn a_crashed_postmaster_leaves_no_computing_orphan(cgroup: &'static str) {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let guard = TestGuard::start(&scratch, &data, cgroup);
    let mut connection = guard.connect();
    let started = start_primary(&mut connection, &data, &scratch, 4, Duration::from_secs(20));
    let (mut client, backend) = start_orphan_maker(&scratch.0);
    let armed = connection
        .arm(arm(started.set_id, 4, Duration::from_secs(25)))
        .expect("armed");
    // Left alone, the backend would compute and commit for as long as its procedure lasts.
    connection.call(Request::Subscribe).expect("subscribed");
    send(started.postmaster.pid, "KILL");
    let exited = connection.next_event(LIMIT).expect("an event");
    assert!(
        matches!(exited, Event::PostmasterExited(it) if it.exit == Exit::Signal(9)),
        "{exited:?}"
    );
    wait_until("the set is empty", || match connection.next_event(LIMIT) {
        Ok(Event::SetEmpty { set_id }) if set_id == started.set_id => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(
        clock::boottime_ns() < armed.kill_at_ns,
        "it did not wait for the deadline"
    );
    assert!(!is_alive(backend), "the computing backend is gone");
    assert_eq!(processes_in(&data), Vec::<i32>::new());
    let status = connection.status().expect("status");
    assert!(status.empty && status.processes == 0, "{status:?}");
    assert_eq!(status.burnt_epoch, Some(4), "a crash ends the epoch");
    client.wait().expect("psql ends");
}

#[test]
fn a_crashed_postmaster_leaves_no_computing_orphan_with_a_cgroup() {
    a_crashed_postmaster_leaves_no_computing_orphan("auto");
}

#[test]
fn a_crashed_postmaster_leaves_no_computing_orphan_without_a_cgroup() {
    a_crashed_postmaster_leaves_no_computing_orphan("none");
}

fn at_the_deadline_everything_is_killed_and_the_epoch_is_burnt(cgroup: &'static str) {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let guard = TestGuard::start(&scratch, &data, cgroup);
    let mut connection = guard.connect();
    let started = start_primary(&mut connection, &data, &scratch, 7, Duration::from_secs(20));
    let (mut client, _) = start_orphan_maker(&scratch.0);
    let hello = connection.hello().expect("hello");
    if cgroup == "auto" {
        assert_eq!(hello.cgroup, Granted::Yes, "this machine has cgroup v2");
    }
    assert_eq!(
        refused(connection.arm(arm(started.set_id, 8, LIMIT))),
        RefusalCode::WrongEpoch
    );
    // Only forwards: the guard answers what is in force.
    let early = arm(started.set_id, 7, Duration::from_millis(200));
    let in_force = connection.arm(early).expect("answered");
    assert!(
        in_force.kill_at_ns > early.kill_at_ns + 5_000_000_000,
        "{in_force:?}"
    );
    let report = wait_until("the deadline", || {
        let status = connection.status().map_err(|error| format!("{error:?}"))?;
        status
            .last_kill
            .clone()
            .filter(|_| status.empty)
            .ok_or_else(|| format!("{status:?}"))
    });
    assert_eq!(report.reason, "deadline");
    assert!(report.verified && report.killed >= 3, "{report:?}");
    assert!(
        report.begin_ns >= in_force.kill_at_ns,
        "not before the deadline: {report:?}"
    );
    let late = Duration::from_nanos(report.end_ns - in_force.kill_at_ns);
    assert!(late < KILL_BOUND, "verified {late:?} after the deadline");
    println!(
        "MEASURED cgroup={cgroup} probe={:?}us deadline to begin={}us begin to verified={}us of {}",
        hello.kill_latency_us,
        (report.begin_ns - in_force.kill_at_ns) / 1000,
        (report.end_ns - report.begin_ns) / 1000,
        report.killed
    );
    assert_eq!(processes_in(&data), Vec::<i32>::new());
    client.wait().expect("psql ends");
    // The epoch is over for every later set; a newer one is not.
    let again = start_standby(&mut connection, &data, &scratch);
    assert!(again.set_id > started.set_id);
    for epoch in [6, 7] {
        let refusal = refused(connection.arm(arm(again.set_id, epoch, LIMIT)));
        assert_eq!(refusal, RefusalCode::EpochBurnt);
    }
    let old = refused(connection.arm(arm(started.set_id, 8, LIMIT)));
    assert_eq!(old, RefusalCode::NoSuchSet);
    connection
        .arm(arm(again.set_id, 8, LIMIT))
        .expect("a newer epoch");
}

#[test]
fn at_the_deadline_everything_is_killed_and_the_epoch_is_burnt_with_a_cgroup() {
    at_the_deadline_everything_is_killed_and_the_epoch_is_burnt("auto");
}

#[test]
fn at_the_deadline_everything_is_killed_and_the_epoch_is_burnt_without_a_cgroup() {
    at_the_deadline_everything_is_killed_and_the_epoch_is_burnt("none");
}

/// Not a test: the process of `a_dead_or_frozen_client_changes_nothing`.
#[test]
#[ignore = "run by another test as a process of its own"]
fn client_process() {
    let Ok(directory) = std::env::var("GUARD_TEST_CLIENT") else {
        return;
    };
    let scratch = std::mem::ManuallyDrop::new(Scratch(directory.into()));
    let socket = scratch.path("guard.sock");
    let mut connection = GuardConnection::connect(&socket, LIMIT).expect("the guard listens");
    let data = scratch.path("data");
    let started = start_primary(&mut connection, &data, &scratch, 1, Duration::from_secs(20));
    let armed = connection
        .arm(arm(started.set_id, 1, Duration::from_secs(21)))
        .expect("armed");
    fs::write(scratch.path("armed.new"), armed.kill_at_ns.to_string()).expect("the answer");
    fs::rename(scratch.path("armed.new"), scratch.path("armed")).expect("the answer");
    loop {
        std::thread::park();
    }
}

fn a_dead_or_frozen_client_changes_nothing(cgroup: &'static str, signal: &str) {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let guard = TestGuard::start(&scratch, &data, cgroup);
    let mut client = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "client_process"])
        .env("GUARD_TEST_CLIENT", &scratch.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the client starts");
    let kill_at_ns: u64 = wait_until("the client has armed", || {
        let text = fs::read_to_string(scratch.path("armed")).map_err(|it| it.to_string())?;
        text.parse().map_err(|_| text)
    });
    send(i32::try_from(client.id()).expect("a pid fits"), signal);
    // It serves on until the deadline, and nobody is left after it.
    try_sql(&scratch.0, "create table still_here()").expect("a write before the deadline");
    assert!(clock::boottime_ns() < kill_at_ns);
    // Nobody talks to the guard meanwhile: its own timer must wake it.
    wait_until("PostgreSQL is gone", || match processes_in(&data) {
        list if list.is_empty() => Ok(()),
        list => Err(format!("{list:?}")),
    });
    let mut connection = guard.connect();
    let report = wait_until("the deadline", || {
        let status = connection.status().map_err(|error| format!("{error:?}"))?;
        status
            .last_kill
            .clone()
            .filter(|_| status.empty)
            .ok_or_else(|| format!("{status:?}"))
    });
    assert!(
        report.begin_ns >= kill_at_ns && report.reason == "deadline",
        "{report:?}"
    );
    assert!(
        report.end_ns - kill_at_ns < clock::nanoseconds(KILL_BOUND),
        "{report:?}"
    );
    assert_eq!(processes_in(&data), Vec::<i32>::new());
    client.kill().expect("our child");
    client.wait().expect("our child");
}

#[test]
fn a_killed_client_changes_nothing() {
    a_dead_or_frozen_client_changes_nothing("auto", "KILL");
}

#[test]
fn a_frozen_client_changes_nothing() {
    a_dead_or_frozen_client_changes_nothing("none", "STOP");
}

fn a_dead_guard_takes_postgres_with_it(cgroup: &'static str) {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let mut guard = TestGuard::start(&scratch, &data, cgroup);
    let mut connection = guard.connect();
    start_primary(&mut connection, &data, &scratch, 1, LIMIT);
    assert!(!processes_in(&data).is_empty());
    guard.kill();
    let begin = clock::boottime();
    wait_until("PostgreSQL is gone", || match processes_in(&data) {
        list if list.is_empty() => Ok(()),
        list => Err(format!("{list:?}")),
    });
    println!(
        "MEASURED cgroup={cgroup} guard killed to PostgreSQL gone: {:?}",
        clock::boottime() - begin
    );
    drop(guard);
    let guard = TestGuard::start(&scratch, &data, cgroup);
    assert!(guard.connect().status().expect("status").empty);
}

#[test]
fn a_dead_guard_takes_postgres_with_it_with_a_cgroup() {
    a_dead_guard_takes_postgres_with_it("auto");
}

#[test]
fn a_dead_guard_takes_postgres_with_it_without_a_cgroup() {
    a_dead_guard_takes_postgres_with_it("none");
}

fn a_new_guard_kills_left_overs_before_it_says_empty(cgroup: &'static str) {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let mut guard = TestGuard::start(&scratch, &data, cgroup);
    let mut connection = guard.connect();
    let started = start_primary(&mut connection, &data, &scratch, 1, LIMIT);
    let (mut client, backend) = start_orphan_maker(&scratch.0);
    // A frozen postmaster and a frozen computing backend do not hear the parent-death signal.
    send(started.postmaster.pid, "STOP");
    send(backend, "STOP");
    guard.kill();
    assert!(is_alive(started.postmaster.pid) && is_alive(backend));
    drop(guard);
    let guard = TestGuard::start(&scratch, &data, cgroup);
    assert!(
        !is_alive(started.postmaster.pid) && !is_alive(backend),
        "{}",
        guard.log_text()
    );
    let status = guard.connect().status().expect("status");
    assert!(status.empty, "{status:?}");
    client.wait().expect("psql ends");
}

#[test]
fn a_new_guard_kills_left_overs_before_it_says_empty_with_a_cgroup() {
    a_new_guard_kills_left_overs_before_it_says_empty("auto");
}

#[test]
fn a_new_guard_kills_left_overs_before_it_says_empty_without_a_cgroup() {
    a_new_guard_kills_left_overs_before_it_says_empty("none");
}

#[test]
fn an_ordered_kill_is_verified_and_may_be_repeated() {
    for cgroup in ["auto", "none"] {
        let scratch = Scratch::new();
        let data = scratch.data("data");
        let guard = TestGuard::start(&scratch, &data, cgroup);
        let mut connection = guard.connect();
        start_primary(&mut connection, &data, &scratch, 3, LIMIT);
        let report = connection.kill("the test").expect("killed");
        assert!(report.verified && report.killed >= 3, "{report:?}");
        assert_eq!(processes_in(&data), Vec::<i32>::new());
        println!(
            "MEASURED cgroup={cgroup} order to verified={}us of {}",
            (report.end_ns - report.begin_ns) / 1000,
            report.killed
        );
        let again = connection.kill("the test").expect("killed again");
        assert!(again.verified && again.killed == 0, "{again:?}");
        let status = connection.status().expect("status");
        assert!(status.empty && status.burnt_epoch == Some(3), "{status:?}");
    }
}

#[test]
fn a_clean_stop_leaves_the_epoch_usable_and_an_immediate_one_does_not() {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let guard = TestGuard::start(&scratch, &data, "auto");
    let mut connection = guard.connect();
    let first = start_primary(&mut connection, &data, &scratch, 2, LIMIT);
    stop_postgres(&mut connection, first.set_id);
    assert_eq!(connection.status().expect("status").burnt_epoch, None);
    let second = start_primary(&mut connection, &data, &scratch, 2, LIMIT);
    let stop = Request::Stop {
        set_id: second.set_id,
        mode: StopMode::Immediate,
    };
    connection.call(stop).expect("stop");
    wait_until("the set is empty", || {
        let status = connection.status().map_err(|error| format!("{error:?}"))?;
        if status.empty {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    });
    assert_eq!(connection.status().expect("status").burnt_epoch, Some(2));
}

#[test]
fn promotion_needs_a_deadline_in_force() {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let guard = TestGuard::start(&scratch, &data, "auto");
    let mut connection = guard.connect();
    let started = start_standby(&mut connection, &data, &scratch);
    let promote = |epoch| Request::Promote {
        set_id: started.set_id,
        epoch,
    };
    assert_eq!(refused(connection.call(promote(1))), RefusalCode::NotArmed);
    connection
        .arm(arm(started.set_id, 1, LIMIT))
        .expect("armed");
    assert_eq!(refused(connection.call(promote(2))), RefusalCode::NotArmed);
    let pid = started.postmaster.pid;
    let answer = connection.call(promote(1)).expect("promoted");
    assert_eq!(answer, clusterd_guard::protocol::Answer::Signalled { pid });
}
