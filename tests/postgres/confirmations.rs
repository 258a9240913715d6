//! A rule given to a real server: read back, waited for, taken over by walsenders.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_core::model::RuleId;
use cluster_core::model::postgres::Sender;
use clusterd::postgres::{CommitOverrides, ConfigInputs, Error};
use tokio::time::{Instant, sleep};

use crate::place::{LIMIT, Server, on_every_major};

const NAMES: &str = "ANY 1 (\"b~00000001~1\")";

#[test]
fn a_rule_is_given_in_order_and_the_server_says_which() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        assert_eq!(a.postgres.rule_given().await?.rule, RuleId(0));
        a.postgres.set_rule(RuleId(3), "").await?;
        assert_eq!(a.postgres.rule_given().await?.rule, RuleId(3));
        a.postgres.set_rule(RuleId(3), "").await?;
        for (rule, names) in [(RuleId(2), ""), (RuleId(3), NAMES)] {
            match a.postgres.set_rule(rule, names).await {
                Err(Error::OldRule { newest, .. }) => assert_eq!(newest, RuleId(3)),
                other => anyhow::bail!("{other:?}"),
            }
        }
        // What is written and not read yet is not given.
        let ahead = ConfigInputs {
            rule: RuleId(9),
            ..a.postgres.inputs()
        };
        a.postgres.write_config(&ahead)?;
        assert_eq!(a.postgres.rule_given().await?.rule, RuleId(3));
        // Another process was given nothing.
        a.crash().await?;
        a.start().await?;
        assert_eq!(a.postgres.rule_given().await?.rule, RuleId(0));
        Ok(())
    });
}

#[test]
fn a_commit_is_seen_waiting_behind_the_fence_and_passing_without_it() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        a.postgres.set_rule(RuleId(1), "").await?;
        ensure!(
            !a.postgres.canary_waits(LIMIT).await?,
            "nobody is waited for"
        );
        a.postgres.set_fence().await?;
        let begin = Instant::now();
        while !a.postgres.canary_waits(Duration::from_millis(500)).await? {
            ensure!(begin.elapsed() < LIMIT, "commits pass the fence");
        }
        // Ours do not wait, and nothing of the canary is left.
        a.postgres.nudge().await?;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        while a.number(waiting).await? > 0 {
            ensure!(begin.elapsed() < LIMIT, "the canary waits on");
        }
        Ok(())
    });
}

#[test]
fn walsenders_take_a_new_rule_and_one_that_is_ended_comes_back_with_it() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        a.postgres.set_rule(RuleId(1), NAMES).await?;
        let loaded = a.postgres.rule_given().await?.loaded_unix_ms;
        let before = sender(&a, |it| it.sync_priority > 0).await?;
        assert!(before.started_unix_ms <= loaded);
        a.postgres
            .end_walsenders(&["b~00000001~1".to_owned()])
            .await?;
        let is_back = |it: &Sender| it.started_unix_ms > loaded && it.sync_priority > 0;
        sender(&a, is_back).await?;
        // Whoever waits is let go by the standby's answer to it.
        a.run("CREATE TABLE confirmed (i int)").await?;
        Ok(())
    });
}

#[test]
fn what_is_fetched_from_a_sealed_member_comes_under_no_members_name() {
    on_every_major(|bin| async move {
        let (a, b) = (Server::new(&bin, "a").await?, Server::new(&bin, "b").await?);
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        b.postgres.detach(LIMIT).await?;
        a.run("CREATE TABLE more (i int)").await?;
        let until = a.flushed().await?;
        a.postgres.set_rule(RuleId(1), NAMES).await?;
        let mut upstream = a.upstream(&b, 2);
        upstream.is_forward = true;
        upstream.slot = None;
        b.postgres.attach(upstream).await?;
        b.wait_replayed(until).await?;
        let seen = sender(&a, |it| it.flushed >= until).await?;
        assert_eq!(seen.application_name, "_forward~b~2");
        assert_eq!(seen.sync_priority, 0);
        b.postgres.detach(LIMIT).await?;
        assert!(b.wait_end_of_wal().await?.proven_end() >= until);
        Ok(())
    });
}

#[test]
fn roles_and_databases_that_do_not_wait_are_named() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        assert_eq!(a.postgres.commit_overrides().await?, none());
        a.run("CREATE ROLE quick").await?;
        a.run("ALTER ROLE quick SET synchronous_commit = off")
            .await?;
        a.run("ALTER DATABASE postgres SET synchronous_commit TO local")
            .await?;
        a.run("ALTER ROLE quick IN DATABASE postgres SET synchronous_commit = remote_apply")
            .await?;
        a.run(
            "CREATE FUNCTION hasty() RETURNS void LANGUAGE sql AS '' SET synchronous_commit = off",
        )
        .await?;
        a.run(
            "CREATE FUNCTION patient() RETURNS void LANGUAGE sql AS '' SET synchronous_commit = on",
        )
        .await?;
        let found = a.postgres.commit_overrides().await?;
        assert_eq!(
            found.lasting,
            [
                "everybody in postgres: synchronous_commit=local",
                "function public.hasty() in postgres: synchronous_commit=off",
                "role quick: synchronous_commit=off"
            ]
        );
        assert!(found.momentary.is_empty(), "{found:?}");
        Ok(())
    });
}

fn none() -> CommitOverrides {
    CommitOverrides::default()
}

/// The value of the whole server is nobody's own; what is only in the file counts, for the next reload
/// brings it.
#[test]
fn a_server_that_does_not_wait_is_named_and_so_is_a_session_by_its_last_statement() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        // As ALTER SYSTEM does, which newer majors are told to refuse.
        let file = a.data_dir().join("postgresql.auto.conf");
        std::fs::write(&file, "synchronous_commit = remote_write\n")?;
        let found = a.postgres.commit_overrides().await?;
        assert_eq!(found.lasting.len(), 1, "{found:?}");
        let line = &found.lasting[0];
        assert!(line.starts_with("every session (") && line.contains("postgresql.auto.conf"));
        assert!(line.ends_with("synchronous_commit=remote_write"), "{line}");
        std::fs::write(&file, "synchronous_commit = on\n")?;
        assert_eq!(a.postgres.commit_overrides().await?, none());

        let session = a.client().await?;
        session.batch_execute("SET synchronous_commit = on").await?;
        assert_eq!(a.postgres.commit_overrides().await?, none());
        session
            .batch_execute("set local synchronous_commit TO 'OFF'; SELECT 1")
            .await?;
        let found = a.postgres.commit_overrides().await?;
        assert_eq!(
            found.momentary,
            ["a session of postgres in postgres: synchronous_commit=off"]
        );
        assert!(found.lasting.is_empty(), "{found:?}");
        session
            .batch_execute("SELECT set_config('synchronous_commit', 'local', false)")
            .await?;
        let found = a.postgres.commit_overrides().await?;
        assert_eq!(
            found.momentary,
            ["a session of postgres in postgres: synchronous_commit=local"]
        );
        Ok(())
    });
}

/// The one walsender, once it is as wanted.
async fn sender(server: &Server, wanted: impl Fn(&Sender) -> bool) -> Result<Sender> {
    let begin = Instant::now();
    loop {
        let senders = server.primary().await?.senders;
        if let Some(found) = senders.iter().find(|it| wanted(it)) {
            return Ok(found.clone());
        }
        ensure!(
            begin.elapsed() < LIMIT,
            "the walsenders stay as they are: {senders:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}
