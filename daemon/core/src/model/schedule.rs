//! What an operator wants done at a time: it becomes an ordinary request when it is due.

use serde::{Deserialize, Serialize};

use super::ids::{MemberName, RequestId};
use super::request::RequestKind;

/// A moment of the wall clock. It says when something is begun, and nothing else goes by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Due {
    /// Unix milliseconds.
    pub unix_ms: u64,
    /// The same in the operator's own time zone, ISO 8601, for people.
    pub text: String,
}

/// What is done then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Work {
    /// A planned hand-over.
    Switchover {
        /// Who must be primary then; `None` does not check.
        from: Option<MemberName>,
        /// The new primary; `None` lets the leader choose.
        to: Option<MemberName>,
    },
    /// Restart PostgreSQL on a member.
    Restart {
        /// Where.
        member: MemberName,
        /// What must be so then.
        conditions: Conditions,
    },
}

/// What must be so when a restart is due; otherwise it is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// What its PostgreSQL must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Its server must be older than this version number, e.g. 150021.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<u32>,
    /// Something must wait for a restart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// How long the restart may take before it counts as failed. Unit: milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
    /// The server that is to be restarted, by its start, Unix milliseconds: one that was started since
    /// needs no restart. None: whatever runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_unix_ms: Option<u64>,
}

/// A role that a restart may be bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Out of recovery.
    Primary,
    /// In recovery.
    Replica,
    /// The leader of a standby cluster.
    StandbyLeader,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Role; 3] = [Role::Primary, Role::Replica, Role::StandbyLeader];

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::StandbyLeader => "standby_leader",
        }
    }

    /// The role with this word.
    pub fn of(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.word() == word)
    }
}

/// Of each there is one at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Slot {
    /// The cluster's switchover.
    Switchover,
    /// This member's restart.
    Restart(MemberName),
}

/// Something that is to be done at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Of the request that it becomes; chosen by the client.
    pub id: RequestId,
    /// What.
    pub work: Work,
    /// When.
    pub due: Due,
    /// Who asked, and why, as they said.
    pub by: String,
    /// When it was recorded, Unix milliseconds, as the proposing member's clock had it. Display only.
    pub at_unix_ms: u64,
    /// Log index of its record.
    pub index: u64,
}

impl Work {
    /// Which of the places for schedules it takes.
    pub fn slot(&self) -> Slot {
        match self {
            Work::Switchover { .. } => Slot::Switchover,
            Work::Restart { member, .. } => Slot::Restart(member.clone()),
        }
    }

    /// The request it becomes.
    pub fn kind(&self) -> RequestKind {
        match self {
            Work::Switchover { to, .. } => RequestKind::Switchover { to: to.clone() },
            Work::Restart { member, .. } => RequestKind::Restart {
                member: member.clone(),
            },
        }
    }

    /// How long that may take, when it was said.
    pub fn limit_ms(&self) -> Option<u64> {
        match self {
            Work::Switchover { .. } => None,
            Work::Restart { conditions, .. } => conditions.limit_ms,
        }
    }

    /// Every member it names.
    pub fn members(&self) -> Vec<&MemberName> {
        match self {
            Work::Switchover { from, to } => from.iter().chain(to).collect(),
            Work::Restart { member, .. } => vec![member],
        }
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Switchover { from, to } => {
                f.write_str("switchover")?;
                if let Some(from) = from {
                    write!(f, " from {from}")?;
                }
                match to {
                    Some(to) => write!(f, " to {to}"),
                    None => f.write_str(" to the best standby"),
                }
            }
            Work::Restart { member, conditions } => write!(f, "restart of {member}{conditions}"),
        }
    }
}

impl std::fmt::Display for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut each = Vec::new();
        if let Some(role) = self.role {
            each.push(format!("it is {}", role.word()));
        }
        if let Some(version) = self.older_than {
            each.push(format!("its version is below {}", version_text(version)));
        }
        if self.pending {
            each.push("something waits for a restart".to_owned());
        }
        match each.is_empty() {
            true => Ok(()),
            false => write!(f, " if {}", each.join(" and ")),
        }
    }
}

/// A server version number as people write it: 150021 is 15.21, 90624 is 9.6.24.
pub fn version_text(number: u32) -> String {
    match number {
        0..100_000 => {
            let (first, second, third) = (number / 10_000, number / 100 % 100, number % 100);
            format!("{first}.{second}.{third}")
        }
        _ => format!("{}.{}", number / 10_000, number % 10_000),
    }
}

/// Reads `15.21` or `9.6.24` into the number PostgreSQL itself has for it.
///
/// # Errors
/// It is none; Patroni's sentence.
pub fn version_number(text: &str) -> Result<u32, String> {
    let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
    let parts = parts.map_err(|_| format!("Invalid PostgreSQL version: {text}"))?;
    match parts[..] {
        [major, minor] if (10..1000).contains(&major) && minor < 10_000 => {
            Ok(major * 10_000 + minor)
        }
        [first, second, third] if first < 1000 && second < 100 && third < 100 => {
            Ok(first * 10_000 + second * 100 + third)
        }
        _ => Err(format!(
            "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_people_write_them() {
        assert_eq!(version_text(150_021), "15.21");
        assert_eq!(version_text(90_624), "9.6.24");
    }

    #[test]
    fn versions_are_read_as_patroni_reads_them() {
        assert_eq!(version_number("15.21"), Ok(150_021));
        assert_eq!(version_number("9.6.24"), Ok(90_624));
        for (text, words) in [
            ("fifteen", "Invalid PostgreSQL version: fifteen"),
            ("15.x", "Invalid PostgreSQL version: 15.x"),
            ("15", "X.Y or X.Y.Z is accepted: 15"),
            ("9.6", "X.Y or X.Y.Z is accepted: 9.6"),
            ("1.2.3.4", "X.Y or X.Y.Z is accepted"),
            ("4000000000.1", "X.Y or X.Y.Z is accepted"),
        ] {
            let refused = version_number(text).expect_err(text);
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn what_is_done_reads_as_a_sentence() {
        let name = |name: &str| name.parse::<MemberName>().ok();
        let to_best = Work::Switchover {
            from: name("a"),
            to: None,
        };
        assert_eq!(to_best.to_string(), "switchover from a to the best standby");
        let conditions = Conditions {
            role: Some(Role::Replica),
            older_than: Some(150_021),
            pending: true,
            ..Conditions::default()
        };
        assert_eq!(
            conditions.to_string(),
            " if it is replica and its version is below 15.21 and something waits for a restart"
        );
        assert_eq!(Conditions::default().to_string(), "");
    }
}
