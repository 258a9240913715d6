//! What is sent for one event: how grave it is, and the body as each receiver wants it.

use cluster_proto::v1;
use serde_json::{Value, json};

use crate::api::events::{json as event_json, time as event_time};
use crate::config::WebhookFormat;

/// How grave an event is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something was done.
    Info,
    /// Something was not done, or is not as it should be.
    Warning,
    /// Nobody can write.
    Critical,
}

impl Severity {
    /// As configuration and bodies have it.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// Reasons for which a primary is taken away on purpose, as `revoked` has them.
const PLANNED: &[&str] = &["switchover", "failover", "restart"];

/// How grave this one is.
pub fn severity(event: &v1::Event) -> Severity {
    match event.what.as_str() {
        "revoked" if !PLANNED.contains(&event.reason.as_str()) => Severity::Critical,
        "members-missing" => Severity::Critical,
        "commits-overridden" | "waits-cancelled" | "strangers-ended" | "schedule-dropped"
        | "backup-failed" | "verify-failed" | "prune-failed" | "snapshot-failed"
        | "snapshot-missing" => Severity::Warning,
        "request-ended" if event.reason.contains("failed") => Severity::Warning,
        _ => Severity::Info,
    }
}

/// It ends what a critical one began.
pub fn is_end(event: &v1::Event) -> bool {
    event.what == "activated"
}

/// Of which cluster an event is.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name.
    pub cluster: &'a str,
    /// Its id.
    pub id: &'a str,
}

fn summary(source: Source<'_>, event: &v1::Event) -> String {
    let mut text = format!("{}: {}", source.cluster, event.what);
    if !event.member.is_empty() {
        text.push_str(&format!(" {}", event.member));
    }
    if !event.reason.is_empty() {
        text.push_str(&format!(" ({})", event.reason));
    }
    text
}

/// The same for an event that is sent twice, and for the beginning and the end of one outage.
fn key(source: Source<'_>, event: &v1::Event) -> String {
    if severity(event) == Severity::Critical || is_end(event) {
        return format!("{}-no-primary", source.id);
    }
    format!("{}-{}", source.id, event.index)
}

/// The body for one receiver, and the path that is appended to its address.
pub fn body(
    format: WebhookFormat,
    routing_key: &str,
    source: Source<'_>,
    event: &v1::Event,
) -> (String, Value) {
    let summary = summary(source, event);
    let severity = severity(event).word();
    match format {
        WebhookFormat::Json => {
            let mut body = event_json(event);
            body["id"] = json!(format!("{}-{}", source.id, event.index));
            body["cluster"] = json!(source.cluster);
            body["cluster_id"] = json!(source.id);
            body["severity"] = json!(severity);
            body["summary"] = json!(summary);
            (String::new(), body)
        }
        WebhookFormat::Pagerduty => {
            let action = if is_end(event) { "resolve" } else { "trigger" };
            let body = json!({
                "routing_key": routing_key,
                "event_action": action,
                "dedup_key": key(source, event),
                "payload": {
                    "summary": cut(&summary, 1024),
                    "source": source.cluster,
                    "severity": severity,
                    "timestamp": event_time(event),
                    "component": event.member,
                    "group": source.cluster,
                    "class": event.what,
                    "custom_details": event_json(event),
                },
            });
            (String::new(), body)
        }
        WebhookFormat::Opsgenie if is_end(event) => {
            let path = format!("/{}/close?identifierType=alias", key(source, event));
            (path, json!({ "source": source.cluster, "note": summary }))
        }
        WebhookFormat::Opsgenie => {
            let priority = match severity {
                "critical" => "P1",
                "warning" => "P3",
                _ => "P5",
            };
            let body = json!({
                "message": cut(&summary, 130),
                "alias": key(source, event),
                "description": summary,
                "priority": priority,
                "source": source.cluster,
                "entity": event.member,
                "details": {
                    "what": event.what, "reason": event.reason, "who": event.who,
                    "epoch": event.epoch.to_string(), "index": event.index.to_string(),
                },
            });
            (String::new(), body)
        }
    }
}

/// No longer than the receiver takes. Unit: characters.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source<'static> = Source {
        cluster: "main",
        id: "c1",
    };

    fn event(what: &str, reason: &str) -> v1::Event {
        v1::Event {
            index: 17,
            at_unix_ms: 1_795_000_000_000,
            epoch: 4,
            what: what.to_owned(),
            member: "m1".to_owned(),
            reason: reason.to_owned(),
            who: "cluster".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn an_outage_is_critical_a_planned_move_is_not() {
        for (what, reason, wanted) in [
            ("revoked", "primary-silent", Severity::Critical),
            ("revoked", "switchover", Severity::Info),
            ("activated", "", Severity::Info),
            (
                "request-ended",
                "switchover: failed: m2 is not heard",
                Severity::Warning,
            ),
            ("request-ended", "restarted m2", Severity::Info),
            ("schedule-dropped", "too late", Severity::Warning),
            ("waits-cancelled", "2 commits", Severity::Warning),
            ("backup-failed", "no space", Severity::Warning),
            ("members-missing", "of n1", Severity::Critical),
        ] {
            assert_eq!(severity(&event(what, reason)), wanted, "{what} {reason}");
        }
    }

    #[test]
    fn pagerduty_is_told_of_the_beginning_and_the_end_under_one_key() {
        let tell = |it: &v1::Event| body(WebhookFormat::Pagerduty, "R1", SOURCE, it).1;
        let begin = tell(&event("revoked", "primary-silent"));
        let end = tell(&event("activated", ""));
        assert_eq!(begin["event_action"], "trigger");
        assert_eq!(begin["routing_key"], "R1");
        assert_eq!(begin["payload"]["severity"], "critical");
        assert_eq!(
            begin["payload"]["summary"],
            "main: revoked m1 (primary-silent)"
        );
        assert_eq!(end["event_action"], "resolve");
        assert_eq!(begin["dedup_key"], end["dedup_key"]);
        let other = tell(&event("schedule-dropped", "too late"));
        assert_eq!(other["dedup_key"], "c1-17");
    }

    #[test]
    fn opsgenie_gets_an_alert_it_can_close() {
        let tell = |it: &v1::Event| body(WebhookFormat::Opsgenie, "", SOURCE, it);
        let (path, begin) = tell(&event("revoked", &"x".repeat(200)));
        assert_eq!(
            (path.as_str(), begin["priority"].as_str()),
            ("", Some("P1"))
        );
        assert_eq!(begin["message"].as_str().map(str::len), Some(130));
        let (path, _) = tell(&event("activated", ""));
        assert_eq!(path, "/c1-no-primary/close?identifierType=alias");
    }

    #[test]
    fn plain_json_is_the_event_with_its_cluster() {
        let (_, body) = body(
            WebhookFormat::Json,
            "",
            SOURCE,
            &event("paused", "root@db1"),
        );
        assert_eq!(body["id"], "c1-17");
        assert_eq!(body["severity"], "info");
        assert_eq!(body["what"], "paused");
        assert_eq!(body["time"], "2026-11-18T11:06:40.000000+00:00");
    }
}
