//! Commands about settings. The rules, the timers and the members follow by themselves; here only
//! the document changes, as a whole or not at all, and who and why is recorded.

use crate::model::lease::Preset;
use crate::model::state::{REVISIONS_KEPT, SettingsRevision};
use crate::model::{ClusterState, SettingsChange};

use super::apply::{Applied, At, note};
use super::command::Rejected;

/// Why another preset must wait: the lease of the one before may still be out.
const NOT_SETTLED: &str =
    "an earlier change of the lease is not settled yet; try again in a moment";

/// Only what is named changes; every problem is told at once. `expected` is the revision that the one
/// who asks has seen; another one since then refuses the change.
pub(super) fn change(
    state: &mut ClusterState,
    at: At,
    change: &SettingsChange,
    expected: Option<u64>,
    by: &str,
) -> Result<Applied, Rejected> {
    let revision = state.settings_revision();
    if let Some(expected) = expected.filter(|expected| *expected != revision) {
        return Err(Rejected::SettingsMoved { expected, revision });
    }
    let next = change.applied_to(&state.settings);
    let mut problems = next.problems_among(&state.kinds());
    let is_other_preset = next.preset != state.settings.preset;
    if is_other_preset && state.previous_lease.is_some() {
        problems.push(format!("preset: {NOT_SETTLED}"));
    }
    if !problems.is_empty() {
        return Err(Rejected::BadSettings(problems));
    }
    let differences = state.settings.differences(&next);
    if differences.is_empty() {
        return Ok(Applied::Unchanged);
    }
    if is_other_preset {
        state.previous_lease = Some(state.settings.times().lease);
    }
    if state.settings_log.is_empty() {
        state.settings_log.push(SettingsRevision {
            revision: 0,
            at_unix_ms: 0,
            by: "as the cluster was formed".to_owned(),
            changes: Vec::new(),
            settings: state.settings.clone(),
        });
    }
    state.settings = next;
    let text = format!("{}, by {by}", differences.join(", "));
    note(state, at, "settings", None, text);
    state.settings_log.push(SettingsRevision {
        revision: at.index,
        at_unix_ms: at.unix_ms,
        by: by.to_owned(),
        changes: differences,
        settings: state.settings.clone(),
    });
    let over = state.settings_log.len().saturating_sub(REVISIONS_KEPT);
    state.settings_log.drain(..over);
    Ok(Applied::Changed)
}

/// Version 0.1.0's way to change the preset alone; its log is read for ever.
pub(super) fn set_preset(
    state: &mut ClusterState,
    at: At,
    preset: Preset,
) -> Result<Applied, Rejected> {
    if state.previous_lease.is_some() {
        return Err(Rejected::WrongMoment(NOT_SETTLED.to_owned()));
    }
    if state.settings.preset == preset {
        return Ok(Applied::Unchanged);
    }
    state.previous_lease = Some(state.settings.times().lease);
    state.settings.preset = preset;
    let text = format!("preset {}", preset.word());
    note(state, at, "settings", None, text);
    Ok(Applied::Changed)
}
