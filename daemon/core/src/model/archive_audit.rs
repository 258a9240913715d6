//! What looking at the whole archive has found: whether any moment since the oldest backup can be restored.

use serde::{Deserialize, Serialize};

/// How the newest look went, and what the newest one that went well has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveAudit {
    /// When the newest look was over. Unix time in milliseconds.
    pub looked_unix_ms: u64,
    /// Why it has found out nothing.
    pub failure: Option<String>,
    /// What the newest one that went well has found.
    pub found: Option<AuditFindings>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditFindings {
    /// When. Unix time in milliseconds.
    pub at_unix_ms: u64,
    /// How many backups there are.
    pub backups: u64,
    /// How many segments were looked for and are there.
    pub segments: u64,
    /// Every moment from here on can be restored, from this backup; none without a backup after the last hole. Unix
    /// time in milliseconds.
    pub first: Option<(String, u64)>,
    /// How many segments are missing.
    pub missing: u64,
    /// The names of the first of them.
    pub names: Vec<String>,
    /// What else is wrong; the first of it.
    pub problems: Vec<String>,
}

impl ArchiveAudit {
    /// What is known, from what each member knows: how the newest look went, and the newest that was found.
    pub fn newest<'a, T>(
        all: impl Iterator<Item = (T, &'a ArchiveAudit)>,
    ) -> Option<(T, ArchiveAudit)> {
        let mut newest: Option<(T, ArchiveAudit)> = None;
        for (by, audit) in all {
            let Some((known_by, known)) = &mut newest else {
                newest = Some((by, audit.clone()));
                continue;
            };
            let at = |it: &ArchiveAudit| it.found.as_ref().map(|found| found.at_unix_ms);
            let found = match at(audit) > at(known) {
                true => audit.found.clone(),
                false => known.found.clone(),
            };
            if audit.looked_unix_ms > known.looked_unix_ms {
                *known_by = by;
                *known = audit.clone();
            }
            known.found = found;
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(looked_unix_ms: u64, found_at: Option<u64>) -> ArchiveAudit {
        ArchiveAudit {
            looked_unix_ms,
            failure: (found_at != Some(looked_unix_ms)).then(|| "away".to_owned()),
            found: found_at.map(|at_unix_ms| AuditFindings {
                at_unix_ms,
                ..AuditFindings::default()
            }),
        }
    }

    #[test]
    fn what_another_member_found_counts_until_the_next_look_goes_well() {
        let (before, failed) = (audit(10, Some(10)), audit(20, None));
        for all in [
            [("a", &before), ("b", &failed)],
            [("b", &failed), ("a", &before)],
        ] {
            let (by, known) = ArchiveAudit::newest(all.into_iter()).expect("known");
            assert_eq!((by, known.looked_unix_ms), ("b", 20));
            assert!(known.failure.is_some());
            assert_eq!(known.found.map(|found| found.at_unix_ms), Some(10));
        }
        assert_eq!(
            ArchiveAudit::newest([].into_iter().map(|it: &ArchiveAudit| ("a", it))),
            None
        );
    }
}
