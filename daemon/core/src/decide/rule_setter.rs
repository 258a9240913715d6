//! The primary's side of a rule change: what its daemon does next to `synchronous_standby_names`.
//!
//! Steps two and three of five: set, proven in force, X read. In force is proved by the walsenders,
//! never read from `SHOW` [X27]. A daemon that lags, or was restarted, touches nothing.

use std::collections::BTreeSet;

use crate::model::confirmation::{FENCE, SyncName, names, names_text};
use crate::model::postgres::{Primary, Sender};
use crate::model::{ClusterState, Epoch, Rule, RuleId};

/// What the primary's daemon looks at.
#[derive(Clone, Debug)]
pub struct SetterView<'a> {
    /// The truth as applied here; may lag.
    pub state: &'a ClusterState,
    /// The epoch this PostgreSQL was promoted under.
    pub epoch: Epoch,
    /// The newest rule id of this epoch by the newest confirmed renewal; none = not confirmed, or
    /// the lease it gave has run out [S12].
    pub confirmed_newest: Option<RuleId>,
    /// What the running server shows.
    pub primary: &'a Primary,
    /// The highest rule id this PostgreSQL process was ever given, read back from the server.
    pub given: RuleId,
    /// When the newest configuration was read by the postmaster, Unix milliseconds; none = a reload
    /// is still on its way.
    pub reloaded_unix_ms: Option<u64>,
    /// A commit was seen waiting in `SyncRep` since the fence was set.
    pub canary_waited: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetterStep {
    /// Nothing: the newest rule is in force, or nothing may be touched.
    Rest {
        /// Why nothing is done although something newer may exist; none = all is done.
        why: Option<&'static str>,
    },
    /// A renewal confirmed from now on has to say that this rule is the newest; one may be asked for.
    AwaitRenewal,
    /// Set the fence: the way from '' to names leads over it [A4].
    SetFence,
    /// A commit must be seen waiting before anything else.
    Canary,
    /// Make the rule's id durable in the server (`given`), then set this text and reload.
    Set {
        /// Whose.
        rule: RuleId,
        /// `synchronous_standby_names`.
        text: String,
    },
    /// These walsenders still work by the old value: wait, or end them; they come back.
    AwaitWalsenders {
        /// Their names.
        names: Vec<String>,
    },
    /// In force. Read the flush position now and report it with epoch, rule and postmaster start.
    Prove {
        /// Which.
        rule: RuleId,
    },
    /// Somebody counts who is no member's standby: a name that is not ours, one that is without its
    /// member's slot, or one twice. The rule is not satisfied by it [A11 A12 A13].
    Foreign {
        /// The names.
        names: Vec<String>,
        /// The walsenders that are to end. One that begins or ends looks the same for a moment: it must be
        /// seen so for longer.
        pids: Vec<i32>,
    },
    /// A sync standby claims more than this server has: its release pointer is poisoned. Stop at
    /// once; a new epoch [X28].
    Poisoned {
        /// Its name.
        name: String,
    },
}

/// The next step.
pub fn rule_step(view: &SetterView) -> SetterStep {
    if let Some(name) = poisoned(view.primary) {
        return SetterStep::Poisoned { name };
    }
    let of_epoch = |rule: &&Rule| rule.epoch == view.epoch;
    let Some(newest) = view.state.live_rules.iter().rev().find(of_epoch) else {
        return rest("no rule of this epoch is known here");
    };
    let in_force = &view.primary.sync_names;
    let text = names_text(newest);
    if view.given == newest.id && *in_force == text {
        return prove(view, newest);
    }
    if view.given >= newest.id {
        return rest("this server was given a newer rule, or this one was given up for it");
    }
    let is_granted = view.state.granted().map(|reign| reign.epoch) == Some(view.epoch);
    if !is_granted {
        return rest("the epoch has ended");
    }
    if view.confirmed_newest != Some(newest.id) {
        return SetterStep::AwaitRenewal;
    }
    if in_force.is_empty() && newest.k > 0 {
        return SetterStep::SetFence;
    }
    if *in_force == FENCE && was_empty(view, newest) && !view.canary_waited {
        return SetterStep::Canary;
    }
    SetterStep::Set {
        rule: newest.id,
        text,
    }
}

/// What a server is promoted with: the id it is given, and its sync names. The fence, unless nothing
/// newer than the first rule can exist: then that rule at once, for no walsender is older than the
/// server and nobody is let in yet.
pub fn first_value(
    state: &ClusterState,
    epoch: Epoch,
    confirmed_newest: Option<RuleId>,
) -> (RuleId, String) {
    let mut rules = state.live_rules.iter().rev();
    match rules.find(|rule| rule.epoch == epoch) {
        Some(rule) if rule.k == 0 || confirmed_newest == Some(rule.id) => {
            (rule.id, names_text(rule))
        }
        Some(_) | None => (RuleId::default(), FENCE.to_owned()),
    }
}

fn rest(why: &'static str) -> SetterStep {
    SetterStep::Rest { why: Some(why) }
}

/// Commits may still pass as under '': a rule of nobody is live, and this server was given it.
fn was_empty(view: &SetterView, newest: &Rule) -> bool {
    view.state.live_rules.iter().any(|rule| {
        rule.epoch == view.epoch && rule.k == 0 && rule.id < newest.id && view.given >= rule.id
    })
}

/// A sync standby's flush beyond the primary's own. The senders were read first.
fn poisoned(primary: &Primary) -> Option<String> {
    let beyond = |it: &&Sender| it.sync_priority > 0 && it.flushed > primary.flushed;
    let sender = primary.senders.iter().find(beyond)?;
    Some(sender.application_name.clone())
}

/// Members leaving have priority 0 or no walsender, members joining have one above 0, and when k
/// changed members staying have a walsender started after the reload.
fn prove(view: &SetterView, newest: &Rule) -> SetterStep {
    if let Some(step) = foreign(view.primary, newest) {
        return step;
    }
    let Some(reloaded) = view.reloaded_unix_ms else {
        return rest("the reload is on its way");
    };
    let older = view
        .state
        .live_rules
        .iter()
        .filter(|rule| rule.epoch == view.epoch && rule.id < newest.id);
    let k_changes = older.clone().any(|rule| rule.k != newest.k);
    let named: BTreeSet<String> = sync_names(newest);
    let before: BTreeSet<String> = older.flat_map(sync_names).collect();
    let late = |sender: &&Sender| {
        let name = &sender.application_name;
        let is_named = named.contains(name);
        let has_old_k = k_changes && before.contains(name) && sender.started_unix_ms <= reloaded;
        is_named != (sender.sync_priority > 0) || is_named && has_old_k
    };
    let late: Vec<String> = view
        .primary
        .senders
        .iter()
        .filter(late)
        .map(|sender| sender.application_name.clone())
        .collect();
    if late.is_empty() {
        SetterStep::Prove { rule: newest.id }
    } else {
        SetterStep::AwaitWalsenders { names: late }
    }
}

fn sync_names(rule: &Rule) -> BTreeSet<String> {
    names(rule).map(|name| name.to_string()).collect()
}

/// Who has a sync priority and is no member's standby.
fn foreign(primary: &Primary, newest: &Rule) -> Option<SetterStep> {
    let named = sync_names(newest);
    let mut seen = BTreeSet::new();
    let is_stranger = |sender: &&Sender| {
        let name = &sender.application_name;
        let is_ours = name
            .parse::<SyncName>()
            .is_ok_and(|ours| sender.holds_slot_of(&ours.member));
        let is_twice = is_ours && named.contains(name) && !seen.insert(name.clone());
        sender.sync_priority > 0 && !is_ours || is_twice
    };
    let strangers: Vec<&Sender> = primary.senders.iter().filter(is_stranger).collect();
    let names = strangers.iter().map(|it| it.application_name.clone());
    (!strangers.is_empty()).then(|| SetterStep::Foreign {
        names: names.collect(),
        pids: strangers.iter().map(|it| it.pid).collect(),
    })
}
