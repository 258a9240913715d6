//! "If the primary died now …": the same decision with the primary's report removed, no second
//! implementation.

use crate::model::member::SealReport;
use crate::model::view::{ClusterView, Seen};
use crate::model::{ClusterState, Epoch, MemberReport, Phase, PostgresStatus};

use super::candidate::{Assessment, assess};
use super::cluster::{RuleVerdict, decide_cluster};

/// What the leader would do if the primary's host were lost now and its lease had run out.
pub fn explain(view: &ClusterView) -> (RuleVerdict, Assessment) {
    let mut state: ClusterState = view.state.clone();
    let holder = state.reign.as_ref().map(|reign| reign.holder.clone());
    if let Some(reign) = &mut state.reign {
        reign.phase = Phase::Revoked;
        reign.ended_because = Some("primary-silent".to_owned());
    }
    let target = state.epoch().next();
    let reports = view
        .reports
        .iter()
        .filter(|(name, _)| Some(*name) != holder.as_ref())
        .map(|(name, seen)| {
            let seal = imagined_seal(&seen.report, target).or_else(|| seen.report.seal.clone());
            let report = MemberReport {
                seal,
                ..seen.report.clone()
            };
            (
                name.clone(),
                Seen {
                    report,
                    age: seen.age,
                },
            )
        })
        .collect();
    let view = ClusterView {
        state: &state,
        reports: &reports,
        lease_waited_out: true,
        ended_age: std::time::Duration::from_secs(3600),
        ..view.clone()
    };
    (decide_cluster(&view), assess(&view))
}

/// The seal a running standby would report.
fn imagined_seal(report: &MemberReport, target: Epoch) -> Option<SealReport> {
    let PostgresStatus::Standby(standby) = &report.postgres else {
        return None;
    };
    Some(SealReport {
        member: report.member.clone(),
        incarnation: report.incarnation?,
        target,
        timeline: standby.timeline,
        end: standby.end_of_wal(),
        is_running: true,
    })
}
