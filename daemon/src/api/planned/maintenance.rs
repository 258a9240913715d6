//! Maintenance of a member, as it is asked for over gRPC.

use cluster_core::change::Command;
use cluster_core::change::command::MaintenanceWish;
use cluster_core::model::{Maintenance, MemberName};
use cluster_proto::v1;
use jiff::Timestamp;
use tonic::Status;

use super::wall;
use crate::api::admin::not_proposed;
use crate::api::asks::Asks;
use crate::wire;

/// Whoever needs longer asks again: what is forgotten must not last. Unit: seconds.
const LONGEST_S: u64 = 30 * 24 * 3600;

pub(super) async fn begin(
    asks: &Asks,
    asked: &v1::BeginMaintenanceRequest,
) -> Result<v1::MaintenanceReply, Status> {
    let mut problems = Vec::new();
    let member = wire::member_name("member", &asked.member)
        .map_err(|why| problems.push(why.to_string()))
        .ok();
    if !(1..=LONGEST_S).contains(&asked.for_s) {
        problems.push(format!(
            "for_s: {} is not within 1 to {LONGEST_S} seconds (30 days)",
            asked.for_s
        ));
    }
    let (Some(member), true) = (member, problems.is_empty()) else {
        return Err(Status::invalid_argument(problems.join("\n")));
    };
    let now_ms = u64::try_from(wall().as_millis()).unwrap_or(u64::MAX);
    let until_unix_ms = now_ms.saturating_add(asked.for_s * 1000);
    let wish = MaintenanceWish {
        member: member.clone(),
        until_unix_ms,
        until: written(until_unix_ms),
        force: asked.force,
        by: asked.by.clone(),
    };
    let since = asks.board().state.maintenance.get(&member).cloned();
    carry_out(
        asks,
        Command::BeginMaintenance(Box::new(wish)),
        asked.dry_run,
    )
    .await?;
    let now = Maintenance {
        by: asked.by.clone(),
        since_unix_ms: since.map_or(now_ms, |it| it.since_unix_ms),
        until_unix_ms,
    };
    Ok(reply(&member, &now))
}

pub(super) async fn end(
    asks: &Asks,
    asked: &v1::EndMaintenanceRequest,
) -> Result<v1::MaintenanceReply, Status> {
    let member = wire::member_name("member", &asked.member)
        .map_err(|why| Status::invalid_argument(why.to_string()))?;
    let known = asks.board().state.maintenance.get(&member).cloned();
    let command = Command::EndMaintenance {
        member: member.clone(),
        by: asked.by.clone(),
    };
    carry_out(asks, command, asked.dry_run).await?;
    Ok(match known {
        Some(it) => reply(&member, &it),
        None => v1::MaintenanceReply { maintenance: None },
    })
}

async fn carry_out(asks: &Asks, command: Command, dry_run: bool) -> Result<(), Status> {
    if dry_run {
        let checked = asks.rehearse(command);
        return checked
            .map(drop)
            .map_err(|why| Status::failed_precondition(why.to_string()));
    }
    asks.propose(command).await.map(drop).map_err(not_proposed)
}

fn reply(member: &MemberName, it: &Maintenance) -> v1::MaintenanceReply {
    v1::MaintenanceReply {
        maintenance: Some(wire::maintenance(member, it)),
    }
}

/// To the second, in UTC.
fn written(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| unix_ms.to_string(), |at| at.to_string())
}
