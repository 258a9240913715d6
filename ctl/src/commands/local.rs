//! `local`: what concerns the member on this host only. Packages and the systemd units call it.

use std::time::Duration;

use cluster_proto::v1;

use super::Context;
use crate::args::{Global, Leave, LocalCommand};
use crate::ask::by;
use crate::client::Client;
use crate::confirm;
use crate::exit::{Kind, Stop};
use crate::output::{Paint, Report};
use crate::places::Places;

/// Besides the hand-over itself: stopping PostgreSQL.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// Runs one of them.
///
/// # Errors
/// Not confirmed, refused, unreachable, or unknown.
pub async fn run(global: &Global, command: &LocalCommand) -> Result<(), Stop> {
    // Before anything else: a unit that is only restarted must not need a cluster to be told so.
    if let LocalCommand::Leave(Leave {
        unit: Some(unit), ..
    }) = command
        && let Some(why) = nothing_to_leave(unit)
    {
        eprintln!("{why}");
        return Ok(());
    }
    let client = Client::new(Places::find(global)?.local(global));
    let context = Context {
        client,
        global: global.clone(),
        paint: Paint::for_stdout(),
    };
    match command {
        LocalCommand::Leave(args) => leave(&context, args).await,
        LocalCommand::MayRestart => may_restart(&context).await,
        LocalCommand::LogLevel(args) => {
            let message = v1::SetLogLevelRequest {
                level: args.level.clone(),
            };
            let answer = context
                .client
                .change(None, message, |mut admin, request| async move {
                    admin.set_log_level(request).await
                })
                .await?;
            context.write(&Report::single("text", &answer.text))
        }
    }
}

async fn leave(context: &Context, args: &Leave) -> Result<(), Stop> {
    if args.unit.is_none() {
        confirm::possible(context.global.yes, "local leave")?;
        if !context.global.yes {
            confirm::ask(
                "The primary is handed over if it is here, then PostgreSQL of this member stops until \
                 clusterd is started again.",
            )?;
        }
    }
    let message = v1::LocalLeaveRequest {
        by: by(args.reason.as_deref()),
        wait_ms: u32::try_from(args.timeout.as_millis()).unwrap_or(u32::MAX),
    };
    let answer = context
        .client
        .change(
            Some(args.timeout + STOP_MARGIN),
            message,
            |mut admin, request| async move { admin.local_leave(request).await },
        )
        .await?;
    context.write(&Report::single("text", &answer.text))
}

async fn may_restart(context: &Context) -> Result<(), Stop> {
    let answer = context
        .client
        .read(
            |mut admin| async move { admin.local_may_restart(v1::LocalMayRestartRequest {}).await },
        )
        .await?;
    if !answer.may {
        return Err(Stop::new(Kind::Refused, answer.text));
    }
    context.write(&Report::single("text", &answer.text))
}

/// Why a unit that stops has nothing to hand over, if so.
fn nothing_to_leave(unit: &str) -> Option<String> {
    // systemd runs ExecStop after a crash as well, then without MAINPID.
    if std::env::var_os("MAINPID").is_none() {
        return Some(format!(
            "{unit}: the daemon is already gone, nothing to hand over"
        ));
    }
    let jobs = std::process::Command::new("systemctl")
        .args(["list-jobs", "--no-legend", "--plain", "--no-pager"])
        .output()
        .ok()?;
    is_restart(&String::from_utf8_lossy(&jobs.stdout), unit)
        .then(|| format!("{unit} is only being restarted, nothing to hand over"))
}

/// Whether the unit's pending job is a restart. A line is `JOB UNIT TYPE STATE`.
fn is_restart(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&unit)
            && words
                .get(2)
                .is_some_and(|kind| matches!(*kind, "restart" | "try-restart" | "start"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_told_from_a_stop() {
        let jobs =
            "  71 clusterd-guard.service stop running\n 123 clusterd.service restart running\n";
        assert!(is_restart(jobs, "clusterd.service"));
        assert!(!is_restart(jobs, "clusterd-guard.service"));
        assert!(!is_restart("", "clusterd.service"));
    }
}
