//! What an observation means for the operation: the table of `OUTCOMES.md` as one function. A wrong line
//! here is the commonest way for a suite to find what is not there, or not to find what is.

use crate::history::{Edn, Kind};

/// How far an operation had got when the observation was made. Connecting is no operation: one is begun
/// on an open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In an open transaction, or the operation only reads: nothing it did can last without more.
    Before,
    /// COMMIT, or a statement that commits itself, was sent.
    Commit,
}

/// What a client observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A command tag without a warning about a wait for a standby.
    Done,
    /// A command tag, and the warning that a wait for a standby was cancelled [A6].
    DoneUnconfirmed,
    /// An error with this SQLSTATE.
    Refused(String),
    /// The connection ended, or there was no answer in time.
    Lost,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `Ok`, `Fail` or `Info`.
    pub kind: Kind,
    /// What goes into the event beside it.
    pub more: Vec<(String, Edn)>,
}

impl Outcome {
    /// Whether it took effect.
    pub fn is_ok(&self) -> bool {
        self.kind == Kind::Ok
    }
}

/// The table.
pub fn outcome(stage: Stage, observed: &Observed) -> Outcome {
    let kind = match (stage, observed) {
        (Stage::Before | Stage::Commit, Observed::Done) => Kind::Ok,
        (Stage::Commit, Observed::DoneUnconfirmed) => Kind::Info,
        // Nothing was committed, so nothing was left unconfirmed.
        (Stage::Before, Observed::DoneUnconfirmed) => Kind::Ok,
        (Stage::Before, _) => Kind::Fail,
        (Stage::Commit, Observed::Refused(state)) => refused_commit(state),
        (Stage::Commit, Observed::Lost) => Kind::Info,
    };
    let word = |name: &str, word: &str| (name.to_owned(), Edn::keyword(word));
    let more = match observed {
        Observed::Done => Vec::new(),
        Observed::DoneUnconfirmed => {
            vec![("acked-with-warning".to_owned(), Edn::Bool(true))]
        }
        Observed::Refused(state) => vec![
            word("error", "refused"),
            ("sqlstate".to_owned(), Edn::Text(state.clone())),
        ],
        Observed::Lost if stage == Stage::Commit => {
            vec![word("error", "connection-lost-after-commit")]
        }
        Observed::Lost => vec![word("error", "connection-lost-before-commit")],
    };
    Outcome { kind, more }
}

/// Errors that PostgreSQL raises before the record of the commit exists are a `Fail`; all that are not
/// known to be are `Info`.
fn refused_commit(state: &str) -> Kind {
    match state {
        // Serialization failure, deadlock, read-only transaction, not accepting connections.
        "40001" | "40P01" | "25006" | "57P03" => Kind::Fail,
        // Constraint; value; name or syntax: the statement itself was refused.
        _ if ["23", "22", "42"]
            .iter()
            .any(|class| state.starts_with(class)) =>
        {
            Kind::Fail
        }
        // 57014 (cancelled), 57P01, 57P02, 08…, 53…, XX… and what is not known.
        _ => Kind::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_one_of_the_page() {
        let refused = |state: &str| Observed::Refused(state.to_owned());
        let table = [
            (Stage::Commit, Observed::Done, Kind::Ok),
            (Stage::Commit, Observed::DoneUnconfirmed, Kind::Info),
            (Stage::Commit, refused("40001"), Kind::Fail),
            (Stage::Commit, refused("40P01"), Kind::Fail),
            (Stage::Commit, refused("25006"), Kind::Fail),
            (Stage::Commit, refused("23505"), Kind::Fail),
            (Stage::Commit, refused("57P01"), Kind::Info),
            (Stage::Commit, refused("57P02"), Kind::Info),
            (Stage::Commit, refused("08006"), Kind::Info),
            (Stage::Commit, refused("40003"), Kind::Info),
            (Stage::Commit, refused("57014"), Kind::Info),
            (Stage::Commit, refused("XX000"), Kind::Info),
            (Stage::Commit, Observed::Lost, Kind::Info),
            (Stage::Before, Observed::Done, Kind::Ok),
            (Stage::Before, refused("57014"), Kind::Fail),
            (Stage::Before, refused("57P01"), Kind::Fail),
            (Stage::Before, Observed::Lost, Kind::Fail),
            (Stage::Commit, refused("57P03"), Kind::Fail),
        ];
        for (stage, observed, kind) in table {
            assert_eq!(
                outcome(stage, &observed).kind,
                kind,
                "{stage:?} {observed:?}"
            );
        }
    }

    #[test]
    fn a_cancelled_wait_is_flagged() {
        let found = outcome(Stage::Commit, &Observed::DoneUnconfirmed);
        assert_eq!(found.more[0].0, "acked-with-warning");
    }
}
