//! "If the primary died now …", answered from the board by the decision's own code.

use std::collections::BTreeMap;

use cluster_core::decide;
use cluster_core::decide::candidate::Assessment;
use cluster_core::model::NodeId;
use cluster_core::model::view::{ClusterView, Seen};

use crate::board::{Board, Candidate, Foresight};
use crate::lease::now;

/// Asks `decide` about a world without the primary.
pub struct BoardForesight;

fn look_ahead<T>(board: &Board, ask: impl FnOnce(&ClusterView) -> T) -> T {
    let since_merged = now().since(board.merged_at);
    let reports = board
        .reports
        .iter()
        .map(|(name, seen)| {
            let age = seen.age + since_merged;
            (
                name.clone(),
                Seen {
                    report: seen.report.clone(),
                    age,
                },
            )
        })
        .collect();
    let nothing_asked = BTreeMap::new();
    let me = board.raft.leader.unwrap_or(NodeId(0));
    let view = ClusterView::settled(
        me,
        &board.state,
        &reports,
        &board.raft.voters,
        &nothing_asked,
    );
    ask(&view)
}

fn sentences(assessment: &Assessment) -> Vec<(String, String)> {
    let candidates = assessment.candidates.iter().map(|candidate| {
        let text = format!(
            "{} could be promoted: {} of epoch {}, priority {}",
            candidate.seal.member,
            candidate.position.end,
            candidate.position.epoch,
            candidate.priority
        );
        ("candidate".to_owned(), text)
    });
    let refused = assessment.refused.iter().map(|(member, why)| {
        (
            "no-candidate".to_owned(),
            format!("{member} could not: {why}"),
        )
    });
    candidates.chain(refused).collect()
}

impl Foresight for BoardForesight {
    fn explain(&self, board: &Board) -> Vec<(String, String)> {
        let (verdict, assessment) = look_ahead(board, decide::explain);
        let reason = verdict.reason();
        let first = (
            reason.code().to_owned(),
            format!("If the primary died now: {reason}"),
        );
        std::iter::once(first)
            .chain(sentences(&assessment))
            .collect()
    }

    fn candidates(&self, board: &Board) -> Vec<Candidate> {
        let (_, assessment) = look_ahead(board, decide::explain);
        let holder = board.state.granted().map(|reign| reign.holder.clone());
        let good = assessment.candidates.iter().map(|found| Candidate {
            member: found.seal.member.clone(),
            reasons: Vec::new(),
        });
        let bad = assessment
            .refused
            .iter()
            .filter(|(member, _)| Some(member) != holder.as_ref())
            .map(|(member, why)| Candidate {
                member: member.clone(),
                reasons: vec![why.clone()],
            });
        good.chain(bad).collect()
    }
}
