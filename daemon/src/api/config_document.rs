//! The settings as a JSON document, as `/config` shows and takes them: the keys of `settings set`, nested at
//! their dots. PostgreSQL's parameters stand where Patroni has them, in `postgresql.parameters`.

use cluster_core::model::{Assignment, Settings};
use serde_json::{Map, Value, json};

/// Where the cluster's parameters stand, and how they begin in a row.
const PATRONI: &str = "postgresql";
const PARAMETERS: &str = "parameters";

/// The whole document, defaults included.
pub fn document(settings: &Settings) -> Value {
    let mut body = json!({
        "zones": {},
        "members": {},
        PATRONI: {PARAMETERS: {}},
        "primary": {PARAMETERS: {}},
        "standby": {PARAMETERS: {}},
    });
    for (key, value) in settings.rows() {
        let path = match key.split_once('.') {
            None => vec![key.as_str()],
            Some((PARAMETERS, name)) => vec![PATRONI, PARAMETERS, name],
            Some(("zones", name)) => vec!["zones", name],
            Some((outer @ ("primary" | "standby"), rest)) => {
                let name = rest.split_once('.').map_or(rest, |(_, name)| name);
                vec![outer, PARAMETERS, name]
            }
            // members.NAME.tag, members.NAME.parameters.PARAMETER: only the last may hold dots.
            Some((outer, rest)) => std::iter::once(outer).chain(rest.splitn(3, '.')).collect(),
        };
        put(&mut body, &path, shown(&key, value));
    }
    body
}

fn put(body: &mut Value, path: &[&str], value: Value) {
    let Some((last, outer)) = path.split_last() else {
        return;
    };
    let mut place = body;
    for name in outer {
        if !place[*name].is_object() {
            place[*name] = json!({});
        }
        place = &mut place[*name];
    }
    place[*last] = value;
}

/// Numbers and switches as such; what PostgreSQL is given stays text, and so do names.
fn shown(key: &str, value: String) -> Value {
    if key.contains("parameters.") || key.starts_with("zones.") {
        return Value::String(value);
    }
    match (value.parse::<u64>(), value.as_str()) {
        (Ok(number), _) => json!(number),
        (_, "true") => json!(true),
        (_, "false") => json!(false),
        _ => Value::String(value),
    }
}

/// The assignments of a partial document: a value that is null takes the key away.
///
/// # Errors
/// Everything that is not where the document has it.
pub fn assignments(body: &Map<String, Value>) -> Result<Vec<Assignment>, Vec<String>> {
    let mut reader = Reader::default();
    for (key, value) in body {
        match key.as_str() {
            "zones" => reader.map("zones", "zones.", None, value),
            PARAMETERS => reader.map(PARAMETERS, "parameters.", None, value),
            "primary" | "standby" | PATRONI => reader.role(key, value),
            "members" => reader.members(value),
            _ => reader.take(key.clone(), None, value),
        }
    }
    if reader.problems.is_empty() {
        Ok(reader.found)
    } else {
        Err(reader.problems)
    }
}

#[derive(Default)]
struct Reader {
    found: Vec<Assignment>,
    problems: Vec<String>,
}

impl Reader {
    fn take(&mut self, key: String, member: Option<&str>, value: &Value) {
        match text(value) {
            Some(value) => self.found.push(Assignment {
                key,
                value,
                member: member.map(str::to_owned),
            }),
            None => self.problems.push(format!("{key}: not a single value")),
        }
    }

    fn map(&mut self, place: &str, prefix: &str, member: Option<&str>, value: &Value) {
        let Value::Object(entries) = value else {
            return self.misplaced(place);
        };
        for (name, value) in entries {
            self.take(format!("{prefix}{name}"), member, value);
        }
    }

    fn role(&mut self, role: &str, value: &Value) {
        let Value::Object(entries) = value else {
            return self.misplaced(role);
        };
        let prefix = match role {
            PATRONI => "parameters.".to_owned(),
            _ => format!("{role}.parameters."),
        };
        for (name, value) in entries {
            match name.as_str() {
                PARAMETERS => self.map(&format!("{role}.{name}"), &prefix, None, value),
                _ => self
                    .problems
                    .push(format!("{role}.{name}: no such key (parameters)")),
            }
        }
    }

    fn members(&mut self, value: &Value) {
        let Value::Object(members) = value else {
            return self.misplaced("members");
        };
        for (name, own) in members {
            let Value::Object(own) = own else {
                self.misplaced(&format!("members.{name}"));
                continue;
            };
            for (key, value) in own {
                match key.as_str() {
                    PARAMETERS => {
                        let place = format!("members.{name}.{key}");
                        self.map(&place, "parameters.", Some(name), value);
                    }
                    _ => self.take(key.clone(), Some(name), value),
                }
            }
        }
    }

    fn misplaced(&mut self, place: &str) {
        self.problems
            .push(format!("{place}: an object is expected"));
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use cluster_core::model::SettingsChange;

    use super::*;

    fn read(body: Value) -> Result<Settings, Vec<String>> {
        let Value::Object(body) = body else {
            return Err(vec!["no object".to_owned()]);
        };
        let (change, problems) = SettingsChange::read(&assignments(&body)?);
        if problems.is_empty() {
            Ok(change.applied_to(&Settings::default()))
        } else {
            Err(problems)
        }
    }

    #[test]
    fn what_is_shown_can_be_put_back() {
        let settings = read(json!({
            "mode": "strict",
            "k": 2,
            "probe_limit": "7s",
            "maximum_lag_on_failover": 1_048_576,
            "zones": {"a": "east"},
            "postgresql": {"parameters": {"work_mem": "8MB", "max_connections": 200}},
            "standby": {"parameters": {"max_standby_streaming_delay": "30s", "my.own": "1"}},
            "members": {"b": {"nosync": true, "failover_priority": 2, "parameters": {"work_mem": "1MB", "x.y": "2"}}},
        }))
        .expect("it will do");
        assert_eq!(settings.parameters["max_connections"], "200");
        let b = "b".parse().expect("name");
        assert_eq!(settings.parameters_of_member(&b)["x.y"], "2");
        assert_eq!(read(document(&settings)), Ok(settings));
        let plain = Settings::default();
        assert_eq!(read(document(&plain)), Ok(plain));
    }

    #[test]
    fn what_is_misplaced_is_told_at_once() {
        let body = json!({
            "zones": "east",
            "postgresql": {"use_slots": true, "parameters": []},
            "members": {"a": 1},
            "mode": ["sync"],
        });
        let problems = read(body).expect_err("four places");
        for start in [
            "zones: ",
            "postgresql.use_slots: ",
            "postgresql.parameters: ",
            "members.a: ",
            "mode: ",
        ] {
            assert!(
                problems.iter().any(|it| it.starts_with(start)),
                "{start} in {problems:?}"
            );
        }
    }
}
