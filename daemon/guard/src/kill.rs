//! Killing every process of a PostgreSQL, and saying so only when it is true.
//!
//! Never the postmaster alone: a backend that is computing would go on and commit for as long as
//! its query lasts (measured: 15 s and 68,000 commits). A kill is a sequence of strikes, each
//! followed by a new look, until a look finds nobody; the guard serves its clients in between, so a
//! process that cannot die (disk wait) makes the kill long but not the guard deaf.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::census::Census;
use crate::cgroup::Groups;
use crate::clock;
use crate::log_line;
use crate::processes::{self, Process};
use crate::protocol::KillReport;
use crate::server::ClientId;

/// Looks after which a root that will not stop is killed although it is not yet seen stopped.
const PATIENT_LOOKS: u32 = 20;

/// How long a killed process may stay a zombie before it counts as gone. It harms nobody, but while
/// it has its number a new postmaster takes it for the owner of `postmaster.pid` and refuses; ours
/// are reaped at once, those of another parent when that gets to it, or never.
const ZOMBIE_LIMIT_NS: u64 = 3_000_000_000;

/// Why a kill began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The lease's end came near.
    Deadline,
    /// A client ordered it.
    Ordered(String),
    /// The postmaster ended by itself; its children must not outlive it.
    PostmasterExited,
    /// Found at the guard's start.
    LeftOver,
    /// The guard ends.
    Ending,
    /// Processes of our data directory that are not ours.
    Foreign,
}

impl Cause {
    /// For reports and log lines.
    pub fn text(&self) -> String {
        match self {
            Self::Deadline => "deadline".to_owned(),
            Self::Ordered(reason) => format!("ordered: {reason}"),
            Self::PostmasterExited => "the postmaster exited".to_owned(),
            Self::LeftOver => "left over from an earlier guard".to_owned(),
            Self::Ending => "the guard ends".to_owned(),
            Self::Foreign => "foreign processes in the data directory".to_owned(),
        }
    }

    /// Whether the set's epoch is over because of it.
    pub fn burns(&self) -> bool {
        match self {
            Self::Deadline | Self::Ordered(_) | Self::Ending => true,
            Self::PostmasterExited | Self::LeftOver | Self::Foreign => false,
        }
    }
}

/// Whom a kill is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Our set and every PostgreSQL in our data directory.
    Everything,
    /// Only those that are not ours.
    Foreign,
}

/// A kill under way.
#[derive(Debug)]
pub struct Killing {
    /// Why.
    pub cause: Cause,
    /// Whom.
    pub scope: Scope,
    /// The set it is for.
    pub set_id: Option<u64>,
    /// When it began.
    pub begin_ns: u64,
    /// Clients (and their request ids) that wait for the verification.
    pub waiting: Vec<(ClientId, u64)>,
    seen: BTreeSet<i32>,
    /// Killed one by one, with their start times, until each is seen dead: a dying process leaves
    /// its working directory, and so the census, a little before it is gone.
    dying: BTreeMap<i32, u64>,
    /// Roots known to be stopped before the present look began: they forked nothing since.
    stopped: HashSet<i32>,
    /// Without a group: the PostgreSQL processes first, everybody else after.
    is_quick: bool,
    looks: u32,
    clean_looks: u32,
}

/// What a strike found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Somebody, or not yet certain: look again at once.
    LookAgain,
    /// Somebody who needs a moment to die.
    Dying,
    /// Nobody, and that is certain.
    Nobody,
}

impl Killing {
    /// Strikes at once, before any look at `/proc`.
    pub fn begin(
        cause: Cause,
        scope: Scope,
        set_id: Option<u64>,
        begin_ns: u64,
        groups: Option<&Groups>,
    ) -> Self {
        let mut killing = Self {
            cause,
            scope,
            set_id,
            begin_ns,
            waiting: Vec::new(),
            seen: BTreeSet::new(),
            dying: BTreeMap::new(),
            stopped: HashSet::new(),
            is_quick: groups.is_none() && scope == Scope::Everything,
            looks: 0,
            clean_looks: 0,
        };
        killing.strike_group(groups);
        killing
    }

    /// More is to be killed than was at first.
    pub fn widen(&mut self, scope: Scope, set_id: Option<u64>, groups: Option<&Groups>) {
        if scope == Scope::Everything && self.scope == Scope::Foreign {
            self.scope = scope;
            self.set_id = set_id;
            self.clean_looks = 0;
            self.is_quick = groups.is_none();
            self.strike_group(groups);
        }
    }

    /// SIGKILL to the whole group; again and again, in case somebody entered it meanwhile.
    pub fn strike_group(&mut self, groups: Option<&Groups>) {
        let (Some(groups), Scope::Everything) = (groups, self.scope) else {
            return;
        };
        let list = groups.postgres.processes().unwrap_or_default();
        // One by one first: a signal waits for no lock. On a busy host a kill by the group alone was
        // seen to take over a second; that it waits for a lock of all control groups is a guess.
        list.iter().for_each(|pid| processes::strike(*pid));
        let killed = groups.postgres.kill();
        list.iter().for_each(|pid| processes::hasten(*pid));
        self.seen.extend(list);
        if let Err(error) = killed {
            log_line!("could not write cgroup.kill: {error}");
        }
    }

    /// Whether the next look need only be at the PostgreSQL processes.
    pub fn is_quick(&self) -> bool {
        self.is_quick
    }

    /// The group still has somebody in it who was killed: a look at the whole machine can wait, and
    /// must, because the dying need the processor.
    pub fn is_group_dying(&self, groups: Option<&Groups>) -> bool {
        self.scope == Scope::Everything
            && self.looks > 0
            && groups.is_some_and(|groups| matches!(groups.postgres.is_empty(), Ok(false)))
    }

    /// Strikes at everybody the census found.
    pub fn strike(&mut self, census: &Census, groups: Option<&Groups>) -> Found {
        self.looks += 1;
        let targets: Vec<&Process> = match self.scope {
            Scope::Everything => census
                .own
                .iter()
                .chain(&census.foreign)
                .chain(&census.of_tools)
                .collect(),
            Scope::Foreign => census.foreign.iter().collect(),
        };
        if targets.is_empty() {
            return self.note_nobody(groups);
        }
        self.clean_looks = 0;
        self.seen.extend(targets.iter().map(|process| process.pid));
        self.dying.extend(
            targets
                .iter()
                .map(|process| (process.pid, process.start_time)),
        );
        if !census.own.is_empty() {
            self.strike_group(groups);
        }
        self.stop_then_kill(&targets)
    }

    fn note_nobody(&mut self, groups: Option<&Groups>) -> Found {
        let waits_for_zombies = clock::boottime_ns() < self.begin_ns + ZOMBIE_LIMIT_NS;
        self.dying.retain(|pid, start_time| {
            processes::start_time(*pid) == Some(*start_time)
                && (waits_for_zombies || processes::read(*pid).is_some())
        });
        if !self.dying.is_empty() {
            return Found::Dying;
        }
        if std::mem::take(&mut self.is_quick) {
            return Found::LookAgain;
        }
        self.clean_looks += 1;
        let Some(groups) = groups else {
            // One look can miss a child forked while the list was made.
            return if self.clean_looks > 1 {
                Found::Nobody
            } else {
                Found::LookAgain
            };
        };
        let is_certain =
            self.scope == Scope::Foreign || groups.postgres.is_empty().unwrap_or(false);
        if is_certain {
            Found::Nobody
        } else {
            Found::Dying
        }
    }

    /// Stops the roots (a postmaster, and orphans) so that they fork no more; looks again; then
    /// kills all below them and the roots. A root is killed only in a look that began after it had
    /// stopped: that look saw all of its children.
    fn stop_then_kill(&mut self, targets: &[&Process]) -> Found {
        let pids: HashSet<i32> = targets.iter().map(|process| process.pid).collect();
        let (below, roots): (Vec<&Process>, Vec<&Process>) = targets
            .iter()
            .copied()
            .partition(|process| pids.contains(&process.parent));
        below.iter().for_each(|process| process.kill());
        let mut found = Found::Dying;
        for root in roots {
            if self.stopped.contains(&root.pid) || self.looks > PATIENT_LOOKS {
                root.kill();
                continue;
            }
            root.stop();
            if processes::read(root.pid).is_some_and(|now| now.is_stopped()) {
                self.stopped.insert(root.pid);
                found = Found::LookAgain;
            }
        }
        found
    }

    /// The report of a verified kill.
    pub fn report(&self, end_ns: u64) -> KillReport {
        KillReport {
            set_id: self.set_id,
            reason: self.cause.text(),
            begin_ns: self.begin_ns,
            end_ns,
            killed: u32::try_from(self.seen.len()).unwrap_or(u32::MAX),
            verified: true,
        }
    }
}
