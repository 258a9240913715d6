//! `apply`: the only way the truth changes. Pure: no clock, no randomness; it returns
//! [`Rejected`] before it touches anything.

use crate::model::ledger::LedgerEntry;
use crate::model::request::Step;
use crate::model::state::{HISTORY_KEPT, HistoryEntry, Pause, REQUESTS_KEPT};
use crate::model::{
    Addresses, ClusterState, Epoch, Incarnation, Lsn, Member, MemberKind, MemberName, NodeId,
    Phase, Reign, Request, RequestId, RequestKind, RequestOutcome, Tags, TimelineId,
};

use super::command::{Command, Founder, Grant, Rejected, Stamp};
use super::{backup, bypass, maintenance, missing, rules, schedule, settings, snapshot};

/// What an applied command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The truth changed.
    Changed,
    /// It was so already; repeating is safe.
    Unchanged,
}

/// Applies one committed command at log index `index`.
///
/// # Errors
/// [`Rejected`], with nothing changed.
pub fn apply(state: &mut ClusterState, index: u64, stamp: &Stamp) -> Result<Applied, Rejected> {
    let at = At {
        index,
        unix_ms: stamp.at_unix_ms,
    };
    match &stamp.command {
        Command::Form {
            identity,
            members,
            settings,
        } => {
            if state.identity.is_some() {
                return Err(Rejected::WrongMoment(
                    "the group has formed already".to_owned(),
                ));
            }
            state.identity = Some(identity.clone());
            state.settings = (**settings).clone();
            state.members = members.iter().map(founder).collect();
            note(
                state,
                at,
                "formed",
                None,
                format!("cluster {}", identity.id),
            );
            Ok(Applied::Changed)
        }
        Command::Noop { .. } => Ok(Applied::Unchanged),
        Command::Describe {
            member,
            addresses,
            tags,
            incarnation,
        } => describe(state, member, addresses, tags, *incarnation),
        Command::Initialize { member } => initialize(state, at, member),
        Command::Initialized {
            member,
            system_identifier,
            timeline,
        } => initialized(state, at, member, *system_identifier, *timeline),
        Command::Grant(grant) => apply_grant(state, at, grant),
        Command::FastForward(wanted) => rules::fast_forward(state, at, wanted),
        Command::Revoke { epoch, reason } => revoke(state, at, *epoch, reason),
        Command::Release { epoch, member, why } => release(state, at, *epoch, member, why),
        Command::Promoted {
            epoch,
            member,
            fork,
        } => promoted(state, at, *epoch, member, *fork),
        Command::Propose { rule } => rules::propose(state, at, rule),
        Command::Activate {
            epoch,
            rule,
            at: position,
            by,
        } => rules::activate(state, at, *epoch, *rule, *position, by),
        Command::Withdraw { epoch, rule } => rules::withdraw(state, at, *epoch, *rule),
        Command::SetDurability(wanted) => rules::set_durability(state, at, wanted),
        Command::ChangeSettings {
            change,
            expected,
            by,
        } => settings::change(state, at, change, *expected, by),
        Command::SetPreset { preset } => settings::set_preset(state, at, *preset),
        Command::SettleLease => Ok(changed(state.previous_lease.take().is_some())),
        Command::Ask { id, kind, by } => ask(state, at, id, kind, by),
        Command::Step { id, step } => advance(state, id, step),
        Command::End { id, outcome } => end(state, at, id, outcome),
        Command::Schedule(wanted) => schedule::schedule(state, at, wanted),
        Command::Unschedule { slot, by } => schedule::unschedule(state, at, slot, by),
        Command::BeginScheduled { id } => schedule::begin(state, at, id),
        Command::DropScheduled { id, why } => schedule::drop(state, at, id, why),
        Command::BeginMaintenance(wish) => maintenance::begin(state, at, wish),
        Command::EndMaintenance { member, by } => maintenance::end(state, at, member, by),
        Command::Pause { by } => {
            if state.pause.is_some() {
                return Err(Rejected::Refused("cluster is already paused".to_owned()));
            }
            state.pause = Some(Pause {
                by: by.clone(),
                at_unix_ms: at.unix_ms,
            });
            note(state, at, "paused", None, by.clone());
            Ok(Applied::Changed)
        }
        Command::Resume { by } => {
            if state.pause.take().is_none() {
                return Err(Rejected::Refused("cluster is not paused".to_owned()));
            }
            note(state, at, "resumed", None, by.clone());
            Ok(Applied::Changed)
        }
        Command::ReplaceMember { member, peer, by } => replace(state, at, member, peer, by),
        Command::Replaced { member } => replaced(state, at, member),
        Command::BeginSnapshot { id, wish } => snapshot::begin(state, at, id, wish),
        Command::DescribeSnapshot { id, member, part } => {
            snapshot::describe(state, id, member, part)
        }
        Command::CompleteSnapshot { id, member, file } => {
            snapshot::complete(state, at, id, member, file)
        }
        Command::FailSnapshot { id, why } => snapshot::fail(state, at, id, why),
        Command::LoseSnapshot { id, why } => snapshot::lose(state, at, id, why),
        Command::BeginBackup {
            what,
            due_unix_ms,
            taker,
            daemon_start,
        } => backup::begin(state, at, (*what, *due_unix_ms), taker, daemon_start),
        Command::EndBackup {
            run,
            member,
            outcome,
        } => backup::end(state, at, *run, member, outcome),
        Command::TellBypass(told) => bypass::tell(state, at, told),
        Command::TellMissing(told, at_risk) => missing::tell(state, at, told, at_risk),
        Command::Restored {
            member,
            origin,
            settings,
        } => snapshot::restored(state, at, member, origin, settings),
    }
}

/// Where and when an entry stands; the time is for display.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) index: u64,
    pub(super) unix_ms: u64,
}

pub(super) fn changed(is_changed: bool) -> Applied {
    if is_changed {
        Applied::Changed
    } else {
        Applied::Unchanged
    }
}

fn founder(founder: &Founder) -> (MemberName, Member) {
    let addresses = Addresses {
        peer: founder.peer.clone(),
        ..Addresses::default()
    };
    let member = Member {
        node: founder.node,
        kind: founder.kind,
        addresses,
        tags: Tags::default(),
        incarnation: None,
        joining: None,
    };
    (founder.name.clone(), member)
}

pub(super) fn note(
    state: &mut ClusterState,
    at: At,
    what: &str,
    member: Option<&MemberName>,
    reason: String,
) {
    let reign = state.reign.as_ref();
    state.history.push(HistoryEntry {
        index: at.index,
        at_unix_ms: at.unix_ms,
        epoch: reign.map_or(Epoch::NONE, |reign| reign.epoch),
        what: what.to_owned(),
        member: member.cloned(),
        timeline: reign.map(|reign| reign.timeline),
        lsn: reign.map(|reign| reign.fork.unwrap_or(reign.start)),
        reason,
    });
    let over = state.history.len().saturating_sub(HISTORY_KEPT);
    state.history.drain(..over);
}

fn member_mut<'a>(
    state: &'a mut ClusterState,
    name: &MemberName,
) -> Result<&'a mut Member, Rejected> {
    state
        .members
        .get_mut(name)
        .ok_or_else(|| Rejected::UnknownMember(name.clone()))
}

fn describe(
    state: &mut ClusterState,
    name: &MemberName,
    addresses: &Addresses,
    tags: &Tags,
    incarnation: Option<Incarnation>,
) -> Result<Applied, Rejected> {
    let member = member_mut(state, name)?;
    let before = member.clone();
    member.addresses = addresses.clone();
    member.tags = tags.clone();
    member.incarnation = incarnation;
    Ok(changed(*member != before))
}

fn initialize(state: &mut ClusterState, at: At, name: &MemberName) -> Result<Applied, Rejected> {
    if state.system_identifier.is_some() {
        return Err(Rejected::WrongMoment(
            "the cluster has data already".to_owned(),
        ));
    }
    if member_mut(state, name)?.kind == MemberKind::Witness {
        return Err(Rejected::Refused(format!(
            "{name} is a witness: it has no PostgreSQL"
        )));
    }
    state.initializer = Some(name.clone());
    note(
        state,
        at,
        "initialize",
        Some(name),
        "makes the first data directory".to_owned(),
    );
    Ok(Applied::Changed)
}

fn initialized(
    state: &mut ClusterState,
    at: At,
    name: &MemberName,
    system_identifier: u64,
    timeline: TimelineId,
) -> Result<Applied, Rejected> {
    if state.system_identifier.is_some() {
        return if state.system_identifier == Some(system_identifier) {
            Ok(Applied::Unchanged)
        } else {
            Err(Rejected::WrongMoment(
                "the cluster has other data already".to_owned(),
            ))
        };
    }
    if state.initializer.as_ref() != Some(name) {
        return Err(Rejected::WrongMoment(format!(
            "{name} was not told to initialize"
        )));
    }
    state.system_identifier = Some(system_identifier);
    state.ledger.base = timeline;
    note(
        state,
        at,
        "initialized",
        Some(name),
        format!("system identifier {system_identifier}"),
    );
    Ok(Applied::Changed)
}

fn phase_word(phase: Phase) -> String {
    match phase {
        Phase::Granted => "granted",
        Phase::Revoked => "revoked",
        Phase::Released => "released",
    }
    .to_owned()
}

/// Compare-and-set on epoch, phase, incarnation and live rules [model-durability H6].
fn apply_grant(state: &mut ClusterState, at: At, grant: &Grant) -> Result<Applied, Rejected> {
    let due = state.epoch().next();
    if grant.epoch != due {
        return Err(Rejected::WrongEpoch {
            given: grant.epoch,
            due,
        });
    }
    if let Some(reign) = &state.reign
        && reign.phase == Phase::Granted
    {
        return Err(Rejected::WrongPhase {
            epoch: reign.epoch,
            phase: phase_word(reign.phase),
            needed: "revoked or released",
        });
    }
    if state.system_identifier.is_none() {
        return Err(Rejected::WrongMoment(
            "the cluster has no data yet".to_owned(),
        ));
    }
    let member = member_mut(state, &grant.member)?;
    if member.kind == MemberKind::Witness || member.incarnation != Some(grant.incarnation) {
        return Err(Rejected::WrongIncarnation {
            member: grant.member.clone(),
        });
    }
    if grant.live
        != state
            .live_rules
            .iter()
            .map(|rule| rule.id)
            .collect::<Vec<_>>()
    {
        return Err(Rejected::LiveChanged);
    }
    if grant.timeline <= state.ledger.highest() {
        return Err(Rejected::TimelineUsed(grant.timeline));
    }
    rules::check_grant(state, grant)?;
    state.missing_told = None;
    state.last_rule = grant.first_rule.id;
    state.live_rules.push(grant.first_rule.clone());
    state.ledger.entries.push(LedgerEntry {
        epoch: grant.epoch,
        member: grant.member.clone(),
        incarnation: grant.incarnation,
        timeline: grant.timeline,
        parent: grant.parent,
        start: grant.start,
        fork: None,
    });
    state.fast_forward = None;
    state.reign = Some(Reign {
        epoch: grant.epoch,
        holder: grant.member.clone(),
        incarnation: grant.incarnation,
        timeline: grant.timeline,
        start: grant.start,
        phase: Phase::Granted,
        fork: None,
        is_activated: false,
        reason: grant.reason.clone(),
        ended_because: None,
    });
    let loss = grant
        .loss
        .as_ref()
        .map(|loss| format!("; may be lost: {loss}"))
        .unwrap_or_default();
    note(
        state,
        at,
        "granted",
        Some(&grant.member),
        format!("{}{loss}", grant.reason),
    );
    Ok(Applied::Changed)
}

/// The newest reign, if it is `epoch`.
pub(super) fn reign_mut(state: &mut ClusterState, epoch: Epoch) -> Result<&mut Reign, Rejected> {
    let due = state.epoch();
    match &mut state.reign {
        Some(reign) if reign.epoch == epoch => Ok(reign),
        Some(_) | None => Err(Rejected::WrongEpoch { given: epoch, due }),
    }
}

pub(super) fn needs_granted(reign: &Reign) -> Result<(), Rejected> {
    if reign.phase == Phase::Granted {
        return Ok(());
    }
    Err(Rejected::WrongPhase {
        epoch: reign.epoch,
        phase: phase_word(reign.phase),
        needed: "granted",
    })
}

fn revoke(
    state: &mut ClusterState,
    at: At,
    epoch: Epoch,
    reason: &str,
) -> Result<Applied, Rejected> {
    let reign = reign_mut(state, epoch)?;
    if reign.phase != Phase::Granted {
        return Ok(Applied::Unchanged);
    }
    reign.phase = Phase::Revoked;
    reign.ended_because = Some(reason.to_owned());
    let holder = reign.holder.clone();
    note(state, at, "revoked", Some(&holder), reason.to_owned());
    Ok(Applied::Changed)
}

fn release(
    state: &mut ClusterState,
    at: At,
    epoch: Epoch,
    member: &MemberName,
    why: &str,
) -> Result<Applied, Rejected> {
    // A Release that comes late, for an epoch long gone, is harmless and must be answerable.
    if epoch < state.epoch() {
        return Ok(Applied::Unchanged);
    }
    let reign = reign_mut(state, epoch)?;
    if reign.holder != *member {
        return Err(Rejected::Refused(format!(
            "{member} does not hold epoch {epoch}"
        )));
    }
    if reign.phase == Phase::Released {
        return Ok(Applied::Unchanged);
    }
    reign.phase = Phase::Released;
    reign.ended_because.get_or_insert_with(|| why.to_owned());
    note(state, at, "released", Some(member), why.to_owned());
    Ok(Applied::Changed)
}

fn promoted(
    state: &mut ClusterState,
    at: At,
    epoch: Epoch,
    member: &MemberName,
    fork: Lsn,
) -> Result<Applied, Rejected> {
    let reign = reign_mut(state, epoch)?;
    if reign.holder != *member {
        return Err(Rejected::Refused(format!(
            "{member} does not hold epoch {epoch}"
        )));
    }
    if let Some(known) = reign.fork {
        return if known == fork {
            Ok(Applied::Unchanged)
        } else {
            Err(Rejected::Refused(format!(
                "epoch {epoch} forked at {known}, not at {fork}"
            )))
        };
    }
    if fork < reign.start {
        return Err(Rejected::Refused(format!(
            "a fork at {fork} lies before the start {}",
            reign.start
        )));
    }
    reign.fork = Some(fork);
    if let Some(entry) = state
        .ledger
        .entries
        .iter_mut()
        .find(|entry| entry.epoch == epoch)
    {
        entry.fork = Some(fork);
    }
    note(state, at, "promoted", Some(member), String::new());
    Ok(Applied::Changed)
}

fn ask(
    state: &mut ClusterState,
    at: At,
    id: &RequestId,
    kind: &RequestKind,
    by: &str,
) -> Result<Applied, Rejected> {
    if let Some(known) = state.requests.get(id) {
        return if known.kind == *kind {
            Ok(Applied::Unchanged)
        } else {
            Err(Rejected::Refused(format!(
                "request {id} was another one ({})",
                known.kind.verb()
            )))
        };
    }
    check_request(state, kind)?;
    record(state, at, id, kind, None, by);
    Ok(Applied::Changed)
}

/// A request that was checked.
pub(super) fn record(
    state: &mut ClusterState,
    at: At,
    id: &RequestId,
    kind: &RequestKind,
    limit_ms: Option<u64>,
    by: &str,
) {
    let request = Request {
        id: id.clone(),
        kind: kind.clone(),
        by: by.to_owned(),
        at_unix_ms: at.unix_ms,
        index: at.index,
        step: Step::Accepted,
        limit_ms,
    };
    state.requests.insert(id.clone(), request);
    forget_old_requests(state);
    note(
        state,
        at,
        "request",
        None,
        format!("{} by {by}", kind.verb()),
    );
}

/// A member that has a PostgreSQL.
pub(super) fn with_a_server(state: &ClusterState, name: &MemberName) -> Result<(), Rejected> {
    match state.members.get(name).map(|member| member.kind) {
        None => Err(Rejected::UnknownMember(name.clone())),
        Some(MemberKind::Witness) => Err(Rejected::Refused(format!(
            "{name} is a witness: it has no PostgreSQL"
        ))),
        Some(MemberKind::Database) => Ok(()),
    }
}

pub(super) fn check_request(state: &ClusterState, kind: &RequestKind) -> Result<(), Rejected> {
    let named = match kind {
        RequestKind::Switchover { to } => to.as_ref(),
        RequestKind::Failover { to } => Some(to),
        RequestKind::RestartPending => None,
        RequestKind::Restart { member }
        | RequestKind::Reload { member }
        | RequestKind::Reinit { member } => Some(member),
    };
    if let Some(name) = named {
        with_a_server(state, name)?;
    }
    let holder = state.granted().map(|reign| &reign.holder);
    if kind.moves_primary() {
        if let Some(open) = state.moving_request() {
            return Err(Rejected::Refused(format!(
                "a {} is under way (request {}); wait for it or cancel it",
                open.kind.verb(),
                open.id
            )));
        }
        if named.is_some() && named == holder {
            return Err(Rejected::Refused(format!(
                "{} is the primary already",
                named.map(MemberName::as_str).unwrap_or_default()
            )));
        }
    }
    if *kind == RequestKind::RestartPending {
        let open = state.open_requests();
        if let Some(other) = open.iter().find(|it| it.kind == *kind) {
            return Err(Rejected::Refused(format!(
                "a restart of all that wait for one is under way (request {})",
                other.id
            )));
        }
    }
    if matches!(kind, RequestKind::Switchover { .. }) && holder.is_none() {
        return Err(Rejected::Refused(
            "there is no primary to switch over from (see `clusterctl status`)".to_owned(),
        ));
    }
    if matches!(kind, RequestKind::Reinit { .. }) && named == holder {
        return Err(Rejected::Refused(
            "the primary cannot be cloned anew; switch over first".to_owned(),
        ));
    }
    Ok(())
}

fn forget_old_requests(state: &mut ClusterState) {
    while state.requests.len() > REQUESTS_KEPT {
        let oldest = state
            .requests
            .values()
            .filter(|request| !request.is_open())
            .min_by_key(|request| request.index)
            .map(|request| request.id.clone());
        match oldest {
            Some(id) => state.requests.remove(&id),
            None => break,
        };
    }
}

fn open_request<'a>(
    state: &'a mut ClusterState,
    id: &RequestId,
) -> Result<&'a mut Request, Rejected> {
    match state.requests.get_mut(id) {
        Some(request) if request.is_open() => Ok(request),
        Some(_) => Err(Rejected::Refused(format!("request {id} has ended"))),
        None => Err(Rejected::Refused(format!("there is no request {id}"))),
    }
}

fn advance(state: &mut ClusterState, id: &RequestId, step: &Step) -> Result<Applied, Rejected> {
    let request = open_request(state, id)?;
    if matches!(step, Step::Ended(_)) {
        return Err(Rejected::Refused("a request is ended by End".to_owned()));
    }
    let is_new = request.step != *step;
    request.step = step.clone();
    Ok(changed(is_new))
}

fn end(
    state: &mut ClusterState,
    at: At,
    id: &RequestId,
    outcome: &RequestOutcome,
) -> Result<Applied, Rejected> {
    let request = open_request(state, id)?;
    request.step = Step::Ended(outcome.clone());
    let text = match outcome {
        RequestOutcome::Done { text } => format!("{}: {text}", request.kind.verb()),
        RequestOutcome::Failed { why } => format!("{} failed: {why}", request.kind.verb()),
    };
    note(state, at, "request-ended", None, text);
    Ok(Applied::Changed)
}

fn replace(
    state: &mut ClusterState,
    at: At,
    name: &MemberName,
    peer: &str,
    by: &str,
) -> Result<Applied, Rejected> {
    if state.granted().is_some_and(|reign| reign.holder == *name) {
        return Err(Rejected::Refused(format!(
            "{name} is the primary; switch over first"
        )));
    }
    let member = member_mut(state, name)?;
    member.joining = Some(NodeId(at.index));
    member.addresses.peer = peer.to_owned();
    // Its old data, promises and acknowledgements are gone with its disk.
    member.incarnation = None;
    note(
        state,
        at,
        "replace",
        Some(name),
        format!("new id {} by {by}", at.index),
    );
    Ok(Applied::Changed)
}

fn replaced(state: &mut ClusterState, at: At, name: &MemberName) -> Result<Applied, Rejected> {
    let member = member_mut(state, name)?;
    let Some(node) = member.joining.take() else {
        return Ok(Applied::Unchanged);
    };
    member.node = node;
    note(
        state,
        at,
        "replaced",
        Some(name),
        format!("votes as {node}"),
    );
    Ok(Applied::Changed)
}
