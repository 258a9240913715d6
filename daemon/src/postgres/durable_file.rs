//! Files that must survive a power cut, owned by PostgreSQL's user even when the daemon is root.
//!
//! Every write is: temporary file, fsync, rename, fsync of the directory. The exception is
//! [`replace`], for files that every start writes anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, chown};

use super::Error;

/// Who owns what PostgreSQL must be able to read and remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Whether we are somebody else and must hand files over.
    pub hand_over: bool,
}

impl Owner {
    /// Looks the user up; only root can work for another user than itself.
    pub fn look_up(name: &str) -> Result<Owner, Error> {
        let user = User::from_name(name)
            .ok()
            .flatten()
            .ok_or_else(|| Error::NoSuchUser {
                name: name.to_owned(),
            })?;
        let me = nix::unistd::geteuid();
        if !me.is_root() && me != user.uid {
            return Err(Error::WrongUser {
                name: name.to_owned(),
            });
        }
        Ok(Owner {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            hand_over: me != user.uid,
        })
    }

    /// Gives a path to the owner.
    pub fn take(&self, path: &Path) -> io::Result<()> {
        if self.hand_over {
            chown(
                path,
                Some(Uid::from_raw(self.uid)),
                Some(Gid::from_raw(self.gid)),
            )?;
        }
        Ok(())
    }
}

/// Makes a directory's entries durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Replaces a file's content durably.
pub fn write(path: &Path, content: &[u8], mode: u32, owner: Owner) -> Result<(), Error> {
    let attempt = || -> io::Result<()> {
        let (file, temporary) = fill_temporary(path, content, mode, owner)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory(path.parent().unwrap_or(Path::new("/")))
    };
    attempt().map_err(|source| could_not_write(path, source))
}

/// Replaces a file's content at once for every reader, but not durably; a file that has this content,
/// mode and owner already is left alone.
pub fn replace(path: &Path, content: &[u8], mode: u32, owner: Owner) -> Result<(), Error> {
    let attempt = || -> io::Result<()> {
        if is_as_wanted(path, content, mode, owner) {
            return Ok(());
        }
        let (_, temporary) = fill_temporary(path, content, mode, owner)?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|source| could_not_write(path, source))
}

fn is_as_wanted(path: &Path, content: &[u8], mode: u32, owner: Owner) -> bool {
    let as_wanted = |found: fs::Metadata| {
        found.is_file() && found.mode() & 0o7777 == mode && found.uid() == owner.uid
    };
    fs::symlink_metadata(path).is_ok_and(as_wanted)
        && fs::read(path).is_ok_and(|before| before == content)
}

fn fill_temporary(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Owner,
) -> io::Result<(File, PathBuf)> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // A left-over could have other permissions; a password must never be readable in between.
    remove_if_there(&temporary)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    owner.take(&temporary)?;
    file.write_all(content)?;
    Ok((file, temporary))
}

fn could_not_write(path: &Path, source: io::Error) -> Error {
    Error::File {
        verb: "write",
        path: path.to_owned(),
        source,
    }
}

/// Removes a file durably; a file that is not there is as good.
pub fn remove(path: &Path) -> Result<(), Error> {
    let attempt = || -> io::Result<()> {
        if remove_if_there(path)?
            && let Some(directory) = path.parent()
        {
            sync_directory(directory)?;
        }
        Ok(())
    };
    attempt().map_err(|source| Error::File {
        verb: "remove",
        path: path.to_owned(),
        source,
    })
}

/// Makes a directory, private to the owner, with its parents.
pub fn make_directory(path: &Path, owner: Owner) -> Result<(), Error> {
    let attempt = || -> io::Result<()> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            owner.take(path)?;
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    attempt().map_err(|source| Error::File {
        verb: "make directory",
        path: path.to_owned(),
        source,
    })
}

/// Reads a small file; none when it is not there.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            verb: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
