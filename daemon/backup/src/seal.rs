//! Encryption of a stream: the format of age, to one data key. The tool `age` opens it as well.

use std::io::{self, BufReader, Read, Write};

use age::stream::StreamWriter;
use age::x25519::Identity;
use age::{DecryptError, Decryptor, Encryptor};

use crate::keys::{Identities, Recipient};

/// What is written goes on as it is, or encrypted.
pub(crate) enum Seal<W: Write> {
    /// As it is.
    Plain(W),
    /// Encrypted.
    Closed(Box<StreamWriter<W>>),
}

impl<W: Write> Seal<W> {
    /// Begins; with a key the header is written.
    pub fn begin(to: W, key: Option<&Recipient>) -> io::Result<Seal<W>> {
        Seal::begin_for(to, key.map_or(&[], std::slice::from_ref))
    }

    /// For everybody who is named; nobody: as it is.
    pub fn begin_for(to: W, readers: &[Recipient]) -> io::Result<Seal<W>> {
        if readers.is_empty() {
            return Ok(Seal::Plain(to));
        }
        let recipients = readers.iter().map(|it| it.key() as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        Ok(Seal::Closed(Box::new(encryptor.wrap_output(to)?)))
    }

    /// Ends; without it what was written cannot be opened.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Seal::Plain(to) => Ok(to),
            Seal::Closed(writer) => writer.finish(),
        }
    }
}

impl<W: Write> Write for Seal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Seal::Plain(to) => to.write(bytes),
            Seal::Closed(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Seal::Plain(to) => to.flush(),
            Seal::Closed(writer) => writer.flush(),
        }
    }
}

/// What is read of an object, as it was before it was encrypted.
pub(crate) fn open<'a>(
    from: impl Read + 'a,
    key: Option<&Identity>,
) -> io::Result<Box<dyn Read + 'a>> {
    let Some(key) = key else {
        return Ok(Box::new(from));
    };
    let decryptor = Decryptor::new_buffered(BufReader::new(from)).map_err(failed)?;
    let identities = std::iter::once(key as &dyn age::Identity);
    Ok(Box::new(decryptor.decrypt(identities).map_err(failed)?))
}

/// What was encrypted for one of these.
pub(crate) fn open_with<'a>(
    from: impl Read + 'a,
    identities: &Identities,
) -> io::Result<Box<dyn Read + 'a>> {
    let decryptor = Decryptor::new_buffered(BufReader::new(from)).map_err(failed)?;
    let keys = identities.keys().map(|key| key as &dyn age::Identity);
    Ok(Box::new(decryptor.decrypt(keys).map_err(failed)?))
}

fn failed(error: DecryptError) -> io::Error {
    match error {
        DecryptError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}
