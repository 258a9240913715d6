//! What is shown: plain structs made from a member's answer, so that JSON and YAML have stable names
//! whatever the wire does. LSNs are text here, as PostgreSQL prints them.

use std::collections::BTreeMap;

use cluster_core::model::Lsn;
use cluster_proto::v1;
use serde::Serialize;

/// `GetStatus`, for people and programs.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // The names are the wire's, and documented there.
pub struct StatusView {
    pub cluster: String,
    pub cluster_id: String,
    pub generation: u64,
    pub system_identifier: Option<u64>,
    pub answered_by: String,
    pub epoch: u64,
    pub reign: Option<ReignView>,
    pub primary: Option<String>,
    pub lease_left_ms: Option<u64>,
    pub lease_ms: u64,
    pub fence_in_ms: Option<u64>,
    pub preset: String,
    pub mode: String,
    pub maximum_lag_on_failover_bytes: u64,
    pub term: u64,
    pub raft_leader: Option<String>,
    pub voters_up: u32,
    pub voters_total: u32,
    pub failure_tolerance: String,
    pub pause: Option<PauseView>,
    pub schedules: Vec<ScheduleView>,
    pub maintenance: Vec<MaintenanceView>,
    pub members: Vec<MemberView>,
    pub rules: Vec<RuleView>,
    pub candidates: Vec<CandidateView>,
    pub verdicts: Vec<VerdictView>,
    pub requests: Vec<RequestView>,
    pub not_granted: Vec<String>,
    pub applied_index: u64,
    pub initializer: Option<String>,
    pub last_failover_ms: Option<u64>,
    pub confirming: ConfirmingView,
    pub blocked: Option<BlockedView>,
    pub backups: Option<BackupsView>,
    pub verifications: Option<BackupsView>,
    pub prunings: Option<BackupsView>,
    pub objectives: Vec<ObjectiveView>,
    pub audit: Option<AuditView>,
}

/// How commits are confirmed now.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct ConfirmingView {
    pub wanted_k: u32,
    pub in_force: Option<RuleView>,
    pub is_proven: bool,
    pub proposed: Option<u64>,
    pub members: Vec<String>,
    pub writes_wait: bool,
    pub survivable_standbys: Option<u32>,
    pub survivable_with_primary: Option<u32>,
    pub survivable_standbys_text: String,
    pub survivable_with_primary_text: String,
}

/// Backups that the cluster takes by itself; verifications and prunings likewise.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct BackupsView {
    pub schedule: String,
    pub next_unix_ms: Option<u64>,
    pub newest: Option<BackupRunView>,
    pub newest_stored: Option<BackupRunView>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct BackupRunView {
    pub member: String,
    pub due_unix_ms: u64,
    pub attempt: u32,
    pub began_unix_ms: u64,
    pub ended_unix_ms: Option<u64>,
    pub id: Option<String>,
    pub bytes: Option<u64>,
    pub failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruned: Option<String>,
}

/// What a verification found.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct VerificationView {
    pub verdict: String,
    pub level: String,
    pub backup: Option<String>,
    pub bytes: u64,
    pub rto_ms: Option<u64>,
    pub rpo_ms: Option<u64>,
    pub host: String,
    pub version: String,
    pub postgres: Option<String>,
    pub by: String,
    pub problems: Vec<String>,
}

/// What was promised about getting data back, and what was measured.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ObjectiveView {
    pub name: String,
    pub limit_ms: Option<u64>,
    pub measured_ms: Option<u64>,
    pub at_unix_ms: Option<u64>,
    pub since_unix_ms: Option<u64>,
    pub of: String,
    pub verdict: String,
}

/// Whether the archive leads from the oldest backup to now.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct AuditView {
    pub member: String,
    pub looked_unix_ms: u64,
    pub failure: Option<String>,
    pub found_unix_ms: Option<u64>,
    pub backups: u64,
    pub segments: u64,
    pub first_backup: Option<String>,
    pub first_unix_ms: Option<u64>,
    pub missing: u64,
    pub missing_names: Vec<String>,
    pub problems: Vec<String>,
}

/// Why nobody is promoted.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct BlockedView {
    pub missing: Vec<MissingView>,
    pub at_risk: String,
    pub to: Option<String>,
    pub command: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct MissingView {
    pub member: String,
    pub silent_ms: Option<u64>,
}

/// `GetSettings`, for people and programs.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct SettingsView {
    pub mode: String,
    pub k: u32,
    pub k_min: u32,
    pub preset: String,
    pub zones: BTreeMap<String, String>,
    pub maximum_lag_on_failover_bytes: u64,
    pub seal_patience_ms: u64,
    pub probe_limit_ms: u64,
    pub keep_standby_sessions: bool,
    pub backup_schedule: Option<String>,
    pub parameters: BTreeMap<String, String>,
    pub primary_parameters: BTreeMap<String, String>,
    pub standby_parameters: BTreeMap<String, String>,
    pub members: Vec<SyncPriorityView>,
    pub revision: u64,
    #[serde(skip)]
    pub rows: Vec<SettingsRowView>,
}

/// A key that has a value, both as `settings set` takes them.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct SettingsRowView {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct SyncPriorityView {
    pub member: String,
    pub priority: u32,
    pub nosync_set: Option<bool>,
    pub sync_priority_set: Option<u32>,
    pub parameters: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ReignView {
    pub epoch: u64,
    pub holder: String,
    pub phase: String,
    pub timeline: u32,
    pub start_lsn: String,
    pub fork_lsn: Option<String>,
    pub is_activated: bool,
    pub reason: String,
    pub ended_because: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct PauseView {
    pub by: String,
    pub at: String,
}

/// What is to be done at a time.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ScheduleView {
    pub id: String,
    pub what: String,
    pub member: Option<String>,
    pub from: Option<String>,
    pub to: Option<String>,
    pub older_than: Option<String>,
    pub due: String,
    pub due_unix_ms: u64,
    pub by: String,
}

impl From<&v1::Schedule> for ScheduleView {
    fn from(schedule: &v1::Schedule) -> Self {
        let (switchover, restart) = match schedule.work.clone() {
            Some(v1::schedule::Work::Switchover(it)) => (it, v1::ScheduledRestart::default()),
            Some(v1::schedule::Work::Restart(it)) => (v1::ScheduledSwitchover::default(), it),
            None => Default::default(),
        };
        Self {
            id: schedule.id.clone(),
            what: schedule.text.clone(),
            member: some(&restart.member),
            from: some(&switchover.from),
            to: some(&switchover.to),
            older_than: some(&restart.older_than),
            due: schedule.due.clone(),
            due_unix_ms: schedule.due_unix_ms,
            by: schedule.by.clone(),
        }
    }
}

/// A member that nothing is entrusted to for a while.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct MaintenanceView {
    pub member: String,
    pub since: String,
    pub until: String,
    pub until_unix_ms: u64,
    pub by: String,
}

impl From<&v1::Maintenance> for MaintenanceView {
    fn from(it: &v1::Maintenance) -> Self {
        Self {
            member: it.member.clone(),
            since: crate::time::moment(it.since_unix_ms),
            until: crate::time::moment(it.until_unix_ms),
            until_unix_ms: it.until_unix_ms,
            by: it.by.clone(),
        }
    }
}

/// What takes effect with the next start of a member's PostgreSQL.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct PendingView {
    pub name: String,
    pub from: String,
    pub to: String,
}

impl From<&v1::PendingRestart> for PendingView {
    fn from(pending: &v1::PendingRestart) -> Self {
        Self {
            name: pending.name.clone(),
            from: pending.from.clone(),
            to: pending.to.clone(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct MemberView {
    pub name: String,
    pub node_id: u64,
    pub role: String,
    pub state: String,
    pub peer: String,
    pub http: String,
    pub postgres: String,
    pub timeline: Option<u32>,
    pub epoch: Option<u64>,
    pub receive_lsn: Option<String>,
    pub replay_lsn: Option<String>,
    pub receive_lag_bytes: Option<u64>,
    pub replay_lag_bytes: Option<u64>,
    pub replay_delay_ms: Option<u64>,
    pub tags: BTreeMap<String, String>,
    pub pending_restart: bool,
    pub pending_restart_reason: Vec<PendingView>,
    pub parameters_refused: Option<String>,
    pub busy: Option<BusyView>,
    pub probes: Vec<ProbeView>,
    pub report_age_ms: Option<u64>,
    pub version: String,
    pub server_version: Option<u32>,
    pub incarnation: String,
    pub is_raft_leader: bool,
    pub is_voter: bool,
    pub is_joining: bool,
    pub not_promotable: Vec<String>,
    pub verdict: String,
    pub free_bytes: Option<u64>,
    pub confirms: bool,
    pub why_not_confirming: Option<String>,
    pub receive_delay_ms: Option<u64>,
    pub commit_overrides: Vec<String>,
    pub cancelled_waits: u64,
    pub strangers_ended: u64,
    pub archive: Option<ArchiveView>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ArchiveView {
    pub newest: Option<String>,
    pub recoverable_unix_ms: Option<u64>,
    pub waiting: u64,
    pub failure: Option<String>,
    pub failing_since_unix_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct BusyView {
    pub with: String,
    pub for_ms: u64,
    pub done_bytes: Option<u64>,
    pub total_bytes: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ProbeView {
    pub what: String,
    pub last_ok_age_ms: u64,
    pub took_ms: u64,
    pub is_stuck: bool,
    pub has_failed: bool,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct RuleView {
    pub id: u64,
    pub epoch: u64,
    pub k: u32,
    pub members: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct CandidateView {
    pub member: String,
    pub is_eligible: bool,
    pub reasons: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct VerdictView {
    pub rule: String,
    pub code: String,
    pub text: String,
    pub age_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct RequestView {
    pub id: String,
    pub verb: String,
    pub member: Option<String>,
    pub by: String,
    pub at: String,
    pub step: String,
    pub is_open: bool,
    pub text: String,
}

/// One line of history.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct HistoryView {
    pub index: u64,
    pub at: String,
    pub at_unix_ms: u64,
    pub epoch: u64,
    pub what: String,
    pub member: Option<String>,
    pub timeline: Option<u32>,
    pub lsn: Option<String>,
    pub reason: String,
}

/// One event of the stream.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct EventView {
    pub index: u64,
    pub at: String,
    pub at_unix_ms: u64,
    pub epoch: u64,
    pub what: String,
    pub member: Option<String>,
    pub timeline: Option<u32>,
    pub lsn: Option<String>,
    pub reason: String,
    pub who: String,
}

/// Empty text is nothing.
pub fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn lsn(position: u64) -> String {
    Lsn(position).to_string()
}

/// The word of a step.
pub fn step_word(step: v1::RequestStep) -> &'static str {
    match step {
        v1::RequestStep::Unspecified => "unknown",
        v1::RequestStep::Accepted => "accepted",
        v1::RequestStep::Prepare => "prepare",
        v1::RequestStep::Drain => "drain",
        v1::RequestStep::Moving => "moving",
        v1::RequestStep::Rolling => "rolling",
        v1::RequestStep::Done => "done",
        v1::RequestStep::Failed => "failed",
    }
}

fn role_word(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Unspecified => "",
        v1::Role::Primary => "Primary",
        v1::Role::Standby => "Standby",
        v1::Role::SyncStandby => "Sync Standby",
        v1::Role::QuorumStandby => "Quorum Standby",
        v1::Role::Witness => "Witness",
    }
}

impl From<&v1::Status> for StatusView {
    fn from(status: &v1::Status) -> Self {
        let reign = status.reign.as_ref();
        Self {
            cluster: status.cluster.clone(),
            cluster_id: status.cluster_id.clone(),
            generation: status.generation,
            system_identifier: (status.system_identifier != 0).then_some(status.system_identifier),
            answered_by: status.answered_by.clone(),
            epoch: status.epoch,
            reign: reign.map(ReignView::from),
            primary: some(&status.primary),
            lease_left_ms: status.lease_left_ms,
            lease_ms: status.lease_ms,
            fence_in_ms: status.fence_in_ms,
            preset: status.preset.clone(),
            mode: status.mode.clone(),
            maximum_lag_on_failover_bytes: status.maximum_lag_on_failover_bytes,
            term: status.term,
            raft_leader: some(&status.raft_leader),
            voters_up: status.voters_up,
            voters_total: status.voters_total,
            failure_tolerance: status.failure_tolerance.clone(),
            schedules: status.schedules.iter().map(ScheduleView::from).collect(),
            maintenance: status
                .maintenance
                .iter()
                .map(MaintenanceView::from)
                .collect(),
            pause: status.pause.as_ref().map(|pause| PauseView {
                by: pause.by.clone(),
                at: crate::time::moment(pause.at_unix_ms),
            }),
            members: status
                .members
                .iter()
                .map(|member| MemberView::new(member, reign))
                .collect(),
            rules: status.rules.iter().map(RuleView::from).collect(),
            candidates: status.candidates.iter().map(CandidateView::from).collect(),
            verdicts: status.verdicts.iter().map(VerdictView::from).collect(),
            requests: status.requests.iter().map(RequestView::from).collect(),
            not_granted: status.not_granted.clone(),
            applied_index: status.applied_index,
            initializer: some(&status.initializer),
            last_failover_ms: status.last_failover_ms,
            confirming: status
                .confirming
                .as_ref()
                .map(ConfirmingView::from)
                .unwrap_or_default(),
            blocked: status.blocked.as_ref().map(BlockedView::from),
            backups: status.backups.as_ref().map(BackupsView::from),
            verifications: status.verifications.as_ref().map(BackupsView::from),
            prunings: status.prunings.as_ref().map(BackupsView::from),
            objectives: status.objectives.iter().map(ObjectiveView::from).collect(),
            audit: status.audit.as_ref().map(AuditView::from),
        }
    }
}

impl From<&v1::ArchiveAudit> for AuditView {
    fn from(audit: &v1::ArchiveAudit) -> Self {
        Self {
            member: audit.member.clone(),
            looked_unix_ms: audit.looked_unix_ms,
            failure: some(&audit.failure),
            found_unix_ms: audit.found_unix_ms,
            backups: audit.backups,
            segments: audit.segments,
            first_backup: some(&audit.first_backup),
            first_unix_ms: audit.first_unix_ms,
            missing: audit.missing,
            missing_names: audit.missing_names.clone(),
            problems: audit.problems.clone(),
        }
    }
}

impl From<&v1::ScheduledBackups> for BackupsView {
    fn from(found: &v1::ScheduledBackups) -> Self {
        Self {
            schedule: found.schedule.clone(),
            next_unix_ms: found.next_unix_ms,
            newest: found.newest.as_ref().map(BackupRunView::from),
            newest_stored: found.newest_stored.as_ref().map(BackupRunView::from),
        }
    }
}

impl From<&v1::BackupRun> for BackupRunView {
    fn from(run: &v1::BackupRun) -> Self {
        let id = some(&run.id);
        Self {
            member: run.member.clone(),
            due_unix_ms: run.due_unix_ms,
            attempt: run.attempt,
            began_unix_ms: run.began_unix_ms,
            ended_unix_ms: run.ended_unix_ms,
            bytes: id.is_some().then_some(run.bytes),
            id,
            failure: some(&run.failure),
            verification: run.verification.as_ref().map(VerificationView::from),
            pruned: some(&run.pruned),
        }
    }
}

impl From<&v1::Verification> for VerificationView {
    fn from(found: &v1::Verification) -> Self {
        Self {
            verdict: found.verdict.clone(),
            level: found.level.clone(),
            backup: some(&found.backup),
            bytes: found.bytes,
            rto_ms: found.rto_ms,
            rpo_ms: found.rpo_ms,
            host: found.host.clone(),
            version: found.version.clone(),
            postgres: some(&found.postgres),
            by: found.by.clone(),
            problems: found.problems.clone(),
        }
    }
}

impl From<&v1::Objective> for ObjectiveView {
    fn from(found: &v1::Objective) -> Self {
        Self {
            name: found.name.clone(),
            limit_ms: found.limit_ms,
            measured_ms: found.measured_ms,
            at_unix_ms: found.at_unix_ms,
            since_unix_ms: found.since_unix_ms,
            of: found.of.clone(),
            verdict: found.verdict.clone(),
        }
    }
}

impl From<&v1::Confirming> for ConfirmingView {
    fn from(found: &v1::Confirming) -> Self {
        Self {
            wanted_k: found.wanted_k,
            in_force: found.in_force.as_ref().map(RuleView::from),
            is_proven: found.is_proven,
            proposed: found.proposed,
            members: found.members.clone(),
            writes_wait: found.writes_wait,
            survivable_standbys: found.survivable_standbys,
            survivable_with_primary: found.survivable_with_primary,
            survivable_standbys_text: found.survivable_standbys_text.clone(),
            survivable_with_primary_text: found.survivable_with_primary_text.clone(),
        }
    }
}

impl From<&v1::Blocked> for BlockedView {
    fn from(found: &v1::Blocked) -> Self {
        let missing = found.missing.iter().map(|one| MissingView {
            member: one.member.clone(),
            silent_ms: one.silent_ms,
        });
        Self {
            missing: missing.collect(),
            at_risk: found.at_risk.clone(),
            to: some(&found.to),
            command: some(&found.command),
        }
    }
}

impl From<&v1::SettingsReply> for SettingsView {
    fn from(reply: &v1::SettingsReply) -> Self {
        let settings = reply.settings.clone().unwrap_or_default();
        let own = |name: &str| settings.members.get(name).cloned().unwrap_or_default();
        let members = reply.priorities.iter().map(|one| SyncPriorityView {
            member: one.member.clone(),
            priority: one.priority,
            nosync_set: own(&one.member).nosync,
            sync_priority_set: own(&one.member).sync_priority,
            parameters: own(&one.member).parameters.into_iter().collect(),
        });
        Self {
            members: members.collect(),
            mode: settings.mode.clone(),
            k: settings.k,
            k_min: settings.k_min,
            preset: settings.preset.clone(),
            zones: settings.zones.clone().into_iter().collect(),
            maximum_lag_on_failover_bytes: settings.maximum_lag_on_failover_bytes,
            seal_patience_ms: settings.seal_patience_ms,
            probe_limit_ms: settings.probe_limit_ms,
            keep_standby_sessions: settings.keep_standby_sessions,
            backup_schedule: some(&settings.backup_schedule),
            parameters: settings.parameters.clone().into_iter().collect(),
            primary_parameters: settings.primary_parameters.clone().into_iter().collect(),
            standby_parameters: settings.standby_parameters.clone().into_iter().collect(),
            revision: reply.revision,
            rows: reply
                .rows
                .iter()
                .map(|row| SettingsRowView {
                    key: row.key.clone(),
                    value: row.value.clone(),
                })
                .collect(),
        }
    }
}

impl SyncPriorityView {
    /// What was set at run time, in brackets; empty when nothing was.
    pub fn set_text(&self) -> String {
        let nosync = self.nosync_set.map(|it| format!("nosync={it}"));
        let priority = self
            .sync_priority_set
            .map(|it| format!("sync_priority={it}"));
        let set: Vec<String> = nosync.into_iter().chain(priority).collect();
        if set.is_empty() {
            String::new()
        } else {
            format!(" [set: {}]", set.join(", "))
        }
    }
}

impl StatusView {
    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<&MemberView> {
        self.members.iter().find(|member| member.name == name)
    }
}

impl From<&v1::Reign> for ReignView {
    fn from(reign: &v1::Reign) -> Self {
        Self {
            epoch: reign.epoch,
            holder: reign.holder.clone(),
            phase: reign.phase.clone(),
            timeline: reign.timeline,
            start_lsn: lsn(reign.start_lsn),
            fork_lsn: reign.fork_lsn.map(lsn),
            is_activated: reign.is_activated,
            reason: reign.reason.clone(),
            ended_because: reign.ended_because.clone(),
        }
    }
}

impl MemberView {
    /// `shared_buffers 128MB -> 1GB, …`
    pub fn pending_text(&self) -> String {
        let each: Vec<String> = self
            .pending_restart_reason
            .iter()
            .map(|it| format!("{} {} -> {}", it.name, it.from, it.to))
            .collect();
        each.join(", ")
    }

    fn new(member: &v1::MemberStatus, reign: Option<&v1::Reign>) -> Self {
        let addresses = member.addresses.clone().unwrap_or_default();
        let own_epoch = reign
            .filter(|reign| reign.holder == member.name && member.role() == v1::Role::Primary)
            .map(|reign| reign.epoch);
        Self {
            name: member.name.clone(),
            node_id: member.node_id,
            role: role_word(member.role()).to_owned(),
            state: member.state.clone(),
            peer: addresses.peer,
            http: addresses.http,
            postgres: addresses.postgres,
            timeline: member.timeline,
            epoch: own_epoch.or(member.follows_epoch),
            receive_lsn: member.receive_lsn.map(lsn),
            replay_lsn: member.replay_lsn.map(lsn),
            receive_lag_bytes: member.receive_lag_bytes,
            replay_lag_bytes: member.replay_lag_bytes,
            replay_delay_ms: member.replay_delay_ms,
            tags: tags(member.tags.as_ref()),
            pending_restart: member.pending_restart,
            pending_restart_reason: member.pending.iter().map(PendingView::from).collect(),
            parameters_refused: some(&member.parameters_refused),
            busy: member.busy.as_ref().map(|busy| BusyView {
                with: busy.with.clone(),
                for_ms: busy.for_ms,
                done_bytes: busy.done_bytes,
                total_bytes: busy.total_bytes,
            }),
            probes: member.probes.iter().map(ProbeView::from).collect(),
            report_age_ms: member.report_age_ms,
            version: member.version.clone(),
            server_version: member.server_version,
            incarnation: member.incarnation.clone(),
            is_raft_leader: member.is_raft_leader,
            is_voter: member.is_voter,
            is_joining: member.is_joining,
            not_promotable: member.not_promotable.clone(),
            verdict: member.verdict.clone(),
            free_bytes: member.free_bytes,
            confirms: member.confirms,
            why_not_confirming: some(&member.why_not_confirming),
            receive_delay_ms: member.receive_delay_ms,
            commit_overrides: member.commit_overrides.clone(),
            cancelled_waits: member.cancelled_waits,
            strangers_ended: member.strangers_ended,
            archive: member.archive.as_ref().map(|archive| ArchiveView {
                newest: archive.newest.clone(),
                recoverable_unix_ms: archive.recoverable_unix_ms,
                waiting: archive.waiting,
                failure: some(&archive.failure),
                failing_since_unix_ms: archive.failing_since_unix_ms,
            }),
        }
    }

    /// Whether this member has no PostgreSQL.
    pub fn is_witness(&self) -> bool {
        self.role == role_word(v1::Role::Witness)
    }

    /// Whether this member is the primary.
    pub fn is_primary(&self) -> bool {
        self.role == role_word(v1::Role::Primary)
    }

    /// Tags on one line: `nofailover, zone=a`.
    pub fn tags_text(&self) -> String {
        let words = self.tags.iter().map(|(name, value)| match value.as_str() {
            "true" => name.clone(),
            value => format!("{name}={value}"),
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

/// Tags that are set; what is at its default is no news.
fn tags(tags: Option<&v1::Tags>) -> BTreeMap<String, String> {
    let Some(tags) = tags else {
        return BTreeMap::new();
    };
    let flags = [
        ("nofailover", tags.nofailover),
        ("noloadbalance", tags.noloadbalance),
        ("clonefrom", tags.clonefrom),
        ("nosync", tags.nosync),
    ];
    let mut found: BTreeMap<String, String> = tags
        .custom
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, _) in flags.iter().filter(|(_, is_set)| *is_set) {
        found.insert((*name).to_owned(), "true".to_owned());
    }
    if let Some(priority) = tags.failover_priority.filter(|priority| *priority != 1) {
        found.insert("failover_priority".to_owned(), priority.to_string());
    }
    if let Some(priority) = tags.sync_priority.filter(|priority| *priority != 1) {
        found.insert("sync_priority".to_owned(), priority.to_string());
    }
    found
}

impl From<&v1::Probe> for ProbeView {
    fn from(probe: &v1::Probe) -> Self {
        Self {
            what: probe.what.clone(),
            last_ok_age_ms: probe.last_ok_age_ms,
            took_ms: probe.took_ms,
            is_stuck: probe.is_stuck,
            has_failed: probe.has_failed,
        }
    }
}

impl From<&v1::Rule> for RuleView {
    fn from(rule: &v1::Rule) -> Self {
        Self {
            id: rule.id,
            epoch: rule.epoch,
            k: rule.k,
            members: rule.members.clone(),
        }
    }
}

impl From<&v1::Candidate> for CandidateView {
    fn from(candidate: &v1::Candidate) -> Self {
        Self {
            member: candidate.member.clone(),
            is_eligible: candidate.is_eligible,
            reasons: candidate.reasons.clone(),
        }
    }
}

impl From<&v1::VerdictLine> for VerdictView {
    fn from(line: &v1::VerdictLine) -> Self {
        Self {
            rule: line.rule.clone(),
            code: line.code.clone(),
            text: line.text.clone(),
            age_ms: line.age_ms,
        }
    }
}

impl From<&v1::Request> for RequestView {
    fn from(request: &v1::Request) -> Self {
        use v1::request_kind::Kind;
        let (verb, member) = match request.kind.as_ref().and_then(|kind| kind.kind.as_ref()) {
            Some(Kind::Switchover(it)) => ("switchover", it.to.as_str()),
            Some(Kind::Failover(it)) => ("failover", it.to.as_str()),
            Some(Kind::Restart(it)) => ("restart", it.member.as_str()),
            Some(Kind::RestartPending(_)) => ("restart --pending", ""),
            Some(Kind::Reload(it)) => ("reload", it.member.as_str()),
            Some(Kind::Reinit(it)) => ("reinit", it.member.as_str()),
            None => ("unknown", ""),
        };
        let step = request.step();
        Self {
            id: request.id.clone(),
            verb: verb.to_owned(),
            member: some(if request.to.is_empty() {
                member
            } else {
                &request.to
            }),
            by: request.by.clone(),
            at: crate::time::moment(request.at_unix_ms),
            step: step_word(step).to_owned(),
            is_open: !matches!(step, v1::RequestStep::Done | v1::RequestStep::Failed),
            text: request.text.clone(),
        }
    }
}

impl From<&v1::HistoryEntry> for HistoryView {
    fn from(entry: &v1::HistoryEntry) -> Self {
        Self {
            index: entry.index,
            at: crate::time::moment(entry.at_unix_ms),
            at_unix_ms: entry.at_unix_ms,
            epoch: entry.epoch,
            what: entry.what.clone(),
            member: some(&entry.member),
            timeline: entry.timeline,
            lsn: entry.lsn.map(lsn),
            reason: entry.reason.clone(),
        }
    }
}

impl From<&v1::Event> for EventView {
    fn from(event: &v1::Event) -> Self {
        Self {
            index: event.index,
            at: crate::time::moment(event.at_unix_ms),
            at_unix_ms: event.at_unix_ms,
            epoch: event.epoch,
            what: event.what.clone(),
            member: some(&event.member),
            timeline: event.timeline,
            lsn: event.lsn.map(lsn),
            reason: event.reason.clone(),
            who: event.who.clone(),
        }
    }
}
