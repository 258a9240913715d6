//! Rule: which standbys commits wait for. Every change is the same five steps: Propose, set and
//! proven in force on the primary, X read, k' of S' have flushed X, Activate.
//!
//! Only Propose, Activate and Withdraw are taken here; the steps between are the primary's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::change::Command;
use crate::model::confirmation::{SyncReport, confirmed_by};
use crate::model::member::Probe;
use crate::model::postgres::Primary;
use crate::model::view::ClusterView;
use crate::model::{MemberName, MemberReport, PostgresStatus, Reign, Rule, RuleId};

use super::cluster::{Verdict, propose};
use super::failover::FLAPPING;
use super::reason::Reason;
use super::wanted_rule::{Change, GRAY_AFTER, Heard, STOOD_STILL, StandbyFacts, Wanted, wanted};

/// After a Grant standbys have so long to attach before "nobody is left" is believed.
const ATTACH_PATIENCE: Duration = Duration::from_secs(3);

/// Why an epoch is revoked whose primary alone cannot hear its standbys.
pub const REPLICATION_LOST: &str = "replication-lost";

/// A standby whose reports fail to come for so long cannot be reached: well above their interval,
/// and no longer than a gray standby may stay in the rule. Unit: renewal intervals, and at least.
const HEARD_WITHIN: (u32, Duration) = (2, Duration::from_secs(1));

/// What the leader knows of the primary's commits.
struct Seen<'a> {
    reign: &'a Reign,
    primary: &'a Primary,
    sync: &'a SyncReport,
    /// The newest rule of the epoch.
    newest: &'a Rule,
    /// It is a proposal: older rules of the epoch are live.
    is_open: bool,
}

/// One step of whatever change is under way, or the next one.
pub fn sync_standbys(view: &ClusterView) -> Verdict {
    let Some(seen) = look(view) else {
        return Verdict::Pass;
    };
    let activation = activate(view, &seen);
    if activation != Verdict::Pass {
        return activation;
    }
    if seen.is_open && seen.sync.unusable == Some(seen.newest.id) {
        return propose(
            Command::Withdraw {
                epoch: seen.reign.epoch,
                rule: seen.newest.id,
            },
            Reason::RuleWithdrawn(seen.newest.to_string()),
        );
    }
    let facts = facts_of(view, Some(seen.sync));
    match wanted(&view.state.settings, seen.newest, &facts) {
        Wanted::Same => Verdict::Pass,
        // Told, and no reason to hold up the rules behind this one.
        Wanted::TooFew { .. } => Verdict::Pass,
        // A pause keeps the primary where it is. Who confirms its commits goes on being kept right: a
        // standby lost meanwhile must not stop writes.
        Wanted::PrimaryAlone { .. } if view.state.pause.is_some() => Verdict::Pass,
        Wanted::PrimaryAlone { lasted } => primary_alone(view, &seen, lasted),
        Wanted::Other(change) => change_rule(view, &seen, &facts, change),
    }
}

/// What the primary tells of its commits: of this epoch and this server process, or of none.
pub(super) fn sync_report<'a>(view: &'a ClusterView) -> Option<&'a SyncReport> {
    let reign = view.state.followable()?;
    let report = view.fresh(&reign.holder)?;
    let PostgresStatus::Primary(primary) = &report.postgres else {
        return None;
    };
    report
        .sync
        .as_ref()
        .filter(|sync| sync.epoch == reign.epoch && sync.started_unix_ms == primary.started_unix_ms)
}

fn look<'a>(view: &'a ClusterView) -> Option<Seen<'a>> {
    let sync = sync_report(view)?;
    let reign = view.state.followable()?;
    let PostgresStatus::Primary(primary) = &view.fresh(&reign.holder)?.postgres else {
        return None;
    };
    let mut of_epoch = view
        .state
        .live_rules
        .iter()
        .filter(|rule| rule.epoch == reign.epoch);
    let first = of_epoch.next()?;
    let newest = of_epoch.next_back().unwrap_or(first);
    Some(Seen {
        reign,
        primary,
        sync,
        newest,
        is_open: newest.id != first.id,
    })
}

/// The proven rule, when its quorum has X.
fn activate(view: &ClusterView, seen: &Seen) -> Verdict {
    let Some(proven) = seen.sync.proven else {
        return Verdict::Pass;
    };
    let live = &view.state.live_rules;
    let Some(rule) = live
        .iter()
        .find(|rule| rule.id == proven.rule && rule.epoch == seen.reign.epoch)
    else {
        return Verdict::Pass;
    };
    let is_done = seen.reign.is_activated && live.first().map(|first| first.id) == Some(rule.id);
    // A server given something newer since evaluates that too: X is not the newest rule's.
    if is_done || seen.sync.given > rule.id && !is_unusable(seen, rule.id) {
        return Verdict::Pass;
    }
    let by = confirmed_by(
        rule,
        proven.x,
        seen.primary,
        &view.state.ledger,
        view.reports,
    );
    if (by.len() as u64) < u64::from(rule.k) {
        return Verdict::Pass;
    }
    propose(
        Command::Activate {
            epoch: seen.reign.epoch,
            rule: rule.id,
            at: proven.x,
            by,
        },
        Reason::RuleProven(rule.to_string()),
    )
}

/// `given` stands above the rule only because a proposal behind it was made unusable.
fn is_unusable(seen: &Seen, rule: RuleId) -> bool {
    seen.sync.unusable == Some(seen.sync.given) && rule < seen.sync.given
}

/// What is known of every member that is not the primary, with what the primary tells of it.
pub(super) fn facts_of(
    view: &ClusterView,
    sync: Option<&SyncReport>,
) -> BTreeMap<MemberName, StandbyFacts> {
    let zones = &view.state.settings.zones;
    let holder = view.state.granted().map(|reign| &reign.holder);
    let primary_zone = holder.and_then(|holder| zones.get(holder));
    let (renewals, least) = HEARD_WITHIN;
    let within = (view.times.renew * renewals).max(least);
    let heard = |name| match view.reports.get(name) {
        Some(seen) if seen.age <= within => Heard::Yes,
        // A leader of a moment ago has not heard everybody yet.
        _ if view.leading_for < within => Heard::NotYet,
        _ => Heard::No,
    };
    view.state
        .databases()
        .filter(|(name, _)| Some(*name) != holder)
        .map(|(name, member)| {
            let report = view.fresh(name);
            let found = sync
                .into_iter()
                .flat_map(|sync| &sync.standbys)
                .find(|it| it.member == *name && Some(it.incarnation) == member.incarnation);
            let late_for = found
                .and_then(|it| it.late_for_ms)
                .map(Duration::from_millis);
            let facts = StandbyFacts {
                incarnation: member.incarnation,
                priority: view.state.sync_priority(name),
                in_maintenance: view.state.maintenance.contains_key(name),
                is_in_zone_of_primary: primary_zone.is_some() && zones.get(name) == primary_zone,
                heard: heard(name),
                cannot_confirm: report.and_then(|report| cannot_confirm(report, late_for)),
                is_connected: found.is_some_and(|it| it.is_connected),
                proven_for: found
                    .and_then(|it| it.proven_for_ms)
                    .map(Duration::from_millis),
                tries_for: report.and_then(|report| tries_for(view, report)),
                has_failed: found.is_some_and(|it| it.has_failed),
                late_for,
            };
            (name.clone(), facts)
        })
        .collect()
}

/// How long a standby has been pointed at the primary of this epoch without streaming; nothing, as long
/// as it is pointed elsewhere.
fn tries_for(view: &ClusterView, report: &MemberReport) -> Option<Duration> {
    let PostgresStatus::Standby(standby) = &report.postgres else {
        return None;
    };
    let is_streaming = standby.receiver.as_ref().is_some_and(|it| it.is_streaming);
    if is_streaming {
        return None;
    }
    let epoch = view.state.epoch();
    let is_pointed = standby.follows.as_ref().is_some_and(|it| it.epoch == epoch);
    if !is_pointed {
        return Some(Duration::ZERO);
    }
    standby.unattached_for_ms.map(Duration::from_millis)
}

/// What a standby's own daemon says against it, that has not confirmed for this long.
fn cannot_confirm(report: &MemberReport, late_for: Option<Duration>) -> Option<String> {
    match &report.postgres {
        PostgresStatus::Standby(standby) if standby.has_frozen_receiver => {
            return Some("its WAL receiver stands still".to_owned());
        }
        // One that receives confirms, whatever it replays. Without a receiver it starts none before it
        // has replayed all it has.
        PostgresStatus::Standby(standby)
            if standby.replay_is_held && standby.receiver.is_none() =>
        {
            return Some("its replay is held back, and it asks for WAL only afterwards".to_owned());
        }
        PostgresStatus::Standby(_) | PostgresStatus::Unknown { .. } => {}
        PostgresStatus::Empty
        | PostgresStatus::Unusable { .. }
        | PostgresStatus::Stopped(_)
        | PostgresStatus::Starting { .. }
        | PostgresStatus::Primary(_)
        | PostgresStatus::Unresponsive { .. }
        | PostgresStatus::Stopping => {
            return Some(format!("its PostgreSQL is {}", report.postgres.word()));
        }
    }
    let probes = [
        ("data", report.health.data_volume),
        ("WAL", report.health.wal_volume),
    ];
    probes.into_iter().find_map(|(what, probe)| {
        probe
            .filter(|probe| probe.is_stuck || probe.has_failed || has_stood_still(probe, late_for))
            .map(|_| format!("its {what} volume does not take writes"))
    })
}

/// No write on it has ended since the standby became late, although several should have: before it is
/// known to be stuck, and before the primary is blamed.
fn has_stood_still(probe: &Probe, late_for: Option<Duration>) -> bool {
    let idle = Duration::from_millis(probe.last_ok_age_ms);
    late_for.is_some_and(|late| late >= GRAY_AFTER && idle >= late && idle >= STOOD_STILL)
}

/// A renewal of this epoch that this leader confirmed less than R ago. The base of the wait moves
/// with every confirmation; at its election, its start or a Grant it is not one.
fn has_fresh_renewal(view: &ClusterView) -> bool {
    view.base_age < view.times.renew
        && view.base_age < view.leading_for
        && view.grant_age.is_none_or(|age| view.base_age < age)
}

fn change_rule(
    view: &ClusterView,
    seen: &Seen,
    facts: &BTreeMap<MemberName, StandbyFacts>,
    change: Change,
) -> Verdict {
    let gives_up = !change.leaving.is_empty() || change.k < seen.newest.k;
    if gives_up && !has_fresh_renewal(view) {
        return Verdict::Pass;
    }
    // One change after the other, except that a proposal nobody can confirm is no reason to wait.
    if seen.is_open && !gives_up {
        return Verdict::Pass;
    }
    if change.k < seen.newest.k
        && let Some(verdict) = while_standbys_attach(view, seen, facts)
    {
        return verdict;
    }
    let rule = Rule {
        id: RuleId(view.state.last_rule.0 + 1),
        epoch: seen.reign.epoch,
        k: change.k,
        set: change.set.clone(),
    };
    propose(Command::Propose { rule }, reason(seen.newest, change))
}

/// A young reign that is not open: standbys that may confirm have not had the time to. One that has come
/// is none of them: too few are left for the old k. Those that are heard and still do not come, to a primary that waits for them, are a reason to try another one;
/// after several such tries to open without them, for then it is not this primary's network.
fn while_standbys_attach(
    view: &ClusterView,
    seen: &Seen,
    facts: &BTreeMap<MemberName, StandbyFacts>,
) -> Option<Verdict> {
    if view.state.settings.wanted_k() == 0 || seen.reign.is_activated {
        return None;
    }
    let may_come =
        |it: &&StandbyFacts| it.priority > 0 && it.cannot_confirm.is_none() && !it.confirms();
    let mut able = facts.values().filter(may_come);
    let age = view.grant_age?;
    if age < ATTACH_PATIENCE {
        return able
            .any(|it| it.heard != Heard::No)
            .then_some(Verdict::Pass);
    }
    if !able.any(|it| it.heard == Heard::Yes) || view.recent_grants.len() >= FLAPPING {
        return None;
    }
    // A pause keeps the primary where it is.
    Some(
        if age < view.times.lease * 2 || view.state.pause.is_some() {
            Verdict::Pass
        } else {
            replication_lost(seen, age)
        },
    )
}

fn reason(newest: &Rule, change: Change) -> Reason {
    match (change.joining.is_empty(), change.leaving.is_empty()) {
        _ if change.k == 0 => Reason::Degrade(change.leaving),
        _ if newest.k == 0 => Reason::Restore(change.joining),
        (true, true) => Reason::ConfirmationsChange(newest.k, change.k),
        (false, true) => Reason::StandbyJoins(change.joining),
        (true, false) => Reason::StandbyLeaves(change.leaving),
        (false, false) => Reason::StandbySwapped(change.joining, change.leaving),
    }
}

/// The primary's network is at fault: after D/2 another one takes over, all of them sealed. One that
/// is not open yet gets longer: its standbys have to find it first, and nobody is served meanwhile by
/// changing it too soon.
fn primary_alone(view: &ClusterView, seen: &Seen, lasted: Duration) -> Verdict {
    let limit = if seen.reign.is_activated {
        view.times.lease / 2
    } else {
        view.times.lease * 2
    };
    if lasted < limit {
        return Verdict::Pass;
    }
    replication_lost(seen, lasted)
}

fn replication_lost(seen: &Seen, lasted: Duration) -> Verdict {
    propose(
        Command::Revoke {
            epoch: seen.reign.epoch,
            reason: REPLICATION_LOST.to_owned(),
        },
        Reason::ReplicationLost(lasted),
    )
}
