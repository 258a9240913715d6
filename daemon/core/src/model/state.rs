//! `ClusterState`: the whole replicated truth. Changed by [`crate::change::apply`] only.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backup_run::BackupRun;
use super::bypass::Bypass;
use super::epoch::{Epoch, Generation};
use super::ids::{ClusterId, ClusterName, Incarnation, MemberName, NodeId, RequestId, RuleId};
use super::ledger::Ledger;
use super::lsn::Lsn;
use super::maintenance::Maintenance;
use super::member::{Member, MemberKind, Tags};
use super::missing::MissingTold;
use super::request::Request;
use super::rule::Rule;
use super::schedule::{Schedule, Slot};
use super::settings::Settings;
use super::snapshot::{Origin, Snapshot, SnapshotId};
use super::timeline::TimelineId;

/// How many finished requests are remembered.
pub const REQUESTS_KEPT: usize = 50;
/// How many revisions of the settings are remembered, the one in force included.
pub const REVISIONS_KEPT: usize = 20;
/// How many history entries are remembered.
pub const HISTORY_KEPT: usize = 500;

/// Who this cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Random, made when the group formed.
    pub id: ClusterId,
    /// As configured.
    pub name: ClusterName,
    /// The cluster's life.
    pub generation: Generation,
}

/// Where one reign stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Renewals are confirmed.
    Granted,
    /// No renewal is confirmed any more; the lease may still run.
    Revoked,
    /// The holder's guard confirmed an empty process set.
    Released,
}

/// One primary's reign: the newest one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reign {
    /// Its number.
    pub epoch: Epoch,
    /// The member that may be primary.
    pub holder: MemberName,
    /// The life of the holder's data directory that was granted.
    pub incarnation: Incarnation,
    /// The timeline given to it.
    pub timeline: TimelineId,
    /// The end of its WAL when it was granted.
    pub start: Lsn,
    /// Where it stands.
    pub phase: Phase,
    /// Where the timeline began, once promoted.
    pub fork: Option<Lsn>,
    /// Open to clients.
    pub is_activated: bool,
    /// Why it was granted, as a code.
    pub reason: String,
    /// Why it was revoked, as a code.
    pub ended_because: Option<String>,
}

/// A lagging candidate fetches the rest from the best sealed member; then it seals again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastForward {
    /// The epoch that is to be granted.
    pub target: Epoch,
    /// Who fetches.
    pub member: MemberName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// From whom; sealed for the same epoch, and running.
    pub from: MemberName,
    /// The last timeline in that one's WAL.
    pub timeline: TimelineId,
    /// Where that one's WAL ends.
    pub until: Lsn,
}

/// The cluster takes no automatic action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Who asked.
    pub by: String,
    /// When, Unix milliseconds, for display.
    pub at_unix_ms: u64,
}

/// The settings as they were after one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsRevision {
    /// Log index of the change; 0 for what the cluster was formed with.
    pub revision: u64,
    /// When, Unix milliseconds of the proposer's clock. Display only.
    pub at_unix_ms: u64,
    /// Who, and why.
    pub by: String,
    /// What differs from the one before, as `key old -> new`.
    pub changes: Vec<String>,
    /// The whole document.
    pub settings: Settings,
}

/// One line of history, for people and `/history`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryEntry {
    /// Log index.
    pub index: u64,
    /// When, Unix milliseconds of the proposer's clock. Display only.
    pub at_unix_ms: u64,
    /// The epoch it is about.
    pub epoch: Epoch,
    /// What happened: `granted`, `promoted`, `activated`, `revoked`, `released`, `request`, `paused` …
    pub what: String,
    /// The member it is about.
    pub member: Option<MemberName>,
    /// Timeline, when it has one.
    pub timeline: Option<TimelineId>,
    /// Position, when it has one.
    pub lsn: Option<Lsn>,
    /// The reason's code and text.
    pub reason: String,
}

/// Everything that must survive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterState {
    /// None before `Form`.
    pub identity: Option<Identity>,
    /// By name.
    pub members: BTreeMap<MemberName, Member>,
    /// Changed at run time.
    pub settings: Settings,
    /// The newest revisions of the settings, newest last; empty until they are changed at run time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings_log: Vec<SettingsRevision>,
    /// PostgreSQL's own identity of the data, once there is data.
    pub system_identifier: Option<u64>,
    /// Who makes (or brings) the first data directory.
    pub initializer: Option<MemberName>,
    /// The newest reign.
    pub reign: Option<Reign>,
    /// Every timeline.
    pub ledger: Ledger,
    /// Every rule under which an acknowledgement may exist that is not carried forward yet.
    pub live_rules: Vec<Rule>,
    /// The newest rule number given.
    pub last_rule: RuleId,
    /// A sealed member that fetches what a better one has, before it is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast_forward: Option<FastForward>,
    /// D before the latest change of D, until W of it has passed everywhere.
    pub previous_lease: Option<Duration>,
    /// Operator requests, by id.
    pub requests: BTreeMap<RequestId, Request>,
    /// What is to be done at a time, soonest first; one of each [`Slot`] at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
    /// Members that nothing is entrusted to for a while.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub maintenance: BTreeMap<MemberName, Maintenance>,
    /// Set while paused.
    pub pause: Option<Pause>,
    /// Newest last.
    pub history: Vec<HistoryEntry>,
    /// Snapshots, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// Backups that were taken by schedule, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup_runs: Vec<BackupRun>,
    /// What the history last said of commits that did not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypass: Option<Bypass>,
    /// Whom the history last said a promotion waits for; none: it does not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_told: Option<MissingTold>,
    /// The snapshot this cluster was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl ClusterState {
    /// The newest epoch; 0 before the first reign.
    pub fn epoch(&self) -> Epoch {
        self.reign.as_ref().map_or(Epoch::NONE, |reign| reign.epoch)
    }

    /// The reign whose renewals are confirmed now.
    pub fn granted(&self) -> Option<&Reign> {
        self.reign
            .as_ref()
            .filter(|reign| reign.phase == Phase::Granted)
    }

    /// The reign standbys may follow: granted and promoted.
    pub fn followable(&self) -> Option<&Reign> {
        self.granted().filter(|reign| reign.fork.is_some())
    }

    /// Who must confirm a commit: the newest rule that is activated. None while nobody is let in.
    pub fn activated_rule(&self) -> Option<&Rule> {
        let reign = self.granted().filter(|reign| reign.is_activated)?;
        // Activation forgets every older rule; proposals stand behind it.
        let mut live = self.live_rules.iter();
        live.find(|rule| rule.epoch == reign.epoch)
    }

    /// The member with this Raft id.
    pub fn member_of(&self, node: NodeId) -> Option<(&MemberName, &Member)> {
        self.members.iter().find(|(_, member)| member.node == node)
    }

    /// Members with a PostgreSQL.
    pub fn databases(&self) -> impl Iterator<Item = (&MemberName, &Member)> {
        self.members
            .iter()
            .filter(|(_, member)| member.kind == MemberKind::Database)
    }

    /// Number of the settings in force; 0 until they are changed at run time.
    pub fn settings_revision(&self) -> u64 {
        self.settings_log.last().map_or(0, |newest| newest.revision)
    }

    /// What each member is.
    pub fn kinds(&self) -> BTreeMap<MemberName, MemberKind> {
        let members = self.members.iter();
        members
            .map(|(name, member)| (name.clone(), member.kind))
            .collect()
    }

    /// A member's tags as they count: announced by its config file, or set at run time over that, and
    /// in maintenance what is not entrusted to it then.
    pub fn tags_in_force(&self, name: &MemberName, announced: &Tags) -> Tags {
        let tags = match self.settings.members.get(name) {
            Some(own) => own.over(announced),
            None => announced.clone(),
        };
        match self.maintenance.contains_key(name) {
            true => Maintenance::over(&tags),
            false => tags,
        }
    }

    /// Why its tags keep this member from promotion, if they do.
    pub fn never_promoted(&self, name: &MemberName) -> Option<&'static str> {
        match self.tags_of(name).priority() {
            0 if self.maintenance.contains_key(name) => Some("is in maintenance"),
            0 => Some("is tagged nofailover"),
            _ => None,
        }
    }

    /// The same of what the member announced last; nothing special for one that is unknown.
    pub fn tags_of(&self, name: &MemberName) -> Tags {
        let member = self.members.get(name);
        member.map_or_else(Tags::default, |it| self.tags_in_force(name, &it.tags))
    }

    /// A member's effective priority as a sync standby; 0 means never.
    pub fn sync_priority(&self, name: &MemberName) -> u32 {
        let member = self.members.get(name);
        member.map_or(0, |it| self.tags_in_force(name, &it.tags).sync_priority())
    }

    /// The open request that moves the primary, if any.
    pub fn moving_request(&self) -> Option<&Request> {
        self.requests
            .values()
            .find(|request| request.is_open() && request.kind.moves_primary())
    }

    /// What is scheduled there, if anything.
    pub fn scheduled(&self, slot: &Slot) -> Option<&Schedule> {
        let mut all = self.schedules.iter();
        all.find(|schedule| schedule.work.slot() == *slot)
    }

    /// Open requests, oldest first.
    pub fn open_requests(&self) -> Vec<&Request> {
        let mut open: Vec<&Request> = self.requests.values().filter(|r| r.is_open()).collect();
        open.sort_by_key(|request| request.index);
        open
    }

    /// The lease length a leader must assume may be out: the larger of D and D_prev.
    pub fn longest_lease(&self) -> Duration {
        let now = self.settings.times().lease;
        self.previous_lease.map_or(now, |before| before.max(now))
    }
}
