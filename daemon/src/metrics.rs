//! Every metric: name, kind, help. A scrape is one registry filled from the board, so no series
//! outlives what it is about. The `patroni_*` names and values are Patroni's, to the letter.

use std::collections::HashMap;
use std::time::Duration;

use cluster_core::decide;
use cluster_core::model::lease::Moment;
use cluster_core::model::objectives::{Kept, Objective};
use cluster_core::model::{ClusterState, MemberReport, PostgresStatus, RunKind};
use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};

use crate::api::health::Health;
use crate::api::objectives;
use crate::api::status;
use crate::api::topology::{self, Role};
use crate::board::{Board, LeaseView};
use crate::callbacks::Told;
use crate::wire;

/// Patroni's numbers of states, as its comment line in the output says.
const STATES: [&str; 15] = [
    "initializing new cluster",
    "initdb failed",
    "running custom bootstrap script",
    "custom bootstrap failed",
    "creating replica",
    "running",
    "starting",
    "starting after custom bootstrap",
    "start failed",
    "restarting",
    "restart failed",
    "stopping",
    "stopped",
    "stop failed",
    "crashed",
];

/// What Prometheus scrapes.
pub fn text(board: &Board, lease: &dyn LeaseView, wall: Duration) -> String {
    let mut sheet = Sheet::new(board);
    patroni(&mut sheet, board, lease, wall);
    own(&mut sheet, board, lease);
    durability(&mut sheet, board, lease.now());
    archive(&mut sheet, &board.own, wall);
    audit(&mut sheet, board);
    scheduled_backups(&mut sheet, &board.state);
    callbacks(&mut sheet, &board.callbacks);
    verifications(&mut sheet, &board.state);
    promised(&mut sheet, &objectives::of(board, lease.now(), wall));
    members(&mut sheet, board, lease.now());
    sheet.text()
}

/// A registry of this scrape, whose names cannot clash because each is written once.
struct Sheet {
    registry: Registry,
    /// On every series, as Patroni has them.
    labels: HashMap<String, String>,
}

impl Sheet {
    fn new(board: &Board) -> Sheet {
        let scope = board
            .state
            .identity
            .as_ref()
            .map_or("", |own| own.name.as_str());
        let labels = HashMap::from([
            ("scope".to_owned(), scope.to_owned()),
            ("name".to_owned(), board.me.to_string()),
        ]);
        Sheet {
            registry: Registry::new(),
            labels,
        }
    }

    fn options(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_labels(self.labels.clone())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, &[], &[(Vec::new(), value)]);
    }

    fn flag(&mut self, name: &str, help: &str, is_so: bool) {
        self.gauge(name, help, f64::from(u8::from(is_so)));
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.counters(name, help, &[], &[(Vec::new(), value)]);
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str], rows: &[(Vec<&str>, f64)]) {
        let Ok(family) = GaugeVec::new(self.options(name, help), labels) else {
            return;
        };
        for (values, value) in rows {
            family.with_label_values(values).set(*value);
        }
        // Fails only for a name given twice.
        let _ = self.registry.register(Box::new(family));
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str], rows: &[(Vec<&str>, f64)]) {
        let Ok(family) = CounterVec::new(self.options(name, help), labels) else {
            return;
        };
        for (values, value) in rows {
            family.with_label_values(values).inc_by(value.max(0.0));
        }
        let _ = self.registry.register(Box::new(family));
    }

    fn text(&self) -> String {
        let mut bytes = Vec::new();
        // Writing to memory cannot fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut bytes);
        let text = String::from_utf8(bytes).unwrap_or_default();
        let values: Vec<String> = STATES
            .iter()
            .enumerate()
            .map(|(at, word)| format!("{at}={word}"))
            .collect();
        let kind = "# TYPE patroni_postgres_state gauge";
        text.replacen(kind, &format!("# Values: {}\n{kind}", values.join(", ")), 1)
    }
}

/// A whole number as Prometheus wants it: exact up to 2^53, which no WAL position of ours reaches.
#[allow(clippy::cast_precision_loss)]
fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(millis: u64) -> f64 {
    number(millis) / 1000.0
}

fn patroni(sheet: &mut Sheet, board: &Board, lease: &dyn LeaseView, wall: Duration) {
    let health = Health::of(board, lease);
    let own = &board.own;
    let is_primary = matches!(own.postgres, PostgresStatus::Primary(_)) && health.is_running;
    let is_replica = health.is_running_replica;
    let started = match &own.postgres {
        PostgresStatus::Primary(primary) => primary.started_unix_ms,
        PostgresStatus::Standby(standby) => standby.started_unix_ms,
        _ => 0,
    };
    sheet.gauge("patroni_version", "Version as a number.", version_number());
    sheet.flag(
        "patroni_postgres_running",
        "Value is 1 if Postgres is running, 0 otherwise.",
        health.is_running,
    );
    let started = if health.is_running {
        seconds(started)
    } else {
        0.0
    };
    sheet.gauge(
        "patroni_postmaster_start_time",
        "Epoch seconds since Postgres started.",
        started,
    );
    sheet.flag(
        "patroni_primary",
        "Value is 1 if this node is the primary, 0 otherwise.",
        is_primary,
    );
    sheet.flag(
        "patroni_standby_leader",
        "Value is 1 if this node is the standby_leader.",
        false,
    );
    sheet.flag(
        "patroni_replica",
        "Value is 1 if this node is a replica, 0 otherwise.",
        is_replica,
    );
    sheet.flag(
        "patroni_sync_standby",
        "Value is 1 if this node is a sync standby, 0 otherwise.",
        health.is_sync,
    );
    sheet.flag(
        "patroni_quorum_standby",
        "Value is 1 if this node is a quorum standby, 0 otherwise.",
        health.is_quorum,
    );
    patroni_wal(sheet, &own.postgres, is_primary, is_replica);
    if let Some(version) = own.server_version.filter(|_| health.is_running) {
        let is_streaming = health.replication_state == Some("streaming");
        sheet.flag(
            "patroni_postgres_streaming",
            "Value is 1 if Postgres is streaming, 0 otherwise.",
            is_replica && is_streaming,
        );
        sheet.flag(
            "patroni_postgres_in_archive_recovery",
            "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
            is_replica && !is_streaming,
        );
        sheet.gauge(
            "patroni_postgres_server_version",
            "Version of Postgres.",
            f64::from(version),
        );
    } else {
        sheet.gauge(
            "patroni_postgres_server_version",
            "Version of Postgres.",
            0.0,
        );
    }
    patroni_cluster(sheet, board, lease, wall);
}

fn patroni_wal(sheet: &mut Sheet, postgres: &PostgresStatus, is_primary: bool, is_replica: bool) {
    let (mut at, mut received, mut replayed, mut replayed_at, mut paused) = (0, 0, 0, 0, false);
    match postgres {
        PostgresStatus::Primary(primary) if is_primary => at = primary.flushed.0,
        PostgresStatus::Standby(standby) if is_replica => {
            received = standby.end_of_wal().0;
            replayed = standby.replayed.0;
            replayed_at = standby.replayed_at_unix_ms.unwrap_or(0);
            paused = standby.replay_paused;
        }
        _ => {}
    }
    sheet.counter(
        "patroni_xlog_location",
        "Current location of the Postgres transaction log, 0 if this node is not the primary.",
        number(at),
    );
    sheet.counter(
        "patroni_xlog_received_location",
        "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
        number(received),
    );
    sheet.counter(
        "patroni_xlog_replayed_location",
        "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
        number(replayed),
    );
    sheet.gauge(
        "patroni_xlog_replayed_timestamp",
        "Current timestamp of the replayed Postgres transaction log, 0 if null.",
        seconds(replayed_at),
    );
    sheet.flag(
        "patroni_xlog_paused",
        "Value is 1 if the replaying of Postgres transaction log is paused, 0 otherwise.",
        paused,
    );
}

fn patroni_cluster(sheet: &mut Sheet, board: &Board, lease: &dyn LeaseView, wall: Duration) {
    let word = topology::postgres_word(&board.own);
    let state = STATES.iter().position(|state| *state == word);
    let timeline = match &board.own.postgres {
        PostgresStatus::Primary(primary) => primary.timeline.0,
        PostgresStatus::Standby(standby) => standby.timeline.0,
        _ => 0,
    };
    let seen = wall.saturating_sub(lease.now().since(board.merged_at));
    sheet.flag(
        "patroni_cluster_unlocked",
        "Value is 1 if the cluster is unlocked, 0 if locked.",
        board.state.granted().is_none(),
    );
    sheet.flag(
        "patroni_failsafe_mode_is_active",
        "Value is 1 if failsafe mode is active.",
        false,
    );
    sheet.flag(
        "patroni_failsafe_mode_enabled",
        "Value is 1 if failsafe mode is enabled.",
        false,
    );
    sheet.gauge(
        "patroni_postgres_timeline",
        "Postgres timeline of this node.",
        f64::from(timeline),
    );
    sheet.gauge(
        "patroni_dcs_last_seen",
        "Epoch timestamp when the cluster's view was last received.",
        number(seen.as_secs()),
    );
    sheet.flag(
        "patroni_pending_restart",
        "Value is 1 if the node needs a restart.",
        !board.own.pending_restart().is_empty(),
    );
    sheet.flag(
        "patroni_is_paused",
        "Value is 1 if auto failover is disabled, 0 otherwise.",
        board.state.pause.is_some(),
    );
    sheet.flag(
        "clusterd_in_maintenance",
        "Value is 1 while nothing is entrusted to this member.",
        board.state.maintenance.contains_key(&board.me),
    );
    let tags = board.state.tags_in_force(&board.me, &board.own.tags);
    let state = state.map_or(-1.0, |at| number(at as u64));
    sheet.gauge(
        "patroni_postgres_state",
        "State of Postgres as a number.",
        state,
    );
    sheet.gauge(
        "patroni_failover_priority",
        "Failover priority of this node, 0 if it is never promoted.",
        f64::from(tags.priority()),
    );
}

/// `4.1.4` → 40104, as Patroni counts.
fn version_number() -> f64 {
    env!("CARGO_PKG_VERSION")
        .split('.')
        .filter_map(|part| part.parse::<u32>().ok())
        .fold(0.0, |number, part| number * 100.0 + f64::from(part))
}

fn own(sheet: &mut Sheet, board: &Board, lease: &dyn LeaseView) {
    let now = lease.now();
    let holder = lease.holder();
    let is_holder = board
        .state
        .granted()
        .is_some_and(|reign| reign.holder == board.me && reign.epoch == holder.epoch);
    let left = if is_holder {
        holder.valid_until.since(now).as_secs_f64()
    } else {
        0.0
    };
    let all = topology::members(board, now);
    let voters = topology::voters(board, &all);
    let raft = &board.raft;
    sheet.gauge(
        "clusterd_epoch",
        "Number of the newest reign.",
        number(board.state.epoch().0),
    );
    let generation = board
        .state
        .identity
        .as_ref()
        .map_or(0, |own| own.generation.0);
    sheet.gauge(
        "clusterd_generation",
        "Number of the cluster's life.",
        number(generation),
    );
    sheet.flag(
        "clusterd_serves_as_primary",
        "1 while this member answers 200 on primary paths.",
        board.serves_as_primary(lease),
    );
    sheet.gauge(
        "clusterd_lease_remaining_seconds",
        "Lease left on this member.",
        left,
    );
    sheet.gauge(
        "clusterd_fence_in_seconds",
        "Until this primary fences itself, if no renewal comes; 0 where no lease is held.",
        (left - board.times.stop_soft.as_secs_f64()).max(0.0),
    );
    if let Some(after) = lease.first_renewal() {
        sheet.gauge(
            "clusterd_first_renewal_seconds",
            "From the start of this process to its first confirmed renewal.",
            after.as_secs_f64(),
        );
    }
    sheet.gauge("clusterd_raft_term", "Raft term.", number(raft.term));
    sheet.flag(
        "clusterd_raft_is_leader",
        "1 if this member leads and may decide.",
        raft.is_ready_leader,
    );
    sheet.counter(
        "clusterd_raft_elections_won_total",
        "Elections won since this daemon started.",
        number(raft.elections_won),
    );
    sheet.counter(
        "clusterd_renewals_refused_total",
        "Renewals of a lease this daemon refused as leader.",
        number(raft.renewals_refused),
    );
    sheet.gauge(
        "clusterd_raft_voters",
        "Voting members.",
        number(voters.total as u64),
    );
    sheet.gauge(
        "clusterd_raft_voters_up",
        "Voting members heard lately.",
        number(voters.up as u64),
    );
    if let Some(age) = raft.quorum_age {
        sheet.gauge(
            "clusterd_raft_quorum_age_seconds",
            "Since a quorum last acknowledged this leader.",
            age.as_secs_f64(),
        );
    }
    sheet.gauge(
        "clusterd_raft_applied_index",
        "Newest entry applied here.",
        number(board.applied_index),
    );
    failovers(sheet, board);
    probes(sheet, &board.own);
}

/// Commits: who must confirm them, who does, what may be lost now.
fn durability(sheet: &mut Sheet, board: &Board, now: Moment) {
    let found = board.look(now, decide::confirming);
    let mode = board.state.settings.mode.word();
    sheet.gauges(
        "clusterd_sync_mode",
        "1 for the durability mode in the settings.",
        &["mode"],
        &[(vec![mode], 1.0)],
    );
    sheet.gauge(
        "clusterd_sync_k_wanted",
        "Confirmations a commit should have when everybody is there, 0 in mode async.",
        f64::from(found.wanted_k),
    );
    if let Some(rule) = &found.in_force {
        sheet.gauge(
            "clusterd_sync_k",
            "Confirmations a commit needs now.",
            f64::from(rule.k),
        );
        sheet.gauge(
            "clusterd_sync_rule",
            "Number of the rule commits go by.",
            number(rule.id.0),
        );
    }
    let rows: Vec<_> = found
        .standbys
        .iter()
        .map(|it| (vec![it.member.as_str()], f64::from(u8::from(it.confirms))))
        .collect();
    sheet.gauge(
        "clusterd_sync_confirming_standbys",
        "Standbys that confirm commits now.",
        number(found.names().count() as u64),
    );
    sheet.gauges(
        "clusterd_sync_confirms",
        "1 if a standby confirms commits now.",
        &["member"],
        &rows,
    );
    sheet.flag(
        "clusterd_sync_writes_wait",
        "1 while fewer standbys confirm than the rule asks for.",
        found.writes_wait,
    );
    // -1: not even that.
    let survivable = |count: Option<u32>| count.map_or(-1.0, f64::from);
    sheet.gauge(
        "clusterd_sync_survivable_standbys",
        "Standbys that may be lost at once while writes go on, -1 if writes wait already.",
        survivable(found.survivable.standbys),
    );
    sheet.gauge(
        "clusterd_sync_survivable_with_primary",
        "Standbys that may be lost together with the primary without losing an acknowledged write, \
         -1 if not even the primary alone.",
        survivable(found.survivable.with_primary),
    );
    let blocked = board.look(now, decide::blocked);
    let missing: Vec<_> = blocked
        .iter()
        .flat_map(|blocked| &blocked.missing)
        .map(|(member, _)| (vec![member.as_str()], 1.0))
        .collect();
    sheet.flag(
        "clusterd_promotion_blocked",
        "1 while nobody is promoted because an acknowledged write may be on missing members only.",
        blocked.is_some(),
    );
    sheet.gauges(
        "clusterd_missing_member",
        "1 for a member whose word a promotion waits for.",
        &["member"],
        &missing,
    );
    sheet.gauge(
        "clusterd_live_rules",
        "Rules under which an acknowledgement may exist.",
        number(board.state.live_rules.len() as u64),
    );
    let health = &board.own.health;
    sheet.counter(
        "clusterd_sync_cancelled_waits_total",
        "Commits on this member whose wait for a confirmation was cancelled.",
        number(health.cancelled_waits),
    );
    sheet.counter(
        "clusterd_sync_strangers_ended_total",
        "Connections ended that confirmed commits and were no member's standby.",
        number(health.strangers_ended),
    );
    sheet.gauge(
        "clusterd_sync_commit_overrides",
        "Files, roles, databases, functions and sessions here whose commits do not wait as the mode promises.",
        number(health.commit_overrides.len() as u64),
    );
    sheet.counter(
        "clusterd_sync_rule_changes_total",
        "Rules made since the cluster was formed.",
        number(board.state.last_rule.0),
    );
}

fn failovers(sheet: &mut Sheet, board: &Board) {
    let rows: Vec<_> = board
        .failovers
        .iter()
        .map(|(reason, count)| (vec![reason.as_str()], number(*count)))
        .collect();
    sheet.counters(
        "clusterd_failovers_total",
        "Failovers seen by the daemon that led, by reason.",
        &["reason"],
        &rows,
    );
    if let Some(took) = board.last_failover {
        sheet.gauge(
            "clusterd_last_failover_seconds",
            "The last failover, from Revoke to Activate.",
            took.as_secs_f64(),
        );
    }
}

fn archive(sheet: &mut Sheet, own: &MemberReport, wall: Duration) {
    let Some(archive) = &own.health.archive else {
        return;
    };
    sheet.gauge(
        "clusterd_archive_waiting_files",
        "Files of WAL that wait to be archived.",
        number(archive.waiting),
    );
    sheet.flag(
        "clusterd_archive_failing",
        "1 while files of WAL cannot be archived.",
        archive.failure.is_some(),
    );
    if let Some(until) = archive.recoverable_unix_ms {
        sheet.gauge(
            "clusterd_archive_last_recoverable_time",
            "Everything committed before this moment is in the repository, Unix seconds.",
            seconds(until),
        );
        sheet.gauge(
            "clusterd_archive_lag_seconds",
            "Age of the newest commit that is sure to be in the repository.",
            (wall.as_secs_f64() - seconds(until)).max(0.0),
        );
    }
}

/// What is known of the archive from looking at it, whoever looked.
fn audit(sheet: &mut Sheet, board: &Board) {
    let Some((_, audit)) = board.audit() else {
        return;
    };
    sheet.flag(
        "clusterd_archive_audit_failing",
        "1 if the newest look at the archive has found out nothing.",
        audit.failure.is_some(),
    );
    let Some(found) = audit.found else {
        return;
    };
    sheet.gauge(
        "clusterd_archive_audit_time",
        "When a look at the archive last found out something, Unix seconds.",
        seconds(found.at_unix_ms),
    );
    sheet.gauge(
        "clusterd_archive_missing_segments",
        "Segments of WAL that are missing between the oldest backup and now.",
        number(found.missing),
    );
    sheet.gauge(
        "clusterd_archive_problems",
        "What else is wrong with the archive.",
        number(found.problems.len() as u64),
    );
    if let Some((_, at)) = found.first {
        sheet.gauge(
            "clusterd_archive_first_recoverable_time",
            "Every moment from here on can be restored, Unix seconds.",
            seconds(at),
        );
    }
}

fn scheduled_backups(sheet: &mut Sheet, state: &ClusterState) {
    let Some(newest) = state.runs(RunKind::Backup).next_back() else {
        return;
    };
    sheet.flag(
        "clusterd_scheduled_backup_running",
        "1 while a scheduled backup is taken by some member.",
        newest.is_open(),
    );
    sheet.flag(
        "clusterd_scheduled_backup_failed",
        "1 if the newest scheduled backup that is over failed.",
        has_failed(state, RunKind::Backup),
    );
    if let Some((at, _)) = state.stored_backup().and_then(|run| run.ended()) {
        sheet.gauge(
            "clusterd_scheduled_backup_last_stored_time",
            "When the newest scheduled backup was stored, Unix seconds.",
            seconds(at),
        );
    }
    if let Some(at) = next_of(state, RunKind::Backup) {
        sheet.gauge(
            "clusterd_scheduled_backup_next_time",
            "The moment of the schedule after the newest scheduled backup that was begun, Unix seconds.",
            seconds(at),
        );
    }
}

fn callbacks(sheet: &mut Sheet, all: &[Told]) {
    if all.is_empty() {
        return;
    }
    let rows = |value: fn(&Told) -> f64| -> Vec<_> {
        let rows = all.iter().map(|told| (vec![told.kind.word()], value(told)));
        rows.collect()
    };
    let outcomes = all.iter().flat_map(|told| {
        [
            ("done", told.done),
            ("failed", told.failed),
            ("timed_out", told.timed_out),
            ("replaced", told.replaced),
        ]
        .map(|(outcome, count)| (vec![told.kind.word(), outcome], number(count)))
    });
    sheet.counters(
        "clusterd_callback_total",
        "Callbacks of this daemon, by outcome; replaced ones never ran, because a newer one was there.",
        &["callback", "outcome"],
        &outcomes.collect::<Vec<_>>(),
    );
    sheet.gauges(
        "clusterd_callback_running",
        "1 while the program of this callback runs.",
        &["callback"],
        &rows(|told| f64::from(u8::from(told.is_running))),
    );
    sheet.gauges(
        "clusterd_callback_failed",
        "1 if the newest one that is over did not end with 0.",
        &["callback"],
        &rows(|told| f64::from(u8::from(told.last.as_ref().is_some_and(|it| !it.is_done)))),
    );
    sheet.gauges(
        "clusterd_callback_last_seconds",
        "How long the newest one that is over took.",
        &["callback"],
        &rows(|told| told.last.as_ref().map_or(0.0, |it| it.took.as_secs_f64())),
    );
}

/// The first moment of the schedule for which none of a kind was begun; none before the first, and without a schedule.
fn next_of(state: &ClusterState, kind: RunKind) -> Option<u64> {
    let newest = state.runs(kind).next_back()?;
    kind.schedule(&state.settings).next(newest.due_unix_ms)
}

/// Whether the newest of a kind that is over went wrong.
fn has_failed(state: &ClusterState, kind: RunKind) -> bool {
    let mut over = state.runs(kind).rev().filter(|run| !run.is_open());
    over.next().is_some_and(|run| !run.is_good())
}

fn verifications(sheet: &mut Sheet, state: &ClusterState) {
    if state.runs(RunKind::Prune).next().is_some() {
        sheet.flag(
            "clusterd_pruning_failed",
            "1 if the newest scheduled pruning that is over failed.",
            has_failed(state, RunKind::Prune),
        );
    }
    let Some(newest) = state.runs(RunKind::Verify).next_back() else {
        return;
    };
    sheet.flag(
        "clusterd_verification_running",
        "1 while some member verifies a backup by schedule.",
        newest.is_open(),
    );
    sheet.flag(
        "clusterd_verification_failed",
        "1 if the newest scheduled verification that is over was not SUCCESSFUL.",
        has_failed(state, RunKind::Verify),
    );
    if let Some((at, _)) = state
        .newest_success(RunKind::Verify)
        .and_then(|run| run.ended())
    {
        sheet.gauge(
            "clusterd_verification_last_success_time",
            "When the newest scheduled verification was successful, Unix seconds.",
            seconds(at),
        );
    }
    if let Some(at) = next_of(state, RunKind::Verify) {
        sheet.gauge(
            "clusterd_verification_next_time",
            "The moment of the schedule after the newest verification that was begun, Unix seconds.",
            seconds(at),
        );
    }
}

fn promised(sheet: &mut Sheet, found: &[Objective]) {
    let set: Vec<&Objective> = found.iter().filter(|it| it.limit_ms.is_some()).collect();
    let rows = |value: fn(&Objective) -> Option<f64>| -> Vec<_> {
        let rows = set.iter();
        rows.filter_map(|it| Some((vec![it.name], value(it)?)))
            .collect()
    };
    let labels = &["objective"];
    sheet.gauges(
        "clusterd_objective_limit_seconds",
        "What was promised, by objective.",
        labels,
        &rows(|it| it.limit_ms.map(seconds)),
    );
    sheet.gauges(
        "clusterd_objective_measured_seconds",
        "What was measured, by objective.",
        labels,
        &rows(|it| it.measured_ms.map(seconds)),
    );
    sheet.gauges(
        "clusterd_objective_breached",
        "1 while a promise is not kept, by objective.",
        labels,
        &rows(|it| Some(f64::from(u8::from(it.verdict == Kept::Breached)))),
    );
}

fn probes(sheet: &mut Sheet, own: &MemberReport) {
    let probes = wire::named_probes(&own.health);
    let rows = |value: fn(&cluster_core::model::member::Probe) -> f64| -> Vec<_> {
        probes
            .iter()
            .map(|(what, probe)| (vec![*what], value(probe)))
            .collect()
    };
    let what = &["probe"];
    sheet.gauges(
        "clusterd_probe_seconds",
        "How long the last successful durable write took.",
        what,
        &rows(|probe| seconds(probe.took_ms)),
    );
    sheet.gauges(
        "clusterd_probe_age_seconds",
        "Since the last successful durable write.",
        what,
        &rows(|probe| seconds(probe.last_ok_age_ms)),
    );
    sheet.gauges(
        "clusterd_probe_stuck",
        "1 while an attempt is over its limit or failed.",
        what,
        &rows(|probe| f64::from(u8::from(probe.is_stuck || probe.has_failed))),
    );
    if let Some(free) = own.health.free_bytes {
        sheet.gauge(
            "clusterd_free_bytes",
            "Free bytes on the data volume.",
            number(free),
        );
    }
}

fn members(sheet: &mut Sheet, board: &Board, now: Moment) {
    let all = topology::members(board, now);
    let databases = || all.iter().filter(|facts| facts.role != Role::Witness);
    let by_member = &["member"];
    let rows = |value: &dyn Fn(&topology::Facts<'_>) -> Option<u64>| -> Vec<_> {
        databases()
            .filter_map(|facts| Some((vec![facts.name.as_str()], number(value(facts)?))))
            .collect()
    };
    sheet.gauges(
        "clusterd_receive_lag_bytes",
        "Bytes a member's received WAL is behind the primary.",
        by_member,
        &rows(&|facts| facts.receive_lag()),
    );
    sheet.gauges(
        "clusterd_replay_lag_bytes",
        "Bytes a member's replayed WAL is behind the primary.",
        by_member,
        &rows(&|facts| facts.replay_lag()),
    );
    let seconds = |value: &dyn Fn(&topology::Facts<'_>) -> Option<u64>| -> Vec<_> {
        databases()
            .filter_map(|facts| Some((vec![facts.name.as_str()], number(value(facts)?) / 1000.0)))
            .collect()
    };
    sheet.gauges(
        "clusterd_receive_lag_seconds",
        "For how long something the primary has flushed has been missing on a standby that is connected.",
        by_member,
        &seconds(&|facts| status::receive_delay(board, facts.name)),
    );
    sheet.gauges(
        "clusterd_replay_lag_seconds",
        "How old the newest transaction is that a standby has not replayed, as the standby says.",
        by_member,
        &seconds(&|facts| status::replay_delay(facts)),
    );
    let ages: Vec<_> = all
        .iter()
        .filter_map(|facts| Some((vec![facts.name.as_str()], facts.age?.as_secs_f64())))
        .collect();
    sheet.gauges(
        "clusterd_report_age_seconds",
        "Since a member was last heard by the leader, as known here.",
        by_member,
        &ages,
    );
    let up: Vec<_> = all
        .iter()
        .map(|facts| {
            (
                vec![facts.name.as_str()],
                f64::from(u8::from(facts.is_fresh)),
            )
        })
        .collect();
    sheet.gauges(
        "clusterd_member_up",
        "1 if the member was heard lately.",
        by_member,
        &up,
    );
}
