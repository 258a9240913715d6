//! proto ↔ model, both ways; the only translation. Nothing here decides or waits.
//!
//! The surprise: reports and commands travel as versioned JSON of the model's own types, because
//! they are the types that grow with every release and unknown fields of a report must not hurt.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::change::command::COMMAND_VERSION;
use cluster_core::decide::{Blocked, Confirming};
use cluster_core::model::member::{ArchiveReport, Busy, Health, PendingRestart, Probe};
use cluster_core::model::request::Step;
use cluster_core::model::schedule::{Role, Work, version_text};
use cluster_core::model::settings::{MemberSettings, Mode};
use cluster_core::model::state::HistoryEntry;
use cluster_core::model::state::SettingsRevision;
use cluster_core::model::view::Seen;
use cluster_core::model::{
    Addresses, ArchiveAudit, BackupOutcome, BackupRun, ClusterState, Epoch, Incarnation,
    Maintenance, MemberName, MemberReport, Phase, RecoverySetting, RecoverySettings, Recurrence,
    Reign, Request, RequestKind, RequestOutcome, Rule, RuleId, RunKind, Schedule, Settings, Tags,
    Verification,
};
use cluster_proto::v1;

use crate::exchange::{AgedVerdict, MergedView, NotLeader, RenewAnswer, RenewRequest};

/// The encoding of reports this build writes.
pub const REPORT_VERSION: u32 = 1;

/// What arrived is not what was meant to be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name, number or enum that cannot be.
    #[error("{what}: {why}")]
    Bad {
        /// The field.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A field without which the message means nothing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Written by a release this one does not understand.
    #[error("{what} has version {given}; this clusterd understands {known}: upgrade it first")]
    Version {
        /// Of what.
        what: &'static str,
        /// As it arrived.
        given: u32,
        /// As this build writes it.
        known: u32,
    },
}

fn bad(what: &'static str, why: impl ToString) -> Error {
    Error::Bad {
        what,
        why: why.to_string(),
    }
}

/// A member name as it arrived.
///
/// # Errors
/// It is no member name.
pub fn member_name(what: &'static str, text: &str) -> Result<MemberName, Error> {
    text.parse().map_err(|error| bad(what, error))
}

/// A member name that may be left empty.
///
/// # Errors
/// It is neither empty nor a member name.
pub fn optional_name(what: &'static str, text: &str) -> Result<Option<MemberName>, Error> {
    if text.is_empty() {
        Ok(None)
    } else {
        member_name(what, text).map(Some)
    }
}

fn name_or_empty(name: Option<&MemberName>) -> String {
    name.map(ToString::to_string).unwrap_or_default()
}

/// Whole milliseconds; 584 million years fit.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A report, encoded.
pub fn encode_report(report: &MemberReport) -> v1::EncodedReport {
    let body = serde_json::to_vec(report).expect("a report has only string keys");
    v1::EncodedReport {
        version: REPORT_VERSION,
        body,
    }
}

/// A report, decoded.
///
/// # Errors
/// Missing, of another version, or broken.
pub fn decode_report(report: Option<&v1::EncodedReport>) -> Result<MemberReport, Error> {
    let report = report.ok_or(Error::Missing("report"))?;
    if report.version != REPORT_VERSION {
        let (given, known) = (report.version, REPORT_VERSION);
        return Err(Error::Version {
            what: "a report",
            given,
            known,
        });
    }
    serde_json::from_slice(&report.body).map_err(|error| bad("report", error))
}

/// A command, encoded, with its version.
pub fn encode_command(command: &Command) -> (u32, Vec<u8>) {
    let body = serde_json::to_vec(command).expect("a command has only string keys");
    (u32::from(COMMAND_VERSION), body)
}

/// A command, decoded.
///
/// # Errors
/// Of another version, or broken.
pub fn decode_command(version: u32, body: &[u8]) -> Result<Command, Error> {
    let known = u32::from(COMMAND_VERSION);
    if version != known {
        return Err(Error::Version {
            what: "a command",
            given: version,
            known,
        });
    }
    serde_json::from_slice(body).map_err(|error| bad("command", error))
}

/// The merged view, encoded.
pub fn encode_view(view: &MergedView) -> v1::MergedView {
    v1::MergedView {
        leader: view.leader.to_string(),
        term: view.term,
        reports: view
            .reports
            .values()
            .map(|seen| v1::SeenReport {
                report: Some(encode_report(&seen.report)),
                age_ms: millis(seen.age),
            })
            .collect(),
        verdicts: view.verdicts.iter().map(verdict_line).collect(),
        last_failover_ms: view.last_failover.map(millis),
        failovers: view.failovers.clone().into_iter().collect(),
        applied_index: view.applied_index,
        asked_to_lead: name_or_empty(view.asked_to_lead.as_ref()),
    }
}

/// The merged view, decoded. Reports of a version this build does not know are left out.
///
/// # Errors
/// A name that cannot be, or a broken report.
pub fn decode_view(view: v1::MergedView) -> Result<MergedView, Error> {
    let mut reports = BTreeMap::new();
    for seen in &view.reports {
        match decode_report(seen.report.as_ref()) {
            Ok(report) => {
                let age = Duration::from_millis(seen.age_ms);
                reports.insert(report.member.clone(), Seen { report, age });
            }
            Err(Error::Version { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(MergedView {
        leader: member_name("leader", &view.leader)?,
        term: view.term,
        reports,
        verdicts: view
            .verdicts
            .into_iter()
            .map(|line| AgedVerdict {
                rule: line.rule,
                code: line.code,
                text: line.text,
                age: Duration::from_millis(line.age_ms),
            })
            .collect(),
        last_failover: view.last_failover_ms.map(Duration::from_millis),
        failovers: view.failovers.into_iter().collect(),
        applied_index: view.applied_index,
        asked_to_lead: optional_name("asked_to_lead", &view.asked_to_lead)?,
    })
}

/// A verdict line, encoded.
pub fn verdict_line(line: &AgedVerdict) -> v1::VerdictLine {
    v1::VerdictLine {
        rule: line.rule.clone(),
        code: line.code.clone(),
        text: line.text.clone(),
        age_ms: millis(line.age),
    }
}

/// "Not me", encoded.
pub fn encode_not_leader(not: &NotLeader) -> v1::NotLeader {
    v1::NotLeader {
        leader: name_or_empty(not.leader.as_ref()),
        why: not.why.clone(),
    }
}

/// "Not me", decoded; an unreadable name is no name.
pub fn decode_not_leader(not: v1::NotLeader) -> NotLeader {
    NotLeader {
        leader: not.leader.parse().ok(),
        why: not.why,
    }
}

/// A renewal, decoded; the caller's name comes from the header.
pub fn decode_renewal(member: MemberName, request: &v1::RenewRequest) -> RenewRequest {
    RenewRequest {
        member,
        epoch: Epoch(request.epoch),
        incarnation: Incarnation(request.incarnation),
        attempt: request.attempt.clone(),
    }
}

/// The answer to a renewal, encoded.
pub fn encode_renewal(attempt: String, answer: &RenewAnswer) -> v1::RenewReply {
    match answer {
        RenewAnswer::Confirmed { lease, newest_rule } => v1::RenewReply {
            attempt,
            confirmed: true,
            lease_ms: millis(*lease),
            newest_rule: newest_rule.0,
            ..v1::RenewReply::default()
        },
        RenewAnswer::Refused {
            code,
            newer_epoch,
            leader,
        } => v1::RenewReply {
            attempt,
            refused: code.clone(),
            newer_epoch: newer_epoch.map(|epoch| epoch.0),
            leader: name_or_empty(leader.as_ref()),
            ..v1::RenewReply::default()
        },
    }
}

/// The answer to the renewal `attempt`, decoded.
///
/// # Errors
/// It answers another attempt.
pub fn decode_renewal_answer(attempt: &str, reply: v1::RenewReply) -> Result<RenewAnswer, Error> {
    if reply.attempt != attempt {
        return Err(bad(
            "attempt",
            format!("asked as {attempt}, answered as {}", reply.attempt),
        ));
    }
    if reply.confirmed {
        return Ok(RenewAnswer::Confirmed {
            lease: Duration::from_millis(reply.lease_ms),
            newest_rule: RuleId(reply.newest_rule),
        });
    }
    Ok(RenewAnswer::Refused {
        code: reply.refused,
        newer_epoch: reply.newer_epoch.map(Epoch),
        leader: reply.leader.parse().ok(),
    })
}

/// What is asked, encoded.
pub fn encode_kind(kind: &RequestKind) -> v1::RequestKind {
    use v1::request_kind::Kind;
    let on = |member: &MemberName| v1::OnMember {
        member: member.to_string(),
    };
    let kind = match kind {
        RequestKind::Switchover { to } => Kind::Switchover(v1::Switchover {
            to: name_or_empty(to.as_ref()),
        }),
        RequestKind::Failover { to } => Kind::Failover(v1::Failover { to: to.to_string() }),
        RequestKind::Restart { member } => Kind::Restart(on(member)),
        RequestKind::RestartPending => Kind::RestartPending(v1::Everybody {}),
        RequestKind::Reload { member } => Kind::Reload(on(member)),
        RequestKind::Reinit { member } => Kind::Reinit(on(member)),
    };
    v1::RequestKind { kind: Some(kind) }
}

/// What is asked, decoded.
///
/// # Errors
/// Nothing is asked, or a name cannot be.
pub fn decode_kind(kind: Option<v1::RequestKind>) -> Result<RequestKind, Error> {
    use v1::request_kind::Kind;
    let member = |on: v1::OnMember| member_name("member", &on.member);
    Ok(
        match kind
            .and_then(|kind| kind.kind)
            .ok_or(Error::Missing("kind"))?
        {
            Kind::Switchover(v1::Switchover { to }) => RequestKind::Switchover {
                to: optional_name("to", &to)?,
            },
            Kind::Failover(v1::Failover { to }) => RequestKind::Failover {
                to: member_name("to", &to)?,
            },
            Kind::Restart(on) => RequestKind::Restart {
                member: member(on)?,
            },
            Kind::RestartPending(v1::Everybody {}) => RequestKind::RestartPending,
            Kind::Reload(on) => RequestKind::Reload {
                member: member(on)?,
            },
            Kind::Reinit(on) => RequestKind::Reinit {
                member: member(on)?,
            },
        },
    )
}

/// How far a request is: the step, and the text once it ended.
pub fn step(step: &Step) -> (v1::RequestStep, String) {
    match step {
        Step::Accepted => (v1::RequestStep::Accepted, String::new()),
        Step::Prepare { .. } => (v1::RequestStep::Prepare, String::new()),
        Step::Drain { .. } => (v1::RequestStep::Drain, String::new()),
        Step::Moving { .. } => (v1::RequestStep::Moving, String::new()),
        Step::Rolling { member, .. } => (v1::RequestStep::Rolling, member.to_string()),
        Step::Ended(RequestOutcome::Done { text }) => (v1::RequestStep::Done, text.clone()),
        Step::Ended(RequestOutcome::Failed { why }) => (v1::RequestStep::Failed, why.clone()),
    }
}

/// A request, encoded.
pub fn request(request: &Request) -> v1::Request {
    let (at, text) = step(&request.step);
    v1::Request {
        id: request.id.to_string(),
        kind: Some(encode_kind(&request.kind)),
        by: request.by.clone(),
        at_unix_ms: request.at_unix_ms,
        step: at.into(),
        to: name_or_empty(request.target()),
        text,
    }
}

/// What is to be done at a time, encoded.
pub fn work(work: &Work) -> v1::schedule::Work {
    match work {
        Work::Switchover { from, to } => v1::schedule::Work::Switchover(v1::ScheduledSwitchover {
            from: name_or_empty(from.as_ref()),
            to: name_or_empty(to.as_ref()),
        }),
        Work::Restart { member, conditions } => {
            let role = conditions.role.map(Role::word).unwrap_or_default();
            let older_than = conditions.older_than.map(version_text);
            v1::schedule::Work::Restart(v1::ScheduledRestart {
                member: member.to_string(),
                role: role.to_owned(),
                older_than: older_than.unwrap_or_default(),
                pending: conditions.pending,
                limit_ms: conditions.limit_ms.unwrap_or_default(),
            })
        }
    }
}

/// A schedule, encoded.
pub fn schedule(schedule: &Schedule) -> v1::Schedule {
    v1::Schedule {
        id: schedule.id.to_string(),
        work: Some(work(&schedule.work)),
        due_unix_ms: schedule.due.unix_ms,
        due: schedule.due.text.clone(),
        by: schedule.by.clone(),
        at_unix_ms: schedule.at_unix_ms,
        text: schedule.work.to_string(),
    }
}

/// A member's maintenance, encoded.
pub fn maintenance(member: &MemberName, it: &Maintenance) -> v1::Maintenance {
    v1::Maintenance {
        member: member.to_string(),
        since_unix_ms: it.since_unix_ms,
        until_unix_ms: it.until_unix_ms,
        by: it.by.clone(),
    }
}

/// The word of a phase.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Granted => "granted",
        Phase::Revoked => "revoked",
        Phase::Released => "released",
    }
}

/// A reign, encoded.
pub fn reign(reign: &Reign) -> v1::Reign {
    v1::Reign {
        epoch: reign.epoch.0,
        holder: reign.holder.to_string(),
        phase: phase(reign.phase).to_owned(),
        timeline: reign.timeline.0,
        start_lsn: reign.start.0,
        fork_lsn: reign.fork.map(|lsn| lsn.0),
        is_activated: reign.is_activated,
        reason: reign.reason.clone(),
        ended_because: reign.ended_because.clone(),
    }
}

/// A rule, encoded.
pub fn rule(rule: &Rule) -> v1::Rule {
    v1::Rule {
        id: rule.id.0,
        epoch: rule.epoch.0,
        k: rule.k,
        members: rule.set.keys().map(ToString::to_string).collect(),
    }
}

/// A line of history, encoded.
pub fn history(entry: &HistoryEntry) -> v1::HistoryEntry {
    v1::HistoryEntry {
        index: entry.index,
        at_unix_ms: entry.at_unix_ms,
        epoch: entry.epoch.0,
        what: entry.what.clone(),
        member: name_or_empty(entry.member.as_ref()),
        timeline: entry.timeline.map(|timeline| timeline.0),
        lsn: entry.lsn.map(|lsn| lsn.0),
        reason: entry.reason.clone(),
    }
}

/// Where a member listens, encoded.
pub fn addresses(addresses: &Addresses) -> v1::Addresses {
    v1::Addresses {
        peer: addresses.peer.clone(),
        http: addresses.http.clone(),
        postgres: addresses.postgres.clone(),
    }
}

/// Tags, encoded.
pub fn tags(tags: &Tags) -> v1::Tags {
    v1::Tags {
        nofailover: tags.nofailover,
        failover_priority: tags.failover_priority,
        noloadbalance: tags.noloadbalance,
        clonefrom: tags.clonefrom,
        nosync: tags.nosync,
        sync_priority: tags.sync_priority,
        custom: tags.custom.clone().into_iter().collect(),
    }
}

/// Settings, encoded.
pub fn encode_settings(settings: &Settings) -> v1::Settings {
    // Every field by name: a new one is an error here, not a field that never arrives.
    let Settings {
        preset,
        mode,
        k,
        k_min,
        zones,
        members,
        maximum_lag_on_failover_bytes,
        seal_patience_ms,
        probe_limit_ms,
        keep_standby_sessions,
        backup_schedule,
        recovery,
        parameters,
        primary_parameters,
        standby_parameters,
    } = settings.clone();
    let text = |(name, zone): (MemberName, String)| (name.to_string(), zone);
    let own = |(name, own): (MemberName, MemberSettings)| {
        let MemberSettings {
            nofailover,
            failover_priority,
            noloadbalance,
            clonefrom,
            nosync,
            sync_priority,
            parameters,
        } = own;
        let own = v1::MemberSettings {
            nofailover,
            failover_priority,
            noloadbalance,
            clonefrom,
            nosync,
            sync_priority,
            parameters: parameters.into_iter().collect(),
        };
        (name.to_string(), own)
    };
    v1::Settings {
        preset: preset.word().to_owned(),
        mode: mode.word().to_owned(),
        k,
        k_min,
        zones: zones.into_iter().map(text).collect(),
        members: members.into_iter().map(own).collect(),
        maximum_lag_on_failover_bytes,
        seal_patience_ms,
        probe_limit_ms,
        keep_standby_sessions,
        backup_schedule: match backup_schedule.is_off() {
            true => String::new(),
            false => backup_schedule.to_string(),
        },
        recovery: recovery
            .changed()
            .iter()
            .map(|one| (one.key().to_owned(), one.to_string()))
            .collect(),
        parameters: parameters.into_iter().collect(),
        primary_parameters: primary_parameters.into_iter().collect(),
        standby_parameters: standby_parameters.into_iter().collect(),
    }
}

/// The encoding of settings that members are asked about, and its version.
const TRIED_VERSION: u32 = 1;

/// Settings that members are asked about, encoded; with the version.
pub fn encode_tried(settings: &Settings) -> (u32, Vec<u8>) {
    let json = serde_json::to_vec(settings).expect("settings are plain data");
    (TRIED_VERSION, json)
}

/// The same, decoded.
///
/// # Errors
/// Another version, or keys that this one does not know.
pub fn decode_tried(version: u32, settings: &[u8]) -> Result<Settings, Error> {
    if version != TRIED_VERSION {
        return Err(bad("version", format!("{version} is not known here")));
    }
    serde_json::from_slice(settings).map_err(|error| bad("settings", error.to_string()))
}

/// What takes effect with the next start, encoded.
pub fn pending(pending: &PendingRestart) -> v1::PendingRestart {
    v1::PendingRestart {
        name: pending.name.clone(),
        from: pending.from.clone(),
        to: pending.to.clone(),
    }
}

/// The rows of settings.
pub fn settings_rows(settings: &Settings) -> Vec<v1::SettingsRow> {
    let rows = settings.rows().into_iter();
    rows.map(|(key, value)| v1::SettingsRow { key, value })
        .collect()
}

/// An earlier state of the settings.
pub fn settings_revision(revision: &SettingsRevision) -> v1::SettingsRevision {
    v1::SettingsRevision {
        revision: revision.revision,
        at_unix_ms: revision.at_unix_ms,
        by: revision.by.clone(),
        changes: revision.changes.clone(),
        rows: settings_rows(&revision.settings),
    }
}

/// Settings, decoded.
///
/// # Errors
/// A name or word that cannot be.
pub fn decode_settings(settings: v1::Settings) -> Result<Settings, Error> {
    let mut zones = BTreeMap::new();
    for (name, zone) in settings.zones {
        zones.insert(member_name("zones", &name)?, zone);
    }
    let mut members = BTreeMap::new();
    for (name, own) in settings.members {
        let v1::MemberSettings {
            nofailover,
            failover_priority,
            noloadbalance,
            clonefrom,
            nosync,
            sync_priority,
            parameters,
        } = own;
        let own = MemberSettings {
            nofailover,
            failover_priority,
            noloadbalance,
            clonefrom,
            nosync,
            sync_priority,
            parameters: parameters.into_iter().collect(),
        };
        members.insert(member_name("members", &name)?, own);
    }
    let mut recovery = RecoverySettings::default();
    for (key, value) in &settings.recovery {
        let one = RecoverySetting::read(key, value)
            .unwrap_or_else(|| Err(format!("there is no setting {key}")));
        recovery.set(&one.map_err(|why| bad("recovery", why))?);
    }
    Ok(Settings {
        preset: settings
            .preset
            .parse()
            .map_err(|why: String| bad("preset", why))?,
        mode: settings
            .mode
            .parse()
            .map_err(|why: String| bad("mode", why))?,
        k: settings.k,
        k_min: settings.k_min,
        zones,
        members,
        maximum_lag_on_failover_bytes: settings.maximum_lag_on_failover_bytes,
        seal_patience_ms: settings.seal_patience_ms,
        probe_limit_ms: settings.probe_limit_ms,
        keep_standby_sessions: settings.keep_standby_sessions,
        // Empty: from a version that has none.
        backup_schedule: match settings.backup_schedule.as_str() {
            "" => Recurrence::Off,
            text => text
                .parse()
                .map_err(|why: String| bad("backup_schedule", why))?,
        },
        recovery,
        parameters: settings.parameters.into_iter().collect(),
        primary_parameters: settings.primary_parameters.into_iter().collect(),
        standby_parameters: settings.standby_parameters.into_iter().collect(),
    })
}

/// How commits are confirmed, encoded.
pub fn confirming(found: &Confirming, mode: Mode) -> v1::Confirming {
    let [standbys, with_primary] = found.survivable.sentences(mode);
    v1::Confirming {
        wanted_k: found.wanted_k,
        in_force: found.in_force.as_ref().map(rule),
        is_proven: found.is_proven,
        proposed: found.proposed.map(|id| id.0),
        members: found.names().map(ToString::to_string).collect(),
        writes_wait: found.writes_wait,
        survivable_standbys: found.survivable.standbys,
        survivable_with_primary: found.survivable.with_primary,
        survivable_standbys_text: standbys,
        survivable_with_primary_text: with_primary,
    }
}

/// Why nobody is promoted, encoded.
pub fn blocked(found: &Blocked) -> v1::Blocked {
    let missing = found.missing.iter();
    let missing = missing.map(|(member, silent)| v1::blocked::Missing {
        member: member.to_string(),
        silent_ms: silent.map(millis),
    });
    v1::Blocked {
        missing: missing.collect(),
        at_risk: found.at_risk.clone(),
        to: name_or_empty(found.to.as_ref()),
        command: found.command().unwrap_or_default(),
    }
}

/// Long work, encoded.
pub fn busy(busy: &Busy) -> v1::Busy {
    v1::Busy {
        with: busy.with.clone(),
        for_ms: busy.for_ms,
        done_bytes: busy.bytes.map(|(done, _)| done),
        total_bytes: busy.bytes.map(|(_, total)| total),
    }
}

/// What of one kind is done by schedule; none without a schedule and without any.
pub fn scheduled_runs(state: &ClusterState, kind: RunKind) -> Option<v1::ScheduledBackups> {
    let schedule = kind.schedule(&state.settings);
    let newest = state.runs(kind).next_back();
    if schedule.is_off() && newest.is_none() {
        return None;
    }
    Some(v1::ScheduledBackups {
        schedule: schedule.to_string(),
        next_unix_ms: newest.and_then(|run| schedule.next(run.due_unix_ms)),
        newest: newest.map(backup_run),
        newest_stored: state.newest_success(kind).map(backup_run),
    })
}

fn backup_run(run: &BackupRun) -> v1::BackupRun {
    let ended = run.ended();
    let outcome = ended.map(|(_, outcome)| outcome);
    let mut told = v1::BackupRun {
        due_unix_ms: run.due_unix_ms,
        attempt: run.attempt,
        member: run.taker.to_string(),
        began_unix_ms: run.began_unix_ms,
        ended_unix_ms: ended.map(|(at, _)| at),
        failure: outcome.and_then(BackupOutcome::failure).unwrap_or_default(),
        ..v1::BackupRun::default()
    };
    match outcome {
        Some(BackupOutcome::Stored { id, bytes }) => {
            told.id.clone_from(id);
            told.bytes = *bytes;
        }
        Some(BackupOutcome::Verified(found)) => told.verification = Some(verification(found)),
        Some(BackupOutcome::Pruned { what }) => told.pruned.clone_from(what),
        Some(BackupOutcome::Failed { .. }) | None => {}
    }
    told
}

fn verification(found: &Verification) -> v1::Verification {
    v1::Verification {
        verdict: found.verdict.word().to_owned(),
        level: found.level.word().to_owned(),
        backup: found.backup.clone().unwrap_or_default(),
        bytes: found.bytes,
        rto_ms: found.rto_ms,
        rpo_ms: found.rpo_ms,
        host: found.host.clone(),
        version: found.version.clone(),
        postgres: found.postgres.clone().unwrap_or_default(),
        by: found.by.clone(),
        problems: found.problems.clone(),
    }
}

/// What looking at the archive has found.
pub fn audit((member, audit): (&MemberName, ArchiveAudit)) -> v1::ArchiveAudit {
    let told = v1::ArchiveAudit {
        member: member.to_string(),
        looked_unix_ms: audit.looked_unix_ms,
        failure: audit.failure.unwrap_or_default(),
        ..v1::ArchiveAudit::default()
    };
    let Some(found) = audit.found else {
        return told;
    };
    let (first_backup, first_unix_ms) = found.first.unzip();
    v1::ArchiveAudit {
        found_unix_ms: Some(found.at_unix_ms),
        backups: found.backups,
        segments: found.segments,
        first_backup: first_backup.unwrap_or_default(),
        first_unix_ms,
        missing: found.missing,
        missing_names: found.names,
        problems: found.problems,
        ..told
    }
}

/// How far the archive is.
pub fn archive(archive: &ArchiveReport) -> v1::Archive {
    let failure = archive.failure.as_ref();
    v1::Archive {
        newest: archive.newest.clone(),
        recoverable_unix_ms: archive.recoverable_unix_ms,
        waiting: archive.waiting,
        failure: failure.map(|it| it.why.clone()).unwrap_or_default(),
        failing_since_unix_ms: failure.map(|it| it.since_unix_ms),
    }
}

/// The probes there are, each under its name.
pub fn named_probes(health: &Health) -> Vec<(&'static str, Probe)> {
    [
        ("data", health.data_volume),
        ("wal", health.wal_volume),
        ("commit", health.commit),
    ]
    .into_iter()
    .filter_map(|(what, probe)| probe.map(|probe| (what, probe)))
    .collect()
}

/// Probes, encoded.
pub fn probes(health: &Health) -> Vec<v1::Probe> {
    named_probes(health)
        .into_iter()
        .map(|(what, probe)| v1::Probe {
            what: what.to_owned(),
            last_ok_age_ms: probe.last_ok_age_ms,
            took_ms: probe.took_ms,
            is_stuck: probe.is_stuck,
            has_failed: probe.has_failed,
        })
        .collect()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
