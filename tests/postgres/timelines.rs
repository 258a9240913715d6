//! Timelines: exactly the number asked for, no left-over, no two histories under one number.

use cluster_core::model::TimelineId;
use clusterd::postgres::{ConfigInputs, Error, StopMode};

use crate::place::{LIMIT, Server, on_every_major};

#[test]
fn x20_a_promotion_takes_exactly_the_number_it_is_given() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.postgres.initdb().await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        let promotion = a.promote(1, 7).await?;
        assert_eq!(promotion.timeline, TimelineId(7));
        let mut histories: Vec<String> = a
            .data_dir()
            .join("pg_wal")
            .read_dir()?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".history"))
            .collect();
        histories.sort();
        let expected: Vec<String> = (2..=7)
            .map(|number| format!("{number:08X}.history"))
            .collect();
        assert_eq!(histories, expected, "a follower asks for each of them");
        let text = std::fs::read_to_string(a.data_dir().join("pg_wal/00000007.history"))?;
        assert_eq!(
            text.trim().lines().count(),
            1,
            "its own history is clean: {text}"
        );
        a.run("CREATE TABLE t (i int)").await?;
        a.crash().await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        assert_eq!(a.promote(2, 9).await?.timeline, TimelineId(9));
        Ok(())
    });
}

#[test]
fn a_standby_follows_over_numbers_that_no_primary_ever_used() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        a.postgres.apply_config(&a.inputs()).await?;
        b.follow_by_clone(&a, 1).await?;
        a.crash().await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.promote(2, 5).await?;
        a.postgres.apply_config(&a.inputs()).await?;
        a.run("CREATE TABLE later AS SELECT 1 AS i").await?;
        b.postgres.attach(a.upstream(&b, 2)).await?;
        let begin = tokio::time::Instant::now();
        while b.number("SELECT count(*) FROM later").await.ok() != Some(1) {
            anyhow::ensure!(begin.elapsed() < LIMIT, "it does not follow");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    });
}

#[test]
fn x20_a_left_over_placeholder_is_removed_before_the_start() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        a.stop().await?;
        let left = a.data_dir().join("pg_wal/00000003.history");
        std::fs::write(&left, "1\t0/0\treserved\n")?;
        a.start().await?;
        assert!(!left.exists());
        a.wait_end_of_wal().await?;
        assert_eq!(a.promote(2, 4).await?.timeline, TimelineId(4));
        Ok(())
    });
}

#[test]
fn a_number_that_is_taken_or_lies_behind_is_refused_before_anything_happens() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        a.stop().await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.arm(2).await?;
        for taken in [1, 2] {
            let epoch = cluster_core::model::Epoch(2);
            let error = a.postgres.promote(epoch, TimelineId(taken), LIMIT).await;
            assert!(
                matches!(error, Err(Error::TimelineTaken { .. })),
                "{error:?}"
            );
        }
        a.standby().await?;
        Ok(())
    });
}

/// Without allocation both would have become timeline 3 with different rows (X15), and would have
/// streamed from one another as if they were one (X16).
#[test]
fn x15_x16_two_standbys_of_one_primary_promoted_one_after_the_other_are_told_apart() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        a.run("CREATE TABLE t (i int, who text)").await?;
        b.follow_by_clone(&a, 1).await?;
        a.stop().await?;
        let end = b.standby().await?.end_of_wal();
        b.postgres.detach(LIMIT).await?;
        b.wait_end_of_wal().await?;
        assert!(b.standby().await?.end_of_wal() >= end);
        // A is promoted again, alone; then B, which has seen nothing of that.
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.promote(2, 3).await?;
        a.run("INSERT INTO t VALUES (1, 'from-a')").await?;
        a.postgres.checkpoint(LIMIT).await?;
        a.postgres.stop(StopMode::Immediate, LIMIT).await?;
        let fork = b.promote(3, 4).await?.fork;
        b.run("INSERT INTO t VALUES (1, 'from-b'), (2, 'from-b')")
            .await?;
        b.postgres.checkpoint(LIMIT).await?;
        // B's history never had timeline 3: A cannot stream, and a rewind sees the divergence.
        let upstream = b.upstream(&a, 3);
        b.postgres
            .apply_config(&ConfigInputs {
                upstream: None,
                ..b.inputs()
            })
            .await?;
        a.start().await?;
        a.wait_end_of_wal().await?;
        a.stop().await?;
        a.postgres.rewind(&upstream, &[TimelineId(3)], fork).await?;
        let wanted = clusterd::postgres::WantedSlot {
            name: upstream.slot.clone().expect("tests use slots"),
            reached: None,
        };
        b.postgres.apply_slots(&[wanted]).await?;
        let inputs = ConfigInputs {
            upstream: Some(upstream),
            ..a.inputs()
        };
        a.postgres.start_standby(&inputs).await?;
        a.postgres.wait_answering(LIMIT).await?;
        a.wait_replayed(b.flushed().await?).await?;
        assert_eq!(
            a.text("SELECT string_agg(who, ',') FROM t").await?,
            "from-b,from-b"
        );
        Ok(())
    });
}

/// X17: PostgreSQL removes the signal before the end of recovery is durable; a crash in between
/// leaves a directory that would start as a primary on its old timeline.
#[test]
fn x17_a_signal_that_an_interrupted_promotion_removed_is_put_back_before_the_start() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        b.crash().await?;
        std::fs::remove_file(b.data_dir().join("standby.signal"))?;
        std::fs::write(b.data_dir().join("promote"), "")?;
        std::fs::write(
            b.data_dir().join("pg_wal/00000003.history"),
            "1\t0/0\tleft over\n",
        )?;
        b.start().await?;
        let standby = b.wait_end_of_wal().await?;
        assert_eq!(standby.timeline, TimelineId(2));
        assert!(!b.data_dir().join("promote").exists());
        assert_eq!(b.promote(2, 4).await?.timeline, TimelineId(4));
        Ok(())
    });
}

/// Two promotions in a row, on a server that wrote little: the segment that holds the first fork is
/// renamed by the second, and a standby that was away for both asks for it by its name.
#[test]
fn a_standby_that_missed_two_promotions_within_one_segment_still_follows() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        b.postgres.detach(LIMIT).await?;
        b.wait_end_of_wal().await?;
        let mut forks = Vec::new();
        for epoch in [2, 3] {
            a.crash().await?;
            a.start().await?;
            a.wait_end_of_wal().await?;
            forks.push(a.promote(epoch, u32::try_from(epoch)? + 1).await?.fork);
        }
        let segment = a.postgres.control_data().await?.wal_segment_bytes;
        let (first, second) = (forks[0].0 / segment, forks[1].0 / segment);
        assert_eq!(first, second, "two segments: this shows nothing");
        let names = a.data_dir().join("pg_wal").read_dir()?.flatten();
        let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let is_renamed = |name: String| name.starts_with("00000003") && name.ends_with(".partial");
        assert!(
            names.any(is_renamed),
            "nothing was renamed: this shows nothing"
        );
        a.postgres.keep_parent(TimelineId(4)).await?;
        b.postgres.attach(a.upstream(&b, 3)).await?;
        a.run("CREATE TABLE after_both (i int)").await?;
        b.wait_replayed(a.flushed().await?).await?;
        assert_eq!(b.standby().await?.timeline, TimelineId(4));
        Ok(())
    });
}
