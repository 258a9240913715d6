//! `explain`: the decision the cluster would take if the primary died now, computed by the member that
//! answers with the same code.

use cluster_proto::v1;

use super::Context;
use crate::exit::Stop;
use crate::output::{Paint, Report};

/// Asks a member.
///
/// # Errors
/// Nobody answered.
pub async fn report(context: &Context) -> Result<Report, Stop> {
    let answer = context
        .client
        .read(|mut admin| async move { admin.explain(v1::ExplainRequest {}).await })
        .await?;
    Ok(render(&answer, context.paint))
}

/// The lines.
pub fn render(explanation: &v1::Explanation, paint: Paint) -> Report {
    let mut human = format!("{}\n", paint.heading("If the primary died now:"));
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
