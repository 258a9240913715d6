//! Secrets, wherever they come from, and the certificates of the listeners.

use std::path::PathBuf;

use super::super::file::SecurityTable;
use super::super::{Secret, Security, Tls};
use super::Check;

/// Shortest cluster secret and admin token. Source: 16 random bytes in base64 are 24 characters.
const SECRET_LEAST: usize = 16;

/// Where to look for a secret.
pub(super) struct SecretSource<'a> {
    /// Key of the value itself; `_file` is appended for the key of the file.
    pub(super) key: &'a str,
    /// Variable of the environment; it wins.
    pub(super) variable: &'a str,
    /// The value in the config file; the answer is put there, so that the dump shows that it is set.
    pub(super) inline: &'a mut Option<Secret>,
    /// The file named in the config file.
    pub(super) file: &'a Option<PathBuf>,
}

impl Check<'_> {
    pub(super) fn secret(&mut self, source: SecretSource<'_>) -> Option<Secret> {
        let SecretSource {
            key,
            variable,
            inline,
            file,
        } = source;
        let file_key = format!("{key}_file");
        if inline.is_some() && file.is_some() {
            self.problem(key, format!("given twice, also as {file_key} (keep one)"));
        }
        let text = if let Some(text) = (self.environment)(variable) {
            Some(text)
        } else if let Some(path) = file {
            self.private(&file_key, path);
            std::fs::read_to_string(path)
                .ok()
                .map(|text| text.trim_end().to_owned())
        } else {
            inline.as_ref().map(|secret| secret.expose().to_owned())
        };
        if text.as_ref().is_some_and(String::is_empty) {
            self.problem(key, "empty (leave it out, or give a secret)");
        }
        let secret = text.map(Secret::new);
        if file.is_none() {
            inline.clone_from(&secret);
        }
        secret
    }

    fn long_enough(&mut self, key: &str, secret: Option<&Secret>) {
        if let Some(secret) = secret
            && (1..SECRET_LEAST).contains(&secret.expose().len())
        {
            self.problem(
                key,
                format!("shorter than {SECRET_LEAST} characters (use a random one)"),
            );
        }
    }

    pub(super) fn security(&mut self, table: &mut SecurityTable) -> Security {
        let cluster_secret = self.secret(SecretSource {
            key: "security.cluster_secret",
            variable: "CLUSTERD_CLUSTER_SECRET",
            inline: &mut table.cluster_secret,
            file: &table.cluster_secret_file,
        });
        if cluster_secret.is_none() && table.cluster_secret_file.is_none() {
            self.problem(
                "security.cluster_secret",
                "missing (the same random text for every member: set cluster_secret_file)",
            );
        }
        self.long_enough("security.cluster_secret", cluster_secret.as_ref());
        let admin_token = self.secret(SecretSource {
            key: "security.admin_token",
            variable: "CLUSTERD_ADMIN_TOKEN",
            inline: &mut table.admin_token,
            file: &table.admin_token_file,
        });
        self.long_enough("security.admin_token", admin_token.as_ref());
        Security {
            cluster_secret: cluster_secret.unwrap_or_else(|| Secret::new("")),
            admin_token,
            tls: self.tls(table),
        }
    }

    fn tls(&mut self, table: &SecurityTable) -> Option<Tls> {
        let given = [&table.tls_cert, &table.tls_key, &table.tls_ca];
        if given.iter().all(|path| path.is_none()) {
            if table.client_auth {
                self.problem("security.client_auth", "needs tls_cert, tls_key and tls_ca");
            }
            return None;
        }
        for (key, path) in ["tls_cert", "tls_key", "tls_ca"].iter().zip(given) {
            let key = format!("security.{key}");
            match path {
                None => self.problem(&key, "missing (tls_cert, tls_key and tls_ca go together)"),
                Some(path) if key.ends_with("_key") => self.private(&key, path),
                Some(path) => self.readable(&key, path),
            }
        }
        Some(Tls {
            certificate: table.tls_cert.clone()?,
            key: table.tls_key.clone()?,
            authority: table.tls_ca.clone()?,
            client_auth: table.client_auth,
        })
    }
}
