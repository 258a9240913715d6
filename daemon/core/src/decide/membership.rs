//! Rules: members that are replaced, and where Raft's leadership had better sit.

use std::time::Duration;

use crate::change::Command;
use crate::model::MemberKind;
use crate::model::view::ClusterView;

use super::cluster::{Verdict, VoterChange, propose};
use super::reason::Reason;

/// Least time between two attempts to move the leadership. Source: DESIGN section 4.
pub const ELECT_EVERY: Duration = Duration::from_secs(30);

/// A host with an empty disk comes back: learner, catch-up, swap.
pub fn replace(view: &ClusterView) -> Verdict {
    for (name, member) in &view.state.members {
        let Some(new) = member.joining else { continue };
        let reason = Reason::Replacing(name.clone());
        let votes = |node| view.voters.contains(&node);
        if votes(new) && !votes(member.node) {
            return propose(
                Command::Replaced {
                    member: name.clone(),
                },
                reason,
            );
        }
        return match view.learners.iter().find(|(node, _)| *node == new) {
            None if !votes(new) => {
                let peer = member.addresses.peer.clone();
                Verdict::Voters(VoterChange::AddLearner { node: new, peer }, reason)
            }
            Some((_, false)) => Verdict::Wait(reason),
            None | Some((_, true)) => Verdict::Voters(
                VoterChange::Swap {
                    old: member.node,
                    new,
                },
                reason,
            ),
        };
    }
    Verdict::Pass
}

/// Leadership prefers a member that is not the primary, and moves only while the primary's lease
/// has plenty left.
pub fn placement(view: &ClusterView) -> Verdict {
    let Some(reign) = view.state.granted().filter(|reign| reign.is_activated) else {
        return Verdict::Pass;
    };
    let sits_on_primary = view
        .state
        .members
        .get(&reign.holder)
        .is_some_and(|member| member.node == view.me);
    let is_too_soon = view.leading_for < Duration::from_secs(3)
        || view.elect_asked_age.is_some_and(|age| age < ELECT_EVERY);
    let lease_left = view.times.lease.saturating_sub(view.base_age);
    if !sits_on_primary || is_too_soon || lease_left <= view.times.election() * 2 {
        return Verdict::Pass;
    }
    let wanted = view
        .state
        .members
        .iter()
        .filter(|(name, member)| **name != reign.holder && view.voters.contains(&member.node))
        .filter(|(name, _)| view.fresh(name).is_some())
        .min_by_key(|(name, member)| (member.kind != MemberKind::Witness, (*name).clone()))
        .map(|(name, _)| name.clone());
    match wanted {
        Some(name) => Verdict::Elect(name.clone(), Reason::LeaderOnPrimary(name)),
        None => Verdict::Pass,
    }
}
