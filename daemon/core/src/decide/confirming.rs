//! Who confirms commits now and, for every other standby, why not: words for people and numbers for
//! metrics. Nothing is done by them; the facts and the wish are those of `sync_standbys` and
//! `wanted_rule`, so that what is said is what is done.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::confirmation::SyncReport;
use crate::model::settings::Mode;
use crate::model::view::ClusterView;
use crate::model::{MemberName, Rule, RuleId};

use super::cluster::Verdict;
use super::losses::{Survivable, survivable};
use super::reason::Reason;
use super::sync_standbys::{facts_of, sync_report};
use super::wanted_rule::{GRAY_AFTER, PROVEN_FOR, StandbyFacts, Wanted, wanted};

/// One standby, as to commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmer {
    /// Who.
    pub member: MemberName,
    /// The rule in force names it, with this data directory, and it confirms in time.
    pub confirms: bool,
    /// Why not, as a sentence about it; none when it confirms.
    pub why_not: Option<String>,
}

/// How commits are confirmed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirming {
    /// How many confirmations the settings want when everybody is there.
    pub wanted_k: u32,
    /// The newest rule proven in force on the primary, else the oldest live one of the reign; none
    /// without a reign.
    pub in_force: Option<Rule>,
    /// The primary itself has proven it.
    pub is_proven: bool,
    /// Proposed, and not activated yet.
    pub proposed: Option<RuleId>,
    /// Every standby, by name.
    pub standbys: Vec<Confirmer>,
    /// Fewer confirm than the rule in force asks for: writes wait.
    pub writes_wait: bool,
    /// What may be lost now without harm.
    pub survivable: Survivable,
}

impl Confirming {
    /// Who confirm.
    pub fn names(&self) -> impl Iterator<Item = &MemberName> {
        let confirming = self.standbys.iter().filter(|it| it.confirms);
        confirming.map(|it| &it.member)
    }
}

/// How commits are confirmed, as `view` shows it.
pub fn confirming(view: &ClusterView) -> Confirming {
    let state = view.state;
    let holder = state.granted().map(|reign| &reign.holder);
    let live: Vec<&Rule> = state
        .granted()
        .map(|reign| {
            let of_epoch = |rule: &&Rule| rule.epoch == reign.epoch;
            state.live_rules.iter().filter(of_epoch).collect()
        })
        .unwrap_or_default();
    let sync = sync_report(view);
    let proven = sync.and_then(|sync| sync.proven).and_then(|proven| {
        live.iter()
            .find(|rule| rule.id == proven.rule)
            .copied()
            .cloned()
    });
    let is_proven = proven.is_some();
    let in_force = proven.or_else(|| live.first().copied().cloned());
    let joining = joining(view, sync, live.last().copied());
    let told = Told {
        in_force: in_force.as_ref(),
        newest: live.last().copied(),
        joining: &joining,
        is_told: sync.is_some(),
        mode: state.settings.mode,
    };
    let standbys: Vec<Confirmer> = facts_of(view, sync)
        .into_iter()
        .filter(|(name, _)| Some(name) != holder)
        .map(|(member, it)| {
            let why_not = told.why_not(&member, &it, view.fresh(&member).is_some());
            Confirmer {
                confirms: why_not.is_none(),
                member,
                why_not,
            }
        })
        .collect();
    let confirm: BTreeSet<MemberName> = standbys
        .iter()
        .filter(|it| it.confirms)
        .map(|it| it.member.clone())
        .collect();
    let needed = in_force.as_ref().map_or(0, |rule| rule.k);
    Confirming {
        wanted_k: state.settings.wanted_k(),
        writes_wait: (confirm.len() as u64) < u64::from(needed),
        proposed: live.get(1..).and_then(<[_]>::last).map(|rule| rule.id),
        survivable: survivable(view, &confirm),
        in_force,
        is_proven,
        standbys,
    }
}

/// The last rule: there is nothing more to do about writes that wait, and people must read it.
pub(super) fn writes_wait(view: &ClusterView) -> Verdict {
    let asks = view.state.live_rules.iter().any(|rule| rule.k > 0);
    if !asks || sync_report(view).is_none() {
        return Verdict::Pass;
    }
    let found = confirming(view);
    match &found.in_force {
        Some(rule) if found.writes_wait => {
            Verdict::Wait(Reason::WritesWait(found.names().count(), rule.k))
        }
        Some(_) | None => Verdict::Pass,
    }
}

/// Who the next rule adds.
fn joining(
    view: &ClusterView,
    sync: Option<&SyncReport>,
    newest: Option<&Rule>,
) -> BTreeSet<MemberName> {
    let Some(newest) = newest.filter(|_| sync.is_some()) else {
        return BTreeSet::new();
    };
    match wanted(&view.state.settings, newest, &facts_of(view, sync)) {
        Wanted::Other(change) => change.joining.into_iter().collect(),
        Wanted::Same | Wanted::TooFew { .. } | Wanted::PrimaryAlone { .. } => BTreeSet::new(),
    }
}

/// What is known besides the facts of one standby.
struct Told<'a> {
    in_force: Option<&'a Rule>,
    newest: Option<&'a Rule>,
    joining: &'a BTreeSet<MemberName>,
    /// The primary tells who confirms.
    is_told: bool,
    mode: Mode,
}

impl Told<'_> {
    /// None: it confirms.
    fn why_not(&self, name: &MemberName, it: &StandbyFacts, is_heard: bool) -> Option<String> {
        let Some(rule) = self.in_force else {
            return Some("there is no primary".to_owned());
        };
        let is_named = rule.set.contains_key(name);
        if !is_named && self.mode == Mode::Async {
            return Some("mode async: nobody has to".to_owned());
        }
        if it.incarnation.is_none() {
            return Some("has no data".to_owned());
        }
        if is_named && rule.set.get(name).copied() != it.incarnation {
            return Some("its data directory is another one than the rule names".to_owned());
        }
        if !is_named && it.priority == 0 {
            return Some(it.kept_out().to_owned());
        }
        if let Some(why) = &it.cannot_confirm {
            return Some(why.clone());
        }
        let unheard = if is_heard { "" } else { ", and is not heard" };
        if !self.is_told {
            return Some(format!("the primary does not tell who confirms{unheard}"));
        }
        if !it.is_connected {
            return Some(format!("is not connected to the primary{unheard}"));
        }
        match it.late_for {
            Some(late) if !is_named || late >= GRAY_AFTER => {
                return Some(format!(
                    "has confirmed nothing for {}{unheard}",
                    seconds(late)
                ));
            }
            Some(_) | None => {}
        }
        (!is_named).then(|| self.why_not_named(name, it))
    }

    /// A standby that could confirm, and is not in the rule.
    fn why_not_named(&self, name: &MemberName, it: &StandbyFacts) -> String {
        if let Some(newest) = self.newest.filter(|rule| rule.set.contains_key(name)) {
            return format!(
                "rule {} names it, proposed and not activated yet",
                newest.id
            );
        }
        if self.joining.contains(name) {
            return "joins with the next change of the rule".to_owned();
        }
        match it.proven_for {
            None => "has not proven yet that it follows".to_owned(),
            Some(proven) if it.has_failed && proven < PROVEN_FOR => format!(
                "follows for {}, joins after {}",
                seconds(proven),
                seconds(PROVEN_FOR)
            ),
            Some(_) => "others go before, by priority or zone".to_owned(),
        }
    }
}

/// `1.2 s`.
fn seconds(length: Duration) -> String {
    let tenths = length.as_millis() / 100;
    if tenths.is_multiple_of(10) {
        format!("{} s", tenths / 10)
    } else {
        format!("{}.{} s", tenths / 10, tenths % 10)
    }
}
