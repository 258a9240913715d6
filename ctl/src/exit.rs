//! How clusterctl ends: one exit code a kind of ending, so that scripts can tell them apart.

use std::fmt;
use std::process::ExitCode;

/// What the help says of the codes; `docs` and tests use the same text.
pub const CODES: &str = "\
Exit codes:
  0  done
  1  unexpected: a fault of this tool or of its surroundings
  2  usage: the command line or its configuration will not do; nothing was asked
  3  refused, with the reason; nothing changed
  4  no member could be reached; nothing changed
  5  timed out: how it ended, or will end, is unknown
  6  not allowed: the token is missing or wrong; nothing changed
  7  begun and failed; the message says what is so now";

/// A kind of ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A fault of this tool or of its surroundings.
    Unexpected,
    /// The command line or its configuration will not do.
    Usage,
    /// Refused, with the reason.
    Refused,
    /// No member could be reached.
    Unreachable,
    /// Timed out; unknown how it ended.
    TimedOut,
    /// The token is missing or wrong.
    NotAllowed,
    /// Begun and failed.
    Failed,
}

impl Kind {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Kind::Unexpected => 1,
            Kind::Usage => 2,
            Kind::Refused => 3,
            Kind::Unreachable => 4,
            Kind::TimedOut => 5,
            Kind::NotAllowed => 6,
            Kind::Failed => 7,
        }
    }

    /// The word before the message.
    fn word(self) -> &'static str {
        match self {
            Kind::Unexpected => "unexpected",
            Kind::Usage => "usage",
            Kind::Refused => "refused",
            Kind::Unreachable => "unreachable",
            Kind::TimedOut => "timed out",
            Kind::NotAllowed => "not allowed",
            Kind::Failed => "failed",
        }
    }
}

/// Why a command ended without being done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Which kind.
    pub kind: Kind,
    /// For people.
    pub text: String,
}

impl Stop {
    /// An ending of this kind.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    /// A fault of this tool or its surroundings.
    pub fn unexpected(error: impl fmt::Display) -> Self {
        Self::new(Kind::Unexpected, error.to_string())
    }

    /// What the answer of a member means.
    pub fn from_status(status: &tonic::Status) -> Self {
        use tonic::Code;
        let kind = match status.code() {
            Code::Unavailable => Kind::Unreachable,
            Code::DeadlineExceeded | Code::Cancelled => Kind::TimedOut,
            Code::Unauthenticated | Code::PermissionDenied => Kind::NotAllowed,
            Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Aborted
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented => Kind::Refused,
            Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Kind::Unexpected,
        };
        let text = match status.message() {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        };
        Self::new(kind, text)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.word(), self.text)
    }
}

impl std::error::Error for Stop {}

/// Says on stderr why, and gives the code.
pub fn report(stop: &Stop) -> ExitCode {
    eprintln!("clusterctl: {stop}");
    ExitCode::from(stop.kind.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own_that_the_help_names() {
        let kinds = [
            Kind::Unexpected,
            Kind::Usage,
            Kind::Refused,
            Kind::Unreachable,
            Kind::TimedOut,
            Kind::NotAllowed,
            Kind::Failed,
        ];
        let codes: std::collections::BTreeSet<u8> = kinds.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), kinds.len());
        for code in codes {
            assert!(CODES.contains(&format!("\n  {code}  ")), "{code}");
        }
    }
}
