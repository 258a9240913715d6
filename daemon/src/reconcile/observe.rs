//! Looks at this member once: guard, PostgreSQL, durable record. Every await has a time limit.

use cluster_core::model::Epoch;
use cluster_core::model::PostgresStatus;
use cluster_core::model::lease::Moment;
use cluster_core::model::view::ProcessSet;
use clusterd_guard::protocol::Status;

use crate::lease::now;
use crate::postgres::{GuardSupervisor, Postgres, server_process};

/// One look.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What PostgreSQL is.
    pub postgres: PostgresStatus,
    /// What the guard says.
    pub set: ProcessSet,
    /// When PostgreSQL answered, if it did.
    pub answered_at: Option<Moment>,
}

/// Looks at the guard first and at PostgreSQL afterwards: "empty" is then never older than the
/// status it explains.
pub async fn observe(postgres: &Postgres, guard: &GuardSupervisor) -> Observation {
    let (set, process) = match guard.fresh_status().await {
        Ok(status) => (process_set(&status), server_process(&status)),
        Err(error) => {
            tracing::warn!(%error, "the guard does not answer");
            (ProcessSet::default(), Err(error))
        }
    };
    let status = postgres.observe_process(process.map_err(Into::into)).await;
    let answered = matches!(
        status,
        PostgresStatus::Standby(_) | PostgresStatus::Primary(_)
    );
    Observation {
        postgres: status,
        set,
        answered_at: answered.then(now),
    }
}

/// The guard's status in the model's words.
pub fn process_set(status: &Status) -> ProcessSet {
    ProcessSet {
        is_empty: status.empty && status.set.is_none(),
        armed: status
            .set
            .as_ref()
            .and_then(|set| set.armed)
            .map(|armed| Epoch(armed.epoch)),
        has_foreign: !status.foreign.is_empty(),
        guard_answers: true,
    }
}
