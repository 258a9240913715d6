//! `members`: who votes, where they listen, what they run; and the replacement of one.

use cluster_proto::v1;

use super::Context;
use crate::args::Replace;
use crate::ask::by;
use crate::confirm;
use crate::exit::Stop;
use crate::output::{Align, Paint, Report, table};
use crate::time::length;
use crate::view::StatusView;

/// `members list`.
pub fn list(status: &StatusView, paint: Paint) -> Report {
    let columns = [
        ("Member", Align::Left),
        ("Id", Align::Right),
        ("Vote", Align::Left),
        ("gRPC", Align::Left),
        ("HTTP", Align::Left),
        ("PostgreSQL", Align::Left),
        ("clusterd", Align::Left),
        ("Server", Align::Left),
        ("Incarnation", Align::Left),
        ("Heard", Align::Right),
    ];
    let cells: Vec<Vec<String>> = status
        .members
        .iter()
        .map(|member| {
            let vote = match (member.is_raft_leader, member.is_voter, member.is_joining) {
                (true, _, _) => "leader",
                (_, _, true) => "replaced",
                (_, true, _) => "yes",
                (_, false, _) => "no",
            };
            vec![
                member.name.clone(),
                member.node_id.to_string(),
                vote.to_owned(),
                member.peer.clone(),
                member.http.clone(),
                member.postgres.clone(),
                member.version.clone(),
                member
                    .server_version
                    .map(server_version)
                    .unwrap_or_default(),
                member.incarnation.clone(),
                member
                    .report_age_ms
                    .map_or("never".to_owned(), |age| format!("{} ago", length(age))),
            ]
        })
        .collect();
    let human = table("", &columns, &cells, paint);
    let mut rows = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells);
    let data = serde_json::to_value(&status.members).unwrap_or_default();
    Report { human, data, rows }
}

/// `150014` is 15.14; a major alone is shown alone.
pub fn server_version(number: u32) -> String {
    match number {
        0..10_000 => number.to_string(),
        _ if number.is_multiple_of(10_000) => (number / 10_000).to_string(),
        _ => format!("{}.{}", number / 10_000, number % 10_000),
    }
}

/// `members replace`.
///
/// # Errors
/// Not confirmed, refused, unreachable, or unknown.
pub async fn replace(context: &Context, args: &Replace) -> Result<(), Stop> {
    let member = &args.member;
    if !args.change.dry_run {
        confirm::possible(context.global.yes, "members replace")?;
        if !context.global.yes {
            confirm::ask(&format!(
                "{member} loses its Raft id for ever and comes back under a new one; the old store of \
                 {member} can then never vote again. Only do this when its disk is gone."
            ))?;
        }
    }
    let message = v1::ReplaceMemberRequest {
        member: member.clone(),
        peer: args.peer.clone().unwrap_or_default(),
        by: by(args.change.reason.as_deref()),
        dry_run: args.change.dry_run,
    };
    let answer = context
        .client
        .change(None, message, |mut admin, request| async move {
            admin.replace_member(request).await
        })
        .await?;
    context.write(&Report::single("text", &answer.text))
}
