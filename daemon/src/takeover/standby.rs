//! A standby of the old primary: what is to be known of it, and its hand-over.
//!
//! The old standby goes on streaming from the old primary, in its old server, until that primary is
//! the cluster's (DESIGN section 5: nothing here can be promoted before). Only then is it stopped in
//! order and started under the guard, with the data it has. The surprise: the number of a timeline proves
//! nothing about a stranger's WAL, because somebody may have run it out of recovery for a moment. So it
//! must stream at the first look, and at the last one, in the same process, have replayed to the very
//! byte where its primary's WAL ended; anything else is refused, not repaired.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use cluster_core::model::{ClusterState, Incarnation, Ledger, Lsn, MemberReport, PostgresStatus};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::postgres::OldStandby;
use crate::raft::ClusterStore;

use super::checks::{Findings, Situation, refuse};
use super::handover::{Hold, OPEN_LIMIT, Place, STOP_LIMIT, keep};
use super::{Looked, look};

/// How long it may take to replay what its primary wrote last.
const PROOF_LIMIT: Duration = Duration::from_secs(60);
/// How often that is looked at.
const PROOF_STEP: Duration = Duration::from_millis(100);
const TO_CLONE: &str = "(to have it cloned: stop it, empty its data directory, start clusterd)";
const NOT_STREAMING: &str = "it does not stream: whether its WAL is its primary's cannot be told";

/// What is special about taking a standby over; the rest is as for a primary.
pub fn assess(situation: &Situation<'_>, standby: &OldStandby, found: &mut Findings) {
    if !standby.has_signal {
        refuse(
            &mut found.refused,
            "it is in recovery without standby.signal: a restore, no standby",
            "let it finish, then take it over as what it is; or let this member begin with an empty \
             data directory",
        );
    }
    for target in &situation.facts.recovery_targets {
        let (name, value) = target.split_once(" = ").unwrap_or((target, ""));
        if !found.replaced.iter().any(|(known, _)| known == name) {
            let value = value.trim_matches('\'').to_owned();
            found.replaced.push((name.to_owned(), value));
        }
    }
    let facts = situation.facts;
    if !standby.is_streaming {
        refuse(
            &mut found.refused,
            NOT_STREAMING,
            "see why in its log, and repeat this when it streams; or let this member begin with an \
             empty data directory: it is cloned",
        );
    }
    let mut warn = |text: String| found.warnings.push(text);
    if situation.port != situation.postgres.port {
        warn(format!(
            "it listens on port {}, and will on {} (postgres.port): clients must follow",
            situation.port, situation.postgres.port
        ));
    }
    for other in &facts.standbys {
        warn(format!(
            "`{other}` streams from this standby: every member will stream from the primary"
        ));
    }
    let delay = facts
        .parameters
        .iter()
        .find(|parameter| parameter.name == "recovery_min_apply_delay" && parameter.value != "0");
    if delay.is_some() {
        warn(
            "recovery_min_apply_delay is imported: it goes on replaying late. Set it to 0 for the \
             take-over, which waits until it has replayed what comes now"
                .to_owned(),
        );
    }
}

impl Looked {
    fn standby(&self) -> anyhow::Result<&OldStandby> {
        let standby = self.facts.standby.as_ref();
        standby.context("it is no standby any more: somebody has promoted it")
    }
}

/// Waits for the primary, then stops the old standby and makes its data a member's.
///
/// # Errors
/// Why it was not done; the old directory is as it was.
pub async fn hand_over(
    first_look: &Looked,
    place: &Place<'_>,
    first: MemberReport,
) -> anyhow::Result<()> {
    let Place {
        config,
        store,
        postgres,
        hold,
        durable,
    } = *place;
    wait_for_primary(
        first_look.facts.system_identifier,
        config,
        store,
        hold,
        first,
    )
    .await?;
    let now = wait_until_proven(first_look, place).await?;
    keep(config, postgres, &now)?;
    tracing::info!(
        reason = "take-over",
        pid = now.old.pid,
        "stops the old standby"
    );
    let stopped = async {
        now.old.stop(STOP_LIMIT).await?;
        let control = postgres.control_data().await?;
        let is_standby = control.state == "shut down in recovery";
        anyhow::ensure!(is_standby, "it ended as `{}`", control.state);
        anyhow::Ok(())
    };
    if let Err(error) = stopped.await {
        postgres.drop_kept_import()?;
        return Err(error.context(
            "the old standby did not stop cleanly; its directory is as it was: start it as before",
        ));
    }
    // It streamed until now: whatever it has beyond the old timeline it has from that primary.
    let line = store.state().state.epoch();
    let incarnation = Incarnation(rand::random());
    durable
        .change(move |kept| {
            kept.incarnation = Some(incarnation);
            kept.line = Some(line);
        })
        .await
        .context("keep that the data is a member's")?;
    Ok(())
}

/// Waits until its WAL is shown to be the primary's, in the process that streamed at the first look.
async fn wait_until_proven(first_look: &Looked, place: &Place<'_>) -> anyhow::Result<Looked> {
    let first = first_look.standby()?;
    let before = first.replayed;
    let began = Instant::now();
    loop {
        let now = look(place.config).await?;
        // That it does not stream now is no wonder: its primary was stopped.
        let refused = now.findings.refused.iter();
        Looked::refuse_any(refused.filter(|it| it.what != NOT_STREAMING))?;
        anyhow::ensure!(
            now.old.is_same_process(&first_look.old),
            "the old standby was restarted meanwhile; it was not touched: repeat it"
        );
        let standby = &since(first, now.standby()?);
        let own_fork = place.postgres.fork_of(standby.timeline)?;
        let state = place.store.state().state.clone();
        let local = Local {
            own_fork,
            follows_primary: follows_primary(&state, standby).await,
        };
        match prove(&state.ledger, standby, local) {
            Proof::Given if standby.replayed > before => return Ok(now),
            Proof::Against(why) => bail!("the old standby {why}; it was not touched {TO_CLONE}"),
            Proof::Given | Proof::NotYet if began.elapsed() > PROOF_LIMIT => bail!(
                "in {PROOF_LIMIT:?} the old standby has not replayed everything its primary wrote \
                 before its stop, so nothing shows that its WAL is its primary's; it was not touched \
                 {TO_CLONE}"
            ),
            Proof::Given | Proof::NotYet => sleep(PROOF_STEP).await,
        }
    }
}

/// The same process, looked at again: its timeline is never an older one than it was. While nobody sends it
/// WAL it knows its timeline only from its control file, which says the one of its last restartpoint, minutes
/// ago; after a failover of the old cluster that may be the one before.
fn since(first: &OldStandby, now: &OldStandby) -> OldStandby {
    OldStandby {
        timeline: now.timeline.max(first.timeline),
        ..now.clone()
    }
}

/// What is known about the WAL of an old standby.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    /// It is the primary's.
    Given,
    /// It may be, as far as it goes.
    NotYet,
    /// It is not, and why.
    Against(String),
}

/// What is known of it on this host alone.
#[derive(Clone, Copy)]
struct Local {
    /// Where its timeline began, by its own files.
    own_fork: Option<Lsn>,
    /// It streams now from where the cluster's primary listens.
    follows_primary: bool,
}

/// Whether it streams from the holder of the newest epoch, whatever name it knows that by.
async fn follows_primary(state: &ClusterState, standby: &OldStandby) -> bool {
    let holder = state.reign.as_ref().map(|reign| &reign.holder);
    let primary = holder.and_then(|holder| state.members.get(holder));
    let (Some(primary), Some(upstream)) = (primary, &standby.upstream) else {
        return false;
    };
    let address = &primary.addresses.postgres;
    let resolve = async |place: &str| -> Vec<SocketAddr> {
        let found = tokio::net::lookup_host(place).await;
        found.map(Iterator::collect).unwrap_or_default()
    };
    let (theirs, ours) = (resolve(upstream).await, resolve(address).await);
    standby.is_streaming && (upstream == address || theirs.iter().any(|it| ours.contains(it)))
}

/// Compares where it is with the ledger, to the byte: two histories that share a number do not share
/// the place where the primary's ended.
fn prove(ledger: &Ledger, standby: &OldStandby, local: Local) -> Proof {
    let timeline = standby.timeline;
    if let Some(entry) = ledger.entry(timeline) {
        // It has followed a new primary by itself; the cluster's, or another that began at that place.
        let fork = entry.fork();
        return match local.own_fork {
            Some(own) if own == fork && local.follows_primary => Proof::Given,
            Some(own) if own == fork => Proof::NotYet,
            Some(_) | None => Proof::Against(format!(
                "has a timeline {timeline} that did not begin at {fork}, as its primary's did"
            )),
        };
    }
    // A Grant that was never promoted has left nothing.
    let forks = ledger
        .entries
        .iter()
        .filter(|entry| entry.parent == timeline);
    let ends: Vec<Lsn> = forks.filter_map(|entry| entry.fork).collect();
    match ends.iter().max() {
        _ if ends.contains(&standby.replayed) => Proof::Given,
        Some(end) if standby.replayed > *end => Proof::Against(format!(
            "has WAL up to {}, and its primary's ended at {end}",
            standby.replayed
        )),
        None if timeline > ledger.base => Proof::Against(format!(
            "is on timeline {timeline}, which its primary never had"
        )),
        Some(_) | None => Proof::NotYet,
    }
}

/// Until an epoch of the cluster's has been promoted: the primary is taken over.
async fn wait_for_primary(
    own: u64,
    config: &Config,
    store: &ClusterStore,
    hold: &Hold,
    first: MemberReport,
) -> anyhow::Result<()> {
    hold.report.send_replace(Some(MemberReport {
        // Not told: the one that tells it brings the first data.
        system_identifier: None,
        postgres: PostgresStatus::Unknown {
            why: "a standby that is taken over after its primary".to_owned(),
        },
        verdict: "waits until its primary is taken over".to_owned(),
        ..first
    }));
    tracing::info!(
        reason = "take-over",
        "the old standby goes on as it is until its primary is taken over"
    );
    let mut applied = store.watch();
    let is_ready = |state: &ClusterState| {
        state.initializer.as_ref() == Some(&config.name)
            || state.system_identifier.is_some_and(|other| other != own)
            || state
                .ledger
                .entries
                .iter()
                .any(|entry| entry.fork.is_some())
    };
    let state = applied
        .wait_for(|applied| is_ready(&applied.state))
        .await
        .context("Raft has ended")?
        .state
        .clone();
    if state.system_identifier.is_some_and(|other| other != own) {
        bail!(
            "this is a standby of database system {own}, and the cluster's is {}: it is not taken \
             over, and was not touched",
            state.system_identifier.unwrap_or_default()
        );
    }
    if state.initializer.as_ref() == Some(&config.name) {
        bail!(
            "this member was told to bring the first data, but it has a standby; it was not touched"
        );
    }
    Ok(())
}

/// Waits until it streams from the cluster's primary, and tells so.
pub async fn tell_streaming(
    looked: &Looked,
    mut seen: tokio::sync::watch::Receiver<PostgresStatus>,
) {
    let streams = |status: &PostgresStatus| {
        matches!(status, PostgresStatus::Standby(standby)
            if standby.follows.is_some() && standby.receiver.as_ref().is_some_and(|it| it.is_streaming))
    };
    match timeout(OPEN_LIMIT, seen.wait_for(streams)).await {
        Ok(Ok(_)) => {
            tracing::info!(
                reason = "taken-over",
                "taken over as a standby; it streams from the cluster's primary"
            );
            println!("\nThe way back\n  {}", looked.way_back.join("\n  "));
        }
        Ok(Err(_)) | Err(_) => tracing::warn!(
            reason = "take-over",
            "the standby does not stream yet, {OPEN_LIMIT:?} after its stop (see `clusterctl status`)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster_core::model::ledger::LedgerEntry;
    use cluster_core::model::{Epoch, TimelineId};

    /// Taken over on timeline 3 at 500, promoted onto 4 there.
    fn proof(timeline: u32, replayed: u64, own_fork: Option<u64>) -> Proof {
        proof_from(timeline, replayed, own_fork, true)
    }

    fn proof_from(
        timeline: u32,
        replayed: u64,
        own_fork: Option<u64>,
        follows_primary: bool,
    ) -> Proof {
        let entry = LedgerEntry {
            epoch: Epoch(1),
            member: "a".parse().expect("name"),
            incarnation: Incarnation(1),
            timeline: TimelineId(4),
            parent: TimelineId(3),
            start: Lsn(500),
            fork: Some(Lsn(500)),
        };
        let ledger = Ledger {
            base: TimelineId(3),
            entries: vec![entry],
        };
        let standby = OldStandby {
            timeline: TimelineId(timeline),
            replayed: Lsn(replayed),
            is_streaming: false,
            upstream: None,
            has_signal: true,
        };
        let local = Local {
            own_fork: own_fork.map(Lsn),
            follows_primary,
        };
        prove(&ledger, &standby, local)
    }

    #[test]
    fn only_the_very_end_of_its_primarys_wal_proves_a_standby() {
        assert_eq!(proof(3, 500, Some(200)), Proof::Given);
        assert_eq!(proof(3, 499, Some(200)), Proof::NotYet);
        assert_eq!(proof(2, 100, None), Proof::NotYet, "not there yet");
        assert!(matches!(proof(3, 501, Some(200)), Proof::Against(_)));
        assert!(matches!(proof(5, 400, Some(300)), Proof::Against(_)));
    }

    #[test]
    fn a_standby_without_a_sender_keeps_the_timeline_it_had() {
        let seen = |timeline: u32, replayed: u64| OldStandby {
            timeline: TimelineId(timeline),
            replayed: Lsn(replayed),
            is_streaming: false,
            upstream: None,
            has_signal: true,
        };
        let now = since(&seen(3, 400), &seen(2, 500));
        assert_eq!((now.timeline, now.replayed), (TimelineId(3), Lsn(500)));
        let now = since(&seen(3, 400), &seen(4, 700));
        assert_eq!(now.timeline, TimelineId(4), "it has followed");
    }

    #[test]
    fn a_timeline_of_the_same_number_must_begin_where_the_clusters_does() {
        assert_eq!(proof(4, 700, Some(500)), Proof::Given, "it has followed");
        assert_eq!(
            proof_from(4, 700, Some(500), false),
            Proof::NotYet,
            "another server that was promoted at the same place"
        );
        for fork in [Some(480), Some(520), None] {
            assert!(matches!(proof(4, 700, fork), Proof::Against(_)), "{fork:?}");
        }
    }
}
