//! `wait`: until the cluster is as wanted. Scripts begin with it.

use std::time::Duration;

use tokio::time::Instant;

use super::Context;
use crate::args::Wait;
use crate::exit::{Kind, Stop};
use crate::output::Report;
use crate::view::{MemberView, StatusView};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks until everything wanted is so, and prints the primary's name.
///
/// # Errors
/// It was not so in time; what was missing is said.
pub async fn run(context: &Context, wanted: &Wait) -> Result<(), Stop> {
    let deadline = Instant::now() + wanted.timeout;
    let mut missing = Vec::new();
    let mut last_stop = None;
    loop {
        match tokio::time::timeout_at(deadline, context.status()).await {
            Ok(Ok(status)) => {
                last_stop = None;
                missing = unmet(&status, wanted);
                if missing.is_empty() {
                    return context.write(&Report::single(
                        "primary",
                        status.primary.as_deref().unwrap_or(""),
                    ));
                }
            }
            Ok(Err(stop)) if stop.kind == Kind::Unreachable => last_stop = Some(stop),
            Ok(Err(stop)) => return Err(stop),
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(match last_stop {
                Some(stop) if missing.is_empty() => stop,
                Some(stop) => Stop::new(Kind::TimedOut, stop.text),
                None => Stop::new(
                    Kind::TimedOut,
                    format!("still missing: {}", missing.join("; ")),
                ),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is not as wanted, each as a phrase.
pub fn unmet(status: &StatusView, wanted: &Wait) -> Vec<String> {
    let mut missing = Vec::new();
    let is_open = status
        .reign
        .as_ref()
        .is_some_and(|reign| reign.is_activated);
    let primary = status.primary.as_deref().filter(|_| is_open);
    if let Some(name) = &wanted.primary
        && primary != Some(name)
    {
        let now = primary.unwrap_or("nobody");
        missing.push(format!("{name} as primary (it is {now})"));
    }
    if (wanted.healthy || wanted.streaming) && primary.is_none() {
        missing.push("a primary that accepts writes".to_owned());
    }
    let standbys = status
        .members
        .iter()
        .filter(|member| !member.is_primary() && !member.is_witness());
    if wanted.healthy || wanted.streaming {
        for member in standbys.filter(|member| !streams(member, status.epoch)) {
            missing.push(format!(
                "{} streaming in epoch {} (it is {})",
                member.name, status.epoch, member.state
            ));
        }
    }
    if wanted.healthy {
        if status.voters_up < status.voters_total {
            missing.push(format!(
                "{} voters (heard: {})",
                status.voters_total, status.voters_up
            ));
        }
        if status.raft_leader.is_none() {
            missing.push("a Raft leader".to_owned());
        }
        for member in status.members.iter().filter(|member| member.busy.is_some()) {
            missing.push(format!("the end of long work on {}", member.name));
        }
    }
    missing
}

fn streams(member: &MemberView, epoch: u64) -> bool {
    member.state == "streaming" && member.epoch == Some(epoch)
}
