//! The part of EDN that histories need, written and read: nil, booleans, whole numbers, keywords,
//! texts, vectors and maps.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Edn {
    /// Nothing known.
    Nil,
    /// `true`, `false`.
    Bool(bool),
    /// `7`.
    Integer(i64),
    /// `:append`, kept without its colon.
    Keyword(String),
    /// `"n2"`.
    Text(String),
    /// `[1 2]`.
    Vector(Vec<Edn>),
    /// `{:a 1}`, in the order it was written.
    Map(Vec<(Edn, Edn)>),
}

impl Edn {
    /// A keyword.
    pub fn keyword(word: &str) -> Self {
        Edn::Keyword(word.to_owned())
    }

    /// A vector of whole numbers.
    pub fn integers(numbers: impl IntoIterator<Item = i64>) -> Self {
        Edn::Vector(numbers.into_iter().map(Edn::Integer).collect())
    }

    /// A map with keywords as keys.
    pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Edn)>) -> Self {
        let entries = entries.into_iter();
        Edn::Map(entries.map(|(key, it)| (Edn::keyword(key), it)).collect())
    }

    /// The number, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Edn::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The word of a keyword, or a text.
    pub fn word(&self) -> Option<&str> {
        match self {
            Edn::Keyword(word) | Edn::Text(word) => Some(word),
            _ => None,
        }
    }

    /// The elements, if it is a vector.
    pub fn elements(&self) -> Option<&[Edn]> {
        match self {
            Edn::Vector(elements) => Some(elements),
            _ => None,
        }
    }

    /// The numbers of a vector of numbers.
    pub fn numbers(&self) -> Option<Vec<i64>> {
        self.elements()?.iter().map(Edn::integer).collect()
    }

    /// What a map has under a keyword.
    pub fn get(&self, key: &str) -> Option<&Edn> {
        let Edn::Map(entries) = self else { return None };
        let found = entries
            .iter()
            .find(|(it, _)| matches!(it, Edn::Keyword(word) if word == key));
        found.map(|(_, value)| value)
    }

    /// Reads one value, and nothing after it.
    ///
    /// # Errors
    /// It is no EDN, or of a kind that histories do not use.
    pub fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader { rest: text };
        let value = reader.value()?;
        reader.skip();
        ensure!(reader.rest.is_empty(), "text after it: {:?}", reader.rest);
        Ok(value)
    }
}

impl fmt::Display for Edn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edn::Nil => f.write_str("nil"),
            Edn::Bool(it) => write!(f, "{it}"),
            Edn::Integer(number) => write!(f, "{number}"),
            Edn::Keyword(word) => write!(f, ":{word}"),
            Edn::Text(text) => {
                let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
                write!(f, "\"{}\"", escaped.replace('\n', "\\n"))
            }
            Edn::Vector(elements) => {
                f.write_str("[")?;
                for (place, element) in elements.iter().enumerate() {
                    let gap = if place > 0 { " " } else { "" };
                    write!(f, "{gap}{element}")?;
                }
                f.write_str("]")
            }
            Edn::Map(entries) => {
                f.write_str("{")?;
                for (place, (key, value)) in entries.iter().enumerate() {
                    let gap = if place > 0 { " " } else { "" };
                    write!(f, "{gap}{key} {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

/// What is left to read.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Commas are white space in EDN.
    fn skip(&mut self) {
        self.rest = self
            .rest
            .trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }

    fn take(&mut self, begin: char) -> bool {
        self.skip();
        let after = self.rest.strip_prefix(begin);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn value(&mut self) -> Result<Edn> {
        if self.take('[') {
            return Ok(Edn::Vector(self.until(']')?));
        }
        if self.take('{') {
            let flat = self.until('}')?;
            ensure!(flat.len() % 2 == 0, "a key without a value");
            let pairs = flat.chunks_exact(2);
            return Ok(Edn::Map(
                pairs.map(|it| (it[0].clone(), it[1].clone())).collect(),
            ));
        }
        if self.take('"') {
            return self.text();
        }
        let is_end = |c: char| c.is_whitespace() || ",[]{}\"".contains(c);
        let end = self.rest.find(is_end).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match (word, word.strip_prefix(':')) {
            ("nil", _) => Ok(Edn::Nil),
            ("true", _) => Ok(Edn::Bool(true)),
            ("false", _) => Ok(Edn::Bool(false)),
            (_, Some(word)) => Ok(Edn::keyword(word)),
            _ => {
                let number = word.parse();
                Ok(Edn::Integer(number.with_context(|| {
                    format!("neither number nor word: {word:?}")
                })?))
            }
        }
    }

    fn until(&mut self, end: char) -> Result<Vec<Edn>> {
        let mut elements = Vec::new();
        while !self.take(end) {
            ensure!(!self.rest.is_empty(), "{end} is missing");
            elements.push(self.value()?);
        }
        Ok(elements)
    }

    fn text(&mut self) -> Result<Edn> {
        let (mut text, mut is_escaped) = (String::new(), false);
        for (place, c) in self.rest.char_indices() {
            match (is_escaped, c) {
                (true, 'n') => text.push('\n'),
                (true, c) => text.push(c),
                (false, '"') => {
                    self.rest = &self.rest[place + 1..];
                    return Ok(Edn::Text(text));
                }
                (false, '\\') => {
                    is_escaped = true;
                    continue;
                }
                (false, c) => text.push(c),
            }
            is_escaped = false;
        }
        bail!("a text without an end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text =
            r#"{:index 0 :value [[:append 12 -7] [:r 9 nil]] :ok true :node "a \"b\" \\ c"}"#;
        let value = Edn::parse(text).unwrap();
        assert_eq!(value.to_string(), text);
        assert_eq!(Edn::parse("[1, 2]").unwrap(), Edn::integers([1, 2]));
        let line = Edn::Text("one\ntwo".to_owned()).to_string();
        assert!(!line.contains('\n'), "one event is one line");
        assert_eq!(Edn::parse(&line).unwrap(), Edn::Text("one\ntwo".to_owned()));
    }

    #[test]
    fn what_is_no_edn_is_refused() {
        for text in ["[1", "{:a}", "1 2", "\"a", "x", "", "}"] {
            assert!(Edn::parse(text).is_err(), "{text:?}");
        }
    }
}
