//! Checks parameters with the server's own parser before anything is applied (hazards L2).

use std::collections::BTreeMap;

use super::conninfo::quote_setting;
use super::options::ConfigInputs;
use super::{Error, Postgres, durable_file};

impl Postgres {
    /// Every problem with these parameters as this server would get them, with the member's own and the
    /// defaults; empty means good.
    ///
    /// The programs read them as a configuration file of a server that does not exist, so nothing
    /// running is touched; values that only a start can refuse (an unknown library) are not found.
    pub async fn validate_parameters(&self, inputs: &ConfigInputs) -> Result<Vec<String>, Error> {
        let mut problems = self.refuse_managed(inputs);
        if !problems.is_empty() {
            return Ok(problems);
        }
        let _turn = self.inner.validating.lock().await;
        let mut wanted = self.wanted_parameters(inputs);
        // A file with unknown names is given up before any value is looked at: leave them out and
        // read again, so that one answer holds everything.
        loop {
            let found = self.read_as_config(&wanted).await?;
            let unknown: Vec<String> = found.iter().filter_map(|said| unknown_name(said)).collect();
            problems.extend(found);
            let before = wanted.len();
            wanted.retain(|name, _| !unknown.iter().any(|other| other.eq_ignore_ascii_case(name)));
            if wanted.len() == before {
                return Ok(problems);
            }
        }
    }

    /// What the server's parser says about a file with these parameters.
    async fn read_as_config(
        &self,
        wanted: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, Error> {
        let place = self.state_path("validate");
        durable_file::make_directory(&place, self.owner())?;
        let file = place.join("postgresql.conf");
        let text: String = wanted
            .iter()
            .map(|(name, value)| format!("{name} = {}\n", quote_setting(value)))
            .collect();
        durable_file::write(&file, text.as_bytes(), 0o600, self.owner())?;
        durable_file::write(
            &place.join("postgresql.auto.conf"),
            b"",
            0o600,
            self.owner(),
        )?;
        let args: Vec<String> = vec![
            "-C".to_owned(),
            "port".to_owned(),
            "-D".to_owned(),
            place.display().to_string(),
            "-c".to_owned(),
            format!("config_file={}", file.display()),
        ];
        let output = self.read_tool("postgres", &args).await?;
        let mut problems: Vec<String> = output.stderr.lines().filter_map(problem).collect();
        if !output.success && problems.is_empty() {
            problems.push(super::tool::tail(&output.stderr));
        }
        Ok(problems)
    }
}

/// The name in `unrecognized configuration parameter "x"`.
fn unknown_name(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("unrecognized configuration parameter \"")?;
    rest.split('"').next().map(str::to_owned)
}

/// The sentence of a log line about a parameter, without time, process and file.
fn problem(line: &str) -> Option<String> {
    let (_, said) = line
        .split_once("LOG:")
        .or_else(|| line.split_once("FATAL:"))?;
    let said = said.trim();
    let is_summary = said.starts_with("configuration file") && said.contains("contains errors");
    (!is_summary).then(|| said.split(" in file \"").next().unwrap_or(said).to_owned())
}
