//! The primary's side of who confirms its commits: a rule is given to the server, what the server was
//! given is read back from it, walsenders are made to take a new value, and a commit is seen waiting.
//!
//! Proves nothing by itself: what is in force is judged from a look at the walsenders. The surprise:
//! for the server `synchronous_standby_names` is in force when its checkpointer has read it, and for a
//! walsender when that has; a session that shows a value proves neither (hazards A4, X27).

use std::time::Duration;

use cluster_core::model::RuleId;
use tokio::time::{Instant, sleep};

use super::sql::Session;
use super::{Error, Postgres, sql};

/// How often the canary is looked at.
const LOOK: Duration = Duration::from_millis(3);

/// What the running server says of the rule it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The newest rule this process was ever given; 0 = none.
    pub rule: RuleId,
    /// When the postmaster last read its files, or a moment after. Unit: Unix milliseconds.
    pub loaded_unix_ms: u64,
}

/// Who sets `synchronous_commit` lower than the mode promises, one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitOverrides {
    /// Files, roles, databases and functions: there until somebody changes them.
    pub lasting: Vec<String>,
    /// Sessions whose last statement did so: caught in the act, others were not.
    pub momentary: Vec<String>,
}

impl Postgres {
    /// Gives the server a rule: its id and its names in one file, read again in one reload.
    ///
    /// # Errors
    /// [`Error::OldRule`] when a newer one, or the same with other names, was written before.
    pub async fn set_rule(&self, rule: RuleId, names: &str) -> Result<(), Error> {
        let _turn = self.inner.change.lock().await;
        let mut inputs = self.inputs();
        if inputs.rule > rule || inputs.rule == rule && inputs.sync_names != names {
            return Err(Error::OldRule {
                asked: rule,
                newest: inputs.rule,
            });
        }
        inputs.rule = rule;
        inputs.sync_names = names.to_owned();
        self.apply_config_in_turn(&inputs).await
    }

    /// Sets the fence: nothing is acknowledged until a rule is set. The rule given stays what it was.
    pub async fn set_fence(&self) -> Result<(), Error> {
        self.edit_config(|inputs| inputs.sync_names = super::FENCE.to_owned())
            .await
    }

    /// What the server was given, as a new session inherits it from the postmaster.
    pub async fn rule_given(&self) -> Result<Given, Error> {
        let session = self.connect().await?;
        let limit = self.limits().observe;
        let row = session.query_one(limit, sql::RULE_GIVEN, &[]).await?;
        let text: Option<String> = row.get("rule");
        let loaded: i64 = row.get("loaded");
        Ok(Given {
            rule: RuleId(text.and_then(|text| text.parse().ok()).unwrap_or(0)),
            loaded_unix_ms: u64::try_from(loaded).unwrap_or(0),
        })
    }

    /// Ends the walsenders of these names; their standbys connect again at once, under the newest
    /// value.
    pub async fn end_walsenders(&self, names: &[String]) -> Result<(), Error> {
        let session = self.session().await?;
        session
            .query(self.limits().observe, sql::END_WALSENDERS, &[&names])
            .await?;
        Ok(())
    }

    /// Ends walsenders that do not hold the slot of the member they are named after; how many it were.
    pub async fn end_strangers(&self, pids: &[i32]) -> Result<usize, Error> {
        let session = self.session().await?;
        let row = session
            .query_one(self.limits().observe, sql::END_STRANGERS, &[&pids])
            .await?;
        Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// A commit of nothing, not waiting for anybody: standbys have something to confirm, and the next
    /// reply of one lets go whoever waits (hazards A18).
    pub async fn nudge(&self) -> Result<(), Error> {
        let session = self.session().await?;
        session
            .query_one(self.limits().observe, sql::COMMIT_PROBE, &[])
            .await?;
        Ok(())
    }

    /// Who sets `synchronous_commit` so that commits do not wait as the mode promises.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn commit_overrides(&self) -> Result<CommitOverrides, Error> {
        let session = self.session().await?;
        let limit = self.limits().statement;
        let mut found = CommitOverrides::default();
        for row in session.query(limit, sql::COMMIT_OVERRIDES, &[]).await? {
            let kind = match row.get("is_momentary") {
                true => &mut found.momentary,
                false => &mut found.lasting,
            };
            kind.push(row.get("line"));
        }
        Ok(found)
    }

    /// Commits something that waits for its confirmation as a client's commit does, and says whether it
    /// was seen waiting within `limit`. It is taken back then; nothing of it is in any table.
    pub async fn canary_waits(&self, limit: Duration) -> Result<bool, Error> {
        let canary = self.connect().await?;
        let statement = self.limits().observe;
        canary
            .batch(statement, "SET synchronous_commit = on")
            .await?;
        let pid: i32 = canary
            .query_one(statement, "SELECT pg_backend_pid()", &[])
            .await?
            .get(0);
        let commit = canary.query_one(limit, sql::COMMIT_PROBE, &[]);
        let watch = self.session().await?;
        let seen = tokio::select! {
            // It came through, or could not be made: nothing waits.
            ended = commit => ended.map(|_| false),
            waits = sees_waiting(&watch, pid, statement, limit) => waits,
        };
        // A commit that waits does not notice that its client has gone.
        watch
            .query(statement, "SELECT pg_terminate_backend($1)", &[&pid])
            .await?;
        seen
    }
}

async fn sees_waiting(
    watch: &Session,
    pid: i32,
    statement: Duration,
    limit: Duration,
) -> Result<bool, Error> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let row = watch.query_one(statement, sql::WAITS_FOR, &[&pid]).await?;
        if row.get::<_, Option<String>>(0).as_deref() == Some("SyncRep") {
            return Ok(true);
        }
        sleep(LOOK).await;
    }
    Ok(false)
}
