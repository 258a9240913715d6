//! Bytes of a snapshot: entries of a tar that are the same whenever they are written, and a writer that
//! hashes what passes.

use std::io::{self, Write};

use ring::digest::{Context, SHA256};

use crate::streams::{Passed, hex};

/// A tar's unit.
pub(super) const BLOCK: usize = 512;

/// The footer: a header, one block with the hash, and the two empty blocks that end a tar.
pub(super) const FOOTER: usize = 4 * BLOCK;

const FOOTER_NAME: &str = "SHA256SUM";

/// Counts and hashes what is written through it.
pub(super) struct HashingWriter<W> {
    inner: W,
    context: Context,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    pub fn new(inner: W) -> HashingWriter<W> {
        HashingWriter {
            inner,
            context: Context::new(&SHA256),
            bytes: 0,
        }
    }

    /// Of everything so far.
    pub fn passed(&self) -> Passed {
        Passed {
            bytes: self.bytes,
            hash: hex(self.context.clone().finish().as_ref()),
        }
    }

    pub fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.context.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The header of an entry.
pub(super) fn header(name: &str, bytes: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// Zeros up to the next block.
pub(super) fn padding(bytes: u64) -> Vec<u8> {
    let over = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
    vec![0; (BLOCK - over) % BLOCK]
}

/// What stands at the end of a file whose content before it has this hash.
pub(super) fn footer(hash: &str) -> io::Result<Vec<u8>> {
    let text = format!("{hash}\n");
    let mut footer = header(FOOTER_NAME, text.len() as u64)?.as_bytes().to_vec();
    footer.extend_from_slice(text.as_bytes());
    footer.resize(FOOTER, 0);
    Ok(footer)
}

/// The hash that a footer tells, if it is one at all.
pub(super) fn told_by(footer: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(footer.get(BLOCK..BLOCK + 64)?).ok()?;
    let is_hash = text.chars().all(|c| c.is_ascii_hexdigit());
    (is_hash && footer.starts_with(FOOTER_NAME.as_bytes())).then(|| text.to_owned())
}
