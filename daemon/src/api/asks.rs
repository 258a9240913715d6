//! Records an operator's request and watches the board until it ends; shared by HTTP and gRPC. The
//! end is seen on the own board, because Raft replicates it to every member.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::change::command::COMMAND_VERSION;
use cluster_core::change::{Applied, Command, Rejected, Stamp, apply};
use cluster_core::model::request::Step;
use cluster_core::model::{MemberName, Request, RequestId, RequestKind, RequestOutcome};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::board::{Board, Propose, ProposeError};

/// Longest a proposal may take before its end is called unknown.
pub const PROPOSE_LIMIT: Duration = Duration::from_secs(5);

/// How a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As asked.
    Done(String),
    /// Not done.
    Failed(String),
    /// Still open when the waiting ended.
    Unknown,
}

/// Proposes and watches.
#[derive(Clone)]
pub struct Asks {
    board: watch::Receiver<Arc<Board>>,
    propose: Arc<dyn Propose>,
}

impl Asks {
    /// Over this board and this way to propose.
    pub fn new(board: watch::Receiver<Arc<Board>>, propose: Arc<dyn Propose>) -> Asks {
        Asks { board, propose }
    }

    /// The newest board; never waits.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board.borrow())
    }

    /// A receiver of boards of one's own.
    pub fn receiver(&self) -> watch::Receiver<Arc<Board>> {
        self.board.clone()
    }

    /// Proposes a command, for at most [`PROPOSE_LIMIT`].
    ///
    /// # Errors
    /// Refused, no leader, or unknown.
    pub async fn propose(&self, command: Command) -> Result<(), ProposeError> {
        tokio::time::timeout(PROPOSE_LIMIT, self.propose.propose(command))
            .await
            .unwrap_or(Err(ProposeError::Unknown))
    }

    /// What applying `command` to the truth as known here would say; changes nothing.
    ///
    /// # Errors
    /// The refusal it would meet.
    pub fn rehearse(&self, command: Command) -> Result<Applied, Rejected> {
        let board = self.board();
        let mut state = (*board.state).clone();
        let stamp = Stamp {
            version: COMMAND_VERSION,
            at_unix_ms: 0,
            command,
        };
        apply(&mut state, board.applied_index + 1, &stamp)
    }

    /// Waits until the request ends, at most `limit`.
    pub async fn ended(&self, id: &RequestId, limit: Duration) -> Ending {
        let mut progress = self.watch(id.clone(), limit);
        while let Some(request) = progress.next().await {
            match request.step {
                Step::Ended(RequestOutcome::Done { text }) => return Ending::Done(text),
                Step::Ended(RequestOutcome::Failed { why }) => return Ending::Failed(why),
                Step::Accepted
                | Step::Prepare { .. }
                | Step::Drain { .. }
                | Step::Rolling { .. }
                | Step::Moving { .. } => {}
            }
        }
        Ending::Unknown
    }

    /// Every change of a request's step, until it ends or `limit` has passed.
    pub fn watch(&self, id: RequestId, limit: Duration) -> Progress {
        let board = self.board.clone();
        Progress {
            board,
            id,
            deadline: Instant::now() + limit,
            last: None,
        }
    }

    /// The holder of the granted reign now.
    pub fn holder(&self) -> Option<MemberName> {
        self.board()
            .state
            .granted()
            .map(|reign| reign.holder.clone())
    }
}

/// The steps of one request as they appear on the board.
pub struct Progress {
    board: watch::Receiver<Arc<Board>>,
    id: RequestId,
    deadline: Instant,
    last: Option<Step>,
}

impl Progress {
    /// The request at its next new step; none once it ended, the time is over or the daemon stops.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            if matches!(self.last, Some(Step::Ended(_))) {
                return None;
            }
            let state = Arc::clone(&self.board.borrow_and_update().state);
            if let Some(request) = state.requests.get(&self.id)
                && self.last.as_ref() != Some(&request.step)
            {
                self.last = Some(request.step.clone());
                return Some(request.clone());
            }
            tokio::time::timeout_at(self.deadline, self.board.changed())
                .await
                .ok()?
                .ok()?;
        }
    }
}

/// A request id for a client that chose none.
pub fn new_request_id() -> RequestId {
    RequestId(format!("{:016x}", rand::random::<u64>()))
}

/// The member a request is about, as far as it names one.
pub fn member_of(kind: &RequestKind) -> Option<&MemberName> {
    match kind {
        RequestKind::Switchover { to } => to.as_ref(),
        RequestKind::RestartPending => None,
        RequestKind::Failover { to: member }
        | RequestKind::Restart { member }
        | RequestKind::Reload { member }
        | RequestKind::Reinit { member } => Some(member),
    }
}
