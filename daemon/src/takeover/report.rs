//! What a take-over would do, for people: everything at once, refusals last, where they are seen.

use std::fmt::Write as _;

use cluster_core::model::MemberKind;

use crate::config::Config;
use crate::postgres::{OldFacts, OldServer, OldStandby};

use super::checks::Findings;
use super::estimate;

/// Longest value of a parameter that is shown.
const LONGEST: usize = 60;

/// Parameters whose values may hold a password.
const SECRETS: [&str; 3] = ["primary_conninfo", "restore_command", "archive_command"];

/// The whole report.
pub fn report(
    config: &Config,
    old: &OldServer,
    facts: &OldFacts,
    found: &Findings,
    way_back: &[String],
) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "PostgreSQL {} of {}\n  process {} on port {}, system identifier {}, {} of data",
        facts.version,
        config
            .postgres
            .as_ref()
            .map(|postgres| postgres.data_dir.display().to_string())
            .unwrap_or_default(),
        old.pid,
        old.port,
        facts.system_identifier,
        size(facts.bytes),
    );
    if let Some(standby) = &facts.standby {
        position(&mut text, standby);
    }
    imported(&mut text, facts, found);
    section(
        &mut text,
        "Belongs to clusterd from then on",
        found
            .replaced
            .iter()
            .map(|(name, value)| format!("{name} (was {})", shown(name, value))),
    );
    section(
        &mut text,
        "This member's config file says otherwise, and wins",
        found.overruled.iter().map(|(name, old, new)| {
            format!("{name} = {} (was {})", shown(name, new), shown(name, old))
        }),
    );
    section(&mut text, "Know before", found.warnings.iter().cloned());
    match &facts.standby {
        Some(_) => steps_of_standby(&mut text),
        None => gap(&mut text, config, facts),
    }
    section(&mut text, "The way back", way_back.iter().cloned());
    section(
        &mut text,
        "REFUSED",
        found
            .refused
            .iter()
            .map(|refusal| format!("{}\n    cure: {}", refusal.what, refusal.cure)),
    );
    text
}

fn position(text: &mut String, standby: &OldStandby) {
    let follows = match (&standby.upstream, standby.is_streaming) {
        (Some(upstream), true) => format!("streams from {upstream}"),
        (_, _) => "does not stream".to_owned(),
    };
    let _ = writeln!(
        text,
        "  a standby: {follows}, has timeline {} up to {}",
        standby.timeline, standby.replayed
    );
}

fn steps_of_standby(text: &mut String) {
    let steps = [
        "1. the group forms; nothing of the old standby is touched, and it streams on",
        "2. its primary is taken over (clusterd --take-over there, last of all); until then nothing \
         happens here",
        "3. a fast stop here, and a start under clusterd with the data it has: it follows the \
         cluster's primary, and is copied anew only if its WAL has left its primary's line",
    ];
    section(
        text,
        "What happens",
        steps.iter().map(|step| (*step).to_owned()),
    );
}

fn imported(text: &mut String, facts: &OldFacts, found: &Findings) {
    let parameters = &found.imported.parameters;
    section(
        text,
        "Imported: parameters",
        parameters
            .iter()
            .map(|(name, value)| format!("{name} = {}", shown(name, value))),
    );
    section(
        text,
        "Imported: pg_hba.conf, below the rules of clusterd and of the config file",
        found.imported.hba.iter().cloned(),
    );
    section(
        text,
        "Imported: pg_ident.conf",
        found.imported.ident.iter().cloned(),
    );
    section(
        text,
        "Imported: replication slots",
        facts.slots.iter().map(|slot| {
            let kind = if slot.is_logical {
                "logical"
            } else {
                "physical"
            };
            let use_now = if slot.is_active { "in use" } else { "idle" };
            format!("{} ({kind}, {use_now})", slot.name)
        }),
    );
    section(
        text,
        "Imported: tablespaces",
        facts
            .tablespaces
            .iter()
            .map(|(name, place)| format!("{name} at {}", place.display())),
    );
    section(
        text,
        "Imported: roles and users",
        facts.roles.iter().map(|role| {
            let login = if role.can_login { "" } else { ", no login" };
            let superuser = if role.is_superuser { ", superuser" } else { "" };
            format!("{}{superuser}{login}", role.name)
        }),
    );
}

fn gap(text: &mut String, config: &Config, facts: &OldFacts) {
    let others: Vec<String> = config
        .members
        .iter()
        .filter(|member| member.name != config.name && member.kind == MemberKind::Database)
        .map(|member| member.name.to_string())
        .collect();
    let others = match others.is_empty() {
        true => "there are none".to_owned(),
        false => others.join(", "),
    };
    let steps = [
        "the group forms; nothing of the old server is touched".to_owned(),
        format!(
            "a CHECKPOINT while clients go on ({} of WAL since the last one)",
            size(facts.since_checkpoint_bytes)
        ),
        "the one restart: a fast stop, a start in recovery, a promotion. Clients see a gap of a few \
         seconds, which is measured and shown"
            .to_owned(),
        format!(
            "the other members with PostgreSQL follow ({others}): a standby of today that is taken \
             over keeps its data, an empty one is cloned"
        ),
    ];
    let steps = steps
        .iter()
        .zip(1..)
        .map(|(step, number)| format!("{number}. {step}"));
    section(text, "What happens", steps);
    let gap = estimate::words(&facts.pace, facts.since_checkpoint_bytes);
    section(text, "The gap, estimated", gap.into_iter());
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
}

fn shown(name: &str, value: &str) -> String {
    if SECRETS.contains(&name) && !value.is_empty() {
        return "not shown".to_owned();
    }
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("'{}…'", &value[..end]),
        None => format!("'{value}'"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} kB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MB", bytes >> 20),
        _ => format!("{} GB", bytes >> 30),
    }
}
