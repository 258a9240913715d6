//! Verbs that change the cluster: switchover, failover, restart, reload, reinit, pause, resume, cancel.

use cluster_proto::v1::{self, request_kind::Kind as RequestKind};

use super::Context;
use super::planned;
use crate::args::{Cancel, Change, Failover, OnMembers, Reinit, Restart, Switchover, Waiting};
use crate::ask::{self, Asking, by};
use crate::confirm;
use crate::exit::Stop;
use crate::output::Report;
use crate::time::{bytes, length};
use crate::view::StatusView;

/// Costs of every start of a primary; documented, and told before it.
const START_COSTS: &str = "PostgreSQL starts anew there: open sessions end, UNLOGGED tables are emptied, a new \
     timeline begins.";

impl Context {
    /// Asks for a yes with what the cluster looks like now, unless it is not needed.
    async fn confirm(
        &self,
        verb: &str,
        change: &Change,
        question: impl FnOnce(&StatusView) -> String,
    ) -> Result<(), Stop> {
        if change.dry_run || self.global.yes {
            return Ok(());
        }
        confirm::possible(self.global.yes, verb)?;
        let status = self.status().await?;
        eprint!(
            "{}",
            super::list::list(&status, crate::output::Paint::plain()).human
        );
        confirm::ask(&question(&status))
    }

    async fn ask(
        &self,
        kind: RequestKind,
        what: String,
        expected_primary: Option<&String>,
        change: &Change,
        waiting: Waiting,
    ) -> Result<(), Stop> {
        let asking = Asking {
            kind,
            what,
            expected_primary: expected_primary.cloned().unwrap_or_default(),
        };
        let report = ask::ask(&self.client, asking, change, waiting).await?;
        self.write(&report)
    }
}

/// `switchover`.
///
/// # Errors
/// Not confirmed, refused, failed, unreachable, or unknown.
pub async fn switchover(context: &Context, args: &Switchover) -> Result<(), Stop> {
    let to = args.to.as_deref().unwrap_or("the best standby");
    let at = planned::at(args.scheduled.as_ref());
    context
        .confirm("switchover", &args.change, |status| {
            let primary = status.primary.as_deref().unwrap_or("nobody");
            let (from, when) = match (at, &args.from) {
                (None, _) => (primary, String::new()),
                (Some(at), None) => ("whoever is primary then", format!(" at {at}")),
                (Some(at), Some(from)) => (from.as_str(), format!(" at {at}")),
            };
            format!(
                "Hand over{when} from {from} to {to}: sessions on the old primary end, writes pause for a \
                 moment."
            )
        })
        .await?;
    if let Some(at) = at {
        return planned::switchover(context, args, at).await;
    }
    let kind = RequestKind::Switchover(v1::Switchover {
        to: args.to.clone().unwrap_or_default(),
    });
    let what = format!("switchover to {to}");
    context
        .ask(kind, what, args.from.as_ref(), &args.change, args.waiting)
        .await
}

/// `failover`.
///
/// # Errors
/// Not confirmed, refused, failed, unreachable, or unknown.
pub async fn failover(context: &Context, args: &Failover) -> Result<(), Stop> {
    let to = &args.to;
    context
        .confirm("failover", &args.change, |status| {
            format!(
                "Promote {to} although the cluster would not by itself. {} `clusterctl switchover` is the \
                 way that loses nothing.",
                at_risk(status, to)
            )
        })
        .await?;
    let kind = RequestKind::Failover(v1::Failover { to: to.clone() });
    context
        .ask(
            kind,
            format!("failover to {to}"),
            None,
            &args.change,
            args.waiting,
        )
        .await
}

/// What may be lost, as far as it is known.
pub fn at_risk(status: &StatusView, to: &str) -> String {
    let Some(member) = status.member(to) else {
        return format!("This cluster has no member {to}.");
    };
    let lag = match member.receive_lag_bytes {
        Some(0) => "It had received everything the primary last told of.".to_owned(),
        Some(lag) => format!(
            "It lacks {} of WAL that the primary last told of.",
            bytes(lag)
        ),
        None => "How much WAL it lacks is unknown.".to_owned(),
    };
    let holder = status
        .reign
        .as_ref()
        .and_then(|reign| status.member(&reign.holder));
    let heard = match holder.and_then(|holder| holder.report_age_ms) {
        Some(age) => format!("The primary was last heard {} ago.", length(age)),
        None => "The primary has not been heard.".to_owned(),
    };
    let blocked = match &status.blocked {
        Some(blocked) => format!(" At risk: {}.", blocked.at_risk),
        None => String::new(),
    };
    format!("{lag} {heard}{blocked} Transactions it does not have are LOST; the loss is recorded.")
}

/// `restart`.
///
/// # Errors
/// Not confirmed, refused, failed, unreachable, or unknown.
pub async fn restart(context: &Context, args: &Restart) -> Result<(), Stop> {
    if args.pending {
        return restart_pending(context, args).await;
    }
    let at = planned::at(args.scheduled.as_ref());
    let members = match at {
        Some(_) => args.members.clone(),
        None => planned::fitting(context, args).await?,
    };
    if members.is_empty() {
        return context.write(&Report::single(
            "text",
            "no member is as wanted: nothing is restarted",
        ));
    }
    context
        .confirm("restart", &args.change, |status| {
            let when = at.map_or_else(String::new, |at| format!(" at {at}"));
            let mut question = format!("Restart PostgreSQL{when} on {}.", members.join(", "));
            if members
                .iter()
                .any(|name| Some(name) == status.primary.as_ref())
            {
                question = format!("{question} The primary is among them. {START_COSTS}");
            }
            question
        })
        .await?;
    if let Some(at) = at {
        return planned::restart(context, args, at).await;
    }
    let waiting = waiting_of(args);
    for member in &members {
        let kind = RequestKind::Restart(v1::OnMember {
            member: member.clone(),
        });
        let what = format!("restart of PostgreSQL on {member}");
        context.ask(kind, what, None, &args.change, waiting).await?;
    }
    Ok(())
}

async fn restart_pending(context: &Context, args: &Restart) -> Result<(), Stop> {
    context
        .confirm("restart --pending", &args.change, |status| {
            let waits = status.members.iter().filter(|it| it.pending_restart);
            let each: Vec<String> = waits
                .map(|it| format!("  {}: {}\n", it.name, it.pending_text()))
                .collect();
            format!(
                "Restart what waits for a restart, one member after the other:\n{}The primary comes last, by a \
                 switchover: its sessions end, writes pause for a moment. {START_COSTS}",
                each.concat()
            )
        })
        .await?;
    let waiting = waiting_of(args);
    let kind = RequestKind::RestartPending(v1::Everybody {});
    let what = "restart of all that wait for one".to_owned();
    context.ask(kind, what, None, &args.change, waiting).await
}

fn waiting_of(args: &Restart) -> Waiting {
    Waiting {
        timeout: args.timeout,
        no_wait: args.no_wait,
    }
}

/// `reload`.
///
/// # Errors
/// Refused, failed, unreachable, or unknown.
pub async fn reload(context: &Context, args: &OnMembers) -> Result<(), Stop> {
    for member in &args.members {
        let kind = RequestKind::Reload(v1::OnMember {
            member: member.clone(),
        });
        let what = format!("reload on {member}");
        context
            .ask(kind, what, None, &args.change, args.waiting)
            .await?;
    }
    Ok(())
}

/// `reinit`.
///
/// # Errors
/// Not confirmed, refused, failed, unreachable, or unknown.
pub async fn reinit(context: &Context, args: &Reinit) -> Result<(), Stop> {
    let member = &args.member;
    context
        .confirm("reinit", &args.change, |_| {
            format!(
                "Clone {member} anew from the primary. What only {member} has is kept aside until the new \
                 copy follows, then removed."
            )
        })
        .await?;
    let kind = RequestKind::Reinit(v1::OnMember {
        member: member.clone(),
    });
    let waiting = Waiting {
        timeout: args.timeout,
        no_wait: args.no_wait,
    };
    context
        .ask(
            kind,
            format!("reinit of {member}"),
            None,
            &args.change,
            waiting,
        )
        .await
}

/// `pause`.
///
/// # Errors
/// Not confirmed, refused, unreachable, or unknown.
pub async fn pause(context: &Context, change: &Change) -> Result<(), Stop> {
    context
        .confirm("pause", change, |_| {
            "While paused, nobody is promoted when the primary is lost. A primary still stops when it loses \
             its lease."
                .to_owned()
        })
        .await?;
    let message = v1::PauseRequest {
        by: by(change.reason.as_deref()),
        dry_run: change.dry_run,
    };
    let answer = context
        .client
        .change(None, message, |mut admin, request| async move {
            admin.pause(request).await
        })
        .await?;
    context.write(&Report::single("text", &answer.text))
}

/// `resume`.
///
/// # Errors
/// Refused, unreachable, or unknown.
pub async fn resume(context: &Context, change: &Change) -> Result<(), Stop> {
    let message = v1::ResumeRequest {
        by: by(change.reason.as_deref()),
        dry_run: change.dry_run,
    };
    let answer = context
        .client
        .change(None, message, |mut admin, request| async move {
            admin.resume(request).await
        })
        .await?;
    context.write(&Report::single("text", &answer.text))
}

/// `cancel`.
///
/// # Errors
/// Refused, unreachable, or unknown.
pub async fn cancel(context: &Context, args: &Cancel) -> Result<(), Stop> {
    let message = v1::CancelRequestRequest {
        request_id: args.request.clone(),
        by: by(args.reason.as_deref()),
    };
    let answer = context
        .client
        .change(None, message, |mut admin, request| async move {
            admin.cancel_request(request).await
        })
        .await?;
    context.write(&Report::single("text", &answer.text))
}
