//! What the operator's own programs are told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};

use crate::drill::{Drill, LONGEST_OUTAGE};

/// Writes down what it is told, a file a member; then, if there is a file that says so, it hangs with a child.
const PROGRAM: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$1 $2 $3 $CLUSTERD_EPOCH $CLUSTERD_TIMELINE $(id -un)" >> "told-$CLUSTERD_MEMBER"
if [ -e "hang-$1-$2" ]; then
    sleep 1000 &
    echo "$!" >> "pids"
    wait
fi
"#;

/// The directory of the program and its notes.
struct Notes(tempfile::TempDir);

impl Notes {
    fn new() -> Result<Notes> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
        let program = dir.path().join("program");
        fs::write(&program, PROGRAM)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Notes(dir))
    }

    fn config(&self) -> String {
        let program = self.0.path().join("program");
        let names = [
            "on_start",
            "on_stop",
            "on_restart",
            "on_role_change",
            "on_reload",
            "post_activate",
            "before_stop",
        ];
        let tables = names.map(|name| {
            format!(
                "\n[callbacks.{name}]\ncommand = [\"{}\"]\ntime_limit = \"2s\"\n",
                program.display()
            )
        });
        tables.concat()
    }

    fn read(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.0.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Action and role of everything this member's programs were told.
    fn told(&self, cluster: &Cluster, member: usize) -> Vec<String> {
        let lines = self.read(&format!("told-{}", cluster.members[member].name));
        let short = lines.iter().map(|line| {
            let words: Vec<&str> = line.split(' ').take(2).collect();
            words.join(" ")
        });
        short.collect()
    }

    /// Until the newest of what was told since `from` is all of this, whatever else was.
    fn wait(&self, cluster: &Cluster, member: usize, from: usize, all: &[&str]) -> Result<()> {
        wait_until("the programs are told", PATIENCE, || {
            let told = self.told(cluster, member);
            let new = told.get(from..).unwrap_or_default();
            match all.iter().all(|one| new.iter().any(|it| it == one)) {
                true => Ok(()),
                false => Err(format!("{new:?}, not {all:?}")),
            }
        })
    }

    fn hang(&self, callback: &str) -> Result<()> {
        Ok(fs::write(
            self.0.path().join(format!("hang-{callback}")),
            "",
        )?)
    }

    fn heal(&self, callback: &str) -> Result<()> {
        Ok(fs::remove_file(
            self.0.path().join(format!("hang-{callback}")),
        )?)
    }
}

/// What the kernel says of a process that has not ended; one that nobody has waited for yet has ended.
fn alive(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned())?;
    (!state.starts_with('Z')).then_some(stat)
}

/// What one member answers: only it knows how its own programs fared.
fn ask_one(cluster: &Cluster, member: usize, words: &[String]) -> Result<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = cluster.ctl_command(&words)?;
    command.env("CLUSTERCTL_ENDPOINTS", cluster.members[member].grpc());
    let said = command.output()?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

fn metric(cluster: &Cluster, member: usize, callback: &str, outcome: &str) -> Result<f64> {
    let text = cluster.get(member, "/metrics")?.body;
    let wanted = [
        format!("callback=\"{callback}\""),
        format!("outcome=\"{outcome}\""),
    ];
    let line = text.lines().find(|line| {
        line.starts_with("clusterd_callback_total{") && wanted.iter().all(|it| line.contains(it))
    });
    let value = line.and_then(|line| line.rsplit(' ').next());
    Ok(value.map(str::parse).transpose()?.unwrap_or(-1.0))
}

/// Start, restart, reload, a switchover during which the old primary's program hangs, one that `before_stop`
/// holds up until its limit, and a failover: everybody is told, nobody is held up.
#[test]
fn programs_are_told_of_start_switchover_and_failover_and_one_that_hangs_delays_nothing()
-> Result<()> {
    let notes = Notes::new()?;
    let mut cluster = Wanted::new("callbacks").config(&notes.config()).start()?;
    let drill = Drill::begin(&cluster)?;
    let first = drill.primary;
    let [second, third] = [(first + 1) % 3, (first + 2) % 3];
    let name = |member: usize| cluster.members[member].name.clone();
    let names = [name(0), name(1), name(2)];
    let begun = [
        "on_start replica",
        "on_role_change primary",
        "post_activate primary",
    ];
    notes.wait(&cluster, first, 0, &begun)?;
    notes.wait(&cluster, third, 0, &["on_start replica"])?;
    let lines = notes.read(&format!("told-{}", names[first]));
    let line = lines.last().cloned().unwrap_or_default();
    ensure!(
        line.starts_with("post_activate primary callbacks 1 ") && line.ends_with(" postgres"),
        "{line}"
    );

    let from = notes.told(&cluster, third).len();
    cluster.ctl(&["restart", &names[third], "--yes"])?;
    cluster.ctl(&["reload", &names[third], "--yes"])?;
    let restarted = [
        "before_stop replica",
        "on_restart replica",
        "on_reload replica",
    ];
    notes.wait(&cluster, third, from, &restarted)?;
    let told = notes.told(&cluster, third);
    ensure!(
        !told[from..].iter().any(|it| it.starts_with("on_st")),
        "a restart is neither stop nor start: {told:?}"
    );
    cluster.wait_healthy(PATIENCE)?;

    // The program of the member that hands over hangs when PostgreSQL stops there.
    notes.hang("on_stop-primary")?;
    let from = [first, second].map(|member| notes.told(&cluster, member).len());
    cluster.ctl(&["switchover", "--to", &names[second], "--yes"])?;
    ensure!(drill.wait_takeover(&cluster)? == second);
    let became = ["on_role_change primary", "post_activate primary"];
    notes.wait(&cluster, second, from[1], &became)?;
    let ceased = [
        "before_stop primary",
        "on_stop primary",
        "on_role_change replica",
    ];
    notes.wait(&cluster, first, from[0], &ceased)?;
    wait_until("it is killed at its limit", PATIENCE, || {
        match metric(&cluster, first, "on_stop", "timed_out") {
            Ok(1.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let pids = notes.read("pids");
    ensure!(!pids.is_empty(), "it did not hang");
    wait_until("its children too", PATIENCE, || {
        match pids.iter().find_map(|pid| alive(pid)) {
            Some(stat) => Err(stat),
            None => Ok(()),
        }
    })?;
    for (verb, wanted) in [
        ("status", "callback-failed"),
        ("explain", "on_stop primary: killed"),
    ] {
        let mut words = vec![verb.to_owned()];
        words.extend((verb == "explain").then(|| names[first].clone()));
        let shown = ask_one(&cluster, first, &words)?;
        ensure!(shown.contains(wanted), "{shown}");
    }
    notes.heal("on_stop-primary")?;
    cluster.wait_healthy(PATIENCE)?;

    // What is waited for is waited for within its limit.
    notes.hang("before_stop-primary")?;
    cluster.ctl(&["switchover", "--to", &names[first], "--yes"])?;
    ensure!(cluster.wait_other_primary(second, PATIENCE)? == first);
    ensure!(metric(&cluster, second, "before_stop", "timed_out")? == 1.0);
    notes.heal("before_stop-primary")?;
    cluster.wait_healthy(PATIENCE)?;

    // A lost host tells nothing; the new primary's programs hang, and it serves all the same.
    notes.hang("on_role_change-primary")?;
    let from = [0, 1, 2].map(|member| notes.told(&cluster, member).len());
    cluster.members[first].kill_host()?;
    let new = cluster.wait_other_primary(first, PATIENCE)?;
    notes.wait(&cluster, new, from[new], &became)?;
    ensure!(notes.told(&cluster, first).len() == from[first]);
    cluster.members[first].start()?;
    notes.wait(&cluster, first, from[first], &["on_start replica"])?;
    cluster.wait_healthy(PATIENCE)?;
    let (history, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    let missing = cluster.missing(new, &history)?;
    ensure!(missing.is_empty(), "rows are lost: {missing:?}");
    cluster.finish()
}

/// Longer than `probe_limit`: writes are not tried meanwhile, and that is no fault of the disk's.
#[test]
fn a_planned_stop_that_is_prepared_for_long_is_no_failover() -> Result<()> {
    let config = "\n[callbacks.before_stop]\ncommand = [\"/bin/sh\", \"-c\", \"sleep 7\"]\ntime_limit = \"15s\"\n";
    let cluster = Wanted::new("long-stop").config(config).start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let target = cluster.members[(primary + 1) % 3].name.clone();
    cluster.wait_healthy(PATIENCE)?;
    let begin = clock();
    cluster.ctl(&["switchover", "--to", &target, "--yes"])?;
    let took = clock() - begin;
    ensure!(
        took > Duration::from_secs(7),
        "{took:?}: it was not prepared"
    );
    ensure!(cluster.wait_healthy(PATIENCE)? == (primary + 1) % 3);
    let history = cluster.ctl(&["history"])?;
    ensure!(!history.contains("does not work"), "{history}");
    cluster.finish()
}
