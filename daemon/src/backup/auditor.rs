//! Looks at the archive all the time: does it lead from the oldest backup to now, without a hole? One member does, the
//! one that would verify, and tells it in its report; nothing is replicated, and nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use cluster_backup::names::WalName;
use cluster_core::decide::backups;
use cluster_core::model::lease::Moment;
use cluster_core::model::{ArchiveAudit, AuditFindings, MemberName};
use tokio::sync::watch;

use crate::board::Board;

use super::programs::Programs;
use super::{now_unix_ms, require_own};

/// Whether it is due is asked this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Its parts.
pub struct Auditor {
    /// Own name.
    pub me: MemberName,
    /// Looks.
    pub programs: Programs,
    /// The truth, and what others have found.
    pub board: watch::Receiver<Arc<Board>>,
    /// This host's clock.
    pub clock: fn() -> Moment,
    /// From one look to the next.
    pub interval: Duration,
    /// Where it is told.
    pub told: watch::Sender<Option<ArchiveAudit>>,
}

impl Auditor {
    /// Runs until `shutdown`.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.look() => {}
        }
    }

    async fn look(&self) {
        // What was archived stays archived, also when the primary's daemon is new and does not know it any more. By
        // name: timelines first, then positions.
        let mut archived: Option<String> = None;
        loop {
            tokio::time::sleep(LOOK_EVERY.min(self.interval)).await;
            let board = Arc::clone(&self.board.borrow());
            if let Some(database) = self.due(&board) {
                let now = board.newest_archived().filter(|name| is_segment(name));
                archived = archived.max(now.map(str::to_owned));
                let found = self.programs.audit(database, archived.as_deref()).await;
                self.tell(found);
            }
        }
    }

    /// The database to look at, when it is time and this member's turn.
    fn due(&self, board: &Board) -> Option<u64> {
        let database = board.state.system_identifier?;
        let now = unix_ms();
        let interval = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        let looked = [self.own(), board.audit().map(|(_, it)| it)];
        let looked = looked.iter().flatten().map(|it| it.looked_unix_ms).max();
        // Clocks differ: what was looked at in the future was looked at now.
        let is_due = looked.is_none_or(|at| now.abs_diff(at) >= interval);
        let is_own = require_own(&board.state, &self.programs.repository).is_ok();
        let is_mine = || board.look((self.clock)(), backups::auditor).as_ref() == Some(&self.me);
        (is_due && is_own && is_mine()).then_some(database)
    }

    fn own(&self) -> Option<ArchiveAudit> {
        self.told.borrow().clone()
    }

    fn tell(&self, found: Result<AuditFindings, String>) {
        let before = self.own().unwrap_or_default();
        let mut audit = ArchiveAudit {
            looked_unix_ms: unix_ms(),
            failure: None,
            found: before.found.clone(),
        };
        match found {
            Ok(found) => {
                let missing = |it: &ArchiveAudit| it.found.as_ref().map_or(0, |it| it.missing);
                if found.missing > 0 && missing(&before) != found.missing {
                    let names = found.names.join(", ");
                    let missing = found.missing;
                    tracing::warn!(missing, names, "the archive has a hole");
                }
                audit.found = Some(found);
            }
            Err(why) => {
                if before.failure.as_ref() != Some(&why) {
                    tracing::warn!(why, "the archive could not be looked at");
                }
                audit.failure = Some(why);
            }
        }
        self.told.send_replace(Some(audit));
    }
}

fn is_segment(name: &str) -> bool {
    WalName::parse(name).is_ok_and(|name| name.is_segment())
}

fn unix_ms() -> u64 {
    u64::try_from(now_unix_ms()).unwrap_or(0)
}
