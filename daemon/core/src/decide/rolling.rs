//! Rules: `restart --pending`, one member after the other, and parameters that would not start.
//!
//! A roll does nothing itself. It asks for one restart or one switchover at a time, as an operator would,
//! and looks again when that has ended; whoever leads next goes on where it stands.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::change::Command;
use crate::model::member::{PendingRestart, Refusal, RefusedParameter};
use crate::model::request::{RequestKind, RequestOutcome, Step};
use crate::model::settings_change::ParameterChange;
use crate::model::view::ClusterView;
use crate::model::{
    ClusterState, MemberName, PostgresStatus, Reign, Request, RequestId, Settings, SettingsChange,
};

use super::cluster::{Verdict, propose};
use super::reason::Reason;
use super::requests::{done, fail, switchover_target};

/// How long a roll waits for the cluster to be fit for its next restart, or for one restart. Judgement: a
/// standby that was away confirms commits again after half a minute, and a large one starts in minutes.
const ROLL_LIMIT: Duration = Duration::from_secs(600);

/// Restarts every member that waits for one: the standbys first, then the primary, by a switchover where
/// there is somebody to switch over to.
pub fn restart_pending(view: &ClusterView) -> Verdict {
    let open = view.state.open_requests();
    match open
        .iter()
        .find(|it| it.kind == RequestKind::RestartPending)
    {
        Some(request) => roll(view, request),
        None => Verdict::Pass,
    }
}

fn roll(view: &ClusterView, request: &Request) -> Verdict {
    // Before the parameters are taken back: afterwards nobody could tell that the roll met them.
    for (name, _) in view.state.databases() {
        if let Some(refusal) = view.fresh(name).and_then(|it| it.health.refusal.as_ref()) {
            return fail(request, format!("{name} could not start with {refusal}"));
        }
    }
    let asked = asked(view.state, request);
    if asked.iter().any(|it| it.is_open()) {
        return Verdict::Pass;
    }
    for it in &asked {
        if let Step::Ended(RequestOutcome::Failed { why }) = &it.step {
            return fail(request, format!("{} failed: {why}", it.kind.verb()));
        }
    }
    let next = match next(view, &asked) {
        Ok(Next::Nobody) => return done(request, told(&asked)),
        Ok(next) => next,
        Err(Unfit::Never(why)) => return fail(request, why),
        Err(Unfit::Yet(why)) => {
            let age = view.request_ages.get(&request.id);
            return if age.is_some_and(|age| *age > ROLL_LIMIT) {
                fail(request, why)
            } else {
                Verdict::Pass
            };
        }
    };
    let (member, kind) = match next {
        Next::Restart(member) => (member.clone(), RequestKind::Restart { member }),
        Next::SwitchOver { from, to } => (from, RequestKind::Switchover { to: Some(to) }),
        Next::Nobody => return Verdict::Pass,
    };
    // First where it is, then what is asked: a leader that is lost in between asks the same again.
    let number = asked.len() + 1;
    let step = Step::Rolling {
        member: member.clone(),
        number: u32::try_from(number).unwrap_or(u32::MAX),
    };
    let reason = Reason::OnRequest(format!("restart --pending: {} of {member}", kind.verb()));
    if request.step != step {
        let id = request.id.clone();
        return propose(Command::Step { id, step }, reason);
    }
    let id = RequestId(format!("{}.{number}", request.id));
    let by = format!("{} (restart --pending)", request.by);
    propose(Command::Ask { id, kind, by }, reason)
}

/// What this roll has asked for so far, in order.
fn asked<'a>(state: &'a ClusterState, request: &Request) -> Vec<&'a Request> {
    let prefix = format!("{}.", request.id);
    let mut asked: Vec<&Request> = state
        .requests
        .values()
        .filter(|it| it.id.0.starts_with(&prefix) && it.index >= request.index)
        .collect();
    asked.sort_by_key(|it| it.index);
    asked
}

fn told(asked: &[&Request]) -> String {
    let texts: Vec<&str> = asked
        .iter()
        .filter_map(|it| match &it.step {
            Step::Ended(RequestOutcome::Done { text }) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    if texts.is_empty() {
        "nothing waits for a restart".to_owned()
    } else {
        texts.join("; ")
    }
}

enum Next {
    Restart(MemberName),
    SwitchOver { from: MemberName, to: MemberName },
    Nobody,
}

enum Unfit {
    /// It may become fit.
    Yet(String),
    /// It will not.
    Never(String),
}

fn next(view: &ClusterView, asked: &[&Request]) -> Result<Next, Unfit> {
    let reign = view.state.granted().filter(|reign| reign.is_activated);
    let Some(reign) = reign else {
        return Err(Unfit::Yet("there is no activated primary".to_owned()));
    };
    let mut waits = BTreeMap::new();
    for (name, _) in view.state.databases() {
        waits.insert(name, pending(view, reign, name)?);
    }
    let standbys = waits.iter().filter(|(name, _)| ***name != reign.holder);
    if let Some((name, what)) = standbys.into_iter().find(|(_, what)| !what.is_empty()) {
        if was_restarted(asked, name) {
            return Err(Unfit::Never(format!(
                "{name} was restarted and still waits for a restart: {}",
                list(what)
            )));
        }
        can_be_spared(view, reign, name)?;
        return Ok(Next::Restart((*name).clone()));
    }
    let holder = &reign.holder;
    let what = waits.get(holder).map(Vec::as_slice).unwrap_or_default();
    if what.is_empty() {
        return Ok(Next::Nobody);
    }
    if was_restarted(asked, holder) {
        return Err(Unfit::Never(format!(
            "{holder} was restarted and still waits for a restart: {}",
            list(what)
        )));
    }
    if view.state.databases().count() == 1 {
        return Ok(Next::Restart(holder.clone()));
    }
    match switchover_target(view, None) {
        Ok(to) => Ok(Next::SwitchOver {
            from: holder.clone(),
            to,
        }),
        // Everybody streams and nobody may take over (tags, say): then in place.
        Err(_) if nobody_may(view, holder) => Ok(Next::Restart(holder.clone())),
        Err(why) => Err(Unfit::Yet(why)),
    }
}

/// Every other member is kept from promotion by its tags.
fn nobody_may(view: &ClusterView, holder: &MemberName) -> bool {
    let mut others = view.state.databases().filter(|(name, _)| *name != holder);
    others.all(|(name, _)| view.state.tags_of(name).priority() == 0)
}

/// What this member waits for; an error while it is not fit, or has not said yet.
fn pending<'a>(
    view: &'a ClusterView,
    reign: &Reign,
    name: &MemberName,
) -> Result<Vec<&'a PendingRestart>, Unfit> {
    let yet = |what: &str| Unfit::Yet(format!("{name} {what}"));
    let report = view.fresh(name).ok_or_else(|| yet("is not heard"))?;
    let runs = match &report.postgres {
        PostgresStatus::Primary(primary) if *name == reign.holder => primary.started_unix_ms,
        PostgresStatus::Standby(standby) if *name != reign.holder => {
            let follows = standby.follows.as_ref();
            let streams = standby.receiver.as_ref().is_some_and(|it| it.is_streaming);
            if !streams || follows.is_none_or(|it| it.epoch != reign.epoch) {
                return Err(yet("does not stream from the primary"));
            }
            standby.started_unix_ms
        }
        other => return Err(yet(&format!("is {}", other.word()))),
    };
    let known = report.health.pending_restart.as_ref();
    match known.filter(|known| known.of_unix_ms == runs) {
        Some(known) => Ok(known.what.iter().collect()),
        None => Err(yet("has not said yet what it waits for")),
    }
}

/// Commits are confirmed without it, as far as that is possible at all: the rule in force names enough
/// others.
fn can_be_spared(view: &ClusterView, reign: &Reign, name: &MemberName) -> Result<(), Unfit> {
    let others = view
        .state
        .databases()
        .filter(|(other, _)| *other != name && **other != reign.holder)
        .filter(|(other, _)| view.state.sync_priority(other) > 0)
        .count() as u64;
    if others < u64::from(view.state.settings.wanted_k()) {
        // With so few it waits, or is degraded, as the mode says: nobody could do better.
        return Ok(());
    }
    let rule = view.state.activated_rule();
    let enough = rule.is_some_and(|rule| {
        let left = rule.set.keys().filter(|other| *other != name).count() as u64;
        rule.k >= view.state.settings.wanted_k() && left >= u64::from(rule.k)
    });
    if enough && view.state.live_rules.len() == 1 {
        return Ok(());
    }
    Err(Unfit::Yet(format!(
        "too few would confirm commits without {name}"
    )))
}

fn was_restarted(asked: &[&Request], name: &MemberName) -> bool {
    asked.iter().any(|it| match &it.kind {
        RequestKind::Restart { member } => member == name,
        _ => false,
    })
}

fn list(what: &[impl std::borrow::Borrow<PendingRestart>]) -> String {
    let names: Vec<String> = what.iter().map(|it| it.borrow().to_string()).collect();
    names.join(", ")
}

/// Parameters with which a member could not start are taken back for everybody: on the next member they
/// would do the same.
pub fn take_back(view: &ClusterView) -> Verdict {
    if view.state.pause.is_some() {
        return Verdict::Pass;
    }
    for (name, _) in view.state.databases() {
        let Some(refusal) = view.fresh(name).and_then(|it| it.health.refusal.as_ref()) else {
            continue;
        };
        let change = taken_back(&view.state.settings, name, refusal);
        if change.applied_to(&view.state.settings) == view.state.settings {
            continue;
        }
        let words = format!("{name} could not start with them: {}", refusal.why);
        return propose(
            Command::ChangeSettings {
                change: Box::new(change),
                expected: Some(view.state.settings_revision()),
                by: format!("clusterd: {words}"),
            },
            Reason::ParametersTakenBack(words),
        );
    }
    Verdict::Pass
}

/// Wherever the refused value stands in the settings, what the member ran with before takes its place.
fn taken_back(settings: &Settings, name: &MemberName, refusal: &Refusal) -> SettingsChange {
    let back = |set: &BTreeMap<String, String>| -> ParameterChange {
        let refused = refusal.parameters.iter();
        refused
            .filter(|it| it.wanted.is_some() && set.get(&it.name) == it.wanted.as_ref())
            .map(|it: &RefusedParameter| (it.name.clone(), it.kept.clone()))
            .collect()
    };
    let mut change = SettingsChange {
        parameters: back(&settings.parameters),
        primary_parameters: back(&settings.primary_parameters),
        standby_parameters: back(&settings.standby_parameters),
        ..SettingsChange::default()
    };
    let own = back(&settings.parameters_of_member(name));
    if !own.is_empty() {
        change.member_parameters.insert(name.clone(), own);
    }
    change
}
