//! Options and credentials of an object store: a flat table of the library's own option names, in a file of
//! its own, so that neither the config nor a command line holds a secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Error, secret_file};

/// What such a file says. `Debug` shows the names only.
#[derive(Default)]
pub(crate) struct Credentials {
    path: PathBuf,
    options: Vec<(String, String)>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.options.iter().map(|(name, _)| name);
        f.debug_set().entries(names).finish()
    }
}

impl Credentials {
    /// Reads the file.
    ///
    /// # Errors
    /// All that is wrong with it, nothing of its content.
    pub fn read(path: &Path) -> Result<Credentials, Error> {
        let bad = |problems| Error::BadCredentials {
            path: path.to_owned(),
            problems,
        };
        let text = secret_file::read(path).map_err(|why| bad(vec![why]))?;
        // Only where it is wrong: the parser's own words show the line, which may hold the secret.
        let table: toml::Table = toml::from_str(&text).map_err(|error: toml::de::Error| {
            let before = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..before]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            bad(vec![format!(
                "line {} is not TOML (a line is `option = \"value\"`)",
                line + 1
            )])
        })?;
        let mut options = Vec::new();
        let mut problems = Vec::new();
        for (name, value) in table {
            match value {
                toml::Value::String(text) => options.push((name, text)),
                toml::Value::Integer(number) => options.push((name, number.to_string())),
                toml::Value::Boolean(value) => options.push((name, value.to_string())),
                toml::Value::Float(_)
                | toml::Value::Datetime(_)
                | toml::Value::Array(_)
                | toml::Value::Table(_) => {
                    problems.push(format!("{name}: not a text, a number or true and false"));
                }
            }
        }
        match problems.is_empty() {
            true => Ok(Credentials {
                path: path.to_owned(),
                options,
            }),
            false => Err(bad(problems)),
        }
    }

    /// The options by the library's own keys of one kind of store.
    ///
    /// # Errors
    /// Every name that this kind of store does not know.
    pub fn options<K: FromStr>(&self, kind: &str) -> Result<Vec<(K, &str)>, Error> {
        let mut known = Vec::new();
        let mut problems = Vec::new();
        for (name, value) in &self.options {
            match name.to_ascii_lowercase().parse() {
                Ok(key) => known.push((key, value.as_str())),
                Err(_) => problems.push(format!("{name}: no option of {kind}")),
            }
        }
        match problems.is_empty() {
            true => Ok(known),
            false => Err(self.bad(problems)),
        }
    }

    /// What the library says about the values.
    pub fn bad(&self, problems: Vec<String>) -> Error {
        Error::BadCredentials {
            path: self.path.clone(),
            problems,
        }
    }
}
