//! Rejoin of an old primary, and rewinds that cannot be or were interrupted.

use anyhow::{Context, Result, ensure};
use cluster_core::decide::rule_setter::{SetterStep, SetterView, rule_step};
use cluster_core::model::postgres::Primary;
use cluster_core::model::{ClusterState, Epoch, PostgresStatus, RuleId, TimelineId};
use clusterd::postgres::{ConfigInputs, Error, Postgres, Promotion, Supervisor, WantedSlot};

use tokio::time::Instant;

use crate::interrupted::{kill_when, wait_for_tool};
use crate::place::{LIMIT, Server, on_every_major};

/// A has crashed with rows that B never saw; B is the primary of timeline 3.
async fn diverged(bin: &std::path::Path) -> Result<(Server, Server, Promotion)> {
    diverged_after(bin, "SELECT").await
}

/// The same; what `common` writes both have, so that the fork lies behind it.
async fn diverged_after(
    bin: &std::path::Path,
    common: &str,
) -> Result<(Server, Server, Promotion)> {
    let (a, b) = (Server::new(bin, "a").await?, Server::new(bin, "b").await?);
    a.bootstrap().await?;
    a.run("CREATE TABLE t (i int); INSERT INTO t VALUES (1)")
        .await?;
    b.follow_by_clone(&a, 1).await?;
    a.run(common).await?;
    b.wait_replayed(a.flushed().await?).await?;
    b.postgres.detach(LIMIT).await?;
    b.wait_end_of_wal().await?;
    a.run("INSERT INTO t SELECT generate_series(100, 5000)")
        .await?;
    a.crash().await?;
    let promotion = b.promote(2, 3).await?;
    b.postgres.apply_config(&b.inputs()).await?;
    b.run("INSERT INTO t VALUES (2)").await?;
    b.postgres.checkpoint(LIMIT).await?;
    Ok((a, b, promotion))
}

#[test]
fn a_crashed_primary_that_carries_the_signal_is_recovered_rewound_and_follows() {
    on_every_major(|bin| async move {
        let (a, b, promotion) = diverged(&bin).await?;
        let upstream = b.upstream(&a, 2);
        // First recovery, with the signal and without upstream; pg_rewind itself could not do it.
        let refused = a
            .postgres
            .rewind(&upstream, &[TimelineId(2)], promotion.fork)
            .await;
        assert!(
            matches!(refused, Err(Error::NeedsClone { .. })),
            "{refused:?}"
        );
        // A clone would be the next step: what only A has is kept before.
        let aside = a.state_dir().join("divergent-wal");
        assert!(aside.read_dir()?.count() == 1, "{}", aside.display());
        a.start().await?;
        let ended = a.wait_end_of_wal().await?;
        assert!(ended.end_of_wal() > promotion.fork && ended.timeline == TimelineId(2));
        a.stop().await?;
        let outcome = a
            .postgres
            .rewind(&upstream, &[TimelineId(2)], promotion.fork)
            .await?;
        let saved = outcome.divergent_wal.expect("it is small enough to keep");
        assert!(saved.read_dir()?.count() >= 1, "divergent WAL is set aside");
        assert!(a.postgres.has_standby_signal() && a.postgres.any_marker().is_none());
        let slot = upstream.slot.clone().expect("tests use slots");
        b.postgres
            .apply_slots(&[WantedSlot {
                name: slot,
                reached: None,
            }])
            .await?;
        let inputs = ConfigInputs {
            upstream: Some(upstream),
            ..a.inputs()
        };
        a.postgres.start_standby(&inputs).await?;
        a.postgres.wait_answering(LIMIT).await?;
        a.wait_replayed(b.flushed().await?).await?;
        assert_eq!(a.standby().await?.timeline, TimelineId(3));
        assert_eq!(
            a.text("SELECT string_agg(i::text, ',') FROM t").await?,
            "1,2"
        );
        assert_eq!(
            a.text("SHOW port").await?,
            a.port.to_string(),
            "the source's files are ignored"
        );
        Ok(())
    });
}

/// X28: without the ladder of a rejoin in front, an old primary with a tail of its own confirms what it
/// does not have. The new one's own look at its walsenders tells it.
#[test]
fn x28_a_diverged_old_primary_under_a_sync_name_is_seen_as_poison() {
    on_every_major(|bin| async move {
        // A copy begins a segment; with the fork just there nothing would be asked of B.
        let (a, b, _) = diverged_after(&bin, "CREATE TABLE common (i int)").await?;
        let upstream = b.upstream(&a, 2);
        let slot = upstream.slot.clone().expect("tests use slots");
        b.postgres
            .apply_slots(&[WantedSlot {
                name: slot,
                reached: None,
            }])
            .await?;
        b.postgres
            .set_rule(RuleId(1), "ANY 1 (\"a~00000001~2\")")
            .await?;
        let state = ClusterState::default();
        let step = |primary: &Primary| {
            rule_step(&SetterView {
                state: &state,
                epoch: Epoch(2),
                confirmed_newest: None,
                primary,
                given: RuleId(1),
                reloaded_unix_ms: None,
                canary_waited: false,
            })
        };
        let before = step(&b.primary().await?);
        assert!(!matches!(before, SetterStep::Poisoned { .. }), "{before:?}");
        let inputs = ConfigInputs {
            upstream: Some(upstream),
            ..a.inputs()
        };
        a.postgres.start_standby(&inputs).await?;
        let begin = Instant::now();
        loop {
            let seen = b.primary().await?;
            match step(&seen) {
                SetterStep::Poisoned { name } => {
                    assert_eq!(name, "a~00000001~2");
                    return Ok(());
                }
                _ => ensure!(begin.elapsed() < LIMIT, "never seen; last: {seen:?}"),
            }
        }
    });
}

/// What the source wrote last may be lost with it; without that a rewound copy is not consistent, however
/// long it is left alone.
#[test]
fn a_rewound_server_that_is_not_consistent_is_told_from_one_that_starts_or_is_stopped() {
    on_every_major(|bin| async move {
        let (a, b, promotion) = diverged(&bin).await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.stop().await?;
        let upstream = b.upstream(&a, 2);
        a.postgres
            .rewind(&upstream, &[TimelineId(2)], promotion.fork)
            .await?;
        let is_unusable = |seen: &PostgresStatus| matches!(seen, PostgresStatus::Unusable { clone_would_cure: true, why } if why.contains("rewound"));
        let seen = a.postgres.observe().await;
        assert!(is_unusable(&seen), "{seen:?}");
        for entry in std::fs::read_dir(a.data_dir().join("pg_wal"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.len() == 24 && name.starts_with("00000003") {
                std::fs::remove_file(entry.path())?;
            }
        }
        a.postgres.start_standby(&a.inputs()).await?;
        let is_seen = |seen: &PostgresStatus| matches!(seen, PostgresStatus::Starting { rewound_for: Some(epoch), .. } if *epoch == Epoch::NONE);
        let begin = std::time::Instant::now();
        loop {
            let seen = a.postgres.observe().await;
            if is_seen(&seen) {
                break;
            }
            assert!(begin.elapsed() < LIMIT, "{seen:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        // The end of the base backup that B was made from begins at the same checkpoint, and takes
        // the rewind's mark out of the control file.
        while a.postgres.control_data().await?.backup_end_required {
            assert!(begin.elapsed() < LIMIT, "the end of the backup is replayed");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let seen = a.postgres.observe().await;
        assert!(is_seen(&seen), "{seen:?}");
        a.stop().await?;
        // A daemon that was started meanwhile knows it too.
        let supervisor: std::sync::Arc<dyn Supervisor> = a.supervisor.clone();
        let again = Postgres::open(a.postgres.options().clone(), supervisor).await?;
        let seen = again.observe().await;
        assert!(is_unusable(&seen), "{seen:?}");
        let seen = a.postgres.observe().await;
        assert!(is_unusable(&seen), "{seen:?}");
        // With its source it becomes consistent, and is an ordinary standby from then on.
        let slot = upstream.slot.clone().expect("tests use slots");
        b.postgres
            .apply_slots(&[WantedSlot {
                name: slot,
                reached: None,
            }])
            .await?;
        let inputs = ConfigInputs {
            upstream: Some(upstream),
            ..a.inputs()
        };
        a.postgres.start_standby(&inputs).await?;
        a.postgres.wait_answering(LIMIT).await?;
        a.postgres.observe().await;
        a.stop().await?;
        let seen = a.postgres.observe().await;
        assert!(matches!(seen, PostgresStatus::Stopped(_)), "{seen:?}");
        Ok(())
    });
}

#[test]
fn a_source_that_cannot_be_reached_changes_nothing() {
    on_every_major(|bin| async move {
        let (a, b, promotion) = diverged(&bin).await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.stop().await?;
        let upstream = b.upstream(&a, 2);
        b.stop().await?;
        let error = a
            .postgres
            .rewind(&upstream, &[TimelineId(2)], promotion.fork)
            .await;
        assert!(
            matches!(error, Err(Error::SourceUnreachable { .. })),
            "{error:?}"
        );
        assert!(a.postgres.any_marker().is_none() && a.postgres.has_standby_signal());
        a.start().await?;
        Ok(())
    });
}

#[test]
fn an_interrupted_rewind_is_never_started_and_a_clone_cures_it() {
    on_every_major(|bin| async move {
        let (a, b, _) = diverged(&bin).await?;
        // As a rewind leaves it when everything dies in the middle.
        std::fs::write(a.state_dir().join("unfinished-rewind"), "b")?;
        let seen = a.postgres.observe().await;
        assert!(
            matches!(
                seen,
                PostgresStatus::Unusable {
                    clone_would_cure: true,
                    ..
                }
            ),
            "{seen:?}"
        );
        let started = a.postgres.start_standby(&a.inputs()).await;
        assert!(
            matches!(started, Err(Error::Unfinished { .. })),
            "{started:?}"
        );
        a.follow_by_clone(&b, 2).await?;
        assert_eq!(
            a.text("SELECT string_agg(i::text, ',') FROM t").await?,
            "1,2"
        );
        Ok(())
    });
}

/// X18: killed anywhere, a rewind leaves a directory that is not started. Two moments: it has begun
/// to copy; it has copied everything and not yet written the control file.
#[test]
fn x18_a_rewind_killed_in_the_middle_is_never_started() {
    on_every_major(|bin| async move {
        for moment in ["copying", "copied"] {
            let (a, b, promotion) = diverged(&bin).await?;
            a.start().await?;
            a.wait_end_of_wal().await?;
            a.stop().await?;
            let data = a.data_dir();
            let copied = data.join("postgresql.auto.conf");
            let before = copied.metadata()?.modified()?;
            let killer = tokio::task::spawn_blocking(move || {
                let pid = wait_for_tool("pg_rewind", &data)?;
                kill_when(pid, || match moment {
                    "copying" => copied
                        .metadata()
                        .and_then(|it| it.modified())
                        .is_ok_and(|now| now != before),
                    _ => data.join("backup_label").exists(),
                })
            });
            let upstream = b.upstream(&a, 2);
            let ended = a
                .postgres
                .rewind(&upstream, &[TimelineId(2)], promotion.fork)
                .await;
            killer.await?.with_context(|| format!("when it {moment}"))?;
            assert!(
                matches!(ended, Err(Error::NeedsClone { .. })),
                "{moment}: {ended:?}"
            );
            let started = a.postgres.start_standby(&a.inputs()).await;
            assert!(
                matches!(started, Err(Error::Unfinished { .. })),
                "{moment}: {started:?}"
            );
            a.follow_by_clone(&b, 2).await?;
            assert_eq!(
                a.text("SELECT string_agg(i::text, ',') FROM t").await?,
                "1,2"
            );
        }
        Ok(())
    });
}

#[test]
fn x19_a_rewound_directory_has_its_signal_and_starts_read_only() {
    on_every_major(|bin| async move {
        let (a, b, promotion) = diverged(&bin).await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.stop().await?;
        let upstream = b.upstream(&a, 2);
        a.postgres
            .rewind(&upstream, &[TimelineId(2)], promotion.fork)
            .await?;
        assert!(a.data_dir().join("standby.signal").is_file());
        let slot = upstream.slot.clone().expect("tests use slots");
        b.postgres
            .apply_slots(&[WantedSlot {
                name: slot,
                reached: None,
            }])
            .await?;
        // It is consistent only at a position whose WAL the source has.
        let inputs = ConfigInputs {
            upstream: Some(upstream),
            ..a.inputs()
        };
        a.postgres.start_standby(&inputs).await?;
        a.postgres.wait_answering(LIMIT).await?;
        assert!(
            a.run("INSERT INTO t VALUES (3)").await.is_err(),
            "no second primary"
        );
        Ok(())
    });
}

/// pg_rewind compares timeline numbers only.
#[test]
fn x15_no_rewind_required_is_not_taken_as_proof() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        a.stop().await?;
        let fork = b.standby().await?.end_of_wal();
        let upstream = a.upstream(&b, 1);
        b.postgres.detach(LIMIT).await?;
        b.wait_end_of_wal().await?;
        b.stop().await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.promote(2, 3).await?;
        a.postgres.apply_config(&a.inputs()).await?;
        a.postgres.checkpoint(LIMIT).await?;
        let error = b.postgres.rewind(&upstream, &[TimelineId(2)], fork).await;
        assert!(
            matches!(&error, Err(Error::NeedsClone { why }) if why.contains("ledger")),
            "{error:?}"
        );
        assert!(b.postgres.any_marker().is_none(), "nothing was changed");
        Ok(())
    });
}
