//! Patroni's health paths: which answer 200. A pure table, evaluated in Patroni's order with its
//! substring matching, because HAProxy configurations in the wild rely on both.
//!
//! The one deliberate difference: a primary path needs more than a lock. It needs the lease, the
//! activation and a recent answer of PostgreSQL [G7].

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_core::model::lease::Moment;
use cluster_core::model::{PostgresStatus, Tags};

use super::topology::{self, Role};
use crate::board::{Board, LeaseView};

/// A standby that has not answered its daemon for longer than this serves nobody.
const ANSWER_FRESH: Duration = Duration::from_secs(3);

/// What the table is evaluated over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Serves as primary: lease, activation, PostgreSQL.
    pub serves_as_primary: bool,
    /// A standby that answers.
    pub is_running_replica: bool,
    /// PostgreSQL answers.
    pub is_running: bool,
    /// The operator wants no read traffic here.
    pub noloadbalance: bool,
    /// Commits wait for it.
    pub is_sync: bool,
    /// It counts for the quorum of commits.
    pub is_quorum: bool,
    /// Replayed up to here, bytes.
    pub replayed: u64,
    /// Received up to here, bytes.
    pub received: u64,
    /// The primary's position as far as known, bytes; 0 when unknown.
    pub primary_at: u64,
    /// `streaming`, or none.
    pub replication_state: Option<&'static str>,
    /// In force, as text.
    pub tags: BTreeMap<String, String>,
}

/// The query of a request; the first value of a name counts, empty values do not.
#[derive(Clone, Debug, Default)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    /// The first value of `name` that is not empty.
    pub fn first(&self, name: &str) -> Option<&str> {
        let mut values = self
            .0
            .iter()
            .filter(|(key, value)| key == name && !value.is_empty());
        values.next().map(|(_, value)| value.as_str())
    }
}

impl Health {
    /// Gathers what the table needs.
    pub fn of(board: &Board, lease: &dyn LeaseView) -> Health {
        let now = lease.now();
        let answers = board
            .postgres_answered_at
            .is_some_and(|at| now.since(at) < ANSWER_FRESH);
        let own = &board.own;
        let (is_standby, replayed, received) = match &own.postgres {
            PostgresStatus::Standby(standby) => (true, standby.replayed.0, standby.end_of_wal().0),
            _ => (false, 0, 0),
        };
        let sync = topology::sync_role(&board.state, &board.me, own.incarnation);
        let tags = board.state.tags_in_force(&board.me, &own.tags);
        Health {
            serves_as_primary: board.serves_as_primary(lease),
            is_running_replica: is_standby && answers,
            is_running: answers && topology::postgres_word(own) == "running",
            noloadbalance: tags.noloadbalance,
            is_sync: is_standby && sync == Role::SyncStandby,
            is_quorum: is_standby && sync == Role::QuorumStandby,
            replayed,
            received,
            primary_at: topology::primary_flush(board).map_or(0, |lsn| lsn.0),
            replication_state: topology::is_streaming(own).then_some("streaming"),
            tags: effective_tags(&tags),
        }
    }

    /// Whether `path` answers 200.
    pub fn is_ok(&self, path: &str, query: &Query) -> bool {
        let path = if path == "/" { "/primary" } else { path };
        let has = |word: &str| path.contains(word);
        // There is no standby cluster yet, so nobody is its leader.
        if has("standby_leader") || has("standby-leader") {
            return false;
        }
        if has("leader") || has("master") || has("primary") || has("read-write") {
            return self.serves_as_primary;
        }
        let replica = || self.is_replica(query);
        let ok = if has("replica") {
            replica()
        } else if has("read-only") && !has("sync") && !has("quorum") {
            self.serves_as_primary || replica()
        } else if has("health") {
            self.is_running
        } else {
            match path {
                "/sync" | "/synchronous" => self.is_sync && replica(),
                "/quorum" => self.is_quorum && replica(),
                "/async" | "/asynchronous" => !self.is_sync && !self.is_quorum && replica(),
                "/read-only-quorum" => self.serves_as_primary || (self.is_quorum && replica()),
                "/read-only-sync" | "/read-only-synchronous" => {
                    self.serves_as_primary || (self.is_sync && replica())
                }
                _ => false,
            }
        };
        ok && self.has_tags(query)
    }

    fn is_replica(&self, query: &Query) -> bool {
        let lag = query.first("lag").and_then(bytes);
        self.is_running_replica
            && !self.noloadbalance
            && !self.is_behind(self.replayed, lag)
            && query
                .first("replication_state")
                .is_none_or(|wanted| self.replication_state == Some(wanted))
    }

    fn is_behind(&self, at: u64, lag: Option<i128>) -> bool {
        lag.is_some_and(|lag| {
            self.primary_at > 0 && i128::from(self.primary_at) > i128::from(at) + lag
        })
    }

    fn has_tags(&self, query: &Query) -> bool {
        query
            .0
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .all(|(key, _)| {
                let Some(tag) = key.strip_prefix("tag_") else {
                    return true;
                };
                self.tags.get(tag).map(String::as_str) == query.first(key)
            })
    }

    /// Whether `/readiness` answers 200: the primary, or a standby that streams and is not further
    /// behind than `lag` or the cluster's limit for failover.
    pub fn is_ready(&self, query: &Query, maximum_lag: u64) -> bool {
        let at = if query.first("mode") == Some("write") {
            self.received
        } else {
            self.replayed
        };
        let lag = query
            .first("lag")
            .and_then(bytes)
            .unwrap_or(i128::from(maximum_lag));
        self.serves_as_primary
            || (self.is_running_replica
                && self.replication_state == Some("streaming")
                && !self.is_behind(at, Some(lag)))
    }
}

/// Whether `/liveness` answers 200: still forming, paused, or the member's loop turns. A primary is
/// judged by its lease, the others by twice that, none by less than ten seconds: a kill is no cure
/// for a slow disk.
pub fn is_alive(board: &Board, now: Moment) -> bool {
    let is_primary = matches!(board.own.postgres, PostgresStatus::Primary(_));
    let limit = if is_primary {
        board.times.lease
    } else {
        board.times.lease * 2
    };
    let limit = limit.max(Duration::from_secs(10));
    let has_formed = board.state.identity.is_some();
    !has_formed || board.state.pause.is_some() || now.since(board.refreshed_at) <= limit
}

/// Tags as Patroni shows them: its own ones only when they say something, others always.
pub fn effective_tags(tags: &Tags) -> BTreeMap<String, String> {
    let mut shown = tags.custom.clone();
    for (name, is_set) in [
        ("nofailover", tags.nofailover),
        ("noloadbalance", tags.noloadbalance),
        ("clonefrom", tags.clonefrom),
        ("nosync", tags.nosync),
    ] {
        if is_set {
            shown.insert(name.to_owned(), "true".to_owned());
        }
    }
    if let Some(priority) = tags.failover_priority {
        shown.insert("failover_priority".to_owned(), priority.to_string());
    }
    if let Some(priority) = tags.sync_priority {
        shown.insert("sync_priority".to_owned(), priority.to_string());
    }
    shown
}

/// A number of bytes as Patroni reads `lag`: `1048576`, `1MB`, `1.5 GB`; none when it is no such
/// thing, which means no limit.
fn bytes(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+')))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: i128 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return Some(i128::from(whole) * factor);
    }
    let fraction: f64 = number.parse().ok()?;
    // Between i64's bounds by the check, so the cast keeps the value.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let value = (fraction.abs() < 1e18).then_some((fraction * factor as f64).round() as i128);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_read_as_patroni_reads_it() {
        for (text, value) in [
            ("0", Some(0)),
            ("1048576", Some(1_048_576)),
            ("10MB", Some(10 << 20)),
            (" 1 GB ", Some(1 << 30)),
            ("1.5kB", Some(1536)),
            ("2TB", Some(2 << 40)),
            ("-1", Some(-1)),
            ("10mb", None),
            ("MB", None),
            ("ten", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), value, "{text}");
        }
    }
}
