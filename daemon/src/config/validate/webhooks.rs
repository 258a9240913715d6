//! `[[webhooks]]`.

use super::super::file::WebhookTable;
use super::super::{WebhookConfig, WebhookFormat};
use super::Check;
use super::security::SecretSource;
use crate::webhooks::payload::Severity;

const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";
const OPSGENIE: &str = "https://api.opsgenie.com/v2/alerts";

impl Check<'_> {
    pub(super) fn webhooks(&mut self, tables: &mut [WebhookTable]) -> Vec<WebhookConfig> {
        let names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
        let each = tables.iter_mut().enumerate();
        each.map(|(place, table)| {
            if names[..place].contains(&table.name) {
                let text = format!("`{}` is the name of another one too", table.name);
                self.problem(&format!("webhooks[{place}].name"), text);
            }
            self.webhook(place, table)
        })
        .collect()
    }

    fn webhook(&mut self, place: usize, table: &mut WebhookTable) -> WebhookConfig {
        let of = |field: &str| format!("webhooks[{place}].{field}");
        if table.name.is_empty() {
            self.problem(&of("name"), "missing (what it is called in the log)");
        }
        let (format, usual) = match table.format.as_str() {
            "json" | "" => (WebhookFormat::Json, None),
            "pagerduty" => (WebhookFormat::Pagerduty, Some(PAGERDUTY)),
            "opsgenie" => (WebhookFormat::Opsgenie, Some(OPSGENIE)),
            other => {
                let text = format!("`{other}` is none of json, pagerduty, opsgenie");
                self.problem(&of("format"), text);
                (WebhookFormat::Json, None)
            }
        };
        let url = table.url.clone().or(usual.map(str::to_owned));
        let url = url.unwrap_or_default();
        match reqwest::Url::parse(&url) {
            Ok(found) if ["http", "https"].contains(&found.scheme()) && found.has_host() => {}
            Ok(_) | Err(_) => {
                let text = format!("`{url}` is no address (https://host/path)");
                self.problem(&of("url"), text);
            }
        }
        let variable = format!("CLUSTERD_WEBHOOK_{place}_KEY");
        let key = self.secret(SecretSource {
            key: &of("key"),
            variable: &variable,
            inline: &mut table.key,
            file: &table.key_file,
        });
        if key.is_none() && table.key_file.is_none() && usual.is_some() {
            let text = format!("missing (the service's key, here, in key_file or in {variable})");
            self.problem(&of("key"), text);
        }
        let least = match table.least.as_deref() {
            None | Some("warning") => Severity::Warning,
            Some("info") => Severity::Info,
            Some("critical") => Severity::Critical,
            Some(other) => {
                let text = format!("`{other}` is none of info, warning, critical");
                self.problem(&of("least"), text);
                Severity::Warning
            }
        };
        WebhookConfig {
            name: table.name.clone(),
            format,
            url,
            key,
            least,
        }
    }
}
