//! A standby that needs WAL which the primary no longer keeps.

use std::collections::BTreeMap;

use cluster_core::decide::{Action, MemberVerdict};
use cluster_core::model::postgres::{Follows, Standby};
use cluster_core::model::view::Seen;
use cluster_core::model::{ClusterState, Epoch, Lsn, MemberName, PostgresStatus};

use crate::cluster::{name, serving};
use crate::decisions::{Look, primary, report, standby};
use crate::room::{member_b, without_b};

/// b follows a, ends at 0/96 and cannot stream; a keeps WAL from here on.
fn asked(
    state: &ClusterState,
    oldest: Option<u64>,
    change: impl Fn(&mut Standby),
) -> MemberVerdict {
    let mut own = standby(150);
    if let PostgresStatus::Standby(own) = &mut own {
        own.receiver = None;
        own.at_end_of_wal = false;
        own.is_out_of_wal = true;
        own.unattached_for_ms = Some(11_000);
        own.follows = Some(Follows {
            member: name("a"),
            epoch: Epoch(1),
        });
        change(own);
    }
    let mut reports: BTreeMap<MemberName, Seen> = Look::new().reports;
    let mut serving = primary(Vec::new());
    serving.oldest_wal = oldest.map(Lsn);
    if let Some(seen) = reports.get_mut(&name("a")) {
        seen.report = report("a", 1, PostgresStatus::Primary(serving));
    }
    member_b(state, &own, None, false, &reports)
}

fn is_cloned(verdict: &MemberVerdict) -> bool {
    matches!(verdict.action, Action::Clone { .. })
}

#[test]
fn what_the_primary_no_longer_keeps_is_cured_by_a_clone_and_said() {
    let verdict = asked(&without_b(), Some(160), |_| ());
    assert!(is_cloned(&verdict), "{verdict:?}");
    assert!(
        verdict
            .reason
            .to_string()
            .contains("keeps WAL from 0/A0 on"),
        "{}",
        verdict.reason
    );
}

#[test]
fn nothing_is_cloned_while_it_may_still_go_on() {
    let state = without_b();
    assert!(!is_cloned(&asked(&state, Some(150), |_| ())), "it is there");
    assert!(!is_cloned(&asked(&state, None, |_| ())), "nobody knows");
    let young = asked(&state, Some(160), |it| it.unattached_for_ms = Some(9_000));
    assert!(!is_cloned(&young), "it has hardly tried");
    let replays = asked(&state, Some(160), |it| it.is_out_of_wal = false);
    assert!(!is_cloned(&replays), "it replays what it has");
    let has_more = asked(&state, Some(160), |it| it.received = Some(Lsn(170)));
    assert!(!is_cloned(&has_more), "it has received more");
}

#[test]
fn a_copy_that_a_rule_counts_on_stays() {
    let state = serving();
    let counts_on_b = |it: &cluster_core::model::Rule| it.set.contains_key(&name("b"));
    assert!(state.live_rules.iter().any(counts_on_b));
    assert!(!is_cloned(&asked(&state, Some(160), |_| ())));
}
