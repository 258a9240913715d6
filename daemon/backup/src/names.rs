//! Where everything lies in a repository, and which names PostgreSQL may hand over.
//!
//! `<database>/wal/<timeline>/<file>/<epoch>-<hash>.zst` and `<database>/backup/<id>/…`. The epoch and
//! the hash in the name make "is there already" under the same name a success, and a second content
//! visible [hazards C11 D14 K3].
//!
//! What is encrypted ends `.<data key>.zst.age` instead of `.zst`, with the public half of its data key; the
//! private half is `<database>/keys/<data key>/<reader>.age`, once for each public key that opens it. So a
//! reader goes from an object's name to its key without listing anything.

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
    match data_key(object) {
        Some(key) => rest
            .strip_suffix(SEALED)?
            .strip_suffix(key)?
            .strip_suffix('.'),
        None => rest.strip_suffix(PLAIN),
    }
}

const PLAIN: &str = ".zst";
const SEALED: &str = ".zst.age";

/// The name of an object that is encrypted to a data key, from the name it has without.
pub fn sealed(plain: &str, data: &str) -> String {
    let stem = plain.strip_suffix(PLAIN).unwrap_or(plain);
    format!("{stem}.{data}{SEALED}")
}

/// The data key of an encrypted object; none of one that is not encrypted.
pub fn data_key(object: &str) -> Option<&str> {
    let (_, key) = object.strip_suffix(SEALED)?.rsplit_once('.')?;
    key.starts_with("age1").then_some(key)
}

/// The database that an object belongs to.
pub fn database_of(object: &str) -> Option<u64> {
    object.split('/').next()?.parse().ok()
}

/// The folder of all data keys of a database; in it one folder a key.
pub fn keys(database: u64) -> String {
    format!("{database}/keys")
}

/// The folder of one data key.
pub fn wrapped_keys(database: u64, data: &str) -> String {
    format!("{database}/keys/{data}")
}

/// The private half of a data key, for one reader.
pub fn wrapped_key(database: u64, data: &str, reader: &str) -> String {
    format!("{database}/keys/{data}/{reader}.age")
}

/// Whom a stored data key is for.
pub fn reader_of(object: &str) -> Option<&str> {
    object.rsplit('/').next()?.strip_suffix(".age")
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
        assert_eq!(data_key(&object), None);
    }

    #[test]
    fn the_data_key_is_found_in_the_name() {
        let name = WalName::parse("000000010000000000000003.00000028.backup").expect("good");
        let plain = name.object(7, Epoch(12), "0123456789abcdef0123");
        let object = sealed(&plain, "age1qqq");
        assert_eq!(
            object,
            "7/wal/00000001/000000010000000000000003.00000028.backup/00000012-0123456789abcdef.age1qqq.zst.age"
        );
        assert_eq!(data_key(&object), Some("age1qqq"));
        assert_eq!(hash_of(&object), Some("0123456789abcdef"));
        assert_eq!(database_of(&object), Some(7));
        let file = sealed(&of_backup(7, "x", "base.tar.zst"), "age1qqq");
        assert_eq!(file, "7/backup/x/base.tar.age1qqq.zst.age");
        assert_eq!(data_key(&file), Some("age1qqq"));
        let key = wrapped_key(7, "age1qqq", "age1www");
        assert_eq!(
            (key.as_str(), reader_of(&key)),
            ("7/keys/age1qqq/age1www.age", Some("age1www"))
        );
    }
}
