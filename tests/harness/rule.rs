//! Who confirms commits, as the primary's PostgreSQL itself has it: its `synchronous_standby_names`
//! and its walsenders. What the daemon says about it is not asked.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::wait::wait_until;

/// A change of the rule takes less.
const SETTLED: Duration = Duration::from_secs(2);

/// `synchronous_standby_names`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSeen {
    /// How many must confirm; 0 = the text is empty and nobody is waited for.
    pub confirmations: u32,
    /// Members that may confirm, sorted; none although `confirmations` is above 0 = the fence.
    pub members: Vec<String>,
    /// The setting itself.
    pub text: String,
}

impl RuleSeen {
    /// Takes `ANY k ("member~life~epoch", …)` apart.
    ///
    /// # Errors
    /// It has another form.
    pub fn parse(text: &str) -> Result<Self> {
        let mut seen = Self {
            confirmations: 0,
            members: Vec::new(),
            text: text.to_owned(),
        };
        if text.is_empty() {
            return Ok(seen);
        }
        let rest = text.strip_prefix("ANY ").context("not ANY")?;
        let (number, rest) = rest.split_once(" (").context("no list")?;
        seen.confirmations = number.parse().context("a number of confirmations")?;
        let list = rest.strip_suffix(')').context("no end of the list")?;
        for name in list.split(',') {
            let name = name.trim().trim_matches('"');
            match name.split_once('~') {
                Some((member, _)) => seen.members.push(member.to_owned()),
                None if name == "__fence__" => {}
                None => bail!("{name:?} is no name of a member"),
            }
        }
        seen.members.sort();
        Ok(seen)
    }

    /// Nobody is waited for.
    pub fn is_degraded(&self) -> bool {
        self.confirmations == 0
    }

    /// Exactly these may confirm, and so many of them must.
    pub fn is(&self, confirmations: u32, members: &[&str]) -> bool {
        self.confirmations == confirmations && self.members == members
    }
}

impl Cluster {
    /// The rule as a member's PostgreSQL has it now.
    ///
    /// # Errors
    /// It does not answer, or the text has a form nobody here writes.
    pub fn rule_on(&self, member: usize) -> Result<RuleSeen> {
        let found = self.sql(member, "SHOW synchronous_standby_names")?;
        RuleSeen::parse(&found.concat()).with_context(|| format!("read {found:?}"))
    }

    /// Waits until the rule on a member is as wanted.
    ///
    /// # Errors
    /// Not within the limit; with the rule that was last seen.
    pub fn wait_rule(
        &self,
        member: usize,
        what: &str,
        limit: Duration,
        is_wanted: impl Fn(&RuleSeen) -> bool,
    ) -> Result<RuleSeen> {
        wait_until(what, limit, || match self.rule_on(member) {
            Ok(rule) if is_wanted(&rule) => Ok(rule),
            seen => Err(format!("{seen:?}, {}", self.seen())),
        })
    }

    /// Waits until all is well and commits are confirmed by `confirmations` of at least so many
    /// standbys, each of which streams and counts on the primary; the primary. A standby that is not
    /// needed joins the rule only after half a minute of streaming.
    ///
    /// # Errors
    /// Not within the limit.
    pub fn wait_confirmed(
        &self,
        confirmations: u32,
        standbys: usize,
        limit: Duration,
    ) -> Result<usize> {
        let counted = "SELECT count(*)::text FROM pg_stat_replication \
                       WHERE state = 'streaming' AND sync_priority > 0";
        let what = format!("commits confirmed by {confirmations} of {standbys}");
        wait_until(&what, limit, || {
            let primary = self
                .wait_healthy(Duration::ZERO)
                .map_err(|error| format!("{error:#}"))?;
            let rule = self
                .rule_on(primary)
                .map_err(|error| format!("{error:#}"))?;
            let counting = self.sql(primary, counted).unwrap_or_default();
            let is_full = rule.confirmations == confirmations && rule.members.len() >= standbys;
            match is_full && counting == [rule.members.len().to_string()] {
                true => Ok(primary),
                false => Err(format!("{rule:?}, {counting:?} count")),
            }
        })
    }
}

impl Cluster {
    /// As [`Cluster::wait_confirmed`], and the rule has stayed the same for a while: no change is under
    /// way, and older rules count no more.
    ///
    /// # Errors
    /// Not within the limit.
    pub fn wait_settled(
        &self,
        confirmations: u32,
        standbys: usize,
        limit: Duration,
    ) -> Result<usize> {
        let look = || {
            let primary = self.wait_confirmed(confirmations, standbys, limit)?;
            anyhow::Ok((primary, self.rule_on(primary)?))
        };
        wait_until("a rule that stays", limit, || {
            let before = look().map_err(|error| format!("{error:#}"))?;
            std::thread::sleep(SETTLED);
            match look().map_err(|error| format!("{error:#}"))? {
                now if now == before => Ok(now.0),
                now => Err(format!("{before:?}, then {now:?}")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_the_fence_has_no_member() {
        let rule = RuleSeen::parse("ANY 2 (\"m3~0000000a~4\",\"m1~00000001~4\")").expect("a rule");
        assert!(rule.is(2, &["m1", "m3"]), "{rule:?}");
        let fence = RuleSeen::parse("ANY 1 (\"__fence__\")").expect("the fence");
        assert!(fence.is(1, &[]) && !fence.is_degraded());
        assert!(RuleSeen::parse("").expect("nobody").is_degraded());
        assert!(RuleSeen::parse("FIRST 1 (a)").is_err());
        assert!(RuleSeen::parse("ANY 1 (\"somebody\")").is_err());
    }
}
