//! Rule: commits that did not wait as the mode promises stand in the history, so that whoever asks later for a
//! lost row finds them there.

use std::time::Duration;

use crate::change::Command;
use crate::model::bypass::Bypass;
use crate::model::view::ClusterView;

use super::cluster::{Verdict, propose};
use super::reason::Reason;

/// Told no more often than this: a client that cancels every wait must not push everything else out of the
/// history. Judgement.
pub const EVERY: Duration = Duration::from_secs(60);

/// What the primary says is told when it is news.
pub fn tell(view: &ClusterView) -> Verdict {
    let (Some(reign), Some(now)) = (view.state.followable(), view.wall_unix_ms) else {
        return Verdict::Pass;
    };
    let Some(report) = view.fresh(&reign.holder) else {
        return Verdict::Pass;
    };
    if !report.health.commits_watched {
        return Verdict::Pass;
    }
    let found = Bypass::of(&reign.holder, &report.daemon_start, &report.health, now);
    let is_news = match &view.state.bypass {
        None => !found.is_nothing(),
        Some(told) => {
            let every = u64::try_from(EVERY.as_millis()).unwrap_or(u64::MAX);
            // A clock that was set back must not silence it.
            let is_recent = (told.at_unix_ms..told.at_unix_ms.saturating_add(every)).contains(&now);
            let is_calm = found.is_nothing() && told.is_nothing();
            !is_recent && !is_calm && !found.says_as(told)
        }
    };
    match is_news {
        true => propose(
            Command::TellBypass(Box::new(found)),
            Reason::CommitsBypassed(reign.holder.clone()),
        ),
        false => Verdict::Pass,
    }
}
