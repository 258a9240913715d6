//! The alerts and the dashboard we ship: Prometheus' own tools take them, every alert fires when it must,
//! and whatever they and the documentation name is what members serve.
//!
//! All but the last test need no cluster, and no Prometheus that runs: `promtool` evaluates the rules over
//! the series of `config/prometheus/alerts_test.yml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cluster_tests::host::Host;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};
use serde_json::{Value, json};

/// What members serve in a special state only, and which.
const SPECIAL: &[(&str, &str)] = &[
    (
        "clusterd_failovers_total",
        "counted by the daemon that led during a change of the primary: leadership may have moved since",
    ),
    (
        "clusterd_last_failover_seconds",
        "told by the daemon that led during a change of the primary, likewise",
    ),
    ("clusterd_archive_audit_time", AUDITED),
    ("clusterd_archive_missing_segments", AUDITED),
    ("clusterd_archive_problems", AUDITED),
    ("clusterd_scheduled_backup_failed", SCHEDULED),
    ("clusterd_scheduled_backup_next_time", SCHEDULED),
    ("clusterd_verification_failed", SCHEDULED),
    ("clusterd_verification_next_time", SCHEDULED),
    ("clusterd_pruning_failed", SCHEDULED),
];

/// Why some are not served at once.
const AUDITED: &str = "served once a member has looked at the archive: recovery.rs looks at them";
const SCHEDULED: &str = "served once a schedule has done something: recovery.rs looks at them";

/// How metrics of ours begin.
const PREFIXES: [&str; 2] = ["clusterd_", "patroni_"];

/// Names of metrics, each with the names of labels that go with it.
type Series = BTreeMap<String, BTreeSet<String>>;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(repository(path)).with_context(|| format!("read {path}"))
}

fn promtool(folder: &Path, arguments: &[&str]) -> Result<String> {
    let mut promtool = Command::new("promtool");
    promtool.current_dir(folder).args(arguments);
    Host::run(promtool).context("promtool (cargo xtask setup installs it)")
}

/// A file of YAML without its comments.
fn rules() -> Result<String> {
    let text = read("config/prometheus/alerts.yml")?;
    let is_said = |line: &&str| !line.trim_start().starts_with('#');
    Ok(text.lines().filter(is_said).collect::<Vec<_>>().join("\n"))
}

/// What follows this key, for each line that has it.
fn told(text: &str, key: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key));
    lines.map(|value| value.trim().to_owned()).collect()
}

/// Every text below `value` under one of these keys.
fn texts(value: &Value, keys: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if keys.contains(&key.as_str()) => found.push(text.to_owned()),
                    _ => texts(value, keys, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, keys, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Every expression of the dashboard.
fn expressions() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&read("config/grafana/matriarch.json")?)?;
    let mut found = Vec::new();
    texts(&dashboard, &["expr"], &mut found);
    Ok(found)
}

/// What the questions for the dashboard's variables ask.
fn variables() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&read("config/grafana/matriarch.json")?)?;
    let mut found = Vec::new();
    texts(&dashboard, &["definition"], &mut found);
    Ok(found)
}

/// Metrics of ours in a text, with the labels that are selected: `name{label="…",other=~"…"}`.
fn series(text: &str) -> Series {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Series::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        rest = &word[end..];
        if !PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
            continue;
        }
        let labels = found.entry(word[..end].to_owned()).or_default();
        let selected = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        // No value of a label in our files holds a comma.
        let pairs = selected.map_or("", |(inside, _)| inside).split(',');
        labels.extend(
            pairs
                .filter_map(|pair| pair.split_once('='))
                .map(|(label, _)| label.trim().to_owned()),
        );
    }
    found
}

/// Everything that alerts and dashboard name.
fn used() -> Result<Series> {
    let texts = [vec![rules()?], expressions()?, variables()?].concat();
    Ok(series(&texts.join("\n")))
}

/// Metric → kind, from the tables of the documentation.
fn documented() -> Result<BTreeMap<String, String>> {
    let page = read("docs/metrics.md")?;
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let metrics = rows.filter(|row| PREFIXES.iter().any(|prefix| row.starts_with(prefix)));
    let found = metrics.filter_map(|row| {
        let (name, rest) = row.split_once('`')?;
        Some((name.to_owned(), rest.split('|').nth(1)?.trim().to_owned()))
    });
    Ok(found.collect())
}

/// What one member serves: metrics with their labels, and metric → kind.
fn served(cluster: &Cluster, place: usize) -> Result<(Series, BTreeMap<String, String>)> {
    let answer = cluster.get(place, "/metrics")?;
    ensure!(answer.status == 200, "{answer:?}");
    let (comments, lines): (Vec<&str>, Vec<&str>) =
        answer.body.lines().partition(|line| line.starts_with('#'));
    let kinds = comments.iter().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name.to_owned(), kind.to_owned()))
    });
    Ok((series(&lines.join("\n")), kinds.collect()))
}

#[test]
fn promtool_takes_the_alerts_and_the_scrape() -> Result<()> {
    let folder = repository("config/prometheus");
    let said = promtool(&folder, &["check", "rules", "alerts.yml"])?;
    let alerts = told(&rules()?, "- alert:").len();
    ensure!(said.contains(&format!("{alerts} rules found")), "{said}");
    promtool(&folder, &["check", "config", "prometheus.yml"])?;
    Ok(())
}

#[test]
fn each_alert_fires_when_it_must_and_none_when_all_is_well() -> Result<()> {
    let cases = read("config/prometheus/alerts_test.yml")?;
    for alert in told(&rules()?, "- alert:") {
        let expected = format!("alertname=\"{alert}\"");
        ensure!(
            cases.contains(&expected),
            "{alert} is never expected to fire"
        );
    }
    promtool(
        &repository("config/prometheus"),
        &["test", "rules", "alerts_test.yml"],
    )?;
    Ok(())
}

/// The judge of the test above must be able to say no.
#[test]
fn alerts_that_wait_for_nothing_and_alerts_that_never_fire_are_found() -> Result<()> {
    let cases = read("config/prometheus/alerts_test.yml")?;
    let impatient: Vec<String> = rules()?
        .lines()
        .filter(|line| !line.trim_start().starts_with("for:"))
        .map(str::to_owned)
        .collect();
    let blind = rules()?.replace(
        "clusterd_serves_as_primary) > 1",
        "clusterd_serves_as_primary) > 9",
    );
    ensure!(
        blind != rules()?,
        "the rule for two primaries reads otherwise"
    );
    for wrong in [impatient.join("\n"), blind] {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("alerts.yml"), wrong)?;
        std::fs::write(folder.path().join("alerts_test.yml"), &cases)?;
        promtool(folder.path(), &["check", "rules", "alerts.yml"])?;
        let said = promtool(folder.path(), &["test", "rules", "alerts_test.yml"]);
        let said = said.err().context("wrong alerts passed the test")?;
        ensure!(format!("{said:#}").contains("FAILED"), "{said:#}");
    }
    Ok(())
}

#[test]
fn every_expression_of_the_dashboard_can_be_read_by_prometheus() -> Result<()> {
    let record = |(place, text): (usize, &String)| {
        let expression = text
            .replace("$__rate_interval", "1m")
            .replace("$scope", "main")
            .replace("$name", ".*");
        json!({ "record": format!("expression_{place}"), "expr": expression })
    };
    let expressions = expressions()?;
    ensure!(!expressions.is_empty(), "the dashboard asks nothing");
    let records: Vec<Value> = expressions.iter().enumerate().map(record).collect();
    let file = json!({ "groups": [{ "name": "dashboard", "rules": records }] });
    let folder = tempfile::tempdir()?;
    // JSON is YAML.
    std::fs::write(folder.path().join("dashboard.yml"), file.to_string())?;
    promtool(folder.path(), &["check", "rules", "dashboard.yml"])?;
    Ok(())
}

#[test]
fn metrics_alerts_and_runbooks_are_documented_and_nothing_else_is() -> Result<()> {
    let source = read("daemon/src/metrics.rs")?;
    let quoted = source.split('"').skip(1);
    let is_ours = |text: &&str| PREFIXES.iter().any(|prefix| text.starts_with(prefix));
    let made: BTreeSet<String> = quoted.filter(is_ours).map(str::to_owned).collect();
    let documented: BTreeSet<String> = documented()?.into_keys().collect();
    ensure!(
        made == documented,
        "docs/metrics.md and daemon/src/metrics.rs differ: {:?}",
        made.symmetric_difference(&documented).collect::<Vec<_>>()
    );
    let used = used()?;
    let unknown: Vec<_> = used.keys().filter(|name| !made.contains(*name)).collect();
    ensure!(unknown.is_empty(), "nobody serves {unknown:?}");
    let idle: Vec<_> = SPECIAL
        .iter()
        .filter(|(name, _)| !used.contains_key(*name))
        .collect();
    ensure!(idle.is_empty(), "special, and not used: {idle:?}");
    let (page, rules) = (read("docs/metrics.md")?, rules()?);
    let (alerts, runbooks) = (told(&rules, "- alert:"), told(&rules, "runbook_url:"));
    ensure!(
        !alerts.is_empty() && alerts.len() == runbooks.len(),
        "{alerts:?}, {runbooks:?}"
    );
    for (alert, runbook) in alerts.iter().zip(&runbooks) {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{alert}` |")));
        let row = row.with_context(|| format!("{alert} is not in docs/metrics.md"))?;
        ensure!(
            row.contains(&format!("(runbooks/{runbook})")),
            "{alert}: {row}, not {runbook}"
        );
        let text = read(&format!("docs/runbooks/{runbook}"))?;
        ensure!(!text.trim().is_empty(), "{runbook} says nothing");
    }
    Ok(())
}

/// Two members with PostgreSQL, a witness and a repository: what each serves, against what is named.
#[test]
fn members_serve_every_metric_that_alerts_dashboard_and_documentation_name() -> Result<()> {
    let cluster = Wanted::new("monitoring")
        .members(2, 1)
        .repository()
        .start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    let (used, documented) = (used()?, documented()?);
    let promised = ["settings", "set", "--yes", "rto=10min", "rpo=10min"];
    cluster.ctl(&promised)?;
    let found = wait_until("all that is used is served", PATIENCE, || {
        // The position of the archive is known once a segment has ended.
        let ended = cluster.sql(primary, "SELECT pg_switch_wal()");
        ended.map_err(|error| format!("{error:#}"))?;
        let (mut all, mut kinds) = (Series::new(), BTreeMap::new());
        for place in 0..cluster.members.len() {
            let (series, kind) = served(&cluster, place).map_err(|error| format!("{error:#}"))?;
            for (name, labels) in series {
                all.entry(name).or_default().extend(labels);
            }
            kinds.extend(kind);
        }
        let is_special = |name: &str| SPECIAL.iter().any(|(special, _)| *special == name);
        let missing: Vec<_> = used
            .keys()
            .filter(|name| !all.contains_key(*name) && !is_special(name))
            .collect();
        match missing.is_empty() {
            true => Ok((all, kinds)),
            false => Err(format!("missing: {missing:?}")),
        }
    })?;
    let (all, kinds) = found;
    for (name, labels) in used.iter().filter(|(name, _)| all.contains_key(*name)) {
        let is_served = |label: &&String| all[name].contains(*label);
        let unknown: Vec<_> = labels.iter().filter(|label| !is_served(label)).collect();
        ensure!(
            unknown.is_empty(),
            "{name} has no label {unknown:?}: {:?}",
            all[name]
        );
    }
    for (name, kind) in &kinds {
        let told = documented.get(name);
        ensure!(
            told == Some(kind),
            "{name} is a {kind}; documented as {told:?}"
        );
    }
    // The rule that a database does not run must leave the witness out by what it does not serve.
    let (of_witness, _) = served(&cluster, 2)?;
    ensure!(
        of_witness.contains_key("clusterd_raft_voters"),
        "{of_witness:?}"
    );
    ensure!(
        !of_witness.contains_key("clusterd_probe_age_seconds"),
        "{of_witness:?}"
    );
    cluster.finish()
}
