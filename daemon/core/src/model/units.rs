//! Values with units, as files and operators write them: `"250ms"`, `"16MB"`. As in PostgreSQL's own
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

/// The shortest form [`duration`] reads back as the same.
pub fn show_duration(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let units = [("h", 3_600_000), ("min", 60_000), ("s", 1000)];
    show(ms, &units, "ms")
}

/// The shortest form [`bytes`] reads back as the same.
pub fn show_bytes(bytes: u64) -> String {
    let units = [
        ("TB", 1_u64 << 40),
        ("GB", 1 << 30),
        ("MB", 1 << 20),
        ("kB", 1 << 10),
    ];
    show(bytes, &units, "B")
}

fn show(number: u64, units: &[(&str, u64)], smallest: &str) -> String {
    match units
        .iter()
        .find(|(_, size)| number != 0 && number.is_multiple_of(*size))
    {
        Some((unit, size)) => format!("{}{unit}", number / size),
        None if number == 0 => "0".to_owned(),
        None => format!("{number}{smallest}"),
    }
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
    fn what_is_shown_is_read_back() {
        for ms in [0, 1, 250, 1000, 1500, 60_000, 90_000, 3_600_000] {
            let time = Duration::from_millis(ms);
            assert_eq!(duration(&show_duration(time)), Ok(time));
        }
        for size in [0, 1, 1000, 1024, 1 << 20, 3 << 30, (1 << 40) + 1024] {
            assert_eq!(bytes(&show_bytes(size)), Ok(size));
        }
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_bytes(1 << 20), "1MB");
    }
}
