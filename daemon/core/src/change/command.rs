//! Every change there is to the replicated truth, and why one may be refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::backup_run::{BackupOutcome, RunKind};
use crate::model::bypass::Bypass;
use crate::model::lease::Preset;
use crate::model::member::{Addresses, SealReport, Tags};
use crate::model::missing::MissingTold;
use crate::model::request::{RequestKind, RequestOutcome, Step};
use crate::model::schedule::{Due, Slot, Work};
use crate::model::settings::Durability;
use crate::model::snapshot::{MemberPart, Origin, SnapshotFile};
use crate::model::state::{FastForward, Identity};
use crate::model::{
    Epoch, Incarnation, Lsn, MemberKind, MemberName, NodeId, RequestId, Rule, RuleId, Settings,
    SettingsChange, SnapshotId, TimelineId,
};

/// A command with the proposer's wall clock, for display in history only: no rule reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// Version of the command format. A member that meets an unknown one stops.
    pub version: u16,
    /// Unix milliseconds at the proposer.
    pub at_unix_ms: u64,
    /// The change.
    pub command: Command,
}

/// The command format this build writes.
pub const COMMAND_VERSION: u16 = 1;

/// One first member, as the group forms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founder {
    /// Name.
    pub name: MemberName,
    /// Place in the sorted list.
    pub node: NodeId,
    /// Database or witness.
    pub kind: MemberKind,
    /// Its gRPC address.
    pub peer: String,
}

/// Every change there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Command {
    /// The first entry of a new group.
    Form {
        /// Who the cluster is.
        identity: Identity,
        /// The first members.
        members: Vec<Founder>,
        /// First settings.
        settings: Box<Settings>,
    },
    /// Nothing; makes a leader ready. `by` and `start` tell whose it is.
    Noop {
        /// The proposing node.
        by: NodeId,
        /// The proposing process.
        start: String,
    },
    /// What a member said of itself and Raft did not know yet.
    Describe {
        /// Who.
        member: MemberName,
        /// Where it listens.
        addresses: Addresses,
        /// Its tags.
        tags: Tags,
        /// The life of its data directory.
        incarnation: Option<Incarnation>,
    },
    /// This member makes (or brings) the first data directory.
    Initialize {
        /// Who.
        member: MemberName,
    },
    /// The first data directory exists.
    Initialized {
        /// Who made it.
        member: MemberName,
        /// PostgreSQL's own identity of it.
        system_identifier: u64,
        /// The timeline it is on.
        timeline: TimelineId,
    },
    /// This member may promote, in this epoch, on this timeline.
    Grant(Box<Grant>),
    /// A sealed member fetches what a better one has.
    FastForward(Box<FastForward>),
    /// No renewal of this epoch is confirmed any more.
    Revoke {
        /// Which.
        epoch: Epoch,
        /// Code of the reason.
        reason: String,
    },
    /// The holder's processes are gone and its Grant is used up.
    Release {
        /// Which.
        epoch: Epoch,
        /// The holder.
        member: MemberName,
        /// Why, as a sentence.
        why: String,
    },
    /// The holder has left recovery.
    Promoted {
        /// Which.
        epoch: Epoch,
        /// The holder.
        member: MemberName,
        /// Where its timeline began.
        fork: Lsn,
    },
    /// A new rule for commits; live from now on, next to the others.
    Propose {
        /// The rule; its id is the newest plus one.
        rule: Rule,
    },
    /// The rule's write quorum has everything acknowledged so far: older rules are forgotten, and
    /// if it is the first of its epoch clients may come in.
    Activate {
        /// Which epoch.
        epoch: Epoch,
        /// Which rule.
        rule: RuleId,
        /// The position the quorum has flushed.
        at: Lsn,
        /// Who has flushed it; at least k of the rule's set.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        by: BTreeMap<MemberName, Incarnation>,
    },
    /// A proposed rule that was never set, and never will be.
    Withdraw {
        /// Which epoch.
        epoch: Epoch,
        /// Which rule.
        rule: RuleId,
    },
    /// Who must confirm a commit from now on; the rules follow one by one.
    SetDurability(Box<Durability>),
    /// An operator changes settings, key by key; all or nothing.
    ChangeSettings {
        /// What changes.
        change: Box<SettingsChange>,
        /// The revision that was seen; none: whatever it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<u64>,
        /// Who, and why.
        by: String,
    },
    /// Another preset; the old lease length counts until it is settled.
    SetPreset {
        /// The new one.
        preset: Preset,
    },
    /// W of the previous lease length has passed.
    SettleLease,
    /// An operator asks for something.
    Ask {
        /// Chosen by the client.
        id: RequestId,
        /// What.
        kind: RequestKind,
        /// Who, and why.
        by: String,
    },
    /// A request got further.
    Step {
        /// Which.
        id: RequestId,
        /// Where it is now.
        step: Step,
    },
    /// An operator takes a request back, or the cluster gives it up.
    End {
        /// Which.
        id: RequestId,
        /// How.
        outcome: RequestOutcome,
    },
    /// An operator wants something done at a time.
    Schedule(Box<Scheduling>),
    /// An operator takes back what is scheduled.
    Unschedule {
        /// Which.
        slot: Slot,
        /// Who asked.
        by: String,
    },
    /// What is scheduled is due: it becomes a request, or is dropped when that would be refused.
    BeginScheduled {
        /// Which.
        id: RequestId,
    },
    /// What is scheduled is given up.
    DropScheduled {
        /// Which.
        id: RequestId,
        /// Why, as a sentence.
        why: String,
    },
    /// Nothing is entrusted to a member for a while.
    BeginMaintenance(Box<MaintenanceWish>),
    /// It is a member like the others again.
    EndMaintenance {
        /// Which.
        member: MemberName,
        /// Who asked, or why.
        by: String,
    },
    /// The cluster takes no automatic action.
    Pause {
        /// Who asked.
        by: String,
    },
    /// It does again.
    Resume {
        /// Who asked.
        by: String,
    },
    /// A host comes back with an empty disk under a new id: the log index of this entry.
    ReplaceMember {
        /// Who.
        member: MemberName,
        /// Where its gRPC listens now.
        peer: String,
        /// Who asked.
        by: String,
    },
    /// The replaced member's new id is the voter now.
    Replaced {
        /// Who.
        member: MemberName,
    },
    /// A snapshot of the whole cluster begins.
    BeginSnapshot {
        /// Chosen by whoever was asked.
        id: SnapshotId,
        /// Who takes it, and for whom.
        wish: SnapshotWish,
    },
    /// A member adds its part to a snapshot.
    DescribeSnapshot {
        /// Which.
        id: SnapshotId,
        /// Who.
        member: MemberName,
        /// How it is.
        part: Box<MemberPart>,
    },
    /// The snapshot's file is there.
    CompleteSnapshot {
        /// Which.
        id: SnapshotId,
        /// Who took it.
        member: MemberName,
        /// The file.
        file: SnapshotFile,
    },
    /// The snapshot is given up; one that is complete stays so.
    FailSnapshot {
        /// Which.
        id: SnapshotId,
        /// Why, as a sentence.
        why: String,
    },
    /// The file of a complete snapshot is there no more.
    LoseSnapshot {
        /// Which.
        id: SnapshotId,
        /// Why, as a sentence.
        why: String,
    },
    /// A backup, a verification or a pruning begins that a schedule asks for.
    BeginBackup {
        /// Which of them.
        #[serde(default, skip_serializing_if = "RunKind::is_backup")]
        what: RunKind,
        /// The moment of the schedule, Unix milliseconds.
        due_unix_ms: u64,
        /// Who takes it.
        taker: MemberName,
        /// The life of that member's daemon.
        daemon_start: String,
    },
    /// It is over.
    EndBackup {
        /// Log index of its beginning.
        run: u64,
        /// Who takes it.
        member: MemberName,
        /// How.
        outcome: BackupOutcome,
    },
    /// Commits did not wait as the mode promises: for the history.
    TellBypass(Box<Bypass>),
    /// A promotion waits for members; what is at risk without them, as a sentence. For the history.
    TellMissing(Box<MissingTold>, String),
    /// The data that this member brings is of a snapshot.
    Restored {
        /// Who brings it.
        member: MemberName,
        /// Where it came from.
        origin: Box<Origin>,
        /// The settings of then.
        settings: Box<Settings>,
    },
}

/// What is to be done at a time, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduling {
    /// Of the request that it becomes; chosen by the client.
    pub id: RequestId,
    /// What.
    pub work: Work,
    /// When.
    pub due: Due,
    /// Takes the place of another one, if there is one; otherwise another one refuses it.
    pub replaces: bool,
    /// Who, and why.
    pub by: String,
}

/// Maintenance of a member, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceWish {
    /// Whose.
    pub member: MemberName,
    /// When it ends by itself, Unix milliseconds.
    pub until_unix_ms: u64,
    /// The same, as people read it.
    pub until: String,
    /// Even when the cluster could do less without it.
    pub force: bool,
    /// Who, and why.
    pub by: String,
}

/// A snapshot as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotWish {
    /// Whose PostgreSQL is copied, and who keeps the file.
    pub taker: MemberName,
    /// Public keys to encrypt for; empty: not encrypted.
    pub recipients: Vec<String>,
    /// Who asks, and why.
    pub by: String,
}

/// The contents of a Grant. Used once; it carries no time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The new epoch: the newest plus one.
    pub epoch: Epoch,
    /// Who.
    pub member: MemberName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// The timeline it must get.
    pub timeline: TimelineId,
    /// The timeline its WAL is on.
    pub parent: TimelineId,
    /// The end of its WAL.
    pub start: Lsn,
    /// The first rule of the epoch.
    pub first_rule: Rule,
    /// Q: the sealed members it was chosen from.
    pub sealed: Vec<SealReport>,
    /// Ids of the rules that were live when it was decided.
    pub live: Vec<RuleId>,
    /// Code of the reason.
    pub reason: String,
    /// What may be lost, when known to be more than nothing; a sentence.
    pub loss: Option<String>,
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejected {
    /// The group has formed already, or not yet.
    #[error("{0}")]
    WrongMoment(String),
    /// A number is not the one that is due.
    #[error("epoch {given} was given, epoch {due} is due")]
    WrongEpoch {
        /// What the command said.
        given: Epoch,
        /// What would do.
        due: Epoch,
    },
    /// The reign is in another phase.
    #[error("epoch {epoch} is {phase}, the command needs it {needed}")]
    WrongPhase {
        /// Which.
        epoch: Epoch,
        /// As it is.
        phase: String,
        /// As it should be.
        needed: &'static str,
    },
    /// No such member.
    #[error("there is no member `{0}` (see `clusterctl list`)")]
    UnknownMember(MemberName),
    /// The data directory is another one than meant.
    #[error("member {member}'s data directory is another life than the command names")]
    WrongIncarnation {
        /// Who.
        member: MemberName,
    },
    /// The live rules changed in between.
    #[error("the live rules changed since this was decided")]
    LiveChanged,
    /// A rule's number, epoch or place is wrong.
    #[error("{0}")]
    BadRule(String),
    /// In `strict` a rule asks for at least `k_min` confirmations.
    #[error("rule with {k} confirmations refused: mode strict needs at least {k_min}")]
    BelowMinimum {
        /// What the rule asks for.
        k: u32,
        /// The least there may be.
        k_min: u32,
    },
    /// Many proposals are open; one has to be activated or withdrawn first.
    #[error("{0} proposals are open already")]
    TooManyProposals(usize),
    /// Only a proposal can be withdrawn: neither an epoch's first rule nor the activated one.
    #[error("rule {0} is not an open proposal of this epoch")]
    NotAProposal(RuleId),
    /// Too few members of the rule's set have flushed the position.
    #[error("rule {rule} needs {needed} confirmations, {have} of its members have confirmed")]
    NotConfirmed {
        /// Which.
        rule: RuleId,
        /// Its k.
        needed: u32,
        /// Members of its set, same life, that have.
        have: u32,
    },
    /// A seal the Grant rests on does not hold.
    #[error("the seal of {member} does not count: {why}")]
    BadSeal {
        /// Whose.
        member: MemberName,
        /// Why not.
        why: String,
    },
    /// An acknowledged write may be missing: a live rule is not blocked by the sealed members.
    #[error("an acknowledged write may be missing: needs a seal of {}", list(.missing))]
    NotBlocked {
        /// Whose seals would help.
        missing: Vec<MemberName>,
    },
    /// The candidate has less than another sealed member.
    #[error("{member} is behind {best}, which has sealed too")]
    BehindBest {
        /// The candidate.
        member: MemberName,
        /// Who has more.
        best: MemberName,
    },
    /// A setting will not do.
    #[error("{}", .0.join("; "))]
    BadSettings(Vec<String>),
    /// Somebody else changed the settings meanwhile.
    #[error(
        "the settings are at revision {revision}, not {expected}: somebody changed them meanwhile (look again)"
    )]
    SettingsMoved {
        /// What the one who asks has seen.
        expected: u64,
        /// As it is.
        revision: u64,
    },
    /// The timeline was given before.
    #[error("timeline {0} was given before")]
    TimelineUsed(TimelineId),
    /// There is one already.
    #[error("a {what} is scheduled for {due} already; take it back first (`clusterctl flush`)")]
    Scheduled {
        /// What.
        what: String,
        /// When.
        due: String,
    },
    /// There is nothing to take back.
    #[error("{0}")]
    NotScheduled(String),
    /// An operator's request cannot be taken.
    #[error("{0}")]
    Refused(String),
}

fn list(members: &[MemberName]) -> String {
    let names: Vec<&str> = members.iter().map(MemberName::as_str).collect();
    names.join(", ")
}
