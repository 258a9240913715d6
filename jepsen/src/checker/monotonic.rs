//! Reads on members: within a session neither the value nor the position of WAL goes back; nothing is
//! read that nobody had sent; and while nothing is broken, nothing that was acknowledged longer ago
//! than the bound is missing.

use std::collections::HashMap;
use std::time::Duration;

use crate::history::{Edn, Kind, Operation};

use super::verdict::Verdict;

/// Spans of time, in nanoseconds, in which reads must not be staler than the bound.
#[derive(Clone, Debug)]
pub struct Staleness {
    /// How long an acknowledged write may be missing on a standby.
    pub bound: Duration,
    /// When nothing was broken: from, to.
    pub calm: Vec<(u64, u64)>,
}

impl Staleness {
    /// Everything up to the first fault and after the recovery is calm.
    pub fn outside(bound: Duration, first: Duration, recovered: Duration) -> Self {
        let nanoseconds = |it: Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
        let calm = vec![(0, nanoseconds(first)), (nanoseconds(recovered), u64::MAX)];
        Self { bound, calm }
    }
}

/// A read with what it saw.
struct Seen<'a> {
    read: &'a Operation,
    value: i64,
    lsn: i64,
    is_standby: bool,
    completed: u64,
}

/// Checks all reads. In mode `async` what was acknowledged may be lost, and then is missing for ever:
/// staleness is forgiven there by the caller.
pub fn check(operations: &[Operation], staleness: &Staleness) -> Verdict {
    let reads: Vec<Seen> = operations.iter().filter_map(seen).collect();
    let mut verdict = Verdict::new("monotonic", String::new());
    let mut sessions: HashMap<(i64, Option<i64>), &Seen> = HashMap::new();
    for seen in &reads {
        let session = seen.read.get("session").and_then(Edn::integer);
        let before = sessions.insert((seen.read.process, session), seen);
        let pair = |before: &Seen| vec![before.read.told(), seen.read.told()];
        let is_final = seen.read.get("final").is_some();
        if let Some(before) = before.filter(|_| !is_final) {
            if seen.value < before.value {
                verdict.note("value-went-back", pair(before));
            }
            // A promotion changes what the position means: replayed there, flushed here.
            if seen.lsn < before.lsn && seen.is_standby == before.is_standby {
                verdict.note("position-went-back", pair(before));
            }
        }
    }
    let writes: Vec<&Operation> = operations.iter().filter(|it| it.f == "write").collect();
    for seen in &reads {
        let sent = writes.iter().filter(|it| it.invoked < seen.completed);
        let highest = sent.filter_map(|it| it.value.integer()).max().unwrap_or(0);
        if seen.value > highest {
            let evidence = vec![seen.read.told(), format!("the highest sent was {highest}")];
            verdict.note("never-written", evidence);
        }
    }
    let mut worst = 0;
    for seen in &reads {
        let Some((since, write)) = staler(seen, &writes) else {
            continue;
        };
        worst = worst.max(since);
        let (from, to) = (seen.read.invoked.saturating_sub(since), seen.completed);
        let is_calm = staleness.calm.iter().any(|it| it.0 <= from && to <= it.1);
        if is_calm && Duration::from_nanos(since) > staleness.bound {
            let evidence = vec![write.told(), seen.read.told()];
            verdict.note("staler-than-bound", evidence);
        }
    }
    verdict.looked_at = format!(
        "{} reads in {} sessions; the stalest lacked what was acknowledged {} ms before, faults included",
        reads.len(),
        sessions.len(),
        worst / 1_000_000
    );
    verdict
}

/// How long before the read the oldest write was acknowledged that it does not show.
fn staler<'a>(seen: &Seen, writes: &[&'a Operation]) -> Option<(u64, &'a Operation)> {
    let is_missing = |it: &&&Operation| {
        it.kind == Kind::Ok && it.value.integer().is_some_and(|value| value > seen.value)
    };
    let missing = writes.iter().filter(is_missing);
    let since = missing.filter_map(|it| {
        let since = seen.read.invoked.checked_sub(it.completed?)?;
        Some((since, *it))
    });
    since.max_by_key(|(since, _)| *since)
}

fn seen(read: &Operation) -> Option<Seen<'_>> {
    if read.f != "read" || read.kind != Kind::Ok {
        return None;
    }
    Some(Seen {
        read,
        value: read.value.get("v")?.integer()?,
        lsn: read.value.get("lsn")?.integer()?,
        is_standby: read.value.get("standby") == Some(&Edn::Bool(true)),
        completed: read.completed?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::history;
    use super::*;

    /// Events are 1 ms apart; all of it is calm, and 10 ms is the bound.
    fn anomalies(text: &str) -> Vec<String> {
        let staleness = Staleness {
            bound: Duration::from_millis(10),
            calm: vec![(0, u64::MAX)],
        };
        let found = check(&history(text), &staleness).violations;
        found.into_iter().map(|it| it.anomaly).collect()
    }

    fn read(process: i64, value: i64, lsn: i64) -> String {
        format!(
            "{process} invoke read nil / {process} ok read {{:v {value} :standby true :lsn {lsn}}} / "
        )
    }

    const WRITES: &str = "0 invoke write 1 / 0 ok write 1 / 0 invoke write 2 / 0 ok write 2 / ";

    #[test]
    fn reads_that_grow_are_good_and_other_sessions_may_be_behind() {
        let text = WRITES.to_owned() + &read(1, 1, 10) + &read(2, 2, 20) + &read(1, 2, 20);
        assert!(anomalies(&text).is_empty());
    }

    #[test]
    fn going_back_and_what_nobody_sent_are_found() {
        let back = WRITES.to_owned() + &read(1, 2, 20) + &read(1, 1, 20);
        assert_eq!(anomalies(&back), ["value-went-back"]);
        let position = WRITES.to_owned() + &read(1, 2, 20) + &read(1, 2, 19);
        assert_eq!(anomalies(&position), ["position-went-back"]);
        let future = read(1, 1, 10) + "0 invoke write 1 / 0 ok write 1";
        assert_eq!(anomalies(&future), ["never-written"]);
    }

    #[test]
    fn what_is_missing_for_longer_than_the_bound_is_found() {
        let late = (0..6).fold(WRITES.to_owned(), |text, _| text + &read(1, 1, 10));
        assert_eq!(anomalies(&late), ["staler-than-bound"]);
    }
}
