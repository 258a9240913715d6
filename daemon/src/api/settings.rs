//! Settings over gRPC and HTTP: from text to one command, what it would change, and what is worth
//! knowing about it. Nothing is decided here; the truth checks again when it applies.

use cluster_core::change::{Command, Rejected};
use cluster_core::decide;
use cluster_core::model::lease::Moment;
use cluster_core::model::settings::Mode;
use cluster_core::model::{Assignment, ClusterState, Settings, SettingsChange};

use super::asks::Asks;
use crate::board::{Board, ProposeError, TrySettings};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Only what is assigned changes.
    Assign(Vec<Assignment>),
    /// What is not assigned gets its default.
    Replace(Vec<Assignment>),
    /// Back to an earlier revision.
    Restore(u64),
}

/// A change that the truth, as known here, would take, and every PostgreSQL that could be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What is proposed.
    change: SettingsChange,
    /// The revision it is made for; none: whatever it is by then.
    expected: Option<u64>,
    /// The settings with it.
    pub next: Settings,
    /// What differs, as `key old -> new`.
    pub changes: Vec<String>,
    /// In words, each way in which commits are confirmed by fewer than before.
    pub lowers: Vec<String>,
    /// Worth knowing.
    pub notes: Vec<String>,
}

/// What this wish would change. `expected` is the revision that was seen by whoever asks.
///
/// # Errors
/// Everything that will not do, whether a word, a number, the whole, or for PostgreSQL.
pub async fn plan(
    asks: &Asks,
    try_settings: &dyn TrySettings,
    now: Moment,
    wish: &Wish,
    expected: Option<u64>,
) -> Result<Planned, Vec<String>> {
    let board = asks.board();
    let before = &board.state.settings;
    let (change, mut problems) = read(&board.state, wish);
    let next = change.applied_to(before);
    problems.extend(before.problems_from_afar(&next));
    // A whole document is made for what it was made from.
    let expected = expected.or_else(|| {
        let is_whole = change.whole.is_some();
        is_whole.then(|| board.state.settings_revision())
    });
    let rehearsed = asks.rehearse(Command::ChangeSettings {
        change: Box::new(change.clone()),
        expected,
        by: String::new(),
    });
    match rehearsed {
        Ok(_) => {}
        Err(Rejected::BadSettings(more)) => problems.extend(more),
        Err(other) => problems.push(other.to_string()),
    }
    problems.dedup();
    let mut notes = notes(&board, now, &next);
    if problems.is_empty() && next.parameter_maps() != before.parameter_maps() {
        let tried = try_settings.try_settings(&next).await;
        problems.extend(tried.problems);
        notes.extend(tried.not_tried);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Planned {
        changes: before.differences(&next),
        lowers: before.lowers(&next),
        notes,
        change,
        expected,
        next,
    })
}

fn read(state: &ClusterState, wish: &Wish) -> (SettingsChange, Vec<String>) {
    match wish {
        Wish::Assign(assignments) => SettingsChange::read(assignments),
        Wish::Replace(assignments) => {
            let (change, problems) = SettingsChange::read(assignments);
            let whole = change.applied_to(&Settings::default());
            (SettingsChange::to(whole), problems)
        }
        Wish::Restore(revision) => {
            let mut kept = state.settings_log.iter();
            if let Some(found) = kept.find(|it| it.revision == *revision) {
                return (SettingsChange::to(found.settings.clone()), Vec::new());
            }
            let all = state.settings_log.iter().map(|it| it.revision.to_string());
            let all: Vec<String> = all.collect();
            let text = if all.is_empty() {
                "revision: nothing was changed so far".to_owned()
            } else {
                format!("revision: {revision} is not kept ({})", all.join(", "))
            };
            (SettingsChange::default(), vec![text])
        }
    }
}

/// Carries a plan out.
///
/// # Errors
/// Refused, no leader, or unknown.
pub async fn carry_out(asks: &Asks, planned: &Planned, by: &str) -> Result<(), ProposeError> {
    let command = Command::ChangeSettings {
        change: Box::new(planned.change.clone()),
        expected: planned.expected,
        by: by.to_owned(),
    };
    asks.propose(command).await
}

fn notes(board: &Board, now: Moment, next: &Settings) -> Vec<String> {
    let before = &board.state.settings;
    let mut notes = Vec::new();
    if board.state.identity.is_none() {
        notes.push("the group has not formed yet".to_owned());
    }
    if next.preset != before.preset {
        let text = "lease and renewals change at once; Raft's own timers with the next restart of each \
                    clusterd";
        notes.push(text.to_owned());
    }
    if next.parameter_maps() != before.parameter_maps() {
        let text = "PostgreSQL takes them within moments; what waits for a restart is in `clusterctl list`, \
                    and `clusterctl restart --pending` restarts one member after the other";
        notes.push(text.to_owned());
    }
    let confirming = |settings: &Settings| -> Vec<_> {
        let members = settings.members.iter();
        members
            .map(|(name, own)| (name.clone(), own.nosync, own.sync_priority))
            .filter(|(_, nosync, priority)| nosync.is_some() || priority.is_some())
            .collect()
    };
    let is_about_commits =
        next.durability() != before.durability() || confirming(next) != confirming(before);
    if !is_about_commits {
        return notes;
    }
    let able = able(board, now, next);
    let wanted = u64::from(next.wanted_k());
    if able < wanted {
        let waits = match next.mode {
            Mode::Strict if able < u64::from(next.k_min) => "writes wait until there are more",
            Mode::Strict | Mode::Sync | Mode::Async => "it begins with those there are",
        };
        notes.push(format!(
            "{wanted} should confirm and {able} could now: {waits}"
        ));
    }
    notes
        .push("the rules follow one by one: `clusterctl status` shows how far they are".to_owned());
    notes
}

/// How many standbys are heard and may confirm under `next`.
fn able(board: &Board, now: Moment, next: &Settings) -> u64 {
    let holder = board.state.granted().map(|reign| &reign.holder);
    let may = |name: &cluster_core::model::MemberName| {
        let member = board.state.members.get(name);
        member.is_some_and(|member| match next.members.get(name) {
            Some(own) => own.over(&member.tags).sync_priority() > 0,
            None => member.tags.sync_priority() > 0,
        })
    };
    let heard = board.look(now, |view| {
        let standbys = decide::confirming(view).standbys.into_iter();
        let heard = standbys.filter(|it| view.fresh(&it.member).is_some());
        heard.map(|it| it.member).collect::<Vec<_>>()
    });
    heard
        .iter()
        .filter(|name| Some(*name) != holder && may(name))
        .count() as u64
}
