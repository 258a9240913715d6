//! Words of `archive_command` and `restore_command`: a shell reads them, after PostgreSQL has replaced
//! what follows a percent sign.

/// One word that comes out as it went in.
pub fn word(text: &str) -> String {
    let text = text.replace('%', "%%").replace('\'', "'\\''");
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_path_is_read_by_the_shell_or_by_postgresql() {
        assert_eq!(word("/srv/a b"), "'/srv/a b'");
        assert_eq!(word("/srv/100%"), "'/srv/100%%'");
        assert_eq!(word("/it's/$HOME"), "'/it'\\''s/$HOME'");
    }
}
