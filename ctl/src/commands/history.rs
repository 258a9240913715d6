//! `history`: what happened, oldest first.

use cluster_proto::v1;

use super::Context;
use crate::exit::Stop;
use crate::output::{Align, Paint, Report, table};
use crate::view::HistoryView;

/// Asks a member.
///
/// # Errors
/// Nobody answered.
pub async fn report(context: &Context, limit: u32) -> Result<Report, Stop> {
    let answer = context
        .client
        .read(|mut admin| async move { admin.get_history(v1::GetHistoryRequest { limit }).await })
        .await?;
    Ok(render(&answer, context.paint))
}

/// The table.
pub fn render(history: &v1::History, paint: Paint) -> Report {
    let entries: Vec<HistoryView> = history.entries.iter().map(HistoryView::from).collect();
    let columns = [
        ("Time", Align::Left),
        ("Epoch", Align::Right),
        ("What", Align::Left),
        ("Member", Align::Left),
        ("TL", Align::Right),
        ("LSN", Align::Right),
        ("Reason", Align::Left),
    ];
    let cells: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            vec![
                entry.at.clone(),
                entry.epoch.to_string(),
                entry.what.clone(),
                entry.member.clone().unwrap_or_default(),
                entry
                    .timeline
                    .map(|timeline| timeline.to_string())
                    .unwrap_or_default(),
                entry.lsn.clone().unwrap_or_default(),
                entry.reason.clone(),
            ]
        })
        .collect();
    let human = table("", &columns, &cells, paint);
    let mut rows = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells);
    Report {
        human,
        data: serde_json::to_value(&entries).unwrap_or_default(),
        rows,
    }
}
