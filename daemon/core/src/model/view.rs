//! The sole inputs of `decide`: one gathered look each. Never edited after they are made.

use std::collections::BTreeMap;
use std::time::Duration;

use super::epoch::Epoch;
use super::ids::{Incarnation, MemberName, NodeId};
use super::lease::{Holder, LeaseTimes, Moment};
use super::member::{Busy, Health, MemberReport};
use super::postgres::PostgresStatus;
use super::state::ClusterState;

/// A member's newest report and how old it is on the leader's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it said.
    pub report: MemberReport,
    /// Since it arrived.
    pub age: Duration,
}

/// What the leader's loop looks at.
#[derive(Clone, Debug)]
pub struct ClusterView<'a> {
    /// The leader's own Raft id.
    pub me: NodeId,
    /// The applied truth; this process leads and is ready.
    pub state: &'a ClusterState,
    /// Times in force.
    pub times: LeaseTimes,
    /// The newest report of every member, by name; absent = never heard since this leader leads.
    pub reports: &'a BTreeMap<MemberName, Seen>,
    /// How long this process has been leader.
    pub leading_for: Duration,
    /// Since the base of the wait moved (start, vote, last confirmation).
    pub base_age: Duration,
    /// Since the latest Grant was committed or applied here.
    pub grant_age: Option<Duration>,
    /// Every lease that may be out has run out.
    pub lease_waited_out: bool,
    /// How long until then.
    pub wait_left: Duration,
    /// Since the newest reign was seen to leave the phase `granted` here.
    pub ended_age: Duration,
    /// Raft's voters now.
    pub voters: &'a [NodeId],
    /// Raft's learners now, each with whether it has caught up.
    pub learners: &'a [(NodeId, bool)],
    /// Since this leader last asked another member to lead.
    pub elect_asked_age: Option<Duration>,
    /// W(D_prev) has passed since SetD was applied, this process was elected or started.
    pub previous_lease_settled: bool,
    /// Grants of the last ten minutes, newest last: how long ago.
    pub recent_grants: &'a [Duration],
    /// Since this leader first saw each open request in its present step.
    pub request_ages: &'a BTreeMap<super::ids::RequestId, Duration>,
    /// The leader's wall clock, Unix milliseconds: for what is done on a schedule and for nothing else. None
    /// where nothing is done on a schedule.
    pub wall_unix_ms: Option<u64>,
}

impl<'a> ClusterView<'a> {
    /// A look at a settled cluster: every lease has run out, nothing was asked or granted lately, no
    /// learner. For questions such as "if the primary died now …"; the leader's own look has more.
    pub fn settled(
        me: NodeId,
        state: &'a ClusterState,
        reports: &'a BTreeMap<MemberName, Seen>,
        voters: &'a [NodeId],
        request_ages: &'a BTreeMap<super::ids::RequestId, Duration>,
    ) -> ClusterView<'a> {
        ClusterView {
            me,
            state,
            times: state.settings.times(),
            reports,
            leading_for: Duration::ZERO,
            base_age: Duration::ZERO,
            grant_age: None,
            lease_waited_out: true,
            wait_left: Duration::ZERO,
            ended_age: Duration::ZERO,
            voters,
            learners: &[],
            elect_asked_age: None,
            previous_lease_settled: false,
            recent_grants: &[],
            request_ages,
            wall_unix_ms: None,
        }
    }

    /// A report counts as fresh within this time: the report interval is well below it.
    pub fn fresh_within(&self) -> Duration {
        (self.times.renew * 4).max(Duration::from_millis(600))
    }

    /// The newest report of a member, if it is fresh.
    pub fn fresh(&self, member: &MemberName) -> Option<&MemberReport> {
        self.reports
            .get(member)
            .filter(|seen| seen.age <= self.fresh_within())
            .map(|seen| &seen.report)
    }
}

/// An interrupted rewind or clone: the data directory is never started with it [D4].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Marker {
    /// initdb had begun.
    Initdb,
    /// A clone into place had begun.
    Clone,
    /// pg_rewind had begun.
    Rewind,
    /// The server was out of recovery without a Grant: what it wrote is not the cluster's.
    Strayed,
}

/// What a member keeps durably outside PGDATA.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durable {
    /// The life of its data directory.
    pub incarnation: Option<Incarnation>,
    /// The promise: no WAL of an epoch below this is acknowledged.
    pub min_epoch: Epoch,
    /// The newest epoch whose Grant is used up.
    pub used: Epoch,
    /// The epoch this PostgreSQL was promoted under and has not been rejoined since.
    #[serde(default)]
    pub promoted: Epoch,
    /// The newest epoch whose WAL may lie here: durable before this member follows, is promoted or
    /// is rewound, and before a copy counts. None: none so far, or written by a version that did not say.
    #[serde(default)]
    pub line: Option<Epoch>,
    /// An interrupted long step.
    pub marker: Option<Marker>,
}

/// A clone that did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// What was still missing when it was given up.
    pub needs_bytes: u64,
    /// What was free then.
    pub has_bytes: u64,
    /// It would not fit in the place of the old copy either.
    pub even_in_place: bool,
}

/// What the guard says of the processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSet {
    /// Positively confirmed: no process of this PostgreSQL exists.
    pub is_empty: bool,
    /// The epoch the set is armed for.
    pub armed: Option<Epoch>,
    /// Processes of our data directory that the guard did not start.
    pub has_foreign: bool,
    /// The guard answers.
    pub guard_answers: bool,
}

/// What a member's own loop looks at.
#[derive(Clone, Debug)]
pub struct MemberView<'a> {
    /// This host's clock.
    pub now: Moment,
    /// Own name.
    pub me: &'a MemberName,
    /// Whether this member has a PostgreSQL.
    pub is_witness: bool,
    /// The truth as applied here; may lag.
    pub state: &'a ClusterState,
    /// Since this process started it has applied everything a leader then had committed. Before
    /// that the truth may be from before the restart, and nothing is stopped or started by it.
    pub truth_is_current: bool,
    /// Times in force.
    pub times: LeaseTimes,
    /// What is durable here.
    pub durable: &'a Durable,
    /// What PostgreSQL is.
    pub postgres: &'a PostgresStatus,
    /// System identifier of the data directory, when it has one.
    pub system_identifier: Option<u64>,
    /// What the guard says.
    pub set: &'a ProcessSet,
    /// The lease held.
    pub holder: &'a Holder,
    /// Probes.
    pub health: &'a Health,
    /// Long work under way.
    pub busy: Option<&'a Busy>,
    /// The seal for the current promise, when proven.
    pub seal: Option<&'a super::member::SealReport>,
    /// The fork of the running primary's timeline is known and roles exist (set by the daemon after
    /// its post-promotion steps).
    pub is_prepared: bool,
    /// A drain was done for this request.
    pub drained: Option<&'a (super::ids::RequestId, super::lsn::Lsn)>,
    /// The newest restart, reload or reinit request carried out here.
    pub done_request: Option<&'a super::ids::RequestId>,
    /// The epoch whose Release is on its way to the leader.
    pub releasing: Option<Epoch>,
    /// The epoch that was given back here by killing its PostgreSQL, and why.
    pub gave_up: Option<&'a (Epoch, String)>,
    /// The end of WAL of the stopped server could not be read from disk: recovery must say it.
    pub cannot_read_wal: bool,
    /// It was stopped because it had diverged, and not rewound since.
    pub needs_rewind: bool,
    /// The last rewind failed in a way only a clone cures.
    pub rewind_impossible: bool,
    /// How far this life of the data directory is known to have replayed once; kept outside of it.
    pub high_water: Option<super::lsn::Lsn>,
    /// The last clone did not fit, a short while ago.
    pub no_room: Option<&'a NoRoom>,
    /// Another standby of whom the last clone could not be made: the next one is the holder's.
    pub spent_donor: Option<&'a MemberName>,
    /// Its operator allows this member to remove the old copy first when two do not fit.
    pub clones_in_place: bool,
    /// What the leader last told of all members.
    pub reports: &'a BTreeMap<MemberName, Seen>,
}
