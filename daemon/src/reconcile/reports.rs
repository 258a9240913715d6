//! The reports of all members as the leader holds them, and the merged view it sends back.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cluster_core::model::confirmation::{StandbySeen, SyncReport};
use cluster_core::model::lease::Moment;
use cluster_core::model::view::Seen;
use cluster_core::model::{MemberName, MemberReport, PostgresStatus};
use tokio::sync::Notify;

use crate::lease::now;

/// Newest report of every member heard by this process. Kept also while it does not lead: a stale
/// report of a lost primary says how far it had come.
#[derive(Default)]
pub struct Reports {
    heard: Mutex<BTreeMap<MemberName, (MemberReport, Moment)>>,
    news: Notify,
}

impl Reports {
    /// Takes one report; wakes the cluster loop when something it decides on has changed.
    pub fn take(&self, report: MemberReport) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = heard
            .get(&report.member)
            .is_none_or(|(before, _)| is_urgent(before, &report));
        heard.insert(report.member.clone(), (report, now()));
        drop(heard);
        if is_news {
            self.news.notify_one();
        }
    }

    /// Every report with its age.
    pub fn seen(&self) -> BTreeMap<MemberName, Seen> {
        let now = now();
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard
            .iter()
            .map(|(name, (report, at))| {
                (
                    name.clone(),
                    Seen {
                        report: report.clone(),
                        age: now.since(*at),
                    },
                )
            })
            .collect()
    }

    /// Resolves when a report brought news.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

/// Whether the leader should look at once, and the member should tell at once, not at the next tick.
pub fn is_urgent(before: &MemberReport, now: &MemberReport) -> bool {
    let kind = |report: &MemberReport| std::mem::discriminant(&report.postgres);
    kind(before) != kind(now)
        || before.min_epoch != now.min_epoch
        || before.used != now.used
        || before.seal != now.seal
        || before.set_is_empty != now.set_is_empty
        || before.incarnation != now.incarnation
        || before.system_identifier != now.system_identifier
        || before.busy.is_some() != now.busy.is_some()
        || before.drained != now.drained
        || before.done_request != now.done_request
        || before.tags != now.tags
        || before.addresses != now.addresses
        || confirmations(before) != confirmations(now)
}

/// What the leader decides on of a primary's commits; ages alone are no news.
fn confirmations(report: &MemberReport) -> Option<(SyncReport, usize)> {
    let sync = report.sync.as_ref()?;
    let PostgresStatus::Primary(primary) = &report.postgres else {
        return None;
    };
    let has_x = sync.proven.map_or(0, |proven| {
        let senders = primary.senders.iter();
        senders.filter(|it| it.flushed >= proven.x).count()
    });
    let standbys = sync.standbys.iter().map(|it| StandbySeen {
        proven_for_ms: it.proven_for_ms.map(|_| 0),
        late_for_ms: it.late_for_ms.map(|_| 0),
        ..it.clone()
    });
    let ageless = SyncReport {
        standbys: standbys.collect(),
        ..sync.clone()
    };
    Some((ageless, has_x))
}
