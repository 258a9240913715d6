//! Who is what, as the board shows it: the one place where the edges derive roles, states and lags,
//! so that HTTP, metrics, discovery and admin cannot differ. Pure; `now` is an argument.

use std::time::Duration;

use cluster_core::model::lease::Moment;
use cluster_core::model::member::{Member, PendingRestart};
use cluster_core::model::{
    ClusterState, Incarnation, Lsn, MemberKind, MemberName, MemberReport, PostgresStatus,
    TimelineId,
};

use crate::board::Board;

/// What a member is in the cluster now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds the newest reign and was promoted in it.
    Primary,
    /// Holds a copy.
    Standby,
    /// Every commit waits for it.
    SyncStandby,
    /// One of those whose quorum every commit waits for.
    QuorumStandby,
    /// Votes only.
    Witness,
}

/// One member, seen from here.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a MemberName,
    /// What is replicated of it.
    pub member: &'a Member,
    /// Its newest report, however old.
    pub report: Option<&'a MemberReport>,
    /// How old that is.
    pub age: Option<Duration>,
    /// Heard lately enough to believe its report.
    pub is_fresh: bool,
    /// What it is.
    pub role: Role,
    /// Patroni's word; `streaming` for a standby that does; `unknown` when not fresh.
    pub state: &'static str,
    /// Its timeline.
    pub timeline: Option<TimelineId>,
    /// Standby: the end of its WAL. Primary: its flush position.
    pub receive: Option<Lsn>,
    /// Standby: replayed up to here.
    pub replay: Option<Lsn>,
    /// The primary's flush position as far as known here, for the lags of this member.
    primary_flush: Option<Lsn>,
}

impl Facts<'_> {
    /// What takes effect with the next start of its server; nothing when it was not heard lately.
    pub fn pending(&self) -> &[PendingRestart] {
        self.report
            .filter(|_| self.is_fresh)
            .map_or(&[], MemberReport::pending_restart)
    }

    /// Bytes received behind the primary.
    pub fn receive_lag(&self) -> Option<u64> {
        self.lag(self.receive)
    }

    /// Bytes replayed behind the primary.
    pub fn replay_lag(&self) -> Option<u64> {
        self.lag(self.replay)
    }

    fn lag(&self, at: Option<Lsn>) -> Option<u64> {
        match self.role {
            Role::Primary | Role::Witness => None,
            Role::Standby | Role::SyncStandby | Role::QuorumStandby => {
                Some(at?.bytes_behind(self.primary_flush?))
            }
        }
    }
}

/// Every member, by name.
pub fn members(board: &Board, now: Moment) -> Vec<Facts<'_>> {
    let primary_flush = primary_flush(board);
    board
        .state
        .members
        .iter()
        .map(|(name, member)| {
            let (report, age) = report_of(board, name, now);
            let is_fresh = age.is_some_and(|age| age <= board.times.lease);
            let role = role(&board.state, name, member, report);
            let (timeline, receive, replay) = positions(report);
            let state = match report {
                Some(report) if is_fresh => state_word(report, role),
                Some(_) | None => "unknown",
            };
            Facts {
                name,
                member,
                report,
                age,
                is_fresh,
                role,
                state,
                timeline,
                receive,
                replay,
                primary_flush,
            }
        })
        .collect()
}

/// A member's newest report and its age; the own one is never older than the last observation.
fn report_of<'a>(
    board: &'a Board,
    name: &MemberName,
    now: Moment,
) -> (Option<&'a MemberReport>, Option<Duration>) {
    if *name == board.me {
        return (Some(&board.own), Some(Duration::ZERO));
    }
    let waited = now.since(board.merged_at);
    match board.reports.get(name) {
        Some(seen) => (Some(&seen.report), Some(seen.age + waited)),
        None => (None, None),
    }
}

fn role(
    state: &ClusterState,
    name: &MemberName,
    member: &Member,
    report: Option<&MemberReport>,
) -> Role {
    if member.kind == MemberKind::Witness {
        return Role::Witness;
    }
    if state
        .followable()
        .is_some_and(|reign| reign.holder == *name)
    {
        return Role::Primary;
    }
    let life = report
        .and_then(|report| report.incarnation)
        .or(member.incarnation);
    sync_role(state, name, life)
}

/// Whether commits wait for this standby, by the activated rule: a proposal proves nothing yet.
pub fn sync_role(state: &ClusterState, name: &MemberName, life: Option<Incarnation>) -> Role {
    let Some(rule) = state.activated_rule().filter(|rule| rule.k > 0) else {
        return Role::Standby;
    };
    match (rule.set.get(name), life) {
        (Some(named), Some(life)) if *named == life => {
            if u64::from(rule.k) >= rule.set.len() as u64 {
                Role::SyncStandby
            } else {
                Role::QuorumStandby
            }
        }
        (Some(_) | None, Some(_) | None) => Role::Standby,
    }
}

fn positions(report: Option<&MemberReport>) -> (Option<TimelineId>, Option<Lsn>, Option<Lsn>) {
    match report.map(|report| &report.postgres) {
        Some(PostgresStatus::Primary(primary)) => {
            (Some(primary.timeline), Some(primary.flushed), None)
        }
        Some(PostgresStatus::Standby(standby)) => (
            Some(standby.timeline),
            Some(standby.end_of_wal()),
            Some(standby.replayed),
        ),
        Some(PostgresStatus::Stopped(stopped)) => (Some(stopped.checkpoint_timeline), None, None),
        Some(_) | None => (None, None, None),
    }
}

/// The primary's flush position as far as it is known here: its own report, or what standbys were
/// last told of it.
pub fn primary_flush(board: &Board) -> Option<Lsn> {
    let others = board
        .reports
        .iter()
        .filter(|(name, _)| **name != board.me)
        .map(|(_, seen)| &seen.report.postgres);
    others
        .chain([&board.own.postgres])
        .filter_map(upstream_position)
        .max()
}

fn upstream_position(postgres: &PostgresStatus) -> Option<Lsn> {
    match postgres {
        PostgresStatus::Primary(primary) => Some(primary.flushed),
        PostgresStatus::Standby(standby) => standby
            .receiver
            .as_ref()
            .map(|receiver| receiver.latest_end),
        _ => None,
    }
}

/// Patroni's word for the state of a PostgreSQL.
pub fn postgres_word(report: &MemberReport) -> &'static str {
    let busy_with = report.busy.as_ref().map(|busy| busy.with.as_str());
    match (&report.postgres, busy_with) {
        (PostgresStatus::Standby(_) | PostgresStatus::Primary(_), _) => "running",
        (_, Some("initdb")) => "initializing new cluster",
        (_, Some("clone" | "basebackup")) => "creating replica",
        (PostgresStatus::Unknown { .. } | PostgresStatus::Unresponsive { .. }, _) => "unknown",
        (PostgresStatus::Unusable { .. }, _) => "start failed",
        (PostgresStatus::Stopped(stopped), _) if !stopped.clean => "crashed",
        (PostgresStatus::Empty | PostgresStatus::Stopped(_), _) => "stopped",
        (PostgresStatus::Starting { .. }, _) => "starting",
        (PostgresStatus::Stopping, _) => "stopping",
    }
}

fn state_word(report: &MemberReport, role: Role) -> &'static str {
    match role {
        Role::Witness => "witness",
        Role::Primary => postgres_word(report),
        Role::Standby | Role::SyncStandby | Role::QuorumStandby if is_streaming(report) => {
            "streaming"
        }
        Role::Standby | Role::SyncStandby | Role::QuorumStandby => postgres_word(report),
    }
}

/// Whether this standby's receiver says it streams.
pub fn is_streaming(report: &MemberReport) -> bool {
    match &report.postgres {
        PostgresStatus::Standby(standby) => standby
            .receiver
            .as_ref()
            .is_some_and(|receiver| receiver.is_streaming),
        _ => false,
    }
}

/// The member clients write to now: granted, activated, and heard lately as a primary.
pub fn open_primary<'a, 'b>(board: &Board, members: &'b [Facts<'a>]) -> Option<&'b Facts<'a>> {
    let reign = board.state.granted().filter(|reign| reign.is_activated)?;
    members.iter().find(|facts| {
        *facts.name == reign.holder
            && facts.is_fresh
            && matches!(
                facts.report.map(|r| &r.postgres),
                Some(PostgresStatus::Primary(_))
            )
    })
}

/// How the Raft group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voters {
    /// Heard lately.
    pub up: usize,
    /// All.
    pub total: usize,
    /// Without them the others.
    pub others_down: usize,
}

/// Counts the voters.
pub fn voters(board: &Board, members: &[Facts<'_>]) -> Voters {
    let total = board.raft.voters.len();
    let is_up = |node| {
        members
            .iter()
            .any(|facts| facts.member.node == node && facts.is_fresh)
    };
    let up = board
        .raft
        .voters
        .iter()
        .filter(|node| is_up(**node))
        .count();
    let others_down = board
        .raft
        .voters
        .iter()
        .filter(|node| board.raft.me != Some(**node) && !is_up(**node))
        .count();
    Voters {
        up,
        total,
        others_down,
    }
}

impl Voters {
    /// How much may still fail, as a sentence.
    pub fn tolerance(&self) -> String {
        let majority = self.total / 2 + 1;
        if self.total == 0 {
            return "the group has not formed yet".to_owned();
        }
        if self.up < majority {
            let missing = majority - self.up;
            return format!(
                "no quorum: {missing} more of {} voters must come back",
                self.total
            );
        }
        match self.up - majority {
            0 if self.total == 1 => "there is one voter: if it is lost, writes stop".to_owned(),
            0 => "one more voter lost and writes stop".to_owned(),
            1 => "one more voter may be lost".to_owned(),
            spare => format!("{spare} more voters may be lost"),
        }
    }

    /// Whether this member's daemon may restart without taking the quorum away.
    ///
    /// # Errors
    /// The sentence that says why not.
    pub fn may_restart(&self) -> Result<String, String> {
        if self.others_down > 0 {
            return Err(format!(
                "{} other of {} voters is down: with this one away too, writes could stop",
                self.others_down, self.total
            ));
        }
        Ok(match self.total {
            0 => "the group has not formed yet".to_owned(),
            1 => "the only voter: nothing can be decided until it is back".to_owned(),
            _ => "all other voters are up".to_owned(),
        })
    }
}

/// `host:port` taken apart; brackets of an IPv6 address are dropped.
pub fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host, port.parse().ok()?)).filter(|_| !host.is_empty())
}

/// What a connection string should lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnRole {
    /// All members; libpq finds the primary by itself.
    Any,
    /// The primary only.
    Primary,
    /// All members; libpq finds a standby by itself.
    Replica,
}

/// A libpq connection string without user and password; none while there is nothing to connect to.
pub fn dsn(board: &Board, now: Moment, role: DsnRole) -> Option<String> {
    let all = members(board, now);
    let primary = open_primary(board, &all).map(|facts| facts.name);
    let mut places: Vec<(&MemberName, &str, u16)> = all
        .iter()
        .filter(|facts| role != DsnRole::Primary || Some(facts.name) == primary)
        .filter_map(|facts| {
            let (host, port) = host_and_port(&facts.member.addresses.postgres)?;
            Some((facts.name, host, port))
        })
        .collect();
    places.sort_by_key(|(name, _, _)| (Some(*name) != primary, *name));
    let hosts: Vec<&str> = places.iter().map(|(_, host, _)| *host).collect();
    let ports: Vec<String> = places.iter().map(|(_, _, port)| port.to_string()).collect();
    let attributes = match role {
        DsnRole::Any => " target_session_attrs=read-write",
        DsnRole::Primary => "",
        DsnRole::Replica => " target_session_attrs=standby",
    };
    (!hosts.is_empty()).then(|| {
        format!(
            "host={} port={} dbname=postgres{attributes}",
            hosts.join(","),
            ports.join(",")
        )
    })
}
