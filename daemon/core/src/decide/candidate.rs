//! Who may be promoted, best first, and why the others may not.
//!
//! Positions are ordered by (epoch of the timeline, LSN) over *all* sealed members; a candidate
//! must be on the line of the best one [hazards B6 B10].

use crate::model::ledger::{Position, Relation};
use crate::model::member::SealReport;
use crate::model::rule::missing;
use crate::model::settings::Mode;
use crate::model::view::ClusterView;
use crate::model::{Epoch, Lsn, MemberName, PostgresStatus, TimelineId};

use super::sync_standbys::REPLICATION_LOST;

/// One member that could be granted the next epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its seal.
    pub seal: SealReport,
    /// Where its WAL ends.
    pub position: Position,
    /// Its failover priority, at least 1.
    pub priority: u32,
    /// It held the newest epoch with this very data directory.
    pub was_primary: bool,
    /// Somebody holds its replay back (a pause, an apply delay, a query): it is promoted when nobody
    /// else can be, after it has replayed everything.
    pub is_held: bool,
}

/// The whole judgement of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assessment {
    /// Every valid seal for the target epoch.
    pub sealed: Vec<SealReport>,
    /// The best position among all of them, eligible or not.
    pub best: Option<Position>,
    /// Eligible members on the best one's line, best first.
    pub candidates: Vec<Candidate>,
    /// Everybody else with a PostgreSQL, and why not.
    pub refused: Vec<(MemberName, String)>,
    /// Members that are heard, have data, and have not sealed yet.
    pub unsealed: Vec<MemberName>,
    /// Where the WAL of the newest reign's own primary ends, when it has sealed with the same data
    /// directory: nobody can have more of that reign.
    pub former_end: Option<Position>,
}

/// Judges all members for the epoch after the newest one.
pub fn assess(view: &ClusterView) -> Assessment {
    let mut found = Assessment::default();
    collect_seals(view, view.state.epoch().next(), &mut found);
    let others = was_lonely(view).then(|| without_lonely(view, &found));
    let others = others.flatten().map(|others| judge_all(view, others));
    // Nobody of them may be promoted, or is on the right line: there is only the lonely one.
    match others.filter(|others| !others.candidates.is_empty()) {
        Some(others) => others,
        None => judge_all(view, found),
    }
}

fn judge_all(view: &ClusterView, mut found: Assessment) -> Assessment {
    let ledger = &view.state.ledger;
    let best = found
        .sealed
        .iter()
        .filter_map(|seal| {
            ledger
                .position(seal.timeline, seal.end)
                .map(|at| (at, seal))
        })
        .max_by_key(|(position, _)| *position)
        .map(|(position, seal)| (position, seal.timeline));
    found.best = best.map(|(position, _)| position);
    found.former_end = view.state.reign.as_ref().and_then(|reign| {
        let own = found
            .sealed
            .iter()
            .find(|seal| seal.member == reign.holder && seal.incarnation == reign.incarnation)?;
        ledger.position(own.timeline, own.end)
    });
    for seal in &found.sealed {
        match judge(view, seal, best) {
            Ok(candidate) => found.candidates.push(candidate),
            Err(why) => found.refused.push((seal.member.clone(), why)),
        }
    }
    // In `async` nothing is fetched from another member: what only this one has would be lost.
    let waits = |one: &Candidate| one.is_held && view.state.settings.mode != Mode::Async;
    found.candidates.sort_by(|left, right| {
        waits(left)
            .cmp(&waits(right))
            .then(right.position.cmp(&left.position))
            .then(left.is_held.cmp(&right.is_held))
            .then(right.seal.is_running.cmp(&left.seal.is_running))
            .then(right.priority.cmp(&left.priority))
            .then_with(|| left.was_primary.cmp(&right.was_primary))
            .then_with(|| left.seal.member.cmp(&right.seal.member))
    });
    found
}

/// The newest reign ended because its primary alone had lost its standbys.
pub fn was_lonely(view: &ClusterView) -> bool {
    let reign = view.state.reign.as_ref();
    reign.and_then(|reign| reign.ended_because.as_deref()) == Some(REPLICATION_LOST)
}

/// Whoever was cut off from its standbys is as cut off after another Grant, and they cannot fetch the
/// little more it has. As long as the others block every live rule, nothing of that was acknowledged:
/// they are Q, and it is left out.
fn without_lonely(view: &ClusterView, found: &Assessment) -> Option<Assessment> {
    let reign = view.state.reign.as_ref()?;
    let others = found
        .sealed
        .iter()
        .filter(|seal| seal.member != reign.holder);
    let others: Vec<SealReport> = others.cloned().collect();
    if others.is_empty() || !missing(view.state, &others).is_empty() {
        return None;
    }
    let mut found = found.clone();
    found.sealed = others;
    let why = "it alone had lost its standbys".to_owned();
    found.refused.push((reign.holder.clone(), why));
    Some(found)
}

fn collect_seals(view: &ClusterView, target: Epoch, found: &mut Assessment) {
    for (name, member) in view.state.databases() {
        let Some(report) = view.fresh(name) else {
            found
                .refused
                .push((name.clone(), "is not heard".to_owned()));
            continue;
        };
        let seal = report.seal.as_ref().filter(|seal| {
            seal.target == target
                && Some(seal.incarnation) == member.incarnation
                && report.incarnation == member.incarnation
        });
        if let Some(seal) = seal {
            found.sealed.push(seal.clone());
            continue;
        }
        let why = match &report.postgres {
            PostgresStatus::Empty => "has no data".to_owned(),
            PostgresStatus::Unusable { why, .. } => why.clone(),
            _ if report.incarnation.is_none() => "has no data".to_owned(),
            _ if report.busy.is_some() => {
                let what = report.busy.as_ref().map(|busy| busy.with.clone());
                format!("is busy with {}", what.unwrap_or_default())
            }
            _ => {
                found.unsealed.push(name.clone());
                "has not sealed yet".to_owned()
            }
        };
        found.refused.push((name.clone(), why));
    }
}

fn judge(
    view: &ClusterView,
    seal: &SealReport,
    best: Option<(Position, TimelineId)>,
) -> Result<Candidate, String> {
    let ledger = &view.state.ledger;
    let (best_position, best_timeline) = best.ok_or("no timeline is known")?;
    let position = ledger
        .position(seal.timeline, seal.end)
        .ok_or_else(|| format!("timeline {} is not the cluster's", seal.timeline))?;
    if !view.state.members.contains_key(&seal.member) {
        return Err("is no member".to_owned());
    }
    let priority = view.state.tags_of(&seal.member).priority();
    // The first data of a cluster may lie on a member with the tag: nobody else can begin.
    if view.state.reign.is_some()
        && let Some(why) = view.state.never_promoted(&seal.member)
    {
        return Err(why.to_owned());
    }
    if let Some(report) = view.fresh(&seal.member)
        && let Some(why) = report.not_promotable.first()
    {
        return Err(why.clone());
    }
    match ledger.relation(seal.timeline, seal.end, best_timeline) {
        Relation::OnLine => {}
        Relation::Diverged { fork } => return Err(format!("left the newest line at {fork}")),
        Relation::Unknown => return Err("its timeline is unknown".to_owned()),
    }
    let lag = known_lag(view, seal, best_position);
    let limit = view.state.settings.maximum_lag_on_failover_bytes;
    // Elsewhere the best sealed one has all that was acknowledged, and the others catch up to it.
    if view.state.settings.mode == Mode::Async && lag > limit {
        return Err(format!("is {lag} bytes behind, more than {limit}"));
    }
    let was_primary =
        view.state.reign.as_ref().is_some_and(|reign| {
            reign.holder == seal.member && reign.incarnation == seal.incarnation
        });
    let is_held = view.fresh(&seal.member).is_some_and(|report| {
        matches!(&report.postgres, PostgresStatus::Standby(standby) if standby.replay_is_held)
    });
    Ok(Candidate {
        seal: seal.clone(),
        position,
        priority,
        was_primary,
        is_held,
    })
}

/// How many bytes a sealed member on the best one's line is known to lack: of what the best sealed
/// one has, and of what the newest primary last reported (also a stale report), whether or not the
/// member ever received anything of that reign.
pub fn known_lag(view: &ClusterView, seal: &SealReport, best: Position) -> u64 {
    let behind_best = seal.end.bytes_behind(best.end);
    let Some((timeline, flushed)) = last_told_flush(view) else {
        return behind_best;
    };
    let behind_told = match view
        .state
        .ledger
        .relation(seal.timeline, seal.end, timeline)
    {
        Relation::OnLine => seal.end.bytes_behind(flushed),
        // All that reign wrote is on another line.
        Relation::Diverged { fork } => fork.bytes_behind(flushed),
        Relation::Unknown => 0,
    };
    behind_best.max(behind_told)
}

/// The flush position the newest primary last reported, and its timeline.
fn last_told_flush(view: &ClusterView) -> Option<(TimelineId, Lsn)> {
    let reign = view.state.reign.as_ref()?;
    let seen = view.reports.get(&reign.holder)?;
    match &seen.report.postgres {
        PostgresStatus::Primary(primary) if primary.timeline == reign.timeline => {
            Some((reign.timeline, primary.flushed))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::model::ledger::LedgerEntry;
    use crate::model::member::{Health, Member};
    use crate::model::view::Seen;
    use crate::model::{
        Addresses, ClusterState, Incarnation, MemberKind, MemberReport, NodeId, RequestId, Tags,
    };

    fn view<'a>(
        state: &'a ClusterState,
        reports: &'a BTreeMap<MemberName, Seen>,
        ages: &'a BTreeMap<RequestId, Duration>,
    ) -> ClusterView<'a> {
        ClusterView::settled(NodeId(1), state, reports, &[], ages)
    }

    /// X23: one that is ahead and cannot be promoted is no reason to promote it, and none to forget
    /// how far it is ahead.
    #[test]
    fn a_member_that_says_why_not_is_no_candidate() {
        let (mut state, ages) = (ClusterState::default(), BTreeMap::new());
        let mut reports = BTreeMap::new();
        for (number, name, end) in [(1, "a", 900), (2, "b", 800)] {
            let name: MemberName = name.parse().expect("name");
            let incarnation = Some(Incarnation(number));
            let member = Member {
                node: NodeId(u64::from(number)),
                kind: MemberKind::Database,
                addresses: Addresses::default(),
                tags: Tags::default(),
                incarnation,
                joining: None,
            };
            state.members.insert(name.clone(), member);
            let report = MemberReport {
                member: name.clone(),
                node: NodeId(u64::from(number)),
                daemon_start: String::new(),
                version: String::new(),
                addresses: Addresses::default(),
                tags: Tags::default(),
                incarnation,
                system_identifier: Some(7),
                server_version: None,
                postgres: PostgresStatus::Unknown { why: String::new() },
                min_epoch: Epoch(1),
                used: Epoch::NONE,
                seal: Some(SealReport {
                    member: name.clone(),
                    incarnation: Incarnation(number),
                    target: Epoch(1),
                    timeline: TimelineId(1),
                    end: Lsn(end),
                    is_running: true,
                }),
                set_is_empty: false,
                lease_left_ms: None,
                applied_index: 1,
                not_promotable: Vec::new(),
                health: Health::default(),
                busy: None,
                hears: Vec::new(),
                drained: None,
                done_request: None,
                checkpointed: Epoch::NONE,
                sync: None,
                verdict: String::new(),
            };
            let age = Duration::ZERO;
            reports.insert(name, Seen { report, age });
        }
        let best = |reports: &BTreeMap<MemberName, Seen>| {
            let found = assess(&view(&state, reports, &ages));
            let first = found.candidates.first();
            let name = first.map(|it| it.seal.member.to_string());
            (name, found.best.map(|it| it.end))
        };
        let ends = Some(Lsn(900));
        assert_eq!(best(&reports), (Some("a".to_owned()), ends));
        let a = reports.values_mut().next().expect("a is there");
        a.report.not_promotable.push("its replay is paused".into());
        assert_eq!(best(&reports), (Some("b".to_owned()), ends));
    }

    /// Found by the simulation: the best sealed member may not be promoted, the next one never
    /// received anything of the newest reign, and counted as not behind at all.
    #[test]
    fn a_member_that_lacks_a_whole_reign_is_behind_by_all_of_it() {
        let mut state = ClusterState::default();
        for (epoch, timeline, parent, start) in [(1, 2, 1, 100), (2, 3, 2, 500)] {
            state.ledger.entries.push(LedgerEntry {
                epoch: Epoch(epoch),
                member: "a".parse().expect("name"),
                incarnation: Incarnation(1),
                timeline: TimelineId(timeline),
                parent: TimelineId(parent),
                start: Lsn(start),
                fork: Some(Lsn(start)),
            });
        }
        let (reports, ages) = (BTreeMap::new(), BTreeMap::new());
        let view = view(&state, &reports, &ages);
        let seal = SealReport {
            member: "b".parse().expect("name"),
            incarnation: Incarnation(1),
            target: Epoch(3),
            timeline: TimelineId(2),
            end: Lsn(400),
            is_running: true,
        };
        let best = Position {
            epoch: Epoch(2),
            end: Lsn(2_000_500),
        };
        assert_eq!(known_lag(&view, &seal, best), 2_000_100);
    }
}
