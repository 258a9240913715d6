//! What was promised and what was measured, as this member knows it.

use std::time::Duration;

use cluster_core::model::lease::Moment;
use cluster_core::model::objectives::{self, Objective};
use cluster_proto::v1;

use super::topology;
use crate::board::Board;
use crate::wire;

/// All of them; `wall` is this host's clock since 1970.
pub fn of(board: &Board, now: Moment, wall: Duration) -> Vec<Objective> {
    let members = topology::members(board, now);
    let primary = topology::open_primary(board, &members);
    let archive = primary.and_then(|facts| facts.report?.health.archive.as_ref());
    let recoverable = archive.and_then(|it| it.recoverable_unix_ms);
    objectives::objectives(&board.state, recoverable, wire::millis(wall))
}

/// Encoded.
pub fn encode(found: Vec<Objective>) -> Vec<v1::Objective> {
    let one = |it: Objective| v1::Objective {
        name: it.name.to_owned(),
        limit_ms: it.limit_ms,
        measured_ms: it.measured_ms,
        at_unix_ms: it.at_unix_ms,
        since_unix_ms: it.since_unix_ms,
        of: it.of,
        verdict: it.verdict.word().to_owned(),
    };
    found.into_iter().map(one).collect()
}
