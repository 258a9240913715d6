//! Rules: what members announce, the settling of a changed lease, the first data directory.

use std::cmp::Reverse;

use crate::change::Command;
use crate::model::view::ClusterView;
use crate::model::{MemberKind, MemberReport, PostgresStatus, TimelineId};

use super::cluster::{Verdict, propose};
use super::reason::Reason;

/// A report that differs from what Raft knows is recorded.
pub fn describe(view: &ClusterView) -> Verdict {
    for (name, member) in &view.state.members {
        let Some(report) = view.fresh(name) else {
            continue;
        };
        if report.node != member.node {
            continue;
        }
        // While long work runs the directory is neither the old nor the new one.
        let incarnation = if report.busy.is_some() {
            member.incarnation
        } else {
            report.incarnation
        };
        let is_same = report.addresses == member.addresses
            && report.tags == member.tags
            && incarnation == member.incarnation;
        if !is_same {
            return propose(
                Command::Describe {
                    member: name.clone(),
                    addresses: report.addresses.clone(),
                    tags: report.tags.clone(),
                    incarnation,
                },
                Reason::MemberChanged(name.clone()),
            );
        }
    }
    Verdict::Pass
}

/// D_prev is cleared once W of it has passed.
pub fn settle_lease(view: &ClusterView) -> Verdict {
    if view.state.previous_lease.is_some() && view.previous_lease_settled {
        return propose(Command::SettleLease, Reason::LeaseSettled);
    }
    Verdict::Pass
}

/// Until the cluster has data: who makes or brings it.
pub fn initialize(view: &ClusterView) -> Verdict {
    if view.state.identity.is_none() || view.state.system_identifier.is_some() {
        return Verdict::Pass;
    }
    if let Some(name) = &view.state.initializer
        && let Some(report) = view.fresh(name)
    {
        return match (report.system_identifier, first_timeline(report)) {
            (Some(system_identifier), Some(timeline))
                if report.busy.is_none() && report.incarnation.is_some() =>
            {
                propose(
                    Command::Initialized {
                        member: name.clone(),
                        system_identifier,
                        timeline,
                    },
                    Reason::FirstDataExists(name.clone()),
                )
            }
            _ => Verdict::Wait(Reason::Initializing(name.clone())),
        };
    }
    choose_initializer(view)
}

fn choose_initializer(view: &ClusterView) -> Verdict {
    let heard: Vec<&MemberReport> = view
        .state
        .members
        .iter()
        .filter(|(_, member)| member.kind == MemberKind::Database)
        .filter_map(|(name, _)| view.fresh(name))
        .collect();
    let bring: Vec<_> = heard
        .iter()
        .filter(|report| report.system_identifier.is_some())
        .map(|report| report.member.clone())
        .collect();
    if bring.len() > 1 {
        return Verdict::Wait(Reason::SeveralBringData(bring));
    }
    // Nobody brings data only when everybody was heard: data may lie on a silent member.
    let everybody = heard.len() == view.state.databases().count();
    let chosen = bring.into_iter().next().or_else(|| {
        heard
            .iter()
            .filter(|_| everybody)
            .filter(|report| report.postgres == PostgresStatus::Empty)
            .min_by_key(|report| (Reverse(report.tags.priority()), &report.member))
            .map(|report| report.member.clone())
    });
    match chosen {
        Some(member) => propose(
            Command::Initialize {
                member: member.clone(),
            },
            Reason::Initializing(member),
        ),
        None => Verdict::Wait(Reason::NobodyToInitialize),
    }
}

fn first_timeline(report: &MemberReport) -> Option<TimelineId> {
    match &report.postgres {
        PostgresStatus::Stopped(stopped) => Some(stopped.checkpoint_timeline),
        PostgresStatus::Standby(standby) => Some(standby.timeline),
        PostgresStatus::Primary(primary) => Some(primary.timeline),
        PostgresStatus::Unknown { .. }
        | PostgresStatus::Empty
        | PostgresStatus::Unusable { .. }
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => None,
    }
}
