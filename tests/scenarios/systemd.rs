//! The units of `config/`, installed as a package would and started by a booted systemd: one member is
//! a whole host with its own service manager, the others run as in every scenario.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::booted::Booted;
use cluster_tests::host::Host;
use cluster_tests::member::{POSTGRES_PORT, signal};
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE, Wanted, sql, wait_until};
use nix::sys::signal::Signal;

use crate::drill::{Drill, LONGEST_OUTAGE};

/// The place of the member under systemd.
const BOOTED: usize = 0;

/// Length of a lease in preset `wan`.
const LEASE_OF_WAN: Duration = Duration::from_secs(12);

/// A healthy cluster whose primary is the member under systemd.
fn primary_under_systemd(name: &str) -> Result<Cluster> {
    let cluster = Wanted::new(name).under_systemd(BOOTED).start()?;
    make_primary(&cluster)?;
    Ok(cluster)
}

fn make_primary(cluster: &Cluster) -> Result<()> {
    if cluster.wait_healthy(PATIENCE)? != BOOTED {
        cluster.ctl(&["switchover", "--to", &cluster.members[BOOTED].name, "--yes"])?;
    }
    ensure!(
        cluster.wait_healthy(PATIENCE)? == BOOTED,
        "it was not switched over"
    );
    Ok(())
}

fn systemd(cluster: &Cluster, place: usize) -> &Booted {
    let booted = cluster.members[place].booted.as_ref();
    booted.expect("this member was made with a service manager")
}

/// A client's session on the member under systemd.
struct Session {
    client: Arc<tokio_postgres::Client>,
    backend: Vec<String>,
}

impl Session {
    fn open(cluster: &Cluster) -> Result<Self> {
        let address = &cluster.members[BOOTED].host.address;
        let config = cluster.login().config(address, POSTGRES_PORT);
        let client =
            cluster.run(async move { sql::connect(&config, Duration::from_secs(3)).await })?;
        let mut session = Self {
            client: Arc::new(client),
            backend: Vec::new(),
        };
        session.backend = session.ask(cluster)?;
        Ok(session)
    }

    fn ask(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let client = self.client.clone();
        let limit = Duration::from_secs(3);
        let sql = "SELECT pg_backend_pid()";
        cluster.run(async move { sql::column(&client, sql, limit).await })
    }

    fn require_the_same(&self, cluster: &Cluster) -> Result<()> {
        let now = self.ask(cluster).context("the session ended")?;
        ensure!(now == self.backend, "{now:?} instead of {:?}", self.backend);
        Ok(())
    }
}

/// A line of `/proc/PID/status`, without its name.
fn status_of(pid: i32, name: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line
        .with_context(|| format!("no {name}"))?
        .trim()
        .to_owned())
}

fn effective_user(pid: i32) -> Result<String> {
    let users = status_of(pid, "Uid:")?;
    let effective = users.split_whitespace().nth(1);
    Ok(effective.context("real, effective, saved")?.to_owned())
}

/// `SCHED_FIFO 10`, as the kernel's program for it prints it.
fn scheduling_of(pid: i32) -> Result<String> {
    let mut ask = std::process::Command::new("chrt");
    ask.args(["--pid", &pid.to_string()]);
    Ok(Host::run(ask)?
        .split_whitespace()
        .fold(String::new(), |text, word| {
            match word.starts_with("SCHED_") || word.parse::<u32>().is_ok() {
                true => format!("{text} {word}"),
                false => text,
            }
        }))
}

/// Whether this machine lets root protect a process from the OOM killer and raise limits: some take the
/// capability away from everybody, and then systemd cannot give it either.
fn may_protect_from_oom() -> Result<bool> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let own = i32::try_from(std::process::id())?;
    let mask = u64::from_str_radix(&status_of(own, "CapBnd:")?, 16)?;
    Ok(mask & CAP_SYS_RESOURCE != 0)
}

fn oom_score_of(pid: i32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    Ok(text.trim().to_owned())
}

fn group_of(pid: i32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(line.context("no cgroup v2")?.to_owned())
}

/// Pid of the postmaster: in its container the file names another one.
fn postmaster(cluster: &Cluster) -> Result<i32> {
    let member = &cluster.members[BOOTED];
    let guard = member.guard_pid()?.to_string();
    let all = member.host.processes();
    let is_postmaster = |pid: i32| status_of(pid, "PPid:").is_ok_and(|parent| parent == guard);
    let found = all
        .iter()
        .find(|(pid, name)| name == "postgres" && is_postmaster(*pid));
    found
        .map(|(pid, _)| *pid)
        .with_context(|| format!("no postmaster: {all:?}"))
}

#[test]
fn units_get_all_they_ask_for() -> Result<()> {
    let cluster = primary_under_systemd("unit-privileges")?;
    let booted = systemd(&cluster, BOOTED);
    let verify = "systemd-analyze verify --man=no /etc/systemd/system/clusterd*.service 2>&1";
    let said = booted.run(&["sh", "-c", verify])?;
    ensure!(said.is_empty(), "systemd-analyze verify: {said}");
    let status = booted.run(&["clusterctl", "--output", "json", "status"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let may_protect = may_protect_from_oom()?;
    let refused: Vec<&serde_json::Value> = status["not_granted"]
        .as_array()
        .context("a list of what was refused")?
        .iter()
        .filter(|line| {
            let line = line.to_string();
            may_protect || !(line.contains("OOM killer") || line.contains("LimitMEMLOCK"))
        })
        .collect();
    ensure!(refused.is_empty(), "refused: {refused:?}");

    let guard = cluster.members[BOOTED].guard_pid()?;
    let scheduling = scheduling_of(guard)?;
    ensure!(scheduling.contains("SCHED_FIFO"), "{scheduling}");
    ensure!(scheduling.ends_with(" 10"), "{scheduling}");
    ensure!(status_of(guard, "VmLck:")? != "0 kB", "nothing is locked");
    ensure!(!may_protect || oom_score_of(guard)? == "-1000");
    ensure!(group_of(guard)?.ends_with("/clusterd-guard.service"));

    let postmaster = postmaster(&cluster)?;
    let scheduling = scheduling_of(postmaster)?;
    ensure!(scheduling.contains("SCHED_OTHER"), "{scheduling}");
    ensure!(oom_score_of(postmaster)? == "0");
    let group = group_of(postmaster)?;
    ensure!(
        group.contains("/clusterd-guard.service/clusterd-") && group.ends_with("/pg"),
        "{group}"
    );

    let daemon = cluster.members[BOOTED].daemon_pid()?;
    ensure!(group_of(daemon)?.ends_with("/clusterd.service"));
    let user = effective_user(daemon)?;
    ensure!(user == effective_user(postmaster)?, "the daemon is {user}");
    cluster.finish()
}

// Preset `wan`, so that a busy machine is not what is tested: how long the daemon may be away is
// another matter than what systemd does to the units.
#[test]
fn restarted_or_crashed_daemon_unit_interrupts_nobody() -> Result<()> {
    let wanted = Wanted::new("unit-restart").preset("wan");
    let cluster = wanted.under_systemd(BOOTED).start()?;
    make_primary(&cluster)?;
    let booted = systemd(&cluster, BOOTED);
    let drill = Drill::begin(&cluster)?;
    let session = Session::open(&cluster)?;
    let first = cluster.members[BOOTED].daemon_pid()?;
    booted.run(&["systemctl", "restart", "clusterd"])?;
    let second = cluster.members[BOOTED].daemon_pid()?;
    ensure!(first != second, "it was not restarted");
    ensure!(cluster.wait_healthy(PATIENCE)? == BOOTED, "handed over");
    session.require_the_same(&cluster)?;

    signal(second, Signal::SIGKILL)?;
    drill.wait_writing(clock() + LEASE_OF_WAN)?;
    ensure!(cluster.wait_healthy(PATIENCE)? == BOOTED, "failed over");
    session.require_the_same(&cluster)?;
    ensure!(booted.property("clusterd", "NRestarts")? == "1");

    let (history, _) = drill.end(&cluster)?;
    ensure!(history.timelines().len() == 1, "a new reign began");
    let unknown = &history.unknown;
    ensure!(unknown.is_empty(), "statements without answer: {unknown:?}");
    cluster.finish()
}

#[test]
fn crashed_guard_unit_takes_postgres_with_it_and_both_come_back() -> Result<()> {
    let mut cluster = primary_under_systemd("unit-guard-killed")?;
    cluster.expect_error("the guard is gone");
    let drill = Drill::begin(&cluster)?;
    let (guard, old) = (cluster.members[BOOTED].guard_pid()?, postmaster(&cluster)?);
    let blow = clock();
    signal(guard, Signal::SIGKILL)?;
    wait_until(
        "the postmaster is gone",
        Duration::from_secs(5),
        || match fs::exists(format!("/proc/{old}")) {
            Ok(false) => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )?;
    drill.wait_writing(blow + Duration::from_millis(500))?;
    cluster.wait_healthy(PATIENCE)?;
    let (history, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    ensure!(history.timelines().len() == 2, "{:?}", history.timelines());
    ensure!(cluster.members[BOOTED].guard_pid()? != guard);
    postmaster(&cluster)?;
    cluster.finish()
}

#[test]
fn stopped_daemon_unit_and_a_host_shut_down_hand_over() -> Result<()> {
    let mut cluster = primary_under_systemd("unit-stop")?;
    let drill = Drill::begin(&cluster)?;
    systemd(&cluster, BOOTED).run(&["systemctl", "stop", "clusterd"])?;
    let left = cluster.members[BOOTED].host.processes();
    ensure!(
        !left.iter().any(|(_, name)| name == "postgres"),
        "PostgreSQL still runs: {left:?}"
    );
    cluster.members[BOOTED].guard_pid()?;
    drill.wait_takeover(&cluster)?;
    systemd(&cluster, BOOTED).run(&["systemctl", "start", "clusterd"])?;
    make_primary(&cluster)?;
    let before = clock();
    cluster.members[BOOTED].power_off(PATIENCE)?;
    cluster.wait_other_primary(BOOTED, PATIENCE)?;
    drill.wait_writing(before)?;
    cluster.members[BOOTED].start()?;
    let primary = cluster.wait_healthy(PATIENCE)?;
    let (history, outage) = drill.end(&cluster)?;
    ensure!(outage < LONGEST_OUTAGE, "{outage:?}");
    let missing = cluster.missing(primary, &history)?;
    ensure!(missing.is_empty(), "a hand-over lost rows: {missing:?}");
    cluster.finish()
}

#[test]
fn witness_unit_starts_no_guard() -> Result<()> {
    let witness = 2;
    let cluster = Wanted::new("unit-witness")
        .members(2, 1)
        .under_systemd(witness)
        .start()?;
    let booted = systemd(&cluster, witness);
    booted.run(&["systemctl", "restart", "clusterd"])?;
    ensure!(booted.property("clusterd", "ActiveState")? == "active");
    ensure!(booted.property("clusterd-guard", "ActiveState")? == "inactive");
    ensure!(booted.property("clusterd-guard", "ConditionResult")? == "no");
    ensure!(cluster.members[witness].guard_pid().is_err());
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}
