//! What was stored once is read for ever, and as long as nothing new is used it is written as it
//! was: in a rolling upgrade members of two versions read each other's log.
//!
//! `stored/` is frozen: the files of a format are never edited. A new format gets new files.

use std::collections::BTreeSet;

use cluster_core::change::command::{COMMAND_VERSION, Stamp};
use cluster_core::change::{Command, apply};
use cluster_core::model::ClusterState;

/// Commands of format 1 as version 0.1.0 wrote them; every kind it had, one story.
const COMMANDS: &str = include_str!("stored/commands-1.jsonl");
/// Where that story ended, as 0.1.0 wrote it into a snapshot.
const STATE: &str = include_str!("stored/state-1.json");
/// How many kinds of commands 0.1.0 had.
const KINDS: usize = 21;

fn stored() -> impl Iterator<Item = (&'static str, Stamp)> {
    COMMANDS.lines().map(|line| {
        let stamp = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        (line, stamp)
    })
}

#[test]
fn stored_commands_are_read_and_written_as_they_were() {
    for (line, stamp) in stored() {
        let written = serde_json::to_string(&stamp).expect("a command is JSON");
        assert_eq!(written, line);
    }
}

#[test]
fn every_kind_of_command_is_among_the_stored_ones() {
    let kinds: BTreeSet<String> = stored()
        .map(|(_, stamp)| match serde_json::to_value(stamp.command) {
            Ok(serde_json::Value::Object(one)) => one.keys().cloned().collect(),
            Ok(word) => word.to_string(),
            Err(error) => panic!("{error}"),
        })
        .collect();
    assert_eq!(kinds.len(), KINDS, "{kinds:#?}");
}

/// A member that replays an old log, and one that loads an old snapshot, agree with one that was
/// there. No daemon of 0.1.0 changed a rule within an epoch.
#[test]
fn stored_commands_lead_where_they_led() {
    let mut state = ClusterState::default();
    for (index, (line, stamp)) in (1..).zip(stored()) {
        if matches!(
            stamp.command,
            Command::Propose { .. } | Command::Withdraw { .. }
        ) {
            continue;
        }
        apply(&mut state, index, &stamp).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    let loaded: ClusterState = serde_json::from_str(STATE).expect("a state of 0.1.0");
    assert_eq!(state, loaded);
    let written = serde_json::to_string(&state).expect("a state is JSON");
    assert_eq!(written, STATE.trim_end());
}

#[test]
fn a_command_with_an_unknown_word_is_refused() {
    let (line, stamp) = stored().next().expect("there are some");
    assert_eq!(stamp.version, COMMAND_VERSION);
    let strange = line.replacen("\"command\"", "\"reason_why\":1,\"command\"", 1);
    assert!(
        serde_json::from_str::<Stamp>(&strange).is_err(),
        "{strange}"
    );
}
