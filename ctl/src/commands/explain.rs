//! `explain`: the decision the cluster would take if the primary died now, or why one member is what it
//! is; computed by the member that answers with the decision's own code.

use cluster_proto::v1;

use super::Context;
use crate::exit::Stop;
use crate::output::{Paint, Report};

/// Asks a member about the cluster without its primary, or about `member`, unless that is empty.
///
/// # Errors
/// Nobody answered, or there is no such member.
pub async fn report(context: &Context, member: &str) -> Result<Report, Stop> {
    let answer = context
        .client
        .read(|mut admin| async move {
            let member = member.to_owned();
            admin.explain(v1::ExplainRequest { member }).await
        })
        .await?;
    let heading = match member {
        "" => "If the primary died now:".to_owned(),
        member => format!("{member}:"),
    };
    Ok(render(&heading, &answer, context.paint))
}

/// The lines.
pub fn render(heading: &str, explanation: &v1::Explanation, paint: Paint) -> Report {
    let mut human = format!("{}\n", paint.heading(heading));
    let mut rows = vec![vec!["code".to_owned(), "text".to_owned()]];
    let mut data = Vec::new();
    for line in &explanation.lines {
        // The member's sentence may begin like our heading.
        let text = line
            .text
            .strip_prefix("If the primary died now: ")
            .unwrap_or(&line.text);
        human.push_str(&format!("  {text} ({})\n", line.code));
        rows.push(vec![line.code.clone(), line.text.clone()]);
        data.push(serde_json::json!({ "code": line.code, "text": line.text }));
    }
    if explanation.lines.is_empty() {
        human.push_str("  nothing: there is no primary\n");
    }
    Report {
        human,
        data: data.into(),
        rows,
    }
}
