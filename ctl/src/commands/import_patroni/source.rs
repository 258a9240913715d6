//! A Patroni file as a document from which keys are taken one by one: what nobody took is told at the end.

use std::collections::BTreeMap;

use serde_yaml_ng::Value;

/// What is left of a document, and where it lies in the whole.
#[derive(Clone, Debug, Default)]
pub struct Source {
    place: String,
    entries: BTreeMap<String, Value>,
}

impl Source {
    /// From the text of a YAML file.
    ///
    /// # Errors
    /// It cannot be read, or is no map.
    pub fn read(text: &str) -> Result<Source, String> {
        let value: Value = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        match value {
            Value::Mapping(_) => Ok(Source::of(String::new(), value)),
            _ => Err("a map of keys is expected".to_owned()),
        }
    }

    fn of(place: String, value: Value) -> Source {
        let mut entries = BTreeMap::new();
        if let Value::Mapping(mapping) = value {
            for (key, value) in mapping {
                entries.insert(text(&key).unwrap_or_default(), value);
            }
        }
        Source { place, entries }
    }

    /// Where `key` stands in the whole document.
    pub fn place_of(&self, key: &str) -> String {
        if self.place.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.place)
        }
    }

    /// Takes a map out; an empty one when it is not there.
    pub fn map(&mut self, key: &str) -> Source {
        let place = self.place_of(key);
        match self.entries.remove(key) {
            Some(value @ Value::Mapping(_)) => Source::of(place, value),
            Some(other) => {
                // Not what it should be: it is told with the rest.
                self.entries.insert(key.to_owned(), other);
                Source::of(place, Value::Null)
            }
            None => Source::of(place, Value::Null),
        }
    }

    /// Takes a single value out, as text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let found = self.entries.get(key).and_then(text)?;
        self.entries.remove(key);
        Some(found)
    }

    /// Takes a switch out.
    pub fn switch(&mut self, key: &str) -> Option<bool> {
        let found = match self.entries.get(key)? {
            Value::Bool(value) => Some(*value),
            other => match text(other)?.to_ascii_lowercase().as_str() {
                "true" | "on" | "yes" => Some(true),
                "false" | "off" | "no" => Some(false),
                _ => None,
            },
        }?;
        self.entries.remove(key);
        Some(found)
    }

    /// Takes a list of texts out; a map with one entry each (as initdb's options are) as `key: value`.
    pub fn list(&mut self, key: &str) -> Vec<String> {
        let Some(Value::Sequence(list)) = self.entries.get(key) else {
            return Vec::new();
        };
        let found = list.iter().map(|value| match value {
            Value::Mapping(pairs) => pairs
                .iter()
                .map(|(key, value)| {
                    let value = text(value).unwrap_or_default();
                    format!("{}: {value}", text(key).unwrap_or_default())
                })
                .collect::<Vec<_>>()
                .join(", "),
            other => text(other).unwrap_or_default(),
        });
        let found = found.collect();
        self.entries.remove(key);
        found
    }

    /// Takes every single value out.
    pub fn texts(&mut self) -> Vec<(String, String)> {
        let all = self.entries.iter();
        let found: Vec<(String, String)> = all
            .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
            .collect();
        for (key, _) in &found {
            self.entries.remove(key);
        }
        found
    }

    /// Takes it out whatever it is; whether it was there and said anything.
    pub fn drop(&mut self, key: &str) -> bool {
        !matches!(self.entries.remove(key), None | Some(Value::Null))
    }

    /// The places of what nobody took.
    pub fn left(&self) -> Vec<String> {
        let left = self.entries.iter();
        left.filter(|(_, value)| !matches!(value, Value::Null))
            .map(|(key, _)| self.place_of(key))
            .collect()
    }
}

/// A single value as PostgreSQL writes it.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}
