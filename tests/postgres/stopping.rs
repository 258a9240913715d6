//! Stops that somebody else holds up: they end within their budget, and leave nobody.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster_core::model::PostgresStatus;
use clusterd::postgres::{ConfigInputs, Error, StopMode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::place::{Server, on_every_major};

/// A fast stop that nothing holds up is over by then.
const PATIENT: Duration = Duration::from_secs(3);
/// What a stop may take in all.
const BUDGET: Duration = Duration::from_secs(5);

/// A fast stop hangs although the control file says `shut down`; a budgeted one ends.
async fn is_held_up_and_ends_within_its_budget(server: &Server) -> Result<()> {
    let held_up = server.postgres.stop(StopMode::Fast, PATIENT).await;
    ensure!(
        matches!(held_up, Err(Error::TimedOut { .. })),
        "nothing held it up, so this shows nothing: {held_up:?}"
    );
    let begin = Instant::now();
    let ended = server.postgres.stop_budgeted(BUDGET).await?;
    ensure!(ended == StopMode::Immediate, "{ended:?}");
    let took = begin.elapsed();
    ensure!(took < BUDGET + Duration::from_secs(2), "it took {took:?}");
    // It had written its shutdown checkpoint: what came after was a process that did not go.
    let PostgresStatus::Stopped(stopped) = server.postgres.observe().await else {
        anyhow::bail!("it is not stopped");
    };
    ensure!(stopped.clean, "{stopped:?}");
    Ok(())
}

/// A walsender waits until its standby has flushed everything, and without a time limit of its own
/// it waits for ever.
#[test]
fn x13_a_frozen_standby_does_not_hold_up_a_stop_beyond_its_budget() {
    on_every_major(|bin| async move {
        let for_ever = |options: &mut clusterd::postgres::PostgresOptions| {
            let name = "wal_sender_timeout".to_owned();
            options.parameters.insert(name, "0".to_owned());
        };
        let a = Server::with(&bin, "a", for_ever).await?;
        let b = Server::new(&bin, "b").await?;
        a.bootstrap().await?;
        b.follow_by_clone(&a, 1).await?;
        let receiver = b
            .wait_status("a receiver", |status| match status {
                PostgresStatus::Standby(standby) => standby.receiver.clone(),
                _ => None,
            })
            .await?;
        kill(Pid::from_raw(receiver.pid), Signal::SIGSTOP)?;
        a.run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
            .await?;
        let checked = is_held_up_and_ends_within_its_budget(&a).await;
        kill(Pid::from_raw(receiver.pid), Signal::SIGCONT)?;
        checked
    });
}

/// The archiver finishes the segment at hand before it goes.
#[test]
fn x14_an_archive_command_that_hangs_does_not_hold_up_a_stop_beyond_its_budget() {
    on_every_major(|bin| async move {
        let a = Server::new(&bin, "a").await?;
        a.bootstrap().await?;
        let inputs = ConfigInputs {
            archive_command: Some("sleep 1000".to_owned()),
            ..a.inputs()
        };
        a.postgres.apply_config(&inputs).await?;
        a.run("CREATE TABLE t (i int)").await?;
        a.run("SELECT pg_switch_wal()").await?;
        let hanging = || {
            let all = std::path::Path::new("/proc").read_dir().into_iter();
            all.flatten()
                .flatten()
                .filter(|process| {
                    let arguments = std::fs::read(process.path().join("cmdline"));
                    let place = std::fs::read_link(process.path().join("cwd"));
                    arguments.is_ok_and(|it| it.starts_with(b"sleep\x001000"))
                        && place.is_ok_and(|it| it == a.data_dir())
                })
                .count()
        };
        let begin = Instant::now();
        while hanging() == 0 {
            ensure!(begin.elapsed() < crate::place::LIMIT, "nothing is archived");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        is_held_up_and_ends_within_its_budget(&a).await?;
        ensure!(hanging() == 0, "the command is left");
        Ok(())
    });
}
