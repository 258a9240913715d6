//! What an operator can do to this member alone: leave before a stop or a host's shutdown, change
//! the log level, collect what helps to find out what is wrong.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster_core::change::Command;
use cluster_core::model::request::Step;
use cluster_core::model::{ClusterState, MemberName, RequestId, RequestKind, RequestOutcome};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::api::{Collected, LocalControl};
use crate::board::{Board, Propose};
use crate::callbacks::Callbacks;
use crate::postgres::Postgres;
use crate::secret::Masks;
use crate::telemetry::Telemetry;

/// Stops of a standby or of a former primary that has handed over.
const STOP_BUDGET: Duration = Duration::from_secs(30);
/// PostgreSQL's own words about its control file; a disk that stands still gives none.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);

/// The parts.
pub struct Local {
    /// Own name.
    pub me: MemberName,
    /// The newest board.
    pub board: watch::Receiver<Arc<Board>>,
    /// The way to the leader.
    pub propose: Arc<dyn Propose>,
    /// None on a witness.
    pub postgres: Option<Postgres>,
    /// The runtime of whatever touches PostgreSQL or its files.
    pub beside: Handle,
    /// Told to the member loop: nothing is started here any more.
    pub leaving: watch::Sender<bool>,
    /// The operator's programs.
    pub callbacks: Callbacks,
    /// The log.
    pub telemetry: Telemetry,
    /// The config, every default filled in and secrets masked.
    pub config: String,
    /// This member's secrets.
    pub masks: Masks,
}

fn is_primary(state: &ClusterState, me: &MemberName) -> bool {
    state.granted().is_some_and(|reign| reign.holder == *me)
}

impl Local {
    /// Hands over and waits for the end of it; the sentence tells how it went.
    async fn hand_over(&self, by: &str, limit: Duration) -> Result<String, String> {
        let id = RequestId(format!("leave-{:016x}", rand::random::<u64>()));
        let kind = RequestKind::Switchover { to: None };
        let ask = Command::Ask {
            id: id.clone(),
            kind,
            by: by.to_owned(),
        };
        self.propose
            .propose(ask)
            .await
            .map_err(|error| error.to_string())?;
        let mut board = self.board.clone();
        let ended = board.wait_for(|board| {
            board
                .state
                .requests
                .get(&id)
                .is_some_and(|request| !request.is_open())
        });
        let board = tokio::time::timeout(limit, ended)
            .await
            .map_err(|_elapsed| format!("the hand-over did not end within {limit:?}"))?
            .map_err(|_closed| "this daemon is stopping".to_owned())?;
        match board.state.requests.get(&id).map(|request| &request.step) {
            Some(Step::Ended(RequestOutcome::Done { text })) => Ok(text.clone()),
            Some(Step::Ended(RequestOutcome::Failed { why })) => Err(why.clone()),
            Some(_) | None => Err("the request is gone".to_owned()),
        }
    }
}

impl Local {
    async fn control_data(&self, postgres: Postgres) -> Result<String, String> {
        let asking = self
            .beside
            .spawn(async move { postgres.control_data_text().await });
        match tokio::time::timeout(CONTROL_LIMIT, asking).await {
            Ok(Ok(Ok(text))) => Ok(text),
            Ok(Ok(Err(error))) => Err(crate::telemetry::chain(&error)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("no answer within {CONTROL_LIMIT:?}")),
        }
    }
}

#[async_trait]
impl LocalControl for Local {
    async fn leave(&self, by: &str, limit: Duration) -> Result<String, String> {
        let state = Arc::clone(&self.board.borrow().state);
        if state.system_identifier.is_none() {
            // Whatever runs here is not ours yet: it may be a server that is to be taken over.
            return Ok("the cluster has no data yet".to_owned());
        }
        let told = if is_primary(&state, &self.me) {
            // A hand-over that fails must not keep a host from shutting down: the stop that follows
            // releases the epoch, and the others choose.
            match self.hand_over(by, limit).await {
                Ok(text) => text,
                Err(why) => format!("not handed over ({why})"),
            }
        } else {
            "not the primary".to_owned()
        };
        self.leaving.send_replace(true);
        let Some(postgres) = self.postgres.clone() else {
            return Ok(told);
        };
        self.callbacks.before_stop().await;
        let stopping = async move { postgres.stop_budgeted(STOP_BUDGET).await };
        let stopped = self.beside.spawn(stopping).await;
        match stopped.map_err(|error| error.to_string())? {
            Ok(_) => Ok(format!(
                "{told}; PostgreSQL is stopped until clusterd starts again"
            )),
            Err(error) => Err(format!("{told}; PostgreSQL did not stop: {error}")),
        }
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        self.telemetry
            .set_level(level)
            .map_err(|error| error.to_string())
    }

    async fn collect(&self, also: Vec<(String, String)>) -> Collected {
        let mut found = Collected {
            files: also,
            problems: Vec::new(),
        };
        let mut add = |name: &str, text: Result<String, String>| match text {
            Ok(text) => found.files.push((name.to_owned(), text)),
            Err(why) => found.problems.push(format!("{name}: {why}")),
        };
        add("config.toml", Ok(self.config.clone()));
        let recent = self.telemetry.recent();
        add(
            "clusterd.log",
            recent.ok_or_else(|| "a line is being written".to_owned()),
        );
        if let Some(postgres) = self.postgres.clone() {
            add("pg_controldata.txt", self.control_data(postgres).await);
        }
        for (_, text) in &mut found.files {
            *text = self.masks.over(text);
        }
        found
    }
}
