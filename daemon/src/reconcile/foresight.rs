//! "If the primary died now …", answered from the board by the decision's own code.

use cluster_core::decide;
use cluster_core::decide::candidate::Assessment;
use cluster_core::model::MemberName;

use crate::board::{Board, Candidate, Foresight};
use crate::lease::now;

/// Asks `decide` about a world without the primary.
pub struct BoardForesight;

/// Everybody but the one that is imagined to be dead.
fn sentences(assessment: &Assessment, dead: Option<&MemberName>) -> Vec<(String, String)> {
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
    let refused = assessment.refused.iter();
    let refused = refused.filter(|(member, _)| Some(member) != dead);
    let refused = refused.map(|(member, why)| {
        (
            "no-candidate".to_owned(),
            format!("{member} could not: {why}"),
        )
    });
    candidates.chain(refused).collect()
}

impl Foresight for BoardForesight {
    fn explain(&self, board: &Board) -> Vec<(String, String)> {
        let (verdict, assessment) = board.look(now(), decide::explain);
        let dead = board.state.granted().map(|reign| &reign.holder);
        let reason = verdict.reason();
        let first = (
            reason.code().to_owned(),
            format!("If the primary died now: {reason}"),
        );
        std::iter::once(first)
            .chain(sentences(&assessment, dead))
            .collect()
    }

    fn candidates(&self, board: &Board) -> Vec<Candidate> {
        let (_, assessment) = board.look(now(), decide::explain);
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
