//! One model of PostgreSQL, with behaviour: WAL as a line of timelines, a receiver that keeps
//! delivering until it is gone, `standby.signal`, a promotion that takes time, crashes, a restart
//! that forgets the receive position.
//!
//! The one surprise: asked to die is not dead. A dying server takes writes until it is gone.

use std::collections::BTreeMap;

use cluster_core::model::postgres::{Follows, Primary, Receiver, Standby, Stopped};
use cluster_core::model::{Epoch, Lsn, MemberName, PostgresStatus, TimelineId};

use crate::network::Micros;
use crate::sync::Commits;

/// A data directory: which timelines its WAL went through, and where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Each timeline with the position where it began; the last one is the newest.
    pub line: Vec<(TimelineId, Lsn)>,
    /// End of the WAL on disk.
    pub end: Lsn,
    /// Where a start begins to replay.
    pub redo: Lsn,
    pub has_signal: bool,
    pub ended_clean: bool,
    pub was_in_recovery: bool,
    pub system_identifier: u64,
}

impl Data {
    pub fn timeline(&self) -> TimelineId {
        self.line
            .last()
            .map_or(TimelineId::FIRST, |(timeline, _)| *timeline)
    }

    /// Whether this WAL is a beginning of `other`'s: what PostgreSQL needs to stream.
    pub fn is_prefix_of(&self, other: &Data) -> bool {
        let count = self.line.len();
        if count > other.line.len() || self.line[..] != other.line[..count] {
            return false;
        }
        let left = other.line.get(count).map_or(other.end, |(_, begin)| *begin);
        self.end <= left
    }
}

/// A data directory right after initdb.
pub fn first_data(system_identifier: u64) -> Data {
    Data {
        line: vec![(TimelineId::FIRST, Lsn::ZERO)],
        end: Lsn(1000),
        redo: Lsn(900),
        has_signal: true,
        ended_clean: true,
        was_in_recovery: false,
        system_identifier,
    }
}

/// Who a standby is told to follow, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub member: usize,
    pub epoch: Epoch,
}

/// A server in recovery.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    pub replayed: Lsn,
    /// NULL until a receiver ran in this process.
    pub received: Option<Lsn>,
    pub follows: Option<Upstream>,
    /// The process; it outlives `follows` for a moment.
    pub receiver: Option<Upstream>,
    pub is_streaming: bool,
    /// A promotion under way: when it is done, and the timeline it opens.
    pub promoting: Option<(Micros, TimelineId)>,
}

/// A server out of recovery.
#[derive(Clone, Debug)]
pub struct Writable {
    pub fork: Lsn,
    pub is_open: bool,
}

/// The processes.
#[derive(Clone, Debug)]
pub enum Process {
    None,
    Starting { until: Micros },
    Recovery(Recovery),
    Writable(Writable),
}

/// PostgreSQL of one member.
#[derive(Clone, Debug)]
pub struct Postgres {
    pub data: Option<Data>,
    pub process: Process,
    /// Every process is gone then; until then it goes on working.
    pub dies_at: Option<Micros>,
    /// It is stopped for good manners (a clean stop) rather than killed.
    pub stops_clean: bool,
    /// It answers nothing since then.
    pub wedged_since: Option<Micros>,
    /// initdb, pg_basebackup or pg_rewind runs.
    pub tool_runs: bool,
    /// Started by somebody else.
    pub is_foreign: bool,
    /// Who confirms its commits, out of recovery and outside `async`.
    pub commits: Option<Commits>,
    /// The directory cannot be used; whether a clone would cure it.
    pub unusable: Option<bool>,
}

impl Postgres {
    pub fn empty() -> Postgres {
        Postgres {
            data: None,
            process: Process::None,
            dies_at: None,
            stops_clean: false,
            wedged_since: None,
            tool_runs: false,
            is_foreign: false,
            unusable: None,
            commits: None,
        }
    }

    pub fn runs(&self) -> bool {
        !matches!(self.process, Process::None)
    }

    pub fn writable(&self) -> Option<&Writable> {
        match &self.process {
            Process::Writable(writable) => Some(writable),
            Process::None | Process::Starting { .. } | Process::Recovery(_) => None,
        }
    }

    /// The guard's words for `set_is_empty`.
    pub fn set_is_empty(&self) -> bool {
        !self.runs() && !self.tool_runs
    }

    /// Gone at once, as by SIGKILL.
    pub fn vanish(&mut self) {
        if let Some(data) = &mut self.data
            && !matches!(self.process, Process::None)
        {
            data.ended_clean =
                self.stops_clean && !matches!(self.process, Process::Starting { .. });
            data.was_in_recovery = !matches!(self.process, Process::Writable(_));
        }
        self.process = Process::None;
        self.commits = None;
        self.dies_at = None;
        self.stops_clean = false;
        self.wedged_since = None;
        self.is_foreign = false;
    }

    /// Begins to kill or stop every process; it is over at `at`.
    pub fn begin_to_die(&mut self, at: Micros, clean: bool) {
        if self.runs() {
            self.dies_at = Some(self.dies_at.map_or(at, |already| already.min(at)));
            self.stops_clean = clean && (self.stops_clean || self.wedged_since.is_none());
        }
    }

    /// Starts in recovery. The caller has checked signal, marker and processes.
    pub fn start(&mut self, ready_at: Micros) {
        self.process = Process::Starting { until: ready_at };
        self.dies_at = None;
        self.wedged_since = None;
        self.stops_clean = false;
    }

    /// Lets the processes do what they do by themselves until `now`. Returns the timeline that was
    /// opened, if a promotion was finished.
    pub fn advance(&mut self, now: Micros, replay_step: u64) -> Option<TimelineId> {
        if self.dies_at.is_some_and(|at| at <= now) {
            self.vanish();
            return None;
        }
        // Every process is killed at once: what is being killed promotes nothing more.
        if self.wedged_since.is_some() || self.dies_at.is_some() {
            return None;
        }
        let data = self.data.as_mut()?;
        match &mut self.process {
            Process::Starting { until } if *until <= now => {
                let replayed = data.redo;
                self.process = Process::Recovery(Recovery {
                    replayed,
                    ..Recovery::default()
                });
                None
            }
            Process::Recovery(recovery) => {
                recovery.replayed = Lsn(recovery.replayed.0 + replay_step).min(data.end);
                let (at, timeline) = recovery.promoting?;
                if at > now {
                    return None;
                }
                let fork = data.end;
                data.line.push((timeline, fork));
                // The end-of-recovery record.
                data.end = Lsn(fork.0 + 104);
                data.has_signal = false;
                data.redo = fork;
                self.process = Process::Writable(Writable {
                    fork,
                    is_open: false,
                });
                Some(timeline)
            }
            Process::None | Process::Starting { .. } | Process::Writable(_) => None,
        }
    }

    /// What the daemon sees.
    pub fn status(&self, now: Micros, names: &[MemberName]) -> PostgresStatus {
        let Some(data) = &self.data else {
            return PostgresStatus::Empty;
        };
        if let (Some(clone_would_cure), false) = (self.unusable, self.runs()) {
            let why = "it is of another major version".to_owned();
            return PostgresStatus::Unusable {
                why,
                clone_would_cure,
            };
        }
        if self.runs() && self.dies_at.is_some() {
            return PostgresStatus::Stopping;
        }
        if let (true, Some(since)) = (self.runs(), self.wedged_since) {
            let was_primary = self.writable().is_some();
            return PostgresStatus::Unresponsive {
                for_ms: (now - since) / 1000,
                was_primary,
            };
        }
        match &self.process {
            Process::None => PostgresStatus::Stopped(stopped(data)),
            Process::Starting { .. } => PostgresStatus::Starting {
                for_ms: 0,
                rewound_for: None,
            },
            Process::Recovery(recovery) => standby(data, recovery, names),
            Process::Writable(writable) => PostgresStatus::Primary(Primary {
                timeline: data.timeline(),
                flushed: data.end,
                fork: Some(writable.fork),
                is_open: writable.is_open,
                has_signal: data.has_signal,
                sync_names: String::new(),
                senders: Vec::new(),
                prepared_transactions: 0,
                oldest_transaction_ms: 0,
                oldest_wal: None,
                started_unix_ms: 0,
            }),
        }
    }
}

fn stopped(data: &Data) -> Stopped {
    // The control file moves with flushed pages: the last records may lie beyond it.
    let flushed = Lsn(data.end.0 - data.end.0 % 64).max(data.redo);
    Stopped {
        clean: data.ended_clean,
        was_in_recovery: data.was_in_recovery,
        checkpoint_timeline: data.timeline(),
        checkpoint: data.redo,
        min_recovery_end: if data.was_in_recovery {
            flushed
        } else {
            Lsn::ZERO
        },
        min_recovery_timeline: data.was_in_recovery.then(|| data.timeline()),
        has_signal: data.has_signal,
    }
}

fn standby(data: &Data, recovery: &Recovery, names: &[MemberName]) -> PostgresStatus {
    let receiver = recovery.receiver.map(|_| Receiver {
        pid: 1,
        is_streaming: recovery.is_streaming,
        timeline: data.timeline(),
        flushed: data.end,
        latest_end: data.end,
    });
    PostgresStatus::Standby(Standby {
        timeline: data.timeline(),
        received: recovery.received,
        replayed: recovery.replayed,
        replay_delay_ms: None,
        replayed_at_unix_ms: None,
        replay_paused: false,
        replay_is_held: false,
        has_too_little: false,
        is_out_of_wal: false,
        has_frozen_receiver: false,
        unattached_for_ms: None,
        receiver,
        at_end_of_wal: recovery.replayed == data.end,
        follows: recovery.follows.map(|to| Follows {
            member: names[to.member].clone(),
            epoch: to.epoch,
        }),
        started_unix_ms: 0,
    })
}

/// What really happened to each timeline, whatever anybody believes.
#[derive(Clone, Debug, Default)]
pub struct Timelines {
    /// Who opened it, and on what line.
    pub opened: BTreeMap<TimelineId, (usize, Vec<(TimelineId, Lsn)>)>,
}
