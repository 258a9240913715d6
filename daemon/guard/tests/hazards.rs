//! Hazards of the kernel and of PostgreSQL's own ways of ending, which the guard must not inherit.
//! What went wrong elsewhere is in `docs/hazards.md`, by the code in each name.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use clusterd_guard::clock;
use clusterd_guard::protocol::{Answer, Request, StopMode};
use support::*;

/// PostgreSQL's postmaster gives its children so long after an immediate stop.
const POSTMASTER_PATIENCE: Duration = Duration::from_secs(5);

/// An immediate stop waits 5 s for a backend that does not hear it; the deadline does not.
fn a_frozen_backend_delays_an_immediate_stop_and_not_the_deadline(cgroup: &'static str) {
    let scratch = Scratch::new();
    let data = scratch.data("data");
    let guard = TestGuard::start(&scratch, &data, cgroup);
    let mut connection = guard.connect();
    let lease = Duration::from_secs(8);
    let started = start_primary(&mut connection, &data, &scratch, 2, lease);
    let (mut client, backend) = start_session(
        &scratch.0,
        "select pg_sleep(1000)",
        "select pid from pg_stat_activity where wait_event = 'PgSleep'",
    );
    let armed = connection
        .arm(arm(started.set_id, 2, lease))
        .expect("armed");
    send(backend, "STOP");
    // Late enough that only the deadline can end it in time.
    let left = Duration::from_secs(2);
    wait_until("the deadline is near", || {
        let now = clock::boottime_ns();
        if now + clock::nanoseconds(left) >= armed.kill_at_ns {
            Ok(())
        } else {
            Err(format!("{} ns left", armed.kill_at_ns - now))
        }
    });
    let stop = Request::Stop {
        set_id: started.set_id,
        mode: StopMode::Immediate,
    };
    let asked = clock::boottime();
    connection.call(stop).expect("stop");
    let status = wait_until("nobody is left", || {
        let status = connection.status().map_err(|error| format!("{error:?}"))?;
        if status.empty {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    });
    let took = clock::boottime() - asked;
    assert!(
        took < POSTMASTER_PATIENCE,
        "the postmaster's pace: {took:?}"
    );
    let report = status.last_kill.expect("the deadline killed");
    assert!(
        report.reason == "deadline" && report.verified && report.begin_ns >= armed.kill_at_ns,
        "the frozen backend did not hold the stop up: {report:?}"
    );
    assert!(!is_alive(backend), "a stopped process is killed too");
    assert_eq!(processes_in(&data), Vec::<i32>::new());
    client.wait().expect("psql ends");
}

#[test]
fn x12_a_frozen_backend_delays_an_immediate_stop_and_not_the_deadline_with_a_cgroup() {
    a_frozen_backend_delays_an_immediate_stop_and_not_the_deadline("auto");
}

#[test]
fn x12_a_frozen_backend_delays_an_immediate_stop_and_not_the_deadline_without_a_cgroup() {
    a_frozen_backend_delays_an_immediate_stop_and_not_the_deadline("none");
}

/// The parent-death signal is tied to the thread that forked: a parent with threads that come and
/// go would kill PostgreSQL. Whatever the guard is asked, by however many, it stays one thread.
#[test]
fn x25_the_guard_stays_one_thread_and_postgres_outlives_whoever_asked_for_it() {
    for cgroup in ["auto", "none"] {
        let scratch = Scratch::new();
        let data = scratch.data("data");
        let guard = TestGuard::start(&scratch, &data, cgroup);
        let threads = || {
            fs::read_dir(format!("/proc/{}/task", guard.pid()))
                .expect("the guard lives")
                .count()
        };
        // The one that asked for the start is gone before anything else happens.
        let started = std::thread::scope(|scope| {
            let asker = scope.spawn(|| start_standby(&mut guard.connect(), &data, &scratch));
            asker.join().expect("started")
        });
        let parent = fs::read_to_string(format!("/proc/{}/stat", started.postmaster.pid))
            .expect("the postmaster lives");
        let parent = parent
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        assert_eq!(parent, Some(guard.pid()), "the guard itself forked it");
        for round in 0..20 {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut connection = guard.connect();
                    connection.call(Request::Subscribe).expect("subscribed");
                    let order = tool(Path::new("/bin/true"), &[], &scratch.path("tool.log"));
                    match connection.call(Request::RunTool(order)) {
                        Ok(Answer::ToolStarted { .. }) => {}
                        other => panic!("{other:?}"),
                    }
                });
            });
            assert_eq!(threads(), 1, "after round {round}");
        }
        assert!(is_alive(started.postmaster.pid));
        try_sql(&scratch.0, "select 1").expect("it still answers");
    }
}
