//! `maintenance`: a member that may be taken away without anybody noticing.

use std::time::Duration;

use cluster_proto::v1;
use cluster_proto::v1::planned_client::PlannedClient;
use tokio::time::Instant;

use super::Context;
use crate::args::{MaintenanceOff, MaintenanceOn};
use crate::ask::by;
use crate::exit::{Kind, Stop};
use crate::output::Report;
use crate::view::{MaintenanceView, StatusView};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// `maintenance on`.
///
/// # Errors
/// Refused, unreachable, or commits still need the member when the time is up.
pub async fn on(context: &Context, args: &MaintenanceOn) -> Result<(), Stop> {
    let message = v1::BeginMaintenanceRequest {
        member: args.member.clone(),
        for_s: args.length.as_secs(),
        force: args.force,
        by: by(args.change.reason.as_deref()),
        dry_run: args.change.dry_run,
    };
    let reply = context
        .client
        .change_on(None, message, |channel, request| async move {
            PlannedClient::new(channel).begin_maintenance(request).await
        })
        .await?;
    let view = MaintenanceView::from(&reply.maintenance.unwrap_or_default());
    if args.change.dry_run {
        let human = format!(
            "Would begin: maintenance of {} until {}\nNothing was changed.\n",
            view.member, view.until
        );
        return context.write(&report(&view, human, true));
    }
    if args.waiting.no_wait || args.force {
        let human = format!(
            "Begun: maintenance of {} until {}; commits may need it still (`clusterctl status`)\n",
            view.member, view.until
        );
        return context.write(&report(&view, human, false));
    }
    wait_until_spared(context, args).await?;
    let human = format!(
        "{} may be taken away until {}: no commit waits for it, nobody promotes it\n",
        view.member, view.until
    );
    context.write(&report(&view, human, false))
}

/// Until no rule names it.
async fn wait_until_spared(context: &Context, args: &MaintenanceOn) -> Result<(), Stop> {
    let deadline = Instant::now() + args.waiting.timeout;
    loop {
        let why = match tokio::time::timeout_at(deadline, context.status()).await {
            Ok(Ok(status)) => match needed(&status, &args.member) {
                None => return Ok(()),
                Some(why) => why,
            },
            Ok(Err(stop)) if stop.kind == Kind::Unreachable => stop.text,
            Ok(Err(stop)) => return Err(stop),
            Err(_) => "nobody answered".to_owned(),
        };
        if Instant::now() + PAUSE >= deadline {
            let text =
                format!("it has begun, but is not safe yet: {why}; `clusterctl status` shows it");
            return Err(Stop::new(Kind::TimedOut, text));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Why commits still need it.
fn needed(status: &StatusView, member: &str) -> Option<String> {
    if !status.maintenance.iter().any(|it| it.member == member) {
        return Some(format!("{} has not heard of it yet", status.answered_by));
    }
    let naming = |it: &&crate::view::RuleView| it.members.iter().any(|name| name == member);
    let rule = status.rules.iter().find(naming)?;
    Some(format!(
        "commits may be confirmed by {member} (rule {})",
        rule.id
    ))
}

/// `maintenance off`.
///
/// # Errors
/// Refused, unreachable, or unknown.
pub async fn off(context: &Context, args: &MaintenanceOff) -> Result<(), Stop> {
    let message = v1::EndMaintenanceRequest {
        member: args.member.clone(),
        by: by(args.change.reason.as_deref()),
        dry_run: args.change.dry_run,
    };
    let reply = context
        .client
        .change_on(None, message, |channel, request| async move {
            PlannedClient::new(channel).end_maintenance(request).await
        })
        .await?;
    let view = MaintenanceView::from(&reply.maintenance.unwrap_or_default());
    let verb = match args.change.dry_run {
        true => "Would end",
        false => "Ended",
    };
    let human = format!("{verb}: maintenance of {}\n", args.member);
    context.write(&report(&view, human, args.change.dry_run))
}

fn report(view: &MaintenanceView, human: String, dry_run: bool) -> Report {
    let mut data = serde_json::to_value(view).unwrap_or_default();
    data["dry_run"] = dry_run.into();
    let columns = ["member", "until", "by"].map(str::to_owned).to_vec();
    let row = vec![view.member.clone(), view.until.clone(), view.by.clone()];
    Report {
        human,
        data,
        rows: vec![columns, row],
    }
}
