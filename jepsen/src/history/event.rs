//! One line of a history.

use anyhow::{Context, Result, bail};

use super::Edn;

/// What an event says of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is about to be sent.
    Invoke,
    /// It took effect.
    Ok,
    /// It took no effect, and never will.
    Fail,
    /// Nobody knows: it may take effect later.
    Info,
}

impl Kind {
    /// As histories have it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        }
    }

    fn parse(word: &str) -> Result<Self> {
        let all = [Kind::Invoke, Kind::Ok, Kind::Fail, Kind::Info];
        let found = all.into_iter().find(|kind| kind.word() == word);
        found.with_context(|| format!("no type of event: {word}"))
    }
}

/// Who did it. A process has one operation under way; after one that nobody knows the end of its number
/// is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    /// A client.
    Client(i64),
    /// The one that breaks things.
    Nemesis,
}

/// An operation begun, or over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds on the harness's clock.
    pub time: u64,
    /// Begun, or how it ended.
    pub kind: Kind,
    /// By whom.
    pub process: Process,
    /// What kind of operation.
    pub f: String,
    /// Its arguments; with an answer, what was read.
    pub value: Edn,
    /// Other facts, by name: `node`, `error`, `sqlstate` …
    pub more: Vec<(String, Edn)>,
}

impl Event {
    /// Its line, as number `index` of a file.
    pub fn line(&self, index: usize) -> String {
        let process = match self.process {
            Process::Client(number) => Edn::Integer(number),
            Process::Nemesis => Edn::keyword("nemesis"),
        };
        let integer = |number: u64| Edn::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        let fixed = [
            ("index", integer(index as u64)),
            ("time", integer(self.time)),
            ("type", Edn::keyword(self.kind.word())),
            ("process", process),
            ("f", Edn::keyword(&self.f)),
            ("value", self.value.clone()),
        ];
        let more = self.more.iter();
        let more = more.map(|(key, value)| (key.as_str(), value.clone()));
        Edn::map(fixed.into_iter().chain(more)).to_string()
    }

    /// Reads a line.
    ///
    /// # Errors
    /// It is not one of a history.
    pub fn parse(line: &str) -> Result<Self> {
        let Edn::Map(entries) = Edn::parse(line)? else {
            bail!("no map: {line}")
        };
        let (mut time, mut kind, mut process, mut f) = (None, None, None, None);
        let (mut value, mut more) = (Edn::Nil, Vec::new());
        for (key, found) in entries {
            match key.word().context("a key is a keyword")? {
                "index" => {}
                "time" => time = found.integer().and_then(|it| u64::try_from(it).ok()),
                "type" => kind = found.word().map(Kind::parse).transpose()?,
                "process" => {
                    process = Some(found.integer().map_or(Process::Nemesis, Process::Client));
                }
                "f" => f = found.word().map(str::to_owned),
                "value" => value = found,
                other => more.push((other.to_owned(), found)),
            }
        }
        let missing = || format!("something is missing: {line}");
        Ok(Self {
            time: time.with_context(missing)?,
            kind: kind.with_context(missing)?,
            process: process.with_context(missing)?,
            f: f.with_context(missing)?,
            value,
            more,
        })
    }

    /// Reads a file, one event a line.
    ///
    /// # Errors
    /// A line is not one of a history.
    pub fn parse_all(text: &str) -> Result<Vec<Self>> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(Self::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let line = "{:index 3 :time 14903344 :type :info :process 4 :f :txn \
                    :value [[:append 12 8]] :error :connection-lost}";
        let event = Event::parse(line).unwrap();
        assert_eq!(event.line(3), line);
        assert_eq!(
            (event.kind, event.process),
            (Kind::Info, Process::Client(4))
        );
        let nemesis =
            "{:index 0 :time 1 :type :info :process :nemesis :f :kill-host :value \"m1\"}";
        assert_eq!(Event::parse(nemesis).unwrap().line(0), nemesis);
        assert!(Event::parse("{:index 0 :time 1 :type :info}").is_err());
    }
}
