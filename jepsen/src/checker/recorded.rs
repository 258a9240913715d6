//! Checkers on histories of a real run in which the primary's host was killed: good as recorded, and not
//! after one thing in them was damaged. This is how a checker is shown to see what it should see among
//! all that real clients do.

use std::time::Duration;

use super::{Staleness, Verdict, judge_history};
use crate::history::{Edn, Event, Kind};

const SERIALIZABLE: &str = include_str!("../../recorded/history-append-serializable.edn");
const REGISTER: &str = include_str!("../../recorded/history-register.edn");
const BANK: &str = include_str!("../../recorded/history-bank.edn");
const SET_FULL: &str = include_str!("../../recorded/history-set-full.edn");
const MONOTONIC: &str = include_str!("../../recorded/history-monotonic.edn");

fn events(text: &str) -> Vec<Event> {
    Event::parse_all(text).expect("a recorded history")
}

fn judged(name: &str, events: &[Event]) -> Verdict {
    let staleness = Staleness {
        bound: Duration::from_secs(5),
        calm: Vec::new(),
    };
    judge_history(name, events, &staleness).expect("there is a checker")
}

fn has(verdict: &Verdict, anomaly: &str) -> bool {
    let mut found = verdict.violations.iter();
    found.any(|it| it.anomaly.starts_with(anomaly))
}

/// Changes every list that was read, by list and elements.
fn change_lists(events: &mut [Event], mut change: impl FnMut(i64, &mut Vec<Edn>)) {
    for event in events.iter_mut().filter(|it| it.kind == Kind::Ok) {
        let Edn::Vector(steps) = &mut event.value else {
            continue;
        };
        for step in steps {
            let Edn::Vector(step) = step else { continue };
            if let [f, Edn::Integer(key), Edn::Vector(list)] = &mut step[..]
                && f.word() == Some("r")
            {
                change(*key, list);
            }
        }
    }
}

/// A list, the first element of it that was read, and the second.
fn read_first(events: &mut [Event]) -> (i64, Edn, Edn) {
    let mut found = None;
    change_lists(events, |key, list| {
        if let [first, second, ..] = &list[..] {
            found.get_or_insert((key, first.clone(), second.clone()));
        }
    });
    found.expect("a list of two was read")
}

#[test]
fn as_recorded_they_are_good_and_not_empty() {
    let all = [
        ("append-serializable", SERIALIZABLE),
        ("register", REGISTER),
        ("bank", BANK),
        ("monotonic", MONOTONIC),
        ("set-full", SET_FULL),
    ];
    for (name, text) in all {
        let events = events(text);
        assert!(events.len() > 500, "{name}: {} events", events.len());
        let nodes: std::collections::BTreeSet<String> = events
            .iter()
            .flat_map(|event| event.more.iter())
            .filter(|(key, _)| key == "node")
            .map(|(_, node)| node.to_string())
            .collect();
        assert!(nodes.len() > 1, "{name}: no failover in it: {nodes:?}");
        let verdict = judged(name, &events);
        assert!(verdict.is_good(), "{name}: {verdict}");
    }
}

#[test]
fn an_element_dropped_from_every_list_is_a_lost_write() {
    let mut events = events(SERIALIZABLE);
    let (of, gone, _) = read_first(&mut events);
    change_lists(&mut events, |key, list| {
        list.retain(|it| key != of || *it != gone)
    });
    assert!(has(&judged("append-serializable", &events), "lost-write"));
}

#[test]
fn two_elements_that_change_places_in_one_list_are_seen() {
    let mut events = events(SERIALIZABLE);
    let mut is_done = false;
    change_lists(&mut events, |_, list| {
        if list.len() > 1 && !is_done {
            list.swap(0, 1);
            is_done = true;
        }
    });
    assert!(has(
        &judged("append-serializable", &events),
        "incompatible-order"
    ));
}

#[test]
fn two_elements_that_change_places_in_every_list_are_a_cycle_in_real_time() {
    let mut events = events(SERIALIZABLE);
    // The first and the sixth: neighbours may have been appended at the same time.
    change_lists(&mut events, |_, list| match list.len() {
        0..=5 => list.clear(),
        _ => list.swap(0, 5),
    });
    let verdict = judged("append-serializable", &events);
    assert!(has(&verdict, "G0-realtime"), "{verdict}");
}

#[test]
fn an_acknowledged_append_called_failed_is_an_aborted_read() {
    let mut events = events(SERIALIZABLE);
    let (of, element, _) = read_first(&mut events);
    let appended = Edn::Vector(vec![Edn::keyword("append"), Edn::Integer(of), element]);
    let has_it = |it: &&mut Event| it.value.elements().is_some_and(|it| it.contains(&appended));
    let mut appends = events.iter_mut().filter(|it| it.kind == Kind::Ok);
    appends.find(has_it).expect("it was acknowledged").kind = Kind::Fail;
    assert!(has(&judged("append-serializable", &events), "G1a"));
}

/// Each acknowledged write alone is called failed. Not every one can be seen: the next write may have come
/// before any read. Of those that a read shows, most are.
#[test]
fn acknowledged_writes_called_failed_are_seen_by_the_register() {
    let original = events(REGISTER);
    let is_write = |it: &Event| it.kind == Kind::Ok && it.f == "write";
    let places = 0..original.len();
    let writes: Vec<usize> = places.filter(|it| is_write(&original[*it])).collect();
    let (mut seen, tried) = (0, writes.len().min(60));
    for place in writes.iter().take(tried) {
        let mut events = original.clone();
        events[*place].kind = Kind::Fail;
        seen += usize::from(has(&judged("register", &events), "not-linearizable"));
    }
    assert!(seen * 4 > tried, "{seen} of {tried}");
}

#[test]
fn one_read_of_another_value_is_seen_by_the_register() {
    let mut events = events(REGISTER);
    let is_read = |it: &&mut Event| it.kind == Kind::Ok && it.f == "read";
    let read = events.iter_mut().filter(is_read).nth(50).expect("a read");
    if let Edn::Vector(pair) = &mut read.value {
        pair[1] = Edn::Integer(77);
    }
    assert!(has(&judged("register", &events), "not-linearizable"));
}

#[test]
fn one_coin_too_many_is_seen_by_the_bank() {
    let mut events = events(BANK);
    let is_read = |it: &&mut Event| it.kind == Kind::Ok && it.f == "read";
    let read = events.iter_mut().filter(is_read).nth(50).expect("a read");
    if let Edn::Map(accounts) = &mut read.value
        && let (_, Edn::Integer(balance)) = &mut accounts[3]
    {
        *balance += 1;
    }
    assert!(has(&judged("bank", &events), "wrong-total"));
}

#[test]
fn two_reads_of_a_session_that_change_places_went_back() {
    let mut events = events(MONOTONIC);
    let session = |it: &Event| it.more.iter().find(|(key, _)| key == "session").cloned();
    let is_read = |it: &Event| it.kind == Kind::Ok && it.f == "read";
    let pair = (0..events.len()).find_map(|place| {
        let one = Some(&events[place]).filter(|it| is_read(it))?;
        let is_later = |it: &Event| {
            is_read(it)
                && it.process == one.process
                && session(it) == session(one)
                && it.value.get("v") != one.value.get("v")
        };
        let later = events[place..].iter().position(is_later)?;
        Some((place, place + later))
    });
    let (one, other) = pair.expect("a session that saw the number grow");
    let value = events[one].value.clone();
    events[one].value = std::mem::replace(&mut events[other].value, value);
    assert!(has(&judged("monotonic", &events), "value-went-back"));
}

/// The elements of the reads of one set, each with its place.
fn change_sets(events: &mut [Event], mut change: impl FnMut(usize, &mut Vec<Edn>)) {
    let is_read = |it: &&mut Event| it.kind == Kind::Ok && it.f == "read";
    for (place, event) in events.iter_mut().filter(is_read).enumerate() {
        if let Edn::Vector(pair) = &mut event.value
            && let [Edn::Integer(_), Edn::Vector(elements)] = &mut pair[..]
        {
            change(place, elements);
        }
    }
}

#[test]
fn an_element_missing_from_one_late_read_is_seen() {
    let mut events = events(SET_FULL);
    change_sets(&mut events, |place, elements| {
        if place == 150 {
            elements.remove(0);
        }
    });
    let verdict = judged("set-full", &events);
    assert!(has(&verdict, "missing-after-acknowledged"), "{verdict}");
    assert!(has(&verdict, "vanished"), "{verdict}");
}

#[test]
fn an_addition_of_unknown_end_that_is_seen_once_has_vanished() {
    let mut events = events(SET_FULL);
    let mut gone = None;
    change_sets(&mut events, |_, elements| {
        // Of the first read that has any it stays, of all others it goes.
        match &gone {
            None => gone = elements.first().cloned(),
            Some(gone) => elements.retain(|it| it != gone),
        }
    });
    let added =
        |it: &&mut Event| it.f == "add" && it.value.elements().map(|it| &it[1]) == gone.as_ref();
    for event in events
        .iter_mut()
        .filter(added)
        .filter(|it| it.kind == Kind::Ok)
    {
        event.kind = Kind::Info;
    }
    let verdict = judged("set-full", &events);
    assert!(has(&verdict, "vanished"), "{verdict}");
    assert!(judged("cancel", &events).is_good());
}
