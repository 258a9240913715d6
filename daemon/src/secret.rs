//! The cluster's own secret: proof that both ends of a call between members know it.
//!
//! It keeps strangers and other clusters out [F17]; it is no replacement for TLS, because the body
//! of a message is not covered.

use std::fmt;
use std::fmt::Write as _;

use ring::hmac;

/// Metadata key that carries the proof.
pub const PROOF_KEY: &str = "clusterd-proof";

/// Fewest bytes a secret may have.
pub const SECRET_LEAST: usize = 16;

/// The cluster's own secret, the same on every member.
#[derive(Clone)]
pub struct ClusterSecret {
    key: hmac::Key,
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// What a proof is about.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Empty before the group has formed.
    pub cluster_id: &'a str,
    /// 0 before the group has formed.
    pub generation: u64,
    /// Node id or member name of the caller.
    pub from: &'a str,
    /// Node id or member name of the one called.
    pub to: &'a str,
    /// The method's name.
    pub method: &'a str,
}

impl ClusterSecret {
    /// The secret with these bytes.
    pub fn new(bytes: &[u8]) -> ClusterSecret {
        ClusterSecret {
            key: hmac::Key::new(hmac::HMAC_SHA256, bytes),
        }
    }

    /// The proof for one kind of call, in hex.
    pub fn proof(&self, call: &Call<'_>) -> String {
        let tag = hmac::sign(&self.key, message(call).as_bytes());
        tag.as_ref().iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Whether `proof` is the proof for `call`; compared in constant time.
    pub fn is_proven(&self, call: &Call<'_>, proof: &str) -> bool {
        let bytes: Option<Vec<u8>> = (0..proof.len())
            .step_by(2)
            .map(|at| {
                proof
                    .get(at..at + 2)
                    .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            })
            .collect();
        bytes.is_some_and(|tag| hmac::verify(&self.key, message(call).as_bytes(), &tag).is_ok())
    }
}

fn message(call: &Call<'_>) -> String {
    let Call {
        cluster_id,
        generation,
        from,
        to,
        method,
    } = call;
    format!("{cluster_id}|{generation}|{from}|{to}|{method}")
}

/// The shared token of operators. Compared in constant time, whatever its length: both sides are
/// hashed under one key first.
#[derive(Clone)]
pub struct AdminToken {
    key: hmac::Key,
    expected: Vec<u8>,
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

impl AdminToken {
    /// The token with this text; white space around it does not count.
    pub fn new(text: &str) -> AdminToken {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"clusterd admin token");
        let expected = hmac::sign(&key, text.trim().as_bytes()).as_ref().to_vec();
        AdminToken { key, expected }
    }

    /// Whether `given` is the token.
    pub fn is(&self, given: &str) -> bool {
        hmac::verify(&self.key, given.trim().as_bytes(), &self.expected).is_ok()
    }
}

/// What stands where a secret stood.
const MASK: &str = "***";

/// Shorter texts are left alone: they are parts of other words.
const MASKED_LEAST: usize = 4;

/// Texts that must not leave this member, to be taken out of whatever does.
#[derive(Clone)]
pub struct Masks {
    /// Longest first, so that one that is part of another hides nothing of it.
    texts: Vec<String>,
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Masks(..)")
    }
}

impl Masks {
    /// Masks for these texts, as they are and as a file or log writes them between quotes.
    pub fn new(secrets: Vec<String>) -> Masks {
        let quoted = |text: &String| {
            let quoted = format!("{text:?}");
            quoted[1..quoted.len() - 1].to_owned()
        };
        let both = secrets.iter().flat_map(|text| [text.clone(), quoted(text)]);
        let mut texts: Vec<String> = both.filter(|text| text.len() >= MASKED_LEAST).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        texts.dedup();
        Masks { texts }
    }

    /// The text without them.
    pub fn over(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for secret in &self.texts {
            shown = shown.replace(secret, MASK);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call<'a>(from: &'a str, method: &'a str) -> Call<'a> {
        Call {
            cluster_id: "c1",
            generation: 1,
            from,
            to: "2",
            method,
        }
    }

    #[test]
    fn a_proof_holds_for_its_call_and_its_secret_only() {
        let secret = ClusterSecret::new(b"0123456789abcdef");
        let proof = secret.proof(&call("1", "Vote"));
        assert!(secret.is_proven(&call("1", "Vote"), &proof));
        assert!(!secret.is_proven(&call("3", "Vote"), &proof));
        assert!(!secret.is_proven(&call("1", "AppendEntries"), &proof));
        assert!(!ClusterSecret::new(b"another").is_proven(&call("1", "Vote"), &proof));
        for bad in ["", "zz", "é", &proof[1..]] {
            assert!(!secret.is_proven(&call("1", "Vote"), bad), "{bad}");
        }
    }

    #[test]
    fn a_token_is_the_whole_token() {
        let token = AdminToken::new("open sesame\n");
        assert!(token.is("open sesame"));
        for bad in ["", "open", "open sesame!", "Open sesame"] {
            assert!(!token.is(bad), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_taken_out_wherever_it_stands() {
        let masks = Masks::new(vec!["pass\"word".into(), "pass".into(), "abc".into()]);
        let text = "a = \"pass\\\"word\", b=pass\"word, pass, abc";
        assert_eq!(masks.over(text), "a = \"***\", b=***, ***, abc");
        assert_eq!(format!("{masks:?}"), "Masks(..)");
    }
}
