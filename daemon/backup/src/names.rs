//! Where everything lies in a repository, and which names PostgreSQL may hand over.
//!
//! `<database>/wal/<timeline>/<file>/<epoch>-<hash>.zst` and `<database>/backup/<id>/…`. The epoch and
//! the hash in the name make "is there already" under the same name a success, and a second content
//! visible [hazards C11 D14 K3].

use cluster_core::model::Epoch;

use crate::Error;

/// How many digits of the hash a name carries. 64 bits tell contents apart; the whole content is
/// checked again when it is read.
const DIGITS: usize = 16;

/// A name that PostgreSQL's archiver hands over, or recovery asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalName(String);

impl WalName {
    /// A segment (also `.partial`), a timeline history file or a backup history file.
    ///
    /// # Errors
    /// Anything else; a name must not lead out of its folder.
    pub fn parse(text: &str) -> Result<WalName, Error> {
        let is_hex = |part: &str, length: usize| {
            part.len() == length
                && part
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
        };
        let mut parts = text.split('.');
        let is_good = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(timeline), Some("history"), None, None) => is_hex(timeline, 8),
            (Some(segment), None | Some("partial"), None, None) => is_hex(segment, 24),
            (Some(segment), Some(offset), Some("backup"), None) => {
                is_hex(segment, 24) && is_hex(offset, 8)
            }
            _ => false,
        };
        match is_good {
            true => Ok(WalName(text.to_owned())),
            false => Err(Error::BadName(text.to_owned())),
        }
    }

    /// As PostgreSQL writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a whole segment.
    pub fn is_segment(&self) -> bool {
        self.0.len() == 24
    }

    /// The folder of everything ever stored under this name.
    pub fn folder(&self, database: u64) -> String {
        format!("{database}/wal/{}/{}", &self.0[..8], self.0)
    }

    /// The object of one content.
    pub fn object(&self, database: u64, epoch: Epoch, hash: &str) -> String {
        let hash = &hash[..DIGITS.min(hash.len())];
        format!("{}/{:08}-{hash}.zst", self.folder(database), epoch.0)
    }
}

/// The hash in the name of an object of WAL.
pub fn hash_of(object: &str) -> Option<&str> {
    let file = object.rsplit('/').next()?;
    let (_, rest) = file.split_once('-')?;
    rest.strip_suffix(".zst")
}

/// Whether a whole hash begins with the one in a name.
pub fn agrees(whole: &str, in_name: &str) -> bool {
    !in_name.is_empty() && whole.starts_with(in_name)
}

/// The folder of all archived WAL of a database; in it one folder a timeline.
pub fn wal(database: u64) -> String {
    format!("{database}/wal")
}

/// The folder of all backups of a database.
pub fn backups(database: u64) -> String {
    format!("{database}/backup")
}

/// An object of a backup.
pub fn of_backup(database: u64, id: &str, file: &str) -> String {
    format!("{database}/backup/{id}/{file}")
}

/// The manifest of a backup.
pub const MANIFEST: &str = "manifest.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_postgresql_writes_is_a_name() {
        for good in [
            "000000010000000000000003",
            "000000010000000000000003.partial",
            "000000010000000000000003.00000028.backup",
            "00000002.history",
        ] {
            assert_eq!(WalName::parse(good).expect("good").as_str(), good);
        }
        for bad in [
            "",
            "..",
            "../00000002.history",
            "00000002.histor",
            "00000001000000000000000g",
            "0000000100000000000000",
            "000000010000000000000003.done",
            "000000010000000000000003.00000028.backup.x",
            "000000010000000000000003/x",
        ] {
            assert!(WalName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_hash_is_found_in_the_name() {
        let name = WalName::parse("000000010000000000000003").expect("good");
        let object = name.object(7, Epoch(12), "0123456789abcdef0123");
        assert_eq!(
            object,
            "7/wal/00000001/000000010000000000000003/00000012-0123456789abcdef.zst"
        );
        let hash = hash_of(&object).expect("it has one");
        assert!(agrees("0123456789abcdef0123", hash));
        assert!(!agrees("1123456789abcdef0123", hash) && !agrees("0123", ""));
    }
}
