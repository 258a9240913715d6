//! Files that hold a secret: credentials of an object store, private keys. Only their owner may read them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The text of a file that is closed to everybody but its owner.
///
/// # Errors
/// In words, without anything of the content.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let entry = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let mode = entry.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "it holds a secret and is open to others than its owner, mode {:04o} (chmod 0600 it)",
            mode & 0o7777
        ));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("key");
        std::fs::write(&path, "hush").expect("written");
        for mode in [0o640, 0o604, 0o660] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("set");
            let why = read(&path).expect_err("refused");
            assert!(why.contains("chmod 0600") && !why.contains("hush"), "{why}");
        }
        let permissions = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, permissions).expect("set");
        assert_eq!(read(&path).expect("closed"), "hush");
    }
}
