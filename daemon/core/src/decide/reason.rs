//! Why, as a type: a stable code for machines, a sentence for people. `docs/rules.md` is generated
//! from [`ALL`].

use std::fmt;
use std::time::Duration;

use crate::model::{Epoch, Lsn, MemberName, TimelineId};

/// Why something is done, or is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    // --- the leader ---
    /// Nothing to do.
    AllWell,
    /// A member told something Raft did not know.
    MemberChanged(MemberName),
    /// Parameters with which a member could not start are taken out of the settings.
    ParametersTakenBack(String),
    /// The old lease length has run out everywhere.
    LeaseSettled,
    /// Nobody with or without data has been heard yet.
    NobodyToInitialize,
    /// Two members bring data: only one may.
    SeveralBringData(Vec<MemberName>),
    /// This member makes or brings the first data.
    Initializing(MemberName),
    /// The first data directory exists.
    FirstDataExists(MemberName),
    /// Who takes a snapshot is not heard any more.
    SnapshotVoid(MemberName),
    /// The schedule asks for a backup; this member takes it.
    BackupDue(MemberName),
    /// The schedule asks for a backup and nobody can take it; why.
    BackupWaits(String),
    /// Who takes a backup is not heard any more.
    BackupVoid(MemberName),
    /// Commits of this primary did not wait as the mode promises.
    CommitsBypassed(MemberName),
    /// A promotion waits for these members: it is written down since when.
    TellsMissing(Vec<MemberName>),
    /// The holder has not renewed.
    PrimarySilent(Duration),
    /// Several failovers in a row: the silent primary gets its whole lease to come back.
    Flapping(usize),
    /// The cluster is paused; no primary is taken away or made.
    Paused,
    /// Some member that is heard has not sealed yet.
    Sealing(Vec<MemberName>),
    /// The old lease may still run.
    LeaseRunning(Duration),
    /// Nobody may be promoted; who and why not.
    NoCandidate(Vec<(MemberName, String)>),
    /// This member is chosen.
    Chosen(MemberName),
    /// Same, on the member that was primary before.
    RestartInPlace(MemberName),
    /// The first primary of a new cluster.
    FirstPrimary(MemberName),
    /// The granted member has not promoted yet.
    WaitingForPromotion(MemberName),
    /// The new primary is promoted and its rule is satisfied: clients may come in.
    RuleSatisfied,
    /// Proven standbys will confirm commits too.
    StandbyJoins(Vec<MemberName>),
    /// Standbys that do not confirm leave; each with its reason.
    StandbyLeaves(Vec<(MemberName, String)>),
    /// Some come, some leave.
    StandbySwapped(Vec<MemberName>, Vec<(MemberName, String)>),
    /// More or fewer confirmations: from, to.
    ConfirmationsChange(u32, u32),
    /// No standby is left: nobody confirms; who left and why.
    Degrade(Vec<(MemberName, String)>),
    /// Standbys confirm again.
    Restore(Vec<MemberName>),
    /// A proposed rule is proven and its quorum has everything.
    RuleProven(String),
    /// A proposal that PostgreSQL will never be given is forgotten.
    RuleWithdrawn(String),
    /// The first rule of the epoch is not confirmed yet.
    WaitingForConfirmation(String),
    /// How many standbys confirm, and how many the rule in force asks for.
    WritesWait(usize, u32),
    /// The primary alone has lost its standbys.
    ReplicationLost(Duration),
    /// An acknowledged write may be on these members only.
    MissingMembers(Vec<MemberName>),
    /// The candidate fetches the rest from the best one.
    FastForward(MemberName, MemberName),
    /// A planned hand-over goes on.
    Switchover(String),
    /// A forced failover was asked for.
    FailoverRequested(MemberName),
    /// A restart of the primary was asked for.
    RestartRequested(MemberName),
    /// A member carried out what an operator asked.
    RequestDone(String),
    /// A request cannot be carried out.
    RequestFailed(String),
    /// Something that was scheduled begins.
    ScheduleDue(String),
    /// Something that was scheduled is not done.
    ScheduleDropped(String),
    /// A member's maintenance has come to its end.
    MaintenanceOver(MemberName),
    /// A request waits for its member.
    WaitingForMember(MemberName, String),
    /// A host with an empty disk comes back under a new id.
    Replacing(MemberName),
    /// The leader sits on the primary's host; this member had better lead.
    LeaderOnPrimary(MemberName),
    // --- a member ---
    /// This member votes only.
    Witness,
    /// The group has not formed yet.
    NotFormed,
    /// No leader has been heard since this daemon started.
    NotCurrent,
    /// Long work is under way.
    Busy(String),
    /// No primary yet; nothing to follow.
    NoPrimaryYet,
    /// Another process started this data directory.
    ForeignProcess,
    /// A rewind or clone was interrupted; the directory is not started.
    InterruptedWork(String),
    /// Somebody let this server out of recovery: its data does not count.
    Strayed(String),
    /// The data directory was put back to an older state: it ends here, and was there once.
    RolledBack(Lsn, Lsn),
    /// The first data directory is made here.
    MakeFirstData,
    /// The data found here becomes the cluster's.
    AdoptData,
    /// Out of recovery without a Grant.
    PrimaryWithoutGrant,
    /// The reign was revoked.
    Revoked(Epoch),
    /// The lease ran out.
    LeaseLost(Epoch),
    /// The Grant is given back; why.
    GiveBack(Epoch, String),
    /// The processes are gone and the Grant is used up.
    Released(Epoch),
    /// The promise is made durable.
    Promise(Epoch),
    /// The receiver has to go before the end of WAL counts.
    StopReceiving(Epoch),
    /// Recovery reads what is on disk.
    ReadingWal,
    /// The end of WAL is read from disk.
    ReadEndOfWal(Epoch),
    /// A pause or an apply delay is lifted.
    ReplayEverything(Epoch),
    /// Sealed; waiting for the leader to choose.
    Sealed(Epoch, Lsn),
    /// No data here, so nothing to seal.
    NothingToSeal(String),
    /// PostgreSQL is started in recovery, without an upstream.
    StartSealed,
    /// The Grant is there, the lease is not confirmed yet.
    WaitingForLease(Epoch),
    /// Promote now.
    Promote(Epoch, TimelineId),
    /// Roles and checks after promotion.
    Preparing(Epoch),
    /// Tell Raft where the timeline began.
    TellPromoted(Epoch, Lsn),
    /// The dead-man's `standby.signal` is put back under the running primary.
    RestoreSignal,
    /// The epoch is activated: let clients in.
    OpenGate(Epoch),
    /// Waiting for the activation.
    WaitingForActivation(Epoch),
    /// This member is the primary and all is well.
    Serving(Epoch),
    /// Writers are fenced and the target catches up.
    Drain(MemberName),
    /// The hand-over was called off: let clients in again.
    Undrain,
    /// Follow the primary.
    Follow(MemberName, Epoch),
    /// Following; all is well.
    Following(MemberName, Epoch),
    /// The applied truth is older than the promise.
    StaleTruth(Epoch),
    /// This WAL left the primary's line.
    Diverged(Lsn),
    /// Undo the divergence.
    Rewind(MemberName, Lsn),
    /// A new copy is needed; why.
    Clone(MemberName, String),
    /// The old copy is removed first; from whom, and how much room there is.
    CloneInPlace(MemberName, String),
    /// A clone does not fit; how much is missing, and why the old copy stays.
    NoRoom(String),
    /// PostgreSQL is starting.
    Starting,
    /// PostgreSQL is stopping.
    Stopping,
    /// PostgreSQL does not answer.
    Unresponsive(Duration),
    /// Storage does not take writes.
    CannotWrite(String),
    /// Nothing may be concluded.
    CannotTell(String),
    /// A standby's replay is paused for a parameter.
    TooLittle,
    /// An operator asked for it.
    OnRequest(String),
    /// The data directory cannot be used and no clone would cure it.
    Unusable(String),
}

/// Code and meaning of every reason, in the order of the enum; `docs/rules.md` is made from it.
pub const ALL: &[(&str, &str)] = &[
    ("all-well", "Nothing to do."),
    (
        "member-changed",
        "A member announced an address, a tag or a new data directory; it is recorded.",
    ),
    (
        "parameters-taken-back",
        "A member could not start with parameters of the settings; they are as they were before.",
    ),
    (
        "lease-settled",
        "A change of the lease length has taken effect everywhere.",
    ),
    (
        "nobody-to-initialize",
        "A new cluster waits for a database member that can make or bring the first data.",
    ),
    (
        "several-bring-data",
        "More than one member has a data directory of its own; only one can be the cluster's. Move the others aside.",
    ),
    (
        "initializing",
        "The named member makes or brings the first data directory.",
    ),
    (
        "first-data-exists",
        "The first data directory is recorded as the cluster's.",
    ),
    (
        "snapshot-void",
        "The member that takes a snapshot has not been heard for half a minute; the snapshot is recorded as failed.",
    ),
    (
        "backup-due",
        "A schedule asks for a backup, a verification or a pruning (backup_schedule, verify_schedule, prune_schedule); the named member does it.",
    ),
    (
        "backup-waits",
        "A schedule asks for a backup, a verification or a pruning (backup_schedule, verify_schedule, prune_schedule) and nobody can do it now; it is done as soon as somebody can.",
    ),
    (
        "backup-void",
        "The member that takes, verifies or prunes backups by schedule has not been heard for half a minute; that is recorded as failed and tried again.",
    ),
    (
        "commits-bypassed",
        "Commits of the named primary did not wait as the mode promises, or do so again; the history says which, once a minute at most.",
    ),
    (
        "tells-missing",
        "A promotion has waited for the named members for a lease: the history says since when, and what is at risk.",
    ),
    (
        "primary-silent",
        "The primary's daemon has not renewed its lease; its epoch is revoked.",
    ),
    (
        "flapping",
        "Several failovers within ten minutes: a silent primary gets its whole lease to come back before the next one.",
    ),
    (
        "paused",
        "The cluster is paused: it makes no decision until `clusterctl resume`. The lease is still enforced.",
    ),
    (
        "sealing",
        "Waiting for members that are heard to seal, so that the best can be chosen among all.",
    ),
    (
        "lease-running",
        "The old primary's lease may still run; no other member is granted before it has run out.",
    ),
    (
        "no-candidate",
        "No member may be promoted; each is named with its reason. `clusterctl failover` overrides it with a recorded loss.",
    ),
    (
        "chosen",
        "The named member has the best position and is granted the next epoch.",
    ),
    (
        "restart-in-place",
        "The former primary has the best position and is granted the next epoch.",
    ),
    ("first-primary", "The first primary of a new cluster."),
    (
        "waiting-for-promotion",
        "The granted member has not left recovery yet.",
    ),
    (
        "rule-satisfied",
        "The new primary's starting point is safe under its rule; clients are let in.",
    ),
    (
        "standby-joins-rule",
        "The named standbys have proven that they stream; commits may be confirmed by them too.",
    ),
    (
        "standby-leaves-rule",
        "The named standbys do not confirm, or may not any more; commits do not count on them.",
    ),
    (
        "standby-swapped",
        "A standby that does not confirm is replaced by one that does.",
    ),
    (
        "confirmations-change",
        "Another number of confirmations a commit needs.",
    ),
    (
        "degrade",
        "No standby is left, or the mode is `async`: commits are confirmed by nobody, and while that \
         is so only the primary itself may be promoted.",
    ),
    (
        "restore",
        "A standby has proven that it streams: commits are confirmed again.",
    ),
    (
        "rule-proven",
        "The proposed rule is in force and its standbys have everything that was acknowledged before.",
    ),
    (
        "rule-withdrawn",
        "A proposed rule was never set and never will be; it is forgotten.",
    ),
    (
        "waiting-for-confirmation",
        "Clients are let in once enough standbys have the new primary's starting point.",
    ),
    (
        "writes-wait",
        "Fewer standbys confirm than the rule in force asks for: writes wait.",
    ),
    (
        "replication-lost",
        "The primary alone has lost standbys that the leader still hears: another member takes over, \
         nothing is degraded.",
    ),
    (
        "missing-members",
        "A write that was acknowledged may be on members only that have not sealed: nobody is \
         promoted before enough of the named ones are back. `clusterctl failover` overrides it with \
         a recorded loss.",
    ),
    (
        "fast-forward",
        "The candidate fetches what the best sealed member has, and seals again.",
    ),
    ("switchover", "A planned hand-over goes on."),
    (
        "failover-requested",
        "An operator asked for a failover to the named member.",
    ),
    (
        "restart-requested",
        "An operator asked for a restart of the primary: a new epoch on the same member.",
    ),
    ("request-done", "A request of an operator was carried out."),
    (
        "request-failed",
        "A request of an operator could not be carried out; nothing was changed, or the old state was restored.",
    ),
    (
        "schedule-due",
        "What was scheduled is due: it becomes a request, with the checks of one by hand.",
    ),
    (
        "schedule-dropped",
        "What was scheduled is not done: its time has passed, or what it was bound to is not so.",
    ),
    (
        "maintenance-over",
        "The time of a member's maintenance is up: it confirms commits, is promoted and serves readers as before.",
    ),
    (
        "waiting-for-member",
        "A request waits for the named member.",
    ),
    (
        "replacing",
        "A host with an empty disk comes back under a new Raft id: learner, catch-up, swap.",
    ),
    (
        "leader-on-primary",
        "Leadership moves to a member that is not the primary, so that losing the primary's host costs no election.",
    ),
    ("witness", "This member votes only."),
    ("not-formed", "The group has not formed yet."),
    (
        "not-current",
        "No leader has been heard since this daemon started; nothing is decided on an old truth.",
    ),
    ("busy", "Long work is under way."),
    ("no-primary-yet", "There is no primary to follow yet."),
    (
        "foreign-process",
        "Another process runs on this member's data directory; it is stopped.",
    ),
    (
        "interrupted-work",
        "A rewind, clone or initdb was interrupted; the directory is never started and is made anew.",
    ),
    (
        "strayed",
        "Somebody let this server out of recovery without a Grant; its data does not count, is never \
         started and is replaced by a clone.",
    ),
    (
        "rolled-back",
        "The data directory was put back to an older state under this member. It goes on as another \
         life of the data, and what the old one confirmed counts as lost.",
    ),
    ("make-first-data", "The first data directory is made here."),
    ("adopt-data", "The data found here becomes the cluster's."),
    (
        "primary-without-grant",
        "PostgreSQL is out of recovery without a Grant; it is stopped.",
    ),
    (
        "revoked",
        "The epoch was revoked; PostgreSQL is stopped at once.",
    ),
    (
        "lease-lost",
        "The lease has run out; PostgreSQL is stopped.",
    ),
    (
        "give-back",
        "The Grant cannot be used here any more and is given back.",
    ),
    (
        "released",
        "All processes are gone: nobody has to wait for the lease.",
    ),
    (
        "promise",
        "The promise never to acknowledge an older epoch is made durable.",
    ),
    (
        "stop-receiving",
        "The WAL receiver must be gone before the end of WAL counts.",
    ),
    ("reading-wal", "Recovery is reading the WAL on disk."),
    (
        "read-end-of-wal",
        "The end of WAL is read from the files of a server that is stopped, or whose replay is held \
         back: by a pause, an apply delay or a query.",
    ),
    (
        "replay-everything",
        "What this standby has and did not replay is needed now: a pause or an apply delay ends.",
    ),
    ("sealed", "Sealed; the leader chooses."),
    ("nothing-to-seal", "There is no data here."),
    (
        "start-sealed",
        "PostgreSQL is started in recovery, without an upstream.",
    ),
    (
        "waiting-for-lease",
        "The Grant is there, the first renewal is not confirmed yet.",
    ),
    ("promote", "PostgreSQL is promoted."),
    ("preparing", "Roles and checks after the promotion."),
    (
        "tell-promoted",
        "The start of the new timeline is recorded.",
    ),
    (
        "restore-signal",
        "`standby.signal` is put back under the running primary, so that any other start is read-only.",
    ),
    ("open-gate", "The epoch is activated: clients are let in."),
    (
        "waiting-for-activation",
        "Clients are let in once the epoch is activated.",
    ),
    ("serving", "This member is the primary."),
    (
        "drain",
        "Writers are fenced until the target of the switchover has everything.",
    ),
    (
        "undrain",
        "The switchover was called off: clients are let in again.",
    ),
    ("follow", "The standby is pointed at the primary."),
    ("following", "The standby follows the primary."),
    (
        "stale-truth",
        "What this member knows is older than what it promised; it waits for newer.",
    ),
    (
        "diverged",
        "This member's WAL left the primary's line; it is stopped and rewound.",
    ),
    ("rewind", "pg_rewind undoes the divergence."),
    ("clone", "A new copy is made beside the old one."),
    (
        "clone-in-place",
        "Two copies do not fit: the old one is removed first, as postgres.clone_in_place allows.",
    ),
    (
        "no-room",
        "No room to rejoin: two copies do not fit, and the old one is not removed first.",
    ),
    ("starting", "PostgreSQL is starting."),
    ("stopping", "PostgreSQL is stopping."),
    ("unresponsive", "PostgreSQL does not answer."),
    (
        "cannot-write",
        "The storage does not take writes; the primary is given up.",
    ),
    (
        "cannot-tell",
        "The state of PostgreSQL could not be seen; nothing is done on a guess.",
    ),
    ("on-request", "An operator asked for it."),
    (
        "too-little",
        "Replay is paused because a parameter is lower than the primary's; a new start raises it.",
    ),
    (
        "unusable",
        "The data directory cannot be used and a clone would not cure it.",
    ),
];

impl Reason {
    /// Stable code; a row of [`ALL`].
    pub fn code(&self) -> &'static str {
        match self {
            Reason::AllWell => "all-well",
            Reason::MemberChanged(_) => "member-changed",
            Reason::ParametersTakenBack(_) => "parameters-taken-back",
            Reason::LeaseSettled => "lease-settled",
            Reason::NobodyToInitialize => "nobody-to-initialize",
            Reason::SeveralBringData(_) => "several-bring-data",
            Reason::Initializing(_) => "initializing",
            Reason::FirstDataExists(_) => "first-data-exists",
            Reason::SnapshotVoid(_) => "snapshot-void",
            Reason::BackupDue(_) => "backup-due",
            Reason::BackupWaits(_) => "backup-waits",
            Reason::BackupVoid(_) => "backup-void",
            Reason::CommitsBypassed(_) => "commits-bypassed",
            Reason::TellsMissing(_) => "tells-missing",
            Reason::PrimarySilent(_) => "primary-silent",
            Reason::Flapping(_) => "flapping",
            Reason::Paused => "paused",
            Reason::Sealing(_) => "sealing",
            Reason::LeaseRunning(_) => "lease-running",
            Reason::NoCandidate(_) => "no-candidate",
            Reason::Chosen(_) => "chosen",
            Reason::RestartInPlace(_) => "restart-in-place",
            Reason::FirstPrimary(_) => "first-primary",
            Reason::WaitingForPromotion(_) => "waiting-for-promotion",
            Reason::RuleSatisfied => "rule-satisfied",
            Reason::StandbyJoins(_) => "standby-joins-rule",
            Reason::StandbyLeaves(_) => "standby-leaves-rule",
            Reason::StandbySwapped(..) => "standby-swapped",
            Reason::ConfirmationsChange(..) => "confirmations-change",
            Reason::Degrade(_) => "degrade",
            Reason::Restore(_) => "restore",
            Reason::RuleProven(_) => "rule-proven",
            Reason::RuleWithdrawn(_) => "rule-withdrawn",
            Reason::WaitingForConfirmation(_) => "waiting-for-confirmation",
            Reason::WritesWait(..) => "writes-wait",
            Reason::ReplicationLost(_) => "replication-lost",
            Reason::MissingMembers(_) => "missing-members",
            Reason::FastForward(..) => "fast-forward",
            Reason::Switchover(_) => "switchover",
            Reason::FailoverRequested(_) => "failover-requested",
            Reason::RestartRequested(_) => "restart-requested",
            Reason::RequestDone(_) => "request-done",
            Reason::RequestFailed(_) => "request-failed",
            Reason::ScheduleDue(_) => "schedule-due",
            Reason::ScheduleDropped(_) => "schedule-dropped",
            Reason::MaintenanceOver(_) => "maintenance-over",
            Reason::WaitingForMember(..) => "waiting-for-member",
            Reason::Replacing(_) => "replacing",
            Reason::LeaderOnPrimary(_) => "leader-on-primary",
            Reason::Witness => "witness",
            Reason::NotFormed => "not-formed",
            Reason::NotCurrent => "not-current",
            Reason::Busy(_) => "busy",
            Reason::NoPrimaryYet => "no-primary-yet",
            Reason::ForeignProcess => "foreign-process",
            Reason::InterruptedWork(_) => "interrupted-work",
            Reason::Strayed(_) => "strayed",
            Reason::RolledBack(..) => "rolled-back",
            Reason::MakeFirstData => "make-first-data",
            Reason::AdoptData => "adopt-data",
            Reason::PrimaryWithoutGrant => "primary-without-grant",
            Reason::Revoked(_) => "revoked",
            Reason::LeaseLost(_) => "lease-lost",
            Reason::GiveBack(..) => "give-back",
            Reason::Released(_) => "released",
            Reason::Promise(_) => "promise",
            Reason::StopReceiving(_) => "stop-receiving",
            Reason::ReadingWal => "reading-wal",
            Reason::ReadEndOfWal(_) => "read-end-of-wal",
            Reason::ReplayEverything(_) => "replay-everything",
            Reason::Sealed(..) => "sealed",
            Reason::NothingToSeal(_) => "nothing-to-seal",
            Reason::StartSealed => "start-sealed",
            Reason::WaitingForLease(_) => "waiting-for-lease",
            Reason::Promote(..) => "promote",
            Reason::Preparing(_) => "preparing",
            Reason::TellPromoted(..) => "tell-promoted",
            Reason::RestoreSignal => "restore-signal",
            Reason::OpenGate(_) => "open-gate",
            Reason::WaitingForActivation(_) => "waiting-for-activation",
            Reason::Serving(_) => "serving",
            Reason::Drain(_) => "drain",
            Reason::Undrain => "undrain",
            Reason::Follow(..) => "follow",
            Reason::Following(..) => "following",
            Reason::StaleTruth(_) => "stale-truth",
            Reason::Diverged(_) => "diverged",
            Reason::Rewind(..) => "rewind",
            Reason::Clone(..) => "clone",
            Reason::CloneInPlace(..) => "clone-in-place",
            Reason::NoRoom(_) => "no-room",
            Reason::Starting => "starting",
            Reason::Stopping => "stopping",
            Reason::Unresponsive(_) => "unresponsive",
            Reason::CannotWrite(_) => "cannot-write",
            Reason::CannotTell(_) => "cannot-tell",
            Reason::OnRequest(_) => "on-request",
            Reason::TooLittle => "too-little",
            Reason::Unusable(_) => "unusable",
        }
    }

    /// What the code means, whatever the details.
    pub fn meaning(&self) -> &'static str {
        let code = self.code();
        ALL.iter()
            .find(|(known, _)| *known == code)
            .map_or("", |(_, meaning)| meaning)
    }

    /// The details of this occurrence; empty when the meaning says it all.
    fn details(&self) -> String {
        match self {
            Reason::MemberChanged(member)
            | Reason::Initializing(member)
            | Reason::FirstDataExists(member)
            | Reason::SnapshotVoid(member)
            | Reason::BackupDue(member)
            | Reason::BackupVoid(member)
            | Reason::CommitsBypassed(member)
            | Reason::Chosen(member)
            | Reason::RestartInPlace(member)
            | Reason::FirstPrimary(member)
            | Reason::WaitingForPromotion(member)
            | Reason::FailoverRequested(member)
            | Reason::RestartRequested(member)
            | Reason::MaintenanceOver(member)
            | Reason::Replacing(member)
            | Reason::LeaderOnPrimary(member)
            | Reason::Drain(member) => member.to_string(),
            Reason::SeveralBringData(members)
            | Reason::Sealing(members)
            | Reason::StandbyJoins(members)
            | Reason::Restore(members)
            | Reason::TellsMissing(members)
            | Reason::MissingMembers(members) => names(members),
            Reason::StandbyLeaves(leaving) | Reason::Degrade(leaving) => named(leaving),
            Reason::StandbySwapped(joining, leaving) => {
                format!("in: {}; out: {}", names(joining), named(leaving))
            }
            Reason::ConfirmationsChange(from, to) => format!("{from} to {to}"),
            Reason::WritesWait(have, need) => format!("{have} confirm, {need} are needed"),
            Reason::ReplicationLost(age) => format!("for {} ms", age.as_millis()),
            Reason::FastForward(member, from) => format!("{member} from {from}"),
            Reason::PrimarySilent(age) => format!("for {} ms", age.as_millis()),
            Reason::Flapping(count) => format!("{count} failovers"),
            Reason::RolledBack(end, had) => format!("it ends at {end}, and was at {had}"),
            Reason::LeaseRunning(left) => format!("{} ms left", left.as_millis()),
            Reason::Unresponsive(age) => format!("for {} ms", age.as_millis()),
            Reason::NoCandidate(refused) => named(refused),
            Reason::WaitingForMember(member, what)
            | Reason::Clone(member, what)
            | Reason::CloneInPlace(member, what) => {
                format!("{member}: {what}")
            }
            Reason::Switchover(text)
            | Reason::RuleProven(text)
            | Reason::RuleWithdrawn(text)
            | Reason::WaitingForConfirmation(text)
            | Reason::RequestDone(text)
            | Reason::RequestFailed(text)
            | Reason::ScheduleDue(text)
            | Reason::ScheduleDropped(text)
            | Reason::Busy(text)
            | Reason::InterruptedWork(text)
            | Reason::Strayed(text)
            | Reason::NothingToSeal(text)
            | Reason::NoRoom(text)
            | Reason::CannotWrite(text)
            | Reason::CannotTell(text)
            | Reason::OnRequest(text)
            | Reason::ParametersTakenBack(text)
            | Reason::BackupWaits(text)
            | Reason::Unusable(text) => text.clone(),
            Reason::Revoked(epoch)
            | Reason::LeaseLost(epoch)
            | Reason::Released(epoch)
            | Reason::Promise(epoch)
            | Reason::StopReceiving(epoch)
            | Reason::ReadEndOfWal(epoch)
            | Reason::ReplayEverything(epoch)
            | Reason::WaitingForLease(epoch)
            | Reason::Preparing(epoch)
            | Reason::OpenGate(epoch)
            | Reason::WaitingForActivation(epoch)
            | Reason::Serving(epoch)
            | Reason::StaleTruth(epoch) => format!("epoch {epoch}"),
            Reason::GiveBack(epoch, why) => format!("epoch {epoch}: {why}"),
            Reason::Sealed(epoch, end) => format!("for epoch {epoch} at {end}"),
            Reason::Promote(epoch, timeline) => format!("epoch {epoch}, timeline {timeline}"),
            Reason::TellPromoted(epoch, fork) => format!("epoch {epoch} at {fork}"),
            Reason::Follow(member, epoch) | Reason::Following(member, epoch) => {
                format!("{member}, epoch {epoch}")
            }
            Reason::Diverged(fork) => format!("fork at {fork}"),
            Reason::Rewind(member, fork) => format!("from {member} to {fork}"),
            Reason::AllWell
            | Reason::LeaseSettled
            | Reason::NobodyToInitialize
            | Reason::Paused
            | Reason::RuleSatisfied
            | Reason::Witness
            | Reason::NotFormed
            | Reason::NotCurrent
            | Reason::NoPrimaryYet
            | Reason::ForeignProcess
            | Reason::MakeFirstData
            | Reason::AdoptData
            | Reason::TooLittle
            | Reason::PrimaryWithoutGrant
            | Reason::ReadingWal
            | Reason::StartSealed
            | Reason::RestoreSignal
            | Reason::Undrain
            | Reason::Starting
            | Reason::Stopping => String::new(),
        }
    }
}

fn named(members: &[(MemberName, String)]) -> String {
    members
        .iter()
        .map(|(member, why)| format!("{member}: {why}"))
        .collect::<Vec<_>>()
        .join("; ")
}

fn names(members: &[MemberName]) -> String {
    members
        .iter()
        .map(MemberName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = self.details();
        let meaning = self.meaning().trim_end_matches('.');
        if details.is_empty() {
            f.write_str(meaning)
        } else {
            write!(f, "{meaning} ({details})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_once() {
        let mut codes: Vec<&str> = ALL.iter().map(|(code, _)| *code).collect();
        let listed = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), listed);
        for reason in [
            Reason::AllWell,
            Reason::Unusable(String::new()),
            Reason::Undrain,
        ] {
            assert!(!reason.meaning().is_empty(), "{}", reason.code());
        }
    }
}
