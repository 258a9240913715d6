//! Values with units, as the config file writes them: `"250ms"`, `"16MB"`. As in PostgreSQL's own
//! files, a kB is 1024 bytes.

use std::time::Duration;

/// Splits `"250 ms"` into the number and the unit.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim()))
}

/// Reads `"250ms"`, `"10s"`, `"5min"`, `"1h"`; `"0"` needs no unit.
///
/// # Errors
/// A sentence that shows the text and the form that would do.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("`{text}` is not a time (write it as \"250ms\", \"10s\", \"5min\" or \"1h\")");
    let (number, unit) = split(text).ok_or_else(bad)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "" if number == 0 => 0,
        _ => return Err(bad()),
    };
    number
        .checked_mul(factor)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

/// Reads `"512kB"`, `"16MB"`, `"4GB"`, `"1TB"`; `"0"` needs no unit. Unit of the answer: bytes.
///
/// # Errors
/// A sentence that shows the text and the form that would do.
pub fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size (write it as \"512kB\", \"16MB\" or \"4GB\")");
    let (number, unit) = split(text).ok_or_else(bad)?;
    let factor = match unit {
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1_u64 << 40,
        "" if number == 0 => 0,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

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
    fn times_are_read_with_their_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration(" 2 min "), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "10S",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(bytes("16MB"), Ok(16 << 20));
        assert_eq!(bytes("4GB"), Ok(4 << 30));
        assert_eq!(bytes("512kB"), Ok(512 << 10));
        for bad in ["", "16", "16mb", "MB", "99999999999TB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

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
