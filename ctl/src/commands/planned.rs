//! Planned work: what is to be done at a time, and taking it back.

use cluster_proto::v1;
use cluster_proto::v1::planned_client::PlannedClient;
use cluster_proto::v1::schedule_request::Work;
use cluster_proto::v1::unschedule_request::What;

use super::Context;
use crate::args::{Flush, Restart, Switchover};
use crate::ask::by;
use crate::exit::{Kind, Stop};
use crate::output::Report;
use crate::view::{MemberView, ScheduleView};

/// `now` is no time of its own.
pub fn at(scheduled: Option<&String>) -> Option<&str> {
    scheduled.map(String::as_str).filter(|at| *at != "now")
}

/// `switchover --scheduled`.
///
/// # Errors
/// Refused, unreachable, or unknown.
pub async fn switchover(context: &Context, args: &Switchover, at: &str) -> Result<(), Stop> {
    let work = Work::Switchover(v1::ScheduledSwitchover {
        from: args.from.clone().unwrap_or_default(),
        to: args.to.clone().unwrap_or_default(),
    });
    let reason = args.change.reason.as_deref();
    schedule(context, work, at, reason, args.change.dry_run).await
}

/// `restart --scheduled`, of each of the members.
///
/// # Errors
/// Refused, unreachable, or unknown; those before it are scheduled.
pub async fn restart(context: &Context, args: &Restart, at: &str) -> Result<(), Stop> {
    for member in &args.members {
        let limit = args.limit.unwrap_or_default();
        let work = Work::Restart(v1::ScheduledRestart {
            member: member.clone(),
            role: args.conditions.role.clone().unwrap_or_default(),
            older_than: args.conditions.pg_version.clone().unwrap_or_default(),
            pending: args.conditions.if_pending,
            limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
        });
        let reason = args.change.reason.as_deref();
        schedule(context, work, at, reason, args.change.dry_run).await?;
    }
    Ok(())
}

async fn schedule(
    context: &Context,
    work: Work,
    at: &str,
    reason: Option<&str>,
    dry_run: bool,
) -> Result<(), Stop> {
    let message = v1::ScheduleRequest {
        request_id: format!("{:016x}", rand::random::<u64>()),
        work: Some(work),
        at: at.to_owned(),
        by: by(reason),
        dry_run,
        replaces: false,
    };
    let reply = context
        .client
        .change_on(None, message, |channel, request| async move {
            PlannedClient::new(channel).schedule(request).await
        })
        .await?;
    let scheduled = reply.schedule.unwrap_or_default();
    context.write(&scheduled_report(&scheduled, &reply.notes, dry_run))
}

/// What was, or would be, scheduled.
pub fn scheduled_report(scheduled: &v1::Schedule, notes: &[String], dry_run: bool) -> Report {
    let view = ScheduleView::from(scheduled);
    let verb = if dry_run {
        "Would schedule"
    } else {
        "Scheduled"
    };
    let mut human = format!("{verb}: {} at {}\n", view.what, view.due);
    for note in notes {
        human.push_str(&format!("  - {note}\n"));
    }
    human.push_str(if dry_run {
        "Nothing was changed.\n"
    } else {
        "It is judged again when it is due; `clusterctl status` shows it, `clusterctl flush` takes it back.\n"
    });
    let mut data = serde_json::to_value(&view).unwrap_or_default();
    data["dry_run"] = dry_run.into();
    data["notes"] = notes.into();
    let columns = ["id", "what", "due"].map(str::to_owned).to_vec();
    let rows = vec![columns, vec![view.id, view.what, view.due]];
    Report { human, data, rows }
}

/// `flush`.
///
/// # Errors
/// Nothing is scheduled, refused, unreachable, or unknown.
pub async fn flush(context: &Context, args: &Flush) -> Result<(), Stop> {
    for what in named(&args.words)? {
        let message = v1::UnscheduleRequest {
            what: Some(what),
            by: by(args.change.reason.as_deref()),
            dry_run: args.change.dry_run,
        };
        let reply = context
            .client
            .change_on(None, message, |channel, request| async move {
                PlannedClient::new(channel).unschedule(request).await
            })
            .await?;
        let taken = reply.schedule.unwrap_or_default();
        context.write(&flushed_report(&taken, args.change.dry_run))?;
    }
    Ok(())
}

fn flushed_report(taken: &v1::Schedule, dry_run: bool) -> Report {
    let view = ScheduleView::from(taken);
    let verb = if dry_run {
        "Would take back"
    } else {
        "Taken back"
    };
    let mut data = serde_json::to_value(&view).unwrap_or_default();
    data["dry_run"] = dry_run.into();
    let columns = ["id", "what", "due"].map(str::to_owned).to_vec();
    Report {
        human: format!("{verb}: {} at {}\n", view.what, view.due),
        data,
        rows: vec![columns, vec![view.id, view.what, view.due]],
    }
}

/// `switchover`, or `restart` with members before or after it.
fn named(words: &[String]) -> Result<Vec<What>, Stop> {
    let bad = |why: &str| Err(Stop::new(Kind::Usage, format!("flush: {why}")));
    let is_what = |word: &String| word == "switchover" || word == "restart";
    let (what, members): (Vec<&String>, Vec<&String>) = words.iter().partition(|it| is_what(it));
    match (what.as_slice(), members.as_slice()) {
        ([what], []) if *what == "switchover" => Ok(vec![What::Switchover(true)]),
        ([what], [_, ..]) if *what == "switchover" => {
            bad("a switchover is the whole cluster's: name no member")
        }
        ([_], []) => bad("the restart of which member?"),
        ([_], members) => Ok(members
            .iter()
            .map(|member| What::RestartOf((*member).clone()))
            .collect()),
        ([] | [_, ..], _) => bad("say `switchover`, or `restart MEMBER…`"),
    }
}

/// Of the members that are named, those whose PostgreSQL is as wanted now; why the others are left out goes
/// to stderr.
///
/// # Errors
/// A condition cannot be read, or nobody answered.
pub async fn fitting(context: &Context, args: &Restart) -> Result<Vec<String>, Stop> {
    let conditions = &args.conditions;
    if conditions.role.is_none() && conditions.pg_version.is_none() && !conditions.if_pending {
        return Ok(args.members.clone());
    }
    let older_than = match &conditions.pg_version {
        Some(text) => Some(
            cluster_core::model::schedule::version_number(text)
                .map_err(|why| Stop::new(Kind::Usage, format!("--pg-version: {why}")))?,
        ),
        None => None,
    };
    let status = context.status().await?;
    let mut fitting = Vec::new();
    for name in &args.members {
        let Some(member) = status.member(name) else {
            return Err(Stop::new(
                Kind::Refused,
                format!("there is no member `{name}` (see `clusterctl list`)"),
            ));
        };
        match unfit(member, args, older_than) {
            None => fitting.push(name.clone()),
            Some(why) => eprintln!("left out: {name} {why}"),
        }
    }
    Ok(fitting)
}

fn unfit(member: &MemberView, args: &Restart, older_than: Option<u32>) -> Option<String> {
    let conditions = &args.conditions;
    if let Some(role) = &conditions.role {
        let is = if member.is_primary() {
            "primary"
        } else {
            "replica"
        };
        if is != role {
            return Some(format!("is {is}, not {role}"));
        }
    }
    if let Some(wanted) = older_than
        && member.server_version.is_none_or(|is| is >= wanted)
    {
        let version = conditions.pg_version.as_deref().unwrap_or_default();
        return Some(format!("does not run a version below {version}"));
    }
    if conditions.if_pending && !member.pending_restart {
        return Some("waits for no restart".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flushes(words: &[&str]) -> Result<Vec<What>, String> {
        let words: Vec<String> = words.iter().map(|it| (*it).to_owned()).collect();
        named(&words).map_err(|stop| stop.text)
    }

    #[test]
    fn what_is_flushed_is_said_as_patronis_users_say_it() {
        let of = |member: &str| What::RestartOf(member.to_owned());
        assert_eq!(flushes(&["switchover"]), Ok(vec![What::Switchover(true)]));
        assert_eq!(flushes(&["n2", "restart"]), Ok(vec![of("n2")]));
        assert_eq!(
            flushes(&["restart", "n2", "n3"]),
            Ok(vec![of("n2"), of("n3")])
        );
        for words in [
            &["restart"][..],
            &["n2"],
            &["n2", "switchover"],
            &["restart", "switchover"],
        ] {
            assert!(flushes(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn now_is_no_time() {
        assert_eq!(at(Some(&"now".to_owned())), None);
        assert_eq!(at(Some(&"then".to_owned())), Some("then"));
        assert_eq!(at(None), None);
    }
}
