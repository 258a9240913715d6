//! PostgreSQL follows the settings by itself: parameters, and what waits for a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_core::model::settings::{Role, Settings};
use cluster_core::model::{MemberName, PostgresStatus};
use tokio::time::{sleep, timeout};

use crate::postgres::ConfigInputs;

use super::probes::Chores;

/// How often is compared when nothing is new, and after a failure.
const EVERY: Duration = Duration::from_secs(5);
/// A postmaster that has just started is asked at once, and then this often.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// After a change was written, until what waits for a restart is asked.
const SETTLE: Duration = Duration::from_millis(200);

/// What the settings say about one server's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromSettings {
    parameters: BTreeMap<String, String>,
    member_parameters: BTreeMap<String, String>,
    keeps_sessions: bool,
}

/// What they say about the server of `me` in this role.
pub fn of(me: &MemberName, settings: &Settings, role: Role) -> FromSettings {
    FromSettings {
        parameters: settings.parameters_of(role),
        member_parameters: settings.parameters_of_member(me),
        keeps_sessions: settings.keep_standby_sessions,
    }
}

impl FromSettings {
    /// Puts it into the inputs of the configuration files.
    pub fn put(&self, inputs: &mut ConfigInputs) {
        inputs.parameters = self.parameters.clone();
        inputs.member_parameters = self.member_parameters.clone();
        inputs.keeps_sessions = self.keeps_sessions;
    }

    fn is_in(&self, inputs: &ConfigInputs) -> bool {
        inputs.parameters == self.parameters
            && inputs.member_parameters == self.member_parameters
            && inputs.keeps_sessions == self.keeps_sessions
    }
}

/// What the server is by now; none while it is neither.
fn role(status: &PostgresStatus) -> Option<(Role, u64)> {
    match status {
        PostgresStatus::Primary(primary) => Some((Role::Primary, primary.started_unix_ms)),
        PostgresStatus::Standby(standby) => Some((Role::Standby, standby.started_unix_ms)),
        _ => None,
    }
}

impl Chores {
    /// Changed settings reach a running server within moments, and so do those of its new role.
    pub(super) async fn follow_settings(mut self) {
        loop {
            self.state.borrow_and_update();
            let before = role(&self.seen.borrow()).map(|(role, _)| role);
            let outcome = self.follow_once().await;
            if let Err(error) = &outcome {
                tracing::warn!(%error, "PostgreSQL could not be given the parameters of the settings");
                sleep(EVERY).await;
                continue;
            }
            let is_over = tokio::select! {
                changed = self.state.changed() => changed.is_err(),
                changed = self.seen.wait_for(|seen| role(seen).map(|(role, _)| role) != before) => {
                    changed.is_err()
                }
            };
            if is_over {
                return;
            }
        }
    }

    async fn follow_once(&self) -> Result<(), crate::postgres::Error> {
        let Some((role, _)) = role(&self.seen.borrow()) else {
            return Ok(());
        };
        let state = Arc::clone(&self.state.borrow().state);
        // A handover must not wait for a reload.
        if state.identity.is_none() || state.moving_request().is_some() {
            return Ok(());
        }
        let wanted = of(&self.me, &state.settings, role);
        if wanted.is_in(&self.postgres.inputs()) {
            return Ok(());
        }
        self.postgres
            .edit_config(|inputs| wanted.put(inputs))
            .await?;
        tracing::info!("the parameters of the settings are with PostgreSQL now");
        self.findings.ask_again();
        Ok(())
    }

    /// What waits for a restart, and what could not be started with.
    pub(super) async fn watch_pending(mut self) {
        loop {
            let again = self.findings.asked_again();
            let started = role(&self.seen.borrow()).map(|(_, started)| started);
            self.findings.set_refusal(self.postgres.refusal());
            match started {
                None => self.findings.set_pending(None),
                Some(_) => match self.postgres.pending_restart().await {
                    Ok(found) => self.findings.set_pending(Some(found)),
                    Err(error) => tracing::debug!(%error, "what waits for a restart is not known"),
                },
            }
            let is_new = async {
                let is_other = |seen: &PostgresStatus| role(seen).map(|(_, it)| it) != started;
                self.seen.wait_for(is_other).await.map(drop)
            };
            let waited = tokio::select! {
                waited = timeout(ASK_EVERY, is_new) => waited,
                () = again => Ok(Ok(())),
            };
            match waited {
                Ok(Ok(())) => sleep(SETTLE).await,
                Ok(Err(_)) => return,
                Err(_elapsed) => {}
            }
        }
    }
}
