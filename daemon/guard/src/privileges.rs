//! The account PostgreSQL runs as, and how the daemon becomes it.
//!
//! The daemon keeps root as its *saved* user id, so that `sys::regain_root` can start a guard that
//! is root again. It is not a defence against code running inside the daemon; it keeps files,
//! sockets and mistakes those of the configured user.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, setgroups, setresgid, setresuid};

/// A user of this system with all of its groups, looked up once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name as given.
    pub name: String,
    /// User id.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// Every group, the primary one included.
    pub groups: Vec<Gid>,
}

/// Why an account could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system does not know the name.
    #[error("there is no user named {name}")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The system's user data could not be read.
    #[error("could not look up user {name}")]
    Lookup {
        /// The name asked for.
        name: String,
        /// What the system said.
        source: nix::Error,
    },
    /// The kernel refused the change.
    #[error("could not become user {name}")]
    Change {
        /// The account wanted.
        name: String,
        /// What the kernel said.
        source: nix::Error,
    },
}

impl Account {
    /// Looks up a user by name.
    ///
    /// # Errors
    /// The name is unknown or the lookup failed.
    pub fn of_name(name: &str) -> Result<Self, Error> {
        let lookup = |source| Error::Lookup {
            name: name.to_owned(),
            source,
        };
        let user = User::from_name(name)
            .map_err(lookup)?
            .ok_or_else(|| Error::Unknown {
                name: name.to_owned(),
            })?;
        Self::complete(user)
    }

    /// The account this process runs as now.
    ///
    /// # Errors
    /// The user id has no name, or the lookup failed.
    pub fn current() -> Result<Self, Error> {
        let uid = Uid::effective();
        let user = User::from_uid(uid)
            .map_err(|source| Error::Lookup {
                name: uid.to_string(),
                source,
            })?
            .ok_or_else(|| Error::Unknown {
                name: uid.to_string(),
            })?;
        Self::complete(user)
    }

    fn complete(user: User) -> Result<Self, Error> {
        let lookup = |source| Error::Lookup {
            name: user.name.clone(),
            source,
        };
        let name = CString::new(user.name.clone()).map_err(|_| lookup(nix::Error::EINVAL))?;
        let groups = getgrouplist(&name, user.gid).map_err(lookup)?;
        Ok(Self {
            uid: user.uid,
            gid: user.gid,
            groups,
            name: user.name,
        })
    }

    /// Name of the primary group, for messages.
    pub fn group_name(&self) -> String {
        match Group::from_gid(self.gid) {
            Ok(Some(group)) => group.name,
            Ok(None) | Err(_) => self.gid.to_string(),
        }
    }
}

/// Makes all threads of this process run as `account`, root kept as the saved user id.
///
/// # Errors
/// The kernel refused; some of the three changes may then have happened, so the caller must end.
pub fn drop_to(account: &Account) -> Result<(), Error> {
    let change = |source| Error::Change {
        name: account.name.clone(),
        source,
    };
    setgroups(&account.groups).map_err(change)?;
    setresgid(account.gid, account.gid, account.gid).map_err(change)?;
    setresuid(account.uid, account.uid, Uid::from_raw(0)).map_err(change)
}
