//! Versioned bytes for what is stored: log entries, votes, snapshots, identities.
//!
//! A record is `version (1) | crc32 (4) | length (4) | JSON`. The surprise: decoding is strict
//! beyond what serde does. A field this program does not know is an error, because skipping it
//! would let two members apply the same entry differently [F10].

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The only record version there is so far.
pub const VERSION: u8 = 1;

const HEADER: usize = 9;

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Shorter than it says, or than a header.
    #[error("the record is cut short: {have} of {want} bytes")]
    Truncated {
        /// Bytes found.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// The checksum does not fit the bytes.
    #[error("the record's checksum does not match its bytes")]
    Checksum,
    /// Written by a later program.
    #[error("the record has format version {found}; this program knows {VERSION} only")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The bytes are whole but say something this program does not understand.
    #[error("the record cannot be understood: {why}")]
    NotUnderstood {
        /// What was unknown.
        why: String,
    },
}

/// `value` as a record.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let payload = to_json(value)?;
    let length = u32::try_from(payload.len())
        .map_err(|_| CodecError::NotUnderstood {
            why: "a record above 4 GiB".to_owned(),
        })?
        .to_be_bytes();
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.push(VERSION);
    record.extend_from_slice(&checksum(VERSION, length, &payload).to_be_bytes());
    record.extend_from_slice(&length);
    record.extend_from_slice(&payload);
    Ok(record)
}

/// The value in a record.
pub fn decode<T: Serialize + DeserializeOwned>(record: &[u8]) -> Result<T, CodecError> {
    let Some((header, payload)) = record.split_at_checked(HEADER) else {
        return Err(CodecError::Truncated {
            have: record.len(),
            want: HEADER,
        });
    };
    let length = [header[5], header[6], header[7], header[8]];
    let want = u32::from_be_bytes(length) as usize;
    if payload.len() != want {
        return Err(CodecError::Truncated {
            have: payload.len(),
            want,
        });
    }
    let sum = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    if sum != checksum(header[0], length, payload) {
        return Err(CodecError::Checksum);
    }
    if header[0] != VERSION {
        return Err(CodecError::Version { found: header[0] });
    }
    from_json(payload)
}

/// `value` as bare JSON, for the wire.
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(value).map_err(|error| CodecError::NotUnderstood {
        why: error.to_string(),
    })
}

/// A value from bare JSON; refuses every field that would be lost.
pub fn from_json<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let not_understood = |error: serde_json::Error| CodecError::NotUnderstood {
        why: error.to_string(),
    };
    let value: T = serde_json::from_slice(bytes).map_err(not_understood)?;
    let written: Value = serde_json::from_slice(bytes).map_err(not_understood)?;
    let kept = serde_json::to_value(&value).map_err(not_understood)?;
    match first_lost(&written, &kept) {
        None => Ok(value),
        Some(path) => Err(CodecError::NotUnderstood {
            why: format!("unknown field `{path}`"),
        }),
    }
}

/// Path of the first key of `written` that is missing in `kept`.
fn first_lost(written: &Value, kept: &Value) -> Option<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            written.iter().find_map(|(key, inner)| match kept.get(key) {
                // A field left out when it is null or empty says nothing.
                None if inner.is_null() => None,
                None => Some(key.clone()),
                Some(other) => first_lost(inner, other).map(|rest| format!("{key}.{rest}")),
            })
        }
        (Value::Array(written), Value::Array(kept)) => written
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(index, (inner, other))| {
                first_lost(inner, other).map(|rest| format!("[{index}].{rest}"))
            }),
        _ => None,
    }
}

fn checksum(version: u8, length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Small {
        a: u32,
        inner: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        b: Option<String>,
    }

    fn small() -> Small {
        Small {
            a: 7,
            inner: vec![Inner {
                b: Some("x".to_owned()),
            }],
        }
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        assert_eq!(decode::<Small>(&encode(&small()).unwrap()), Ok(small()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let record = encode(&small()).unwrap();
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Small>(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_seen() {
        let record = encode(&small()).unwrap();
        for length in 0..record.len() {
            assert!(
                decode::<Small>(&record[..length]).is_err(),
                "length {length}"
            );
        }
    }

    #[test]
    fn a_later_version_stops_with_its_number() {
        let payload = to_json(&small()).unwrap();
        let length = (payload.len() as u32).to_be_bytes();
        let mut record = vec![9];
        record.extend(checksum(9, length, &payload).to_be_bytes());
        record.extend(length);
        record.extend(payload);
        assert_eq!(
            decode::<Small>(&record),
            Err(CodecError::Version { found: 9 })
        );
    }

    #[test]
    fn an_unknown_field_is_named_not_skipped() {
        let refused = from_json::<Small>(br#"{"a":7,"inner":[{"b":"x","later":1}]}"#);
        assert!(refused.unwrap_err().to_string().contains("inner.[0].later"));
    }
}
