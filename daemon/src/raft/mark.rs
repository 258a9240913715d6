//! How far the Raft store has come, kept in a file outside sled, so that a store which was rolled
//! back (a copied directory, a restored disk image) is noticed [F2].
//!
//! The mark is one number that only grows: every durable batch has the next `sequence`. The file is
//! written after each batch became durable and before anybody is told, so it is never ahead of an
//! honest store. It is forced to disk at every opening and every 64 batches only: a power cut
//! can therefore leave it behind the store, which is harmless, and a roll-back done by people comes
//! minutes later, when the kernel has long written it. So neither a vote nor an append pays for a
//! second fsync.
//! Peers remember the mark as well (`inbox.rs`): they see what both files together would hide.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::durable;

/// How many batches may be unforced in the file.
pub const FORCE_EVERY: u64 = 64;

const SLOT: u64 = 512;
const LENGTH: usize = 28;

/// How far a store has come. Compared by [`StoreMark::contradicts`], never by `<`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreMark {
    /// How often the store was opened.
    pub boot: u64,
    /// Drawn at random at each opening.
    pub nonce: u64,
    /// How many batches were made durable since the store was made.
    pub sequence: u64,
}

impl StoreMark {
    /// Whether a peer that once saw `self` proves that the store, now at `now` and at
    /// `opened_at` when it was opened, was rolled back in between.
    pub fn contradicts(self, opened_at: StoreMark, now: StoreMark) -> bool {
        if self.boot == 0 {
            return false;
        }
        if self.boot == now.boot {
            return self.nonce != now.nonce || self.sequence > now.sequence;
        }
        self.boot > now.boot || self.sequence > opened_at.sequence
    }

    /// Whether `self` was seen later than `other` of the same store.
    pub fn is_later_than(self, other: StoreMark) -> bool {
        (self.boot, self.sequence) > (other.boot, other.sequence)
    }
}

/// The file that holds the mark: two slots, written in turn, so that a torn write leaves one.
#[derive(Debug)]
pub struct MarkFile {
    file: File,
}

impl MarkFile {
    /// Makes the file with nothing in it, durably and as a whole: killed in between there is none.
    pub fn create(path: &Path) -> io::Result<MarkFile> {
        let draft = path.with_extension("new");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&draft)?;
        file.set_len(2 * SLOT)?;
        let made = MarkFile { file };
        made.write(StoreMark::default())?;
        made.file.sync_all()?;
        fs::rename(&draft, path)?;
        durable::sync_parent(path)?;
        Ok(made)
    }

    /// Opens the file; the mark is `None` when neither slot is whole.
    pub fn open(path: &Path) -> io::Result<(MarkFile, Option<StoreMark>)> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let slots = [read_slot(&file, 0), read_slot(&file, SLOT)];
        let newest = slots
            .into_iter()
            .flatten()
            .max_by_key(|mark| (mark.boot, mark.sequence));
        Ok((MarkFile { file }, newest))
    }

    /// Writes `mark`; it survives the process, not a power cut.
    pub fn write(&self, mark: StoreMark) -> io::Result<()> {
        let mut bytes = [0u8; LENGTH];
        bytes[4..12].copy_from_slice(&mark.boot.to_be_bytes());
        bytes[12..20].copy_from_slice(&mark.nonce.to_be_bytes());
        bytes[20..28].copy_from_slice(&mark.sequence.to_be_bytes());
        let sum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_be_bytes());
        self.file.write_all_at(&bytes, (mark.sequence % 2) * SLOT)
    }

    /// Forces what was written to disk.
    pub fn force(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn read_slot(file: &File, at: u64) -> Option<StoreMark> {
    let mut bytes = [0u8; LENGTH];
    file.read_exact_at(&mut bytes, at).ok()?;
    let number = |from: usize| {
        let mut eight = [0u8; 8];
        eight.copy_from_slice(&bytes[from..from + 8]);
        u64::from_be_bytes(eight)
    };
    let sum = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (sum == crc32fast::hash(&bytes[4..])).then(|| StoreMark {
        boot: number(4),
        nonce: number(12),
        sequence: number(20),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(boot: u64, nonce: u64, sequence: u64) -> StoreMark {
        StoreMark {
            boot,
            nonce,
            sequence,
        }
    }

    #[test]
    fn a_store_that_only_moved_on_is_believed() {
        let opened = mark(8, 80, 150);
        for seen in [
            mark(0, 0, 0),
            mark(7, 70, 150),
            mark(7, 70, 20),
            mark(8, 80, 160),
        ] {
            assert!(!seen.contradicts(opened, mark(8, 80, 160)), "{seen:?}");
        }
    }

    #[test]
    fn a_store_put_back_is_noticed_however_much_it_wrote_since() {
        let opened = mark(8, 80, 100);
        let now = mark(8, 80, 5000);
        assert!(
            mark(7, 70, 150).contradicts(opened, now),
            "copied during boot 7"
        );
        assert!(
            mark(8, 81, 120).contradicts(opened, now),
            "copied before another boot 8"
        );
        assert!(
            mark(9, 90, 120).contradicts(opened, now),
            "copied before boot 9"
        );
        assert!(mark(8, 80, 5001).contradicts(opened, now));
    }

    #[test]
    fn a_torn_slot_leaves_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let file = MarkFile::create(&path).unwrap();
        file.write(mark(1, 5, 1)).unwrap();
        file.write(mark(1, 5, 2)).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().1, Some(mark(1, 5, 2)));
        file.file.write_all_at(&[0xff; 3], 10).unwrap();
        assert_eq!(MarkFile::open(&path).unwrap().1, Some(mark(1, 5, 1)));
    }
}
