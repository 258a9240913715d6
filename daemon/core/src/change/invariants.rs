//! What must be true of the replicated truth after every apply, in production too.

use crate::model::{ClusterState, Phase};

/// Every sentence that does not hold; empty when all is well.
///
/// Sources: hazards 7, S2 (epoch and timelines) and S9 (live rules).
pub fn check(state: &ClusterState) -> Vec<String> {
    let mut broken = Vec::new();
    let entries = &state.ledger.entries;
    for pair in entries.windows(2) {
        if pair[1].epoch.0 != pair[0].epoch.0 + 1 {
            broken.push(format!(
                "epoch {} follows epoch {}",
                pair[1].epoch, pair[0].epoch
            ));
        }
        if pair[1].timeline <= pair[0].timeline {
            broken.push(format!("timeline {} was given twice", pair[1].timeline));
        }
    }
    if entries.last().map(|entry| entry.epoch) != state.reign.as_ref().map(|reign| reign.epoch) {
        broken.push("the newest reign is not the newest ledger entry".to_owned());
    }
    if state.reign.is_some() && state.live_rules.is_empty() {
        broken.push("no rule is live".to_owned());
    }
    for pair in state.live_rules.windows(2) {
        if pair[1].id <= pair[0].id || pair[1].epoch < pair[0].epoch {
            broken.push(format!(
                "rule {} stands behind rule {}",
                pair[1].id, pair[0].id
            ));
        }
    }
    if let Some(reign) = &state.reign {
        if reign.is_activated && reign.fork.is_none() {
            broken.push(format!(
                "epoch {} is activated and not promoted",
                reign.epoch
            ));
        }
        if reign.is_activated
            && let Some(old) = state
                .live_rules
                .iter()
                .find(|rule| rule.epoch != reign.epoch)
        {
            broken.push(format!(
                "epoch {} is activated and {old} of epoch {} is live",
                reign.epoch, old.epoch
            ));
        }
        if reign.phase != Phase::Granted && reign.ended_because.is_none() {
            broken.push(format!("epoch {} ended without a reason", reign.epoch));
        }
        if !state.members.contains_key(&reign.holder) {
            broken.push(format!("the holder {} is no member", reign.holder));
        }
    }
    for (place, schedule) in state.schedules.iter().enumerate() {
        let slot = schedule.work.slot();
        if state.schedules[..place]
            .iter()
            .any(|it| it.work.slot() == slot)
        {
            broken.push(format!("{} is scheduled twice", schedule.work));
        }
    }
    let mut nodes: Vec<u64> = state.members.values().map(|member| member.node.0).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.len() != state.members.len() {
        broken.push("two members have one Raft id".to_owned());
    }
    broken
}
