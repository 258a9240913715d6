//! Where the members are and how to talk to them: flags, environment, file, in this order.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::Global;
use crate::exit::{Kind, Stop};

/// Where a member on this host listens unless told otherwise.
pub const LOCAL: &str = "localhost:8009";

/// `clusterctl.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    endpoints: Vec<String>,
    token_file: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

/// Certificates, read (PEM).
#[derive(Clone, Debug)]
pub struct Tls {
    /// What members' certificates are checked with.
    pub authority: Vec<u8>,
    /// Certificate and key to show.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Everything needed to reach the cluster.
#[derive(Clone)]
pub struct Places {
    /// `host:port`, tried in this order. Never empty.
    pub endpoints: Vec<String>,
    /// Needed by changes.
    pub token: Option<String>,
    /// Plain text without.
    pub tls: Option<Tls>,
}

fn usage(text: impl Into<String>) -> Stop {
    Stop::new(Kind::Usage, text)
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, Stop> {
    std::fs::read(path).map_err(|error| {
        usage(format!(
            "{what}: could not read {}: {error}",
            path.display()
        ))
    })
}

impl Places {
    /// Puts flags, environment and file together.
    ///
    /// # Errors
    /// A file that was named cannot be read or will not do.
    pub fn find(global: &Global) -> Result<Self, Stop> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let home = variable("HOME").map(|home| PathBuf::from(home).join(".config/clusterctl.toml"));
        let system = PathBuf::from("/etc/clusterd/clusterctl.toml");
        let files: Vec<PathBuf> = home.into_iter().chain([system]).collect();
        Self::put_together(global, &files, variable("CLUSTERCTL_TOKEN"))
    }

    /// As [`Places::find`], with everything from outside as arguments.
    ///
    /// # Errors
    /// A file that was named cannot be read or will not do.
    pub fn put_together(
        global: &Global,
        files: &[PathBuf],
        token: Option<String>,
    ) -> Result<Self, Stop> {
        let file = match files.iter().find(|path| path.is_file()) {
            Some(path) => load(path)?,
            None => File::default(),
        };
        let mut endpoints = global.endpoints.clone();
        if endpoints.is_empty() {
            endpoints = file.endpoints;
        }
        if endpoints.is_empty() {
            endpoints = vec![LOCAL.to_owned()];
        }
        for endpoint in &endpoints {
            let port = endpoint
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() || endpoint.contains('/') {
                return Err(usage(format!(
                    "endpoint `{endpoint}` is not of the form host:port"
                )));
            }
        }
        // A flag wins over the environment, which wins over the file.
        let token = match (&global.token_file, token, &file.token_file) {
            (Some(path), _, _) => Some(read_token(path)?),
            (None, Some(token), _) => Some(token),
            // Reading needs no token, so one that only root may read stops nothing here.
            (None, None, Some(path)) => read_token(path).ok(),
            (None, None, None) => None,
        };
        let tls_ca = global.tls_ca.clone().or(file.tls_ca);
        let tls_cert = global.tls_cert.clone().or(file.tls_cert);
        let tls_key = global.tls_key.clone().or(file.tls_key);
        let tls = match tls_ca {
            None if tls_cert.is_some() => {
                return Err(usage(
                    "a TLS certificate needs --tls-ca (or tls_ca) as well",
                ));
            }
            None => None,
            Some(path) => Some(Tls {
                authority: read("--tls-ca", &path)?,
                identity: match (tls_cert, tls_key) {
                    (Some(certificate), Some(key)) => {
                        Some((read("--tls-cert", &certificate)?, read("--tls-key", &key)?))
                    }
                    _ => None,
                },
            }),
        };
        Ok(Self {
            endpoints,
            token,
            tls,
        })
    }

    /// The member on this host: the flag's first endpoint, else localhost.
    pub fn local(mut self, global: &Global) -> Self {
        self.endpoints = match global.endpoints.first() {
            Some(endpoint) => vec![endpoint.clone()],
            None => vec![LOCAL.to_owned()],
        };
        self
    }
}

fn load(path: &Path) -> Result<File, Stop> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| usage(format!("could not read {}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| usage(format!("{}: {error}", path.display())))
}

fn read_token(path: &Path) -> Result<String, Stop> {
    let bytes = read("--token-file", path)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.is_empty() {
        return Err(usage(format!("--token-file: {} is empty", path.display())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Arguments;

    fn global(words: &[&str]) -> Global {
        let words = [&["clusterctl"], words, &["list"]].concat();
        Arguments::try_parse_from(words).expect("parses").global
    }

    #[test]
    fn flags_win_over_the_environment_and_the_environment_over_the_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("clusterctl.toml");
        let token = dir.path().join("token");
        std::fs::write(&token, "from-file\n").expect("written");
        let text = format!("endpoints = [\"a:1\", \"b:2\"]\ntoken_file = {token:?}\n");
        std::fs::write(&path, text).expect("written");
        let files = [dir.path().join("absent.toml"), path];

        let found = Places::put_together(&global(&[]), &files, None).expect("found");
        assert_eq!(found.endpoints, ["a:1", "b:2"]);
        assert_eq!(found.token.as_deref(), Some("from-file"));

        let words = ["--endpoints", "c:3,d:4"];
        let found =
            Places::put_together(&global(&words), &files, Some("env".into())).expect("found");
        assert_eq!(found.endpoints, ["c:3", "d:4"]);
        assert_eq!(found.token.as_deref(), Some("env"));
    }

    #[test]
    fn what_will_not_do_is_a_usage_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("clusterctl.toml");
        std::fs::write(&path, "endpoint = \"a:1\"\n").expect("written");
        for (words, files) in [
            (vec!["--endpoints", "http://db1:8009/"], vec![]),
            (vec!["--token-file", "/nonexistent/token"], vec![]),
            (vec![], vec![path]),
        ] {
            let stop = Places::put_together(&global(&words), &files, None)
                .err()
                .expect("refused");
            assert_eq!(stop.kind, Kind::Usage, "{stop}");
        }
    }
}
