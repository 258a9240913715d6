//! Histories by hand: good ones, and one for each anomaly.

use super::super::tests::history;
use super::*;

const LEVELS: [Isolation; 3] = Isolation::ALL;

fn anomalies(text: &str, isolation: Isolation) -> Vec<String> {
    let verdict = check(&history(text), isolation);
    assert!(verdict.unknown.is_empty(), "{verdict}");
    let found = verdict.violations.into_iter();
    found.map(|it| it.anomaly).collect()
}

/// Levels at which an anomaly of this name is a violation.
fn forbidden_at(text: &str, anomaly: &str) -> Vec<Isolation> {
    let levels = LEVELS.into_iter();
    levels
        .filter(|level| {
            let found = anomalies(text, *level);
            found.iter().any(|it| it.starts_with(anomaly))
        })
        .collect()
}

/// A transaction alone.
fn alone(process: i64, value: &str) -> String {
    format!("{process} invoke txn {value} / {process} ok txn {value} / ")
}

/// Two transactions at the same time.
fn together(one: &str, other: &str) -> String {
    format!("1 invoke txn {one} / 2 invoke txn {other} / 1 ok txn {one} / 2 ok txn {other} / ")
}

#[test]
fn good_histories_are_good_at_every_level() {
    let one_after_the_other = alone(0, "[[:append 1 1] [:r 1 [1]]]")
        + &alone(1, "[[:r 1 [1]] [:append 1 2]]")
        + &alone(0, "[[:r 1 [1 2]] [:r 2 []]]");
    let unknown_that_came = "0 invoke txn [[:append 1 1]] / 0 info txn [[:append 1 1]] / "
        .to_owned()
        + &alone(1, "[[:r 1 []]]")
        + &alone(1, "[[:r 1 [1]]]");
    let failed_and_unseen = "0 invoke txn [[:append 1 1]] / 0 fail txn [[:append 1 1]] / "
        .to_owned()
        + &alone(1, "[[:r 1 []]]");
    let at_once = together("[[:append 1 1] [:r 2 []]]", "[[:r 1 [1]] [:append 2 1]]")
        + &alone(3, "[[:r 1 [1]] [:r 2 [1]]]");
    for text in [
        one_after_the_other,
        unknown_that_came,
        failed_and_unseen,
        at_once,
    ] {
        for level in LEVELS {
            assert_eq!(anomalies(&text, level), Vec::<String>::new(), "{text}");
        }
    }
}

#[test]
fn what_a_failed_transaction_appended_must_not_be_read() {
    let failed = "0 invoke txn [[:append 1 1]] / 0 fail txn [[:append 1 1]] / ";
    let read = failed.to_owned() + &alone(1, "[[:r 1 [1]]]");
    assert_eq!(forbidden_at(&read, "G1a"), LEVELS);
    let built_on = failed.to_owned() + &alone(1, "[[:append 1 2]]") + &alone(1, "[[:r 1 [1 2]]]");
    assert_eq!(forbidden_at(&built_on, "dirty-update"), LEVELS);
}

#[test]
fn the_middle_of_a_transaction_must_not_be_read() {
    let text =
        together("[[:append 1 1] [:append 1 2]]", "[[:r 1 [1]]]") + &alone(1, "[[:r 1 [1 2]]]");
    assert_eq!(forbidden_at(&text, "G1b"), LEVELS);
}

#[test]
fn a_write_that_was_acknowledged_must_be_read() {
    let text = alone(0, "[[:append 1 1]]") + &alone(1, "[[:r 1 []]]");
    assert_eq!(forbidden_at(&text, "lost-write"), LEVELS);
}

#[test]
fn reads_of_a_list_must_continue_each_other() {
    let text = together("[[:append 1 1]]", "[[:append 1 2]]")
        + &together("[[:r 1 [1 2]]]", "[[:r 1 [2 1]]]");
    assert_eq!(forbidden_at(&text, "incompatible-order"), LEVELS);
    let twice = alone(0, "[[:append 1 1]]") + &alone(0, "[[:r 1 [1 1]]]");
    assert_eq!(forbidden_at(&twice, "element 1 of list 1 twice"), LEVELS);
    let nobodys = alone(0, "[[:r 1 [9]]]");
    assert_eq!(forbidden_at(&nobodys, "element 9"), LEVELS);
}

#[test]
fn a_transaction_must_see_its_own_appends_and_a_snapshot_must_stay() {
    let own = alone(0, "[[:append 1 1] [:r 1 []]]");
    assert_eq!(forbidden_at(&own, "internal"), LEVELS);
    let moved = together("[[:r 1 []] [:r 1 [1]]]", "[[:append 1 1]]");
    let snapshots = [Isolation::RepeatableRead, Isolation::Serializable];
    assert_eq!(forbidden_at(&moved, "internal"), snapshots);
}

#[test]
fn appends_in_a_circle_are_g0() {
    let text = together(
        "[[:append 1 1] [:append 2 1]]",
        "[[:append 1 2] [:append 2 2]]",
    ) + &alone(3, "[[:r 1 [1 2]] [:r 2 [2 1]]]");
    assert_eq!(forbidden_at(&text, "G0"), LEVELS);
    let late =
        alone(1, "[[:append 1 1]]") + &alone(2, "[[:append 1 2]]") + &alone(3, "[[:r 1 [2 1]]]");
    assert_eq!(forbidden_at(&late, "G0-realtime"), LEVELS);
}

#[test]
fn two_that_read_each_other_are_g1c() {
    let text = together("[[:append 1 1] [:r 2 [1]]]", "[[:append 2 1] [:r 1 [1]]]");
    assert_eq!(forbidden_at(&text, "G1c"), LEVELS);
}

#[test]
fn a_read_from_the_future_is_g1c_with_real_time() {
    let text = alone(1, "[[:r 1 [1]]]") + &alone(2, "[[:append 1 1]]");
    assert_eq!(forbidden_at(&text, "G1c-realtime"), LEVELS);
}

#[test]
fn half_of_a_transaction_is_g_single_and_forbidden_to_snapshots() {
    let text = together("[[:append 1 1] [:append 2 1]]", "[[:r 1 []] [:r 2 [1]]]")
        + &alone(3, "[[:r 1 [1]]]");
    let snapshots = [Isolation::RepeatableRead, Isolation::Serializable];
    assert_eq!(forbidden_at(&text, "G-single"), snapshots);
    let verdict = check(&history(&text), Isolation::ReadCommitted);
    assert_eq!(verdict.allowed[0].anomaly, "G-single", "{verdict}");
}

#[test]
fn a_lost_update_is_forbidden_to_snapshots() {
    let text = together("[[:r 1 []] [:append 1 1]]", "[[:r 1 []] [:append 1 2]]")
        + &alone(3, "[[:r 1 [1 2]]]");
    let snapshots = [Isolation::RepeatableRead, Isolation::Serializable];
    assert_eq!(forbidden_at(&text, "lost-update"), snapshots);
}

#[test]
fn write_skew_is_g2_and_forbidden_to_serializable_only() {
    let text = together("[[:r 1 []] [:append 2 1]]", "[[:r 2 []] [:append 1 1]]")
        + &alone(3, "[[:r 1 [1]] [:r 2 [1]]]");
    assert_eq!(forbidden_at(&text, "G2-item"), [Isolation::Serializable]);
}

#[test]
fn a_long_fork_is_g_nonadjacent_and_forbidden_to_snapshots() {
    let text = "1 invoke txn [[:append 1 1]] / 2 invoke txn [[:append 2 1]] / 3 invoke txn [] / \
                4 invoke txn [] / 1 ok txn [[:append 1 1]] / 2 ok txn [[:append 2 1]] / \
                3 ok txn [[:r 1 [1]] [:r 2 []]] / 4 ok txn [[:r 1 []] [:r 2 [1]]] / "
        .to_owned()
        + &alone(5, "[[:r 1 [1]] [:r 2 [1]]]");
    let snapshots = [Isolation::RepeatableRead, Isolation::Serializable];
    assert_eq!(forbidden_at(&text, "G-nonadjacent"), snapshots);
}

#[test]
fn evidence_names_each_transaction_and_why() {
    let text = together("[[:append 1 1] [:r 2 [1]]]", "[[:append 2 1] [:r 1 [1]]]");
    let verdict = check(&history(&text), Isolation::Serializable);
    let cycle = verdict.violations.iter().find(|it| it.anomaly == "G1c");
    let evidence = &cycle.expect("found").evidence;
    assert_eq!(evidence.len(), 4, "{evidence:#?}");
    assert!(
        evidence.iter().any(|it| it.contains("T1 before T2 (wr)")),
        "{evidence:#?}"
    );
}

#[test]
fn an_unreadable_history_proves_nothing() {
    let verdict = check(
        &history("0 invoke txn [7] / 0 ok txn [7]"),
        Isolation::Serializable,
    );
    assert!(!verdict.is_good());
}
