//! The page at `/ui`, and `/ui/state`, the one document it is made from. Read-only, open, and served by
//! every member from its own board.
//!
//! Not on it, because it is open: settings, parameters, addresses, and what a program printed (the text
//! of a failed archive command may hold a place or a name). A reason may quote an error all the same.

use std::time::Duration;

use cluster_proto::v1;
use serde_json::{Value, json};

use super::documents::{VERSION, timestamp_iso};
use super::{events, explain, status};
use crate::board::{Board, Foresight, LeaseView};

/// So many of the newest events are in the document.
const EVENTS: usize = 60;

/// The reason's code when somebody would be promoted.
const CHOSEN: &str = "chosen";

/// Stands where each answer's own number goes: a script or style without it is not run.
const NONCE: &str = "{nonce}";

/// The whole page: nothing is fetched besides it but `/ui/state` and `/events`.
const PAGE: &str = concat!(
    include_str!("head.html"),
    "<style nonce=\"{nonce}\">\n",
    include_str!("page.css"),
    "</style>\n",
    include_str!("body.html"),
    "<script nonce=\"{nonce}\">\n",
    include_str!("page.js"),
    "</script>\n</body>\n</html>\n",
);

/// The page, and the policy (header `Content-Security-Policy`) it is to be shown under.
pub fn page() -> (String, String) {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    (PAGE.replace(NONCE, &nonce), policy)
}

/// `/ui/state`: the answer of `GetStatus`, what would happen without the primary, and the newest events,
/// as far as everybody may see them.
pub fn state(
    board: &Board,
    lease: &dyn LeaseView,
    foresight: &dyn Foresight,
    wall: Duration,
) -> Value {
    let found = status::of(board, lease, foresight);
    let now = lease.now();
    let open = |request: &&v1::Request| {
        let step = request.step();
        step != v1::RequestStep::Done && step != v1::RequestStep::Failed
    };
    let members = found.members.iter().map(|it| member(&found, it));
    let would = foresight.explain(board);
    let is_clear = would.first().is_some_and(|(code, _)| code == CHOSEN);
    let mut eligible = found.candidates.iter().filter(|it| it.is_eligible);
    let successor = eligible.next().filter(|_| is_clear);
    let events = events::newest(&board.state, EVENTS);
    json!({
        "cluster": found.cluster,
        "answered_by": found.answered_by,
        "version": VERSION,
        "time": timestamp_iso(millis(wall)),
        "at_unix_ms": millis(wall),
        "old_because": old_because(board, &found, now),
        "epoch": found.epoch,
        "primary": some(&found.primary),
        "reign": found.reign.as_ref().map(|reign| json!({
            "holder": reign.holder,
            "phase": reign.phase,
            "timeline": reign.timeline,
            "is_activated": reign.is_activated,
            "ended_because": reign.ended_because,
        })),
        "lease": json!({
            "left_ms": found.lease_left_ms,
            "length_ms": found.lease_ms,
            "fence_in_ms": found.fence_in_ms,
        }),
        "voters": json!({
            "up": found.voters_up,
            "total": found.voters_total,
            "tolerance": found.failure_tolerance,
            "leader": some(&found.raft_leader),
        }),
        "pause": found.pause.as_ref().map(|pause| json!({
            "by": pause.by,
            "time": timestamp_iso(pause.at_unix_ms),
        })),
        "maintenance": found.maintenance.iter().map(|it| json!({
            "member": it.member,
            "until": timestamp_iso(it.until_unix_ms),
            "by": it.by,
        })).collect::<Vec<_>>(),
        "schedules": found.schedules.iter().map(|it| json!({
            "text": it.text, "due": it.due, "by": it.by,
        })).collect::<Vec<_>>(),
        "durability": durability(&found),
        "blocked": found.blocked.as_ref().map(|blocked| json!({
            "missing": blocked.missing.iter().map(|it| &it.member).collect::<Vec<_>>(),
            "at_risk": blocked.at_risk,
        })),
        "archive": archive(&found),
        "members": members.collect::<Vec<_>>(),
        "successor": successor.map(|it| &it.member),
        "if_primary_died": would
            .iter()
            .map(|(code, text)| json!({ "code": code, "text": text }))
            .collect::<Vec<_>>(),
        "decisions": found.verdicts.iter().map(|line| json!({
            "rule": line.rule, "code": line.code, "text": line.text, "age_ms": line.age_ms,
        })).collect::<Vec<_>>(),
        "requests": found.requests.iter().filter(open).map(|request| json!({
            "id": request.id, "by": request.by, "to": some(&request.to), "text": request.text,
        })).collect::<Vec<_>>(),
        "events": events.iter().map(events::json).collect::<Vec<_>>(),
    })
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Why what this member shows may not be so any more; none while it hears the cluster.
fn old_because(
    board: &Board,
    found: &v1::Status,
    now: cluster_core::model::lease::Moment,
) -> Option<String> {
    let me = &board.me;
    if board.state.identity.is_none() {
        return Some(format!("{me} waits for the group to form"));
    }
    let limit = board.times.lease;
    let heard = now.since(board.merged_at);
    if heard > limit {
        let seconds = heard.as_secs();
        return Some(format!(
            "{me} has heard nothing of the cluster for {seconds} s"
        ));
    }
    let quorum_age = board.raft.quorum_age.filter(|age| *age > limit);
    if let Some(age) = quorum_age {
        let seconds = age.as_secs();
        return Some(format!(
            "{me} leads, and has heard no majority for {seconds} s"
        ));
    }
    if found.voters_up * 2 <= found.voters_total {
        return Some(format!(
            "{me} hears {} of {} voters, which is no majority",
            found.voters_up, found.voters_total
        ));
    }
    None
}

fn durability(found: &v1::Status) -> Value {
    let confirming = found.confirming.clone().unwrap_or_default();
    json!({
        "mode": found.mode,
        "wanted_k": confirming.wanted_k,
        "rule": confirming.in_force.as_ref().map(|rule| json!({
            "id": rule.id, "k": rule.k, "members": rule.members,
        })),
        "is_proven": confirming.is_proven,
        "proposed": confirming.proposed,
        "confirming": confirming.members,
        "writes_wait": confirming.writes_wait,
        "survivable_standbys": confirming.survivable_standbys,
        "survivable_with_primary": confirming.survivable_with_primary,
        "losses": [
            confirming.survivable_standbys_text,
            confirming.survivable_with_primary_text,
        ],
    })
}

/// Of the member that archives. Why an attempt failed is for `clusterctl status`.
fn archive(found: &v1::Status) -> Option<Value> {
    let archive = found.members.iter().find_map(|it| it.archive.as_ref())?;
    Some(json!({
        "recoverable_unix_ms": archive.recoverable_unix_ms,
        "waiting": archive.waiting,
        "failing_since_unix_ms": archive.failing_since_unix_ms,
    }))
}

fn member(found: &v1::Status, it: &v1::MemberStatus) -> Value {
    let lsn = |at: Option<u64>| at.map(|at| cluster_core::model::Lsn(at).to_string());
    json!({
        "name": it.name,
        "role": explain::role_word(it.role()),
        "state": it.state,
        "is_heard": it.report_age_ms.is_some_and(|age| age <= found.lease_ms),
        "report_age_ms": it.report_age_ms,
        "timeline": it.timeline,
        "lsn": lsn(it.receive_lsn.max(it.replay_lsn)),
        "receive_lag_bytes": it.receive_lag_bytes,
        "replay_lag_bytes": it.replay_lag_bytes,
        "replay_delay_ms": it.replay_delay_ms,
        "is_raft_leader": it.is_raft_leader,
        "is_voter": it.is_voter,
        "confirms": it.confirms,
        "busy": it.busy.as_ref().map(|busy| json!({
            "with": busy.with,
            "for_ms": busy.for_ms,
            "done_bytes": busy.done_bytes,
            "total_bytes": busy.total_bytes,
        })),
        "version": it.version,
        "server_version": it.server_version,
        "why": explain::member(found, it)
            .into_iter()
            .map(|line| json!({ "code": line.code, "text": line.text }))
            .collect::<Vec<_>>(),
    })
}
