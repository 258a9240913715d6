//! Brings the rule that Raft holds into force on a running primary: one step of `rule_step` after the
//! other, beside the member's loop, because no long action may hold up commits that wait.
//!
//! Decides nothing and tells nobody itself: what it has proven goes into the member's next report.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::decide::rule_setter::{SetterStep, SetterView, rule_step};
use cluster_core::model::confirmation::Proven;
use cluster_core::model::postgres::{Primary, Sender};
use cluster_core::model::{Epoch, MemberReport, PostgresStatus, RuleId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::lease::LeaseKeeper;
use crate::postgres::{self, Postgres};
use crate::raft::ClusterStore;

use super::durable::DurableRecord;
use super::probes::Findings;

/// A look this often while a change is under way.
const BRISK: Duration = Duration::from_millis(8);
/// The same when there is nothing to do; every report of the loop brings one anyway.
const CALM: Duration = Duration::from_secs(1);
/// After a step that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// How long a commit may take to be seen waiting.
const CANARY_LIMIT: Duration = Duration::from_secs(1);
/// Walsenders take a new value by themselves within this; then they are ended, and come back with it.
const TAKE_LIMIT: Duration = Duration::from_millis(300);
/// A renewal is asked for out of turn at most this often.
const RENEW_EVERY: Duration = Duration::from_millis(50);
/// A walsender that has not ended this long after the rule was set will not: a rule that can never be
/// proven holds up the next one, so the server is given up for a new epoch.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Longer than two looks of the member's loop when nothing happens.
const SUSPECTED_FOR: Duration = Duration::from_millis(500);
/// Commits that let a standby prove itself are this far apart.
const NUDGE_EVERY: Duration = Duration::from_millis(100);

/// What is known of the rule on one server process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The epoch it serves.
    pub epoch: Epoch,
    /// When its postmaster started, Unix milliseconds.
    pub started_unix_ms: u64,
    /// The newest rule it was ever given, as it says itself.
    pub given: RuleId,
    /// The newest rule proven in force.
    pub proven: Option<Proven>,
}

/// The task's parts.
pub struct RuleKeeper {
    /// The server.
    pub postgres: Postgres,
    /// The durable record: under which epoch the server was promoted.
    pub durable: DurableRecord,
    /// The lease, and the newest rule that its renewals name.
    pub lease: LeaseKeeper,
    /// The truth.
    pub store: ClusterStore,
    /// The member loop's reports.
    pub report: watch::Receiver<Option<MemberReport>>,
    /// Where ended strangers are counted.
    pub findings: Arc<Findings>,
    /// What was proven.
    pub kept: watch::Sender<Kept>,
}

/// What lives as long as one server process.
struct Memory {
    kept: Kept,
    reloaded_unix_ms: Option<u64>,
    canary_waited: bool,
    set_at: Instant,
    ended_at: Instant,
    nudged_at: Instant,
    asked_at: Option<Instant>,
    /// Walsenders taken for strangers, and since when.
    suspects: Vec<i32>,
    suspected_at: Instant,
    /// The last step that was logged.
    said: String,
}

impl RuleKeeper {
    /// Runs until `shutdown`; the rule in force stays in force.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut memory: Option<Memory> = None;
        let mut state = self.store.watch();
        let mut rule = self.lease.watch_rule();
        let mut next = Instant::now();
        let mut failure = String::new();
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                changed = self.report.changed() => if changed.is_err() { return },
                _ = state.changed() => {}
                _ = rule.changed() => {}
                () = sleep_until(next) => {}
            }
            let pace = match self.turn(&mut memory).await {
                Ok(pace) => {
                    failure.clear();
                    pace
                }
                Err(error) => {
                    // Commits may be waiting for this step: told, and once.
                    let text = crate::telemetry::chain(&error);
                    if failure != text {
                        tracing::warn!(
                            error = text,
                            "a step of a rule change failed; it is tried again"
                        );
                    }
                    failure = text;
                    AFTER_FAILURE
                }
            };
            next = Instant::now() + pace;
        }
    }

    async fn turn(&mut self, memory: &mut Option<Memory>) -> Result<Duration, postgres::Error> {
        let Some((report, primary)) = self.looked() else {
            self.forget(memory);
            return Ok(CALM);
        };
        let epoch = self.durable.get().promoted;
        let known = match memory {
            Some(known) if known.is_of(epoch, &primary) => known,
            Some(_) | None => memory.insert(self.begin(epoch, &primary).await?),
        };
        self.nudge_for_proof(known, &report).await;
        let step = self.step(known, &primary);
        if step == SetterStep::AwaitRenewal {
            return Ok(self.ask_for_renewal(known));
        }
        if is_settled(known, &step) {
            self.publish(known);
            return Ok(CALM);
        }
        // What is changed is changed by what is so now, not by the loop's last look.
        let PostgresStatus::Primary(primary) = self.postgres.observe().await else {
            return Ok(AFTER_FAILURE);
        };
        if !known.is_of(epoch, &primary) {
            return Ok(Duration::ZERO);
        }
        let step = self.step(known, &primary);
        let pace = self.take(known, step, &primary).await;
        self.publish(known);
        pace
    }

    /// The loop's last look, while PostgreSQL is a primary here.
    fn looked(&mut self) -> Option<(MemberReport, Primary)> {
        let report = self.report.borrow_and_update().clone()?;
        match &report.postgres {
            PostgresStatus::Primary(primary) => {
                let primary = primary.clone();
                Some((report, primary))
            }
            _ => None,
        }
    }

    fn forget(&self, memory: &mut Option<Memory>) {
        if memory.take().is_some() {
            self.kept.send_replace(Kept::default());
        }
    }

    /// A server process met for the first time, by this daemon at least: it says what it was given.
    async fn begin(&self, epoch: Epoch, primary: &Primary) -> Result<Memory, postgres::Error> {
        let given = self.postgres.rule_given().await?;
        Ok(Memory {
            kept: Kept {
                epoch,
                started_unix_ms: primary.started_unix_ms,
                given: given.rule,
                ..Kept::default()
            },
            reloaded_unix_ms: Some(given.loaded_unix_ms),
            canary_waited: false,
            set_at: Instant::now(),
            ended_at: Instant::now(),
            nudged_at: Instant::now(),
            asked_at: None,
            suspects: Vec::new(),
            suspected_at: Instant::now(),
            said: String::new(),
        })
    }

    fn step(&self, known: &Memory, primary: &Primary) -> SetterStep {
        let applied = self.store.state();
        rule_step(&SetterView {
            state: &applied.state,
            epoch: known.kept.epoch,
            confirmed_newest: self.lease.newest_rule(known.kept.epoch),
            primary,
            given: known.kept.given,
            reloaded_unix_ms: known.reloaded_unix_ms,
            canary_waited: known.canary_waited,
        })
    }

    async fn take(
        &self,
        known: &mut Memory,
        step: SetterStep,
        primary: &Primary,
    ) -> Result<Duration, postgres::Error> {
        known.say(&step);
        if !matches!(step, SetterStep::Foreign { .. }) {
            known.suspects.clear();
        }
        match step {
            SetterStep::Rest { .. } => return Ok(CALM),
            SetterStep::AwaitRenewal => return Ok(self.ask_for_renewal(known)),
            SetterStep::SetFence => {
                known.canary_waited = false;
                self.postgres.set_fence().await?;
            }
            SetterStep::Canary => {
                known.canary_waited = self.postgres.canary_waits(CANARY_LIMIT).await?;
                if !known.canary_waited {
                    tracing::warn!("a commit passed the fence: not every process has read it yet");
                }
            }
            SetterStep::Set { rule, text } => {
                known.kept.proven = None;
                self.postgres.set_rule(rule, &text).await?;
                let given = self.postgres.rule_given().await?;
                known.kept.given = given.rule;
                known.reloaded_unix_ms = Some(given.loaded_unix_ms);
                known.canary_waited = false;
                known.set_at = Instant::now();
                known.ended_at = known.set_at;
                self.nudge(known).await;
            }
            SetterStep::AwaitWalsenders { names } => {
                self.await_walsenders(known, &names, primary).await?;
            }
            SetterStep::Prove { rule } => {
                // The same look: its walsenders were read before its flush position.
                known.kept.proven = Some(Proven {
                    rule,
                    x: primary.flushed,
                });
                self.nudge(known).await;
                return Ok(CALM);
            }
            SetterStep::Foreign { names, pids } => {
                self.end_strangers(known, &names, pids).await?;
                return Ok(AFTER_FAILURE);
            }
            SetterStep::Poisoned { name } => {
                let why = format!("{name} shows a position that this server does not have");
                tracing::error!(name, flushed = %primary.flushed, "{why}");
                self.postgres.kill(&why).await?;
            }
        }
        Ok(BRISK)
    }

    /// A connection that begins or ends may be seen without its slot once: it has to be seen so over
    /// several looks, and still be so when it is ended.
    async fn end_strangers(
        &self,
        known: &mut Memory,
        names: &[String],
        pids: Vec<i32>,
    ) -> Result<(), postgres::Error> {
        if known.suspects != pids {
            known.suspects = pids;
            known.suspected_at = Instant::now();
        } else if known.suspected_at.elapsed() >= SUSPECTED_FOR {
            let ended = self.postgres.end_strangers(&known.suspects).await?;
            if ended > 0 {
                tracing::error!(
                    ?names,
                    "somebody who is no member's standby counts for commits; the connection is ended"
                );
                self.findings.add_strangers(ended);
            }
            known.suspects.clear();
        }
        Ok(())
    }

    /// Only those that were there before the rule was read: one born since has it, and shows so with
    /// its first answer.
    async fn await_walsenders(
        &self,
        known: &mut Memory,
        names: &[String],
        primary: &Primary,
    ) -> Result<(), postgres::Error> {
        let is_old = |it: &&Sender| {
            names.contains(&it.application_name)
                && Some(it.started_unix_ms) <= known.reloaded_unix_ms
        };
        let old = primary.senders.iter().filter(is_old);
        let names: Vec<String> = old.map(|it| it.application_name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        if known.set_at.elapsed() > END_LIMIT {
            let why = format!(
                "walsenders that do not end hold up a rule: {}",
                names.join(", ")
            );
            tracing::warn!("{why}");
            return self.postgres.kill(&why).await;
        }
        if known.ended_at.elapsed() > TAKE_LIMIT {
            tracing::info!(?names, "ending walsenders that still work by an older rule");
            self.postgres.end_walsenders(&names).await?;
            known.ended_at = Instant::now();
        }
        Ok(())
    }

    /// What the leader says with it wakes this task.
    fn ask_for_renewal(&self, known: &mut Memory) -> Duration {
        let is_due = known.asked_at.is_none_or(|at| at.elapsed() >= RENEW_EVERY);
        if is_due {
            known.asked_at = Some(Instant::now());
            self.lease.renew_soon();
        }
        RENEW_EVERY
    }

    /// A standby proves that it streams by replaying something newer than its connection.
    async fn nudge_for_proof(&self, known: &mut Memory, report: &MemberReport) {
        let wants = report.sync.as_ref().is_some_and(|it| it.wants_a_commit());
        if wants && known.nudged_at.elapsed() >= NUDGE_EVERY {
            self.nudge(known).await;
        }
    }

    async fn nudge(&self, known: &mut Memory) {
        known.nudged_at = Instant::now();
        // Its WAL would put the old primary ahead of the target of a hand-over.
        let applied = self.store.state();
        let mut open = applied.state.open_requests().into_iter();
        if open.any(|request| request.kind.moves_primary()) {
            return;
        }
        if let Err(error) = self.postgres.nudge().await {
            tracing::debug!(%error, "a nudge was not written");
        }
    }

    /// Told only when it is news: the loop looks at once.
    fn publish(&self, known: &Memory) {
        self.kept.send_if_modified(|kept| {
            let is_news = *kept != known.kept;
            if is_news {
                kept.clone_from(&known.kept);
            }
            is_news
        });
    }
}

impl Memory {
    fn is_of(&self, epoch: Epoch, primary: &Primary) -> bool {
        self.kept.epoch == epoch && self.kept.started_unix_ms == primary.started_unix_ms
    }

    fn say(&mut self, step: &SetterStep) {
        let said = format!("{step:?}");
        if self.said == said {
            return;
        }
        match step {
            // Told when it is certain.
            SetterStep::Foreign { .. } => {}
            SetterStep::Rest { why } => tracing::debug!(?why, "the rule stays as it is"),
            _ => tracing::info!(step = said, "rule change"),
        }
        self.said = said;
    }
}

/// Nothing is to be done, or it was done already.
fn is_settled(known: &Memory, step: &SetterStep) -> bool {
    let is_proven = |rule| known.kept.proven.is_some_and(|it| it.rule == rule);
    match step {
        SetterStep::Rest { .. } => true,
        SetterStep::Prove { rule } => is_proven(*rule),
        // Once proven it stays so: who connects later knows no older rule.
        SetterStep::AwaitWalsenders { .. } if is_proven(known.kept.given) => true,
        SetterStep::AwaitRenewal
        | SetterStep::SetFence
        | SetterStep::Canary
        | SetterStep::Set { .. }
        | SetterStep::AwaitWalsenders { .. }
        | SetterStep::Foreign { .. }
        | SetterStep::Poisoned { .. } => false,
    }
}
