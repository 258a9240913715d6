//! Values as the config file writes them: with units as everywhere, and addresses.

pub use cluster_core::model::units::{bytes, duration};

/// Reads `"host:port"` and `"[::1]:port"`. The host is not looked up: a name server must not be
/// needed to read a config.
///
/// # Errors
/// A sentence that shows the text and the form that would do.
pub fn host_port(text: &str) -> Result<(String, u16), String> {
    let bad = || format!("`{text}` is not an address (write it as \"host:port\")");
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_plain = !host.contains([':', '[', ']', '/', ' ']);
    if host.is_empty() || port == 0 || !(is_bracketed || is_plain) {
        return Err(bad());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        assert_eq!(host_port("db1:8009"), Ok(("db1".to_owned(), 8009)));
        assert_eq!(host_port("[::1]:5432"), Ok(("[::1]".to_owned(), 5432)));
        for bad in [
            "db1",
            ":8009",
            "db1:",
            "db1:0",
            "db1:70000",
            "::1:80",
            "http://db1:80",
        ] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }
}
