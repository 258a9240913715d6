//! `dr status`: what was promised about getting data back, and whether it is kept. The member that answers judges;
//! here it is put into words.

use std::fmt::Write as _;

use serde_json::json;

use crate::output::{Align, Paint, Report, table};
use crate::time::{bytes, length, moment};
use crate::view::{AuditView, BackupRunView, BackupsView, ObjectiveView, StatusView};

const COLUMNS: [(&str, Align); 6] = [
    ("Objective", Align::Left),
    ("At most", Align::Right),
    ("Measured", Align::Right),
    ("When", Align::Left),
    ("Verdict", Align::Left),
    ("What", Align::Left),
];

/// The report.
pub fn report(status: &StatusView, now: u64, paint: Paint) -> Report {
    let cells: Vec<Vec<String>> = status.objectives.iter().map(cells).collect();
    let mut rows = vec![COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells.clone());
    let mut human = table("", &COLUMNS, &cells, paint);
    let (is_kept, text) = sentence(&status.objectives, now);
    human.push_str(&match is_kept {
        true => paint.good(&text),
        false => paint.bad(&text),
    });
    human.push('\n');
    if let Some(audit) = &status.audit {
        let (is_good, text) = restorable(audit, now);
        let line = match is_good {
            true => text,
            false => paint.bad(&text),
        };
        let _ = writeln!(human, "{:<13}{line}", "Restorable");
    }
    for (name, found) in schedules(status) {
        let (is_good, text) = newest(name, found, now);
        let line = match is_good {
            true => text,
            false => paint.bad(&text),
        };
        let _ = writeln!(human, "{name:<13}{line}");
    }
    Report {
        human,
        data: json!({
            "summary": text,
            "is_kept": is_kept,
            "objectives": status.objectives,
            "audit": status.audit,
            "backups": status.backups,
            "verifications": status.verifications,
            "prunings": status.prunings,
        }),
        rows,
    }
}

/// From when on every moment can be restored, as far as the archive shows; whether all is well with it.
pub fn restorable(audit: &AuditView, now: u64) -> (bool, String) {
    let age = |at: u64| length(now.saturating_sub(at));
    let mut parts = Vec::new();
    if let Some(found) = audit.found_unix_ms {
        parts.push(match (&audit.first_backup, audit.first_unix_ms) {
            (Some(backup), Some(at)) => {
                format!("every moment since {} (backup {backup})", moment(at))
            }
            _ if audit.backups == 0 => "nothing: there is no backup".to_owned(),
            _ => "no moment after the hole: take a backup".to_owned(),
        });
        if audit.missing > 0 {
            let named = audit.missing_names.len() as u64;
            let more = match audit.missing.saturating_sub(named) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            parts.push(format!(
                "HOLE in the archive: {} missing: {}{more}",
                match audit.missing {
                    1 => "1 segment is".to_owned(),
                    many => format!("{many} segments are"),
                },
                audit.missing_names.join(", ")
            ));
        }
        parts.extend(audit.problems.iter().map(|it| format!("WRONG: {it}")));
        parts.push(format!(
            "{} segments looked at {} ago by {}",
            audit.segments,
            age(found),
            audit.member
        ));
    }
    if let Some(why) = &audit.failure {
        let ago = age(audit.looked_unix_ms);
        parts.push(format!(
            "{} could NOT look at it {ago} ago: {why}",
            audit.member
        ));
    }
    let is_good = audit.failure.is_none() && audit.missing == 0 && audit.problems.is_empty();
    (is_good, parts.join("; "))
}

/// What there is a schedule of, under the name it is shown with.
pub fn schedules(status: &StatusView) -> Vec<(&'static str, &BackupsView)> {
    [
        ("Backup", &status.backups),
        ("Verification", &status.verifications),
        ("Pruning", &status.prunings),
    ]
    .into_iter()
    .filter_map(|(name, found)| Some((name, found.as_ref()?)))
    .collect()
}

/// Whether everything that was promised is kept; and which of it is not, and since when.
pub fn sentence(objectives: &[ObjectiveView], now: u64) -> (bool, String) {
    let named = |verdict: &str| -> Vec<&ObjectiveView> {
        let all = objectives.iter();
        all.filter(|it| it.verdict == verdict).collect()
    };
    let (kept, broken, unknown) = (named("ok"), named("breached"), named("not measured"));
    let names = |all: &[&ObjectiveView]| -> String {
        let names: Vec<&str> = all.iter().map(|it| it.name.as_str()).collect();
        names.join(", ")
    };
    if kept.is_empty() && broken.is_empty() && unknown.is_empty() {
        let text = "Nothing is promised: `clusterctl settings set rto=10min rpo=2min`";
        return (true, text.to_owned());
    }
    let mut parts = Vec::new();
    if !kept.is_empty() {
        parts.push(format!("kept: {}", names(&kept)));
    }
    for it in &broken {
        parts.push(match it.since_unix_ms {
            Some(at) => format!(
                "NOT kept: {} since {} ({})",
                it.name,
                moment(at),
                length(now.saturating_sub(at))
            ),
            None => format!("NOT kept: {}, and never was: {}", it.name, it.of),
        });
    }
    for it in &unknown {
        parts.push(format!("not known: {}, {}", it.name, it.of));
    }
    (broken.is_empty(), parts.join("; "))
}

fn cells(it: &ObjectiveView) -> Vec<String> {
    let time = |ms: Option<u64>| ms.map(length).unwrap_or_default();
    vec![
        it.name.clone(),
        time(it.limit_ms),
        time(it.measured_ms),
        it.at_unix_ms.map(moment).unwrap_or_default(),
        it.verdict.clone(),
        it.of.clone(),
    ]
}

/// Whether the newest of a kind that is over went well; the newest good one, the schedule, and how the newest stands.
pub fn newest(name: &str, found: &BackupsView, now: u64) -> (bool, String) {
    let age = |at: u64| length(now.saturating_sub(at));
    let mut text = match &found.newest_stored {
        Some(run) => format!(
            "{} {} ago by {}{}",
            came_to(run),
            age(run.ended_unix_ms.unwrap_or(now)),
            run.member,
            size(run)
        ),
        None if name == "Backup" => "none is stored by the schedule yet".to_owned(),
        None => "none went well by the schedule yet".to_owned(),
    };
    let _ = write!(text, "; schedule {}", found.schedule);
    if let Some(at) = found.next_unix_ms {
        let _ = write!(text, ", next {}", moment(at));
    }
    let Some(run) = &found.newest else {
        return (true, text);
    };
    if run.ended_unix_ms.is_none() {
        let does = match name {
            "Backup" => "takes one",
            _ => "is at one",
        };
        let _ = write!(
            text,
            "; {} {does} since {}",
            run.member,
            age(run.began_unix_ms)
        );
        return (true, text);
    }
    let Some(why) = &run.failure else {
        return (true, text);
    };
    let ended = age(run.ended_unix_ms.unwrap_or(now));
    let _ = write!(
        text,
        "; attempt {} of {} FAILED {ended} ago: {why}",
        run.attempt, run.member
    );
    (false, text)
}

/// What one that went well came to.
fn came_to(run: &BackupRunView) -> String {
    match (&run.verification, &run.pruned) {
        (Some(found), _) => {
            let backup = found.backup.as_deref().unwrap_or_default();
            let rto = found.rto_ms.map(length);
            let rto = rto.map(|it| format!(", first answer after {it}"));
            format!(
                "{} {backup}, level {}, {}{},",
                found.verdict,
                found.level,
                bytes(found.bytes),
                rto.unwrap_or_default()
            )
        }
        (None, Some(what)) => format!("{},", what.trim_end_matches('.')),
        (None, None) => format!("{} of", run.id.as_deref().unwrap_or_default()),
    }
}

fn size(run: &BackupRunView) -> String {
    run.bytes
        .map_or_else(String::new, |bytes| format!(", {bytes} bytes"))
}
