//! `overview`: is every member consistent with the cluster, and if not, why? One line each.

use serde_json::json;

use crate::output::{Align, Paint, Report, table};
use crate::view::{MemberView, StatusView};

const COLUMNS: [(&str, Align); 8] = [
    ("Member", Align::Left),
    ("Role", Align::Left),
    ("State", Align::Left),
    ("TL", Align::Right),
    ("LSN", Align::Right),
    ("Lag in MB", Align::Right),
    ("Consistent", Align::Left),
    ("Why", Align::Left),
];

/// A report older than this is no proof. Source: the lease of the slowest preset.
const OLD_MS: u64 = 10_000;

/// The report.
pub fn report(status: &StatusView, paint: Paint) -> Report {
    let judged: Vec<(&MemberView, Option<String>)> = status
        .members
        .iter()
        .map(|member| (member, doubt(status, member)))
        .collect();
    let cells: Vec<Vec<String>> = judged.iter().map(|(it, why)| cells(it, why)).collect();
    let mut rows = vec![COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells.clone());
    let good = judged.iter().filter(|(_, why)| why.is_none()).count();
    let title = match status.cluster.as_str() {
        "" => "Cluster: not formed yet".to_owned(),
        name => format!("Cluster: {name} ({})", status.cluster_id),
    };
    let summary = format!("{good} of {} members are consistent", judged.len());
    let is_all = good == judged.len() && good > 0;
    let mut human = table(&title, &COLUMNS, &cells, paint);
    human.push_str(&match is_all {
        true => paint.good(&summary),
        false => paint.bad(&summary),
    });
    human.push_str(&place(status));
    human.push('\n');
    let members = judged.iter().map(|(member, why)| {
        json!({
            "name": member.name,
            "role": member.role,
            "state": member.state,
            "timeline": member.timeline,
            "lsn": lsn(member),
            "lag_bytes": member.replay_lag_bytes,
            "is_consistent": why.is_none(),
            "why": why,
        })
    });
    let members: Vec<serde_json::Value> = members.collect();
    Report {
        human,
        data: json!({
            "cluster": status.cluster,
            "cluster_id": status.cluster_id,
            "epoch": status.epoch,
            "primary": status.primary,
            "is_consistent": is_all,
            "members": members,
        }),
        rows,
    }
}

fn place(status: &StatusView) -> String {
    match &status.reign {
        Some(reign) => format!(": epoch {}, timeline {}", status.epoch, reign.timeline),
        None => ": there has been no primary yet".to_owned(),
    }
}

fn lsn(member: &MemberView) -> Option<&str> {
    let replayed = member.replay_lsn.as_deref();
    replayed.or(member.receive_lsn.as_deref())
}

fn cells(member: &MemberView, why: &Option<String>) -> Vec<String> {
    let lag = match member.is_witness() || member.is_primary() {
        true => None,
        false => member.replay_lag_bytes.map(|bytes| bytes / (1024 * 1024)),
    };
    let text = |value: Option<u64>| value.map(|it| it.to_string()).unwrap_or_default();
    vec![
        member.name.clone(),
        member.role.clone(),
        member.state.clone(),
        text(member.timeline.map(u64::from)),
        lsn(member).unwrap_or_default().to_owned(),
        text(lag),
        if why.is_none() { "yes" } else { "no" }.to_owned(),
        why.clone().unwrap_or_default(),
    ]
}

/// Why a member is not proven consistent; none: it is. A primary is when it reigns and is open; a standby
/// when it streams on the primary's timeline in its epoch; a witness when it is heard.
fn doubt(status: &StatusView, member: &MemberView) -> Option<String> {
    let Some(age) = member.report_age_ms else {
        return Some("it has not been heard yet".to_owned());
    };
    if age > OLD_MS || member.state == "unknown" {
        return Some(format!("it was last heard {} s ago", age / 1000));
    }
    if !member.is_voter {
        return Some("it does not vote yet".to_owned());
    }
    if member.is_witness() {
        return None;
    }
    let Some(reign) = &status.reign else {
        return Some("there has been no primary yet".to_owned());
    };
    if reign.phase != "granted" {
        return Some(format!("epoch {} has ended: no primary", reign.epoch));
    }
    if member.timeline != Some(reign.timeline) {
        let found = member.timeline.map(|it| it.to_string());
        return Some(format!(
            "it is on timeline {}, the cluster on {}",
            found.unwrap_or_else(|| "unknown".to_owned()),
            reign.timeline
        ));
    }
    if member.epoch != Some(status.epoch) {
        return Some(format!("it does not follow epoch {} yet", status.epoch));
    }
    let wanted = match member.is_primary() {
        true => "running",
        false => "streaming",
    };
    if member.state != wanted {
        return Some(match &member.busy {
            Some(busy) => format!("it is busy: {}", busy.with),
            None => format!("its PostgreSQL is {}", member.state),
        });
    }
    if member.is_primary() && !reign.is_activated {
        return Some("it is not open to clients yet".to_owned());
    }
    None
}
