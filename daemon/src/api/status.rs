//! The rich answer of `GetStatus`, and the notes of a dry run: everything a person wants to know,
//! gathered from the board. Pure.

use cluster_core::decide::{self, Confirmer, Confirming};
use cluster_core::model::lease::Moment;
use cluster_core::model::{MemberName, PostgresStatus, RequestKind, RunKind};
use cluster_proto::v1;

use super::asks::member_of;
use super::topology::{self, Facts};
use crate::board::{Board, Foresight, LeaseView};
use crate::exchange::AgedVerdict;
use crate::wire;

/// The status as it is on `board` now.
pub fn of(board: &Board, lease: &dyn LeaseView, foresight: &dyn Foresight) -> v1::Status {
    let now = lease.now();
    let all = topology::members(board, now);
    let voters = topology::voters(board, &all);
    let state = &board.state;
    let identity = state.identity.as_ref();
    let primary = topology::open_primary(board, &all)
        .filter(|facts| *facts.name != board.me || board.serves_as_primary(lease));
    let candidates = foresight.candidates(board);
    let confirming = board.look(now, decide::confirming);
    let lease_left = lease_left(board, lease, &all);
    v1::Status {
        cluster: identity.map(|own| own.name.to_string()).unwrap_or_default(),
        cluster_id: identity.map(|own| own.id.to_string()).unwrap_or_default(),
        generation: identity.map_or(0, |own| own.generation.0),
        system_identifier: state.system_identifier.unwrap_or(0),
        answered_by: board.me.to_string(),
        epoch: state.epoch().0,
        reign: state.reign.as_ref().map(wire::reign),
        primary: primary
            .map(|facts| facts.name.to_string())
            .unwrap_or_default(),
        members: all
            .iter()
            .map(|facts| member(board, facts, &confirming))
            .collect(),
        rules: state.live_rules.iter().map(wire::rule).collect(),
        lease_left_ms: lease_left,
        lease_ms: wire::millis(board.times.lease),
        preset: state.settings.preset.word().to_owned(),
        mode: state.settings.mode.word().to_owned(),
        verdicts: board
            .verdicts
            .iter()
            .map(|line| wire::verdict_line(&AgedVerdict::of(line, now)))
            .collect(),
        term: board.raft.term,
        raft_leader: raft_leader(board)
            .map(ToString::to_string)
            .unwrap_or_default(),
        voters_up: count(voters.up),
        voters_total: count(voters.total),
        failure_tolerance: voters.tolerance(),
        pause: state.pause.as_ref().map(|pause| v1::PauseStatus {
            by: pause.by.clone(),
            at_unix_ms: pause.at_unix_ms,
        }),
        requests: requests(board),
        schedules: state.schedules.iter().map(wire::schedule).collect(),
        maintenance: state
            .maintenance
            .iter()
            .map(|(member, it)| wire::maintenance(member, it))
            .collect(),
        not_granted: board.not_granted.clone(),
        candidates: candidates
            .into_iter()
            .map(|candidate| v1::Candidate {
                member: candidate.member.to_string(),
                is_eligible: candidate.reasons.is_empty(),
                reasons: candidate.reasons,
            })
            .collect(),
        applied_index: board.applied_index,
        maximum_lag_on_failover_bytes: state.settings.maximum_lag_on_failover_bytes,
        initializer: state
            .initializer
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        last_failover_ms: board.last_failover.map(wire::millis),
        blocked: board.look(now, decide::blocked).as_ref().map(wire::blocked),
        confirming: Some(wire::confirming(&confirming, state.settings.mode)),
        backups: wire::scheduled_runs(state, RunKind::Backup),
        verifications: wire::scheduled_runs(state, RunKind::Verify),
        prunings: wire::scheduled_runs(state, RunKind::Prune),
        objectives: Vec::new(),
        audit: board.audit().map(wire::audit),
        fence_in_ms: lease_left
            .map(|left| left.saturating_sub(wire::millis(board.times.stop_soft))),
    }
}

/// What a dry run says besides "would be accepted".
pub fn notes(
    board: &Board,
    now: Moment,
    foresight: &dyn Foresight,
    kind: &RequestKind,
) -> Vec<String> {
    let mut notes = Vec::new();
    if board.state.pause.is_some() {
        notes.push("the cluster is paused".to_owned());
    }
    if *kind == RequestKind::RestartPending {
        for facts in topology::members(board, now) {
            let each = facts.pending().iter();
            notes.extend(each.map(|it| format!("{}: {it}", facts.name)));
        }
        if notes.is_empty() {
            notes.push("nothing waits for a restart".to_owned());
        }
        return notes;
    }
    if !kind.moves_primary() {
        return notes;
    }
    let candidates = foresight.candidates(board);
    let wanted = member_of(kind);
    match candidates
        .iter()
        .find(|c| wanted.is_none_or(|to| *to == c.member))
    {
        Some(candidate) if candidate.reasons.is_empty() => {
            notes.push(format!("{} would become primary", candidate.member));
        }
        Some(candidate) => notes.extend(
            candidate
                .reasons
                .iter()
                .map(|why| format!("{}: {why}", candidate.member)),
        ),
        None => notes.push("no member could become primary".to_owned()),
    }
    if let Some(blocked) = board.look(now, decide::blocked) {
        notes.push(format!("may be lost: {}", blocked.at_risk));
    }
    notes.push("the new primary is on a new timeline; UNLOGGED tables are emptied".to_owned());
    for facts in topology::members(board, now) {
        if let Some(PostgresStatus::Primary(primary)) = facts.report.map(|r| &r.postgres) {
            if primary.prepared_transactions > 0 {
                notes.push(format!(
                    "{} prepared transactions",
                    primary.prepared_transactions
                ));
            }
            if primary.oldest_transaction_ms > 10_000 {
                let seconds = primary.oldest_transaction_ms / 1000;
                notes.push(format!(
                    "a transaction has been open for {seconds} s; it is ended"
                ));
            }
        }
        if let Some(lag) = facts.replay_lag().filter(|lag| *lag > 0) {
            notes.push(format!("{} has {lag} bytes to replay", facts.name));
        }
    }
    notes
}

/// From the own lease when this member holds it, else from the holder's report.
fn lease_left(board: &Board, lease: &dyn LeaseView, members: &[Facts<'_>]) -> Option<u64> {
    let reign = board.state.granted()?;
    if reign.holder == board.me {
        let holder = lease.holder();
        let left = holder.valid_until.since(lease.now());
        return (holder.epoch == reign.epoch).then(|| wire::millis(left));
    }
    let facts = members.iter().find(|facts| *facts.name == reign.holder)?;
    let left = facts.report?.lease_left_ms?;
    Some(left.saturating_sub(wire::millis(facts.age?)))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn raft_leader(board: &Board) -> Option<&MemberName> {
    board
        .state
        .member_of(board.raft.leader?)
        .map(|(name, _)| name)
}

/// Open ones first, then ended ones, newest first.
fn requests(board: &Board) -> Vec<v1::Request> {
    let mut all: Vec<_> = board.state.requests.values().collect();
    all.sort_by_key(|request| (!request.is_open(), std::cmp::Reverse(request.index)));
    all.into_iter().map(wire::request).collect()
}

/// For how long something the primary has flushed has been missing on this standby, milliseconds.
pub fn receive_delay(board: &Board, name: &MemberName) -> Option<u64> {
    let holder = &board.state.granted()?.holder;
    let report = if *holder == board.me {
        &board.own
    } else {
        &board.reports.get(holder)?.report
    };
    let seen = report.sync.as_ref()?.standbys.iter();
    let mut seen = seen.filter(|it| it.member == *name && it.is_connected);
    seen.next().map(|it| it.late_for_ms.unwrap_or(0))
}

/// How old what this standby has not replayed is, as it says itself, milliseconds.
pub fn replay_delay(facts: &Facts<'_>) -> Option<u64> {
    match facts.report.map(|report| &report.postgres) {
        Some(PostgresStatus::Standby(standby)) => standby.replay_delay_ms,
        _ => None,
    }
}

fn member(board: &Board, facts: &Facts<'_>, confirming: &Confirming) -> v1::MemberStatus {
    let confirmer: Option<&Confirmer> = confirming
        .standbys
        .iter()
        .find(|it| it.member == *facts.name);
    let announced = facts
        .report
        .map_or(&facts.member.tags, |report| &report.tags);
    let report = facts.report;
    let follows_epoch = match report.map(|report| &report.postgres) {
        Some(PostgresStatus::Standby(standby)) => standby.follows.as_ref().map(|from| from.epoch.0),
        _ => None,
    };
    let life = report
        .and_then(|report| report.incarnation)
        .or(facts.member.incarnation);
    v1::MemberStatus {
        name: facts.name.to_string(),
        node_id: facts.member.node.0,
        role: super::discovery::wire_role(facts.role).into(),
        state: facts.state.to_owned(),
        addresses: Some(wire::addresses(&facts.member.addresses)),
        timeline: facts.timeline.map(|timeline| timeline.0),
        receive_lsn: facts.receive.map(|lsn| lsn.0),
        replay_lsn: facts.replay.map(|lsn| lsn.0),
        receive_lag_bytes: facts.receive_lag(),
        replay_lag_bytes: facts.replay_lag(),
        replay_delay_ms: replay_delay(facts),
        tags: Some(wire::tags(
            &board.state.tags_in_force(facts.name, announced),
        )),
        pending_restart: !facts.pending().is_empty(),
        pending: facts.pending().iter().map(wire::pending).collect(),
        parameters_refused: report
            .and_then(|report| report.health.refusal.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
        probes: report
            .map(|report| wire::probes(&report.health))
            .unwrap_or_default(),
        busy: report
            .and_then(|report| report.busy.as_ref())
            .map(wire::busy),
        report_age_ms: facts.age.map(wire::millis),
        version: report
            .map(|report| report.version.clone())
            .unwrap_or_default(),
        server_version: report.and_then(|report| report.server_version),
        incarnation: life.map(|life| life.to_string()).unwrap_or_default(),
        is_raft_leader: board.raft.leader == Some(facts.member.node),
        is_voter: board.raft.voters.contains(&facts.member.node),
        follows_epoch,
        not_promotable: report
            .map(|report| report.not_promotable.clone())
            .unwrap_or_default(),
        verdict: report
            .map(|report| report.verdict.clone())
            .unwrap_or_default(),
        is_joining: facts.member.joining.is_some(),
        free_bytes: report.and_then(|report| report.health.free_bytes),
        confirms: confirmer.is_some_and(|it| it.confirms),
        why_not_confirming: confirmer
            .and_then(|it| it.why_not.clone())
            .unwrap_or_default(),
        receive_delay_ms: receive_delay(board, facts.name),
        commit_overrides: report
            .map(|report| report.health.commit_overrides.clone())
            .unwrap_or_default(),
        cancelled_waits: report.map_or(0, |report| report.health.cancelled_waits),
        strangers_ended: report.map_or(0, |report| report.health.strangers_ended),
        archive: report
            .and_then(|report| report.health.archive.as_ref())
            .map(wire::archive),
    }
}
