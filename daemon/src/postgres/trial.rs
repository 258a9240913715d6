//! Parameters are tried by starting with them [L2]. A start that ends with PostgreSQL's own complaint,
//! with parameters that no earlier start went well with, is followed by one with those that did; only
//! when that one answers are the parameters to blame.

use std::collections::BTreeMap;

use cluster_core::model::member::{Refusal, RefusedParameter};
use serde::{Deserialize, Serialize};

use super::options::ConfigInputs;
use super::{Error, Postgres, durable_file, lock};

/// Where it is kept, in the state directory.
const FILE: &str = "parameter-trials.json";

type Parameters = BTreeMap<String, String>;

/// What starts went well, and what is being tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Trials {
    /// With these the last good start was.
    good: Option<Parameters>,
    /// A start that has not answered yet.
    tried: Option<Tried>,
    /// With these it could not start.
    refused: Option<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tried {
    parameters: Parameters,
    /// They are the good ones, because the wanted ones failed.
    is_fallback: bool,
    /// Where its output begins. Unit: bytes.
    output_from: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    parameters: Parameters,
    why: String,
    /// A start with the good ones answered afterwards.
    is_proven: bool,
}

impl Trials {
    /// What a server gets that is to have these.
    fn instead_of(&self, wanted: Parameters) -> Parameters {
        match (&self.refused, &self.good) {
            (Some(refused), Some(good)) if refused.parameters == wanted => good.clone(),
            _ => wanted,
        }
    }

    /// What the end of the last start says, before another one with `wanted`; `complaint` is what
    /// PostgreSQL said as it ended, since that start began.
    fn judge(&mut self, wanted: &Parameters, complaint: impl FnOnce(u64) -> Option<String>) {
        let Some(tried) = self.tried.take() else {
            return;
        };
        if tried.is_fallback {
            // It is something else.
            self.refused = None;
            return;
        }
        let has_better = self.good.as_ref().is_some_and(|good| good != wanted);
        if tried.parameters == *wanted
            && has_better
            && let Some(why) = complaint(tried.output_from)
        {
            self.refused = Some(Refused {
                parameters: tried.parameters,
                why,
                is_proven: false,
            });
        }
    }

    /// A start with what `wanted` becomes begins.
    fn begin(&mut self, wanted: Parameters, output_from: u64) {
        let parameters = self.instead_of(wanted.clone());
        self.tried = Some(Tried {
            is_fallback: parameters != wanted,
            parameters,
            output_from,
        });
    }

    /// It answers. One that runs since before anything was kept runs with `present`.
    fn answered(&mut self, present: Parameters) {
        let Some(tried) = self.tried.take() else {
            self.good.get_or_insert(present);
            return;
        };
        if tried.is_fallback {
            if let Some(refused) = &mut self.refused {
                refused.is_proven = true;
            }
        } else {
            self.good = Some(tried.parameters);
            self.refused = None;
        }
    }

    /// The running server has taken all of `wanted` but what waits for a start.
    fn in_force(&mut self, wanted: &Parameters, waits: impl Fn(&str) -> bool) {
        if self.tried.is_some() || self.instead_of(wanted.clone()) != *wanted {
            return;
        }
        let good = self.good.get_or_insert_default();
        good.retain(|name, _| waits(name) || wanted.contains_key(name));
        for (name, value) in wanted.iter().filter(|(name, _)| !waits(name)) {
            good.insert(name.clone(), value.clone());
        }
    }

    /// What is to blame, while these are wanted.
    fn refusal(&self, wanted: &Parameters) -> Option<Refusal> {
        let refused = self.refused.as_ref()?;
        let good = self.good.as_ref()?;
        if !refused.is_proven || refused.parameters != *wanted {
            return None;
        }
        let mut names: Vec<&String> = wanted.keys().chain(good.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let differs = names
            .into_iter()
            .filter(|name| wanted.get(*name) != good.get(*name));
        let parameters = differs.map(|name| RefusedParameter {
            name: name.clone(),
            wanted: wanted.get(name).cloned(),
            kept: good.get(name).cloned(),
        });
        Some(Refusal {
            parameters: parameters.collect(),
            why: refused.why.clone(),
        })
    }
}

impl Postgres {
    /// Defaults, imported ones, the member's own and the replicated ones, the later over the earlier; or
    /// those of the last good start, where PostgreSQL has refused to start with them.
    pub(super) fn user_parameters(&self, inputs: &ConfigInputs) -> Parameters {
        let wanted = self.wanted_parameters(inputs);
        lock(&self.inner.trials).instead_of(wanted)
    }

    /// Parameters of the present inputs that it could not start with; they are not in force.
    pub fn refusal(&self) -> Option<Refusal> {
        let wanted = self.wanted_parameters(&self.inputs());
        lock(&self.inner.trials).refusal(&wanted)
    }

    /// What an earlier daemon kept.
    pub(super) fn read_trials(&self) -> Trials {
        let read = durable_file::read(&self.state_path(FILE)).ok().flatten();
        read.and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Before a start: what became of the last one. The configuration is written afterwards.
    pub(super) fn judge_last_start(&self, inputs: &ConfigInputs) {
        let wanted = self.wanted_parameters(inputs);
        let mut trials = lock(&self.inner.trials);
        trials.judge(&wanted, |from| self.complaint_since(from));
        if let Some(refused) = &trials.refused {
            tracing::warn!(
                why = refused.why,
                "the last start was refused; parameters of an earlier one"
            );
        }
    }

    /// The output file is ready, the process is not there yet.
    pub(super) fn note_start(&self, inputs: &ConfigInputs) -> Result<(), Error> {
        let wanted = self.wanted_parameters(inputs);
        let written = std::fs::metadata(self.output_file());
        let output_from = written.map_or(0, |file| file.len());
        let mut trials = lock(&self.inner.trials);
        trials.begin(wanted, output_from);
        self.keep(&trials)
    }

    /// Whether a start waits for its first answer.
    pub(super) fn is_on_trial(&self) -> bool {
        let trials = lock(&self.inner.trials);
        trials.tried.is_some() || trials.good.is_none()
    }

    /// The started server has answered.
    pub(super) fn note_answer(&self) -> Result<(), Error> {
        let present = self.wanted_parameters(&self.inputs());
        let mut trials = lock(&self.inner.trials);
        trials.answered(present);
        self.keep(&trials)
    }

    /// What the running server has taken without a start is none of the next start's trial.
    pub(super) fn note_in_force(&self, waits: impl Fn(&str) -> bool) -> Result<(), Error> {
        let wanted = self.wanted_parameters(&self.inputs());
        let mut trials = lock(&self.inner.trials);
        let before = trials.good.clone();
        trials.in_force(&wanted, waits);
        if trials.good == before {
            return Ok(());
        }
        self.keep(&trials)
    }

    fn keep(&self, trials: &Trials) -> Result<(), Error> {
        let path = self.state_path(FILE);
        let json = serde_json::to_vec_pretty(trials).map_err(|error| Error::File {
            verb: "write",
            path: path.clone(),
            source: error.into(),
        })?;
        // Not durable: what a power cut takes away is found out again by the next start.
        durable_file::replace(&path, &json, 0o600, self.owner())
    }

    /// What a server that ended while starting complained of, in what it said since `from`. Nothing when
    /// recovery had begun: then its parameters did for a start.
    fn complaint_since(&self, from: u64) -> Option<String> {
        let said = super::server::output_since(&self.output_file(), from).ok()?;
        if said.contains("database system was ") {
            return None;
        }
        let (_, words) = said.lines().find_map(|line| line.split_once("FATAL: "))?;
        Some(words.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(buffers: &str) -> Parameters {
        BTreeMap::from([("shared_buffers".to_owned(), buffers.to_owned())])
    }

    fn started_well(buffers: &str) -> Trials {
        let mut trials = Trials::default();
        trials.begin(parameters(buffers), 0);
        trials.answered(Parameters::new());
        trials
    }

    fn start(trials: &mut Trials, buffers: &str, complaint: Option<&str>) -> Parameters {
        let wanted = parameters(buffers);
        trials.judge(&wanted, |_| complaint.map(str::to_owned));
        trials.begin(wanted.clone(), 0);
        trials.instead_of(wanted)
    }

    #[test]
    fn the_second_start_is_with_what_went_well_and_then_the_parameters_are_to_blame() {
        let mut trials = started_well("128MB");
        let wanted = parameters("1PB");
        assert_eq!(start(&mut trials, "1PB", None), wanted);
        let got = start(&mut trials, "1PB", Some("could not map memory"));
        assert_eq!(got, parameters("128MB"));
        assert_eq!(trials.refusal(&wanted), None, "not before it answers");
        trials.answered(Parameters::new());
        let refusal = trials.refusal(&wanted).expect("a refusal");
        assert_eq!(
            refusal.to_string(),
            "shared_buffers = 1PB: could not map memory"
        );
        assert_eq!(refusal.parameters[0].kept.as_deref(), Some("128MB"));
        // It stays so over a restart, and ends with other parameters.
        assert_eq!(start(&mut trials, "1PB", None), parameters("128MB"));
        trials.answered(Parameters::new());
        assert!(trials.refusal(&wanted).is_some());
        assert_eq!(start(&mut trials, "256MB", None), parameters("256MB"));
        trials.answered(Parameters::new());
        assert_eq!(trials.refusal(&wanted), None);
    }

    #[test]
    fn only_what_waited_for_the_start_is_to_blame() {
        let mut trials = started_well("128MB");
        let mut wanted = parameters("1PB");
        wanted.insert("work_mem".to_owned(), "8MB".to_owned());
        trials.in_force(&wanted, |name| name == "shared_buffers");
        trials.begin(wanted.clone(), 0);
        trials.judge(&wanted, |_| Some("could not map memory".to_owned()));
        trials.begin(wanted.clone(), 0);
        trials.answered(Parameters::new());
        let refusal = trials.refusal(&wanted).expect("a refusal");
        let blamed: Vec<&str> = refusal
            .parameters
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        assert_eq!(blamed, ["shared_buffers"]);
        assert_eq!(trials.instead_of(wanted)["work_mem"], "8MB");
    }

    #[test]
    fn what_fails_with_good_parameters_too_is_not_their_fault() {
        let mut trials = started_well("128MB");
        start(&mut trials, "256MB", None);
        let got = start(
            &mut trials,
            "256MB",
            Some("could not create any TCP/IP sockets"),
        );
        assert_eq!(got, parameters("128MB"));
        let got = start(
            &mut trials,
            "256MB",
            Some("could not create any TCP/IP sockets"),
        );
        assert_eq!(got, parameters("256MB"), "in turn");
        trials.answered(Parameters::new());
        assert_eq!(trials.refusal(&parameters("256MB")), None);
    }

    #[test]
    fn a_start_that_was_killed_blames_nobody() {
        let mut trials = started_well("128MB");
        start(&mut trials, "256MB", None);
        assert_eq!(start(&mut trials, "256MB", None), parameters("256MB"));
        let mut first = Trials::default();
        start(&mut first, "1PB", None);
        let got = start(&mut first, "1PB", Some("could not map memory"));
        assert_eq!(got, parameters("1PB"), "nothing better is known");
    }
}
