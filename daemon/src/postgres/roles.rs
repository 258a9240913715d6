//! The roles a cluster needs, created on the first primary; no password ever reaches SQL.
//!
//! A SCRAM verifier is computed here and sent in place of the password (hazards L9).

use std::num::NonZeroU32;

use ring::{digest, hmac, pbkdf2};

use super::conninfo::{quote_identifier, quote_literal};
use super::options::{Role, Secret};
use super::{Error, Postgres};

/// PostgreSQL's default `scram_iterations`.
const ITERATIONS: u32 = 4096;

/// Functions `pg_rewind` reads a running source with. Source: PostgreSQL documentation, pg_rewind.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
];

impl Postgres {
    /// Creates or corrects the roles for replication and rewind, and the application's database.
    /// Safe to repeat.
    pub async fn create_roles(&self) -> Result<(), Error> {
        let limit = self.limits().statement;
        let session = self.connect().await?;
        session.batch(limit, &self.member_roles()?).await?;
        let Some(app) = &self.options().app else {
            return Ok(());
        };
        session
            .batch(limit, &role_statement(&app.owner, "LOGIN")?)
            .await?;
        let there = session
            .query(
                limit,
                "SELECT 1 FROM pg_database WHERE datname = $1",
                &[&app.database],
            )
            .await?;
        if there.is_empty() {
            let statement = format!(
                "CREATE DATABASE {} OWNER {}",
                quote_identifier(&app.database),
                quote_identifier(&app.owner.name)
            );
            // Copying a template may take long on a slow disk.
            let limit = std::time::Duration::from_secs(60);
            self.connect_to("postgres", limit)
                .await?
                .batch(limit, &statement)
                .await?;
        }
        Ok(())
    }

    fn member_roles(&self) -> Result<String, Error> {
        let options = self.options();
        let rewind = quote_identifier(&options.rewind.name);
        let mut text = role_statement(&options.replication, "LOGIN REPLICATION")?;
        text += &role_statement(&options.rewind, "LOGIN")?;
        for function in REWIND_FUNCTIONS {
            text += &format!("GRANT EXECUTE ON FUNCTION {function} TO {rewind};");
        }
        if self.major().has_reserved_connections() {
            let replication = quote_identifier(&options.replication.name);
            text += &format!("GRANT pg_use_reserved_connections TO {replication}, {rewind};");
        }
        Ok(text)
    }
}

/// Creates a role if it is not there, then sets its attributes and verifier.
fn role_statement(role: &Role, attributes: &str) -> Result<String, Error> {
    let name = quote_identifier(&role.name);
    let literal = quote_literal(&role.name);
    let verifier = quote_literal(&verifier(&role.password)?);
    Ok(format!(
        "DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal}) THEN \
         CREATE ROLE {name}; END IF; END $do$; \
         ALTER ROLE {name} {attributes} PASSWORD {verifier};"
    ))
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>` (RFC 5802, PostgreSQL's form).
///
/// Passwords are used byte for byte; for ASCII ones, SASLprep changes nothing.
fn verifier(password: &Secret) -> Result<String, Error> {
    use ring::rand::SecureRandom;
    let mut salt = [0_u8; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| Error::File {
            verb: "read",
            path: "/dev/urandom".into(),
            source: std::io::Error::other("no randomness"),
        })?;
    Ok(verifier_with(password, &salt))
}

fn verifier_with(password: &Secret, salt: &[u8]) -> String {
    let mut salted = [0_u8; digest::SHA256_OUTPUT_LEN];
    let iterations = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        password.expose().as_bytes(),
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = hmac::sign(&key, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&key, b"Server Key");
    format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        base64(salt),
        base64(stored.as_ref()),
        base64(server.as_ref())
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| (word << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            if place <= chunk.len() {
                let digit = (word >> (18 - 6 * place)) & 63;
                text.push(char::from(DIGITS[digit as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_written_as_everybody_does() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_verifier_has_postgres_form_and_not_the_password() {
        let text = verifier_with(&Secret::new("pencil"), &[7; 16]);
        assert!(
            text.starts_with("SCRAM-SHA-256$4096:BwcHBwcHBwcHBwcHBwcHBw==$"),
            "{text}"
        );
        assert!(!text.contains("pencil"));
    }
}
