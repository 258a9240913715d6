//! A run on one page: what held and what did not, what was done to the cluster and what it did
//! meanwhile. One file that needs nothing else to be opened.

mod timeline;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use cluster_tests::{Cluster, History};
use serde_json::Value;

use crate::checker::{Finding, Verdict};
use crate::nemesis::Blow;
use crate::report::Report;

const STYLE: &str = include_str!("page.css");

/// What the page is made from.
pub struct Page<'a> {
    /// Verdicts, faults and how to repeat it.
    pub report: &'a Report,
    /// Acknowledged rows: when, and by whom.
    pub set: &'a History,
    /// Names and addresses of members with PostgreSQL.
    pub members: Vec<(String, String)>,
    /// Of what was tested.
    pub versions: &'a Value,
    /// The run's seed.
    pub seed: u64,
}

impl<'a> Page<'a> {
    /// Of a run on this cluster.
    pub fn new(
        cluster: &Cluster,
        report: &'a Report,
        set: &'a History,
        versions: &'a Value,
        seed: u64,
    ) -> Self {
        let databases = cluster.members.iter().filter(|member| !member.is_witness);
        let members = databases.map(|it| (it.name.clone(), it.host.address.clone()));
        Self {
            report,
            set,
            members: members.collect(),
            versions,
            seed,
        }
    }

    /// The whole page.
    pub fn html(&self) -> String {
        let (word, class) = match self.report.is_good() {
            true => ("Every property held", "good"),
            false => ("This run is not good", "bad"),
        };
        let facts = self.report.facts();
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>Chaos, seed {seed}: {word}</title>\n<style>\n{STYLE}</style></head><body>\n\
             <h1 class=\"{class}\">{word}</h1>\n<p>{facts}</p>\n\
             <h2>Properties</h2>\n{verdicts}\n<h2>What happened when</h2>\n{timeline}\n\
             <h2>Faults, and how long nothing could be written</h2>\n{faults}\n\
             <h2>This run</h2>\n{run}\n</body></html>\n",
            seed = self.seed,
            facts = escaped(&facts.join(" · ")),
            verdicts = self.verdicts(),
            timeline = timeline::svg(self),
            faults = self.faults(),
            run = self.run(),
        )
    }

    fn verdicts(&self) -> String {
        let mut rows = String::new();
        for verdict in self.report.verdicts() {
            let (word, class) = match (verdict.violations.is_empty(), verdict.is_good()) {
                (true, true) => ("holds", "good"),
                (true, false) => ("not proven", "bad"),
                (false, _) => ("violated", "bad"),
            };
            let _ = writeln!(
                rows,
                "<tr><th>{}</th><td class=\"{class}\">{word}</td><td>{}{}</td></tr>",
                escaped(&verdict.property),
                escaped(&verdict.looked_at),
                evidence(verdict)
            );
        }
        for (kind, text) in self.report.remarks() {
            let class = if kind == "note" { "" } else { "bad" };
            let text = escaped(&text);
            let _ = writeln!(
                rows,
                "<tr><th>run</th><td class=\"{class}\">{kind}</td><td>{text}</td></tr>"
            );
        }
        format!("<table>{rows}</table>")
    }

    /// By kind of fault: how often, and the longest outage of each time, shortest first.
    fn faults(&self) -> String {
        let mut kinds: BTreeMap<String, Vec<(&Blow, Duration)>> = BTreeMap::new();
        for blow in self.report.blows() {
            let outage = self.outage_of(blow);
            let kind = kinds.entry(format!("{:?}", blow.fault)).or_default();
            kind.push((blow, outage));
        }
        let mut rows = "<tr><th>fault</th><th>times</th><th>on a primary</th><th>held</th>\
                        <th>longest time without a write, each time (s)</th></tr>\n"
            .to_owned();
        for (kind, mut blows) in kinds {
            blows.sort_by_key(|(_, outage)| *outage);
            let count = |is_it: fn(&Blow) -> bool| blows.iter().filter(|it| is_it(it.0)).count();
            let outages = blows
                .iter()
                .map(|(_, it)| format!("{:.2}", it.as_secs_f64()));
            let _ = writeln!(
                rows,
                "<tr><th>{kind}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                blows.len(),
                count(|it| it.was_primary),
                count(|it| it.was_held),
                outages.collect::<Vec<_>>().join(" ")
            );
        }
        format!("<table>{rows}</table>")
    }

    /// The longest gap between acknowledged rows from a fault's beginning until the next fault.
    fn outage_of(&self, blow: &Blow) -> Duration {
        let later = self.report.blows().iter().map(|it| it.at);
        let next = later.filter(|at| *at > blow.at).min();
        let last = self.set.rows.last().map(|row| row.acknowledged);
        let end = next.or(last).unwrap_or(blow.at + blow.lasted);
        self.set.outage(blow.at, end.max(blow.at))
    }

    fn run(&self) -> String {
        let mut rows = format!("<tr><th>seed</th><td>{}</td></tr>", self.seed);
        for (name, version) in self.versions.as_object().into_iter().flatten() {
            let version = version.as_str().unwrap_or_default();
            let (name, version) = (escaped(name), escaped(version));
            let _ = write!(rows, "<tr><th>{name}</th><td>{version}</td></tr>");
        }
        let repeat = escaped(self.report.repeat());
        format!("<table>{rows}<tr><th>again</th><td><code>{repeat}</code></td></tr></table>")
    }
}

fn evidence(verdict: &Verdict) -> String {
    let listed = |title: &str, findings: &[Finding]| {
        let told = findings.iter().map(|finding| {
            format!(
                "<details><summary>{title}{}</summary><pre>{}</pre></details>",
                escaped(&finding.anomaly),
                escaped(&finding.evidence.join("\n"))
            )
        });
        told.collect::<String>()
    };
    let unknown = verdict.unknown.iter();
    let unknown = unknown.map(|why| format!("<p>not proven: {}</p>", escaped(why)));
    listed("", &verdict.violations)
        + &unknown.collect::<String>()
        + &listed("seen, and allowed: ", &verdict.allowed)
}

/// Text that is no markup.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use cluster_tests::writer::Row;

    use super::*;
    use crate::nemesis::Fault;
    use crate::report::Least;

    #[test]
    fn the_page_says_what_was_violated_and_shows_each_reign_and_fault() {
        let seconds = Duration::from_secs;
        let row = |timeline, at, server: &str| Row {
            writer: 1,
            number: 1,
            server: server.to_owned(),
            timeline,
            invoked: seconds(at),
            acknowledged: seconds(at),
        };
        let set = History {
            rows: vec![row(2, 1, "10.0.0.1"), row(3, 9, "10.0.0.2")],
            ..History::default()
        };
        let blow = Blow {
            at: seconds(2),
            fault: Fault::KillHost,
            member: "m1".to_owned(),
            was_primary: true,
            was_held: true,
            lasted: seconds(3),
        };
        let least = Least::of_rounds(0);
        let mut report = Report::new("again".to_owned(), vec![blow], &set, seconds(1), least);
        let mut verdict = Verdict::new("bank", "1 read".to_owned());
        let finding = Finding::new("wrong-total", ["{1 <5>}".to_owned()]);
        verdict.violations.push(finding);
        report.add(verdict);
        let member = |n: u8| (format!("m{n}"), format!("10.0.0.{n}"));
        let versions = serde_json::json!({ "postgresql": "15" });
        let page = Page {
            report: &report,
            set: &set,
            members: vec![member(1), member(2)],
            versions: &versions,
            seed: 7,
        };
        let html = page.html();
        for text in [
            "This run is not good",
            "wrong-total",
            "{1 &lt;5&gt;}",
            "KillHost",
            "8.00",
        ] {
            assert!(html.contains(text), "{text}: {html}");
        }
        assert_eq!(html.matches("class=\"reign").count(), 2, "{html}");
        assert_eq!(html.matches("class=\"outage\"").count(), 1, "{html}");
        for tag in ["table", "details", "svg", "g", "tr", "pre"] {
            let open = html.matches(&format!("<{tag}>")).count()
                + html.matches(&format!("<{tag} ")).count();
            assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert!(
            !html.contains("http://") && !html.contains("https://"),
            "needs no network"
        );
    }
}
