//! Names and numbers that identify things; checked when built.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no name of a member or a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {what} (expected {expected})")]
pub struct BadName {
    /// The text that was given.
    pub text: String,
    /// Of what it should have been the name.
    pub what: &'static str,
    /// The form that would do.
    pub expected: &'static str,
}

fn is_name(text: &str, longest: usize) -> bool {
    text.len() <= longest
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $longest:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                if is_name(text, $longest) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(BadName { text: text.to_owned(), what: $what, expected: $expected })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

checked_name!(
    /// The name of a member: `[a-z][a-z0-9-]{0,30}`, unique in its cluster, kept over replacement.
    MemberName,
    "member name",
    31,
    "a lower-case letter, then at most 30 lower-case letters, digits or hyphens"
);

impl MemberName {
    /// The physical slot that this member streams through on every other one.
    pub fn slot_name(&self) -> String {
        format!("clusterd_{}", self.as_str().replace('-', "_"))
    }
}

checked_name!(
    /// The name of a cluster; HTTP answers call it `scope`.
    ClusterName,
    "cluster name",
    63,
    "a lower-case letter, then at most 62 lower-case letters, digits or hyphens"
);

/// Identity of one formed cluster, made at random when the group forms. In every handshake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub String);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Raft voter's number. First ones are places in the sorted member list; every later one is a log
/// index. Never given twice.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One life of one data directory: 8 hex digits, made at random at init, clone, restore and rewind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u32);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Identity of one operator request, chosen by the client so that it can be repeated safely.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of a rule; increases over the whole life of a cluster.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RuleId(pub u64);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_name_is_checked_when_it_is_built() {
        for good in ["a", "n1", "db-03", "a23456789012345678901234567890b"] {
            assert!(good.parse::<MemberName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "1a",
            "A",
            "a_b",
            "a~b",
            "a23456789012345678901234567890bc",
            "ä",
        ] {
            assert!(bad.parse::<MemberName>().is_err(), "{bad}");
        }
    }
}
