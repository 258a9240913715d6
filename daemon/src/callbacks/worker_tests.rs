//! Real child processes: what they are told, when they are killed, what is recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cluster_core::model::lease::Moment;
use cluster_core::model::{Epoch, TimelineId};

use super::super::{Callbacks, Server, Sight};
use super::*;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// A limit that no test reaches by accident.
const LONG: Duration = Duration::from_secs(60);

/// A program in a directory of its own, and the daemon's end.
struct Scene {
    dir: tempfile::TempDir,
    stop: watch::Sender<bool>,
    callbacks: Callbacks,
}

fn moment() -> Moment {
    Moment(Duration::from_secs(7))
}

impl Scene {
    /// `script` is what /bin/sh runs for `kind`; its own directory is `$HERE`. A file that was just written
    /// is not started itself: another test's fork may still hold it open for writing.
    fn new(kind: Kind, script: &str, time_limit: Duration) -> Scene {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("told");
        let here = dir.path().display();
        fs::write(&path, format!("HERE={here}\n{script}\n")).expect("written");
        let command = ["/bin/sh", &path.display().to_string(), "first"];
        Scene::with(dir, kind, &command, time_limit)
    }

    fn with(dir: tempfile::TempDir, kind: Kind, command: &[&str], time_limit: Duration) -> Scene {
        let program = Program {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            time_limit,
        };
        let stop = watch::Sender::new(false);
        let place = Place {
            cluster: "main".parse().expect("a name"),
            me: "m1".parse().expect("a name"),
            clock: moment,
        };
        let programs = BTreeMap::from([(kind, program)]);
        let callbacks = Callbacks::start(&place, programs, &stop.subscribe()).expect("threads");
        Scene {
            dir,
            stop,
            callbacks,
        }
    }

    fn look(&self, server: Server) {
        self.callbacks.look(&Sight {
            server,
            is_restarting: false,
            epoch: Epoch(4),
            timeline: Some(TimelineId(2)),
        });
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// Until it holds; shows what was seen last.
    async fn wait(&self, what: &str, holds: impl Fn(&Told) -> bool) -> Told {
        let seen = || self.callbacks.told().remove(0);
        let wait = async {
            while !holds(&seen()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{what}: {:?}", seen());
        seen()
    }

    /// Until a file has a whole line; it.
    async fn line(&self, name: &str) -> String {
        let wait = async {
            while !self.file(name).ends_with('\n') {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{name} has no line");
        self.file(name).trim().to_owned()
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    // The state follows the name in brackets; a zombie is dead.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
    state.is_some_and(|state| !state.starts_with('Z'))
}

async fn gone(pid: &str) {
    let wait = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "{pid} lives");
}

const STANDBY: Server = Server::Standby { started_unix_ms: 1 };
const PRIMARY: Server = Server::Primary {
    started_unix_ms: 1,
    is_open: true,
};

#[tokio::test]
async fn a_program_is_told_as_patroni_tells_it_and_nothing_of_our_environment() {
    let script =
        "echo \"$*\" > $HERE/arguments; env > $HERE/environment; echo said; echo wrong >&2";
    let scene = Scene::new(Kind::OnStart, script, LONG);
    scene.look(STANDBY);
    let told = scene.wait("it is done", |told| told.done == 1).await;
    assert_eq!(scene.file("arguments"), "first on_start replica main\n");
    let environment = scene.file("environment");
    for line in [
        "CLUSTERD_CLUSTER=main",
        "CLUSTERD_MEMBER=m1",
        "CLUSTERD_ACTION=on_start",
        "CLUSTERD_ROLE=replica",
        "CLUSTERD_EPOCH=4",
        "CLUSTERD_TIMELINE=2",
    ] {
        assert!(environment.lines().any(|it| it == line), "{environment}");
    }
    assert!(!environment.contains("CARGO"), "{environment}");
    let last = told.last.expect("it has run");
    assert!(last.is_done && last.at == moment(), "{last:?}");
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children_and_the_newest_word_follows() {
    let script = "case $3 in primary) sleep 1000 & echo $! > $HERE/child; wait;; \
                  *) echo $3 >> $HERE/after;; esac";
    let limit = Duration::from_secs(1);
    let scene = Scene::new(Kind::OnRoleChange, script, limit);
    scene.look(STANDBY);
    scene.look(PRIMARY);
    let child = scene.line("child").await;
    assert!(is_alive(&child));
    // Two more while it hangs: only the newest of them is run.
    scene.look(Server::Down);
    scene.look(STANDBY);
    let told = scene.wait("the newest", |told| told.done == 1).await;
    gone(&child).await;
    assert_eq!(scene.file("after"), "replica\n", "demoted was replaced");
    let counts = (told.failed, told.timed_out, told.replaced);
    assert_eq!(counts, (0, 1, 1), "{told:?}");
}

#[tokio::test]
async fn what_fails_and_what_cannot_be_started_is_recorded() {
    let scene = Scene::new(Kind::OnStart, "exit 3", LONG);
    scene.look(STANDBY);
    let told = scene.wait("it failed", |told| told.failed == 1).await;
    let text = told.last.expect("it has run").text;
    assert!(text.contains("exit status: 3"), "{text}");
    let dir = tempfile::tempdir().expect("a directory");
    let scene = Scene::with(dir, Kind::OnStart, &["/nowhere/told"], LONG);
    scene.look(STANDBY);
    let told = scene.wait("it failed too", |told| told.failed == 1).await;
    let text = told.last.expect("it has run").text;
    assert!(text.contains("cannot be started"), "{text}");
}

#[tokio::test]
async fn what_a_program_leaves_running_is_not_waited_for_and_its_flood_is_bounded() {
    let script = "(echo $$ >/dev/null; sleep 1000) & echo $! > $HERE/child; \
                  yes | head -c 1000000; exit 0";
    let scene = Scene::new(Kind::OnStart, script, LONG);
    scene.look(STANDBY);
    scene.wait("it is done", |told| told.done == 1).await;
    let child = scene.line("child").await;
    assert!(is_alive(&child), "it was left to itself");
    let pid = child.parse().ok().and_then(Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("killed");
    let mut said = Vec::new();
    let words = Mutex::new(&mut said);
    let flood = vec![b'y'; 3 * SAID_LIMIT];
    read(Some(&flood[..]), &words).await;
    assert_eq!(said.len(), SAID_LIMIT);
}

#[tokio::test]
async fn before_stop_is_waited_for_within_its_limit_and_killed_when_a_fence_comes() {
    let script = "test -e $HERE/quick && exit 1; echo $$ > $HERE/pid; sleep 1000";
    let scene = Scene::new(Kind::BeforeStop, script, LONG);
    scene.callbacks.before_stop().await;
    assert_eq!(
        scene.callbacks.told()[0].last,
        None,
        "nothing runs: nothing to stop"
    );
    scene.look(PRIMARY);
    fs::write(scene.dir.path().join("quick"), "").expect("written");
    scene.callbacks.before_stop().await;
    let told = scene.callbacks.told().remove(0);
    assert_eq!((told.failed, told.is_running), (1, false), "{told:?}");

    fs::remove_file(scene.dir.path().join("quick")).expect("removed");
    let pid = tokio::select! {
        () = scene.callbacks.before_stop() => panic!("it hangs"),
        pid = scene.line("pid") => pid,
    };
    gone(&pid).await;
    let told = scene.wait("it is recorded", |told| told.failed == 2).await;
    assert!(told.last.expect("it has run").text.contains("killed"));
}

#[tokio::test]
async fn before_stop_returns_at_its_limit() {
    let scene = Scene::new(Kind::BeforeStop, "sleep 1000", Duration::from_secs(1));
    scene.look(PRIMARY);
    let begin = Instant::now();
    scene.callbacks.before_stop().await;
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    let told = scene
        .wait("it is recorded", |told| told.timed_out == 1)
        .await;
    assert_eq!((told.done, told.failed), (0, 0));
}

#[tokio::test]
async fn the_end_of_the_daemon_leaves_no_program_behind() {
    let scene = Scene::new(Kind::OnStart, "echo $$ > $HERE/pid; sleep 1000", LONG);
    scene.look(STANDBY);
    let pid = scene.line("pid").await;
    scene.stop.send_replace(true);
    scene.callbacks.ended().await;
    gone(&pid).await;
}
